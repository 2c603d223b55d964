"""Sets of GTIDs as the scripts reckon with them, against what the controller makes of them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaunch.databases.mysql_gtids import union, without

ATTACHMENTS = Path(__file__).parents[3] / "templates/scripts/attachments"
A, B = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"


def loaded() -> Any:
    sys.path.insert(0, str(ATTACHMENTS))
    try:
        return importlib.import_module("gtid_sets")
    finally:
        sys.path.remove(str(ATTACHMENTS))


sets = loaded()
spans = st.tuples(st.integers(1, 30), st.integers(0, 9)).map(lambda span: f"{span[0]}-{span[0] + span[1]}")
parts = st.tuples(st.sampled_from([A, B, f"{A}:prompt"]), spans).map(":".join)
positions = st.lists(parts, max_size=5).map(",".join)


@given(positions, positions)
def test_it_reckons_as_the_controller_does(one: str, other: str) -> None:
    assert sets.union(one, other) == union(one, other)
    assert sets.common(one, other) == without(one, without(one, other))
    assert sets.holds(one, other) == (without(other, one) == "")


def test_a_position_may_leave_nothing_out_of_the_log() -> None:
    log = [f"{A}:1", f"{A}:2", f"{A}:prompt:1", f"{B}:1", f"{B}:2"]

    sets.unbroken(f"{A}:1-2:prompt:1,{B}:1", log)
    sets.unbroken(f"{A}:1", log)
    with pytest.raises(ValueError, match=f"{B}:1 comes after {A}:prompt:1, which the position leaves out"):
        sets.unbroken(f"{A}:1-2,{B}:1", log)


@pytest.mark.parametrize("text", ["0-1-5", A, f"{A}:", f"{A}:5:tag", f"{A}:x y", "nonsense:1"])
def test_what_is_no_set_is_refused(text: str, capsys: Any) -> None:
    assert sets.main(["holds", text, ""]) == 2
    assert "not a set of GTIDs" in capsys.readouterr().err


def test_its_answer_is_the_exit_status() -> None:
    assert sets.main(["holds", f"{A}:1-5", f"{A}:2"]) == 0
    assert sets.main(["holds", f"{A}:1-5", f"{A}:6"]) == 1
    assert sets.main([]) == 2
