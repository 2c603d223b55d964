"""Backups of one schema each: which is due, which is to be proven, what is red, what may go. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType

from relaunch.databases.backups import (
    LATE_AT_LEAST,
    LATE_FACTOR,
    LONG_AGO,
    PROVE_AGAIN,
    Backup,
    Known,
    Proof,
    Retention,
    Schedule,
    is_ahead,
    last_failed,
    latest_first,
    made_at,
    of_the_future,
    of_the_past,
    to_go,
)

REPLACED = "-replaced-"  # in the id of one that was made because another took its place, and not by the schedule
TRY_AGAIN = timedelta(hours=1)  # a schema that could not be dumped
NOT_TRIED: Mapping[str, datetime] = MappingProxyType({})
PROVEN_WITHIN = timedelta(hours=2)


def due_schema(
    known: Known, wanted: Iterable[str], schedule: Schedule, now: datetime, tried: Mapping[str, datetime] = NOT_TRIED
) -> str | None:
    """The schema whose backup is the most overdue; those that have none come first. `tried`: when one was last begun of
    each; where that came to nothing the others go on for an hour."""
    if schedule.schemas is None:
        return None
    ages = []
    for schema in wanted:
        made = [at for each in _scheduled(known, schema) if (at := made_at(each, now)) is not None]
        age = now - max(made) if made else timedelta.max
        begun = tried.get(schema)
        lately = begun is not None and abs(now - begun) < TRY_AGAIN and age > now - begun + schedule.schemas / 2
        if age >= schedule.schemas and not lately:
            ages.append((age, schema))
    return max(ages, key=lambda each: (each[0], each[1]), default=(None, None))[1]


def unproven(known: Known, wanted: Iterable[str], schedule: Schedule, now: datetime) -> tuple[Backup, ...]:
    """The newest of each schema that nobody has proven yet."""
    if schedule.schemas is None or schedule.prove is None:
        return ()
    found = []
    for schema in sorted(wanted):
        newest = newest_of(known, schema, now)
        if newest is None:
            continue
        proof = _proof_of(known, newest, now)
        if proof is None or (not proof.proven and now - proof.at >= PROVE_AGAIN):
            found.append(newest)
    return tuple(found)


def red_schemas(known: Known, wanted: Iterable[str], schedule: Schedule, now: datetime) -> tuple[str, ...]:
    """Why they are red, one reason for each that is."""
    if schedule.schemas is None:
        return ()
    reasons = (_wrong(known, schema, schedule, schedule.schemas, now) for schema in sorted(wanted))
    return tuple(reason for reason in reasons if reason)


def _wrong(known: Known, schema: str, schedule: Schedule, interval: timedelta, now: datetime) -> str:
    damaged = [each.id for each in known.schemas if each.schema == schema and each.fault]
    ahead = [each for each in known.schemas if each.schema == schema and of_the_future(each.ended, now)]
    newest = newest_of(known, schema, now)
    if damaged:
        return f"schema {schema}: {damaged[-1]} is damaged"
    if ahead:
        return f"schema {schema}: {is_ahead(ahead[-1])}"
    if newest is None:
        return no_backup(schema)
    if now - newest.ended > max(LATE_FACTOR * interval, LATE_AT_LEAST):
        return f"schema {schema}: its newest backup is {newest.id}: the next has not happened on time"
    mine = [each for each in _scheduled(known, schema) if not of_the_future(each.ended, now)]
    made = [each for each in known.schema_proofs if each.schema == schema and each.backup in {one.id for one in mine}]
    failed = last_failed(latest_first(made, now), mine)
    if failed is not None:
        return f"schema {schema}: the proof of {failed.backup} failed: {failed.why}"
    proven = {each.backup for each in of_the_past(made, now) if each.proven}
    last = max((each.ended for each in mine if each.id in proven), default=LONG_AGO)
    waiting = min((each for each in mine if each.ended > last), key=lambda each: (each.ended, each.id), default=None)
    if waiting is not None and schedule.prove is not None and now - waiting.ended > PROVEN_WITHIN:
        return f"schema {schema}: {waiting.id} is not proven yet"
    return ""


def no_backup(schema: str) -> str:
    return f"schema {schema}: there is no backup of it by itself"


def newest_of(known: Known, schema: str, now: datetime) -> Backup | None:
    """By the schedule, and not of a time to come."""
    mine = [each for each in _scheduled(known, schema) if not of_the_future(each.ended, now)]
    return max(mine, key=lambda each: (each.begun, each.id), default=None)


def _scheduled(known: Known, schema: str) -> list[Backup]:
    """Those by the schedule."""
    mine = (each for each in known.schemas if each.schema == schema)
    return [each for each in mine if not each.fault and REPLACED not in each.id]


def _proof_of(known: Known, backup: Backup, now: datetime) -> Proof | None:
    """The last of it."""
    made = of_the_past(known.schema_proofs, now)
    mine = [each for each in made if (each.schema, each.backup) == (backup.schema, backup.id)]
    return max(mine, key=lambda each: each.at, default=None)


def schemas_to_go(
    schemas: Sequence[Backup], proofs: Sequence[Proof], retention: Retention, now: datetime
) -> tuple[Backup, ...]:
    """What retention no longer keeps, of each schema of each history by itself: also of one that is no site's any
    more."""
    gone: list[Backup] = []
    for lineage, schema in sorted({(each.lineage, each.schema) for each in schemas}):
        mine = [each for each in schemas if (each.lineage, each.schema) == (lineage, schema)]
        gone += to_go(mine, [each for each in proofs if each.schema == schema], retention, now)
    return tuple(gone)
