"""An object store in memory, for tests (implements `storage.objects.ObjectStore`)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from relaunch.clock import Clock
from relaunch.errors import NotFound
from relaunch.storage.objects import StoredObject


class MemoryStore:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._objects: dict[str, tuple[str, StoredObject]] = {}

    async def put(self, key: str, text: str) -> None:
        stored = StoredObject(key=key, size_bytes=len(text.encode()), changed=self._clock.now())
        self._objects[key] = (text, stored)

    async def get(self, key: str) -> str:
        if key not in self._objects:
            raise NotFound(f"no object {key}")
        return self._objects[key][0]

    async def texts(self, keys: Sequence[str]) -> dict[str, str]:
        found = {}
        for key in keys:
            with contextlib.suppress(NotFound):
                found[key] = await self.get(key)
        return found

    async def list(self, prefix: str) -> list[StoredObject]:
        above = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        return [stored for key, (_, stored) in sorted(self._objects.items()) if key.startswith(above)]

    async def folders(self, prefix: str) -> Sequence[str]:
        above = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        below = [key[len(above) :] for key in self._objects if key.startswith(above)]
        return sorted({key.partition("/")[0] for key in below if "/" in key})

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._objects.pop(key, None)
