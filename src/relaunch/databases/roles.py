"""Which role each member is to have: follows from the stored group alone, so it is the same after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from relaunch.bus.messages import DatabaseReport, TakeRole
from relaunch.databases.group import Group, Member, Seen, Step

GRACE_SECONDS = 0.1  # a switchover's, for transactions that are open; others write meanwhile
# Steps in which replicas follow the group's primary: as before, or the new one already, so that no write of it waits
# for them when it begins.
FOLLOWING = frozenset({Step.DRAIN, Step.FREEZE, Step.PROMOTE, Step.GO_BACK})


def wanted_roles(group: Group, members: Mapping[str, Member]) -> dict[str, TakeRole]:
    """By member's id. A group without data orders its primary only."""
    if group.primary is None:
        return {}
    primary = members.get(group.primary)
    source = primary.address if primary else ""
    orders = {}
    for id in members:
        order = _wanted(group, id, source)
        if order is not None:
            orders[id] = order
    return orders


def _wanted(group: Group, id: str, source: str) -> TakeRole | None:
    change, epoch = group.change, group.epoch
    if id in group.fenced:
        return TakeRole(epoch=epoch, role="fenced")
    if id == group.primary:
        if change is not None and change.step in (Step.REVOKE, Step.FREEZE):
            return TakeRole(epoch=epoch, role="fenced", grace=GRACE_SECONDS if change.step is Step.FREEZE else 0.0)
        position = change.position if change is not None and change.step in (Step.PROMOTE, Step.GO_BACK) else ""
        return TakeRole(epoch=epoch, role="primary", required=group.required, position=position)
    if not group.initialised:
        return None
    if change is not None and change.step not in FOLLOWING:
        return TakeRole(epoch=epoch, role="fenced" if id == change.old else "revoked")
    if not source:
        return None
    acknowledge = id in group.sync_set and id not in group.leaving
    return TakeRole(epoch=epoch, role="replica", source=source, acknowledge=acknowledge)


def satisfied(report: DatabaseReport | None, order: TakeRole) -> bool:
    """Whether the server is, as its agent says, what the order wants it to be."""
    if report is None or report.epoch != order.epoch or report.role != order.role:
        return False
    if order.role == "primary":
        return report.answers and not report.read_only and report.required == order.required
    if order.role == "replica":
        return report.read_only and report.source == order.source and report.acknowledging == order.acknowledge
    return report.read_only and not report.receiving


def due_orders(group: Group, seen: Seen) -> dict[str, TakeRole]:
    """Orders for those whose agent can be reached and who are not yet what they should be."""
    return {
        id: order
        for id, order in wanted_roles(group, seen.members).items()
        if seen.members[id].connected and not satisfied(seen.members[id].report, order)
    }


def one_order_per_epoch(old: Group, new: Group, members: Mapping[str, Member]) -> Group:
    """`new`, at a higher epoch if any member's order would else differ from the one it has at this epoch."""
    if new.epoch != old.epoch or _to_be(old, members) == _to_be(new, members):
        return new
    return replace(new, epoch=old.epoch + 1)


def _to_be(group: Group, members: Mapping[str, Member]) -> dict[str, TakeRole]:
    """Without the position a new primary is to reach first: once it has, the order without it is the same."""
    return {id: replace(order, position="") for id, order in wanted_roles(group, members).items()}
