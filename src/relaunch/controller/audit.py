"""The audit trail: who did what, when, to what, with which result. Only ever added to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.engine import Engine

from relaunch.clock import Clock
from relaunch.controller.log import Secrets
from relaunch.controller.times import stamp
from relaunch.records.schema import audit


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    id: int
    at: str
    who: str
    action: str
    subject: str
    result: str
    detail: dict[str, Any]


class Audit:
    def __init__(self, database: Engine, clock: Clock, known: Secrets) -> None:
        self._database = database
        self._clock = clock
        self._known = known

    def record(self, who: str, action: str, subject: str, result: str, detail: dict[str, Any] | None = None) -> None:
        """`result`: done | refused | failed. Known secrets are masked in `detail`, whoever put them there."""
        with self._database.begin() as connection:
            connection.execute(
                insert(audit).values(
                    at=stamp(self._clock.now()),
                    who=who,
                    action=action,
                    subject=subject,
                    result=result,
                    detail=self._masked(detail or {}),
                )
            )

    def entries(self, *, subject: str | None = None, limit: int = 100) -> list[AuditEntry]:
        """The newest first."""
        query = select(audit).order_by(audit.c.id.desc()).limit(limit)
        if subject:
            query = query.where(audit.c.subject == subject)
        with self._database.connect() as connection:
            return [AuditEntry(**row) for row in connection.execute(query).mappings()]

    def _masked(self, value: Any) -> Any:
        match value:
            case str():
                return self._known.masked(value)
            case dict():
                return {key: self._masked(item) for key, item in value.items()}
            case list() | tuple():
                return [self._masked(item) for item in value]
            case _:
                return value
