"""The local cloud's records: one JSON file for each instance, image, volume and snapshot."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from relaunch.clouds.local.files import read_json, remove_tree, write_json


class Wanted(StrEnum):
    """What an instance shall be; what it is follows from its processes."""

    RUNNING = "running"
    STOPPED = "stopped"
    TERMINATED = "terminated"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    id: str
    client_token: str
    name: str
    image: str
    layers: tuple[str, ...]  # image ids, newest first
    zone: str
    address: str
    groups: tuple[str, ...]
    tags: dict[str, str]
    wanted: Wanted
    launched: datetime
    user_data: str = ""
    public_key: str = ""
    memory_bytes: int | None = None
    cpus: float | None = None
    prepared: bool = False  # its disk is made
    cut_off: bool = False
    terminated: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    id: str
    name: str
    parent: str | None
    created: datetime
    tags: dict[str, str] = field(default_factory=dict)
    builder: str | None = None  # the instance it was made from


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeRecord:
    id: str
    client_token: str
    size_bytes: int
    zone: str
    attached_to: str | None = None
    device: str | None = None
    from_snapshot: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRecord:
    id: str
    client_token: str
    volume: str
    created: datetime


Record = InstanceRecord | ImageRecord | VolumeRecord | SnapshotRecord


def _read(kind: type[Any], value: dict[str, Any]) -> Any:
    known = {each.name for each in dataclasses.fields(kind)}
    fields = {key: each for key, each in value.items() if key in known}
    for name in ("launched", "terminated", "created"):
        if fields.get(name):
            fields[name] = datetime.fromisoformat(fields[name])
    for name in ("layers", "groups"):
        if name in fields:
            fields[name] = tuple(fields[name])
    if "wanted" in fields:
        fields["wanted"] = Wanted(fields["wanted"])
    return kind(**fields)


class Store:
    """Records of one kind, in memory and in `folder/ID/FILE`. Written to the disk before memory knows them."""

    def __init__(self, folder: Path, file: str) -> None:
        self.folder = folder
        self._file = file

    def path(self, id: str) -> Path:
        return self.folder / id

    def write(self, record: Record) -> None:
        self.path(record.id).mkdir(parents=True, exist_ok=True)
        write_json(self.path(record.id) / self._file, asdict(record))

    def remove(self, id: str) -> None:
        remove_tree(self.path(id))

    def read(self, kind: type[Any]) -> Iterator[Any]:
        """All records on disk; a folder without one is left for recovery."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for entry in sorted(self.folder.iterdir()):
            if entry.name.startswith("."):
                continue
            value = read_json(entry / self._file)
            if value is not None:
                yield _read(kind, value)
