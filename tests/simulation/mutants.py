"""Each rule of decisions/0007-failover.md broken on purpose: a simulation that does not notice is worth nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from scripted import (
    a_loss_is_allowed_while_a_candidate_applies_nothing,
    a_store_is_put_back_into_a_switchover,
    one_that_acknowledged_to_a_failed_candidate_is_away,
    one_that_is_not_told_acknowledges_on_to_a_failed_candidate,
    the_heir_of_a_failed_candidate_restarts,
    the_old_primary_is_heard_a_second_after_others,
)
from simulated import Physics

from relaunch.databases import change, failover, membership, roles, rules
from relaunch.databases.case import Case
from relaunch.databases.group import Group, Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """`rule`: its number in the decision record. `patches`: (module, name, what stands there instead)."""

    rule: int
    story: str  # one that notices it
    name: str
    scripted: Callable[[Physics], object] | None = None  # instead of that story: too rare to be invented
    patches: tuple[tuple[Any, str, Any], ...] = ()
    physics: Callable[[], Physics] = Physics

    @contextmanager
    def at_work(self) -> Iterator[Physics]:
        before = [(module, name, getattr(module, name)) for module, name, _ in self.patches]
        for module, name, instead in self.patches:
            setattr(module, name, instead)
        try:
            yield self.physics()
        finally:
            for module, name, was in before:
                setattr(module, name, was)


def _everybody_acknowledges(*args: Any) -> Any:
    order = _WANTED(*args)
    return replace(order, acknowledge=True) if order is not None and order.role == "replica" else order


def _taken_out_at_once(case: Case) -> Group | None:
    group = case.group
    gone = group.leaving - group.left
    return replace(group, left=group.left | gone) if gone else None


def _removed_unproven(case: Case) -> Group | None:
    return _REMOVE(replace(case, group=replace(case.group, mode=Mode.ASYNC))) and replace(
        case.group, sync_set=case.group.sync_set - case.group.left, leaving=frozenset(), left=frozenset()
    )


def _sync_at_once(case: Case) -> Group | None:
    if case.group.mode is Mode.SYNC or not membership.active(case):
        return None
    return replace(case.group, mode=Mode.SYNC, since=case.seen.now)


def _transitions(name: str, instead: Any) -> tuple[Any, ...]:
    return tuple(replace(each, made=instead) if each.name == name else each for each in membership.TRANSITIONS)


def _without(*names: str) -> tuple[Any, ...]:
    return tuple(each for each in rules.PERMISSION if each.name not in names)


def _forming_is_enough() -> tuple[Any, ...]:
    """Only what is not sync and not forming is refused."""
    degraded = next(each for each in rules.PERMISSION if each.name == "replication was degraded")
    late = replace(degraded, holds=lambda case: case.group.mode not in (Mode.SYNC, Mode.FORMING))
    return (late, *_without("no data yet", "replication was degraded"))


def _heard_are_enough(case: Case, change_: Any) -> str:
    heirs = case.group.sync_set - {change_.old}
    silent = {id for id in heirs if case.word(id) is not None and not change._is_revoked(case, id)}
    return "some" if silent or not any(case.word(id) for id in heirs) else ""


def _old_not_asked(case: Case, change_: Any) -> str:
    heirs = {id for id in change._others(case, change_) if case.word(id) is not None}
    return "some" if {id for id in heirs if not change._is_revoked(case, id)} else ""


def _failed_candidate_forgiven(case: Case, change_: Any) -> str:
    said = _NOT_REVOKED(case, change_)
    return "" if change_.candidate is not None and said.endswith("may lack acknowledged writes") else said


def _those_heard_after_a_candidate(case: Case, change_: Any) -> str:
    heirs = {id for id in case.group.sync_set - {change_.old} if case.word(id) is not None}
    failed_again = change_.candidate is not None and heirs
    return "" if failed_again and all(change._is_revoked(case, id) for id in heirs) else _NOT_REVOKED(case, change_)


def _heirs_not_asked_again(case: Case, change_: Any) -> str:
    return "" if change_.candidate is not None else _NOT_REVOKED(case, change_)


def _without_position(*args: Any) -> Any:
    order = _WANTED(*args)
    return replace(order, position="") if order is not None else order


_WANTED, _REMOVE, _NOT_REVOKED = roles._wanted, membership._remove, change._not_revoked

MUTANTS: tuple[Mutant, ...] = (
    Mutant(story="0", rule=1, name="every replica acknowledges, stored or not",
           patches=((roles, "_wanted", _everybody_acknowledges),)),
    Mutant(story="21", rule=1, name="one is taken out before it has confirmed",
           patches=((membership, "TRANSITIONS", _transitions("replica left", _taken_out_at_once)),)),
    Mutant(story="145", rule=1, name="one is taken out before the others have what it may be alone with",
           patches=((membership, "TRANSITIONS", _transitions("replica removed", _removed_unproven)),)),
    Mutant(story="0", rule=2, name="mode sync is stored before the primary waits",
           patches=((membership, "TRANSITIONS", _transitions("in step", _sync_at_once)),)),
    Mutant(story="0", rule=2, name="orders are given before the group is stored",
           physics=lambda: Physics(stores_first=False)),
    Mutant(story="13", rule=3, name="nobody is waited for",
           patches=((change, "_not_revoked", lambda *_: ""),)),
    Mutant(story="13", rule=3, name="those heard are enough",
           patches=((change, "_not_revoked", _heard_are_enough),
                    (rules, "PERMISSION", _without("not all are heard")))),
    Mutant(story="16", rule=3, name="a restarted replica is believed",
           patches=((Case, "remembers", lambda *_: True),)),
    Mutant(story="431", rule=3, name="a replica that restarted after the candidate failed is believed",
           scripted=the_heir_of_a_failed_candidate_restarts,
           patches=((change, "_not_revoked", _failed_candidate_forgiven),)),
    Mutant(story="2", rule=3, name="after a failed candidate those heard are enough",
           scripted=one_that_acknowledged_to_a_failed_candidate_is_away,
           patches=((change, "_not_revoked", _those_heard_after_a_candidate),)),
    Mutant(story="2", rule=3, name="after a failed candidate nobody is waited for",
           scripted=one_that_is_not_told_acknowledges_on_to_a_failed_candidate,
           patches=((change, "_not_revoked", _heirs_not_asked_again),
                    (change, "_is_revoked", lambda case, id: case.member(id).report is not None),
                    (Case, "obeyed", lambda case, id: case.member(id).report))),
    Mutant(story="2", rule=5, name="a loss that is allowed takes no promotion from its candidate",
           scripted=a_loss_is_allowed_while_a_candidate_applies_nothing,
           patches=((change, "_allowed_since", lambda *_: False),)),
    Mutant(story="2", rule=5, name="an old primary is cut off before a controller can have heard it",
           scripted=the_old_primary_is_heard_a_second_after_others,
           patches=((Case, "may_yet_be_heard", lambda *_: False),)),
    Mutant(story="0", rule=3, name="an agent obeys an older epoch", physics=lambda: Physics(agents_refuse_older=False)),
    Mutant(story="83", rule=4, name="the most executed leads",
           patches=((change, "everything", lambda report, _: report.executed),)),
    Mutant(story="15", rule=4, name="promoted before all is applied",
           patches=((roles, "_wanted", _without_position),)),
    Mutant(story="21", rule=5, name="failover in any mode",
           patches=((rules, "PERMISSION", _without("replication was degraded", "no data yet")),
                    (change, "_durable", lambda *_: True))),
    Mutant(story="13", rule=5, name="loss allowed, and the old primary not fenced first",
           patches=((change, "_not_revoked", _old_not_asked),)),
    Mutant(story="0", rule=6, name="a server starts writable", physics=lambda: Physics(starts_read_only=False)),
    Mutant(story="64", rule=7, name="failover while forming",
           patches=((rules, "PERMISSION", _forming_is_enough()),
                    (change, "_durable", lambda *_: True))),
    Mutant(story="191", rule=1, name="one that is being terminated counts as gone",
           physics=lambda: Physics(forgets_the_going=True)),
    Mutant(story="6", rule=8, name="an older copy of the store is obeyed",
           patches=((failover, "is_overtaken", lambda _: False),)),
    Mutant(story="7001-1920", rule=8, name="a switchover is given up before its candidate is heard",
           scripted=a_store_is_put_back_into_a_switchover,
           patches=((change, "_accounted_for", lambda *_: True),)),
)  # fmt: skip
