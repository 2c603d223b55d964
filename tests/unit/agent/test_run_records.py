from __future__ import annotations

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
