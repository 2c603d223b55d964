"""A database group in a simulated world: servers, agents, front ends, a slow and lossy bus, a cloud, a controller.

Every step's chance comes from the seed and the step's number, so a story shortened elsewhere goes on the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from simulated_server import Agent, Position, Server, Write, chance, covers, holds, text

from relaunch.bus.messages import DatabaseReport, Probe, TakeRole
from relaunch.databases.failover import decide
from relaunch.databases.group import Decision, Group, Member, Mode, Observer, Seen, Step, Windows
from relaunch.databases.looking import Heard, answers_since, stands_since

TICK = 0.1
FRONT_ENDS = ("f1", "f2")
CONTROLLER = "controller"
LAUNCH_SECONDS = 3.0
WINDOWS = Windows(silent=1.0, stalled=3.0, degrade_after=1.0, replace_after=4.0, fresh=1.2)


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass(slots=True, kw_only=True)
class Physics:
    """What the world and the servers guarantee; each can be taken away to see that it matters."""

    agents_refuse_older: bool = True
    starts_read_only: bool = True
    stores_first: bool = True
    forgets_the_going: bool = False
    decide: Callable[..., Decision] = decide


@dataclass(slots=True)
class Sight:
    outcome: str = "ok"
    since: float = 0.0
    ok_at: float | None = None


@dataclass(slots=True)
class World:
    seed: str
    durability: str = "strict"
    replicas: int = 2
    physics: Physics = field(default_factory=Physics)
    now: float = 1000.0
    jump: float = 0.0  # of the controller's clock
    servers: dict[str, Server] = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)
    launching: list[tuple[float, str]] = field(default_factory=list)
    blocked: set[tuple[str, str]] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    slow: bool = False
    lossy: bool = False
    controller_up: bool = True
    began: float = 1000.0  # the controller that is there did
    crash_soon: bool = False
    lies_in_wait: str = ""  # what happens to the next one that is told to lead
    controller_disk_full: bool = False
    maintenance: bool = False
    cloud_works: bool = True
    history: list[tuple[Group, set[str]]] = field(default_factory=list)  # copies of the store, the newest last
    going: dict[str, float] = field(default_factory=dict)  # replicas being terminated, until when
    told: dict[str, int] = field(default_factory=dict)  # the epoch of each front end's view
    put_back: bool = False  # the store was, at some time
    wanted: str | None = None
    held: bool = False
    mail: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    mailed: int = 0
    sights: dict[tuple[str, str], Sight] = field(default_factory=dict)
    reports: dict[str, tuple[DatabaseReport, float]] = field(default_factory=dict)
    answering: dict[str, float | None] = field(default_factory=dict)  # since when without a gap
    standing: dict[str, tuple[str, float]] = field(default_factory=dict)  # what it has executed, since when
    heard: Heard = field(default_factory=Heard)  # only of who is away
    witnessed: dict[str, tuple[dict[str, Probe], float]] = field(default_factory=dict)
    given: dict[str, tuple[TakeRole, float]] = field(default_factory=dict)
    acked: Position = field(default_factory=dict)
    acks: int = 0
    allowed: bool = False
    failovers: int = 0
    switchovers: int = 0
    struck: int = 0  # that were told to lead
    losses: int = 0
    last: Decision | None = None
    random: Random = field(default_factory=Random)
    group: Group = field(
        default_factory=lambda: Group(name="g", epoch=1, primary="s1", durability="", initialised=True)
    )

    def __post_init__(self) -> None:
        self.random.seed(f"{self.seed}:begin")
        self.group = replace(self.group, durability=self.durability)
        for number in range(1, self.replicas + 2):
            self._launched(f"s{number}", {}, [])

    def _launched(self, id: str, have: Position, binlog: list[Write]) -> None:
        server = Server(id=id, have=dict(have), received=dict(have), binlog=list(binlog), received_at=self.now)
        self.servers[id] = server
        self.agents[id] = Agent(server, heard_at=self.now)
        self.members.add(id)

    # the network

    def open(self, a: str, b: str) -> bool:
        up = all(host not in self.servers or self.servers[host].host_up for host in (a, b))
        return up and (a, b) not in self.blocked and a not in self.cut and b not in self.cut

    def post(self, a: str, b: str, arrive: Callable[[], None]) -> None:
        if not self.open(a, b) or (self.lossy and chance(self.random, 30)):
            return
        delay = self.random.choice((0.0, 0.0, 0.0, TICK, TICK * 2))
        if self.slow:
            delay += self.random.random() * 3
        self.mailed += 1
        self.mail.append((self.now + delay, self.mailed, arrive))

    def _deliver(self) -> None:
        due = [each for each in self.mail if each[0] <= self.now]
        self.mail = [each for each in self.mail if each[0] > self.now]
        self.random.shuffle(due)
        for _, _, arrive in due:
            arrive()

    # one moment

    def tick(self) -> None:
        self.now += TICK
        self._deliver()
        for id in sorted(self.servers):
            self._replicate(self.servers[id])
        self._clients()
        for id in sorted(self.agents):
            self._agent(self.agents[id])
        self._probe()
        self._terminate()
        self._launch()
        if self.controller_up:
            self._control()
        self.check()

    def _replicate(self, replica: Server) -> None:
        for write in replica.take_acknowledgements(self.now):
            self._acked(replica, write)
        source = self.servers.get(replica.source)
        if source is not None and replica.works and replica.receiver_on:
            there, back = self.open(source.id, replica.id), self.open(replica.id, source.id)
            same = replica.connection == (source.id, source.starts)
            if source.host_up and not source.running and there:
                replica.connection = None  # it is told by a reset
            elif source.works and there and (back or same):
                newest = replica.receive(source, self.now, self.random.randint(0, 3))
                if newest is not None and back:
                    stamp = (replica.id, source.starts)
                    delay = self.random.choice((0.0, TICK, TICK * 5))
                    self.mailed += 1
                    arrival = (self.now + delay, self.mailed, lambda: source.inbox.append((stamp, newest)))
                    self.mail.append(arrival)
            elif not back and self.now - replica.received_at > 4:
                replica.connection = None
        replica.apply(self.random.randint(0, 3))

    def _clients(self) -> None:
        """Adversaries: they write wherever anything writable can be reached."""
        for server in self.servers.values():
            if server.writable and any(self.open(front, server.id) for front in FRONT_ENDS):
                for write in server.write(self.now):
                    self._acked(server, write)

    def _acked(self, server: Server, write: Write) -> None:
        if server.id in self.cut:
            return  # the answer reaches nobody
        self.acked[write[0]] = max(self.acked.get(write[0], 0), write[1])
        self.acks += 1

    def _replicas_of(self, primary: Server) -> list[Server]:
        stamp = (primary.id, primary.starts)
        return [each for each in self.servers.values() if each.receiver_on and each.connection == stamp]

    def _agent(self, agent: Agent) -> None:
        server = agent.server
        if not agent.alive or not server.host_up:
            return
        if self.controller_up and self.open(CONTROLLER, server.id):
            agent.heard_at = self.now
        following = [each for each in self._replicas_of(server) if self.open(each.id, server.id)]
        agent.keep_lease(self.now, replicas=len([each for each in following if each.acknowledging]))
        if chance(self.random, 80):
            for write in agent.act(self.now):
                self._acked(server, write)
        report = agent.report(self.now, [f"@{each.id}" for each in following if each.acknowledging])
        old = agent.last_report
        changed = old is None or (old.epoch, old.role, old.answers, old.read_only, old.receiving) != (
            report.epoch, report.role, report.answers, report.read_only, report.receiving,
        )  # fmt: skip
        if changed or self.now - agent.reported_at >= 0.5:
            agent.last_report, agent.reported_at = report, self.now
            self.post(server.id, CONTROLLER, lambda: self._heard(server.id, report))

    def _heard(self, id: str, report: DatabaseReport) -> None:
        if not self.controller_up:
            return
        _, before = self.reports.get(id, (None, 0.0))
        self.standing[id] = stands_since(self.standing.get(id), report, self.now)
        self.answering[id] = answers_since(self.answering.get(id), report, self.now - before, self.now)
        self.reports[id] = (report, self.now)

    def _probe(self) -> None:
        for front in FRONT_ENDS:
            changed = False
            for id in self.members:
                server = self.servers[id]
                sight = self.sights.setdefault((front, id), Sight(since=self.now))
                reached = self.open(front, id) and self.open(id, front)
                outcome = "timeout" if not reached or server.frozen else "ok" if server.running else "refused"
                if outcome != sight.outcome:
                    sight.outcome, sight.since, changed = outcome, self.now, True
                if outcome == "ok":
                    sight.ok_at = self.now
            if self.controller_up and self.open(CONTROLLER, front):
                self.told[front] = max(self.told.get(front, 0), self.group.epoch)
            said = self.witnessed.get(front)
            if changed or said is None or self.now - said[1] >= 0.5:
                probes = {id: self._probed(front, id) for id in self.members}
                self.post(front, CONTROLLER, lambda front=front, probes=probes: self._witness(front, probes))  # type: ignore[misc]

    def _probed(self, front: str, id: str) -> Probe:
        sight = self.sights[front, id]
        ok = None if sight.ok_at is None else self.now - sight.ok_at
        return Probe(outcome=sight.outcome, seconds=self.now - sight.since, ok_seconds=ok)

    def _witness(self, front: str, probes: dict[str, Probe]) -> None:
        if self.controller_up:
            self.witnessed[front] = (probes, self.now)

    # the controller

    def seen(self) -> Seen:
        members = {}
        for id in sorted(self.members):
            report, said = self.reports.get(id, (None, self.began))
            connected = report is not None and self.now - said < 2
            members[id] = Member(
                id=id,
                name=id,
                address=f"@{id}",
                connected=connected,
                away_seconds=self.heard.away_seconds(id, connected, self.now),
                report=report,
                report_seconds=self.now - said,
                answering_seconds=self.now - (self.answering.get(id) or self.now),
                standing_seconds=self.now - self.standing.get(id, ("", self.now))[1],
                cloud_running=self.servers[id].host_up if self.cloud_works else None,
                going=id in self.going,
                cut_off=id in self.cut,
            )
            if self.physics.forgets_the_going and id in self.going:
                del members[id]  # as one that is not listed counts as cut off
        observers = []
        for front in FRONT_ENDS:
            probes, said = self.witnessed.get(front, ({}, self.now))
            heard = self.now - said if front in self.witnessed else float("inf")
            observers.append(
                Observer(
                    id=front, name=front, connected=heard < 2, heard_seconds=heard, probes=probes,
                    epoch=self.told.get(front, 0) if front in self.witnessed else 0,
                )
            )  # fmt: skip
        return Seen(
            now=self.now + self.jump,
            members=members,
            observers=tuple(observers),
            held=frozenset(FRONT_ENDS) if self.held else frozenset(),
            proxies=frozenset(FRONT_ENDS),
            maintenance=self.maintenance,
            wanted_primary=self.wanted,
            watched_seconds=self.now - self.began,
        )

    def _control(self) -> None:
        for _ in range(20):
            decision = self.physics.decide(self.group, self.seen(), WINDOWS, covers)
            self.last = decision
            changed = decision.group != self.group
            if changed and self.controller_disk_full:
                return  # nobody is told what is not stored
            if self.physics.stores_first:
                self._store(decision)
            if changed and self.crash_soon and chance(self.random, 50):
                self.kill_controller()
                return
            self._give(decision)
            if not self.controller_up:
                return
            if not self.physics.stores_first:
                if changed and chance(self.random, 20):
                    self.kill_controller()
                    return
                self._store(decision)
            self.held = decision.hold and (self.held or chance(self.random, 50))
            if not changed:
                return
        raise Broken(f"decides without an end: {self.last.rule if self.last else ''}")

    def _store(self, decision: Decision) -> None:
        old, new = self.group, decision.group
        if new.epoch < old.epoch:
            raise Broken(f"the epoch went back from {old.epoch} to {new.epoch}")
        if new.change is not None and old.change is None:
            self.failovers += new.change.kind == "failover"
            self.switchovers += new.change.kind == "switchover"
            self.wanted = None
        if (
            new.change is not None
            and new.change.step is Step.PROMOTE
            and old.loss_allowed
            and new.primary != old.primary
        ):
            position = dict(part for part in _pairs(new.change.position))
            self.acked = {origin: min(count, position.get(origin, 0)) for origin, count in self.acked.items()}
            self.losses += 1
        told = new.change is not None and new.change.step is Step.PROMOTE and new.primary != old.primary
        if told and new.primary in self.going and not self.overtaken:
            raise Broken(f"{new.primary} is to lead, and is being terminated")
        if new != old:
            self.history = [*self.history[-60:], (new, set(self.members))]
        self.group = new

    def put_store_back(self, copies: int) -> None:
        """As it was so many changes before; what the store knew of instances goes with it."""
        if len(self.history) <= copies:
            return
        self.kill_controller()
        del self.history[len(self.history) - copies :]
        self.group, members = self.history[-1]
        self.members, self.put_back = set(members), True
        self.launching.clear()
        self.going.clear()
        while len(self.members) + len(self.launching) <= self.replicas:
            self._replaced()  # a server of the file without an instance is launched

    @property
    def overtaken(self) -> bool:
        """The store's word is not what is."""
        return any(agent.floor > self.group.epoch for id, agent in self.agents.items() if id not in self.cut)

    def terminate(self, id: str) -> None:
        """Somebody does: it goes on for as long as its decommission scripts take. Who is to lead is spared, and anybody
        while a page says that the store is older: it may lead."""
        spared = self.overtaken or (self.group.change is not None and id == self.group.primary)
        if id in self.members and not spared and len(self.members) > 2:
            self.going[id] = self.now + self.random.choice((TICK, 1.0, 3.0))

    def _terminate(self) -> None:
        for id, due in list(self.going.items()):
            if due > self.now:
                continue
            del self.going[id]
            self.servers[id].die(self.now)
            self.servers[id].host_up = False
            self.cut.add(id)
            self.members.discard(id)
            self._replaced()

    def _replaced(self) -> None:
        name = f"s{len(self.servers) + len(self.launching) + 1}"
        self.launching.append((self.now + LAUNCH_SECONDS, name))

    def _give(self, decision: Decision) -> None:
        for id, order in decision.orders.items():
            given = self.given.get(id)
            if given is not None and given[0] == order and self.now - given[1] < 0.2:
                continue
            if self.crash_soon and chance(self.random, 30):
                self.kill_controller()
                return
            self.given[id] = (order, self.now)
            self.post(CONTROLLER, id, lambda id=id, order=order: self._ordered(id, order))  # type: ignore[misc]
        for id in decision.cut_off:
            if self.cloud_works and chance(self.random, 30):
                self.cut.add(id)
        for id in decision.replace:
            if id in self.members:
                self.cut.add(id)
                self.members.discard(id)
                self._replaced()

    def _ordered(self, id: str, order: TakeRole) -> None:
        agent = self.agents[id]
        if not agent.alive or not agent.server.host_up:
            return
        floor = agent.floor
        agent.take(order, self.now, refuses_older=self.physics.agents_refuse_older)
        if agent.floor < floor:
            raise Broken(f"{id} obeys epoch {agent.floor} after {floor}")

    def _launch(self) -> None:
        for due, id in list(self.launching):
            primary = self.servers.get(self.group.primary or "")
            if due <= self.now and primary is not None and primary.works and primary.id not in self.cut:
                count = len(primary.binlog) - len(primary.waiting)
                binlog = primary.binlog[:count]
                self._launched(id, {origin: number for origin, number in binlog}, binlog)
                self.launching.remove((due, id))

    def start_controller(self) -> None:
        if not self.controller_up:
            self.controller_up, self.began = True, self.now

    def kill_controller(self) -> None:
        self.controller_up = False
        self.reports.clear()
        self.answering.clear()
        self.standing.clear()
        self.heard.away.clear()
        self.witnessed.clear()
        self.given.clear()
        self.crash_soon = False

    # what must hold

    def check(self) -> None:
        group = self.group
        able = [each for each in self.servers.values() if self._can_acknowledge(each)]
        if len(able) > 1:
            raise Broken(f"two writers can acknowledge: {', '.join(each.id for each in able)}")
        epochs = [self.agents[each.id].done[0] for each in self.servers.values() if each.writable]
        if len(epochs) != len(set(epochs)):
            raise Broken(f"two servers are writable at epoch {max(epochs)}")
        if self.overtaken:
            return
        for each in able:
            acking = {r.id for r in self._replicas_of(each) if r.acknowledging and self.open(r.id, each.id)}
            if each.id == group.primary and not acking <= group.sync_set:
                raise Broken(f"{acking - group.sync_set} acknowledge and are not in the sync set")
        self._check_nothing_lost()

    def _can_acknowledge(self, server: Server) -> bool:
        if not server.writable or server.disk_full or not any(self.open(front, server.id) for front in FRONT_ENDS):
            return False
        return not server.required or any(
            each.acknowledging and each.works and self.open(each.id, server.id) for each in self._replicas_of(server)
        )

    def _check_nothing_lost(self) -> None:
        group = self.group
        primary = self.servers.get(group.primary or "")
        if primary is None or (group.change is not None and group.change.step is not Step.GO_BACK):
            return
        if group.change is not None and group.change.position and not primary.writable:
            # It takes no writes before it has all of that: one that has forgotten it never does, and others have it.
            if not any(
                holds(self.servers[id].received, self.acked) for id in {primary.id, *group.sync_set, *group.fenced}
            ):
                raise Broken(f"lost: nobody has {text(self.acked)}, which was acknowledged")
            return
        if not holds(primary.received, self.acked):
            raise Broken(f"lost: {text(self.acked)} was acknowledged, {primary.id} has {text(primary.have)}")
        if group.mode is not Mode.SYNC or group.change is not None:
            return
        if primary.writable and not primary.required and primary.works:
            raise Broken("mode sync, and the primary does not wait for acknowledgements")
        heirs = [self.servers[id] for id in group.sync_set if id != group.primary]
        if group.forgot or any(str(each.incarnation) != group.starts.get(each.id) for each in heirs):
            return
        if not any(holds(each.received, self.acked) for each in heirs):
            raise Broken(f"mode sync, and no member of the sync set has {text(self.acked)}")


def _pairs(position: str) -> list[tuple[str, int]]:
    return [(part.split(":")[0], int(part.split(":")[1])) for part in position.split(",") if part]
