"""For how long a probe has found what it finds."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from relaunch_agent.database import witness
from relaunch_agent.database.witness import Watched
from relaunch_agent.places import Places


class World:
    """Its clock goes on by as much as each look takes."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.begun = 0
        self.looks: queue.Queue[tuple[float, str]] = queue.Queue()

    def look(self) -> str:
        self.begun += 1
        took, outcome = self.looks.get(timeout=10)
        self.now += took
        return outcome

    def found(self, watched: Watched, outcome: str, *, after: float) -> float:
        """For how long it is so, once a look that took so long has found it, and the next one has begun."""
        end, before = time.monotonic() + 10, max(self.begun, 1)
        self.looks.put((after, outcome))
        while self.begun <= before and time.monotonic() < end:
            time.sleep(0.001)
        return self.said(watched, outcome)

    def said(self, watched: Watched, outcome: str) -> float:
        probe = watched.probe()
        assert probe is not None and probe.outcome == outcome
        return probe.seconds


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(witness, "time", SimpleNamespace(monotonic=lambda: made.now))
    monkeypatch.setattr(witness, "OTHERS_SECONDS", 0.0)
    monkeypatch.setattr(Watched, "_look", lambda _: made.look())
    return made


@pytest.fixture
def watched(world: World, tmp_path: Path) -> Iterator[Watched]:
    made = Watched("198.18.0.9", Places(tmp_path), lambda: None, 3306)
    yield made
    made.stop()
    world.looks.put((0.0, "ok"))


def test_silence_counts_from_the_first_look_that_met_it(world: World, watched: Watched) -> None:
    seen = [world.found(watched, "timeout", after=0.75) for _ in range(4)]

    assert seen == pytest.approx([0.75, 1.5, 2.25, 3.0])


@pytest.mark.parametrize("outcome", ["timeout", "refused"])
def test_what_passes_while_this_machine_stands_still_does_not(world: World, watched: Watched, outcome: str) -> None:
    """Saved for minutes, as others were: those that come back later than this one have not been silent for minutes."""
    world.found(watched, "timeout", after=0.75)

    assert world.found(watched, outcome, after=300.0) == 0.0, "in the middle of a look"
    world.now += 300.0
    assert world.said(watched, outcome) == 0.0, "between two"
    assert world.found(watched, outcome, after=0.75) == 0.0
    assert world.found(watched, outcome, after=0.75) == pytest.approx(0.75)
