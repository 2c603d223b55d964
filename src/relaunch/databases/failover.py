"""What follows from one look at a database group: the decision. Pure; called at every report, answer and tick."""

from __future__ import annotations

from dataclasses import replace

from relaunch.bus.messages import DISK_FULL, NO_ACKNOWLEDGEMENT, TakeRole
from relaunch.databases.case import Case, Covers, Parted, never_parted
from relaunch.databases.change import begin_failover, begin_switchover, go_on, no_loss_allowed
from relaunch.databases.evidence import Evidence, gather
from relaunch.databases.group import Decision, Group, Mode, Page, Seen, Step, Windows
from relaunch.databases.membership import active, living_primary, lost_for_good, next_transition
from relaunch.databases.overtaken import OVERTAKEN, is_overtaken, known_again, why_not_known
from relaunch.databases.pages import page_of, pages_beside
from relaunch.databases.roles import due_orders, one_order_per_epoch, wanted_roles
from relaunch.databases.rules import DETECTION, LOST_WRITES, Rule, Verdict, judged, refused_by

SWITCHOVER_LAG_SECONDS = 1.0
FIRST_PAGE_SECONDS = 5.0  # an agent whose controller was away tries again every other second at most
LOST_SECONDS = 2.0  # an acknowledgement that has not come for so long, from a replica that has it all, is lost


def decide(group: Group, seen: Seen, windows: Windows, covers: Covers, parted: Parted = never_parted) -> Decision:
    """As `Case` has them. Store the group, then give the orders."""
    case = Case(group=group, seen=seen, windows=windows, position_covers=covers, histories_parted=parted)
    if group.primary is None:
        return Decision(group=group, rule="no primary", why="The group has no primary yet.")
    if is_overtaken(case):
        return _overtaken(case)
    if group.change is not None:
        outcome = go_on(case)
        return _decision(case, outcome.group, f"{group.change.kind}: {group.change.step}", outcome.why, outcome.pages)
    evidence = gather(case)
    rule = judged(evidence)
    over = _permission_over(case, rule)
    if over:
        return _decision(case, no_loss_allowed(group), "permission over", over)
    match rule.verdict:
        case Verdict.FINE:
            return _steady(case, rule)
        case Verdict.FAILED:
            return _failed(case, rule, tell=not _has_just_started(evidence))
        case Verdict.PAGE:
            pages = () if _has_just_started(evidence) else (page_of(case, rule.name, rule.why),)
            return _steady(case, rule, pages)
        case Verdict.WAIT:
            return _steady(case, rule)


def _overtaken(case: Case) -> Decision:
    """Nothing is ordered, cut off or replaced by a store that is older than what its servers have obeyed."""
    unknown = why_not_known(case)
    if not unknown:
        return _decision(case, known_again(case), OVERTAKEN, "What all servers say is taken for what is.")
    text = (
        f"The servers of {case.group.name} have obeyed later orders than the controller's store knows: it is an older"
        f" copy. Nothing is ordered, as {unknown}. If that stays so, a person says who leads: relaunch db adopt."
    )
    return Decision(group=case.group, rule=OVERTAKEN, why=text, pages=(Page(rule=OVERTAKEN, text=text),))


def _has_just_started(evidence: Evidence) -> bool:
    """Agents are still connecting to this controller: that one is not heard says nothing yet."""
    return evidence.unheard_yet and evidence.case.seen.watched_seconds < FIRST_PAGE_SECONDS


def is_well(decision: Decision | None) -> bool:
    """Whether the last look found the primary well."""
    return decision is not None and decision.rule == DETECTION[0].name


def refuse_switchover(group: Group, seen: Seen, to: str) -> str:
    """Why this member cannot become the primary by a switchover now, "" when it can."""
    case = Case(group=group, seen=seen, windows=Windows(), position_covers=lambda position, other: position == other)
    member, word, primary = case.member(to), case.word(to), case.word(group.primary)
    checks: tuple[tuple[bool, str], ...] = (
        (to not in seen.members, f"{to} is not a member of {group.name}"),
        (group.primary == to, f"{member.name} is the primary already"),
        (group.change is not None, f"a {group.change.kind if group.change else 'change'} is under way"),
        (seen.maintenance, f"the primary of {group.name} is being rebooted or started"),
        (not group.initialised, f"{group.name} has no data yet"),
        (to in group.fenced, f"{member.name} is fenced: its data may differ, it will be replaced"),
        (
            primary is None or not primary.answers or primary.read_only,
            "the primary does not take writes now: this is no case for a switchover",
        ),
        (
            primary is not None and primary.stall == DISK_FULL,
            f"the disk of {case.primary.name} is full: for this a commit that waits for room has to be cut short, and"
            " then nobody may be able to follow that server's binary log any more. Make room there first",
        ),
        (word is None or not word.answers, f"{member.name} does not answer"),
        (member.going, f"{member.name} is being terminated"),
        (member.never_leads, f"{member.name} is never to be the primary (never_primary in the deployment file)"),
    )
    for refuses, why in checks:
        if refuses:
            return why
    assert word is not None
    if word.error:
        return f"{member.name} has an error: {word.error}"
    if word.delayed:
        return f"{member.name} is delayed or filtered on purpose"
    if not (word.receiving and word.applying and word.source == case.primary.address):
        return f"{member.name} does not follow the primary"
    if word.lag_seconds is None or word.lag_seconds > SWITCHOVER_LAG_SECONDS:
        return f"{member.name} lags {'unknown' if word.lag_seconds is None else f'{word.lag_seconds:.0f} s'}"
    if group.mode is Mode.SYNC and to not in active(case):
        return f"{member.name} is not in the sync set"
    return ""


def refuse_promotion(group: Group, seen: Seen, to: str) -> str:
    """Why this member cannot lead even when somebody forces it and gives up what it lacks, "" when it can."""
    case = Case(group=group, seen=seen, windows=Windows(), position_covers=lambda position, other: position == other)
    member, word = case.member(to), case.word(to)
    checks: tuple[tuple[bool, str], ...] = (
        (to not in seen.members, f"{to} is not a member of {group.name}"),
        (group.primary == to, f"{member.name} is the primary already"),
        (group.change is not None, f"a {group.change.kind if group.change else 'change'} is under way"),
        (not group.initialised or group.mode is Mode.FORMING, f"no replica of {group.name} was ever in step"),
        (to in group.fenced, f"{member.name} is fenced: its data is another one's, it will be replaced"),
        (word is None or not word.answers, f"{member.name} does not answer"),
        (member.going, f"{member.name} is being terminated"),
        (word is not None and word.delayed, f"{member.name} is delayed or filtered on purpose: it lacks data"),
    )
    return next((why for refuses, why in checks if refuses), "")


def _permission_over(case: Case, rule: Rule) -> str:
    """Why the permission to lose writes holds no more, "" while it does or there is none. A failover that has begun
    with it ends with it."""
    group = case.group
    if not group.loss_allowed:
        return ""
    if rule.verdict is Verdict.FINE:
        return f"Nothing has to be lost, as the primary is well again (allowed by {group.loss_allowed})."
    if case.elapsed(group.loss_allowed_at) < group.loss_allowed_seconds:
        return ""
    return f"The time for which a loss was allowed is over (allowed by {group.loss_allowed})."


def _steady(case: Case, rule: Rule, pages: tuple[Page, ...] = ()) -> Decision:
    found = next_transition(case) if case.group.initialised else None
    if found is not None:
        transition, group = found
        return _decision(case, group, transition.name, transition.why, pages)
    to = case.seen.wanted_primary
    if to is not None and to != case.group.primary and rule.verdict is Verdict.FINE:
        refused = refuse_switchover(case.group, case.seen, to)
        if not refused:
            return _decision(
                case, begin_switchover(case, to), "switchover: asked", "A switchover was asked for.", pages
            )
        pages += (Page(rule="switchover refused", text=refused),)
    return _decision(case, case.group, rule.name, rule.why, pages)


def _failed(case: Case, rule: Rule, *, tell: bool) -> Decision:
    refusal = refused_by(case)
    if refusal is None:
        return _decision(case, begin_failover(case, rule.name), rule.name, rule.why)
    text = f"{case.primary.name}, primary of {case.group.name}, has failed ({rule.name}): {rule.why} "
    page = Page(rule=f"no failover: {refusal.name}", text=f"{text}No failover: {refusal.why}")
    decision = _steady(case, replace(rule, name=page.rule, why=refusal.why), (page,) if tell else ())
    if rule.name != LOST_WRITES:
        return decision
    # It would number its new writes like those it lost.
    others = {id: order for id, order in decision.orders.items() if id != case.group.primary}
    return replace(decision, orders=others)


def _decision(case: Case, group: Group, rule: str, why: str, pages: tuple[Page, ...] = ()) -> Decision:
    """`group` with all that follows from it: orders, cutting off, replacing, holding."""
    seen = case.seen
    group = one_order_per_epoch(case.group, group, seen.members)
    change = group.change
    hold = change is not None and change.kind == "switchover" and change.step is not Step.GO_BACK
    return Decision(
        group=group,
        rule=rule,
        why=why,
        orders=due_orders(group, seen) | _release(case, group),
        cut_off=_to_cut_off(case, group),
        replace=_to_replace(case, group),
        hold=hold,
        pages=(*pages, *pages_beside(case, group)),
    )


def _release(case: Case, group: Group) -> dict[str, TakeRole]:
    """A replica that connects again does not acknowledge what it has already: somebody has to tell the primary."""
    primary = living_primary(case)
    if primary is None or group != case.group or group.change is not None or not group.required:
        return {}
    if primary.stall != NO_ACKNOWLEDGEMENT or (primary.write_seconds or 0.0) < LOST_SECONDS:
        return {}
    address = case.primary.address
    for id in active(case):
        word = case.word(id)
        if word is None or not (word.receiving and word.acknowledging and word.source == address):
            continue
        if case.remembers(id) and case.has_all_of(word, primary):
            order = wanted_roles(group, case.seen.members)[case.primary.id]
            return {case.primary.id: replace(order, release=primary.executed)}
    return {}


def _to_cut_off(case: Case, group: Group) -> frozenset[str]:
    """Fenced ones whose agent does not confirm it, and lost replicas.

    An old primary not before its successor is chosen, as until then it may be the one that goes on; but when a loss is
    allowed, nothing else than being fenced or cut off keeps it from acknowledging more. Nobody while nobody is heard:
    the store may be older than its servers, and who is fenced there may lead by now.
    """
    if not _hears_anybody(case):
        return frozenset()
    unconfirmed = {id for id in group.fenced if not _confirmed_fenced(case, id)}
    if group.change is not None:  # the one that has all that a failed candidate lacks may be among them
        unconfirmed = {id for id in unconfirmed if not case.may_yet_be_heard(id)}
    wanted = unconfirmed | lost_for_good(case)
    if group.change is not None and group.change.step is Step.REVOKE and group.loss_allowed:
        wanted |= {id for id in (group.change.old,) if not _confirmed_fenced(case, id)}
    return frozenset(id for id in wanted if id in case.seen.members and not case.member(id).cut_off)


def _hears_anybody(case: Case) -> bool:
    looks = any(each.connected and each.heard_seconds <= case.windows.fresh for each in case.seen.observers)
    return looks or any(case.word(id) is not None for id in case.seen.members)


def _confirmed_fenced(case: Case, id: str) -> bool:
    word = case.word(id)
    return word is not None and word.role == "fenced" and word.read_only


def _to_replace(case: Case, group: Group) -> frozenset[str]:
    """Only while a primary takes writes and stays: a fresh replica needs one; until then every copy may be the last.

    Not while paused: whoever said so, a restore among them, is about to change the data that it would copy."""
    primary = case.word(group.primary)
    if group.paused or group.change is not None or case.primary.going:
        return frozenset()
    if primary is None or primary.read_only or not primary.answers:
        return frozenset()
    fenced = {id for id in group.fenced - group.sync_set if case.member(id).cut_off or _confirmed_fenced(case, id)}
    return frozenset(fenced & case.seen.members.keys())
