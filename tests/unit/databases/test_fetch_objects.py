"""The objects of a backup as one stream: in order, each compared with its hash, and what is wrong named."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "templates/scripts/attachments/fetch_objects.py"
NAMES = ("data.00000", "data.00001", "data.00002")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Three objects in a folder, beside a program rclone that reads from there."""
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(os.urandom(300_000 + number))
    program = tmp_path / "rclone"
    program.write_text('#!/bin/sh\nexec cat "$2"\n')
    program.chmod(0o755)
    return tmp_path


def noted(folder: Path) -> str:
    objects = []
    for name in NAMES:
        content = (folder / name).read_bytes()
        objects.append({"name": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    return json.dumps({"id": "20261128T073541Z-full-db2", "objects": objects})


def fetched(folder: Path, manifest: str, *, read_by: str = "cat") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", f'"{sys.executable}" "{SCRIPT}" "{folder}" 2 | {read_by}; exit "${{PIPESTATUS[0]}}"'],
        input=manifest.encode(), capture_output=True, check=False, timeout=30,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
    )  # fmt: skip


def test_the_objects_come_one_after_the_other(stored: Path) -> None:
    done = fetched(stored, noted(stored))

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"".join((stored / name).read_bytes() for name in NAMES)


@pytest.mark.parametrize(
    ("name", "read_by"), [*((name, "cat >/dev/null") for name in NAMES), (NAMES[0], "head -c 1000 >/dev/null")]
)
def test_a_damaged_object_is_named_also_when_its_reader_has_stopped(stored: Path, name: str, read_by: str) -> None:
    manifest = noted(stored)
    content = bytearray((stored / name).read_bytes())
    content[-1] ^= 1
    (stored / name).write_bytes(content)

    done = fetched(stored, manifest, read_by=read_by)

    assert done.returncode == 1
    assert f"DAMAGED OBJECT: 20261128T073541Z-full-db2/{name} is not what was stored (".encode() in done.stderr


def test_a_missing_object_is_named(stored: Path) -> None:
    manifest = noted(stored)
    (stored / NAMES[1]).unlink()

    done = fetched(stored, manifest)

    assert done.returncode == 1
    assert f"{NAMES[1]} cannot be read".encode() in done.stderr
    assert done.stdout == (stored / NAMES[0]).read_bytes()


def test_a_reader_that_stops_is_no_damage(stored: Path) -> None:
    done = fetched(stored, noted(stored), read_by="head -c 1000 >/dev/null")

    assert (done.returncode, done.stderr) == (0, b"")
