"""The port to DNS: what relaunch asks of whoever serves the zones.

One contract suite (tests/contracts/test_zone.py) runs on every implementation, the in-memory fake included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSet:
    """All records of one name and type. `name` and CNAME values are absolute without the final dot; values sorted."""

    name: str
    type: str  # A | AAAA | CNAME | TXT
    values: tuple[str, ...]
    ttl_seconds: int = 30


class Whatever:
    """Of `expected`: the present value does not matter."""


WHATEVER: Final = Whatever()


class Zone(Protocol):
    @property
    def zones(self) -> tuple[str, ...]:
        """The zones served, without final dot."""
        ...

    async def read(self, name: str, type: str) -> RecordSet | None: ...

    async def replace(self, wanted: RecordSet, *, expected: RecordSet | Whatever | None = WHATEVER) -> None:
        """Set the record set in one atomic update, never delete-then-add.

        `expected`: what must be there now (None: nothing), or Conflict and nothing is changed; left out: whatever is
        there. NotFound when no zone holds the name, Unavailable when the server does not answer.
        """
        ...

    async def remove(self, name: str, type: str) -> None:
        """Gone already is no error."""
        ...

    async def records(self) -> Sequence[RecordSet]: ...
