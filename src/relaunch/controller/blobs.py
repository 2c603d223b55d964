"""Files agents may fetch, kept by their hash (implements `servers.ports.Blobs`)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

from relaunch.bus.messages import Blob
from relaunch.clouds.local.files import no_space_is_a_conflict, sync_folder
from relaunch.errors import NotFound

SHA256 = re.compile(r"[0-9a-f]{64}")


class BlobFolder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for broken_off in folder.glob(".incoming-*"):
            broken_off.unlink()

    def put(self, file: Path) -> Blob:
        """A copy of the file as it is now; the same content is kept once, and again where a power cut damaged it."""
        content = file.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        kept = self._folder / sha256
        if not kept.exists() or kept.read_bytes() != content:
            partial = self._folder / f".{sha256}.{os.getpid()}"
            with partial.open("wb") as copy:
                copy.write(content)
                copy.flush()
                os.fsync(copy.fileno())
            partial.replace(kept)
            sync_folder(self._folder)
        return Blob(name=file.name, sha256=sha256, size_bytes=len(content))

    async def take(self, pieces: AsyncIterator[bytes]) -> Blob:
        """What comes in pieces, never whole in memory; kept only once all of it has come. Conflict: no room for it."""
        digest, size = hashlib.sha256(), 0
        partial = self._folder / f".incoming-{secrets.token_hex(8)}"
        try:
            with no_space_is_a_conflict(self._folder), partial.open("wb") as file:
                async for piece in pieces:
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())  # of a dump it takes seconds
            partial.replace(self._folder / digest.hexdigest())
            sync_folder(self._folder)
        finally:
            partial.unlink(missing_ok=True)
        return Blob(name=digest.hexdigest(), sha256=digest.hexdigest(), size_bytes=size)

    def remove(self, sha256: str) -> None:
        """Nothing happens when it is not there."""
        if SHA256.fullmatch(sha256):
            (self._folder / sha256).unlink(missing_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the content of this hash is; NotFound when there is none."""
        file = self._folder / sha256
        if not SHA256.fullmatch(sha256) or not file.exists():
            raise NotFound(f"no blob {sha256[:64]}")
        return file
