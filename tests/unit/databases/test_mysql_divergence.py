"""A replica of MySQL with transactions its primary never had: it leaves and is replaced, and nobody else ever is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from looks import LOSS_ALLOWED, REFUSED, SYNC, look, member, obeyed

from relaunch.databases.case import Case
from relaunch.databases.evidence import gather
from relaunch.databases.failover import decide
from relaunch.databases.group import Decision, Group, Mode, Seen, Step, Windows
from relaunch.databases.positions import covers, parted
from relaunch.databases.rules import LOST_WRITES, judged

UUID = {number: f"0000000{number}-71ca-11e1-9e33-c80aa9429562" for number in (1, 2, 3, 4)}
OWN = f"{UUID[3]}:1"
NUMBERS = [(90, 90), (90, 80), (90, 95)]  # up to which of the primary's own writes it, and db3, say that they have


def has(number: int, own: str = "", **said: Any) -> dict[str, Any]:
    position = f"{UUID[1]}:1-{number}{f',{own}' if own else ''}"
    return {"dialect": "mysql", "executed": position, "received": position, **said}


def of_mysql(primary: int, replica: int, own: str = "", **of_primary: Any) -> Seen:
    """db1 leads; db3 has what is its own besides."""
    return look(
        member("s1", **has(primary, history=f"{UUID[1]} writes") | of_primary),
        member("s2", **has(primary, history=UUID[2])),
        member("s3", **has(replica, own, history=UUID[3])),
    )


def decided(seen: Seen, group: Group = SYNC) -> Decision:
    return decide(group, seen, Windows(), covers(seen), parted(seen))


@pytest.mark.parametrize(("primary", "replica"), NUMBERS)
def test_a_replica_with_writes_of_its_own_leaves_whosever_word_is_newer(primary: int, replica: int):
    seen = of_mysql(primary, replica, OWN)

    decision = decided(seen)
    assert decision.group.leaving == {"s3"} and "divergence" in {page.rule for page in decision.pages}
    quiet = member("s3", **has(replica, OWN, history=UUID[3]), acknowledging=False, epoch=decision.group.epoch)
    seen = obeyed(decision.group, replace(seen, members={**seen.members, "s3": quiet}))
    left = decided(seen, decision.group).group
    out = decided(obeyed(left, seen), left).group
    assert out.sync_set == {"s2"}
    fenced = decided(obeyed(out, seen), out).group
    assert fenced.fenced == {"s3"} and fenced.sync_set == {"s2"}
    assert decided(obeyed(fenced, seen), fenced).replace == {"s3"}


@pytest.mark.parametrize(("primary", "replica"), NUMBERS)
@pytest.mark.parametrize("own", ["", f"{UUID[3]}:relaunch_prompt:1-3"])
def test_a_replica_without_is_left_alone_whosever_word_is_newer(primary: int, replica: int, own: str):
    decision = decided(of_mysql(primary, replica, own))

    assert (decision.group, decision.orders) == (SYNC, {})


def test_a_former_primary_is_left_alone():
    """db3 led before, and everybody has what it wrote; its word is older, or newer, than the primary's."""
    own = f"{UUID[3]}:1-50"
    for primary, replica in NUMBERS:
        seen = of_mysql(primary, replica, own)
        members = {id: replace(each, report=replace(each.report, executed=f"{each.report.executed},{own}"))
                   for id, each in seen.members.items() if each.report is not None and id != "s3"}  # fmt: skip
        decision = decided(replace(seen, members={**seen.members, **members}))

        assert (decision.group, decision.orders) == (SYNC, {})


def test_it_does_not_join_again():
    group = replace(SYNC, sync_set=frozenset({"s2"}), starts={"s2": "1"})
    for primary, replica in NUMBERS:
        assert decided(of_mysql(primary, replica, OWN), group).group.sync_set == {"s2"}


def of_former(number: int, own: str = "", **said: Any) -> dict[str, Any]:
    """Up to which of the writes of a primary that is no more one says that it has them; `own`: of those since."""
    position = f"{UUID[4]}:1-{number}{f',{own}' if own else ''}"
    return {"dialect": "mysql", "executed": position, "received": position, **said}


ASYNC = replace(SYNC, durability="available", mode=Mode.ASYNC, required=False, sync_set=frozenset(), starts={})


def settled(seen: Seen, group: Group) -> tuple[Group, set[str]]:
    """After all has been decided and obeyed; who was in the sync set on the way."""
    joined: set[str] = set()
    for _ in range(12):
        group = decided(seen, group).group
        seen, joined = obeyed(group, seen), joined | group.sync_set
    return group, joined


@pytest.mark.parametrize("own", [9, 8, 12])
def test_one_with_what_only_a_former_primary_had_does_not_join_and_is_replaced(own: int):
    """db3 was away when db1 was chosen, and has what db4, whose instance is gone, had sent to it alone."""
    leads = {"history": f"{UUID[1]} writes", "required": False, "acknowledgers": []}
    seen = look(
        member("s1", **of_former(100, f"{UUID[1]}:1-9", **leads)),
        member("s2", **of_former(100, f"{UUID[1]}:1-9", history=UUID[2], acknowledging=False)),
        member("s3", **of_former(105, f"{UUID[1]}:1-{own}", history=UUID[3], acknowledging=False)),
    )
    assert "divergence" in {page.rule for page in decided(seen, ASYNC).pages}

    group, joined = settled(seen, ASYNC)

    assert joined == {"s2"} and group.fenced == {"s3"}
    assert decided(obeyed(group, seen), group).replace == {"s3"}


@pytest.mark.parametrize(("number", "is_whole"), [(100, True), (95, True), (105, False)])
def test_one_that_was_not_heard_while_a_loss_was_allowed_is_judged_by_what_it_has(number: int, is_whole: bool):
    """It is not fenced unheard: one copy less, when there are few."""
    heir = member("s2", **of_former(100, history=UUID[2], receiving=False, received_seconds=0.6))
    away = member("s3", **of_former(number, history=UUID[3]), age=9.0, connected=False)
    dead = member("s1", **of_former(105, history=UUID[1], answers=False, trouble="stopped"), cut_off=True)
    seen = look(dead, heir, away, **REFUSED)
    begun = decided(seen, replace(ASYNC, **LOSS_ALLOWED)).group
    promoted = decided(obeyed(begun, seen, "s2"), begun).group
    assert promoted.primary == "s2" and promoted.fenced == {"s1"}

    new = {"role": "primary", "read_only": False, "history": f"{UUID[2]} writes", "source": "", "receiving": False}
    leads = member("s2", **of_former(100, f"{UUID[2]}:1-9", **new, epoch=promoted.epoch, write_seconds=0.3))
    back = member("s3", **of_former(number, f"{UUID[2]}:1-9", history=UUID[3], source="@s2", epoch=promoted.epoch))
    group, joined = settled(look(dead, leads, back), promoted)

    assert group.change is None and group.loss_allowed == ""
    assert (joined, group.fenced) == (({"s3"}, {"s1"}) if is_whole else (set(), {"s1", "s3"}))


def test_the_primary_that_starts_again_goes_on_unless_it_may_have_lost_writes():
    """With something that db3 lacks it has lost nothing: what db3 has besides is db3's own. Else nobody knows that."""
    read_only = {"read_only": True, "history": UUID[1]}
    for replica, own, rule in ((89, OWN, "started again"), (90, OWN, LOST_WRITES), (91, OWN, LOST_WRITES)):
        seen = of_mysql(90, replica, own, **read_only)
        case = Case(
            group=SYNC, seen=seen, windows=Windows(), position_covers=covers(seen), histories_parted=parted(seen)
        )
        assert judged(gather(case)).name == rule


def test_one_agent_that_has_not_reached_its_server_does_not_keep_the_others_from_a_failover():
    """db3's machine has started, and its server has not: its agent does not know yet what that is."""
    away: dict[str, Any] = {"answers": False, "trouble": "stopped", "trouble_seconds": 9.0, "acknowledging": False}
    away |= {"receiving": False, "received_seconds": 9.0, "executed": "", "received": "", "started": ""}
    nothing = member("s3", **away)
    seen = of_mysql(90, 90, acknowledgers=["@s2"])
    seen = replace(seen, members={**seen.members, "s3": nothing})
    leaving = decided(seen)
    assert leaving.group.leaving == {"s3"}

    seen = obeyed(leaving.group, seen, "s1", "s2")
    silent = replace(nothing, report=replace(nothing.report, epoch=leaving.group.epoch))  # type: ignore[type-var]
    seen = replace(seen, members={**seen.members, "s3": silent})
    left = decided(seen, leaving.group).group
    assert left.left == {"s3"}
    removed = decided(obeyed(left, seen, "s1", "s2"), left).group
    assert removed.sync_set == {"s2"}

    dead = member("s1", **has(90), answers=False, trouble="stopped", trouble_seconds=0.5)
    heir = member("s2", **has(90, history=UUID[2]), receiving=False, received_seconds=0.6, epoch=removed.epoch)
    seen = look(dead, heir, nothing, **REFUSED)
    begun = decided(seen, removed).group
    assert begun.change is not None and begun.change.step is Step.REVOKE
    promoted = decided(obeyed(begun, seen), begun).group
    assert promoted.primary == "s2"
