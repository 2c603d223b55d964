"""The HTTP API of database groups: who is the primary and how well, and what people may order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from relaunch.databases.case import Case
from relaunch.databases.failover import is_well, refuse_promotion, refuse_switchover
from relaunch.databases.group import PRESETS, Group, Member, Page, Seen
from relaunch.databases.overtaken import is_overtaken, known_again, why_not_known, why_not_newest
from relaunch.databases.positions import covers
from relaunch.databases.store import GroupStore, StoredGroup
from relaunch.databases.watch import DatabaseWatch
from relaunch.errors import BadInput, Conflict, NeedsConfirmation, NotFound
from relaunch.servers.exclusion import refuse_beside
from relaunch.servers.orders import Orders
from relaunch.servers.store import new_id
from relaunch.workflows.tasks import Asked

router = APIRouter(tags=["databases"])
SILENT_SECONDS = 3.0  # an agent reports twice a second: what one said longer ago is not how its server is


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SwitchoverAsked(_Body):
    """`to`: the server that is to be the primary; without it the only replica that can be."""

    to: str | None = None


class PromotionAsked(_Body):
    """`force`: the server's name once more, when what only others have may be lost; then `reason` says why."""

    to: str
    force: str = ""
    reason: str = Field(default="", max_length=500)


class Reason(_Body):
    reason: str = Field(min_length=3, max_length=500)


class LossAllowed(Reason):
    minutes: int = Field(default=10, ge=1, le=1440)


class Adoption(Reason):
    """`primary`: the server that has the newest data, and is to lead; `loss_allowed`: though it may not have it."""

    primary: str
    loss_allowed: bool = False


@router.get("/databases")
async def list_databases(request: Request) -> dict[str, Any]:
    """All groups, with what is seen of them now."""
    watch = _watch(request)
    names = sorted(each.deployment for each in GroupStore(request.app.state.ports.database).groups())
    return {"databases": [shown(watch, stored) for name in names if (stored := watch.group(name)) is not None]}


@router.get("/databases/{deployment}")
async def show_database(request: Request, deployment: str) -> dict[str, Any]:
    """One group: mode, members with roles and positions, an unfinished change, and what a person should know."""
    stored, watch = _group(request, deployment), _watch(request)
    return shown(watch, stored, watch.besides(stored))


@router.post("/databases/{deployment}/switchover", status_code=202)
async def switch_over(request: Request, deployment: str, asked: SwitchoverAsked) -> dict[str, Any]:
    """Make another server the primary; refused with the reason while that would lose writes or stop them for long."""
    request.state.action = "switchover"
    stored, watch = _group(request, deployment), _watch(request)
    seen = watch.seen_now(stored)
    to = _candidate(stored, asked.to)
    if to == stored.group.primary:
        raise Conflict(f"{stored.members[to].server} is the primary already")
    why_not = refuse_switchover(stored.group, seen, to)
    if why_not:
        raise Conflict(f"no switchover to {stored.members[to].server}: {why_not}")
    _refuse_busy(request, deployment)
    return await _switch_over(request, stored, to)


@router.post("/databases/{deployment}/promote", status_code=202)
async def promote(request: Request, deployment: str, asked: PromotionAsked) -> dict[str, Any]:
    """Make this server the primary: by a switchover where that loses nothing, else refused with the reason. Forced by
    its name it leads with what it has; the old primary is fenced or cut off first, and set aside with its data."""
    request.state.action = "promote"
    stored, watch = _group(request, deployment), _watch(request)
    to = _candidate(stored, asked.to)
    name, server, seen = stored.members[to].name, stored.members[to].server, watch.seen_now(stored)
    why_not, forced = refuse_switchover(stored.group, seen, to), asked.force in (name, server)
    if not why_not:
        if not forced:
            _refuse_busy(request, deployment)
        return await _switch_over(request, stored, to)
    never = refuse_promotion(stored.group, seen, to)
    if never:
        raise Conflict(f"{server} cannot be the primary: {never}")
    if not forced:
        raise NeedsConfirmation(
            f"{server} is not promoted: {why_not}",
            hint=f"what only others have is lost when you say --force {name} --reason 'WHY'",
        )
    if len(asked.reason) < 3:
        raise BadInput("say why what only others have may be lost", hint="--reason 'WHY': it is kept, with your name")
    request.state.action = "promote with loss"
    return await _switch_over(request, stored, to, force=asked.reason)


@router.post("/databases/{deployment}/failover")
async def allow_failover(request: Request, deployment: str, asked: LossAllowed) -> dict[str, Any]:
    """Allow one failover to lose what no replica has. It begins once the primary is found failed; the permission ends
    with it, after `minutes`, or when the primary is found well."""
    request.state.action = "allow failover with loss"
    stored, watch = _group(request, deployment), _watch(request)
    if is_well(watch.decisions.get(deployment)):
        raise Conflict(
            f"the primary of {deployment} is well: nothing has to be lost",
            hint=f"to make another server the primary: relaunch db switchover {deployment} --to SERVER",
        )
    return _change(
        request,
        deployment,
        loss_allowed=f"{_who(request)}: {asked.reason}",
        loss_allowed_at=watch.seen_now(stored).now,
        loss_allowed_seconds=asked.minutes * 60.0,
    )


@router.post("/databases/{deployment}/adopt")
async def adopt(request: Request, deployment: str, asked: Adoption) -> dict[str, Any]:
    """Say who leads, when the controller's store is an older copy than what the servers have obeyed. Members that are
    not heard are fenced, cut off and replaced: what only these have is kept aside, not in the group."""
    request.state.action = "adopt database group"
    stored, watch = _group(request, deployment), _watch(request)
    seen = watch.seen_now(stored)
    case = Case(group=stored.group, seen=seen, windows=PRESETS[stored.preset], position_covers=covers(seen))
    if not is_overtaken(case):
        raise Conflict(f"the store knows the group of {deployment} as its servers do: nothing is to be adopted")
    leads = _candidate(stored, asked.primary)
    why_not = why_not_known(case, leads)
    if why_not:
        raise Conflict(f"{stored.members[leads].server} cannot lead: {why_not}")
    older = why_not_newest(case, leads)
    if older and not asked.loss_allowed:
        raise Conflict(older, hint="see first that nobody has; then `relaunch db adopt … --allow-data-loss`")
    group = replace(known_again(case, leads), reason=f"{_who(request)}: {asked.reason}")
    GroupStore(request.app.state.ports.database).put(stored, group)
    watch.poke()
    return shown(watch, _group(request, deployment))


@router.post("/databases/{deployment}/pause")
async def pause(request: Request, deployment: str, asked: Reason) -> dict[str, Any]:
    """No automatic failover until `resume`: somebody works on the servers."""
    request.state.action = "pause failover"
    return _change(request, deployment, paused=f"{_who(request)}: {asked.reason}")


@router.post("/databases/{deployment}/resume")
async def resume(request: Request, deployment: str) -> dict[str, Any]:
    """Automatic failover again, with a fresh budget."""
    request.state.action = "resume failover"
    return _change(request, deployment, paused="", loss_allowed="", failovers=())


def shown(watch: DatabaseWatch, stored: StoredGroup, besides: Sequence[Page] = ()) -> dict[str, Any]:
    """Plain; members in the order of their names. besides: what is to be known besides what the watch sees."""
    group, seen = stored.group, watch.seen_now(stored)
    decision = watch.decisions.get(stored.deployment)
    return {
        "deployment": stored.deployment,
        "group": group.name,
        "epoch": group.epoch,
        "durability": group.durability,
        "mode": str(group.mode),
        "reason": group.reason,
        "primary": _name(stored, group.primary),
        "initialised": group.initialised,
        "sync_set": sorted(_name(stored, each) or each for each in group.sync_set),
        "change": _change_shown(stored, group),
        "paused": group.paused,
        "loss_allowed": group.loss_allowed,
        "loss_allowed_until": _until(group),
        "failovers_last_day": len(group.failovers),
        "rule": decision.rule if decision else "",
        "why": decision.why if decision else "",
        "pages": [dataclasses.asdict(page) for page in (*(decision.pages if decision else ()), *besides)],
        "members": sorted((_member(group, seen, each) for each in seen.members.values()), key=lambda one: one["name"]),
        "set_aside": [dataclasses.asdict(aside) for aside in stored.asides],
    }


def _member(group: Group, seen: Seen, member: Member) -> dict[str, Any]:
    report = member.report
    views = {
        each.name: each.probes[member.id].outcome
        for each in seen.observers
        if member.id in each.probes and each.id != member.id
    }
    shown: dict[str, Any] = {
        "name": member.name,
        "role": "primary" if member.id == group.primary else "fenced" if member.id in group.fenced else "replica",
        "in_sync_set": member.id in group.sync_set,
        "instance": member.id,
        "address": member.address,
        "zone": member.zone,
        "connected": member.connected,
        "seen_by": views,
    }
    if report is None:
        return shown | {"state": "not heard"}
    return shown | {
        "state": _state(member.id == group.primary, member),
        "version": report.version,
        "epoch": report.epoch,
        "read_only": report.read_only,
        "executed": report.executed,
        "received": report.received,
        "lag_seconds": report.lag_seconds,
        "acknowledging": report.acknowledging,
        "required": report.required,
        "free_bytes": report.free_bytes,
        "disk_bytes": report.disk_bytes,
        "error": report.error or report.trouble or report.stall,
    }


def _state(is_primary: bool, member: Member) -> str:
    report = member.report
    if report is not None and member.report_seconds >= SILENT_SECONDS:
        return f"not heard for {member.report_seconds:.0f} s"
    if report is None or not report.answers:
        return (report.trouble if report else "") or "does not answer"
    if is_primary:
        return "read-only" if report.read_only else "takes writes"
    if not report.read_only:
        return "writable"
    if report.error:
        return "broken"
    return "follows" if report.receiving and report.applying else "does not follow"


def _change_shown(stored: StoredGroup, group: Group) -> dict[str, Any] | None:
    if group.change is None:
        return None
    plain = dataclasses.asdict(group.change)
    return plain | {
        "step": str(group.change.step),
        "old": _name(stored, group.change.old),
        "candidate": _name(stored, group.change.candidate),
    }


def _until(group: Group) -> str:
    if not group.loss_allowed:
        return ""
    return datetime.fromtimestamp(group.loss_allowed_at + group.loss_allowed_seconds, UTC).isoformat(timespec="seconds")


async def _switch_over(request: Request, stored: StoredGroup, to: str, *, force: str = "") -> dict[str, Any]:
    server, subject = stored.members[to].server, f"database:{stored.deployment}"
    task, title = f"switchover-{new_id()}", f"{'promote' if force else 'switch over to'} {server}"
    await _orders(request).workflows.start_workflow(
        Asked(kind="switchover", title=title, subject=subject, who=_who(request)),
        task,
        {"deployment": stored.deployment, "to": to, "server": server, "force": force},
    )
    return {"task": task}


def _refuse_busy(request: Request, deployment: str) -> None:
    orders = _orders(request)
    refuse_beside(orders.store, orders.workflows.tasks, deployment, "switchover")


def _name(stored: StoredGroup, member: str | None) -> str | None:
    if member is None:
        return None
    return stored.members[member].name if member in stored.members else member


def _candidate(stored: StoredGroup, to: str | None) -> str:
    if to is not None:
        found = [each.id for each in stored.members.values() if to in (each.name, each.server)]
        if not found:
            raise NotFound(f"the group of {stored.deployment} has no running server {to}")
        return found[0]
    others = [each for each in stored.members if each != stored.group.primary]
    if len(others) != 1:
        raise BadInput("say to which server", hint=f"relaunch db switchover {stored.deployment} --to SERVER")
    return others[0]


def _change(request: Request, deployment: str, **values: Any) -> dict[str, Any]:
    _group(request, deployment)
    GroupStore(request.app.state.ports.database).change(deployment, **values)
    watch = _watch(request)
    watch.poke()
    return shown(watch, _group(request, deployment))


def _group(request: Request, deployment: str) -> StoredGroup:
    stored = _watch(request).group(deployment)
    if stored is None:
        raise NotFound(f"no database group of a deployment {deployment}", hint="`relaunch db list` shows what there is")
    return stored


def _who(request: Request) -> str:
    return str(request.state.who)


def _watch(request: Request) -> DatabaseWatch:
    watch: DatabaseWatch = request.app.state.databases
    return watch


def _orders(request: Request) -> Orders:
    orders: Orders = request.app.state.orders
    return orders
