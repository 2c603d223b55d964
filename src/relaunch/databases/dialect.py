"""What relaunch asks of a database server, in words that both dialects have; `mariadb` and `mysql` say it in SQL.

Shipped in the agent: standard library only, Python 3.9. All of it is synchronous and bounded in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Protocol, Sequence


class Session(Protocol):
    """One connection with all rights, autocommit on. Errors of the server are `relaunch.errors` already."""

    def rows(self, statement: str, *values: Any) -> List[Dict[str, Any]]:
        """The result's rows by column name; `%s` stands for a value."""
        ...

    def run(self, statement: str, *values: Any) -> None: ...


@dataclass(frozen=True)
class Source:
    """Whom to follow, and how to log in there (over TLS, its certificate checked against `ca`)."""

    address: str
    port: int
    user: str
    password: str
    ca: str


@dataclass(frozen=True)
class ServerState:
    """A database server as it says itself. Positions are texts of its dialect, "" is the beginning."""

    version: str
    server_id: int
    read_only: bool
    executed: str  # all it has committed, by whatever way
    received: str  # all it has committed or has safely in its relay log: of a replica at least `executed`
    source: str = ""  # address it is set to follow, "" when none
    receiving: bool = False  # its receiver is connected to the source
    applying: bool = False
    error: str = ""  # of receiver or applier, the server's words
    lag_seconds: Optional[float] = None
    delayed: bool = False  # applies late on purpose, or filters: never a primary
    acknowledging: bool = False  # as a replica it acknowledges what it has received, or will once it is connected
    required: bool = False  # as a primary it waits for an acknowledgement, without an end and also with no replica
    acknowledgers: Sequence[str] = ()  # addresses of the replicas connected to it that acknowledge
    waiting_commits: int = 0  # that wait for an acknowledgement at this moment
    history: str = ""  # whose writes it has committed, and up to which: what `executed` does not tell
    arrived: str = ""  # another text as soon as anything, heartbeats included, has come from the source


@dataclass(frozen=True)
class Process:
    """What one session of a server does at the moment. `seconds`: of its statement, in whole ones."""

    id: int
    user: str
    command: str
    seconds: float
    state: str


def processes_of(rows: Sequence[Dict[str, Any]]) -> List[Process]:
    """Of a list of processes as both dialects have it, however they write the names of its columns."""
    found = []
    for row in ({name.lower(): value for name, value in each.items()} for each in rows):
        texts = {name: str(row[name] or "") for name in ("user", "command", "state")}
        found.append(Process(id=int(row["id"]), seconds=float(row["time"] or 0), **texts))
    return found


class Dialect(Protocol):
    """Every verb that changes something may be repeated: done already is done."""

    name: str  # mariadb | mysql

    # positions: pure
    def covers(self, position: str, other: str) -> bool:
        """Whether `position` holds all of `other`. Equal positions cover each other; BadInput when unreadable."""
        ...

    def parted(self, executed: str, history: str, other: str, other_history: str) -> bool:
        """Whether one of two servers ends with a write that the other has passed by without: they will never be the
        same again. False while that is not sure; BadInput when unreadable. The first one leads, or is to: what it has
        besides may be on its way to the other."""
        ...

    # the server
    def state(self, session: Session) -> ServerState: ...

    def processes(self, session: Session) -> Sequence[Process]:
        """All sessions but this one; told also when nothing more fits on the disk."""
        ...

    def is_full(self, session: Session) -> bool:
        """Whether it has no connection left for those who come."""
        ...

    def stop_receiving(self, session: Session) -> None:
        """Receive, and so acknowledge, nothing more, and take no writes; what was received is still applied. Returns
        once that is so."""
        ...

    def follow(self, session: Session, source: Source, *, acknowledge: bool) -> None:
        """Read-only, a replica of `source` from its own position on. A former primary gives up its primary's side."""
        ...

    def wait_applied(self, session: Session, position: str, *, seconds: float) -> bool:
        """Whether all of `position` is applied within the time."""
        ...

    def free_applier(self, session: Session) -> None:
        """When the applier waits for a lock, end the clients' sessions, as one of them holds it."""
        ...

    def promote(self, session: Session, *, required: bool, position: str = "") -> None:
        """Stop following, take the primary's side of acknowledgements, take writes, forget the source: so in order.
        `position`: what it is to have, applied before; what it has received besides may be lost where it cannot be."""
        ...

    def require(self, session: Session, required: bool) -> None:
        """As a primary, wait for acknowledgements from now on, or let go of all commits that wait."""
        ...

    def release(self, session: Session, position: str) -> None:
        """A replica that acknowledges has all of `position`: no commit within it waits any longer for its word."""
        ...

    def fence(self, session: Session) -> None:
        """Take no more writes; cut the clients' sessions. Commits that wait for an acknowledgement are not let go, and
        whoever makes it writable by hand gets none answered."""
        ...

    def follow_nobody(self, session: Session) -> None:
        """Stop and forget replication, stay read-only."""
        ...
