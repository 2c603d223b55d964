"""When a primary counts as failed, and when a failover is allowed: two ordered tables; the first that holds decides.

The manual's tables are made from these (`python -m relaunch.databases.rules_page`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from relaunch.bus.messages import UNEXPLAINED
from relaunch.databases.case import Case
from relaunch.databases.evidence import Evidence
from relaunch.databases.group import PER_DAY, PER_HOUR, Mode

SECONDS_PER_HOUR, SECONDS_PER_DAY = 3600.0, 86400.0
# Of an agent that reports twice a second: enough to say that it does not any more, when the cloud says so too.
GONE_SECONDS = 1.0
LOST_WRITES = "lost writes"
STALLS_OF_THE_DISK = frozenset({"read-only file system"})


class Verdict(StrEnum):
    FINE = "fine"
    WAIT = "wait"
    PAGE = "wait, and page"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`why` is a sentence for the manual, the audit trail and the page."""

    name: str
    verdict: Verdict
    why: str
    holds: Callable[[Evidence], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A reason not to fail over although the primary has failed."""

    name: str
    why: str
    holds: Callable[[Case], bool]
    lifted: bool  # by a named person who allows the loss


def _fine(e: Evidence) -> bool:
    if e.own is None or not e.own.answers or e.own.read_only or e.own.stall:
        return False
    return (e.own.write_seconds or 0.0) < e.case.windows.stalled and not e.all_fail(e.case.windows.silent)


def _stopped(e: Evidence) -> bool:
    says_so = e.own is not None and not e.own.answers and e.own.trouble in ("stopped", "starting")
    return says_so and e.most_refused(still=True) and not any(sight.receiving for sight in e.sights)


def _no_word(e: Evidence, seconds: float) -> bool:
    return e.own is None and (e.silent_seconds >= seconds or not e.case.primary.connected)


def _cloud_says_down(e: Evidence) -> bool:
    if e.case.primary.cloud_running is not False or e.someone_hears(e.case.windows.refused):
        return False
    gone = not e.case.primary.connected or e.silent_seconds >= GONE_SECONDS
    return gone and e.most_fail(e.case.windows.refused)


def _frozen(e: Evidence) -> bool:
    if e.own is None or e.own.answers or e.own.trouble == "full of connections":
        return False
    silent = e.case.windows.silent
    return e.own.trouble_seconds >= silent and e.most_fail(silent) and not e.someone_hears(silent)


def _silence(e: Evidence) -> bool:
    silent = e.case.windows.silent
    return _no_word(e, silent) and e.most_fail(silent) and not e.someone_hears(silent)


def _stalled(e: Evidence) -> bool:
    own = e.own
    if own is None or not own.answers or own.read_only:
        return False
    return (own.write_seconds or 0.0) >= e.case.windows.stalled


def _full(e: Evidence) -> bool:
    probes = [sight.probe for sight in e.sights if sight.probe is not None]
    return any(probe.outcome == "full of connections" for probe in probes) or (
        e.own is not None and e.own.trouble == "full of connections"
    )


def _in_doubt(e: Evidence) -> bool:
    if e.own is None:
        return e.silent_seconds >= GONE_SECONDS and bool(e.sights)
    if e.own.answers and e.all_fail(e.case.windows.silent):
        return True
    return e.own.stall == UNEXPLAINED or (not e.own.answers and e.own.trouble_seconds >= GONE_SECONDS)


DETECTION: tuple[Rule, ...] = (
    Rule(
        name="healthy",
        verdict=Verdict.FINE,
        why="Its own agent says that it takes writes, and somebody else hears it.",
        holds=_fine,
    ),
    Rule(
        name="controller is blind",
        verdict=Verdict.PAGE,
        why="The controller hears fewer than half of the other servers: it is itself the one that is cut off.",
        holds=lambda e: e.blind and (e.own is None or not e.own.answers),
    ),
    Rule(
        name="instance gone",
        verdict=Verdict.FAILED,
        why="Its instance has been terminated: nothing it sends arrives anywhere.",
        holds=lambda e: e.case.group.primary not in e.case.seen.members,
    ),
    Rule(
        name="process gone",
        verdict=Verdict.FAILED,
        why="Its own agent says that the server's process is not running, and another server's connections have been"
        " refused for `refused` while no replica receives anything.",
        holds=_stopped,
    ),
    Rule(
        name="refused",
        verdict=Verdict.FAILED,
        why="Its agent is not heard, and most others, at least two, have had their connections refused for `refused`"
        " while no replica receives anything.",
        holds=lambda e: (
            _no_word(e, GONE_SECONDS)
            and e.refusals(still=False) >= 2
            and e.most_refused(still=False)
            and not any(s.receiving and s.hears(e.case.windows.silent) for s in e.sights)
        ),
    ),
    Rule(
        name="not running in the cloud",
        verdict=Verdict.FAILED,
        why="The cloud says that its instance does not run, its agent is gone, and most others have heard nothing for"
        " `refused`.",
        holds=_cloud_says_down,
    ),
    Rule(
        name="only we are cut off",
        verdict=Verdict.PAGE,
        why="Its agent is not heard here, but other servers hear the primary: the agent or our way to it is broken.",
        holds=lambda e: e.own is None and e.heard_right_now() and e.silent_seconds > GONE_SECONDS,
    ),
    Rule(
        name="frozen",
        verdict=Verdict.FAILED,
        why="Its own agent has had no answer for `silent`, and in this time nobody else heard anything either.",
        holds=_frozen,
    ),
    Rule(
        name="silence",
        verdict=Verdict.FAILED,
        why="For `silent` neither the controller nor most other servers have heard anything of it, and no replica has.",
        holds=_silence,
    ),
    Rule(
        name=LOST_WRITES,
        verdict=Verdict.FAILED,
        why="It has started again with less than its replicas have: it must not take writes before they are back.",
        holds=lambda e: bool(e.ahead),
    ),
    Rule(
        name="disk lost",
        verdict=Verdict.FAILED,
        why="It has committed nothing for `stalled`, because its file system takes no writes any more.",
        holds=lambda e: _stalled(e) and e.own is not None and e.own.stall in STALLS_OF_THE_DISK,
    ),
    Rule(
        name="explained stall",
        verdict=Verdict.PAGE,
        why="Commits wait, but why is known (no acknowledgement, a full disk, a lock, a long transaction, others that"
        " end): another primary would not help, or lose what only this one has.",
        holds=lambda e: (
            e.own is not None and e.own.answers and not e.own.read_only and e.own.stall not in ("", UNEXPLAINED)
        ),
    ),
    Rule(
        name="unexplained stall",
        verdict=Verdict.FAILED,
        why="It has committed nothing for `stalled`, and nobody knows why.",
        holds=_stalled,
    ),
    Rule(
        name="unreachable",
        verdict=Verdict.FAILED,
        why="Its own agent says that it is fine, but for `stalled` it could be reached by nobody else, and at least two"
        " tried.",
        holds=lambda e: e.own is not None and e.own.answers and e.all_fail(e.case.windows.stalled),
    ),
    Rule(
        name="out of connections",
        verdict=Verdict.PAGE,
        why="It answers that it has no connection left: it lives, and its successor would have none left either.",
        holds=_full,
    ),
    Rule(
        name="started again",
        verdict=Verdict.WAIT,
        why="It answers and is read-only, as after each start: it is told to take writes.",
        holds=lambda e: e.own is not None and e.own.answers and e.own.read_only,
    ),
    Rule(
        name="in doubt",
        verdict=Verdict.PAGE,
        why="For a second it has not been heard, has not answered or has committed nothing, or nobody else reaches it;"
        " but not enough servers have seen that for long enough: it may be back at once.",
        holds=_in_doubt,
    ),
    Rule(
        name="not proven",
        verdict=Verdict.WAIT,
        why="Something is wrong, but not enough servers have seen it for long enough.",
        holds=lambda _: True,
    ),
)


def _heirs(case: Case) -> frozenset[str]:
    return case.group.sync_set - {case.group.primary or ""}


def _followers(case: Case) -> list[str]:
    return [id for id in case.seen.members if id != case.group.primary and id not in case.group.fenced]


def _could_lead(case: Case, id: str) -> bool:
    word = case.word(id)
    return word is not None and word.answers and not word.delayed and not case.stays_out(id)


def _automatic(case: Case, seconds: float) -> int:
    """A moment to come is of a clock that was wrong: it counts, as nobody knows when it was."""
    return sum(case.seen.now - began < seconds for began in case.group.failovers)


PERMISSION: tuple[Refusal, ...] = (
    Refusal(
        name="no data yet",
        why="No replica has been in step since the group was made or restored: nobody but its primary has its data.",
        holds=lambda c: not c.group.initialised or c.group.mode is Mode.FORMING,
        lifted=False,
    ),
    Refusal(
        name="paused",
        why="Somebody has paused automatic failover.",
        holds=lambda c: bool(c.group.paused),
        lifted=True,
    ),
    Refusal(
        name="maintenance",
        why="Its server is being rebooted or started by an order (`server reboot`, `server start`).",
        holds=lambda c: c.seen.maintenance,
        lifted=True,
    ),
    Refusal(
        name="replication was degraded",
        why="Not every acknowledged write is on a replica (mode is not `sync`): a named person must allow the loss.",
        holds=lambda c: c.group.mode is not Mode.SYNC,
        lifted=True,
    ),
    Refusal(
        name="nobody to take over",
        why="No replica that could take over is heard.",
        holds=lambda c: not any(_could_lead(c, id) for id in _followers(c)),
        lifted=False,
    ),
    Refusal(
        name="too many",
        why=f"Automatic failovers have happened before, {PER_HOUR} within the hour or {PER_DAY} within the day: another"
        " would more likely spread the trouble than end it.",
        holds=lambda c: _automatic(c, SECONDS_PER_HOUR) >= PER_HOUR or _automatic(c, SECONDS_PER_DAY) >= PER_DAY,
        lifted=True,
    ),
    Refusal(
        name="not all are heard",
        why="A member of the sync set does not answer: it alone may have the last acknowledged writes.",
        holds=lambda c: not _heirs(c) or any(c.word(id) is None for id in _heirs(c)),
        lifted=True,
    ),
    Refusal(
        name="one may have forgotten",
        why="A member of the sync set has started again and may lack what it acknowledged just before.",
        holds=lambda c: any(not c.remembers(id) for id in _heirs(c)),
        lifted=True,
    ),
)


def judged(evidence: Evidence) -> Rule:
    return next(rule for rule in DETECTION if rule.holds(evidence))


def refused_by(case: Case) -> Refusal | None:
    allowed = bool(case.group.loss_allowed)
    return next((each for each in PERMISSION if not (allowed and each.lifted) and each.holds(case)), None)
