"""Stories of faults in any order, told to a simulated group: made from a seed, replayed, shortened when one breaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from simulated import CONTROLLER, FRONT_ENDS, WINDOWS, Broken, Physics, World
from simulated_server import chance, covers

from relaunch.databases.case import Case
from relaunch.databases.group import Mode, Step
from relaunch.databases.overtaken import OVERTAKEN, known_again, why_not_known, why_not_newest

CALM = "calm"
FAULTS: dict[str, int] = {
    CALM: 40, "crash": 8, "start": 10, "power off": 3, "power on": 6, "blink": 2, "freeze": 5, "thaw": 8, "cut": 4,
    "cut one way": 4, "isolate": 3, "mend": 10, "slow": 3, "lossy": 2, "fast": 6, "disk full": 2, "disk free": 4,
    "block applier": 3, "free applier": 5, "kill agent": 3, "start agent": 6, "kill controller": 4,
    "crash at a decision": 4, "start controller": 10, "clock jump": 1, "a day later": 6, "switch over": 6,
    "terminate": 2, "put the store back": 1, "controller's disk full": 2, "controller's disk free": 6,
    "candidate crashes": 2, "candidate freezes": 2, "candidate is cut off": 2, "candidate applies nothing": 2,
    "cloud down": 2, "cloud up": 4, "allow loss": 1, "maintenance": 1, "maintenance over": 3, "pause": 1, "go on": 3,
}  # fmt: skip
# Of a server that is told to lead: a moment that is over too soon to be met by chance.
AT_A_PROMOTION = {
    "candidate crashes": "crash", "candidate freezes": "freeze", "candidate is cut off": "isolate",
    "candidate applies nothing": "block applier",
}  # fmt: skip
END_TICKS = 900
PERSON_TICKS = 450
CATCH_UP_TICKS = 1000  # once a person has come: replicas receive one and a half times as fast as clients write
GOOD_PAGES = ("no failover:", "failover waits", "promotion waits", "commits wait")


@dataclass(frozen=True, slots=True)
class Told:
    """How a story ended. `end`: writer | page."""

    steps: int
    failovers: int
    switchovers: int
    struck: int
    losses: int
    acks: int
    end: str
    pages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Story:
    seed: str
    durability: str
    replicas: int
    faults: tuple[str, ...]
    allows_loss: bool = False
    physics: Physics = field(default_factory=Physics)


def invented(seed: str, length: int, physics: Physics | None = None) -> Story:
    random = Random(f"story {seed}")
    faults = tuple(random.choices(list(FAULTS), list(FAULTS.values()), k=length))
    allows = chance(random, 30)
    if not allows:
        faults = tuple(CALM if fault == "allow loss" else fault for fault in faults)
    durability = random.choice(("strict", "available"))
    return Story(seed, durability, random.choice((1, 2, 2, 3)), faults, allows, physics or Physics())


def tell(story: Story) -> Told:
    """Raises Broken when an invariant does not hold, or when it does not end in one writer nor a page that says why."""
    world = World(story.seed, durability=story.durability, replicas=story.replicas, physics=story.physics)
    for _ in range(20):
        world.tick()
    for number, fault in enumerate(story.faults):
        world.random.seed(f"{story.seed}:{number}")
        happen(world, fault)
        for _ in range(world.random.choice((1, 1, 2, 3, 5, 12))):
            world.tick()
            _strike(world)
    world.random.seed(f"{story.seed}:end")
    return ended(world, len(story.faults))


def _strike(world: World) -> None:
    """Before the order has arrived, or some time later; each third time the controller dies as well."""
    change, candidate = world.group.change, world.group.primary
    if not world.lies_in_wait or change is None or change.step is not Step.PROMOTE or candidate not in world.members:
        return
    if chance(world.random, 60):
        happen(world, world.lies_in_wait, candidate)
        world.lies_in_wait = ""
        world.struck += 1
        if chance(world.random, 33):
            world.kill_controller()


def ended(world: World, steps: int = 0) -> Told:
    """All faults stop; people clear the budget and what they had declared."""
    over = "mend", "fast", "cloud up", "maintenance over", "go on", "controller's disk free", "start controller"
    for fault in over:
        happen(world, fault)
    world.crash_soon, world.wanted, world.lies_in_wait = False, None, ""
    for server in world.servers.values():
        server.disk_full = server.applier_blocked = False
    acks, ticks, count = 0, END_TICKS, 0
    while count < ticks:
        for server in world.servers.values():
            server.frozen = False
            if server.id not in world.cut:
                server.host_up = True
                world.agents[server.id].start()
                if not server.running:
                    server.start(writable=not world.physics.starts_read_only)
        if count % 100 == 0:
            world.group = replace(world.group, failovers=())
            acks = world.acks
        if count == PERSON_TICKS and world.last is not None and world.last.rule == OVERTAKEN:
            before = world.group
            _adopt(world)
            ticks += CATCH_UP_TICKS if world.group != before else 0
        world.tick()
        writers = [each.id for each in world.servers.values() if each.writable and each.id not in world.cut]
        settled = world.group.change is None and world.group.mode is Mode.SYNC and world.acks > acks
        if count > 50 and settled and writers == [world.group.primary]:
            return _told(world, steps, "writer")
        count += 1
    pages = tuple(page.rule for page in world.last.pages) if world.last else ()
    if not any(page.startswith(GOOD_PAGES) for page in pages) and not (world.put_back and pages):
        raise Broken(
            f"does not recover: {world.group}, pages {pages}, last rule {world.last.rule if world.last else ''}"
        )
    return _told(world, steps, "page", pages)


def _adopt(world: World) -> None:
    """A person who knows which server has the newest data ends what the store does not know, and says so; not when
    one of those leads, nor against the warning that the one that does has missed orders."""
    there = world.agents.keys() - world.cut
    if there and max(sorted(there), key=lambda id: _has_led(world, id)) not in world.members:
        return
    for id in world.servers.keys() - world.members:
        world.servers[id].die(world.now)
        world.servers[id].host_up = False
        world.cut.add(id)
    world.tick()
    leads = max(sorted(world.members), key=lambda id: _has_led(world, id))
    case = Case(group=world.group, seen=world.seen(), windows=WINDOWS, position_covers=covers)
    leads_still = world.agents[leads].done[1] == "primary" and not why_not_newest(case, leads)
    if leads_still and not why_not_known(case, leads):
        world.group = known_again(case, leads)


def _has_led(world: World, id: str) -> tuple[bool, int]:
    epoch, role = world.agents[id].done[:2]
    return role == "primary", epoch


def _told(world: World, steps: int, end: str, pages: tuple[str, ...] = ()) -> Told:
    return Told(steps, world.failovers, world.switchovers, world.struck, world.losses, world.acks, end, pages)


def happen(world: World, fault: str, to: str = "") -> None:
    random = world.random
    # The primary is where it hurts: half of all that happens to servers happens to it.
    ids = sorted(world.members)
    primary = world.group.primary
    id = to or (primary if primary in world.members and chance(random, 50) else random.choice(ids))
    other = random.choice([*ids, *FRONT_ENDS, CONTROLLER, CONTROLLER])
    server, agent = world.servers[id], world.agents[id]
    match fault:
        case "crash":
            server.die(world.now)
        case "start":
            _start(world)
        case "power off":
            server.die(world.now)
            server.host_up = False
        case "blink":
            _blink(world)
        case "power on":
            for each in world.servers.values():
                each.host_up = True
        case "freeze":
            if server.running:
                server.frozen, server.down_at = True, world.now
        case "thaw":
            for each in world.servers.values():
                each.frozen = False
        case "cut":
            world.blocked |= {(id, other), (other, id)}
        case "cut one way":
            world.blocked.add((id, other))
        case "isolate":
            who = to or random.choice((id, CONTROLLER))
            everybody = (*world.servers, *FRONT_ENDS, CONTROLLER)
            world.blocked |= {(who, each) for each in everybody} | {(each, who) for each in everybody}
        case "mend":
            world.blocked.clear()
        case "slow":
            world.slow = True
        case "lossy":
            world.lossy = True
        case "fast":
            world.slow = world.lossy = False
        case "disk full":
            server.disk_full = True
        case "disk free":
            for each in world.servers.values():
                each.disk_full = False
        case "block applier":
            server.applier_blocked = True
        case "free applier":
            for each in world.servers.values():
                each.applier_blocked = False
        case "kill agent":
            agent.alive = False
        case "start agent":
            for keeper in world.agents.values():
                keeper.start()
        case "kill controller":
            world.kill_controller()
        case "crash at a decision":
            world.crash_soon = True
        case _ if fault in AT_A_PROMOTION:
            world.lies_in_wait = AT_A_PROMOTION[fault]
        case "start controller":
            world.start_controller()
        case "terminate":
            world.terminate(random.choice(ids))
        case "put the store back":
            world.put_store_back(random.choice((1, 2, 3, 6, 12)))
        case "controller's disk full" | "controller's disk free":
            world.controller_disk_full = fault.endswith("full")
        case "clock jump":
            world.jump += random.choice((-7200.0, -5.0, 5.0, 7200.0))
        case _:
            _people(world, fault, random.choice(ids))


def _blink(world: World) -> None:
    """Everybody loses power at once, and the replicas are back first."""
    for each in world.servers.values():
        if each.host_up and each.running:
            each.die(world.now)
            if each.id != world.group.primary:
                each.start(writable=not world.physics.starts_read_only)


def _start(world: World) -> None:
    for each in world.servers.values():
        if each.host_up and not each.running:
            each.start(writable=not world.physics.starts_read_only)


def _people(world: World, fault: str, id: str) -> None:
    match fault:
        case "a day later":
            world.group = replace(world.group, failovers=())
        case "switch over":
            world.wanted = id
        case "cloud down":
            world.cloud_works = False
        case "cloud up":
            world.cloud_works = True
        case "allow loss":
            world.group = replace(
                world.group, loss_allowed="Ann: an old backup is worse", loss_allowed_at=world.now + world.jump,
                loss_allowed_seconds=600.0,
            )  # fmt: skip
        case "maintenance":
            world.maintenance = True
        case "maintenance over":
            world.maintenance = False
        case "pause":
            world.group = replace(world.group, paused="Ann: moving racks")
        case "go on":
            world.group = replace(world.group, paused="")


def shortened(story: Story) -> Story:
    """The same kind of break with as few faults as can be found by making them calm, part by part."""
    kind = _break(story)
    faults = list(story.faults)
    size = len(faults) // 2
    while kind is not None and size:
        for begin in range(0, len(faults), size):
            tried = faults[:begin] + [CALM] * len(faults[begin : begin + size]) + faults[begin + size :]
            if tried != faults and _break(replace(story, faults=tuple(tried))) == kind:
                faults = tried
        size //= 2
    while faults and faults[-1] == CALM and _break(replace(story, faults=tuple(faults[:-1]))) == kind:
        faults.pop()
    return replace(story, faults=tuple(faults))


def _break(story: Story) -> str | None:
    try:
        tell(story)
    except Broken as broken:
        return str(broken)[:20]
    return None


def total(told: Sequence[Told]) -> Counter[str]:
    counted: Counter[str] = Counter(stories=len(told))
    for each in told:
        counted.update(
            steps=each.steps, failovers=each.failovers, switchovers=each.switchovers, candidates_struck=each.struck,
            losses_allowed=each.losses, acknowledged=each.acks, **{f"ended with a {each.end}": 1},
        )  # fmt: skip
    return counted
