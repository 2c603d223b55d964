"""MariaDB's positions: which holds which, and which of them are of histories that have parted."""

from __future__ import annotations

import pytest

from relaunch.databases.mariadb import MariaDB
from relaunch.errors import BadInput

covers, parted = MariaDB().covers, MariaDB().parted


@pytest.mark.parametrize(
    ("position", "other", "held"),
    [
        ("0-1-5", "", True),
        ("", "", True),
        ("0-2-6", "0-1-5", True),
        ("1-1-1,0-1-5", "0-1-5", True),
        ("", "0-1-1", False),
        ("0-1-5", "0-1-6", False),
        ("0-1-5", "1-1-1", False),
        ("0-1-5", "0-2-5", False),  # as long, and another history
    ],
)
def test_a_position_holds_another_by_number_and_at_its_end_by_server(position: str, other: str, held: bool):
    assert covers(position, other) is held


@pytest.mark.parametrize("unreadable", ["x", "1-2", "1-2-3-4", "a-1-1", "1--1", "0-1-5;"])
def test_what_is_no_position_is_an_error(unreadable: str):
    with pytest.raises(BadInput):
        covers("0-1-1", unreadable)


PRIMARY = ("0-1-105", "1:0-1-105,")
PARTED = {
    "as long, by another server": (("0-1-105", "1:0-1-105,"), ("0-2-105", "2:0-1-104,0-2-105,0-1-104")),
    "a replica that wrote itself, and is behind now": (PRIMARY, ("0-2-101", "2:0-1-100,0-2-101,0-1-100")),
    "a replica that wrote itself, and is ahead": (("0-1-100", "1:0-1-100,"), ("0-2-101", "2:0-1-99,0-2-101,0-1-99")),
    "an old primary whose last write nobody got": (("0-2-130", "2:0-1-100,0-2-130,0-1-100"), ("0-1-101", "1:0-1-101,")),
}
SAME = {
    "a replica behind": (PRIMARY, ("0-1-90", "2:0-1-90,0-1-90")),
    "a replica ahead of the word of its primary": (PRIMARY, ("0-1-110", "2:0-1-110,0-1-110")),
    "one just seeded": (PRIMARY, ("0-1-100", "3:,0-1-100")),
    "an old primary that follows and is behind": (("0-2-130", "2:0-1-100,0-2-130,0-1-100"), ("0-1-100", "1:0-1-100,")),
    "a primary that was seeded from an old primary": (("0-4-120", "4:0-4-120,0-1-100"), ("0-1-100", "1:0-1-100,")),
    "seeded after the last write of a server that one far behind ends with":
        (("0-4-150", "4:0-4-150,0-2-130"), ("0-1-90", "3:0-1-90,0-1-90")),
    "another domain": (("0-1-5,1-9-7", "1:0-1-5,1-9-7,1-9-7"), ("0-1-5", "2:0-1-5,0-1-5")),
    "an agent that says no history yet": (PRIMARY, ("0-2-101", "")),
}  # fmt: skip


@pytest.mark.parametrize("servers", PARTED.values(), ids=PARTED)
def test_histories_that_have_parted(servers: tuple[tuple[str, str], tuple[str, str]]):
    one, other = servers
    assert parted(*one, *other) and parted(*other, *one)


@pytest.mark.parametrize("servers", SAME.values(), ids=SAME)
def test_histories_that_may_be_the_same(servers: tuple[tuple[str, str], tuple[str, str]]):
    one, other = servers
    assert not parted(*one, *other) and not parted(*other, *one)
