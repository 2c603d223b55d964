"""Stories too rare to be invented: what must happen when, step by step."""

from __future__ import annotations

from collections.abc import Callable

from simulated import CONTROLLER, FRONT_ENDS, Physics, World
from simulated_server import holds, parsed

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
