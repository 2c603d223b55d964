"""Failover told in random stories; `drills/simulate_failover.py` tells many more each night."""

from __future__ import annotations

import itertools

import pytest
from mutants import MUTANTS, Mutant
from scripted import (
    a_candidate_that_alone_has_all_crashes,
    a_loss_is_allowed_while_a_candidate_applies_nothing,
    a_store_is_put_back_into_a_switchover,
    of_two_the_old_primary_is_to_lead_again,
    one_that_acknowledged_to_a_failed_candidate_is_away,
    one_that_is_not_told_acknowledges_on_to_a_failed_candidate,
    promotion,
    the_candidate_of_a_switchover_is_terminated,
    the_heir_of_a_failed_candidate_restarts,
    the_old_primary_is_heard_a_second_after_others,
)
from simulated import Broken, Physics
from stories import CALM, ended, happen, invented, shortened, tell, total

STORIES, LENGTH = 34, 60
FAILURES = ("crash", "power off", "freeze", "isolate")


def test_faults_in_any_order_lose_nothing_and_end_in_one_writer():
    told = [tell(invented(f"unit {number}", LENGTH)) for number in range(STORIES)]

    counted = total(told)
    assert counted["steps"] >= 2000
    assert counted["failovers"] >= 10  # or it proves little
    assert counted["switchovers"] >= 5
    assert counted["candidates_struck"] >= 3
    assert counted["ended with a writer"] >= STORIES * 0.8


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.rule} {mutant.name}")
def test_a_broken_rule_is_noticed(mutant: Mutant):
    """The story known to notice it, else others: what else changes in the code changes stories too."""
    with mutant.at_work() as physics, pytest.raises(Broken):
        if mutant.scripted is not None:
            mutant.scripted(physics)
            return
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


def test_a_switchover_to_one_that_is_being_terminated_is_given_up():
    world = the_candidate_of_a_switchover_is_terminated(Physics())

    assert world.group.primary == "s1" and world.servers["s1"].writable
    assert ended(world).end == "writer"


@pytest.mark.parametrize("story", ["r4-122", "more-820"])
def test_what_a_candidate_forgets_that_was_too_slow_is_not_lost(story: str):
    """The one that it was to take over from has all of it; the check looked at the candidate alone."""
    tell(invented(story, LENGTH))


@pytest.mark.parametrize("durability", ["strict", "available"])
@pytest.mark.parametrize("old_is_back", ["before", "after", "never"])
@pytest.mark.parametrize("restarts", [False, True], ids=["", "and the controller"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_candidate_that_fails_is_followed_by_another(failure: str, restarts: bool, old_is_back: str, durability: str):
    for replicas, leads in itertools.product((2, 3), (False, True)):
        told = promotion(Physics(), replicas=replicas, durability=durability)
        if old_is_back == "before":
            told.comes_back(told.old)
        if leads:
            told.leads_unheard(told.heirs[0])
        assert told.world.group.change is not None and told.world.group.primary == told.candidate.id
        told.fails(failure, restarts=restarts)
        if old_is_back == "after":
            told.comes_back(told.old)

        told.is_led_by(*told.heirs)
        assert ended(told.world).end == "writer"


@pytest.mark.parametrize("restarts", [False, True], ids=["", "and the controller"])
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("replicas", [2, 3])
def test_no_other_follows_a_candidate_while_a_replica_that_may_have_more_is_away(
    replicas: int, failure: str, restarts: bool
):
    told = promotion(Physics(), replicas=replicas)
    happen(told.world, "isolate", told.heirs[0].id)
    told.fails(failure, restarts=restarts)
    told.waits()

    told.comes_back(told.heirs[0])

    told.is_led_by(*told.heirs)
    assert ended(told.world).end == "writer"


@pytest.mark.parametrize("restarts", [False, True], ids=["", "and the controller"])
def test_a_candidate_that_applies_nothing_leads_once_it_does(restarts: bool):
    told = promotion(Physics(), behind=True)
    told.fails("block applier", restarts=restarts)
    told.waits()

    happen(told.world, "free applier")

    told.is_led_by(told.candidate)
    assert ended(told.world).end == "writer"


def test_a_loss_that_is_allowed_takes_the_lead_from_a_candidate_that_applies_nothing():
    told = a_loss_is_allowed_while_a_candidate_applies_nothing(Physics())

    assert not told.candidate.writable
    assert ended(told.world).end == "writer"


@pytest.mark.parametrize("old_is_back", ["before", "after"])
@pytest.mark.parametrize("restarts", [False, True], ids=["", "and the controller"])
@pytest.mark.parametrize("failure", FAILURES)
def test_of_two_the_old_primary_leads_again_when_its_heir_fails_and_somebody_allows_it(
    failure: str, restarts: bool, old_is_back: str
):
    told = of_two_the_old_primary_is_to_lead_again(
        Physics(), failure, restarts=restarts, before=old_is_back == "before"
    )

    assert ended(told.world).end == "writer"


def test_an_old_primary_that_a_new_controller_hears_late_may_lead_again():
    assert ended(the_old_primary_is_heard_a_second_after_others(Physics()).world).end == "writer"


def test_a_candidate_that_crashes_and_alone_has_all_leads_when_it_is_back():
    told = a_candidate_that_alone_has_all_crashes(Physics())

    told.comes_back(told.candidate)

    told.is_led_by(told.candidate)
    assert ended(told.world).end == "writer"


def test_who_hears_nothing_and_follows_a_failed_candidate_on_is_waited_for():
    told = one_that_is_not_told_acknowledges_on_to_a_failed_candidate(Physics())

    told.comes_back(told.heirs[1])

    told.is_led_by(*told.heirs)
    assert ended(told.world).end == "writer"


def test_who_acknowledged_to_a_failed_candidate_leads_when_it_is_back():
    told = one_that_acknowledged_to_a_failed_candidate_is_away(Physics())

    told.comes_back(told.heirs[0])

    told.is_led_by(told.heirs[0])
    assert ended(told.world).end == "writer"


def test_a_story_that_breaks_is_shortened_to_what_breaks_it():
    (mutant,) = [each for each in MUTANTS if each.name == "nobody is waited for"]
    with mutant.at_work() as physics:
        story = invented(mutant.story, LENGTH, physics)

        shorter = shortened(story)

        assert sum(fault != CALM for fault in shorter.faults) < sum(fault != CALM for fault in story.faults) / 2
        with pytest.raises(Broken):
            tell(shorter)
