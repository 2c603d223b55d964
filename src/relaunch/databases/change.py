"""The steps of a failover and of a switchover: each looks whether it is done, and says what is stored next.

Failover: revoke → promote → steady. Switchover: drain → freeze → promote → steady, or back from freeze to the old one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from relaunch.bus.messages import DatabaseReport
from relaunch.databases.case import Case, everything, raised
from relaunch.databases.group import Change, Group, Mode, Page, Step
from relaunch.databases.roles import satisfied, wanted_roles
from relaunch.databases.rules import LOST_WRITES

DRAIN_SECONDS = 1.0  # a front end that has not answered by then holds nothing, and has few visitors
FREEZE_SECONDS = 2.0  # for the old primary to stop and the candidate to reach its position
STANDING_SECONDS = 10.0  # it may be at a large transaction: only a person takes the lead from it
DAY = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The group as it is to be stored, unchanged while a step waits."""

    group: Group
    why: str
    pages: tuple[Page, ...] = ()


def begin_failover(case: Case, rule: str) -> Group:
    group, now = case.group, case.seen.now
    change = Change(
        kind="failover", step=Step.REVOKE, old=group.primary or "", candidate=None, rule=rule, began=now, step_began=now
    )
    return raised(replace(group, change=change, failovers=_counted(case)))


def _counted(case: Case) -> tuple[float, ...]:
    """The automatic failovers of a day, with the one that begins now."""
    now = case.seen.now
    return (*(began for began in case.group.failovers if now - began < DAY), now)


def begin_promotion(group: Group, to: str, now: float, who: str, seconds: float) -> Group:
    """A failover to this very member that a named person wants, at the price of what it has not received."""
    change = Change(
        kind="failover", step=Step.REVOKE, old=group.primary or "", candidate=None, rule=f"forced by {who}", forced=to,
        began=now, step_began=now,
    )  # fmt: skip
    allowed = replace(group, loss_allowed=who, loss_allowed_at=now, loss_allowed_seconds=seconds)
    return raised(replace(allowed, change=change))


def begin_switchover(case: Case, to: str) -> Group:
    group, now = case.group, case.seen.now
    change = Change(
        kind="switchover",
        step=Step.DRAIN,
        old=group.primary or "",
        candidate=to,
        rule="asked",
        began=now,
        step_began=now,
    )
    return replace(group, change=change)


def no_loss_allowed(group: Group) -> Group:
    return replace(group, loss_allowed="", loss_allowed_at=0.0, loss_allowed_seconds=0.0)


def go_on(case: Case) -> Outcome:
    """What the change under way needs next."""
    change = case.group.change
    assert change is not None
    match change.step:
        case Step.DRAIN:
            return _drain(case, change)
        case Step.FREEZE:
            return _freeze(case, change)
        case Step.REVOKE:
            return _revoke(case, change)
        case Step.PROMOTE | Step.GO_BACK:
            return _promote(case, change)


# switchover


def _drain(case: Case, change: Change) -> Outcome:
    if case.stays_out(change.candidate or ""):
        return _given_up(case, change)
    if case.seen.held >= case.seen.proxies or case.elapsed(change.step_began) >= DRAIN_SECONDS:
        return Outcome(group=_stepped(case, replace(change, step=Step.FREEZE)), why="proxies hold new connections")
    return Outcome(group=case.group, why="waiting for the proxies to hold new connections")


def _freeze(case: Case, change: Change) -> Outcome:
    """First the old primary stands still; then, said at the next epoch and so after that, the candidate has it all."""
    if case.stays_out(change.candidate or ""):
        return _given_up(case, change)
    old, candidate = case.obeyed(change.old), case.obeyed(change.candidate)
    if not change.position:
        if _stands_still(old):
            assert old is not None
            position = everything(old, case)
            if case.group.required:  # then there is a way back from the promotion, too
                promoted = _promoted(case, change, change.candidate or "", position)
                return Outcome(group=promoted, why="the old primary stands still")
            frozen = replace(change, position=position)
            return Outcome(group=raised(replace(case.group, change=frozen)), why="the old primary stands still")
    elif candidate is not None and case.covers(everything(candidate, case), change.position):
        return Outcome(group=_promoted(case, change, change.candidate or "", change.position), why="all is received")
    if case.elapsed(change.step_began) >= FREEZE_SECONDS:
        return _given_up(case, change)
    return Outcome(group=case.group, why="waiting for the old primary to stand still and the candidate to have it all")


def _given_up(case: Case, change: Change) -> Outcome:
    """The candidate was not there in time, or is being terminated by now, or not to lead any more."""
    candidate = change.candidate or ""
    if not _accounted_for(case, candidate):
        text = (
            f"The switchover of {case.group.name} is not given up before {case.names([candidate])} is"
            " heard, or known to be off: by a store that was put back it may lead already."
        )
        pages = () if case.may_yet_be_heard(candidate) else (Page(rule="switchover waits", text=text),)
        return Outcome(group=case.group, why=text, pages=pages)
    why = f"{case.names([candidate])} is not to lead any more" if case.stays_out(candidate) else "not reached in time"
    back = replace(change, step=Step.GO_BACK, candidate=change.old, position="")
    return Outcome(group=_stepped(case, back), why=f"{why}: the old primary goes on")


def _accounted_for(case: Case, id: str | None) -> bool:
    """Whether this controller has heard it, and so with which orders, or it cannot do anything."""
    member = case.member(id)
    return member.report is not None or member.cut_off or member.cloud_running is False


def _stands_still(report: DatabaseReport | None) -> bool:
    return report is not None and report.answers and report.role == "fenced" and report.read_only


# failover


def _revoke(case: Case, change: Change) -> Outcome:
    if change.forced and not _can_be_forced(case, change) and _allowed_again(case, change):
        why = f"{case.names([change.forced])} was named and is not there, and somebody has allowed a loss since"
        return Outcome(group=replace(case.group, change=replace(change, forced="")), why=why)
    waiting = _not_revoked(case, change)
    if not waiting:
        pool = _pool(case, change)
        best = _best(case, change, pool)
        if best is not None and _still_applies(case, change, pool[best]):
            return Outcome(group=case.group, why=f"{case.names([best])} was named, and applies what it has received")
        if best is not None:
            position = _reachable(case, change, best)
            return Outcome(
                group=_promoted(case, change, best, position),
                why=f"{case.names([best])} {'was named' if change.forced else 'has received the most'}, and nobody"
                " acknowledges any more",
            )
        why = f"divergence: none of {case.names(pool)} has all that the others have"
        waiting = why if pool else "nobody that could take over"
    unheard_yet = any(case.may_yet_be_heard(id) for id in case.seen.members)  # it may have what the old primary lacks
    if unheard_yet or case.elapsed(change.step_began) < case.windows.silent:
        return Outcome(group=case.group, why=f"waiting: {waiting}")
    back = _back(case, change)
    if back is not None:
        return Outcome(group=back, why=f"given up ({waiting}): the old primary is back, with all the others have")
    text = f"The failover of {case.group.name} does not go on: {waiting}."
    if change.forced and not _can_be_forced(case, change):
        text += (
            f" {case.names([change.forced])}, which was named, is not there: `relaunch db failover` lets another lead."
        )
    page = Page(rule="failover waits", text=text)
    return Outcome(group=case.group, why=f"waiting: {waiting}", pages=(page,))


def _durable(case: Case, change: Change) -> bool:
    """Whether every acknowledged write is surely on the sync set: mode sync, or a promotion that did not complete."""
    return case.group.mode is Mode.SYNC or (case.group.required and change.position != "")


def _not_revoked(case: Case, change: Change) -> str:
    """Whose word is still missing, "" when nobody can acknowledge a write of the old primary any more."""
    group = case.group
    if group.loss_allowed:
        missing = {id for id in _others(case, change) if _works(case, id) and not _is_revoked(case, id)}
        if not (_stands_still(case.obeyed(change.old)) or case.member(change.old).cut_off):
            return f"{case.names([change.old])} is neither fenced nor cut off yet"
        return f"{case.names(missing)} may still receive" if missing else ""
    if not _durable(case, change):
        return "not every acknowledged write is on a replica, and nobody has allowed the loss"
    heirs = group.sync_set - {change.old}
    missing = {id for id in heirs if not _is_revoked(case, id)}
    if missing:
        return f"{case.names(missing)} may have the last acknowledged writes, and has not confirmed to receive no more"
    forgetful = {id for id in heirs if not case.remembers(id)}
    return f"{case.names(forgetful)} has started again and may lack acknowledged writes" if forgetful else ""


def _works(case: Case, id: str) -> bool:
    """One whose agent alone is there carries no order out: what it has is given up like that of one not heard."""
    word = case.word(id)
    return word is not None and (word.answers or word.trouble_seconds < case.windows.silent)


def _others(case: Case, change: Change) -> set[str]:
    return {id for id in case.seen.members if id != change.old and id not in case.group.fenced}


def _is_revoked(case: Case, id: str) -> bool:
    """A server that restarts afterwards receives nothing either: its agent has obeyed the order for good."""
    report = case.obeyed(id)
    if report is None or not report.read_only:
        return False
    return report.role in ("revoked", "fenced") and not report.receiving


def _pool(case: Case, change: Change) -> dict[str, DatabaseReport]:
    """Those whose positions are compared: the sync set; with loss allowed, whoever is heard."""
    ids = _others(case, change) if case.group.loss_allowed else case.group.sync_set - {change.old}
    return {id: report for id in ids if (report := case.obeyed(id)) is not None and _is_revoked(case, id)}


def _best(case: Case, change: Change, pool: dict[str, DatabaseReport]) -> str | None:
    """Of those that have all the others have, the one that is done applying soonest; one that was named is it."""
    if change.forced:
        goes = case.member(change.forced).going
        return change.forced if change.forced in pool and pool[change.forced].answers and not goes else None
    have = {id: everything(report, case) for id, report in pool.items()}
    fit = [
        id
        for id, report in pool.items()
        if all(case.covers(have[id], have[other]) and not case.parted(report, pool[other]) for other in pool)
        and (bool(case.group.loss_allowed) or case.covers(have[id], change.position))
        and not report.delayed
        and not case.stays_out(id)
        and report.answers
    ]
    zone = case.member(change.old).zone

    def order(id: str) -> tuple[bool, bool, int, bool, int, str]:
        applied = case.covers(pool[id].executed, have[id])
        behind = sum(not case.covers(pool[id].executed, other.executed) for other in pool.values())
        return (bool(pool[id].error), not applied, behind, case.member(id).zone != zone, case.member(id).rank, id)

    return min(fit, key=order, default=None)


def _can_be_forced(case: Case, change: Change) -> bool:
    """Whether the one that was named is there, or may come yet."""
    word = case.word(change.forced)
    there = word.answers if word is not None else case.may_yet_be_heard(change.forced)
    return there and not case.member(change.forced).going


def _allowed_again(case: Case, change: Change) -> bool:
    """Whether somebody has allowed a loss since this began, which was with such a permission."""
    said = case.elapsed(case.group.loss_allowed_at)
    return (
        bool(case.group.loss_allowed) and said < case.elapsed(change.began) and said < case.group.loss_allowed_seconds
    )


def _still_applies(case: Case, change: Change, report: DatabaseReport) -> bool:
    """Of one that was named: its agent starts a stopped applier again and again, so one moment says nothing of it."""
    done = case.covers(report.executed, everything(report, case))
    return bool(change.forced) and not done and case.elapsed(change.step_began) < case.windows.silent


def _reachable(case: Case, change: Change, best: str) -> str:
    """What it is to have when it leads: all; of one that was named and is stopped by an error, what it has applied."""
    report, word = case.obeyed(best), case.word(best)
    assert report is not None
    return report.executed if change.forced and _is_stopped(word) else everything(report, case)


def _is_stopped(word: DatabaseReport | None) -> bool:
    return word is not None and word.answers and bool(word.error) and not word.applying


def _back(case: Case, change: Change) -> Group | None:
    """Nobody has been told to take over: the old primary may go on, if it is there and lacks nothing."""
    old = case.word(change.old)
    if old is None or old.epoch != case.group.epoch or not _stands_still(old):
        return None
    position = everything(old, case)
    others = [report for id in _others(case, change) if (report := _last_known(case, id)) is not None]
    lacks = change.rule == LOST_WRITES and not case.group.loss_allowed
    if lacks and any(_is_silent(case.member(id).report) for id in case.group.sync_set - {change.old}):
        return None
    if any(case.parted(old, other) for other in others):
        return None
    if not all(case.covers(position, everything(other, case)) for other in others) or not case.covers(
        position, change.position
    ):
        return None
    return _stepped(case, replace(change, step=Step.GO_BACK, candidate=change.old, position=position))


def _last_known(case: Case, id: str) -> DatabaseReport | None:
    """Also of one that is gone: it had what it said; a permission to lose writes gives that up."""
    return case.obeyed(id) if case.group.loss_allowed else case.member(id).report


def _is_silent(report: DatabaseReport | None) -> bool:
    """Of what it has."""
    return report is None or not (report.executed or report.received)


# promotion


def _promoted(case: Case, change: Change, candidate: str, position: str) -> Group:
    """The group of the new primary: what is promised of its writes begins anew, as nobody follows it yet."""
    group = case.group
    frozen = change.kind == "switchover" and change.step is Step.FREEZE
    heirs = group.sync_set - group.leaving - {candidate, change.old}
    if group.loss_allowed:
        heirs = frozenset(id for id in heirs if _is_revoked(case, id))
    if frozen:
        heirs |= {change.old}
    unheard = (group.sync_set - heirs - {candidate, change.old}) if group.loss_allowed else frozenset()
    ahead = {
        id
        for id in _others(case, change) - {candidate}
        if (report := case.obeyed(id)) is not None and not case.covers(position, everything(report, case))
    }
    heirs -= ahead
    stale = _may_acknowledge_still(case, change) - heirs - {candidate}
    reports = {id: case.member(id).report for id in heirs | stale | {candidate}}
    mode, required, reason = _mode_after(case, heirs, candidate, change, frozen=frozen)
    promoting = replace(change, step=Step.PROMOTE, candidate=candidate, position=position, step_began=case.seen.now)
    return raised(
        replace(
            group,
            primary=candidate,
            change=promoting,
            mode=mode,
            required=required,
            reason=reason,
            since=case.seen.now,
            sync_set=heirs | stale,
            starts={id: report.started for id, report in reports.items() if report is not None},
            forgot=frozenset(),
            leaving=stale,
            left=frozenset(),
            fenced=(group.fenced | unheard | ahead | (frozenset() if frozen else {change.old})) - {candidate},
        )
    )


def _may_acknowledge_still(case: Case, change: Change) -> frozenset[str]:
    """Those whose last order may be to follow a server that leads again one day.

    Among them a candidate that never took writes: it may not even have heard that it was to.
    """
    unfinished = change.step is Step.REVOKE and change.position != ""
    asked = case.group.sync_set - case.group.left - ({change.old} if not unfinished else set())
    asked |= {change.old} if unfinished else set()
    return frozenset(id for id in asked if not _is_revoked(case, id))


def _mode_after(
    case: Case, heirs: frozenset[str], candidate: str, change: Change, *, frozen: bool
) -> tuple[Mode, bool, str]:
    if heirs and (not frozen or case.group.required):
        return Mode.BLOCKED, True, f"until {case.names(heirs)} follow {case.names([candidate])}"
    if case.group.durability == "strict" and case.group.mode is not Mode.FORMING:
        return Mode.BLOCKED, True, "commits wait for a fresh replica"
    others = _others(case, change) - {candidate}
    return (Mode.ASYNC if others or frozen else Mode.SINGLE), False, "no replica is in step with the new primary yet"


def _promote(case: Case, change: Change) -> Outcome:
    group, candidate = case.group, change.candidate or ""
    order = wanted_roles(group, case.seen.members).get(candidate)
    if order is not None and satisfied(case.member(candidate).report, order):
        done = replace(no_loss_allowed(group), change=None, since=case.seen.now, promoted=case.seen.now)
        return Outcome(group=done, why=f"{case.names([candidate])} takes writes")
    waited, word = case.elapsed(change.step_began), case.word(candidate)
    slow = change.old in group.sync_set - group.fenced and waited >= FREEZE_SECONDS  # the old one waits, and is well
    if waited < case.windows.silent and not slow:
        return Outcome(group=group, why=f"waiting for {case.names([candidate])} to take writes")
    if case.may_yet_be_heard(candidate):
        return Outcome(group=group, why=f"{case.names([candidate])} is not heard yet, and may take writes already")
    if _cannot_apply_all(case, change):
        assert word is not None
        why = f"{case.names([candidate])} was named, and cannot apply all it has received: {word.error}"
        return Outcome(group=_with_what_it_has(case, change, word.executed), why=why)
    what, allowed = _why_not_taken(case, change), _allowed_since(case, change)
    known = _durable(case, change) and _heirs_heard(case, candidate)
    if ((what or slow) and (allowed or known)) or (allowed and (_is_stopped(word) or _stands(case, change))):
        if not allowed and group.loss_allowed_at >= change.step_began:  # it has run out, and nothing began with it
            case = replace(case, group=no_loss_allowed(group))
        held = _held(case, change)
        if held is not None:
            return Outcome(group=case.group, why=held.text, pages=(held,))
        failed = candidate if change.step is Step.PROMOTE else None
        rule = f"{change.rule}, then its heir {'failed' if what else 'was too slow'}"
        again = replace(change, step=Step.REVOKE, old=candidate, candidate=failed, rule=rule, forced="")
        stepped = _stepped(case, again)
        if change.kind == "switchover" and change.step is Step.GO_BACK and not allowed:
            stepped = replace(stepped, failovers=_counted(case))
        if allowed:
            stepped = replace(stepped, fenced=group.fenced - _complete_again(case, change))
        return Outcome(group=stepped, why=f"{case.names([candidate])} did not take writes")
    what = what or f"has not applied all it has received{_how_it_applies(case, change)}"
    text = f"{case.names([candidate])} is to be the primary of {group.name} and {what}.{_way_out(case, change)}"
    return Outcome(group=group, why=text, pages=(Page(rule="promotion waits", text=text),))


def _held(case: Case, change: Change) -> Page | None:
    """From a primary that was to go on, and has failed, it would be a failover like any other."""
    if change.step is not Step.GO_BACK or case.group.loss_allowed or not (case.group.paused or case.seen.maintenance):
        return None
    name, why = ("paused", "it is paused") if case.group.paused else ("maintenance", "its server is being rebooted")
    text = f"{case.names([change.old])}, primary of {case.group.name}, was to go on and has failed. No failover: {why}."
    return Page(rule=f"no failover: {name}", text=text)


def _stands(case: Case, change: Change) -> bool:
    """Since it was told to lead: before, there may have been nothing to apply."""
    standing = min(case.member(change.candidate).standing_seconds, case.elapsed(change.step_began))
    return standing >= STANDING_SECONDS


def _how_it_applies(case: Case, change: Change) -> str:
    word = case.word(change.candidate)
    if word is not None and word.error:
        return f": {word.error}"
    return f", and nothing of it for {STANDING_SECONDS:g} s" if _stands(case, change) else ", but is at it"


def _why_not_taken(case: Case, change: Change) -> str:
    """Why the candidate cannot take writes at all, "" when it still may."""
    candidate = change.candidate or ""
    word, known = case.word(candidate), case.group.starts.get(candidate)
    if word is None or not word.answers:
        return "does not answer"
    if case.covers(everything(word, case), change.position):
        return ""
    if known is not None and word.started != known:
        return "has started again and lost what it had received"
    having = [id for id in case.seen.members if _has_all(case, change, id)]
    return f"lacks what {case.names(having)} has" if having else f"lacks what only {case.names([change.old])} had"


def _has_all(case: Case, change: Change, id: str) -> bool:
    """Whether it is heard, with all that the candidate is to have."""
    word = case.word(id)
    return word is not None and word.answers and case.covers(everything(word, case), change.position)


def _allowed_since(case: Case, change: Change) -> bool:
    """Whether somebody has allowed a loss since the candidate was told: what was allowed before, it was chosen with."""
    group = case.group
    said = case.elapsed(group.loss_allowed_at)
    return bool(group.loss_allowed) and said <= case.elapsed(change.step_began) and said < group.loss_allowed_seconds


def _complete_again(case: Case, change: Change) -> set[str]:
    """The old primary, when it stands still as a fenced one, lacks nothing, and of the others that are heard none has
    all: it may lead again."""
    old = case.obeyed(change.old)
    others = _others(case, change) - {change.candidate}
    if old is None or not _stands_still(old) or not _has_all(case, change, change.old):
        return set()
    words = [word for id in others if (word := case.word(id)) is not None]
    if any(_has_all(case, change, id) for id in others) or any(case.parted(old, word) for word in words):
        return set()
    return {change.old} & case.group.fenced


def _way_out(case: Case, change: Change) -> str:
    """For the page: who is waited for, and what a person can do without them."""
    if _complete_again(case, change):
        return f" {case.names([change.old])}, which is fenced, has all of it: `relaunch db failover` lets it lead."
    unheard = {id for id in case.group.sync_set - {change.candidate} if case.word(id) is None}
    if not unheard:
        return ""
    return f" Nobody else leads before {case.names(unheard)} is heard, or a loss is allowed: `relaunch db failover`."


def _cannot_apply_all(case: Case, change: Change) -> bool:
    """Of one that was named: it did not seem so when it was chosen, and time enough has passed since then."""
    word = case.word(change.candidate)
    if word is None or change.step is not Step.PROMOTE or change.forced != change.candidate:
        return False
    if not _is_stopped(word) or not word.read_only or not case.group.loss_allowed:
        return False
    return case.covers(change.position, word.executed) and not case.covers(word.executed, change.position)


def _with_what_it_has(case: Case, change: Change, position: str) -> Group:
    """It leads with less than was thought; who has more, or of whom nobody knows what it has, is fenced."""
    group, candidate = case.group, change.candidate or ""
    ahead = set()
    for id in _others(case, change) - {candidate}:
        report = case.member(id).report
        if report is None or _is_silent(report):
            if id in group.sync_set:
                ahead.add(id)
        elif not case.covers(position, everything(report, case)):
            ahead.add(id)
    heirs = group.sync_set - group.leaving - ahead - {candidate}
    mode, required, reason = _mode_after(case, heirs, candidate, change, frozen=False)
    return raised(
        replace(
            group,
            change=replace(change, position=position, step_began=case.seen.now),
            mode=mode,
            required=required,
            reason=reason,
            since=case.seen.now,
            leaving=group.leaving | (ahead & group.sync_set),
            fenced=group.fenced | ahead,
        )
    )


def _heirs_heard(case: Case, candidate: str) -> bool:
    heirs = case.group.sync_set - {candidate}
    return bool(heirs) and all(case.word(id) is not None for id in heirs)


def _stepped(case: Case, change: Change) -> Group:
    return raised(replace(case.group, change=replace(change, step_began=case.seen.now)))
