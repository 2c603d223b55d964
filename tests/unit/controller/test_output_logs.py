"""Kept output: nothing twice, nothing out of order, beginning and end of a flood, gaps told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaunch.bus.messages import Output
from relaunch.controller import output_logs
from relaunch.controller.output_logs import KEPT_BYTES, PIECE_BYTES, OutputLogs
from relaunch.errors import NotFound


def whole(logs: OutputLogs, run: str = "r", index: int = 0, *, limit: int = 262_144) -> str:
    text, offset = "", 0
    while (reading := logs.read(run, index, offset, limit=limit)).next_offset > offset:
        text, offset = text + reading.text, reading.next_offset
    return text


def test_what_is_told_twice_is_kept_once_also_by_the_next_controller(tmp_path: Path) -> None:
    logs = OutputLogs(tmp_path)
    logs.append(Output("r", 0, 0, "one "))
    logs.append(Output("r", 0, 4, "two "))
    logs.append(Output("r", 0, 0, "one two "))

    again = OutputLogs(tmp_path)
    again.append(Output("r", 0, 4, "two three"))

    assert whole(again) == "one two three"
    assert (tmp_path / "r" / "0.log").read_text() == "one two three"


def test_a_gap_is_told_where_it_is(tmp_path: Path) -> None:
    logs = OutputLogs(tmp_path)
    logs.append(Output("r", 0, 0, "before"))
    logs.append(Output("r", 0, 1006, "after"))

    assert whole(logs) == "before\n[relaunch: 1000 bytes left out here]\nafter"


def test_of_a_flood_the_beginning_and_the_end_are_kept(tmp_path: Path) -> None:
    logs = OutputLogs(tmp_path)
    line = "x" * 99_999 + "\n"
    logs.append(Output("r", 0, 0, "first\n"))
    for number in range(300):
        logs.append(Output("r", 0, 6 + number * len(line), line))
    logs.append(Output("r", 0, 6 + 300 * len(line), "last\n"))

    text = whole(logs)

    assert text.startswith("first\n") and text.endswith("last\n") and "bytes left out here" in text
    assert sum(file.stat().st_size for file in (tmp_path / "r").iterdir()) <= KEPT_BYTES + PIECE_BYTES
    assert logs.tail("r", 0, limit=50).endswith("x\nlast\n")


@given(text=st.text(max_size=60), limit=st.integers(4, 9), cuts=st.lists(st.integers(1, 12), max_size=12))
def test_however_it_is_cut_and_read_the_text_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, text: str, limit: int, cuts: list[int]
) -> None:
    text = text.encode("utf-8", "replace").decode()
    logs = OutputLogs(tmp_path_factory.mktemp("runs"))
    rest, offset = text, 0
    for cut in [*cuts, len(text)]:
        logs.append(Output("r", 0, offset, rest[:cut]))
        offset, rest = offset + len(rest[:cut].encode()), rest[cut:]

    assert whole(logs, limit=limit) == text


@pytest.mark.parametrize("run", ["../etc", "", ".hidden", "a/b", "x" * 200])
def test_a_name_that_is_no_run_is_no_path(tmp_path: Path, run: str) -> None:
    with pytest.raises(NotFound):
        OutputLogs(tmp_path).read(run, 0)


def test_many_gaps_do_not_make_many_files(tmp_path: Path) -> None:
    logs = OutputLogs(tmp_path)
    for number in range(200):
        logs.append(Output("r", 0, number * 10, "x"))

    assert len(list((tmp_path / "r").iterdir())) <= output_logs.KEPT_PIECES
