"""The port to DNS: what relaunch asks of whoever serves the zones.

One contract suite (tests/contracts/test_zone.py) runs on every implementation, the in-memory fake included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, Protocol

from relaunch.errors import BadInput, NotFound

TYPES: Final = ("A", "AAAA", "CNAME", "TXT")


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


def zone_of(zones: Sequence[str], name: str) -> str:
    """The zone that holds the name, the longest when several do; NotFound when none."""
    holding = [zone for zone in zones if name == zone or name.endswith("." + zone)]
    if not holding:
        raise NotFound(f"no zone served here holds {name}", hint=f"zones served: {', '.join(zones) or 'none'}")
    return max(holding, key=len)


def excluded_types(type: str) -> tuple[str, ...]:
    """The types that may not stand beside it under one name: a CNAME stands alone."""
    return tuple(t for t in TYPES if t != "CNAME") if type == "CNAME" else ("CNAME",)


def checked(wanted: RecordSet) -> RecordSet:
    """The same with its values sorted; BadInput when it cannot be put into a zone."""
    if wanted.type not in TYPES:
        raise BadInput(
            f"{wanted.name}: records of type {wanted.type} are not kept here", hint=f"one of {', '.join(TYPES)}"
        )
    if not wanted.values:
        raise BadInput(f"{wanted.name} {wanted.type} without a value", hint="remove the record set instead")
    if wanted.type == "CNAME" and len(wanted.values) > 1:
        raise BadInput(f"{wanted.name} can be an alias of one name only")
    try:
        for value in wanted.values:
            if wanted.type in ("A", "AAAA"):
                (IPv4Address if wanted.type == "A" else IPv6Address)(value)
    except AddressValueError as error:
        raise BadInput(f"{wanted.name} {wanted.type}: {error}") from None
    return replace(wanted, values=tuple(sorted(wanted.values)))
