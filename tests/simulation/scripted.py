"""Stories too rare to be invented: what must happen when, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from simulated import CONTROLLER, FRONT_ENDS, Broken, Physics, World
from simulated_server import Server, holds, parsed
from stories import happen

from relaunch.databases.group import Mode, Step

MOST_TICKS = 300


def _until(world: World, is_so: Callable[[], bool], what: str) -> None:
    for _ in range(MOST_TICKS):
        if is_so():
            return
        world.tick()
    raise AssertionError(f"never: {what}")


def the_heir_of_a_failed_candidate_restarts(physics: Physics) -> World:
    """A candidate takes writes, which the controller does not hear; it dies, and the one that acknowledged them starts
    again before it has applied them."""
    world = World("scripted", replicas=2, physics=physics)
    _until(world, lambda: world.group.mode is Mode.SYNC and len(world.group.sync_set) == 2, "all in step")
    old = world.servers[world.group.primary or ""]
    old.die(world.now)
    old.host_up = False
    _until(world, lambda: world.group.change is not None and world.group.change.step is Step.PROMOTE, "a candidate")
    change = world.group.change
    assert change is not None
    candidate = world.servers[change.candidate or ""]
    (heir,) = [each for id, each in world.servers.items() if id in world.group.sync_set and id != candidate.id]
    world.blocked.add((candidate.id, CONTROLLER))
    position = dict(parsed(change.position))
    _until(world, lambda: holds(heir.have, position), "the heir has all of before")
    heir.applier_blocked = True
    _until(world, lambda: candidate.writable, "the candidate takes writes")
    before = world.acked.get(candidate.id, 0)
    _until(world, lambda: world.acked.get(candidate.id, 0) > before, "one of its writes is acknowledged")

    candidate.die(world.now)
    candidate.host_up = False
    heir.die(world.now)
    heir.start(writable=False)
    heir.applier_blocked = False
    for _ in range(MOST_TICKS):
        world.tick()
    return world


def a_store_is_put_back_into_a_switchover(physics: Physics) -> World:
    """Its candidate leads by now; the controller, started with the older store, can tell and hears nobody."""
    world = World("scripted", replicas=2, physics=physics)
    _until(world, lambda: world.group.mode is Mode.SYNC and len(world.group.sync_set) == 2, "all in step")
    old, candidate = world.group.primary or "", min(world.group.sync_set)
    world.wanted = candidate
    _until(world, lambda: world.group.change is not None and world.group.change.step is Step.FREEZE, "it is to freeze")
    older, world.wanted = world.group, None
    _until(world, lambda: world.agents[old].done[:2] == (older.epoch, "fenced"), "the old primary stands still")
    world.blocked.add((CONTROLLER, old))
    _until(world, lambda: world.group.change is None and world.group.primary == candidate, "the candidate leads")
    before = world.acked.get(candidate, 0)
    _until(world, lambda: world.acked.get(candidate, 0) > before, "one of its writes is acknowledged")

    world.kill_controller()
    world.group, world.put_back = older, True
    world.blocked = {(each, CONTROLLER) for each in (*world.servers, *FRONT_ENDS)}
    world.mail.clear()
    world.start_controller()
    for _ in range(MOST_TICKS):
        world.tick()
    return world


def the_candidate_of_a_switchover_is_terminated(physics: Physics) -> World:
    """Somebody orders that, or applies a file without it, while the old primary is to stand still; it stops later."""
    world = World("scripted", replicas=2, physics=physics)
    _until(world, lambda: world.group.mode is Mode.SYNC and len(world.group.sync_set) == 2, "all in step")
    candidate = world.wanted = min(world.group.sync_set)
    _until(world, lambda: world.group.change is not None and world.group.change.step is Step.FREEZE, "it is to freeze")
    world.going[candidate] = world.now + 3.0
    _until(world, lambda: world.group.change is None, "its end")
    return world


@dataclass(slots=True, kw_only=True)
class Promotion:
    """A failover under way: one has been chosen to lead; the order reaches it when it fails, or when it is to lead."""

    world: World
    old: Server
    candidate: Server
    heirs: list[Server]

    def fails(self, failure: str, *, restarts: bool = False) -> None:
        """The candidate does; with `restarts` the controller too, and another one looks at what it has stored."""
        happen(self.world, failure, self.candidate.id)
        self._is_told()
        if restarts:
            self.world.kill_controller()
            self.world.start_controller()

    def _is_told(self) -> None:
        self.world.blocked.discard((CONTROLLER, self.candidate.id))

    def comes_back(self, server: Server) -> None:
        """As it has to: read-only, and it obeys."""
        world = self.world
        world.blocked = {pair for pair in world.blocked if server.id not in pair}
        server.host_up = True
        if not server.running:
            server.start(writable=not world.physics.starts_read_only)
        if server is self.old:
            _until(world, lambda: self._is_fenced(server), "the old primary says that it is fenced")
            happen(world, "cloud up")

    def _is_fenced(self, server: Server) -> bool:
        report, _ = self.world.reports.get(server.id, (None, 0.0))
        return report is not None and (report.epoch, report.role) == (self.world.group.epoch, "fenced")

    def leads_unheard(self, only: Server | None = None) -> None:
        """It takes writes, which the controller does not hear; with `only` no other one acknowledges them."""
        world, candidate = self.world, self.candidate
        self._is_told()
        world.blocked.add((candidate.id, CONTROLLER))
        for each in self.heirs:
            if only is not None and each is not only:
                world.blocked |= {(each.id, candidate.id), (candidate.id, each.id)}
        _until(world, lambda: candidate.id in world.acked, "one of its writes is acknowledged")
        _until(world, lambda: only is None or holds(only.have, world.acked), "that is applied there")

    def is_led_by(self, *servers: Server) -> None:
        """Soon, with nothing under way any more."""
        world, ids = self.world, {each.id for each in servers}
        for _ in range(MOST_TICKS):
            if world.group.change is None and world.group.primary in ids:
                return
            world.tick()
        raise Broken(f"never led by {ids}: {world.group}, last rule {world.last.rule if world.last else ''}")

    def waits(self) -> None:
        """For a person: nobody else leads in half a minute, and a page says so."""
        for _ in range(MOST_TICKS):
            self.world.tick()
        pages = [each.rule for each in self.world.last.pages] if self.world.last else []
        if self.world.group.change is None or not {"promotion waits", "failover waits"} & set(pages):
            raise Broken(f"does not wait, pages {pages}: {self.world.group}")


def promotion(
    physics: Physics, *, replicas: int = 2, durability: str = "strict", behind: bool = False, ahead: bool = False
) -> Promotion:
    """All replicas have received the same, and applied it unless they are `behind`; or the candidate has more than the
    others: it is `ahead`."""
    world = World("scripted", durability=durability, replicas=replicas, physics=physics)
    _until(world, lambda: world.group.mode is Mode.SYNC and len(world.group.sync_set) == replicas, "all in step")
    old = world.servers[world.group.primary or ""]
    others = [each for each in world.servers.values() if each is not old]
    for each in others:
        each.applier_blocked = behind
    _until(world, lambda: not behind or all(each.relay for each in others), "they are behind")
    world.blocked = {(front, old.id) for front in FRONT_ENDS}
    _until(world, lambda: all(holds(each.received, old.have) for each in others), "they have all")
    _until(world, lambda: behind or not any(each.relay for each in others), "they have applied it")
    if ahead:
        world.blocked = {(old.id, each.id) for each in others[1:]} | {(each.id, old.id) for each in others[1:]}
        _until(world, lambda: not holds(others[1].received, world.acked), "only one has the last write")
    happen(world, "cloud down")  # or it cuts the old primary off before that can be back
    old.die(world.now)
    old.host_up = False
    world.blocked.clear()
    _until(world, lambda: world.group.change is not None and world.group.change.step is Step.PROMOTE, "a candidate")
    candidate = world.servers[world.group.primary or ""]
    world.blocked.add((CONTROLLER, candidate.id))
    world.mail.clear()
    heirs = [each for each in others if each is not candidate]
    for each in heirs:
        each.applier_blocked = False
    return Promotion(world=world, old=old, candidate=candidate, heirs=heirs)


def one_that_acknowledged_to_a_failed_candidate_is_away(physics: Physics) -> Promotion:
    """Of two heirs only one has what the candidate acknowledged before it died, and that one is not heard."""
    told = promotion(physics, replicas=3)
    has_it = told.heirs[0]
    told.leads_unheard(has_it)
    happen(told.world, "isolate", has_it.id)
    told.fails("crash")
    told.waits()
    return told


def one_that_is_not_told_acknowledges_on_to_a_failed_candidate(physics: Physics) -> Promotion:
    """The candidate leads, and the controller does not hear it; one that is heard, and hears nothing, follows it on."""
    told = promotion(physics, replicas=3)
    told.leads_unheard()
    told.world.blocked.add((CONTROLLER, told.heirs[1].id))
    told.waits()
    return told


def a_loss_is_allowed_while_a_candidate_applies_nothing(physics: Physics) -> Promotion:
    told = promotion(physics, behind=True)
    told.fails("block applier")
    told.waits()
    happen(told.world, "allow loss")
    told.is_led_by(*told.heirs)
    return told


def of_two_the_old_primary_is_to_lead_again(
    physics: Physics, failure: str = "crash", *, restarts: bool = True, before: bool = True
) -> Promotion:
    """Its only replica was to lead and fails; it is back before that or after, and lacks nothing."""
    told = promotion(physics, replicas=1)
    if before:
        told.comes_back(told.old)
    told.fails(failure, restarts=restarts)
    told.waits()
    if not before:
        told.comes_back(told.old)
        told.waits()
    happen(told.world, "allow loss")
    told.is_led_by(told.old)
    return told


def the_old_primary_is_heard_a_second_after_others(physics: Physics) -> Promotion:
    """By a controller that starts again as the only replica, which was to lead, fails."""
    told = promotion(physics, replicas=1)
    told.comes_back(told.old)
    told.world.blocked.add((told.old.id, CONTROLLER))
    told.fails("crash", restarts=True)
    for _ in range(10):
        told.world.tick()
    told.world.blocked.clear()
    told.waits()
    happen(told.world, "allow loss")
    told.is_led_by(told.old)
    return told


def a_candidate_that_alone_has_all_crashes(physics: Physics) -> Promotion:
    """The other lacks what it has received."""
    told = promotion(physics, ahead=True)
    told.fails("crash")
    told.waits()
    return told
