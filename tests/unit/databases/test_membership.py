"""The group while its primary lives: who may acknowledge, what the mode is, who gets which order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from looks import (
    DEAF,
    STOPPED,
    SYNC,
    case,
    decided,
    look,
    member,
    number_covers,
    obeyed,
    probe,
)  # fmt: skip

from relaunch.bus.messages import TakeRole
from relaunch.databases.failover import decide
from relaunch.databases.group import Group, Mode, Seen, Windows
from relaunch.databases.membership import TRANSITIONS, next_transition
from relaunch.databases.roles import satisfied, wanted_roles

FORMING = replace(SYNC, mode=Mode.FORMING, required=False, sync_set=frozenset(), starts={})
LOST = member("s3", age=5.0, connected=False)
ONE = replace(SYNC, sync_set=frozenset({"s3"}), starts={"s3": "1"})
NO_ACK = member("s1", acknowledgers=["@s2"], stall="no acknowledgement")

REACHED: tuple[tuple[str, Group, Seen], ...] = (
    ("second writer fenced", SYNC, look(member("s2", read_only=False))),
    ("does not wait", SYNC, look(member("s1", required=False))),
    ("replica started again", SYNC, look(member("s2", started="2"))),
    ("replica lost", SYNC, look(NO_ACK, LOST)),
    ("replica left", replace(SYNC, leaving=frozenset({"s3"})), look(member("s3", acknowledging=False))),
    ("replica removed", replace(SYNC, leaving=frozenset({"s3"}), left=frozenset({"s3"})), look(LOST)),
    ("replica remembers", replace(SYNC, forgot=frozenset({"s3"})), look()),
    ("in step", replace(SYNC, mode=Mode.BLOCKED), look()),
    ("replica joins", FORMING, look(member("s1", required=False))),
    ("commits wait again", replace(SYNC, mode=Mode.ASYNC, required=False), look(member("s1", required=False))),
    ("commits wait no longer", replace(SYNC, mode=Mode.BLOCKED, durability="available"),
     look(LOST, member("s2", received="6", executed="6"))),
    ("blocked", replace(FORMING, mode=Mode.ASYNC), look(member("s2", error="x"), member("s3", error="x"))),
    ("named", replace(FORMING, mode=Mode.ASYNC, durability="available"),
     look(members={"s1": member("s1", required=False)})),
    ("replica given up", ONE, look(member("s2", age=20.0, connected=False))),
    ("replaced", replace(SYNC, fenced=frozenset({"s9"})), look()),
)  # fmt: skip


@pytest.mark.parametrize(("name", "group", "seen"), REACHED, ids=[each[0] for each in REACHED])
def test_each_transition_is_reached(name: str, group: Group, seen: Seen):
    found = next_transition(case(seen, group))

    assert found is not None and found[0].name == name


def test_every_transition_has_its_story():
    assert [name for name, _, _ in REACHED] == [each.name for each in TRANSITIONS]


def test_async_is_stored_in_the_very_decision_that_lets_the_primary_go_on():
    decision = decided(
        look(member("s1", acknowledgers=[], stall="no acknowledgement"), LOST), replace(ONE, durability="available")
    )

    assert (decision.group.mode, decision.group.required) == (Mode.ASYNC, False)
    assert decision.orders["s1"].required is False
    assert decision.group.sync_set == {"s3"}  # until it surely acknowledges no more


def test_a_frozen_last_replica_is_let_go_although_its_connection_stands():
    frozen = member("s3", answers=False, trouble="frozen", trouble_seconds=3.5, received_seconds=3.5)
    seen = look(member("s1", acknowledgers=["@s3"], stall="no acknowledgement", write_seconds=3.4), frozen)

    assert decided(seen, replace(ONE, durability="available")).group.mode is Mode.ASYNC


def test_a_replica_with_writes_of_its_own_leaves_and_is_replaced():
    own = look(member("s3", history="own", acknowledging=False))

    leaving = decided(own)
    assert leaving.group.leaving == {"s3"} and "divergence" in {page.rule for page in leaving.pages}
    left = decided(obeyed(leaving.group, own), leaving.group).group
    out = decided(obeyed(left, own), left).group
    assert out.sync_set == {"s2"}
    fenced = decided(obeyed(out, own), out).group
    assert fenced.fenced == {"s3"}
    assert decided(obeyed(fenced, own), fenced).replace == {"s3"}


@pytest.mark.parametrize("durability", ["available", "strict"])
def test_the_only_replica_with_writes_of_its_own_promises_nothing(durability: str):
    group = replace(SYNC, sync_set=frozenset({"s3"}), starts={"s3": "1"}, durability=durability)
    own = look(members={"s1": member("s1"), "s3": member("s3", history="own")})

    decision = decided(own, group)

    assert decision.group.mode is (Mode.ASYNC if durability == "available" else Mode.BLOCKED)
    assert decision.group.leaving == {"s3"}


def test_a_replica_with_writes_of_its_own_does_not_join():
    seen = look(member("s1", required=False), *(member(id, history="own") for id in ("s2", "s3")))

    assert decided(seen, FORMING).group.sync_set == frozenset()


def test_strict_goes_on_waiting_for_its_last_replica():
    seen = look(member("s1", acknowledgers=[], stall="no acknowledgement"), LOST)

    decision = decided(seen, ONE)

    assert decision.group.mode is Mode.SYNC and decision.group.required
    assert "replica lost" in [page.rule for page in decision.pages]


def test_a_lost_replica_is_cut_off_then_out_of_the_sync_set_then_replaced():
    lost = member("s3", age=11.0, connected=False)
    group = replace(SYNC, leaving=frozenset({"s3"}))
    assert decided(look(NO_ACK, lost), group).cut_off == {"s3"}
    assert decided(look(NO_ACK, lost), group).replace == frozenset()

    cut = look(NO_ACK, replace(lost, cut_off=True))
    left = decided(cut, group).group
    assert left.left == {"s3"}
    removed = decided(obeyed(left, cut), left).group
    assert "s3" not in removed.sync_set

    assert decided(obeyed(removed, cut), removed).replace == {"s3"}


def test_a_replica_whose_agent_died_counts_while_the_primary_hears_it_acknowledge():
    assert decided(look(member("s3", age=5.0, connected=False))).group == SYNC


def test_a_fresh_replica_that_has_not_received_yet_is_not_given_up():
    """Found by the simulation: each fresh one was replaced by the next as soon as it reported."""
    seen = look(member("s2", role="", epoch=0, source="", receiving=False, received_seconds=None))

    decision = decided(seen, ONE)

    assert decision.group.fenced == frozenset()
    assert decision.orders["s2"].role == "replica"


def test_a_cut_off_replica_is_replaced_although_the_controller_restarted():
    """Found by the simulation: the controller had forgotten that it had cut it off."""
    group = replace(SYNC, sync_set=frozenset({"s2", "s3"}), leaving=frozenset({"s3"}), left=frozenset({"s3"}))
    cut = look(NO_ACK, member("s3", unheard=True, connected=False, cut_off=True))
    removed = decided(cut, group).group
    unknown = look(NO_ACK, member("s3", unheard=True, connected=False))

    decision = decided(obeyed(removed, unknown), removed)

    assert removed.fenced == {"s3"}
    assert decision.cut_off == {"s3"}


def unheard(away: float, *, connected: bool = False) -> Seen:
    """s3, ten hours after the controller began."""
    return look(NO_ACK, member("s3", unheard=True, age=36_000.0, connected=connected, cloud=True, away=away))


def test_one_never_heard_since_the_controller_began_may_come_for_ten_minutes_and_is_replaced_then():
    """It was waited for for ever, and the group was healthy."""
    out = replace(SYNC, sync_set=frozenset({"s2"}), starts={"s2": "1"})
    assert decided(unheard(599.0), out).group == out and decided(unheard(599.0), out).cut_off == frozenset()

    given_up = decided(unheard(601.0), out)
    assert given_up.group.fenced == {"s3"} and given_up.cut_off == {"s3"} and given_up.replace == frozenset()
    seen = unheard(601.0)
    cut = replace(seen, members={**seen.members, "s3": replace(seen.members["s3"], cut_off=True)})
    assert decided(cut, given_up.group).replace == {"s3"}


def test_one_whose_agent_is_connected_may_take_its_time_to_say_something():
    out = replace(SYNC, sync_set=frozenset({"s2"}), starts={"s2": "1"})

    assert decided(unheard(0.0, connected=True), out).group == out


@pytest.mark.parametrize("away", [599.0, 601.0])
def test_one_of_the_sync_set_that_is_not_heard_leaves_that_first(away: float):
    decision = decided(unheard(away))

    assert decision.group.leaving == {"s3"} and decision.group.fenced == frozenset()
    assert decision.cut_off == {"s3"} and decision.replace == frozenset()


def test_a_whole_order_is_asked_for_by_each_difference():
    order = TakeRole(epoch=5, role="replica", source="@s1", acknowledge=True)
    report = member("s2").report
    assert report is not None and satisfied(report, order)

    for wrong in ({"epoch": 4}, {"role": "revoked"}, {"source": "@s9"}, {"acknowledging": False}, {"read_only": False}):
        assert not satisfied(replace(report, **wrong), order)  # type: ignore[arg-type]


def test_one_order_per_member_and_epoch():
    """Whatever is decided: an order that differs from the one of this epoch has a higher one."""
    for _, group, seen in REACHED:
        new = decide(group, seen, Windows(), number_covers).group
        if wanted_roles(group, seen.members) != wanted_roles(new, seen.members):
            assert new.epoch > group.epoch


def test_a_group_without_data_orders_its_first_primary_only():
    group = replace(FORMING, initialised=False)

    decision = decided(look(member("s1", read_only=True, role="", epoch=0)), group)

    assert set(decision.orders) == {"s1"}
    assert decided(look(STOPPED, *DEAF, f1=probe("refused", 9.0)), group).group.change is None


def test_a_replica_that_is_being_terminated_stays_in_the_sync_set_until_it_says_that_it_acknowledges_no_more():
    """Found by reading: it counted as cut off while its decommission scripts ran, and it acknowledged all the same."""
    going = replace(member("s3"), going=True)
    first = decided(look(going))
    assert first.group.leaving == {"s3"} and first.group.sync_set == {"s2", "s3"}
    assert first.orders["s3"] == TakeRole(epoch=first.group.epoch, role="replica", source="@s1", acknowledge=False)
    assert decided(look(going), first.group).group == first.group, "it has not answered"

    stopped = replace(member("s3", epoch=first.group.epoch, acknowledging=False), going=True)
    left = decided(look(stopped), first.group).group

    assert left.left == {"s3"} and left.epoch > first.group.epoch
    removed = decided(obeyed(left, look(stopped)), left).group
    assert removed.sync_set == {"s2"}
    assert decided(obeyed(removed, look(stopped)), removed).group == removed, "and it does not join again"


def test_the_last_replica_going_is_stored_before_anybody_is_told():
    going, one = replace(member("s3"), going=True), replace(SYNC, sync_set=frozenset({"s3"}))
    seen = look(going, members={"s1": member("s1"), "s3": going})

    assert decided(seen, one).group.mode is Mode.BLOCKED
    assert decided(seen, replace(one, durability="available")).group.mode is Mode.ASYNC


def test_one_that_is_never_to_lead_does_not_acknowledge_either():
    never = replace(member("s3"), never_leads=True)

    assert decided(look(never)).group.leaving == {"s3"}, "the file may say so of one that does"
    alone = replace(SYNC, sync_set=frozenset({"s2"}), starts={"s2": "1"})
    quiet = replace(member("s3", acknowledging=False), never_leads=True)
    assert decided(look(quiet), alone).group == alone


def test_a_primary_that_somebody_told_not_to_wait_is_told_to_and_promises_nothing_until_then():
    """No silent fall-back: the server's own settings may be changed by whoever has all rights there."""
    seen = look(member("s1", required=False))
    blocked = decided(seen)

    assert blocked.group.mode is Mode.BLOCKED and blocked.group.epoch == SYNC.epoch + 1
    assert blocked.orders["s1"].required
    assert decided(obeyed(blocked.group, look()), blocked.group).group.mode is Mode.SYNC


@pytest.mark.parametrize("durability", ["available", "strict"])
def test_a_controller_that_begins_waits_for_replicas_that_have_not_spoken_yet(durability: str):
    """Found by reading: the primary's agent was the first to be heard, and all replicas were lost at once."""
    group = replace(SYNC, durability=durability)

    def begun(seconds: float) -> Seen:
        silent = [member(id, unheard=True, age=seconds, connected=False) for id in ("s2", "s3")]
        return look(member("s1", acknowledgers=[]), *silent)

    assert decided(begun(2.0), group).group == group
    if durability == "available":
        assert decided(begun(3.5), group).group.mode is Mode.ASYNC


def test_one_whose_instance_is_no_more_leaves_the_sync_set():
    seen = look(members={"s1": member("s1"), "s2": member("s2")})
    first = decided(seen).group
    assert first.leaving == {"s3"}

    assert decided(seen, first).group.left == {"s3"}


def test_a_controller_that_hears_nobody_changes_nothing():
    """Found by a story: a store that was put back came to the epoch its servers had obeyed, and gave other orders."""
    waiting = replace(SYNC, mode=Mode.BLOCKED, durability="available")
    nobody = look(*(member(id, unheard=True, connected=False) for id in ("s1", "s2", "s3")), observers=())

    assert decided(nobody, waiting).group == waiting
