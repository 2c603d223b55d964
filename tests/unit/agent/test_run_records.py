from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from relaunch_agent.disk import append_record, last_record


def test_the_newest_record_counts(tmp_path: Path) -> None:
    file = tmp_path / "run.json"

    append_record(file, {"sequence": 1}, durable=True)
    append_record(file, {"sequence": 2})

    assert last_record(file) == {"sequence": 2}
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", range(1, 16))
def test_a_record_cut_short_anywhere_leaves_the_one_before_and_harms_none_after(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "run.json"
    append_record(file, {"sequence": 1})
    kept = file.stat().st_size
    append_record(file, {"sequence": 2})
    with file.open("r+b") as handle:
        handle.truncate(kept + cut)

    assert last_record(file) == {"sequence": 1}
    append_record(file, {"sequence": 3})
    assert last_record(file) == {"sequence": 3}


def test_no_record_is_none(tmp_path: Path) -> None:
    assert last_record(tmp_path / "run.json") is None
    (tmp_path / "run.json").write_text('\n{"sequ')
    assert last_record(tmp_path / "run.json") is None


@pytest.mark.parametrize("room", range(1, 17))
def test_a_record_for_which_the_disk_has_no_room_is_an_error_and_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """As Linux does it: the last free bytes are written, and only the write after them fails."""
    file = tmp_path / "run.json"
    append_record(file, {"sequence": 1})
    before, free, real = file.read_bytes(), [room], os.write

    def write(descriptor: int, data: bytes) -> int:
        if not free[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(descriptor, data[: free[0]])
        free[0] -= written
        return written

    with monkeypatch.context() as patched:
        patched.setattr("relaunch_agent.disk.os.write", write)
        with pytest.raises(OSError, match="No space left"):
            append_record(file, {"sequence": 2})

    assert file.read_bytes() == before
    append_record(file, {"sequence": 3})
    assert last_record(file) == {"sequence": 3}


def test_a_record_that_is_taken_in_parts_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr("relaunch_agent.disk.os.write", lambda descriptor, data: write(descriptor, data[:4]))
    append_record(tmp_path / "run.json", {"sequence": 1})

    assert last_record(tmp_path / "run.json") == {"sequence": 1}
