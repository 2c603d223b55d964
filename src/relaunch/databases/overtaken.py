"""A stored group that its servers have overtaken: the store was put back from an older copy, they obeyed later orders.

Whatever follows from such a store may be wrong: the primary it names, who may acknowledge, who is fenced. So nothing is
ordered, cut off or replaced until the group is known again: by what all of its servers say, or by a named person.
"""

from __future__ import annotations

from dataclasses import replace

from relaunch.databases.case import Case
from relaunch.databases.group import Group, Mode

OVERTAKEN = "the store is older"


def is_overtaken(case: Case) -> bool:
    return case.group.initialised and _latest(case) > case.group.epoch


def why_not_known(case: Case, primary: str | None = None) -> str:
    """Why the group does not follow from what its servers say, "" when it does. `primary`: who leads, a person says."""
    silent = {id for id in case.seen.members if (word := case.word(id)) is None or not word.answers}
    if primary is not None:
        return f"{case.names([primary])} does not answer" if primary in silent else _strangers(case, primary)
    if silent:
        return f"{case.names(silent)} is not heard, and may be the one that leads"
    leads = _leads(case)
    if leads is None and _newest(case) < _latest(case):
        return (
            f"none of its servers has obeyed the latest orders, those of epoch {_latest(case)}: an instance that is not"
            " in the store may lead, and must not be ended before its data is saved"
        )
    if leads is None:
        return "it is not one server that takes writes by the latest orders"
    address = case.member(leads).address
    others = case.seen.members.keys() - {leads}
    astray = {id for id in others if not _is_held(case, id) and not _follows(case, id, address)}
    if astray:
        return f"{case.names(astray)} does not follow {case.names([leads])}"
    own = case.word(leads)
    if own is not None and own.required and all(_is_held(case, id) for id in others):
        return (
            f"{case.names([leads])} takes no write that no replica has, and none of the store's follows it: one that is"
            " not in it may have acknowledged, and has to be ended first"
        )
    return _strangers(case, leads)


def why_not_newest(case: Case, primary: str) -> str:
    """Why that one may lack what was acknowledged, "" when nothing says so: others know of orders it missed."""
    own = case.word(primary)
    if own is None or own.epoch >= _latest(case):
        return ""
    return (
        f"{case.names([primary])} has obeyed the orders of epoch {own.epoch}, and there were some of epoch"
        f" {_latest(case)}: whoever led then, perhaps an instance that is not in the store, may have newer data"
    )


def known_again(case: Case, primary: str | None = None) -> Group:
    """At an epoch above all: that primary goes on, and whoever may acknowledge is in the sync set, to be proven anew.
    Members that are not heard are fenced. Only when `why_not_known` is "" for the same."""
    leads = primary or _leads(case)
    own = case.word(leads)
    assert leads is not None and own is not None
    words = {id: case.word(id) for id in case.seen.members.keys() - {leads}}
    fenced = {id for id, word in words.items() if word is None or word.role == "fenced"}
    heirs = {id: word.started for id, word in words.items() if word is not None and id not in fenced}
    return replace(
        case.group,
        epoch=_latest(case) + 1,
        primary=leads,
        mode=Mode.BLOCKED if own.required else Mode.ASYNC,
        required=own.required,
        reason="the store was older than what the servers have obeyed",
        since=case.seen.now,
        promoted=case.seen.now,
        sync_set=frozenset(heirs),
        starts=heirs,
        forgot=frozenset(heirs),
        leaving=frozenset(),
        left=frozenset(),
        fenced=frozenset(fenced),
        change=None,
        loss_allowed="",
    )


def _latest(case: Case) -> int:
    obeyed = [each.report.epoch for each in case.seen.members.values() if each.report is not None]
    return max([*obeyed, *(each.epoch for each in case.seen.observers)], default=0)


def _leads(case: Case) -> str | None:
    """The one that takes writes by the latest orders, when nobody else does."""
    writable = {id for id in case.seen.members if (word := case.word(id)) is not None and not word.read_only}
    if len(writable) != 1:
        return None
    (found,) = writable
    word = case.word(found)
    return found if word is not None and (word.role, word.epoch) == ("primary", _newest(case)) else None


def _newest(case: Case) -> int:
    """Of what its own servers have obeyed."""
    return max((word.epoch for id in case.seen.members if (word := case.word(id)) is not None), default=0)


def _strangers(case: Case, leads: str) -> str:
    """Whoever acknowledges and is not known may alone have the last writes: a failover would lose them."""
    own = case.word(leads)
    found = set(own.acknowledgers if own else ()) - {each.address for each in case.seen.members.values()}
    if not found:
        return ""
    return f"{', '.join(sorted(found))} follows {case.names([leads])} and is not in the store: it has to be ended first"


def _is_held(case: Case, id: str) -> bool:
    word = case.word(id)
    return word is not None and word.read_only and word.role == "fenced"


def _follows(case: Case, id: str, address: str) -> bool:
    word = case.word(id)
    return word is not None and word.read_only and word.role == "replica" and word.source == address
