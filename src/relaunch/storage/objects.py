"""The object store as the controller uses it: small texts (manifests, states), and the names and ages of the rest.

Backups themselves go from the database servers to the store and back; nothing large passes through the controller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from relaunch.shell import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePlace:
    """An S3 bucket and who we are there. `ca_file`: of a store whose certificate the system does not know."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: Secret
    region: str = "us-east-1"
    ca_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    key: str
    size_bytes: int
    changed: datetime


class ObjectStore(Protocol):
    """Unavailable when it does not answer, NotAllowed when it refuses our key."""

    async def put(self, key: str, text: str) -> None:
        """Whole or not at all; replaces what was there."""
        ...

    async def get(self, key: str) -> str:
        """NotFound when there is no such object."""
        ...

    async def texts(self, keys: Sequence[str]) -> dict[str, str]:
        """Of those of these objects that are there, by key: as fast for thousands as `get` for a few."""
        ...

    async def list(self, prefix: str) -> list[StoredObject]:
        """All below this folder, sorted by key; empty when there is none."""
        ...

    async def folders(self, prefix: str) -> Sequence[str]:
        """The names of the folders right in this one, sorted; empty when there is none."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Those that are gone already do not matter."""
        ...
