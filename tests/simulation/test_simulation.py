"""Failover told in random stories; `drills/simulate_failover.py` tells many more each night."""

from __future__ import annotations

import pytest
from mutants import MUTANTS, Mutant
from scripted import a_store_is_put_back_into_a_switchover, the_heir_of_a_failed_candidate_restarts
from simulated import Broken, Physics
from stories import CALM, invented, shortened, tell, total

STORIES, LENGTH = 34, 60


def test_faults_in_any_order_lose_nothing_and_end_in_one_writer():
    told = [tell(invented(f"unit {number}", LENGTH)) for number in range(STORIES)]

    counted = total(told)
    assert counted["steps"] >= 2000
    assert counted["failovers"] >= 10  # or it proves little
    assert counted["switchovers"] >= 5
    assert counted["ended with a writer"] >= STORIES * 0.8


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.rule} {mutant.name}")
def test_a_broken_rule_is_noticed(mutant: Mutant):
    """The story known to notice it, else others: what else changes in the code changes stories too."""
    with mutant.at_work() as physics, pytest.raises(Broken):
        if mutant.scripted is not None:
            mutant.scripted(physics)
        for seed in (mutant.story, *(str(number) for number in range(150))):
            tell(invented(seed, LENGTH, physics))


def test_the_heir_of_a_failed_candidate_that_restarted_does_not_lead():
    world = the_heir_of_a_failed_candidate_restarts(Physics())

    assert world.last is not None and world.last.pages[0].rule == "failover waits"
    assert "has started again" in world.last.pages[0].text


def test_a_switchover_that_is_over_is_not_given_up_by_an_older_store():
    world = a_store_is_put_back_into_a_switchover(Physics())
    assert world.last is not None and [page.rule for page in world.last.pages] == ["switchover waits"]
    leads = {each.id for each in world.servers.values() if each.writable}

    world.blocked.clear()
    for _ in range(100):
        world.tick()

    assert {world.group.primary} == leads and world.group.change is None


def test_a_story_that_breaks_is_shortened_to_what_breaks_it():
    (mutant,) = [each for each in MUTANTS if each.name == "nobody is waited for"]
    with mutant.at_work() as physics:
        story = invented(mutant.story, LENGTH, physics)

        shorter = shortened(story)

        assert sum(fault != CALM for fault in shorter.faults) < sum(fault != CALM for fault in story.faults) / 2
        with pytest.raises(Broken):
            tell(shorter)
