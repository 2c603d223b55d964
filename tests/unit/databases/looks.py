"""Looks at a small group, said in few words: s1 is the primary, s2 and s3 follow, f1 and f2 probe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from relaunch.bus.messages import DatabaseReport, Probe
from relaunch.databases.case import Case
from relaunch.databases.failover import decide
from relaunch.databases.group import Decision, Group, Member, Mode, Observer, Seen, Windows
from relaunch.databases.roles import wanted_roles

NOW = 1_000_000.0
SYNC = Group(
    name="shop", epoch=5, primary="s1", durability="strict", initialised=True, mode=Mode.SYNC, since=NOW - 100,
    required=True, sync_set=frozenset({"s2", "s3"}), starts={"s2": "1", "s3": "1"},
)  # fmt: skip

LOSS_ALLOWED: dict[str, Any] = {
    "loss_allowed": "Ann: yesterday is better than nothing", "loss_allowed_at": NOW - 60, "loss_allowed_seconds": 600.0,
}  # fmt: skip


def number_covers(position: str, other: str) -> bool:
    """Positions are numbers here, or `7a` and `7b` when each has what the other lacks."""
    mine, its = int(position.rstrip("ab") or 0), int(other.rstrip("ab") or 0)
    return mine >= its and (not other.endswith(("a", "b")) or position == other)


def parted(one: DatabaseReport, other: DatabaseReport) -> bool:
    """Whose history is another text than the other's."""
    return one.history != other.history


def member(id: str, *, age: float = 0.1, connected: bool = True, cloud: bool | None = None, **said: Any) -> Member:
    if id == "s1":
        usual: dict[str, Any] = {"role": "primary", "read_only": False, "required": True, "write_seconds": 0.3}
        usual["acknowledgers"] = ["@s2", "@s3"]
    else:
        usual = {"role": "replica", "source": "@s1", "receiving": True, "applying": True, "acknowledging": True}
        usual |= {"received_seconds": 0.2, "lag_seconds": 0.0}
    fields = {"dialect": "mariadb", "epoch": 5, "answers": True, "executed": "7", "received": "7", "started": "1"}
    cut_off, answering, away = said.pop("cut_off", False), said.pop("answering", 60.0), said.pop("away", 0.0)
    standing = said.pop("standing", 0.0)
    report = None if said.pop("unheard", False) else DatabaseReport(**{**fields, **usual, **said})
    return Member(
        id=id, name=f"db{id[1:]}", address=f"@{id}", connected=connected, away_seconds=away, report=report,
        report_seconds=age, answering_seconds=answering, standing_seconds=standing, cloud_running=cloud,
        cut_off=cut_off,
    )  # fmt: skip


def probe(outcome: str = "ok", seconds: float = 60.0, ok: float | None = None) -> Probe:
    return Probe(outcome=outcome, seconds=seconds, ok_seconds=0.1 if outcome == "ok" else ok)


def look(*members: Member, f1: Probe | None = None, f2: Probe | None = None, **more: Any) -> Seen:
    """Whoever is not given is well; a front end given as None is well too."""
    everybody = {id: member(id) for id in ("s1", "s2", "s3")} | {each.id: each for each in members}
    observers = tuple(
        Observer(id=name, name=name, connected=True, heard_seconds=0.1, probes={"s1": said or probe()})
        for name, said in (("f1", f1), ("f2", f2))
    )
    return Seen(
        **{"now": NOW, "members": everybody, "observers": observers, "proxies": frozenset({"f1", "f2"}), **more}
    )


def decided(seen: Seen, group: Group = SYNC, **windows: float) -> Decision:
    return decide(group, seen, Windows(**windows), number_covers, parted)


def case(seen: Seen, group: Group = SYNC) -> Case:
    return Case(group=group, seen=seen, windows=Windows(), position_covers=number_covers, histories_parted=parted)


def obeyed(group: Group, seen: Seen, *ids: str, **said: Any) -> Seen:
    """These have carried out what they are ordered."""
    members = dict(seen.members)
    for id, order in wanted_roles(group, seen.members).items():
        report = members[id].report
        if (ids and id not in ids) or report is None or not report.answers:
            continue
        follows = order.role == "replica"
        now = replace(
            report, epoch=order.epoch, role=order.role, read_only=order.role != "primary", required=order.required,
            source=order.source if follows else report.source, receiving=follows, acknowledging=order.acknowledge,
        )  # fmt: skip
        now = replace(now, **{"executed": order.position or report.executed, **said})
        members[id] = replace(members[id], report=now)
    return replace(seen, members=members)


STOPPED = member("s1", answers=False, trouble="stopped", trouble_seconds=0.5)
DEAF = tuple(member(id, receiving=False, received_seconds=0.6) for id in ("s2", "s3"))
REFUSED = {"f1": probe("refused", 0.5, 0.6), "f2": probe("refused", 0.5, 0.6)}
SILENT = {"f1": probe("timeout", 4.0, 4.1), "f2": probe("timeout", 4.0, 4.1)}
GONE = member("s1", age=4.0, connected=False)
LONG_DEAF = tuple(member(id, received_seconds=4.0) for id in ("s2", "s3"))
