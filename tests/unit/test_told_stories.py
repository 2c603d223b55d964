"""What drills/stories.py makes of the stories it told: one that proves nothing is not fine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "drills" / "stories.py"
SPEC = importlib.util.spec_from_file_location("told_stories", FILE)
assert SPEC is not None and SPEC.loader is not None
stories = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(stories)

WELL: dict[str, Any] = {
    "story": "7-0", "faults": ["crash", "thaw"], "not now": [], "end": "writer", "acknowledged": 100, "lost": 0,
    "turns": 1, "changes of the primary": 1,
}  # fmt: skip


def test_a_story_that_went_well() -> None:
    found = stories.summary([WELL])

    assert (found["wrong"], found["unchecked"], found["acknowledged"]) == ([], 0, 100)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lost": 1},
        {"end": "no failover: paused", "lost": 1},
        {"turns": 2},
        {"end": "NEITHER WRITER NOR PAGE: []"},
        {"faults": ["thaw", "go on", "pause"]},
    ],
)
def test_a_story_in_which_something_must_not_be_so(wrong: dict[str, Any]) -> None:
    assert len(stories.summary([WELL, WELL | wrong])["wrong"]) == 1


def test_what_was_not_looked_for_does_not_count_as_there() -> None:
    unchecked = WELL | {"end": "no failover: not all are heard", "lost": None}

    found = stories.summary([WELL, unchecked])

    assert (found["wrong"], found["unchecked"], found["acknowledged"]) == ([], 1, 100)
    assert stories.summary([unchecked])["wrong"] == ["no story was checked"]
    assert stories.summary([])["wrong"] == ["no story was checked"]


def test_faults_most_of_which_did_not_happen() -> None:
    once = WELL | {"not now": ["crash", "freeze", "thaw"]}

    assert stories.summary([once])["wrong"] == ["most of what was to be broken could not be"]
    assert stories.summary([once, WELL])["wrong"] == []


@pytest.mark.parametrize(
    ("lacking", "lost"), [([3, 0, 8], 0), ([3, 0, None], 0), ([3, 8], 3), ([3, None], None), ([None], None), ([], None)]
)
def test_one_server_that_has_all_is_enough(lacking: list[int | None], lost: int | None) -> None:
    assert stories.fewest(lacking) == lost


def test_each_fault_that_breaks_something_can_be_made() -> None:
    assert stories.BREAKING.issubset(stories.FAULTS)
