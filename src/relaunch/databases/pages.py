"""What a person should know of a group, whatever is decided about its primary. Pure."""

from __future__ import annotations

from relaunch.bus.messages import DatabaseReport
from relaunch.databases.case import Case
from relaunch.databases.group import Group, Mode, Page
from relaunch.databases.membership import lost, parted_from_primary

FULL = "full of connections"
ALONE_SECONDS = 60.0
LITTLE_ROOM, ENOUGH_BYTES = 0.1, 5_000_000_000  # of its disk less than this share is free, and less than so many bytes


def page_of(case: Case, rule: str, why: str) -> Page:
    """Of a rule about the primary, with its agent's own words where it has any."""
    own = case.word(case.group.primary)
    said = (own.stall or own.trouble) if own is not None else ""
    text = f"{case.primary.name}, primary of {case.group.name}: {why}{f' Its agent says: {said}.' if said else ''}"
    return Page(rule=rule, text=text)


def pages_beside(case: Case, group: Group) -> tuple[Page, ...]:
    """`group`: as it is to be stored now."""
    name, found = group.name, []
    if group.change is None:
        if strangers := _strangers(case, group):
            text = f"{case.names(strangers)} takes writes beside the primary of {name}; it is being fenced."
            found.append(Page(rule="second writer", text=text))
        if away := _away(case, group):
            text = f"{case.names(away)}, replica of {name}, is lost; it is replaced when it stays so."
            found.append(Page(rule="replica lost", text=text))
        found += _of_replicas(case, group)
        found += _of_connections(case)
    found += _of_disks(case, group)
    if diverged := _diverged(case):
        text = f"{case.names(diverged)} has writes that the primary of {name} lacks, and lacks some of its."
        found.append(Page(rule="divergence", text=text))
    if _on_one_copy(case, group):
        what = "writes are on the primary alone, and nobody could take over"
        text = f"Until a replica of {name} is in step {what}: {group.reason}."
        found.append(Page(rule="one copy only", text=text))
    if group.mode is Mode.BLOCKED and case.elapsed(group.since) >= case.windows.degrade_after:
        found.append(Page(rule="commits wait", text=f"{name} acknowledges no write: {group.reason}."))
    return tuple(found)


def _on_one_copy(case: Case, group: Group) -> bool:
    """For longer than it takes to notice, or than a fresh replica of little data needs."""
    if group.mode is Mode.FORMING:
        return bool(group.reason) and case.elapsed(group.since) >= case.windows.degrade_after
    others = group.mode is Mode.ASYNC or (group.mode is Mode.SINGLE and group.fenced & case.seen.members.keys())
    return bool(others) and case.elapsed(group.since) >= ALONE_SECONDS


def _strangers(case: Case, group: Group) -> set[str]:
    words = {id: case.word(id) for id in case.seen.members.keys() - {group.primary}}
    return {id for id, word in words.items() if word is not None and word.answers and not word.read_only}


def _away(case: Case, group: Group) -> set[str]:
    if case.word(group.primary) is None:
        return set()
    return {id for id in group.sync_set - {group.primary or ""} if lost(case, id)}


def _of_replicas(case: Case, group: Group) -> list[Page]:
    """One that receives and does not apply acknowledges all the same, and could never lead."""
    found = []
    for id in sorted(case.seen.members.keys() - {group.primary} - group.fenced):
        word = case.word(id)
        if word is None or not word.answers or word.role != "replica" or word.applying or not word.error:
            continue
        text = f"{case.member(id).name}, replica of {group.name}, does not apply what it receives: {word.error}."
        found.append(Page(rule="replica broken", text=text))
    return found


def _of_connections(case: Case) -> list[Page]:
    """A primary that is well but for that: its agent has a connection of its own, and so have those who look at it."""
    primary, own = case.group.primary or "", case.word(case.group.primary)
    if own is None or not own.answers:
        return []
    observers = [each for each in case.seen.observers if each.connected and each.heard_seconds <= case.windows.fresh]
    full = [each.name for each in observers if (probe := each.probes.get(primary)) and probe.outcome == FULL]
    if not full and not own.full:
        return []
    whom = ", ".join(full) or "those who come"
    return [page_of(case, "out of connections", f"It has no connection left for {whom}.")]


def _of_disks(case: Case, group: Group) -> list[Page]:
    """While there is still time to do something."""
    found = []
    for id in sorted(case.seen.members.keys() - group.fenced):
        word = case.word(id)
        if word is None or word.free_bytes is None or word.disk_bytes is None:
            continue
        if word.free_bytes >= min(ENOUGH_BYTES, LITTLE_ROOM * word.disk_bytes):
            continue
        free = f"{word.free_bytes / 1e6:,.0f} MB of {word.disk_bytes / 1e6:,.0f} MB"
        what = "commits wait" if id == group.primary else "it applies nothing any more"
        text = f"{case.member(id).name} of {group.name}: {free} are free on the disk of its data; at none {what}."
        found.append(Page(rule="disk nearly full", text=f"{text} Make room there."))
    return found


def _diverged(case: Case) -> set[str]:
    primary = case.word(case.group.primary)
    if primary is None or not primary.answers:
        return set()
    words = {id: case.word(id) for id in case.seen.members.keys() - {case.group.primary} - case.group.fenced}
    answering = {id: word for id, word in words.items() if word is not None and word.answers}
    return {id for id, word in answering.items() if _differ(case, primary, word)} | parted_from_primary(case)


def _differ(case: Case, one: DatabaseReport, other: DatabaseReport) -> bool:
    return not case.covers(one.executed, other.executed) and not case.covers(other.executed, one.executed)
