"""DNS in memory: passes the same contract suite as a real server, for tests of what stands on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as changed

from relaunch.dns.zone import WHATEVER, RecordSet, Whatever, checked, excluded_types, zone_of
from relaunch.errors import Conflict, Unavailable


class FakeZone:
    """`answers = False` is a server that is gone."""

    def __init__(self, zones: Sequence[str]) -> None:
        self._zones = tuple(zones)
        self._records: dict[tuple[str, str], RecordSet] = {}
        self.answers = True

    @property
    def zones(self) -> tuple[str, ...]:
        return self._zones

    async def read(self, name: str, type: str) -> RecordSet | None:
        self._reach()
        return self._records.get((name, type))

    async def replace(self, wanted: RecordSet, *, expected: RecordSet | Whatever | None = WHATEVER) -> None:
        wanted = checked(wanted)
        zone_of(self._zones, wanted.name)
        self._reach()
        present = self._records.get((wanted.name, wanted.type))
        if not isinstance(expected, Whatever) and _values(present) != _values(expected):
            raise Conflict(f"{wanted.name} {wanted.type} is not what was expected", hint="read it again, then decide")
        for other in excluded_types(wanted.type):
            if (wanted.name, other) in self._records:
                raise Conflict(f"{wanted.name} has a {other} record, which excludes a {wanted.type} beside it")
        self._records[wanted.name, wanted.type] = wanted

    async def remove(self, name: str, type: str) -> None:
        self._reach()
        self._records.pop((name, type), None)

    async def records(self) -> Sequence[RecordSet]:
        self._reach()
        return [self._records[key] for key in sorted(self._records)]

    def _reach(self) -> None:
        if not self.answers:
            raise Unavailable("the DNS server does not answer")


def _values(found: RecordSet | None) -> tuple[str, ...]:
    return changed(found, values=tuple(sorted(found.values))).values if found else ()
