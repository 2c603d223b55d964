"""What the controller has heard about database servers, turned into one look at a group."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from relaunch.bus.messages import DatabaseReport, Witnessed
from relaunch.databases.group import Member, Observer, Seen
from relaunch.databases.positions import covers_in
from relaunch.databases.store import StoredGroup
from relaunch.errors import BadInput
from relaunch.servers.lifecycle import State

GAP_SECONDS = 2.0  # an agent reports twice a second: one that has said nothing for so long was away, or its server was
CUT_OFF_SECONDS = 2.0  # what was on its way at the cutting off has arrived by then
CLOUD_WORD_SECONDS = 2.0  # older than this, what the cloud said is not what is
REMEMBERED = 80  # positions of a primary, at least so many seconds apart: what its replicas are held against
APART_SECONDS = 0.25

Covers = Callable[[str, str], bool]


@dataclass(slots=True)
class Heard:
    """Everything said so far, by instance; moments of the monotonic clock. Nothing of it outlives the controller."""

    began: float = field(default_factory=time.monotonic)
    reports: dict[str, tuple[DatabaseReport, float]] = field(default_factory=dict)
    answering: dict[str, float | None] = field(default_factory=dict)  # since when without a gap
    standing: dict[str, tuple[str, float]] = field(default_factory=dict)  # what it has executed, and since when no more
    away: dict[str, float] = field(default_factory=dict)  # since when its agent is not connected
    witnessed: dict[str, tuple[Witnessed, float]] = field(default_factory=dict)
    running: dict[str, tuple[bool | None, float]] = field(default_factory=dict)  # what the cloud says
    cut_off: dict[str, float] = field(default_factory=dict)  # since when
    held: set[str] = field(default_factory=set)
    # of each that was a primary, what it had committed when, oldest first
    written: dict[str, deque[tuple[float, str]]] = field(default_factory=dict)
    lags: dict[str, tuple[float, float | None]] = field(default_factory=dict)  # by when the report came

    def take(self, instance: str, said: DatabaseReport | Witnessed) -> None:
        now = time.monotonic()
        if isinstance(said, Witnessed):
            self.witnessed[instance] = (said, now)
            return
        _, before = self.reports.get(instance, (None, 0.0))
        self.answering[instance] = answers_since(self.answering.get(instance), said, now - before, now)
        self.standing[instance] = stands_since(self.standing.get(instance), said, now)
        self.reports[instance] = (said, now)
        if now - self.cut_off.get(instance, now) > CUT_OFF_SECONDS:
            del self.cut_off[instance]  # somebody has connected it again
        if said.role == "primary" and said.answers:
            positions = self.written.setdefault(instance, deque(maxlen=REMEMBERED))
            if not positions or now - positions[-1][0] >= APART_SECONDS:
                positions.append((now, said.executed))

    def truthful(self, instance: str, primary: str | None) -> DatabaseReport | None:
        """Its report, with how far it is behind the primary as found by positions."""
        report, said = self.reports.get(instance, (None, 0.0))
        if report is None or primary is None or instance == primary or report.lag_seconds is None:
            return report
        known = self.lags.get(instance)
        if known is None or known[0] != said:
            positions = self.written.get(primary, ())
            known = self.lags[instance] = said, lag(report, positions, said, covers_in(report.dialect))
        return report if known[1] == report.lag_seconds else replace(report, lag_seconds=known[1])

    def away_seconds(self, instance: str, connected: bool, now: float) -> float:
        """For how long its agent has not been connected, as of this look and those before."""
        if connected:
            self.away.pop(instance, None)
            return 0.0
        return now - self.away.setdefault(instance, now)

    def forget(self, living: set[str]) -> None:
        kept_ones = (self.reports, self.answering, self.standing, self.away, self.witnessed, self.running)
        for kept in (*kept_ones, self.written, self.lags, self.cut_off):
            for gone in set(kept) - living:
                del kept[gone]
        self.held &= living


def answers_since(since: float | None, said: DatabaseReport, gap: float, now: float) -> float | None:
    """Since when it has said without a gap that it answers, None when it does not. `gap`: since its last word."""
    if not said.answers:
        return None
    return now if since is None or gap > GAP_SECONDS else since


def stands_since(known: tuple[str, float] | None, said: DatabaseReport, now: float) -> tuple[str, float]:
    """What it has executed, and since when it has said so."""
    return known if known is not None and known[0] == said.executed else (said.executed, now)


def lag(report: DatabaseReport, positions: Iterable[tuple[float, str]], said: float, covers: Covers) -> float | None:
    """For how many seconds a replica has lacked something that its primary had; None when it lacks all we know of.

    What the server says of itself counts when it is more. Alone it does not do: MariaDB says 0 until the first
    transaction since its start is applied, however many wait.
    """
    known = [(at, position) for at, position in positions if at <= said]
    try:
        missing = [at for at, position in known if not covers(report.executed, position)]
    except BadInput:
        return None
    if report.lag_seconds is None or len(missing) == len(known):
        return None
    if not missing:
        return report.lag_seconds
    return max(report.lag_seconds, round(said - missing[0], 3))


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
        _, said = heard.reports.get(each.id, (None, heard.began))
        running, asked = heard.running.get(each.id, (None, 0.0))
        members[each.id] = Member(
            id=each.id,
            name=each.name,
            address=each.address,
            zone=each.zone,
            connected=connected.get(each.id, False),
            away_seconds=heard.away_seconds(each.id, connected.get(each.id, False), present),
            report=heard.truthful(each.id, stored.group.primary),
            report_seconds=present - said,
            answering_seconds=present - (heard.answering.get(each.id) or present),
            standing_seconds=present - heard.standing.get(each.id, ("", present))[1],
            cloud_running=running if present - asked <= CLOUD_WORD_SECONDS else None,
            rank=each.rank,
            never_leads=each.never_leads,
            going=each.state is State.DECOMMISSIONING,
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
                epoch=witnessed.epoch if witnessed else 0,
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
        watched_seconds=present - heard.began,
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
