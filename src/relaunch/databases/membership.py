"""The group while its primary lives: who may acknowledge, and what the mode is. Each transition is one small step.

The first transition that applies is made, stored, and the look is taken again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from relaunch.bus.messages import DatabaseReport
from relaunch.databases.case import Case, raised
from relaunch.databases.group import Group, Mode

COMES_WITHIN_SECONDS = 600.0  # after the controller; a machine that takes longer to come up is replaced
MOST_LAG_SECONDS = 2.0  # what is not applied yet is applied before a replica leads: the outage lasts longer by that


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """`why` is a sentence for the manual and the audit trail; `made` gives None when it does not apply."""

    name: str
    why: str
    made: Callable[[Case], Group | None]


# facts


def living_primary(case: Case) -> DatabaseReport | None:
    word = case.word(case.group.primary)
    return word if word is not None and word.answers and word.role == "primary" else None


def lost_seconds(case: Case, id: str) -> float:
    """How long a member has been of no use to the primary's commits; 0 while it is."""
    member, word = case.member(id), case.word(id)
    if word is None:
        # Not heard since the controller began: it has not been waited for longer than that.
        lost = member.report_seconds
        if member.report is None:
            lost = min(lost, case.elapsed(case.group.since))
    else:
        lost = max(word.trouble_seconds if not word.answers else 0.0, _nothing_received_seconds(case, id, word))
    return min(lost, _primary_up_seconds(case))


def _nothing_received_seconds(case: Case, id: str, word: DatabaseReport) -> float:
    """A fresh replica that has not received anything yet is not lost: it may be about to."""
    if word.received_seconds is not None:
        return 0.0 if word.receiving and word.received_seconds < case.windows.fresh else word.received_seconds
    return 0.0 if word.receiving or id not in case.group.sync_set else case.elapsed(case.group.since)


def _primary_up_seconds(case: Case) -> float:
    """Right after the primary's own absence nobody has received anything, and that is not the replicas' fault: for how
    long one that looks at it from elsewhere has been answered, and the controller has heard it without a gap."""
    primary = case.primary
    probes = [each.probes.get(primary.id) for each in case.seen.observers if each.connected]
    up = [probe.seconds for probe in probes if probe is not None and probe.outcome == "ok"]
    return min(max(up, default=float("inf")), primary.answering_seconds, case.elapsed(case.group.promoted))


def acknowledges(case: Case, id: str) -> bool:
    """By the primary's own word, also when the member's agent is silent: it is connected, and commits come through."""
    primary = living_primary(case)
    if primary is None or primary.stall or (primary.write_seconds or 0.0) >= case.windows.degrade_after:
        return False
    return case.member(id).address in primary.acknowledgers


def lost(case: Case, id: str) -> bool:
    limit = case.windows.replace_after if acknowledges(case, id) else case.windows.degrade_after
    return lost_seconds(case, id) >= limit


def lost_for_good(case: Case) -> set[str]:
    """Replicas lost so long that a fresh one is better; not while too few are heard for the fault to be theirs, nor
    while somebody who said so works on them, nor when the primary is being ended: there would be none to copy from."""
    group = case.group
    if group.change is not None or group.paused or case.primary.going:
        return set()
    if living_primary(case) is None or not _sees_enough(case):
        return set()
    ids = case.seen.members.keys() - {group.primary} - group.fenced
    ids = {id for id in ids if not _on_its_way(case, id) and not case.member(id).going}
    return {id for id in ids if lost_seconds(case, id) >= case.windows.replace_after}


def _on_its_way(case: Case, id: str) -> bool:
    """One that has not been heard since this controller began, and may still come."""
    member = case.member(id)
    may_come = member.cloud_running is not False and member.away_seconds < COMES_WITHIN_SECONDS
    return id not in case.group.sync_set and member.report is None and may_come


def _sees_enough(case: Case) -> bool:
    heard = sum(case.word(id) is not None for id in case.seen.members)
    others = [each for each in case.seen.observers if each.id not in case.seen.members]
    heard += sum(each.connected and each.heard_seconds <= case.windows.fresh for each in others)
    return heard * 2 >= len(case.seen.members) + len(others)


def active(case: Case) -> frozenset[str]:
    """Those that are to acknowledge."""
    return case.group.sync_set - case.group.leaving - {case.group.primary or ""}


def settled(case: Case) -> bool:
    """Whether one member that acknowledges has all that the primary had after this epoch's decision.

    So it has every write acknowledged before, by whomever; those since are with a member that remembers.
    """
    primary = case.obeyed(case.group.primary)
    if primary is None or primary.role != "primary" or not primary.answers or not primary.required:
        return False
    for id in active(case):
        word = case.word(id)
        if word is None or word.started != case.group.starts.get(id):
            continue
        if case.has_all_of(word, primary):
            return True
    return False


def parted_from_primary(case: Case) -> frozenset[str]:
    """Replicas with a write that the primary has passed by without: they will never be the same again."""
    primary = living_primary(case)
    if primary is None or case.group.change is not None:
        return frozenset()
    others = case.seen.members.keys() - {case.group.primary} - case.group.fenced
    words = {id: case.word(id) for id in others}
    return frozenset(id for id, word in words.items() if word and word.answers and case.parted(primary, word))


# transitions


def _fence_second_writer(case: Case) -> Group | None:
    group = case.group
    found = {
        id
        for id in case.seen.members
        if id != group.primary
        and id not in group.fenced
        and (report := case.obeyed(id)) is not None
        and report.answers
        and not report.read_only
    }
    return replace(group, fenced=group.fenced | found) if found else None


def _notice_no_wait(case: Case) -> Group | None:
    """Somebody set it so by hand: what it has acknowledged since may be on it alone."""
    group, primary = case.group, case.obeyed(case.group.primary)
    if group.mode is not Mode.SYNC or primary is None or not primary.answers:
        return None
    if primary.role != "primary" or primary.read_only or primary.required:
        return None
    return raised(_in_mode(case, Mode.BLOCKED, "the primary was found not to wait for acknowledgements"))


def _notice_restart(case: Case) -> Group | None:
    group = case.group
    again = {
        id: word.started
        for id in group.sync_set
        if (word := case.word(id)) is not None and word.answers and word.started != group.starts.get(id)
    }
    if not again:
        return None
    return raised(replace(group, starts={**group.starts, **again}, forgot=group.forgot | again.keys()))


def _let_go(case: Case) -> Group | None:
    """A lost member is told to acknowledge no more; was it the last one, the mode says so before anybody is told."""
    group = case.group
    if living_primary(case) is None:
        return None
    useless = group.fenced | parted_from_primary(case) | {id for id in active(case) if case.stays_out(id)}
    away = {id for id in active(case) if lost(case, id) or id in useless}
    if not away:
        return None
    if active(case) - away:
        return replace(group, leaving=group.leaving | away)
    if group.durability == "available":
        return replace(
            _without_waiting(case, f"no replica since {case.names(away)} was lost"), leaving=group.leaving | away
        )
    if all(lost_seconds(case, id) >= case.windows.replace_after or id in useless for id in away):
        blocked = _in_mode(case, Mode.BLOCKED, f"commits wait: {case.names(away)} was lost")
        return replace(blocked, leaving=group.leaving | away)
    return None


def _confirm_left(case: Case) -> Group | None:
    group = case.group
    gone = set()
    for id in group.leaving - group.left:
        report = case.obeyed(id)
        stopped = report is not None and report.role in ("revoked", "fenced") and not report.receiving
        silent = report is not None and (stopped or not report.acknowledging)
        if silent or case.member(id).cut_off:
            gone.add(id)
    return raised(replace(group, left=group.left | gone)) if gone else None


def _remove(case: Case) -> Group | None:
    """In mode sync only when the others have all that the one which left may have been alone with."""
    group = case.group
    if not group.left or (group.mode is Mode.SYNC and not settled(case)):
        return None
    sync_set = group.sync_set - group.left
    return replace(
        group,
        sync_set=sync_set,
        fenced=group.fenced | {id for id in group.left if case.member(id).cut_off},
        leaving=group.leaving - group.left,
        left=frozenset(),
        forgot=group.forgot & sync_set,
        starts={id: start for id, start in group.starts.items() if id in sync_set},
    )


def _remember(case: Case) -> Group | None:
    group = case.group
    return replace(group, forgot=frozenset()) if group.forgot and settled(case) else None


def _join(case: Case) -> Group | None:
    group, primary = case.group, living_primary(case)
    if primary is None or primary.read_only:
        return None
    joining = {
        id: word.started
        for id in case.seen.members
        if id not in group.sync_set | group.fenced | {group.primary or ""} | parted_from_primary(case)
        and not case.member(id).cut_off
        and not case.stays_out(id)
        and (word := case.word(id)) is not None
        and word.epoch == group.epoch
        and _in_good_order(case, word)
    }
    if not joining:
        return None
    return replace(group, sync_set=group.sync_set | joining.keys(), starts={**group.starts, **joining})


def _in_good_order(case: Case, word: DatabaseReport) -> bool:
    follows = word.role == "replica" and word.answers and word.source == case.primary.address
    works = word.receiving and word.applying and not word.error and not word.delayed
    return follows and works and word.lag_seconds is not None and word.lag_seconds <= MOST_LAG_SECONDS


def _wait_for_acknowledgements(case: Case) -> Group | None:
    """Ordered before the mode says sync: until the primary has confirmed it, no write is promised to be safe."""
    group, primary = case.group, living_primary(case)
    if group.required or primary is None or primary.read_only or not _ready(case):
        return None
    return replace(group, required=True, since=case.seen.now, reason=f"to wait for {case.names(_ready(case))}")


def _ready(case: Case) -> set[str]:
    ready = set()
    for id in active(case):
        word = case.word(id)
        if word is not None and word.epoch == case.group.epoch and word.acknowledging and _in_good_order(case, word):
            ready.add(id)
    return ready


def _in_step(case: Case) -> Group | None:
    group = case.group
    if group.mode is Mode.SYNC or not group.required or not settled(case):
        return None
    return replace(_in_mode(case, Mode.SYNC, f"in step: {case.names(active(case))}"), forgot=frozenset())


def _give_up_waiting(case: Case) -> Group | None:
    """`available`: commits wait for replicas that are not in step only for a while."""
    group = case.group
    if group.mode is Mode.SYNC or not group.required or group.durability != "available":
        return None
    # Not without its word: what is not heard may be at a later epoch than a store that was put back.
    if living_primary(case) is None or case.elapsed(group.since) < case.windows.degrade_after:
        return None
    return _without_waiting(case, "no replica came in step")


def _block(case: Case) -> Group | None:
    """`strict`: a group that was in step once never writes without a replica."""
    group = case.group
    if group.durability != "strict" or group.required or group.mode is Mode.FORMING:
        return None
    return replace(_in_mode(case, Mode.BLOCKED, "no replica in step"), required=True)


def _name_what_is_left(case: Case) -> Group | None:
    """Async and single differ in name only: whether there is another member at all. `since` stays."""
    group = case.group
    others = case.seen.members.keys() - group.fenced - {group.primary}
    if group.mode is Mode.ASYNC and not others and not group.required:
        return replace(group, mode=Mode.SINGLE, reason="no other member")
    if group.mode is Mode.SINGLE and others:
        return replace(group, mode=Mode.ASYNC, reason=f"{case.names(others)} is not in step yet")
    return None


def _forget_the_replaced(case: Case) -> Group | None:
    group = case.group
    gone = group.fenced - case.seen.members.keys()
    return replace(group, fenced=group.fenced - gone) if gone else None


def _give_up(case: Case) -> Group | None:
    """One of the sync set only when it has surely left that: until then it may be needed."""
    parted = frozenset() if case.group.paused else parted_from_primary(case)
    lost_ones = (lost_for_good(case) | parted) - case.group.sync_set
    return replace(case.group, fenced=case.group.fenced | lost_ones) if lost_ones else None


def _in_mode(case: Case, mode: Mode, reason: str) -> Group:
    return replace(case.group, mode=mode, reason=reason, since=case.seen.now)


def _without_waiting(case: Case, reason: str) -> Group:
    mode = Mode.FORMING if case.group.mode is Mode.FORMING else Mode.ASYNC
    return replace(_in_mode(case, mode, reason), required=False)


TRANSITIONS: tuple[Transition, ...] = (
    Transition(
        name="second writer fenced",
        why="A server that is not the primary takes writes: it is fenced, and replaced, as its data may differ.",
        made=_fence_second_writer,
    ),
    Transition(
        name="does not wait",
        why="Somebody has told the primary not to wait for acknowledgements: no failover until it does, and a member"
        " has all that it has.",
        made=_notice_no_wait,
    ),
    Transition(
        name="replica started again",
        why="A member of the sync set that has started again may lack what it acknowledged: first to be proven.",
        made=_notice_restart,
    ),
    Transition(
        name="replica lost",
        why="A member of the sync set lost for `degrade_after`, not to lead, or with writes that the primary"
        " lacks, is told to acknowledge no more. Was it the last one: `available` goes on asynchronously,"
        " stored before the primary is told; `strict` waits.",
        made=_let_go,
    ),
    Transition(
        name="replica left",
        why="Its agent says that it acknowledges no more, or the cloud that it is cut off.",
        made=_confirm_left,
    ),
    Transition(
        name="replica removed",
        why="What left is taken out of the sync set, in mode sync once another member has all the primary has.",
        made=_remove,
    ),
    Transition(
        name="replica remembers",
        why="A member has all the primary had after the restart was noticed: nothing forgotten matters any more.",
        made=_remember,
    ),
    Transition(
        name="in step",
        why="The primary waits for acknowledgements and a member has all it had when it confirmed that: mode sync.",
        made=_in_step,
    ),
    Transition(
        name="replica joins",
        why="A replica that follows with little lag is stored in the sync set, then told to acknowledge.",
        made=_join,
    ),
    Transition(
        name="commits wait again",
        why="A member acknowledges: the primary is told to wait for acknowledgements.",
        made=_wait_for_acknowledgements,
    ),
    Transition(
        name="commits wait no longer",
        why="`available`: no replica came in step within `degrade_after`; stored before the primary is told.",
        made=_give_up_waiting,
    ),
    Transition(
        name="blocked",
        why="`strict`: without a replica in step no write is acknowledged.",
        made=_block,
    ),
    Transition(
        name="named",
        why="A group with one member only is single.",
        made=_name_what_is_left,
    ),
    Transition(
        name="replica given up",
        why="A replica outside of the sync set, lost for `replace_after` or with writes that the primary lacks, is"
        " fenced; a fresh one takes its place.",
        made=_give_up,
    ),
    Transition(
        name="replaced",
        why="A fenced server that has been replaced is forgotten.",
        made=_forget_the_replaced,
    ),
)


def next_transition(case: Case) -> tuple[Transition, Group] | None:
    for transition in TRANSITIONS:
        group = transition.made(case)
        if group is not None:
            return transition, group
    return None
