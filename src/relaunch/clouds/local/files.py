"""The cloud's truth on disk: JSON files that are either the old one or the new one, and trees that are there or not."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from relaunch.errors import Conflict


def write_json(file: Path, value: object) -> None:
    """Replace the file as a whole; it is on the disk when this returns."""
    write_text(file, json.dumps(value, indent=1, default=_plain) + "\n")


def write_text(file: Path, text: str, *, mode: int = 0o600) -> None:
    fresh = file.with_name(f".{file.name}.new")
    with no_space_is_a_conflict(file):
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.rename(file)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(file: Path) -> Any | None:
    """None when the file is missing or, after a power cut of the host, empty."""
    try:
        text = file.read_text()
    except FileNotFoundError:
        return None
    return json.loads(text) if text.strip() else None


def remove_tree(folder: Path) -> None:
    """Remove a tree; first renamed, so that a half-removed one is never taken for a whole one."""
    if not folder.exists():
        return
    doomed = folder.with_name(f".{folder.name}.removed") if not folder.name.startswith(".") else folder
    if doomed != folder:
        if doomed.exists():
            shutil.rmtree(doomed)
        folder.rename(doomed)
    shutil.rmtree(doomed)


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, without those half-made or half-removed."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def need_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Conflict unless so much is free where the folder is."""
    free = free_bytes(folder)
    if free < needed_bytes:
        raise Conflict(
            f"no space left for {what}: {free >> 20} MB free at {folder}, {needed_bytes >> 20} MB needed",
            hint="delete instances, images or volumes that are no longer needed, or other files of this disk",
        )


@contextlib.contextmanager
def no_space_is_a_conflict(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Conflict(f"no space left on the disk of {where}", hint="free some and repeat") from error
        raise


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} in a record")
