"""Kept blobs: one of each content, whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relaunch.controller.blobs import BlobFolder
from relaunch.errors import Conflict


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "install.sh"
    file.write_text("#!/bin/sh\necho installed\n")
    return file


@pytest.mark.parametrize("damaged", ["", "#!/bin/sh\n", "#!/bin/sh\necho INSTALLED\n"])
def test_a_damaged_blob_is_kept_again_when_it_is_put_again(tmp_path: Path, script: Path, damaged: str) -> None:
    put = BlobFolder(tmp_path / "blobs").put(script)
    kept = BlobFolder(tmp_path / "blobs").path(put.sha256)
    kept.write_text(damaged)

    assert BlobFolder(tmp_path / "blobs").put(script) == put

    assert kept.read_bytes() == script.read_bytes()
    assert [each.name for each in (tmp_path / "blobs").iterdir()] == [put.sha256]


def test_the_same_content_is_written_once(tmp_path: Path, script: Path) -> None:
    blobs = BlobFolder(tmp_path / "blobs")
    kept = blobs.path(blobs.put(script).sha256)
    written = kept.stat()

    blobs.put(script)

    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


async def test_what_came_in_pieces_is_kept_whole(tmp_path: Path, script: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"#!/bin/sh\n"
        yield b"echo installed\n"

    blobs = BlobFolder(tmp_path / "blobs")
    taken = await blobs.take(pieces())

    assert blobs.path(taken.sha256).read_bytes() == script.read_bytes()
    assert taken.size_bytes == script.stat().st_size
    assert [each.name for each in (tmp_path / "blobs").iterdir()] == [taken.sha256]


async def test_what_finds_no_room_is_told_so_and_nothing_of_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"#!/bin/sh\n"

    blobs = BlobFolder(tmp_path / "blobs")
    monkeypatch.setattr("secrets.token_hex", lambda _: "x")
    (tmp_path / "blobs/.incoming-x").symlink_to("/dev/full")

    with pytest.raises(Conflict, match="no space left"):
        await blobs.take(pieces())

    assert list((tmp_path / "blobs").iterdir()) == []


def test_what_broke_off_while_it_came_is_removed_at_the_next_start(tmp_path: Path, script: Path) -> None:
    kept = BlobFolder(tmp_path / "blobs").put(script).sha256
    (tmp_path / "blobs/.incoming-0123456789abcdef").write_text("half")

    BlobFolder(tmp_path / "blobs")

    assert [each.name for each in (tmp_path / "blobs").iterdir()] == [kept]
