"""What the look says about the primary, as facts that the rules ask for. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from relaunch.bus.messages import DatabaseReport, Probe
from relaunch.databases.case import Case, everything

ANSWERS = frozenset({"ok", "full of connections", "denied"})  # whoever says this is a living server
NO_ANSWER = frozenset({"refused", "timeout"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One server's sight of the primary: by a probe, or as its replica."""

    name: str
    probe: Probe | None = None
    age: float = 0.0  # since the probe's word was said
    receiving: bool = False
    received_seconds: float | None = None
    follows: bool = False

    @property
    def judges(self) -> bool:
        return self.probe is not None or self.follows

    def hears(self, window: float) -> bool:
        """Something came from the primary within the window."""
        probe = self.probe
        if probe is not None and probe.outcome in ANSWERS:
            return True
        if probe is not None and probe.ok_seconds is not None and probe.ok_seconds + self.age < window:
            return True
        return self.receiving and self.received_seconds is not None and self.received_seconds < window

    def refused(self, window: float, *, still: bool) -> bool:
        """Connections have been refused for all of the window; `still`: taken to be so until it says otherwise.

        It would say so at once, and else speaks once a second: too seldom to wait for when there is other proof.
        """
        if self.probe is None or self.probe.outcome != "refused":
            return False
        return self.probe.seconds + (self.age if still else 0.0) >= window

    def fails(self, window: float) -> bool:
        """Nothing has come from the primary for all of the window."""
        if self.hears(window):
            return False
        if self.probe is not None:
            return self.probe.outcome in NO_ANSWER and self.probe.seconds + self.age >= window
        return self.follows


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    case: Case
    own: DatabaseReport | None  # the primary's own agent, when heard
    sights: tuple[Sight, ...]  # of all others that are heard
    others: int  # how many there are, heard or not
    unheard_yet: bool  # whoever is not heard, the primary's agent too, has not been since this controller began
    ahead: tuple[str, ...]  # replicas that have what the primary, started again, lacks

    @property
    def heard(self) -> int:
        return len(self.sights)

    @property
    def silent_seconds(self) -> float:
        member = self.case.primary
        return member.report_seconds if member.report is not None else float("inf")

    @property
    def blind(self) -> bool:
        """Fewer than half of the others are heard."""
        return self.heard * 2 < self.others or not self.heard

    def most_fail(self, window: float) -> bool:
        judging = [sight for sight in self.sights if sight.judges]
        failing = [sight for sight in judging if sight.fails(window)]
        return bool(failing) and len(failing) * 2 > len(judging)

    def someone_hears(self, window: float) -> bool:
        return any(sight.hears(window) for sight in self.sights)

    def heard_right_now(self) -> bool:
        fresh = self.case.windows.fresh
        return any(sight.hears(0.0) or (sight.receiving and sight.hears(fresh)) for sight in self.sights)

    def refusals(self, *, still: bool) -> int:
        return sum(sight.refused(self.case.windows.refused, still=still) for sight in self.sights)

    def most_refused(self, *, still: bool) -> bool:
        probing = [sight for sight in self.sights if sight.probe is not None]
        return self.refusals(still=still) * 2 > len(probing)

    def all_fail(self, window: float) -> bool:
        judging = [sight for sight in self.sights if sight.judges]
        return len(judging) >= 2 and all(sight.fails(window) for sight in judging)

    def hearers(self) -> str:
        return ", ".join(sight.name for sight in self.sights if sight.hears(self.case.windows.silent)) or "nobody"


def gather(case: Case) -> Evidence:
    """Of each server one sight, be it observer, member or both; the primary's own word is apart."""
    primary = case.primary
    probing = {each.id: each for each in case.seen.observers if each.id != primary.id}
    following = {id: each for id, each in case.seen.members.items() if id != primary.id and id not in case.group.fenced}
    own = case.word(primary.id)
    sights, missing = [], [] if own is not None else [primary.id]
    for id in sorted({*probing, *following}):
        observer, word = probing.get(id), case.word(id)
        looks = observer is not None and observer.connected and observer.heard_seconds <= case.windows.fresh
        if not looks and word is None:
            missing.append(id)
            continue
        age = case.member(id).report_seconds
        since = word.received_seconds if word else None
        sights.append(
            Sight(
                name=observer.name if observer else case.member(id).name,
                probe=observer.probes.get(primary.id) if looks and observer else None,
                age=observer.heard_seconds if looks and observer else 0.0,
                follows=word is not None and word.source != "" and word.source == primary.address,
                receiving=word is not None and word.receiving and word.source == primary.address,
                received_seconds=None if since is None else since + age,
            )
        )
    return Evidence(
        case=case,
        own=own,
        sights=tuple(sights),
        others=len({*probing, *following}),
        unheard_yet=bool(missing) and not any(_was_heard(case, id) for id in missing),
        ahead=_ahead(case),
    )


def _was_heard(case: Case, id: str) -> bool:
    return case.member(id).report is not None or any(
        each.id == id and each.heard_seconds != float("inf") for each in case.seen.observers
    )


def _ahead(case: Case) -> tuple[str, ...]:
    """Only of a primary that takes no writes: of one that does, the replicas' newer words may be ahead of its own."""
    own = case.word(case.primary.id)
    if own is None or not own.answers or not own.read_only:
        return ()
    words = {id: case.word(id) for id in case.group.sync_set if id != case.group.primary}
    return tuple(
        sorted(
            case.member(id).name
            for id, word in words.items()
            if word is not None
            and word.answers
            and not case.covers(own.executed, everything(word, case))
            and not case.parted(own, word)  # what that one has besides is its own, and was never acknowledged
        )
    )
