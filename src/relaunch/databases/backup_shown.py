"""Backups as the API shows them: plain, the newest first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from relaunch.databases.backups import Backup, Known, Proof, Schedule


def shown_known(known: Known, gone: Iterable[Backup], now: datetime) -> dict[str, Any]:
    """The history the group lives in."""
    logs = known.shipping
    return {
        "binary_logs": logs
        and {
            "at": logs.at.isoformat(),
            "gtid": logs.gtid,
            "server": logs.server,
            "behind_seconds": round((now - logs.at).total_seconds(), 1),
        },
        "backups": shown_backups(known.backups, known.proofs, gone),
        "proofs": [
            {
                "backup": each.backup, "at": each.at.isoformat(), "proven": each.proven, "why": each.why,
                "gtid": each.gtid, "seconds": each.seconds, "tables_compared": each.tables_compared,
            }
            for each in reversed(known.proofs[-20:])
        ],
    }  # fmt: skip


def shown_backups(backups: Sequence[Backup], proofs: Iterable[Proof], gone: Iterable[Backup]) -> list[dict[str, Any]]:
    """`gone`: what retention would remove."""
    proven = {proof.backup: proof.proven for proof in proofs}
    going = {each.id for each in gone}
    return [
        {
            "id": each.id, "kind": each.kind, "parent": each.parent, "server": each.server, "role": each.role,
            "ended": each.ended.isoformat(), "seconds": (each.ended - each.begun).total_seconds(),
            "stored_bytes": each.stored_bytes, "gtid": each.gtid, "fault": each.fault,
            "warnings": list(each.warnings), "would_go": each.id in going, "proven": proven.get(each.id),
        }
        for each in reversed(backups)
    ]  # fmt: skip


def shown_schemas(known: Known, gone: Iterable[Backup]) -> list[dict[str, Any]]:
    """Those of one schema each, the newest first."""
    going = {(each.schema, each.id) for each in gone}
    proven = {(each.schema, each.backup): each.proven for each in known.schema_proofs}
    return [
        {
            "id": each.id, "schema": each.schema, "server": each.server, "ended": each.ended.isoformat(),
            "stored_bytes": each.stored_bytes, "gtid": each.gtid, "fault": each.fault,
            "would_go": (each.schema, each.id) in going, "proven": proven.get((each.schema, each.id)),
        }
        for each in sorted(known.schemas, key=lambda one: (one.ended, one.id), reverse=True)
    ]  # fmt: skip


def shown_schedule(schedule: Schedule) -> dict[str, float | None]:
    """Seconds between two; None is never."""
    intervals = {name: getattr(schedule, name) for name in Schedule.__dataclass_fields__}
    return {name: None if each is None else each.total_seconds() for name, each in intervals.items()}
