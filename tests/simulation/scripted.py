"""Stories too rare to be invented: what must happen when, step by step."""

from __future__ import annotations

from collections.abc import Callable

from simulated import CONTROLLER, Physics, World
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
