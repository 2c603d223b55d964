"""One look at one group together with what is stored of it, and the questions that rules and steps ask of the two."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from relaunch.bus.messages import DatabaseReport
from relaunch.databases.group import Group, Member, Seen, Windows
from relaunch.errors import BadInput

CONNECTED_SECONDS = 3.0  # after the controller's start each agent that can be is connected: it tries every 2 s

Covers = Callable[[str, str], bool]  # positions
Parted = Callable[[DatabaseReport, DatabaseReport], bool]


def never_parted(one: DatabaseReport, other: DatabaseReport) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """In the group's dialect: `position_covers`: whether the first position holds all of the second;
    `histories_parted`: whether two servers will never have the same data again."""

    group: Group
    seen: Seen
    windows: Windows
    position_covers: Covers
    histories_parted: Parted = never_parted

    def member(self, id: str | None) -> Member:
        """One that is not listed has no instance any more, so nothing it sends arrives anywhere."""
        found = self.seen.members.get(id or "")
        gone = Member(id=id or "", name=id or "nobody", address="", report_seconds=float("inf"), cut_off=True)
        return found or gone

    @property
    def primary(self) -> Member:
        return self.member(self.group.primary)

    def word(self, id: str | None) -> DatabaseReport | None:
        """What its agent says, when that is about now."""
        member = self.member(id)
        if member.report is None or not member.connected or member.report_seconds > self.windows.fresh:
            return None
        return member.report

    def may_yet_be_heard(self, id: str) -> bool:
        """It has not been since the controller began, which is too short a time to say that it is away."""
        member = self.member(id)
        unknown = member.report is None and not member.cut_off and member.cloud_running is not False
        return unknown and member.report_seconds < max(CONNECTED_SECONDS, self.windows.silent)

    def obeyed(self, id: str | None) -> DatabaseReport | None:
        """What its agent says after it carried out an order of the present epoch; however old, that order holds."""
        report = self.member(id).report
        return report if report is not None and report.epoch == self.group.epoch else None

    def stays_out(self, id: str) -> bool:
        """Of the sync set: it is never to lead, so nothing may rest on it alone."""
        member = self.member(id)
        return member.going or member.never_leads

    def covers(self, position: str, other: str) -> bool:
        """As `position_covers`; a position nobody can read covers nothing."""
        try:
            return self.position_covers(position, other)
        except BadInput:
            return False

    def parted(self, one: DatabaseReport, other: DatabaseReport) -> bool:
        """As `histories_parted`; of what nobody can read nothing is sure."""
        try:
            return self.histories_parted(one, other)
        except BadInput:
            return False

    def has_all_of(self, follower: DatabaseReport, primary: DatabaseReport) -> bool:
        """Applied or not, all that the primary has committed."""
        return self.covers(everything(follower, self), primary.executed) and not self.parted(primary, follower)

    def elapsed(self, moment: float) -> float:
        """Seconds since; a moment to come is of a clock that was wrong, and long ago."""
        passed = self.seen.now - moment
        return passed if passed >= 0 else float("inf")

    def names(self, ids: Iterable[str]) -> str:
        return ", ".join(sorted(self.member(id).name for id in ids)) or "nobody"

    def remembers(self, id: str) -> bool:
        """Whether a member of the sync set still has all it ever acknowledged."""
        report = self.member(id).report
        known = self.group.starts.get(id)
        return report is not None and id not in self.group.forgot and report.started == known


def everything(report: DatabaseReport, case: Case) -> str:
    """All that a server has, applied or not."""
    return report.received if case.covers(report.received, report.executed) else report.executed


def raised(group: Group) -> Group:
    """At the next epoch: what is said of it was said after this decision."""
    return replace(group, epoch=group.epoch + 1)
