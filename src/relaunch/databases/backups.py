"""What backups there are, which is due, which may go, and whether all is well: pure, from manifests and proofs.

Red is: nothing complete, nothing proven, a proof that failed, a backup or a proof that has not happened on time, a
binary log that is not shipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from relaunch.errors import BadInput

SNAPSHOT = "snapshot"  # of `method`: by the volume; else by what the database server comes with
LATE_FACTOR = 2  # so many times the interval without a backup is too late
LATE_AT_LEAST = timedelta(minutes=10)
LOST_LOG_SECONDS = timedelta(seconds=90)  # the shipper says at least once a minute that it is alive
LONG_AGO = datetime.fromtimestamp(0, UTC)
NEVER_SHIPPED = "no binary log was ever shipped"
NO_BACKUP, NO_PROOF = "there is no complete backup", "no backup was proven yet"
SKEW = timedelta(minutes=10)  # what ended later than so much after now was made under a clock that was wrong
PROVE_AGAIN = timedelta(hours=1)  # a proof that failed
YOUNG = timedelta(minutes=30)  # a history in which what was never there yet is no news
ABANDONED = timedelta(days=1)  # objects without a manifest this old are of a backup that never ended


class Kind(StrEnum):
    FULL = "full"
    INCREMENTAL = "incremental"
    SCHEMA = "schema"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """One complete backup, as its manifest says."""

    id: str
    kind: Kind
    parent: str | None
    server: str
    role: str  # primary | replica
    begun: datetime
    ended: datetime
    gtid: str
    stored_bytes: int
    data_bytes: int
    recipient: str
    warnings: tuple[str, ...] = ()
    fault: str = ""  # what its objects in the store lack; such a backup is no link of any chain
    lineage: str = ""  # the history of data it is of; chains and retention never cross from one to another
    schema: str = ""  # which, of the kind that holds one only
    stored: datetime | None = None  # by the store's clock; None when it was not noted yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One proving run: what was restored and whether it was found right."""

    backup: str
    schema: str = ""  # whose backup, when it holds one schema only
    at: datetime
    proven: bool
    why: str = ""
    gtid: str = ""
    seconds: float = 0.0
    tables_compared: int = 0
    lineage: str | None = None  # of which history; None when it was not noted yet
    chosen: bool = False  # by a person: it need not have been the newest


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How often; None is never. Each can be changed in the deployment file under `database: backups:`."""

    incremental: timedelta | None = timedelta(minutes=10)  # from a replica; from the primary when there is none
    full: timedelta | None = timedelta(days=7)
    primary: timedelta | None = timedelta(days=1)  # a full one from the primary: a replica may be wrong
    prove: timedelta | None = timedelta(hours=4)
    schemas: timedelta | None = timedelta(days=1)  # of each site's schema by itself, proven after each


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The newest `last`, and the newest of so many days, weeks, months and years."""

    last: int = 60
    daily: int = 14
    weekly: int = 6
    monthly: int = 12
    yearly: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipping:
    """What the newest stream of binary logs says of itself."""

    at: datetime
    gtid: str
    server: str
    stream: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One look at the store and at our own records."""

    backups: tuple[Backup, ...]
    proofs: tuple[Proof, ...] = ()  # oldest first
    schemas: tuple[Backup, ...] = ()  # those of one schema each, and the proofs of such
    schema_proofs: tuple[Proof, ...] = ()
    shipping: Shipping | None = None
    failed: tuple[tuple[str, str], ...] = ()  # (what, why) of the newest attempts, when they failed
    unreadable: tuple[str, ...] = ()  # whose manifest is damaged; SCHEMA/ID when they hold one schema only


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    green: bool
    reasons: tuple[str, ...]  # why it is red
    newest: str | None
    newest_proven: str | None


def read_manifest(plain: Mapping[str, Any], *, fault: str = "") -> Backup:
    """BadInput says what is wrong with a manifest that cannot be used."""
    try:
        whole = plain if plain["kind"] != Kind.SCHEMA else {"parent": None, "role": "", "data_bytes": 0, **plain}
        return Backup(
            id=plain["id"],
            kind=Kind(plain["kind"]),
            parent=whole["parent"],
            server=plain["server"],
            role=whole["role"],
            begun=moment(plain["begun"]),
            ended=moment(plain["ended"]),
            gtid=plain["gtid"],
            stored_bytes=int(plain["stored_bytes"]),
            data_bytes=int(whole["data_bytes"]),
            recipient=plain["recipient"],
            warnings=tuple(plain.get("warnings", ())),
            fault=fault,
            lineage=str(plain.get("lineage", "")),
            schema=str(plain.get("schema", "")),
            stored=moment(plain["stored"]) if "stored" in plain else None,
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"a manifest of a backup is not what it should be: {error!r}") from None


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def begun(lineage: str) -> datetime:
    """When a history of data began: its id begins with that."""
    try:
        return datetime.strptime(lineage.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return LONG_AGO


def of_lineage(known: Known, lineage: str) -> Known:
    """What concerns this history only: its backups, and their proofs. Of a proof whose history was not noted, one that
    found no backup counts from the start of this one."""
    backups = tuple(each for each in known.backups if each.lineage == lineage)
    mine, others, since = {each.id for each in backups}, {each.id for each in known.backups}, begun(lineage)

    def is_mine(proof: Proof) -> bool:
        if proof.lineage is not None:
            return proof.lineage == lineage
        return proof.backup in mine or (proof.backup not in others and proof.at >= since)

    proofs = tuple(each for each in known.proofs if is_mine(each))
    schemas = tuple(each for each in known.schemas if each.lineage == lineage)
    return replace(known, backups=backups, proofs=proofs, schemas=schemas)


def chain(backups: Iterable[Backup], last: str) -> tuple[Backup, ...]:
    """From the full one to `last`; BadInput names the link that is missing."""
    known = {backup.id: backup for backup in backups}
    found: dict[str, Backup] = {}
    wanted: str | None = last
    while wanted is not None:
        if wanted not in known:
            on = f", which {[*found][-1]} builds on" if found else ""
            raise BadInput(f"the backup {wanted}{on} is not in the store")
        if known[wanted].fault:
            raise BadInput(f"the backup {wanted} is damaged: {known[wanted].fault}")
        if wanted in found:
            raise BadInput(f"the backup {wanted} builds on itself")
        found[wanted] = known[wanted]
        wanted = known[wanted].parent
    return tuple(reversed(found.values()))


def whole(backups: Iterable[Backup]) -> frozenset[str]:
    """The ids of those that can be restored: in one go, as there may be a thousand in a chain."""
    above: dict[str | None, list[str]] = {}
    for each in backups:
        if not each.fault:
            above.setdefault(each.parent, []).append(each.id)
    found: set[str] = set()
    waiting = above.get(None, [])
    while waiting:
        if (id := waiting.pop()) not in found:
            found.add(id)
            waiting += above.get(id, ())
    return frozenset(found)


def newest(backups: Iterable[Backup]) -> Backup | None:
    """The newest that can be restored."""
    every = tuple(backups)
    fit = whole(every)
    return max((each for each in every if each.id in fit), key=lambda each: (each.ended, each.id), default=None)


def due(
    backups: Sequence[Backup], proofs: Sequence[Proof], schedule: Schedule, now: datetime, *, has_replica: bool
) -> tuple[str, str] | None:
    """The most urgent of (full | incremental | prove, replica | primary) that it is time for, None when nothing is."""
    side = "replica" if has_replica else "primary"
    mine = [each for each in backups if each.role == side]
    fulls = [each for each in mine if each.kind is Kind.FULL]
    if _passed(fulls, schedule.full, now):
        return "full", side
    if _passed([each for each in backups if each.role == "primary"], schedule.primary, now):
        return "full", "primary"
    made = [each for each in backups if each.kind is Kind.FULL and not of_the_future(each.ended, now)]
    unproven_full = max((min(each.ended, each.stored or each.ended) for each in made), default=None)
    proved = next((proof for proof in latest_first(proofs, now) if not proof.chosen), None)
    if (
        schedule.prove
        and unproven_full
        and (not proved or proved.at < unproven_full or _again(proved, schedule.prove, now))
    ):
        return "prove", ""
    if _passed(mine, schedule.incremental, now):
        return "incremental", side
    return None


def _again(last: Proof, interval: timedelta, now: datetime) -> bool:
    """Whether it is time for the next proof."""
    return now - last.at >= (interval if last.proven else min(interval, PROVE_AGAIN))


def _passed(backups: Sequence[Backup], interval: timedelta | None, now: datetime) -> bool:
    if interval is None:
        return False
    last = max((at for each in backups if (at := made_at(each, now)) is not None), default=None)
    return last is None or now - last >= interval


def made_at(backup: Backup, now: datetime) -> datetime | None:
    """When it was begun; by the store's clock when the server's was ahead, None when that one is too."""
    at = backup.stored if of_the_future(backup.ended, now) else backup.begun
    return None if at is None or of_the_future(at, now) else at


def begun_at_the_latest(backup: Backup) -> datetime:
    """By the server's clock, or the store's when that was behind."""
    return backup.begun if backup.stored is None else min(backup.begun, backup.stored - (backup.ended - backup.begun))


def of_the_future(at: datetime, now: datetime) -> bool:
    """By a clock that was wrong: what is of then may not keep the next one from being made."""
    return at > now + SKEW


def of_the_past(proofs: Iterable[Proof], now: datetime) -> list[Proof]:
    """Those whose time says something."""
    return [each for each in proofs if not of_the_future(each.at, now)]


def status(known: Known, schedule: Schedule, now: datetime) -> Status:
    reasons: list[str] = []
    best = newest(known.backups)
    proven = _last_proven(known, now)
    if best is None:
        reasons.append(NO_BACKUP)
    elif schedule.incremental and now - best.ended > max(LATE_FACTOR * schedule.incremental, LATE_AT_LEAST):
        reasons.append(f"the newest backup is of {_shown(best.ended)}: the next has not happened on time")
    fulls = [each for each in known.backups if each.kind is Kind.FULL]
    if schedule.full and fulls and now - max(each.ended for each in fulls) > LATE_FACTOR * schedule.full:
        reasons.append("the weekly full backup has not happened on time")
    primary = [each.ended for each in known.backups if each.role == "primary"]
    if schedule.primary and primary and now - max(primary) > LATE_FACTOR * schedule.primary:
        reasons.append("the backup of the primary has not happened on time")
    future = [each for each in known.backups if of_the_future(each.ended, now)]
    if future:
        reasons.append(is_ahead(future[-1]))
    fit = whole(known.backups)
    broken = [each.id for each in known.backups if each.id not in fit]
    if broken:
        reasons.append(f"links are missing or damaged below {_some(broken)}")
    if known.unreadable:
        reasons.append(f"the manifest of {_some(known.unreadable)} cannot be read")
    reasons += _wrong_with_proofs(known, proven, schedule, now)
    if known.shipping is None:
        reasons.append(NEVER_SHIPPED)
    elif of_the_future(known.shipping.at, now):
        reasons.append(
            f"the newest binary log is of a time to come: is a clock wrong on {known.shipping.server}, or here?"
        )
    elif now - known.shipping.at > LOST_LOG_SECONDS:
        reasons.append(f"no binary log was shipped since {_shown(known.shipping.at)}")
    reasons += [f"{what} failed: {why}" for what, why in known.failed]
    return Status(
        green=not reasons,
        reasons=tuple(reasons),
        newest=best.id if best else None,
        newest_proven=proven.backup if proven else None,
    )


def _some(ids: Sequence[str]) -> str:
    return f"{', '.join(ids[:3])}{' …' if len(ids) > 3 else ''}"


def is_ahead(backup: Backup) -> str:
    return f"{backup.id} is of a time to come: is a clock wrong on {backup.server}, or here?"


def latest_first(proofs: Iterable[Proof], now: datetime) -> list[Proof]:
    return sorted(of_the_past(proofs, now), key=lambda each: each.at, reverse=True)


def _last_proven(known: Known, now: datetime) -> Proof | None:
    """Of what can be restored still."""
    every, fit = latest_first(known.proofs, now), whole(known.backups)
    return next((each for each in every if each.proven and each.backup in fit), None)


def last_failed(every: Iterable[Proof], backups: Iterable[Backup]) -> Proof | None:
    """The last failure that stands: neither this backup nor a later one was proven since. `every`: the latest first."""
    ended = {each.id: each.ended for each in backups}
    proven: datetime | None = None  # the end of the latest that was
    for proof in every:
        of = ended.get(proof.backup, LONG_AGO)
        if proof.proven:
            proven = of if proven is None else max(proven, of)
        elif proven is None or proven < of:
            return proof
    return None


def _wrong_with_proofs(known: Known, proven: Proof | None, schedule: Schedule, now: datetime) -> list[str]:
    """`proven`: the last of what is there."""
    every = latest_first(known.proofs, now)
    failed = last_failed(every, known.backups)
    last = next((each for each in every if not each.chosen), None)
    if failed is not None:
        why = f"the proof of {failed.backup} failed: {failed.why}"
    elif proven is None:
        why = NO_PROOF
    elif schedule.prove and now - (at := (last or every[-1]).at) > LATE_FACTOR * schedule.prove:
        why = f"the last proof is of {_shown(at)}: the next has not happened on time"
    else:
        return []
    # One of a time to come is told of only until another proof is right: nobody could do anything about it.
    ahead = [each.backup for each in known.proofs if of_the_future(each.at, now)]
    told = f"a proof of {ahead[-1]} is of a time to come: is the clock wrong here, or was it?" if ahead else ""
    return [why, told] if told else [why]


def _shown(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def to_go(
    backups: Sequence[Backup], proofs: Iterable[Proof], retention: Retention, now: datetime
) -> tuple[Backup, ...]:
    """What retention no longer keeps, oldest first. A backup stays while one that builds on it stays; so does the
    chain that was proven last, and everything newer than it; one whose chain is broken goes once a newer is whole."""
    ordered = sorted(backups, key=lambda each: (each.ended, each.id), reverse=True)
    ids = whole(backups)
    fit = [each for each in ordered if each.id in ids]
    if not fit:
        return ()
    wanted = {each.id for each in fit[: retention.last]}
    for count, period in (
        (retention.daily, "%Y-%m-%d"), (retention.weekly, "%G-%V"), (retention.monthly, "%Y-%m"),
        (retention.yearly, "%Y"),
    ):  # fmt: skip
        firsts: dict[str, str] = {}
        for each in fit:
            firsts.setdefault(each.ended.strftime(period), each.id)
        wanted |= set(list(firsts.values())[:count])
    proven = [proof for proof in of_the_past(proofs, now) if proof.proven and proof.backup in ids]
    if proven:
        safe = max(proven, key=lambda each: each.at).backup
        since = next(each.ended for each in fit if each.id == safe)
        wanted |= {safe} | {each.id for each in fit if each.ended >= since}
    else:
        wanted |= {each.id for each in fit}  # nothing was proven: any of them may be the only good one
    kept = {link.id for each in wanted for link in chain(backups, each)}
    kept |= {each.id for each in ordered if each.ended > fit[0].ended}
    return tuple(each for each in reversed(ordered) if each.id not in kept)
