"""A database server and its agent in memory: semi-synchronous AFTER_SYNC, received apart from executed, restarts that
forget relay logs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from relaunch.bus.messages import DatabaseReport, TakeRole

Write = tuple[str, int]  # the server it began on, and its number there
Position = dict[str, int]  # by the server it began on, how many

LEASE_SECONDS = 6.0
SETTLE_SECONDS = 1.0  # for what was received to be applied before the source changes


def text(position: Position) -> str:
    return ",".join(f"{origin}:{count}" for origin, count in sorted(position.items()))


@lru_cache(maxsize=4096)
def parsed(position: str) -> tuple[tuple[str, int], ...]:
    return tuple((part.split(":")[0], int(part.split(":")[1])) for part in position.split(",") if part)


def covers(position: str, other: str) -> bool:
    mine = dict(parsed(position))
    return all(mine.get(origin, 0) >= count for origin, count in parsed(other))


def holds(position: Position, other: Position) -> bool:
    return all(position.get(origin, 0) >= count for origin, count in other.items())


@dataclass(slots=True)
class Server:
    """`binlog` is all it has committed or, as a primary, written before it waits; `relay` is received, not applied."""

    id: str
    host_up: bool = True
    running: bool = True
    frozen: bool = False
    disk_full: bool = False
    applier_blocked: bool = False
    read_only: bool = True
    required: bool = False
    acknowledging: bool = False
    source: str = ""
    receiver_on: bool = False
    connection: tuple[str, int] | None = None  # (source, its start)
    sent: int = 0  # of the source's binlog over this connection
    starts: int = 1
    incarnation: int = 1  # changes whenever relay logs may have been discarded
    binlog: list[Write] = field(default_factory=list)
    have: Position = field(default_factory=dict)
    relay: list[Write] = field(default_factory=list)
    received: Position = field(default_factory=dict)
    waiting: list[Write] = field(default_factory=list)
    inbox: list[tuple[tuple[str, int], Write]] = field(default_factory=list)  # acknowledgements that have arrived
    received_at: float = 0.0
    committed_at: float = 0.0
    waiting_since: float = 0.0
    down_at: float = 0.0
    error: str = ""

    @property
    def works(self) -> bool:
        return self.host_up and self.running and not self.frozen

    @property
    def writable(self) -> bool:
        return self.host_up and self.running and not self.read_only

    def write(self, now: float) -> list[Write]:
        """A client's write; what is acknowledged by it at once."""
        if not self.works or self.read_only or self.disk_full:
            return []
        write = (self.id, self.have.get(self.id, 0) + 1)
        self._commit(write)
        self.received[self.id] = write[1]
        if not self.required:
            self.committed_at = now
            return [write]
        if not self.waiting:
            self.waiting_since = now
        self.waiting.append(write)
        return []

    def _commit(self, write: Write) -> None:
        self.binlog.append(write)
        self.have[write[0]] = write[1]

    def take_acknowledgements(self, now: float) -> list[Write]:
        """What waits up to each acknowledged write is answered to its client."""
        if not self.works:
            return []
        answered: list[Write] = []
        for (_, start), write in self.inbox:
            if start == self.starts and write in self.waiting:
                upto = self.waiting.index(write) + 1
                answered += self.waiting[:upto]
                del self.waiting[:upto]
                self.committed_at = self.waiting_since = now
        self.inbox.clear()
        return answered

    def require(self, required: bool, now: float) -> list[Write]:
        """As a primary; what is let go when it need not wait any more."""
        self.required = required
        released = [] if required else self.waiting
        if not required:
            self.waiting = []
            self.committed_at = now
        return released

    def receive(self, source: Server, now: float, most: int) -> Write | None:
        """The newest write to acknowledge, after up to `most` more have come."""
        if self.connection != (source.id, source.starts):
            if not holds(source.have, self.received):
                self.error = "has writes that the source lacks"
                self.connection = None
                return None
            self.connection = (source.id, source.starts)
            self.sent = next(
                (i for i, (origin, count) in enumerate(source.binlog) if self.received.get(origin, 0) < count),
                len(source.binlog),
            )
        self.error = ""
        self.received_at = now
        newest = None
        for write in source.binlog[self.sent : self.sent + most]:
            self.relay.append(write)
            self.received[write[0]] = write[1]
            newest = write
            self.sent += 1
        return newest if self.acknowledging else None

    def apply(self, most: int) -> None:
        if not self.works or self.applier_blocked or self.disk_full:
            return
        for write in self.relay[:most]:
            self._commit(write)
        del self.relay[:most]

    def stop_receiving(self) -> None:
        self.receiver_on = False
        self.connection = None

    def discard_relay(self) -> None:
        """As a start of replication from a standstill does."""
        self.relay = []
        self.received = dict(self.have)
        self.incarnation += 1

    def die(self, now: float) -> None:
        """The process ends at once: clients that wait get no answer, what is in the binlog stays."""
        self.running = False
        self.down_at = now
        self.waiting = []
        self.inbox = []
        self.stop_receiving()

    def start(self, *, writable: bool) -> None:
        self.running = True
        self.frozen = False
        self.starts += 1
        self.read_only = not writable
        self.required = False
        self.acknowledging = False
        self.discard_relay()


@dataclass(slots=True)
class Agent:
    """`floor` and `order` are on its disk: the highest epoch it began to obey, and what it obeys."""

    server: Server
    alive: bool = True
    floor: int = 0
    order: TakeRole | None = None
    pending: bool = False
    done: tuple[int, str] = (0, "")
    seen_start: int = 1
    taken_at: float = 0.0
    heard_at: float = 0.0
    last_report: DatabaseReport | None = None
    reported_at: float = -1.0

    def start(self) -> None:
        """After its end: a primary's order is not taken again without a fresh one."""
        if not self.alive:
            self.alive = True
            self.pending = self.order is not None and self.order.role != "primary"

    def take(self, order: TakeRole, now: float, *, refuses_older: bool) -> None:
        if order.epoch < self.floor and refuses_older:
            return
        if order != self.order:
            self.taken_at = now
        self.floor = order.epoch
        self.order = order
        self.pending = True

    def act(self, now: float) -> list[Write]:
        """Carry out what is ordered; what gets acknowledged by that. A primary's order ends with its server's start."""
        server = self.server
        if not self.alive or not server.works or self.order is None:
            return []
        if self.seen_start != server.starts:
            self.seen_start = server.starts
            self.pending = self.order.role != "primary"
        if not self.pending:
            return []
        order = self.order
        match order.role:
            case "primary":
                return self._lead(order, now)
            case "replica":
                if self._settles(order, now):
                    return []
                self._follow(order)
            case _:
                server.read_only = True
                server.stop_receiving()
                if order.role == "fenced":
                    server.waiting = []
        self._finished(order)
        return []

    def _lead(self, order: TakeRole, now: float) -> list[Write]:
        server = self.server
        if not server.read_only:
            self._finished(order)
            return server.require(order.required, now)
        if not holds(server.have, dict(parsed(order.position))):
            return []
        server.stop_receiving()
        server.source, server.acknowledging, server.error = "", False, ""
        if server.relay:
            server.discard_relay()
        server.required = order.required
        server.read_only = False
        server.committed_at = server.waiting_since = now
        self._finished(order)
        return []

    def _settles(self, order: TakeRole, now: float) -> bool:
        """Another source means that what is not applied is thrown away: a running applier gets some time first."""
        server = self.server
        if server.source == order.source.removeprefix("@") or not server.relay or not server.source:
            return False
        server.read_only = True
        server.stop_receiving()
        return not server.applier_blocked and now - self.taken_at < SETTLE_SECONDS

    def _follow(self, order: TakeRole) -> None:
        server = self.server
        source = order.source.removeprefix("@")
        server.read_only = True
        server.waiting = []
        if server.source != source or server.acknowledging != order.acknowledge or not server.receiver_on:
            server.stop_receiving()
            if server.source != source and server.relay:
                server.discard_relay()
            server.source, server.acknowledging, server.receiver_on = source, order.acknowledge, True
        self._finished(order)

    def _finished(self, order: TakeRole) -> None:
        self.pending = False
        self.done = (order.epoch, order.role)

    def keep_lease(self, now: float, *, replicas: int) -> None:
        """A primary that hears neither the controller nor a replica takes no more writes."""
        server = self.server
        alone = now - self.heard_at > LEASE_SECONDS and not replicas
        if self.alive and server.works and not server.read_only and alone:
            server.read_only = True
            server.waiting = []

    def report(self, now: float, acknowledgers: list[str]) -> DatabaseReport:
        server = self.server
        answers = server.works
        receiving = answers and server.receiver_on and server.connection is not None
        follows = server.source != ""
        stall = ""
        if answers and not server.read_only:
            stall = "disk full" if server.disk_full else ""
            if server.waiting and now - server.waiting_since > 0.5:
                stall = "no acknowledgement"
        trouble = "" if answers else "frozen" if server.running else "stopped"
        return DatabaseReport(
            dialect="mariadb",
            epoch=self.done[0],
            role=self.done[1],
            answers=answers,
            trouble=trouble,
            trouble_seconds=0.0 if answers else round(now - server.down_at, 1),
            read_only=server.read_only if answers else True,
            executed=text(server.have),
            received=text(server.received),
            source=f"@{server.source}" if follows else "",
            receiving=receiving,
            applying=answers and follows,
            error=server.error,
            lag_seconds=min(float(len(server.relay)), 9.0) if follows else None,
            received_seconds=round(now - server.received_at, 1) if follows else None,
            acknowledging=answers and server.acknowledging,
            required=answers and server.required,
            acknowledgers=acknowledgers,
            write_seconds=None if server.read_only else round(now - server.committed_at, 1),
            started=str(server.incarnation),
            stall=stall,
        )


def chance(random: Random, percent: float) -> bool:
    return random.random() * 100 < percent
