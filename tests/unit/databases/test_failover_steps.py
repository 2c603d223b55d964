"""The steps of a failover and of a switchover."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from looks import (
    DEAF,
    GONE,
    LONG_DEAF,
    LOSS_ALLOWED,
    NOW,
    REFUSED,
    SILENT,
    STOPPED,
    SYNC,
    decided,
    look,
    member,
    obeyed,
)  # fmt: skip

from relaunch.bus.messages import TakeRole
from relaunch.databases.change import begin_promotion
from relaunch.databases.failover import refuse_promotion, refuse_switchover
from relaunch.databases.group import Change, Decision, Group, Member, Mode, Seen, Step

DEAD = look(STOPPED, *DEAF, **REFUSED)


def begun(seen: Seen = DEAD, group: Group = SYNC) -> Group:
    decision = decided(seen, group)
    assert decision.group.change is not None
    return decision.group


# failover


def test_a_failover_is_two_answers_away_from_writes():
    first = decided(DEAD)
    assert {id: order.role for id, order in first.orders.items()} == {"s1": "fenced", "s2": "revoked", "s3": "revoked"}
    assert first.group.epoch == SYNC.epoch + 1

    second = decided(obeyed(first.group, DEAD), first.group)
    assert second.group.change is not None and second.group.change.step is Step.PROMOTE
    assert second.orders["s2"].role == "primary" and second.orders["s2"].position == "7"
    assert (second.group.primary, second.group.sync_set) == ("s2", frozenset({"s3"}))
    assert second.group.fenced == {"s1"}

    assert second.orders["s3"] == TakeRole(epoch=second.group.epoch, role="replica", source="@s2", acknowledge=True)

    third = decided(obeyed(second.group, DEAD), second.group)
    assert third.group.change is None
    assert third.group.epoch == second.group.epoch and set(third.orders) == {"s1"}, "the living are told nothing more"


def test_nobody_leads_before_every_member_of_the_sync_set_has_confirmed():
    group = begun()

    decision = decided(obeyed(group, DEAD, "s2"), group)

    assert decision.group == group
    assert set(decision.orders) == {"s1", "s3"}


def test_an_answer_of_an_earlier_epoch_confirms_nothing():
    group = begun()
    seen = obeyed(replace(group, epoch=group.epoch - 1), DEAD)

    assert decided(seen, group).group == group


def test_the_most_received_leads_not_the_most_executed():
    more = member("s3", received="9", executed="5", receiving=False, received_seconds=0.6)
    seen = look(STOPPED, DEAF[0], more, **REFUSED)
    group = begun(seen)

    promoted = decided(obeyed(group, seen), group).group

    assert promoted.primary == "s3"
    assert promoted.change is not None and promoted.change.position == "9"


def test_positions_that_do_not_cover_each_other_stop_it_and_page():
    seen = look(
        STOPPED, member("s2", received="8a", receiving=False), member("s3", received="8b", receiving=False), **REFUSED
    )
    group = begun(seen)
    late = replace(obeyed(group, seen), now=NOW + 5)

    decision = decided(late, group)

    assert decision.group == group
    assert any("divergence" in page.text for page in decision.pages)


def test_of_two_with_other_histories_none_leads_however_long_they_are():
    seen = look(STOPPED, DEAF[0], member("s3", received="9", receiving=False, history="own"), **REFUSED)
    group = begun(seen)
    late = replace(obeyed(group, seen), now=NOW + 5)

    decision = decided(late, group)

    assert decision.group == group
    assert any("divergence" in page.text for page in decision.pages)


def test_an_old_primary_whose_history_is_another_one_does_not_go_on():
    group = begun(look(STOPPED, *DEAF, **REFUSED))
    back = obeyed(group, look(member("s1", read_only=True), *(member(id, answers=False) for id in ("s2", "s3"))), "s1")
    back = replace(back, now=NOW + 5)
    assert decided(back, group).group.change.step is Step.GO_BACK

    other = replace(back.members["s2"], report=replace(back.members["s2"].report, epoch=group.epoch, history="own"))
    back = replace(back, members={**back.members, "s2": other})

    assert decided(back, group).group == group


def test_a_replica_that_restarted_in_the_middle_is_not_believed():
    group = begun()
    seen = obeyed(group, DEAD)
    again = replace(seen.members["s3"], report=replace(seen.members["s3"].report, started="2"))  # type: ignore[type-var]

    decision = decided(replace(seen, members={**seen.members, "s3": again}), group)

    assert decision.group == group


def test_with_the_old_primary_back_and_one_heir_gone_the_old_one_goes_on():
    group = begun()
    back = look(member("s1", read_only=True), DEAF[0], member("s3", age=9.0, connected=False), now=NOW + 5)

    decision = decided(obeyed(group, back, "s1", "s2"), group)

    assert decision.group.change is not None and decision.group.change.step is Step.GO_BACK
    assert decision.orders["s1"].role == "primary"
    done = decided(obeyed(decision.group, back, "s1"), decision.group)
    assert (done.group.primary, done.group.change, done.group.mode) == ("s1", None, Mode.SYNC)


def lost_writes() -> tuple[Group, Seen]:
    """s1 has started again without the write 7 that s2 acknowledged, and is fenced; s2 is not heard any more."""
    short = member("s1", executed="6", received="6", started="2", read_only=True)
    group = begun(look(short, member("s3", executed="6", received="6")))
    back = look(short, member("s2", age=9.0, connected=False), member("s3", executed="6", received="6"), now=NOW + 5)
    return group, obeyed(group, back, "s1", "s3")


STARTS = member("s2", answers=False, executed="", received="")


@pytest.mark.parametrize("gone", [member("s2", age=9.0, connected=False), STARTS])
def test_an_old_primary_that_lacks_what_one_had_that_is_gone_does_not_go_on(gone: Member):
    group, seen = lost_writes()
    seen = replace(seen, members={**seen.members, "s2": gone})

    decision = decided(seen, group)

    assert decision.group == group
    assert [page.rule for page in decision.pages] == ["failover waits"]


@pytest.mark.parametrize("gone", [{}, {"unheard": True}])
def test_it_does_when_nobody_else_is_left_and_somebody_allows_the_loss(gone: dict[str, Any]):
    group, seen = lost_writes()
    members = {"s1": seen.members["s1"], "s2": member("s2", age=9.0, connected=False, **gone)}
    alone = replace(seen, members=members)
    assert [page.rule for page in decided(alone, group).pages] == ["failover waits"]

    change = decided(alone, allowed_later(group)).group.change

    assert change is not None and change.step is Step.GO_BACK


def test_a_new_controller_hears_the_others_before_an_old_primary_goes_on():
    group, seen = lost_writes()

    def decision(age: float, rule: str) -> Decision:
        assert group.change is not None
        unheard = {id: member(id, unheard=True, age=age, connected=False) for id in ("s2", "s3")}
        told = replace(group, change=replace(group.change, rule=rule))
        return decided(replace(seen, members={**seen.members, **unheard}), told)

    def step(age: float, rule: str) -> Step:
        change = decision(age, rule).group.change
        assert change is not None
        return change.step

    assert step(2.9, "silence") is Step.REVOKE and decision(2.9, "silence").pages == ()
    assert step(3.0, "silence") is Step.GO_BACK
    assert step(3.0, "lost writes") is Step.REVOKE, "they have what it lacks, whether they are heard or not"
    assert [page.rule for page in decision(3.0, "lost writes").pages] == ["failover waits"]


def promoting() -> Group:
    group = begun()
    return decided(obeyed(group, DEAD), group).group


def test_a_candidate_that_dies_before_it_takes_writes_is_followed_by_the_next():
    group = promoting()
    dead = look(STOPPED, member("s2", answers=False, trouble="stopped"), DEAF[1], **REFUSED)
    seen = replace(obeyed(replace(group, epoch=group.epoch - 1), dead), now=NOW + 4)

    again = decided(seen, group).group
    assert again.change is not None and (again.change.step, again.change.old) == (Step.REVOKE, "s2")
    next_one = decided(obeyed(again, seen, "s3"), again).group

    assert next_one.primary == "s3"
    assert next_one.fenced == {"s1", "s2"}


def test_a_candidate_that_restarted_before_it_applied_all_is_followed_by_one_that_still_has_it():
    """Found by the simulation: it waited for ever for what its relay log had held."""
    group = promoting()
    forgot = member("s2", executed="6", received="6", started="2", receiving=False)
    seen = look(STOPPED, forgot, DEAF[1], **REFUSED, now=NOW + 4)

    again = decided(seen, group).group

    assert again.change is not None and again.change.step is Step.REVOKE
    assert decided(obeyed(again, seen, "s2", "s3"), again).group.primary == "s3"


def test_a_new_controller_gives_a_promoted_one_time_to_be_heard_before_it_counts_as_failed():
    """It may take writes already; only the controller that ordered it knew."""
    group = promoting()
    said = obeyed(group, DEAD).members["s3"]

    def step(age: float, **known: Any) -> Step:
        unheard = member("s2", unheard=True, connected=False, age=age, **known)
        found = decided(look(STOPPED, unheard, said, **REFUSED, now=NOW + 9), group, silent=1.0).group.change
        assert found is not None
        return found.step

    assert step(0.3) is step(2.5) is Step.PROMOTE, "an agent may try again only after two seconds"
    assert step(3.0) is Step.REVOKE
    assert step(0.3, cloud=False) is Step.REVOKE
    assert step(0.3, cut_off=True) is Step.REVOKE


def test_so_it_does_with_an_old_primary_that_goes_on():
    change = Change(
        kind="switchover", step=Step.GO_BACK, old="s1", candidate="s1", rule="asked", began=NOW - 9, step_began=NOW - 5
    )
    group = replace(SYNC, change=change)

    def step(age: float) -> Step:
        found = decided(look(member("s1", unheard=True, connected=False, age=age)), group).group.change
        assert found is not None
        return found.step

    assert step(0.3) is Step.GO_BACK
    assert step(3.0) is Step.REVOKE


def test_after_a_candidate_failed_one_that_restarted_may_be_alone_with_what_it_acknowledged_to_it():
    """It followed the candidate already, and nobody knows whether that one had begun to take writes."""
    group = promoting()
    dead = look(
        STOPPED, member("s2", answers=False), member("s3", started="2", receiving=False), **REFUSED, now=NOW + 4
    )
    again = decided(dead, group).group

    assert decided(obeyed(again, dead, "s3"), again).group == again


def test_a_loss_allowed_when_a_candidate_failed_lets_the_rest_lead_with_less():
    """Found by the simulation: it waited for the position of the one that was gone."""
    group = promoting()
    less = member("s3", executed="6", received="6", receiving=False)
    dead = look(STOPPED, member("s2", age=9.0, connected=False, cut_off=True), less, **REFUSED, now=NOW + 4)
    again = replace(decided(dead, group).group, **LOSS_ALLOWED)

    assert decided(obeyed(again, dead, "s3"), again).group.primary == "s3"
    assert decided(obeyed(again, dead, "s3"), replace(again, loss_allowed="")).group == replace(again, loss_allowed="")


def waiting(group: Group, seen: Seen) -> str:
    """The page's text of a promotion that goes on with nobody."""
    decision = decided(seen, group)
    assert decision.group == group
    (text,) = (page.text for page in decision.pages if page.rule == "promotion waits")
    return text


def allowed_later(group: Group) -> Group:
    return replace(group, **{**LOSS_ALLOWED, "loss_allowed_at": NOW + 590})


def switching() -> tuple[Group, Seen]:
    """Of s1, which has 8 as s3 has, to s2, which has received 7; s1 stood still, and then is gone for good."""
    members = [member("s1", executed="8", received="8"), member("s2"), member("s3", executed="8", received="8")]
    seen = look(*members, held=frozenset({"f1", "f2"}), wanted_primary="s2")
    freeze = decided(seen, decided(seen).group).group
    group = decided(obeyed(freeze, seen, "s1"), freeze).group
    assert group.change is not None and (group.change.step, group.change.position) == (Step.PROMOTE, "8")
    left = {id: each for id, each in obeyed(group, seen, "s3").members.items() if id != "s1"}
    return group, replace(seen, members=left, now=NOW + 600)


def test_a_loss_allowed_while_a_candidate_lacks_what_only_others_have_lets_one_of_those_lead():
    group, seen = switching()
    group = allowed_later(replace(group, sync_set=frozenset({"s1", "s3", "s4"})))

    again = decided(seen, group).group

    assert again.change is not None and (again.change.step, again.change.old) == (Step.REVOKE, "s2")
    assert decided(obeyed(again, seen, "s3"), again).group == again, "s2 is not fenced yet"
    assert decided(obeyed(again, seen, "s2", "s3"), again).group.primary == "s3"


def test_who_has_all_that_a_candidate_lacks_does_not_lead_while_the_old_primary_is_not_heard():
    """By number a replica with transactions of its own has all, too."""
    group, seen = switching()
    again = decided(seen, allowed_later(group)).group
    over = replace(again, loss_allowed="")

    assert "lacks what db3 has. Nobody else leads before s1 is heard" in waiting(group, seen)
    assert decided(obeyed(over, seen, "s2", "s3"), over).group == over
    assert decided(obeyed(again, seen, "s2", "s3"), again).group.primary == "s3"


@pytest.mark.parametrize(
    ("said", "for_seconds"), [(NOW - 1, 6000.0), (NOW + 60, 500.0), (NOW + 601, 600.0)],
    ids=["before the promotion", "for too short a time", "of a clock that was wrong"],
)  # fmt: skip
def test_a_promotion_waits_on_with_a_permission_that_was_not_given_for_it(said: float, for_seconds: float):
    group, seen = switching()
    group = replace(group, sync_set=frozenset({"s1", "s3", "s4"}), loss_allowed="Ann: now")

    assert decided(seen, replace(group, loss_allowed_at=said, loss_allowed_seconds=for_seconds)).group.change == (
        group.change
    )


def promoting_one_with_more() -> tuple[Group, Seen]:
    """s2, which has 8 and s3 only 7, fails in its promotion when somebody may have allowed a loss long ago."""
    less = member("s3", receiving=False, received_seconds=0.6)
    seen = look(STOPPED, member("s2", received="8", receiving=False, received_seconds=0.6), less, **REFUSED)
    group = begun(seen)
    group = decided(obeyed(group, seen, executed="7"), group).group
    assert group.change is not None and (group.primary, group.change.position) == ("s2", "8")
    failed = member("s2", answers=False, trouble="stopped", received="8", receiving=False, epoch=group.epoch)
    return group, look(replace(STOPPED, cut_off=True), failed, less, now=NOW + 1020)


@pytest.mark.parametrize("said", [NOW + 120, NOW + 1080], ids=["ran out", "of a clock that was wrong"])
def test_a_permission_that_ran_out_unused_in_a_promotion_counts_no_more_when_its_candidate_fails(said: float):
    group, seen = promoting_one_with_more()

    again = decided(seen, replace(group, **{**LOSS_ALLOWED, "loss_allowed_at": said}))

    assert again.group.change is not None and again.group.change.step is Step.REVOKE
    assert again.group.loss_allowed == "" and again.cut_off == set()
    cut = replace(seen, members={**seen.members, "s2": replace(seen.members["s2"], cut_off=True)})
    assert decided(obeyed(again.group, cut, "s3", executed="7"), again.group).group == again.group


def test_a_permission_that_a_failover_began_with_still_counts_when_its_candidate_fails():
    group, seen = promoting_one_with_more()

    again = decided(seen, replace(group, **LOSS_ALLOWED))

    assert again.group.loss_allowed == LOSS_ALLOWED["loss_allowed"] and again.cut_off == {"s2"}
    cut = replace(seen, members={**seen.members, "s2": replace(seen.members["s2"], cut_off=True)})
    assert decided(obeyed(again.group, cut, "s3", executed="7"), again.group).group.primary == "s3"


def test_the_page_names_who_is_waited_for():
    group, seen = switching()
    group = replace(group, sync_set=frozenset({"s1", "s3", "s4"}))

    text = waiting(group, seen)

    assert "db2 is to be the primary of shop and lacks what db3 has. " in text
    assert "Nobody else leads before s1, s4 is heard" in text and "started again" not in text


def of_two(durability: str) -> tuple[Group, Seen]:
    """s2 was to lead, and lost what it had not applied; s1 is back, fenced, with all of it."""
    two = replace(SYNC, durability=durability, sync_set=frozenset({"s2"}), starts={"s2": "1"})
    replica = member("s2", receiving=False, received_seconds=0.6, executed="5", received="8")
    stopped = replace(STOPPED, report=replace(STOPPED.report, executed="8", received="8"))
    seen = look(members={"s1": stopped, "s2": replica}, **REFUSED)
    group = begun(seen, two)
    group = decided(obeyed(group, seen, "s2", executed="5"), group).group
    assert group.change is not None and (group.primary, group.change.position) == ("s2", "8")
    crashed = member("s2", executed="5", received="5", receiving=False, started="2", epoch=group.epoch - 1)
    back = member("s1", executed="8", received="8", epoch=group.epoch, role="fenced", read_only=True)
    return group, look(members={"s1": back, "s2": crashed}, now=NOW + 600)


@pytest.mark.parametrize("durability", ["strict", "available"])
def test_of_two_the_old_primary_that_is_back_with_all_leads_again_when_somebody_allows_it(durability: str):
    group, seen = of_two(durability)
    text = waiting(group, seen)
    assert "started again and lost what it had received. db1, which is fenced, has all of it" in text

    again = decided(seen, allowed_later(group))

    assert {id: order.role for id, order in again.orders.items()} == {"s1": "revoked", "s2": "fenced"}
    assert decided(obeyed(again.group, seen, "s1"), again.group).group == again.group, "s2 is not fenced yet"
    promoted = decided(obeyed(again.group, seen, executed="5"), again.group)
    assert (promoted.group.primary, promoted.group.fenced) == ("s1", {"s2"})


@pytest.mark.parametrize(
    "said",
    [{"executed": "7", "received": "7"}, {"read_only": False}, {"answers": False}, {"epoch": 1}],
    ids=["less", "writable", "silent", "not asked"],
)
def test_an_old_primary_of_which_that_is_not_sure_stays_fenced(said: dict[str, Any]):
    group, seen = of_two("strict")
    back = replace(seen.members["s1"], report=replace(seen.members["s1"].report, **said))
    seen = replace(seen, members={**seen.members, "s1": back})

    assert "which is fenced" not in waiting(group, seen)
    assert "s1" in decided(seen, allowed_later(group)).group.fenced


def test_an_old_primary_that_is_fenced_stays_so_while_another_has_all():
    group, seen = of_two("strict")
    third = member("s3", executed="8", received="8", receiving=False)
    group = allowed_later(replace(group, sync_set=frozenset({"s3", "s4"})))
    seen = replace(seen, members={**seen.members, "s3": third})

    again = decided(seen, group).group

    assert again.change is not None and again.change.step is Step.REVOKE
    assert again.fenced == {"s1"}


def test_a_loss_allowed_while_an_old_primary_that_was_to_go_on_is_gone_lets_another_lead():
    change = Change(
        kind="switchover", step=Step.GO_BACK, old="s1", candidate="s1", rule="asked", began=NOW - 9, step_began=NOW - 5
    )
    group = replace(SYNC, mode=Mode.ASYNC, required=False, sync_set=frozenset(), change=change)
    seen = look(STOPPED, *DEAF, now=NOW + 600)
    assert "db1 is to be the primary of shop and does not answer." in waiting(group, seen)

    again = decided(seen, allowed_later(group))

    assert again.group.change is not None and again.group.change.step is Step.REVOKE and again.cut_off == {"s1"}
    cut = look(replace(STOPPED, cut_off=True), *DEAF, now=NOW + 601)
    assert decided(obeyed(again.group, cut, "s2", "s3"), again.group).group.primary == "s2"


def test_a_loss_allowed_while_a_candidate_is_stopped_by_an_error_lets_another_lead():
    group = promoting()
    stopped = member("s2", executed="6", received="7", error="1062", applying=False, receiving=False)
    seen = look(STOPPED, stopped, DEAF[1], **REFUSED, now=NOW + 600)
    assert "has not applied all it has received: 1062" in waiting(group, seen)

    again = decided(seen, allowed_later(group)).group

    assert again.change is not None and (again.change.step, again.change.old) == (Step.REVOKE, "s2")


def test_a_loss_allowed_while_a_candidate_applies_nothing_and_does_not_know_why_lets_another_lead():
    group = promoting()
    working, still = (
        look(
            STOPPED, member("s2", executed="6", received="7", receiving=False, standing=seconds), DEAF[1], **REFUSED,
            now=NOW + 600,
        )
        for seconds in (9.9, 10.0)
    )  # fmt: skip
    assert "has not applied all it has received, but is at it." in waiting(group, working)
    assert "has not applied all it has received, and nothing of it for 10 s." in waiting(group, still)
    assert "but is at it." in waiting(allowed_later(group), working)
    assert "but is at it." in waiting(group, replace(still, now=NOW + 9.9)), "before, there was nothing to apply"

    seen = still
    again = decided(seen, allowed_later(group)).group

    assert again.change is not None and (again.change.step, again.change.old) == (Step.REVOKE, "s2")


@pytest.mark.parametrize(("seconds", "cloud", "cut"), [(2.9, None, False), (3.1, None, True), (2.9, False, True)])
def test_a_fenced_old_primary_is_not_cut_off_before_a_controller_that_began_in_a_promotion_can_have_heard_it(
    seconds: float, cloud: bool | None, cut: bool
):
    group, _ = of_two("strict")
    old, candidate = (member(id, unheard=True, connected=False, age=seconds, cloud=cloud) for id in ("s1", "s2"))

    assert ("s1" in decided(look(members={"s1": old, "s2": candidate}), group).cut_off) == cut


def test_a_candidate_that_never_heard_stays_stored_as_one_that_may_acknowledge():
    """Found by the simulation: it still follows, and acknowledges to, the server that leads again."""
    frozen = replace(
        SYNC, primary="s2", sync_set=frozenset({"s1", "s3"}), starts={"s1": "1", "s3": "1"}, mode=Mode.BLOCKED,
        change=Change(
            kind="switchover", step=Step.REVOKE, old="s2", candidate=None, position="7", began=NOW, step_began=NOW,
        ),
    )  # fmt: skip
    seen = obeyed(frozen, look(member("s1", read_only=True), member("s2", epoch=4)), "s1", "s3")

    group = decided(seen, frozen).group

    assert group.primary == "s1"
    assert group.sync_set == {"s2", "s3"} and group.leaving == {"s2"}


@pytest.mark.parametrize("durability", ["available", "strict"])
def test_with_nobody_left_to_acknowledge_the_durability_decides(durability: str):
    alone = replace(SYNC, sync_set=frozenset({"s2"}), durability=durability)
    seen = replace(DEAD, members={id: DEAD.members[id] for id in ("s1", "s2")})
    group = begun(seen, alone)

    promoted = decided(obeyed(group, seen), group).group

    assert promoted.mode is (Mode.SINGLE if durability == "available" else Mode.BLOCKED)
    assert promoted.required == (durability == "strict")


def test_loss_allowed_waits_until_the_old_primary_is_fenced_or_cut_off():
    group = replace(SYNC, mode=Mode.ASYNC, required=False, sync_set=frozenset(), **LOSS_ALLOWED)
    first = decided(DEAD, group)
    assert first.cut_off == {"s1"}
    seen = obeyed(first.group, DEAD)
    assert decided(seen, first.group).group == first.group

    cut = replace(seen, members={**seen.members, "s1": replace(seen.members["s1"], cut_off=True)})
    promoted = decided(cut, first.group).group

    assert promoted.primary == "s2"
    assert decided(obeyed(promoted, cut), promoted).group.loss_allowed == ""


def test_a_permission_to_lose_writes_holds_for_its_time_only():
    forming = replace(SYNC, mode=Mode.ASYNC, required=False, sync_set=frozenset())
    allowed = replace(forming, **LOSS_ALLOWED)

    late = decided(DEAD, replace(allowed, loss_allowed_at=NOW - 601))
    of_tomorrow = decided(DEAD, replace(allowed, loss_allowed_at=NOW + 60))

    assert decided(DEAD, allowed).group.change is not None
    for over in (late, of_tomorrow):
        assert over.group == forming and over.rule == "permission over", "and no failover begins"


def test_a_permission_to_lose_writes_ends_when_the_primary_is_well():
    assert decided(look(), replace(SYNC, **LOSS_ALLOWED)).group == SYNC


def test_a_failover_that_began_with_a_permission_ends_with_it():
    allowed = replace(SYNC, mode=Mode.ASYNC, required=False, sync_set=frozenset(), **LOSS_ALLOWED)
    group = replace(decided(DEAD, allowed).group, loss_allowed_at=NOW - 700)
    cut = look(replace(STOPPED, cut_off=True), *DEAF, **REFUSED)

    promoted = decided(obeyed(group, cut), group).group

    assert promoted.primary == "s2"
    assert decided(obeyed(promoted, cut), promoted).group.loss_allowed == ""


def promoting_by_force(**said: object) -> tuple[Group, Seen]:
    """db3 is to lead although db2 has more; all have obeyed."""
    seen = look(member("s3", executed="4", received="5", **said))
    group = begin_promotion(SYNC, "s3", NOW, "Ann: db2's disk is dying", 600)
    assert {id: order.role for id, order in decided(seen, group).orders.items()} == {
        "s1": "fenced", "s2": "revoked", "s3": "revoked"
    }  # fmt: skip
    return group, obeyed(group, seen)


def test_a_named_member_leads_with_what_it_has_and_who_has_more_is_replaced():
    group, seen = promoting_by_force()

    promoted = decided(replace(seen, now=NOW + 5), group).group

    assert (promoted.primary, promoted.change.position) == ("s3", "5")
    assert promoted.fenced == {"s1", "s2"} and promoted.sync_set == frozenset()
    done = decided(obeyed(promoted, seen), promoted).group
    assert done.change is None and done.loss_allowed == "" and done.failovers == ()


def test_a_named_member_that_fails_while_it_is_promoted_is_not_waited_for():
    group = begin_promotion(SYNC, "s3", NOW, "Ann", 600)
    promoted = decided(obeyed(group, look()), group).group
    dead = obeyed(promoted, replace(look(member("s3", answers=False)), now=NOW + 5), "s1", "s2")

    again = decided(dead, promoted).group
    assert again.change.step is Step.REVOKE and again.change.forced == ""
    other = obeyed(again, look(member("s3", answers=False, cut_off=True), now=NOW + 5), "s1", "s2")
    assert decided(other, again).group.primary == "s2"


def test_a_named_member_stopped_by_an_error_leads_with_what_it_has_applied():
    group, seen = promoting_by_force(error="Duplicate entry", applying=False)

    assert decided(seen, group).group == group, "its agent starts the applier again, which may go on"
    assert decided(replace(seen, now=NOW + 5), group).group.change.position == "4"


def promoted_while_its_applier_starts_again() -> tuple[Group, Seen]:
    """The look that decided came just after its agent had started the applier again: it seems to be well."""
    group, seen = promoting_by_force()
    promoted = decided(replace(seen, now=NOW + 5), group).group
    assert promoted.change.position == "5"
    return promoted, replace(obeyed(promoted, seen, "s1", "s2"), now=NOW + 10)


def test_a_named_member_that_cannot_apply_all_it_has_received_leads_with_what_it_has_applied():
    group, seen = promoted_while_its_applier_starts_again()
    broken = member("s3", executed="4", received="5", error="Duplicate entry", applying=False, epoch=group.epoch - 1)
    broken = replace(broken, report=replace(broken.report, role="revoked"))
    seen = replace(seen, members={**seen.members, "s3": broken})

    early = decided(replace(seen, now=NOW + 6), group)
    decision = decided(seen, group)

    assert early.group == group
    assert (decision.group.change.step, decision.group.change.position) == (Step.PROMOTE, "4")
    assert decision.orders["s3"] == TakeRole(epoch=group.epoch + 1, role="primary", required=True, position="4")
    assert decided(replace(seen, now=NOW + 20), decision.group).group == decision.group
    done = decided(obeyed(decision.group, seen), decision.group).group
    assert done.change is None and done.primary == "s3"


def test_who_then_has_more_than_a_named_member_with_less_is_fenced():
    group, seen = promoted_while_its_applier_starts_again()
    group = replace(
        group, fenced=frozenset({"s1"}), sync_set=frozenset({"s2", "s4"}), starts={"s2": "1", "s4": "1"},
        mode=Mode.BLOCKED, required=True,
    )  # fmt: skip
    stopped = {"error": "Duplicate entry", "applying": False}
    members = [member("s2", executed="5", received="5"), member("s3", executed="4", received="5", **stopped)]
    members += [member("s4", executed="4", received="4"), member("s5", answers=False, executed="", received="")]
    seen = replace(look(seen.members["s1"], *members), now=NOW + 10)

    lowered = decided(seen, group).group

    assert lowered.fenced == {"s1", "s2"}
    assert lowered.sync_set == {"s2", "s4"} and lowered.leaving == {"s2"}
    assert (lowered.mode, lowered.required) == (Mode.BLOCKED, True)
    unknown = replace(group, sync_set=frozenset({"s2", "s5"}))
    assert decided(seen, unknown).group.fenced == {"s1", "s2", "s5"}, "nobody knows what it has"


@pytest.mark.parametrize("change", [{"forced": ""}, {"step": Step.GO_BACK}])
def test_nobody_else_leads_with_less_than_it_was_to_have(change: dict[str, Any]):
    group, seen = promoted_while_its_applier_starts_again()
    group = replace(group, change=replace(group.change, **change))
    broken = member("s3", executed="4", received="5", error="Duplicate entry", applying=False)
    seen = replace(seen, members={**seen.members, "s3": broken})

    decision = decided(seen, group)

    assert decision.group == group and "promotion waits" in [page.rule for page in decision.pages]


def test_nobody_is_forced_to_lead_before_the_old_primary_is_fenced():
    group, seen = promoting_by_force()
    seen = replace(seen, members={**seen.members, "s1": member("s1")})

    assert decided(seen, group).group == group
    assert decided(seen, group).cut_off == {"s1"}


def test_a_named_member_that_does_not_answer_leads_nowhere_and_the_old_primary_goes_on():
    seen = look(member("s3", answers=False))
    group = begin_promotion(SYNC, "s3", NOW, "Ann", 600)
    late = replace(obeyed(group, seen), now=NOW + 5)

    change = decided(late, group).group.change

    assert change is not None and change.step is Step.GO_BACK and change.candidate == "s1"


DEAD_TOO: dict[str, Any] = {"answers": False, "receiving": False, "trouble": "stopped", "trouble_seconds": 60.0}


def test_one_whose_server_is_dead_and_whose_agent_lives_holds_up_no_failover_that_may_lose_writes():
    """Its agent could not confirm anything, and nobody could lead."""
    group = replace(SYNC, mode=Mode.ASYNC, required=False, sync_set=frozenset(), **LOSS_ALLOWED)
    begins = look(replace(STOPPED, cut_off=True), member("s2", receiving=False), member("s3", **DEAD_TOO), **REFUSED)
    begun = decided(begins, group).group
    seen = obeyed(begun, begins, "s2")

    leads = decided(seen, begun).group

    assert leads.primary == "s2"
    soon = replace(seen, members={**seen.members, "s3": member("s3", **{**DEAD_TOO, "trouble_seconds": 0.5})})
    assert decided(soon, begun).group == begun, "it may be back at once, with more than the other has"


@pytest.mark.parametrize(
    ("named", "obey"),
    [
        (member("s3", age=9.0, connected=False), ["s2"]),
        (member("s3", **DEAD_TOO), ["s2"]),
        (replace(member("s3"), going=True), ["s2", "s3"]),
    ],
    ids=["not heard", "does not answer", "being terminated"],
)
def test_when_a_named_member_fails_before_it_leads_a_loss_that_is_allowed_again_lets_another_lead(
    named: Member, obey: list[str]
):
    """With the old primary dead nobody could lead any more, whatever a person said."""
    group = begin_promotion(SYNC, "s3", NOW, "Ann", 600)
    seen = look(replace(STOPPED, cut_off=True), named, now=NOW + 60)
    late = obeyed(group, seen, *obey)

    waits = decided(late, group)
    allowed = replace(group, loss_allowed="Ben: db3 has died too", loss_allowed_at=NOW + 50)
    named_no_more = decided(late, allowed).group
    leads = decided(late, named_no_more).group

    assert waits.group == group
    assert "`relaunch db failover` lets another lead" in waits.pages[0].text
    assert named_no_more.change is not None and named_no_more.change.forced == ""
    assert leads.change is not None and (leads.change.step, leads.primary) == (Step.PROMOTE, "s2")
    there = replace(late, members={**late.members, "s3": obeyed(group, look(), "s3").members["s3"]})
    assert decided(there, allowed).group.primary == "s3", "it was named, and is there"


@pytest.mark.parametrize(
    ("why", "group", "seen"),
    [
        ("primary already", replace(SYNC, primary="s3"), look()),
        ("being terminated", SYNC, look(replace(member("s3"), going=True))),
        ("under way", begun(), look()),
        ("ever in step", replace(SYNC, mode=Mode.FORMING), look()),
        ("is fenced", replace(SYNC, fenced=frozenset({"s3"})), look()),
        ("does not answer", SYNC, look(member("s3", answers=False))),
        ("on purpose", SYNC, look(member("s3", delayed=True))),
        ("not a member", SYNC, look(members={"s1": member("s1")})),
    ],
)
def test_what_nobody_can_force(why: str, group: Group, seen: Seen):
    assert why in refuse_promotion(group, seen, "s3")


def test_a_lagging_or_broken_replica_can_be_forced():
    for said in ({"lag_seconds": 900.0}, {"error": "x", "applying": False}):
        assert refuse_switchover(SYNC, look(member("s3", **said)), "s3") != ""
        assert refuse_promotion(SYNC, look(member("s3", **said)), "s3") == ""


def test_the_old_primary_that_returns_writable_is_fenced_and_replaced():
    group = replace(SYNC, primary="s2", sync_set=frozenset({"s3"}), starts={"s3": "1"}, fenced=frozenset({"s1"}))
    well = obeyed(group, look(member("s1", epoch=4)), "s2", "s3")

    decision = decided(well, group)
    assert decision.orders == {"s1": TakeRole(epoch=5, role="fenced")}
    assert "second writer" in [page.rule for page in decision.pages]

    fenced = decided(obeyed(group, well), group)
    assert (fenced.replace, fenced.orders) == ({"s1"}, {})
    assert decided(obeyed(group, well), replace(group, paused="restore")).replace == frozenset()


# switchover


def test_a_switchover_holds_freezes_promotes_and_keeps_the_old_one_as_a_replica():
    seen = look(wanted_primary="s3")
    drain = decided(seen)
    assert drain.hold and drain.orders == {}

    freeze = decided(replace(seen, held=seen.proxies), drain.group)
    assert freeze.orders["s1"].role == "fenced"
    frozen = obeyed(freeze.group, seen)
    promote = decided(frozen, freeze.group)
    assert promote.orders["s3"].role == "primary" and promote.orders["s3"].position == "7" and promote.hold
    epoch = promote.group.epoch
    assert promote.orders["s1"] == TakeRole(epoch=epoch, role="replica", source="@s3", acknowledge=True)

    done = decided(obeyed(promote.group, frozen), promote.group)
    assert done.orders == {} and not done.hold and done.group.fenced == frozenset()


def test_a_switchover_of_a_group_that_does_not_wait_looks_first_whether_the_candidate_has_it_all():
    """There is no way back from its promotion, as it may answer writes at once."""
    group = replace(SYNC, mode=Mode.ASYNC, required=False, sync_set=frozenset())
    change = Change(kind="switchover", step=Step.FREEZE, old="s1", candidate="s3", began=NOW, step_began=NOW)
    freeze = replace(group, change=change)
    frozen = obeyed(freeze, look())

    position = decided(frozen, freeze)
    assert position.group.change is not None and position.group.change.step is Step.FREEZE
    promote = decided(obeyed(position.group, frozen), position.group)

    assert promote.orders["s3"].role == "primary"


def test_a_switchover_is_not_given_up_before_the_candidate_is_heard_or_known_to_be_off():
    """Found by a story: a store put back into the middle of a switchover gave it up, and its candidate led already."""
    change = Change(kind="switchover", step=Step.FREEZE, old="s1", candidate="s3", began=NOW, step_began=NOW - 3)
    group = replace(SYNC, change=change)

    def step(candidate: Member) -> Step:
        found = decided(look(candidate), group).group.change
        assert found is not None
        return found.step

    unheard = member("s3", unheard=True, connected=False, age=3.0)
    soon = decided(look(replace(unheard, report_seconds=2.9)), group)
    assert soon.group == group and soon.pages == ()
    waits = decided(look(unheard), group)
    assert waits.group == group and [page.rule for page in waits.pages] == ["switchover waits"]
    assert step(replace(unheard, cloud_running=True)) is Step.FREEZE
    assert step(replace(unheard, cloud_running=False)) is Step.GO_BACK
    assert step(member("s3", age=9.0, connected=False)) is Step.GO_BACK
    gone = look(members={id: member(id) for id in ("s1", "s2")})
    assert decided(gone, group).group.change.step is Step.GO_BACK


@pytest.mark.parametrize("step", [Step.DRAIN, Step.FREEZE])
@pytest.mark.parametrize("mode", [Mode.SYNC, Mode.ASYNC])
@pytest.mark.parametrize("leaves", [{"going": True}, {"never_leads": True}])
def test_a_candidate_that_is_being_terminated_by_then_does_not_lead(step: Step, mode: Mode, leaves: dict[str, Any]):
    """It would have been ended as the primary, where commits do not wait for anybody with all that it had taken."""
    change = Change(kind="switchover", step=step, old="s1", candidate="s3", began=NOW, step_began=NOW)
    group = replace(SYNC, change=change, mode=mode, required=mode is Mode.SYNC)
    seen = look(replace(member("s3"), **leaves), held=frozenset({"f1", "f2"}))

    back = decided(obeyed(group, seen, "s1"), group).group
    done = decided(obeyed(back, seen), back).group

    assert back.change is not None and back.change.step is Step.GO_BACK and back.primary == "s1"
    assert done.change is None and done.primary == "s1"
    unheard = look(replace(member("s3", unheard=True, connected=False, age=9.0), **leaves))
    assert decided(unheard, group).group == group, "by a store that was put back it may lead already"


def given_up(group: Group = SYNC) -> tuple[Group, Seen]:
    """A switchover whose old primary was not heard any more when it was to stand still, and is not back."""
    freeze = decided(look(held=frozenset({"f1", "f2"})), decided(look(wanted_primary="s2"), group).group).group
    gone = look(GONE, *LONG_DEAF, **SILENT)
    back = decided(replace(gone, now=NOW + 3), freeze).group
    assert back.change is not None and back.change.step is Step.GO_BACK
    return back, replace(obeyed(back, gone, "s2", "s3"), now=NOW + 7)


def test_a_failover_that_grows_out_of_a_switchover_counts_like_any_other():
    group, seen = given_up(replace(SYNC, failovers=(NOW - 90_000, NOW - 50_000)))

    again = decided(seen, group).group

    assert again.change is not None and again.change.step is Step.REVOKE
    assert again.failovers == (NOW - 50_000, NOW + 7)


@pytest.mark.parametrize(
    ("held", "page"), [({"paused": "Ann: works on the disks"}, "no failover: paused"), ({}, "no failover: maintenance")]
)
def test_nor_does_it_begin_while_paused_or_in_maintenance(held: dict[str, Any], page: str):
    group, seen = given_up(replace(SYNC, **held))
    seen = replace(seen, maintenance=not held)

    waits = decided(seen, group)

    assert waits.group == group
    assert page in [each.rule for each in waits.pages]
    over = decided(replace(seen, maintenance=False), replace(group, paused="")).group
    assert over.change is not None and over.change.step is Step.REVOKE
    forced = decided(seen, replace(group, **{**LOSS_ALLOWED, "loss_allowed_at": NOW + 5})).group
    assert forced.change is not None and forced.change.step is Step.REVOKE and forced.failovers == ()
    late = decided(seen, replace(group, **{**LOSS_ALLOWED, "loss_allowed_at": NOW + 5, "loss_allowed_seconds": 1.0}))
    assert late.group == group and page in [each.rule for each in late.pages]


def test_a_switchover_while_paused_still_finds_its_way_back_from_a_slow_candidate():
    group, seen = switching()
    group = replace(group, paused="Ann: works on the disks")
    back = member("s1", executed="8", received="8", role="replica", read_only=True)

    again = decided(replace(seen, members={**seen.members, "s1": back}), group).group

    assert again.change is not None and again.change.step is Step.REVOKE and again.failovers == ()


def test_a_candidate_that_does_not_receive_all_in_time_sends_it_back():
    seen = look(wanted_primary="s3")
    freeze = decided(replace(seen, held=seen.proxies), decided(seen).group)
    frozen = obeyed(freeze.group, seen, "s1", executed="9", received="9")
    promote = decided(frozen, freeze.group)
    waiting = replace(obeyed(promote.group, frozen, "s1", "s2"), now=NOW + 1.9)
    assert decided(waiting, promote.group).group == promote.group

    revoke = decided(replace(waiting, now=NOW + 2.1), promote.group)
    assert revoke.group.change is not None and revoke.group.change.step is Step.REVOKE
    assert revoke.orders["s3"].role == "fenced" and revoke.orders["s1"].role == "revoked"
    back = decided(obeyed(revoke.group, waiting), revoke.group)

    assert back.orders["s1"].role == "primary" and back.group.fenced == {"s3"}


@pytest.mark.parametrize(
    ("why", "group", "seen", "to"),
    [
        ("not a member", SYNC, look(), "s9"),
        ("primary already", SYNC, look(), "s1"),
        ("under way", begun(), look(), "s2"),
        ("is being rebooted or started", SYNC, look(maintenance=True), "s2"),
        ("no data", replace(SYNC, initialised=False), look(), "s2"),
        ("fenced", replace(SYNC, fenced=frozenset({"s2"})), look(), "s2"),
        ("no case for a switchover", SYNC, look(STOPPED), "s2"),
        ("the disk of db1 is full", SYNC, look(member("s1", stall="disk full", write_seconds=9.0)), "s2"),
        ("does not answer", SYNC, look(member("s2", age=9.0)), "s2"),
        ("has an error: 1062", SYNC, look(member("s2", error="1062")), "s2"),
        ("delayed", SYNC, look(member("s2", delayed=True)), "s2"),
        ("does not follow", SYNC, look(member("s2", receiving=False)), "s2"),
        ("lags 3 s", SYNC, look(member("s2", lag_seconds=3.0)), "s2"),
        ("not in the sync set", replace(SYNC, sync_set=frozenset({"s3"})), look(), "s2"),
    ],
)
def test_a_switchover_is_refused_with_the_reason(why: str, group: Group, seen: Seen, to: str):
    assert why in refuse_switchover(group, seen, to)
    assert refuse_switchover(SYNC, look(), "s2") == ""


# acknowledgements that got lost

STUCK = member("s1", stall="no acknowledgement", write_seconds=2.5, executed="9")


def test_commits_that_wait_although_a_replica_has_them_are_released():
    seen = look(STUCK, member("s2", executed="8", received="9"), member("s3", acknowledging=False))

    orders = decided(seen).orders

    assert orders["s1"] == TakeRole(epoch=SYNC.epoch, role="primary", required=True, release="9")


@pytest.mark.parametrize(
    "replica",
    [
        member("s2", received="8"),
        member("s2", received="9", receiving=False),
        member("s2", received="9", acknowledging=False),
        member("s2", received="9", started="2"),
        member("s2", received="9", source="@s3"),
    ],
    ids=["has less", "does not receive", "does not acknowledge", "has started again", "follows another"],
)
def test_nothing_is_released_that_no_replica_would_have_acknowledged(replica: Member):
    decision = decided(look(STUCK, replica))

    assert "s1" not in decision.orders or not decision.orders["s1"].release


def test_an_acknowledgement_that_may_still_come_is_waited_for():
    stuck = member("s1", stall="no acknowledgement", write_seconds=1.0, executed="9")

    assert "s1" not in decided(look(stuck, member("s2", received="9"))).orders


def test_while_paused_no_replica_is_replaced():
    gone = member("s3", age=60.0, connected=False)
    steady = replace(SYNC, sync_set=frozenset({"s2"}), starts={"s2": "1"}, promoted=NOW - 1000)

    assert decided(look(gone), steady).cut_off == {"s3"}
    assert decided(look(gone), replace(steady, paused="Ann: at work on db3")).cut_off == frozenset()


def test_while_the_primary_is_being_ended_no_replica_is_cut_off_nor_replaced():
    """Found by the simulation: the last copy was, one moment before the primary had ended."""
    gone, leaves = member("s3", age=60.0, connected=False), replace(member("s1"), going=True)
    steady = replace(SYNC, sync_set=frozenset({"s2"}), starts={"s2": "1"}, promoted=NOW - 1000)
    assert decided(look(gone), steady).cut_off == {"s3"}
    assert decided(look(gone, leaves), steady).cut_off == frozenset()

    fenced = replace(steady, fenced=frozenset({"s3"}))
    obeys = member("s3", role="fenced", source="", receiving=False, acknowledging=False)
    assert decided(look(obeys), fenced).replace == {"s3"}
    assert decided(look(obeys, leaves), fenced).replace == frozenset()


def test_of_two_that_could_lead_one_in_the_old_primarys_zone_does_and_then_the_first_of_the_file():
    def leads(*, zones: tuple[str, str], ranks: tuple[int, int]) -> str | None:
        members = {id: replace(DEAD.members[id], zone="a") for id in ("s1",)}
        for id, zone, rank in zip(("s2", "s3"), zones, ranks, strict=True):
            members[id] = replace(DEAD.members[id], zone=zone, rank=rank)
        seen = replace(DEAD, members=members)
        group = begun(seen)
        return decided(obeyed(group, seen), group).group.primary

    assert leads(zones=("b", "a"), ranks=(1, 2)) == "s3"
    assert leads(zones=("a", "a"), ranks=(2, 1)) == "s3"
    assert leads(zones=("a", "a"), ranks=(1, 2)) == "s2"


def test_one_that_is_never_to_lead_is_not_switched_to():
    seen = look(replace(member("s3"), never_leads=True))

    assert "never_primary" in refuse_switchover(replace(SYNC, sync_set=frozenset({"s2", "s3"})), seen, "s3")


def test_a_switchover_lets_open_transactions_end_and_a_failover_cuts_at_once():
    held = look(wanted_primary="s3", held=frozenset({"f1", "f2"}))
    group = decided(held).group

    frozen = decided(held, group)

    assert frozen.group.change is not None and frozen.group.change.step is Step.FREEZE
    assert 0 < frozen.orders["s1"].grace <= 0.2
    assert decided(DEAD).orders["s1"].grace == 0


@pytest.mark.parametrize(("seconds", "told"), [(59.0, False), (61.0, True)])
def test_that_writes_are_on_the_primary_alone_for_a_minute_is_a_page(seconds: float, told: bool) -> None:
    group = replace(
        SYNC, durability="available", mode=Mode.ASYNC, reason="db2 is not in step yet", required=False,
        sync_set=frozenset(), since=NOW - seconds,
    )  # fmt: skip
    seen = look(*(member(id, executed="3", received="3", receiving=False) for id in ("s2", "s3")))

    pages = {page.rule: page.text for page in decided(seen, group).pages}

    assert ("one copy only" in pages) is told
    assert not told or "on the primary alone" in pages["one copy only"]


@pytest.mark.parametrize(("fenced", "told"), [({"s2"}, True), (set(), False)])
def test_so_is_that_the_only_other_one_is_fenced_and_not_replaced(fenced: set[str], told: bool) -> None:
    group = replace(
        SYNC, durability="available", mode=Mode.SINGLE, reason="no other member", required=False,
        sync_set=frozenset(), fenced=frozenset(fenced), since=NOW - 61,
    )  # fmt: skip
    seen = look(member("s1", executed="3"))
    seen = replace(seen, members={id: each for id, each in seen.members.items() if id in {"s1", *fenced}})

    decision = decided(seen, group)

    assert decision.group.mode is Mode.SINGLE and decision.group.since == group.since
    assert ("one copy only" in {page.rule for page in decision.pages}) is told


def test_a_group_on_one_copy_is_so_since_it_began_whatever_that_is_called() -> None:
    group = replace(
        SYNC, durability="available", mode=Mode.ASYNC, reason="", required=False, sync_set=frozenset(),
        fenced=frozenset({"s2"}), since=NOW - 40,
    )  # fmt: skip
    seen = look()
    seen = replace(seen, members={id: each for id, each in seen.members.items() if id != "s3"})

    renamed = decided(seen, group).group

    assert (renamed.mode, renamed.since) == (Mode.SINGLE, NOW - 40)
