"""Any S3, through the program rclone (implements `storage.objects.ObjectStore`)."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from relaunch.errors import Failed, NotAllowed, NotFound, Unavailable
from relaunch.shell import Completed, last_lines, run
from relaunch.storage.objects import StoredObject, StorePlace

ANSWER_SECONDS = 60.0
EACH_SECONDS = 0.5  # for each of many objects that are to be read or deleted, on top of that
AT_ONCE = 16
REFUSALS = (
    "accessdenied",
    "invalidaccesskeyid",
    "signaturedoesnotmatch",
    "expiredtoken",
    "forbidden",
    "statuscode: 403",
)
NOTHING_THERE = (3, 4)  # rclone's exit statuses for a missing directory and a missing file


class RcloneStore:
    """One bucket. The keys reach rclone in its environment, never as arguments."""

    def __init__(self, place: StorePlace) -> None:
        self._place = place
        self._root = f"store:{place.bucket}"

    async def put(self, key: str, text: str) -> None:
        self._check(await self._rclone("rcat", f"{self._root}/{key}", input=text), key)

    async def get(self, key: str) -> str:
        # `cat` of a missing object says nothing when its folder exists, so it is asked for first.
        done = await self._rclone("lsf", f"{self._root}/{key}")
        if done.status == 0 and done.stdout.strip():
            done = await self._rclone("cat", f"{self._root}/{key}")
        elif done.status == 0 or done.status in NOTHING_THERE:
            raise NotFound(f"no object {key} in bucket {self._place.bucket}")
        self._check(done, key)
        return done.stdout

    async def texts(self, keys: Sequence[str]) -> dict[str, str]:
        if not keys:
            return {}
        with tempfile.TemporaryDirectory(prefix="relaunch-objects-") as folder:
            done = await self._rclone(
                *("copy", "--no-traverse", "--transfers", str(AT_ONCE), "--checkers", str(AT_ONCE)),
                *("--files-from-raw", "-", self._root, folder),
                input="\n".join(keys) + "\n",
                timeout_seconds=ANSWER_SECONDS + EACH_SECONDS * len(keys),
            )
            if done.status not in NOTHING_THERE:
                self._check(done, f"{len(keys)} objects")
            there = [(key, file) for key in keys if (file := Path(folder, key)).is_file()]
            return {key: file.read_text(errors="replace") for key, file in there}

    async def list(self, prefix: str) -> list[StoredObject]:
        done = await self._rclone(
            "lsjson", "--recursive", "--files-only", "--no-mimetype", f"{self._root}/{prefix.strip('/')}"
        )
        if done.status in NOTHING_THERE:
            return []
        self._check(done, prefix)
        above = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        found = [
            StoredObject(
                key=above + each["Path"],
                size_bytes=each["Size"],
                changed=datetime.fromisoformat(each["ModTime"]).astimezone(UTC),
            )
            for each in json.loads(done.stdout)
        ]
        return sorted(found, key=lambda each: each.key)

    async def folders(self, prefix: str) -> Sequence[str]:
        done = await self._rclone("lsf", "--dirs-only", f"{self._root}/{prefix.strip('/')}")
        if done.status in NOTHING_THERE:
            return []
        self._check(done, prefix)
        return sorted(line.rstrip("/") for line in done.stdout.splitlines())

    async def delete(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        done = await self._rclone(
            *("delete", "--checkers", str(AT_ONCE), "--files-from-raw", "-", self._root),
            input="\n".join(keys) + "\n",
            timeout_seconds=ANSWER_SECONDS + EACH_SECONDS * len(keys),
        )
        if done.status not in NOTHING_THERE:
            self._check(done, f"{len(keys)} objects")

    async def _rclone(
        self, *words: str, input: str | None = None, timeout_seconds: float = ANSWER_SECONDS
    ) -> Completed:
        return await run(
            rclone(),
            *words,
            input=input,
            timeout_seconds=timeout_seconds,
            check=False,
            environment=remote_environment(self._place),
        )

    def _check(self, done: Completed, what: str) -> None:
        if done.status == 0:
            return
        told = last_lines(done.stderr, count=3)
        if any(word in done.stderr.lower() for word in REFUSALS):
            raise NotAllowed(f"the object store {self._place.endpoint} refuses our key", hint=told)
        if "connection refused" in told or "timeout" in told.lower() or "no such host" in told:
            raise Unavailable(f"the object store {self._place.endpoint} does not answer", hint=told)
        raise Failed(f"the object store {self._place.endpoint} failed at {what}", hint=told)


def rclone() -> str:
    """The binary that came with the virtual environment this runs in."""
    return str(Path(sys.executable).parent / "rclone")


def remote_environment(place: StorePlace) -> dict[str, str]:
    """Makes `store:` the name of this S3 for rclone; it reads no configuration file."""
    environment = {
        "RCLONE_CONFIG": "/nonexistent/rclone.conf",
        "RCLONE_CONFIG_STORE_TYPE": "s3",
        "RCLONE_CONFIG_STORE_PROVIDER": "Other",
        "RCLONE_CONFIG_STORE_ENDPOINT": place.endpoint,
        "RCLONE_CONFIG_STORE_REGION": place.region,
        "RCLONE_CONFIG_STORE_ACCESS_KEY_ID": place.access_key,
        "RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY": place.secret_key.reveal(),
        "RCLONE_CONFIG_STORE_FORCE_PATH_STYLE": "true",
        "RCLONE_CONFIG_STORE_NO_CHECK_BUCKET": "true",
        "RCLONE_USE_SERVER_MODTIME": "true",
        "RCLONE_RETRIES": "1",
        "RCLONE_LOW_LEVEL_RETRIES": "2",
        "RCLONE_CONTIMEOUT": "5s",
        "RCLONE_TIMEOUT": "30s",
    }
    if place.ca_file:
        environment["RCLONE_CA_CERT"] = place.ca_file
    return environment
