"""Positions that people write, and moments to restore to."""

from __future__ import annotations

import pytest

from relaunch.databases.backups_api import _moment
from relaunch.errors import BadInput

A, B = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"


@pytest.mark.parametrize(
    ("to", "means"),
    [
        ("newest", "newest"),
        ("backup", "backup"),
        ("time:2026-11-22 19:00:00", "time:2026-11-22 19:00:00"),
        ("gtid:0-1-5", "gtid:0-1-5"),
        ("gtid:0-1-5, 7-1-2", "gtid:0-1-5,7-1-2"),
        (f"gtid:{B}:1-5,\n{A.upper()}:1-3:prompt:1", f"gtid:{A}:1-3:prompt:1,{B}:1-5"),  # as MySQL prints it
    ],
)
def test_a_moment_is_said_in_the_words_of_either_dialect(to: str, means: str) -> None:
    assert _moment(to) == means


@pytest.mark.parametrize("to", ["", "gtid:", "gtid: ", "gtid:5", f"gtid:{A}", "time:yesterday", "time:2026-11-22"])
def test_what_is_no_moment_is_refused(to: str) -> None:
    with pytest.raises(BadInput):
        _moment(to)
