"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Dict, Optional, Union


def write_whole(file: Path, content: Union[str, bytes], *, mode: int = 0o644, durable: bool = False) -> None:
    """Replace `file` in one step; with `durable` it is on the disk before this returns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    write_new(beside, content.encode() if isinstance(content, str) else content, mode=mode, durable=durable)
    beside.replace(file)
    if durable:
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_new(file: Path, data: bytes, *, mode: int, durable: bool = False) -> None:
    """Where nobody looks before it is whole."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(file: Path, value: Any, *, mode: int = 0o600, durable: bool = False) -> None:
    write_whole(file, json.dumps(value), mode=mode, durable=durable)


def read_json(file: Path) -> Optional[Any]:
    """None when there is no such file, or half a one."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def append_record(file: Path, value: Any, *, durable: bool = False) -> None:
    """One more line of JSON: a fifth of what it costs to replace a file. OSError, and no line, when the disk is full.

    With `durable` it is on the disk before this returns; the name of a new file goes there with it.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    size = os.fstat(descriptor).st_size
    try:
        # The newline before it keeps it whole after a line that was cut short.
        record = memoryview(b"\n" + json.dumps(value).encode() + b"\n")
        while record:  # the last free bytes of a disk take a part of it without an error
            record = record[os.write(descriptor, record) :]
        if durable:
            os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise
    finally:
        os.close(descriptor)


def last_record(file: Path) -> Optional[Dict[str, Any]]:
    """The newest whole line of `append_record`; None when there is none."""
    try:
        lines = file.read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    for line in reversed(lines):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return None


def remove(*files: Path) -> None:
    for file in files:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            file.unlink()
