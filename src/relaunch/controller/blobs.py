"""Files agents may fetch, kept by their hash (implements `servers.ports.Blobs`)."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from relaunch.bus.messages import Blob
from relaunch.errors import NotFound

SHA256 = re.compile(r"[0-9a-f]{64}")


class BlobFolder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, file: Path) -> Blob:
        """A copy of the file as it is now; the same content is kept once."""
        content = file.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        kept = self._folder / sha256
        if not kept.exists():
            partial = self._folder / f".{sha256}.{os.getpid()}"
            partial.write_bytes(content)
            partial.replace(kept)
        return Blob(name=file.name, sha256=sha256, size_bytes=len(content))

    def path(self, sha256: str) -> Path:
        """Where the content of this hash is; NotFound when there is none."""
        file = self._folder / sha256
        if not SHA256.fullmatch(sha256) or not file.exists():
            raise NotFound(f"no blob {sha256[:64]}")
        return file
