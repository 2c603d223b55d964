"""The object store of backups: an S3 elsewhere when the settings name one, else `rclone serve s3` as our child."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from asyncio import to_thread
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from relaunch.controller.children import Child, Program
from relaunch.controller.settings import Settings
from relaunch.controller.vault import SealedVault
from relaunch.databases.backup_key import ensure_backup_key
from relaunch.errors import BadInput
from relaunch.shell import Secret
from relaunch.storage.objects import StorePlace
from relaunch.storage.rclone import rclone

ENDPOINT, BUCKET = "BACKUP_STORE_ENDPOINT", "BACKUP_STORE_BUCKET"
ACCESS_KEY, SECRET_KEY = "BACKUP_STORE_ACCESS_KEY", "BACKUP_STORE_SECRET_KEY"
OWN_BUCKET = "backups"
# Measured with 1 GB uploads: 175 MB at the peak with these, 636 MB without.
MEMORY_LIMIT, BUFFER_LIMIT = "128MiB", "64M"


async def backup_store(
    stack: AsyncExitStack, settings: Settings, vault: SealedVault, children: dict[str, Any]
) -> StorePlace:
    """Where backups are; our own store is running when this returns. Scripts get it by the credentials BACKUP_*."""
    ensure_backup_key(vault)
    if settings.store_endpoint:
        for name in (ACCESS_KEY, SECRET_KEY):
            if not vault.has_credential(name):
                raise BadInput(
                    f"the settings name the object store {settings.store_endpoint}, but there is no credential {name}",
                    hint="take store_endpoint out, start, `relaunch credential set` both keys, put it back",
                )
        place = _place(vault, settings.store_endpoint, settings.store_bucket)
    else:
        for name in (ACCESS_KEY, SECRET_KEY):
            vault.generate_credential(name, who="the object store of the controller")
        place = _place(vault, f"https://{settings.host_address}:{settings.store_port}", OWN_BUCKET, settings.ca_file)
        child = Child(_program(settings, place))
        stack.push_async_callback(child.stop)
        await child.start()
        children["rclone"] = child
    for name, value in ((ENDPOINT, place.endpoint), (BUCKET, place.bucket)):
        if not vault.has_credential(name) or vault.credential(name) != value:
            vault.set_credential(name, value, description="where database servers put their backups")
    return place


def _place(vault: SealedVault, endpoint: str, bucket: str, ca_file: Path | None = None) -> StorePlace:
    return StorePlace(
        endpoint=endpoint,
        bucket=bucket,
        access_key=vault.credential(ACCESS_KEY),
        secret_key=Secret(vault.credential(SECRET_KEY)),
        ca_file=str(ca_file or ""),
    )


def _program(settings: Settings, place: StorePlace) -> Program:
    folder = settings.state / "object-store"
    (folder / OWN_BUCKET).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    settings.log_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = settings.ca_file.parent
    return Program(
        name="rclone serve s3",
        command=(
            rclone(),
            *("serve", "s3", str(folder)),
            *("--addr", f"{settings.host_address}:{settings.store_port}"),
            *("--cert", str(authority / "server.crt"), "--key", str(authority / "server.key")),
            *("--multipart-streaming-buffer-limit", BUFFER_LIMIT),
            *("--dir-cache-time", "2s"),  # else a file that vanished from the disk is listed for 5 minutes still
            *("--etag-hash", ""),  # else each list and each get reads and hashes every object it names, whole
            "--no-checksum",  # else what is read is hashed on the way, and once more from the disk at its end
            *("--config", "/nonexistent/rclone.conf"),
        ),
        # Quoted as CSV: rclone would take the comma between the two keys for one between two pairs.
        environment={
            "RCLONE_AUTH_KEY": f'"{place.access_key},{place.secret_key.reveal()}"',
            "GOMEMLIMIT": MEMORY_LIMIT,
        },
        pid_file=settings.state / "object-store.pid",
        log_file=settings.log_folder / "object-store.log",
        ready=_answers(place),
    )


def _answers(place: StorePlace) -> Callable[[], Awaitable[bool]]:
    context = ssl.create_default_context(cafile=place.ca_file)

    def ask() -> bool:
        try:
            urllib.request.urlopen(place.endpoint, timeout=1, context=context).close()
        except urllib.error.HTTPError:
            return True  # it refuses who has no key: it is there
        except OSError:
            return False
        return True

    return lambda: to_thread(ask)
