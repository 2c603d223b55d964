"""A store that was put back from an older copy: its servers have obeyed later orders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from looks import LOSS_ALLOWED, NOW, SYNC, case, decided, look, member

from relaunch.databases.group import Change, Group, Member, Mode, Seen, Step
from relaunch.databases.overtaken import OVERTAKEN, known_again, why_not_known, why_not_newest

# Stored: s1 leads at epoch 5. Since then it has failed and been fenced, and s2 leads at epoch 9.
LEADING: dict[str, Any] = {"epoch": 9, "role": "primary", "read_only": False, "source": "", "required": True}
LEADS = member("s2", **LEADING, acknowledgers=["@s3"])
FOLLOWS = member("s3", epoch=9, source="@s2", started="4")
FENCED = member("s1", epoch=9, role="fenced", read_only=True)
LATER = look(FENCED, LEADS, FOLLOWS)
MOVING = Change(
    kind="failover", step=Step.REVOKE, old="s1", candidate=None, rule="silence", began=NOW - 9, step_began=NOW - 9
)


def test_what_all_servers_say_is_taken_for_what_is():
    decision = decided(LATER, replace(SYNC, change=MOVING))
    group = decision.group

    assert decision.rule == OVERTAKEN
    assert (group.primary, group.epoch, group.change) == ("s2", 10, None)
    assert (group.mode, group.required) == (Mode.BLOCKED, True), "no failover before a replica has proven itself"
    assert (group.sync_set, group.forgot, group.fenced) == ({"s3"}, {"s3"}, {"s1"})
    assert {id: order.role for id, order in decision.orders.items()} == {
        "s1": "fenced",
        "s2": "primary",
        "s3": "replica",
    }


UNKNOWN: tuple[tuple[str, Seen], ...] = (
    ("db2 is not heard", look(FENCED, member("s2", age=9.0, connected=False, epoch=9), FOLLOWS)),
    ("db1 is not heard", look(member("s1", unheard=True), LEADS, FOLLOWS)),
    ("not one server that takes writes", look(FENCED, member("s2", epoch=9, role="fenced"), FOLLOWS)),
    ("not one server that takes writes by", look(member("s1", epoch=5), LEADS, FOLLOWS)),
    ("db3 does not follow db2", look(FENCED, LEADS, member("s3", epoch=9, source="@s1"))),
    ("none of the store's follows it", look(FENCED, LEADS, member("s3", epoch=9, role="fenced", source=""))),
    ("@s7 follows db2 and is not in the store", look(FENCED, member("s2", **LEADING, acknowledgers=["@s7"]), FOLLOWS)),
)  # fmt: skip


@pytest.mark.parametrize(("why", "seen"), UNKNOWN, ids=[each[0] for each in UNKNOWN])
@pytest.mark.parametrize(
    "group", [SYNC, replace(SYNC, change=MOVING, fenced=frozenset({"s3"}))], ids=["steady", "moving"]
)
def test_as_long_as_that_is_not_known_nothing_is_done(why: str, seen: Seen, group: Group):
    decision = decided(seen, group)

    assert decision.group == group
    assert not decision.orders and not decision.cut_off and not decision.replace and not decision.hold
    (page,) = decision.pages
    assert page.rule == OVERTAKEN and why in page.text


# s1, which was fenced then or to be, leads by now.
LED_BY_ANOTHER = replace(SYNC, primary="s2", sync_set=frozenset({"s3"}), starts={"s3": "1"}, fenced=frozenset({"s1"}))
TO_BE_FENCED = replace(SYNC, mode=Mode.ASYNC, required=False, sync_set=frozenset(), change=MOVING, **LOSS_ALLOWED)


@pytest.mark.parametrize("group", [LED_BY_ANOTHER, TO_BE_FENCED], ids=["steady", "moving"])
def test_by_a_store_that_may_be_older_nobody_is_cut_off_before_anybody_is_heard(group: Group):
    unheard = look(*(member(id, unheard=True, connected=False, age=60.0) for id in ("s1", "s2", "s3")))
    blind = replace(
        unheard,
        observers=tuple(replace(each, connected=False, heard_seconds=float("inf")) for each in unheard.observers),
    )
    f1, f2 = unheard.observers

    assert decided(blind, group).cut_off == frozenset()
    later = replace(blind, observers=(replace(f1, epoch=9), *blind.observers[1:]))
    assert decided(later, group).rule == OVERTAKEN and decided(later, group).cut_off == frozenset()
    assert decided(replace(blind, observers=(replace(f1, epoch=5), f2)), group).cut_off == {"s1"}


def test_a_person_says_who_leads_and_who_is_not_heard_is_fenced():
    lost: Member = member("s1", unheard=True)
    look_now = case(look(lost, LEADS, FOLLOWS))

    assert why_not_known(look_now, "s2") == ""
    assert known_again(look_now, "s2").fenced == {"s1"}
    assert why_not_known(look_now, "s1") == "db1 does not answer"
    strange = look(lost, member("s2", **LEADING, acknowledgers=["@s3", "@s7"]), FOLLOWS)
    assert "@s7" in why_not_known(case(strange), "s2"), "it may be alone with an acknowledged write"


def test_one_that_has_missed_orders_does_not_lead_without_a_word_about_it():
    """The store was put back to before s4 was launched, which leads now: front ends know its epoch, no member does."""
    behind = look(member("s1", epoch=7, role="fenced", read_only=True), member("s2", epoch=7), member("s3", epoch=7))
    told = replace(behind, observers=tuple(replace(each, epoch=9) for each in behind.observers))

    assert "has obeyed the orders of epoch 7, and there were some of epoch 9" in why_not_newest(case(told), "s2")
    assert why_not_newest(case(LATER), "s2") == ""
    (page,) = decided(told).pages
    assert "must not be ended before its data is saved" in page.text


def test_a_store_that_is_not_older_is_left_alone():
    assert decided(look(member("s3", epoch=4))).rule == "healthy"
    assert decided(LATER, replace(SYNC, initialised=False)).rule != OVERTAKEN, "it begins, perhaps anew"


def test_a_front_end_that_knows_a_later_epoch_stops_everything_too():
    seen = look()
    told = replace(seen, observers=tuple(replace(each, epoch=6) for each in seen.observers))
    decision = decided(told)

    assert decision.rule == OVERTAKEN
    assert decision.group.epoch == 7 and decision.group.primary == "s1", "all say that it leads, and nobody else does"
    assert decided(replace(told, members={"s1": told.members["s1"], "s2": member("s2", unheard=True)})).orders == {}
