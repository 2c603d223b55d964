"""What the controller has heard about database servers, turned into one look at a group."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from relaunch.bus.messages import DatabaseReport, Witnessed
from relaunch.databases.group import Member, Observer, Seen
from relaunch.databases.store import StoredGroup

CLOUD_WORD_SECONDS = 2.0  # older than this, what the cloud said is not what is


@dataclass(slots=True)
class Heard:
    """Everything said so far, by instance; moments of the monotonic clock. Nothing of it outlives the controller."""

    reports: dict[str, tuple[DatabaseReport, float]] = field(default_factory=dict)
    witnessed: dict[str, tuple[Witnessed, float]] = field(default_factory=dict)
    running: dict[str, tuple[bool | None, float]] = field(default_factory=dict)  # what the cloud says
    cut_off: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)

    def take(self, instance: str, said: DatabaseReport | Witnessed) -> None:
        if isinstance(said, DatabaseReport):
            self.reports[instance] = (said, time.monotonic())
        else:
            self.witnessed[instance] = (said, time.monotonic())

    def forget(self, living: set[str]) -> None:
        for kept in (self.reports, self.witnessed, self.running):
            for gone in set(kept) - living:
                del kept[gone]
        self.cut_off &= living
        self.held &= living


def look(
    stored: StoredGroup,
    heard: Heard,
    *,
    now: float,
    connected: Mapping[str, bool],
    maintenance: bool,
    wanted_primary: str | None,
) -> Seen:
    """`now`: seconds since 1970 by a clock that does not jump; `connected`: whose agents are, by instance."""
    present = time.monotonic()
    members = {}
    for each in stored.members.values():
        report, said = heard.reports.get(each.id, (None, present))
        running, asked = heard.running.get(each.id, (None, 0.0))
        members[each.id] = Member(
            id=each.id,
            name=each.name,
            address=each.address,
            zone=each.zone,
            connected=connected.get(each.id, False),
            report=report,
            report_seconds=present - said,
            cloud_running=running if present - asked <= CLOUD_WORD_SECONDS else None,
            cut_off=each.id in heard.cut_off,
        )
    ids = {each.address: each.id for each in stored.members.values()}
    names = {**{each.id: each.name for each in stored.members.values()}, **stored.others}
    observers = []
    for instance, name in names.items():
        witnessed, said = heard.witnessed.get(instance, (None, present))
        probes = witnessed.probes if witnessed else {}
        observers.append(
            Observer(
                id=instance,
                name=name,
                connected=connected.get(instance, False),
                heard_seconds=present - said if witnessed else float("inf"),
                probes={ids[address]: probe for address, probe in probes.items() if address in ids},
            )
        )
    return Seen(
        now=now,
        members=members,
        observers=tuple(observers),
        held=frozenset(heard.held),
        proxies=frozenset(instance for instance in stored.front_ends if connected.get(instance, False)),
        maintenance=maintenance,
        wanted_primary=wanted_primary,
    )


def in_short(stored: StoredGroup, seen: Seen) -> dict[str, object]:
    """What was seen of the primary, for the audit trail: enough to judge a decision by, later."""
    primary = seen.members.get(stored.group.primary or "")
    report = primary.report if primary else None
    return {
        "primary": primary.name if primary else None,
        "its agent": None
        if primary is None
        else {
            "connected": primary.connected,
            "heard_seconds": round(primary.report_seconds, 2),
            "answers": report.answers if report else None,
            "trouble": report.trouble if report else "",
            "cloud_running": primary.cloud_running,
        },
        "observers": {
            each.name: {
                "connected": each.connected,
                "outcome": probe.outcome,
                "seconds": round(probe.seconds + each.heard_seconds, 2),
            }
            for each in seen.observers
            if primary is not None and (probe := each.probes.get(primary.id)) is not None
        },
        "replicas": {
            each.name: {
                "receiving": each.report.receiving,
                "received": each.report.received,
                "executed": each.report.executed,
                "received_seconds": each.report.received_seconds,
                "acknowledging": each.report.acknowledging,
            }
            for each in seen.members.values()
            if each.report is not None and each.id != stored.group.primary
        },
    }
