"""What bench/rigs.py makes of what it saw: nothing that did not happen counts as a proof."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import rehearsal
import rigs

WELL = rigs.Result(
    outage_seconds=1.0, acknowledged=900, by_the_old=100, lost=0, two_writers=0, failed_over=True, not_happened=0
)


@pytest.mark.parametrize("name", rigs.RIGS)
def test_what_went_as_it_should_misses_nothing(name: str) -> None:
    assert not rehearsal.missed(rigs.figures_of(name, [WELL, WELL, WELL]))


@pytest.mark.parametrize("wrong", [{"not_happened": 1}, {"lost": 1}, {"two_writers": 1}])
def test_one_run_of_three_in_which_it_did_not_go_so_is_missed(wrong: dict[str, int]) -> None:
    results = [WELL, WELL, replace(WELL, **wrong)]

    assert rehearsal.missed(rigs.figures_of("applier-blocked", results))


def test_a_rig_about_a_failover_proves_nothing_without_one() -> None:
    stayed = replace(WELL, failed_over=False)

    missed = [name for name in rigs.RIGS if rehearsal.missed(rigs.figures_of(name, [WELL, WELL, stayed]))]

    assert missed == [name for name in rigs.RIGS if name != "both-cut"]


class OldPrimary:
    """A rig as `insist` sees it: another one leads, and the old primary answers this."""

    old = {"instance": "one"}  # noqa: RUF012

    def __init__(self, *answers: str | Exception) -> None:
        self._answers = list(answers)

    def leader(self) -> str:
        return "another"

    def has(self, fault: str) -> bool:
        return True

    def dialect(self, member: object) -> rigs.Dialect:
        return rigs.DIALECTS[0]

    def ask(self, member: object, text: str) -> str:
        answer = self._answers.pop(0) if self._answers else "1"
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_only_what_was_writable_counts_as_made_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rigs, "INSIST_WITHIN_SECONDS", 0.5)
    monkeypatch.setattr(rigs, "INSIST_SECONDS", 0.5)

    assert rigs.insist(OldPrimary(RuntimeError("not up"), "1")) == 0
    assert rigs.insist(OldPrimary(RuntimeError("not up"), "0", "1", "0")) == 2


def test_an_insisting_that_fails_is_not_lost() -> None:
    with pytest.raises(ValueError, match="unforeseen"):
        rigs.insist(OldPrimary(ValueError("unforeseen")))


def test_writers_that_have_ended_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rigs, "WRITES_SECONDS", 0.5)
    ledger = tmp_path / "ledger"
    ledger.write_text("0 1 0.1 7\n")
    writer = threading.Timer(0.1, ledger.write_text, ["0 1 0.1 7\n0 2 0.2 7\n"])

    assert not rigs.writes_again(ledger)
    writer.start()
    assert rigs.writes_again(ledger)
    writer.join()
