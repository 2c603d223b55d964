"""The simulation's stories, told to a real site: faults in any order, generated from a seed that is printed.

    sudo python drills/stories.py [--dialect mysql] [--stories 5] [--length 24] [--seed N]

The same generator as drills/simulate_failover.py, on a site as bench/failover.py makes it (a front end, a primary, two
replicas, durability strict). What the generator knows and a real machine cannot be asked for without harm to others (a
jumping clock, a full disk, a slow network, a store put back) is calm here. Writers go through the site's own HAProxy,
and straight to every server that has ever led. After each story all faults stop, and then must hold: one server takes
writes, or a page says why not; every acknowledged write is there; and nobody was answered by one server after another
had begun. Where a page says why nobody leads, one server must have every acknowledged write; a story in which that
cannot be known, as one of the servers cannot be read, counts as unchecked. Prints what it does and, last, one line of
JSON; exit status 1 when one of these is not so, when in a story nothing was broken, when most of what was to be broken
could not be, or when no story was checked.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "simulation"))

import rehearsal
from failover import PASSWORD, TEMPLATES, Ack, Group, acks, deployment, init_of, ledger_command, writers
from rehearsal import STATE, until
from rigs import ACT_SECONDS, asked, missing, not_among, sql_words, wait_sleeping, writes_again
from stories import CALM, GOOD_PAGES, invented

from relaunch.cli.client import Client
from relaunch.errors import RelaunchError

STEP_SECONDS = (0.1, 0.3, 1.0, 2.0, 4.0)
END_SECONDS = 240
BLOCK_SECONDS = 30
READ_SECONDS = 60  # until what was received is applied, where nobody leads
TABLE_OF_OURS = "story"
NO_TABLE = "ERROR 1146"


class World:
    """The real group, and what can be done to it. Faults keep what they need to be undone."""

    def __init__(self, client: Client, chosen: random.Random) -> None:
        self.group = Group(client)
        self.random = chosen
        self.frozen: list[int] = []
        self.blocking: list[subprocess.Popen[bytes]] = []
        self.walled: list[int] = []  # processes in whose networks a wall of ours stands
        self.cut: list[str] = []
        self.instances: set[str] = set()  # the cloud's ids of all that were seen to be members
        self.controller_up = True

    @property
    def client(self) -> Client:
        return self.group.client

    def members(self) -> list[dict[str, Any]]:
        return [each for each in self.group.shown()["members"] if each["role"] != "fenced"]

    def member(self) -> dict[str, Any]:
        """The primary is where it hurts: half of all that happens to servers happens to it."""
        members = self.members()
        primary = [each for each in members if each["role"] == "primary"]
        return self.random.choice(primary if primary and self.random.random() < 0.5 else members)

    def note_instances(self) -> None:
        found = [self.client.get(f"/servers/shop/{each['name']}")["cloud_id"] for each in self.group.shown()["members"]]
        self.instances |= {each for each in found if each}

    def act(self, member: dict[str, Any], action: str) -> None:
        """Once it is done."""
        rehearsal.finished(self.client, self.group.act(member, action), within_seconds=ACT_SECONDS)

    # the faults, by the generator's names

    def crash(self) -> None:
        os.kill(self.group.process(self.member()), signal.SIGKILL)

    def power_off(self) -> None:
        self.act(self.member(), "power-off")

    def power_on(self) -> None:
        for each in self.members():
            if not each["connected"]:
                self.group.act(each, "start")

    def freeze(self) -> None:
        self.frozen.append(self.group.process(self.member()))
        os.kill(self.frozen[-1], signal.SIGSTOP)

    def thaw(self) -> None:
        while self.frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.frozen.pop(), signal.SIGCONT)

    def isolate(self) -> None:
        member = self.member()
        self.cut.append(member["name"])
        self.act(member, "cut-off")

    def cut_from_another(self, *, one_way: bool = False) -> None:
        """Two of the group's servers, or one of them and the front end."""
        member = self.member()
        front = {"name": "front1", "address": self.client.get("/servers/shop/front1")["private_address"]}
        other = self.random.choice([each for each in (*self.members(), front) if each["name"] != member["name"]])
        process = self.group.process(member)
        rules = "add table ip story; add chain ip story out { type filter hook output priority 0; };"
        rules += "add chain ip story in { type filter hook input priority 0; };"
        rules += f"add rule ip story out ip daddr {other['address']} drop;"
        if not one_way:
            rules += f"add rule ip story in ip saddr {other['address']} drop"
        self._nft(process, rules, check=True)
        self.walled.append(process)

    def mend(self) -> None:
        while self.walled:
            self._nft(self.walled.pop(), "delete table ip story", check=False)  # its network may be gone
        while self.cut:
            with contextlib.suppress(Exception):  # it may be replaced already
                self.client.post(f"/servers/shop/{self.cut.pop()}/reconnect", {})

    def _nft(self, process: int, rules: str, *, check: bool) -> None:
        words = ("nsenter", f"--net=/proc/{process}/ns/net", "nft", rules)
        subprocess.run(words, check=check, capture_output=True, timeout=10)

    def block_applier(self) -> None:
        member = self.random.choice([each for each in self.members() if each["role"] == "replica"])
        process = self.group.init_process(member)
        words = sql_words(process, f"FLUSH TABLES WITH READ LOCK; SELECT SLEEP({BLOCK_SECONDS})")
        self.blocking.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
        wait_sleeping(process)

    def free_applier(self) -> None:
        while self.blocking:
            process = self.blocking.pop()
            process.terminate()
            process.wait(30)

    def kill_agent(self) -> None:
        os.kill(rehearsal.agent_of(self.client, self.member()["name"]), signal.SIGKILL)

    def kill_controller(self) -> None:
        os.kill(rehearsal.controller_pid(), signal.SIGKILL)
        self.controller_up = False

    def crash_at_a_decision(self) -> None:
        """It has something to decide, and dies within the second in which it does."""
        self.crash()
        time.sleep(self.random.random())
        self.kill_controller()

    def start_controller(self) -> None:
        if not self.controller_up:
            rehearsal.relaunch("controller", "start")
            self.group.client = Client(rehearsal.find_controller(rehearsal.ENVIRONMENT))
            self.controller_up = True

    def a_day_later(self) -> None:
        """The budget of failovers is fresh."""
        self.client.post("/databases/shop/resume", {})

    def switch_over(self) -> None:
        self.client.post("/databases/shop/switchover", {"to": self.member()["name"]})

    def pause(self) -> None:
        self.client.post("/databases/shop/pause", {"reason": "a story"})


FAULTS: dict[str, Callable[[World], None]] = {
    "crash": World.crash,
    "power off": World.power_off,
    "power on": World.power_on,
    "freeze": World.freeze,
    "thaw": World.thaw,
    "cut": World.cut_from_another,
    "cut one way": lambda world: world.cut_from_another(one_way=True),
    "isolate": World.isolate,
    "mend": World.mend,
    "block applier": World.block_applier,
    "free applier": World.free_applier,
    "kill agent": World.kill_agent,
    "kill controller": World.kill_controller,
    "crash at a decision": World.crash_at_a_decision,
    "start controller": World.start_controller,
    "a day later": World.a_day_later,
    "switch over": World.switch_over,
    "pause": World.pause,
    "go on": World.a_day_later,
}
# What breaks something; the others heal, or are what people do.
BREAKING = frozenset({
    "crash", "power off", "freeze", "cut", "cut one way", "isolate", "block applier", "kill agent", "kill controller",
    "crash at a decision",
})  # fmt: skip
OVER = ("start controller", "mend", "thaw", "free applier", "power on", "go on")
WITHOUT_CONTROLLER = frozenset({"thaw", "free applier", "start controller"})


@contextlib.contextmanager
def strays(world: World, table: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Tell it who leads: from then on somebody writes straight to that address, whoever leads."""
    with ExitStack() as stack:
        writing: dict[str, subprocess.Popen[str]] = {}
        numbers = itertools.count()

        def lead(member: dict[str, Any]) -> None:
            address = str(member["address"])
            if address in writing and writing[address].poll() is None:
                return  # one ends before its first write where the server does not take any
            name = f"{table}_{address.replace('.', '_')}_{next(numbers)}"
            words = ledger_command(world.client, name, STATE / f"{name}.stray", "--host", address, "--workers", "1")
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            assert process.stdin is not None
            process.stdin.write(PASSWORD + "\n")
            process.stdin.close()
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
            writing[address] = process

        yield lead


def told(world: World, name: str, faults: list[str], table: str) -> dict[str, Any]:
    """What one story came to. `lost`: None when it could not be known."""
    world.group.wait_redundant(300)
    world.a_day_later()
    world.note_instances()
    before = max((int(entry["id"]) for entry in _trail(world.client)), default=0)
    done: list[str] = []
    not_now: list[str] = []
    for left in STATE.glob(f"{table}*"):
        left.unlink()
    with writers(world.client, table) as out, strays(world, table) as lead:
        lead(world.group.primary())
        until(lambda: _strayed(table), "the first stray writes", within_seconds=30, every_seconds=0.05)
        for fault in faults:
            if world.controller_up:
                with contextlib.suppress(StopIteration, RuntimeError, RelaunchError):  # nobody there: next time
                    world.note_instances()
                    lead(world.group.primary())
            if fault in FAULTS and (world.controller_up or fault in WITHOUT_CONTROLLER):
                (done if _happen(world, fault) else not_now).append(fault)
            time.sleep(world.random.choice(STEP_SECONDS) if fault != CALM else STEP_SECONDS[0])
        for fault in OVER:
            _happen(world, fault)
        ended = _ended(world)
        if ended == "writer" and not writes_again(out):
            ended = "NEITHER: it is whole, and acknowledges no write"
    given = {table: acks(out)} | {file.stem: acks(file) for file in _strayed(table)}
    lost: int | None
    if ended == "writer":
        lost = sum(len(missing(world.client, each, rows)) for each, rows in given.items() if rows)
    else:
        lost = _lost_without_a_writer(world, given)
    changes = _changes(entry for entry in _trail(world.client) if int(entry["id"]) > before)
    together = sorted(itertools.chain(*given.values()), key=lambda ack: ack.moment)
    return {
        "story": name, "faults": done, "not now": not_now, "end": ended, "acknowledged": len(together), "lost": lost,
        "turns": _turns(together), "changes of the primary": changes,
    }  # fmt: skip


def _strayed(table: str) -> list[Path]:
    return [file for file in STATE.glob(f"{table}_*.stray") if file.stat().st_size]


def _happen(world: World, fault: str) -> bool:
    """What cannot be done at this moment, as nobody is there to do it to, is no fault."""
    try:
        FAULTS[fault](world)
    except Exception as error:
        print(f"  {fault}: not now: {type(error).__name__} {str(error)[:80]}", file=sys.stderr, flush=True)
        return False
    print(f"  {fault}", file=sys.stderr, flush=True)
    return True


def _lost_without_a_writer(world: World, given: dict[str, list[Ack]]) -> int | None:
    """How many acknowledged writes the server lacks that lacks the fewest; None when that is not known."""
    with contextlib.suppress(RelaunchError):
        world.note_instances()
    end, lacking = time.monotonic() + READ_SECONDS, list[int | None]()
    while 0 not in lacking and time.monotonic() < end:
        time.sleep(1.0)
        lacking = [_lacking(instance, given) for instance in sorted(world.instances)]
    return fewest(lacking)


def fewest(lacking: list[int | None]) -> int | None:
    """Of servers that lack so many; one that cannot be read, None, may be the one that has all."""
    known = [each for each in lacking if each is not None]
    return min(known) if known and (min(known) == 0 or None not in lacking) else None


def _lacking(instance: str, given: dict[str, list[Ack]]) -> int | None:
    """How many of these that instance does not have; None when it cannot be read."""
    try:
        process = init_of(instance)
        return sum(len(not_among(_rows(process, table), rows)) for table, rows in given.items() if rows)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"  {instance} cannot be read: {str(error)[:200]}", file=sys.stderr, flush=True)
        return None


def _rows(process: int, table: str) -> str:
    try:
        return asked(process, f"SELECT worker, number FROM rack.{table}", seconds=READ_SECONDS)
    except RuntimeError as error:
        if NO_TABLE not in str(error):
            raise
        return ""


def _ended(world: World) -> str:
    """writer | the page that says why there is none."""
    end = time.monotonic() + END_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(Exception):
            world.power_on()
            world.group.wait_redundant(15)
            return "writer"
    pages = [str(page["rule"]) for page in world.group.shown()["pages"]]
    return ", ".join(page for page in pages if page.startswith(GOOD_PAGES)) or f"NEITHER WRITER NOR PAGE: {pages}"


def _turns(given: list[Ack]) -> int:
    """How often another server answered than the one before."""
    return sum(after.server != before.server for before, after in itertools.pairwise(given))


def _trail(client: Client) -> list[dict[str, Any]]:
    """The newest of it, which is more than a story leaves there."""
    return list(client.get("/audit", subject="database:shop", limit=10_000)["entries"])


def _changes(entries: Iterable[dict[str, Any]]) -> int:
    """How often another was made the primary, by the audit trail."""
    return sum(str(each["action"]).endswith((": promote", "given up", ": go back")) for each in entries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", type=int, default=5)
    parser.add_argument("--length", type=int, default=24)
    parser.add_argument("--dialect", choices=sorted(TEMPLATES), default="mariadb")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    print(f"seed {args.seed}", file=sys.stderr, flush=True)
    results: list[dict[str, Any]] = []
    group = deployment(args.dialect)
    with rehearsal.controller() as client:
        client.put("/credentials/DB_PASSWORD", {"value": PASSWORD})
        rehearsal.finished(client, rehearsal.apply(client, group))
        for number in range(args.stories):
            name = f"{args.seed}-{number}"
            print(f"story {name}", file=sys.stderr, flush=True)
            world = World(client, random.Random(name))
            found = told(world, name, list(invented(name, args.length).faults), f"{TABLE_OF_OURS}_{number}")
            client = world.client  # it may be another process now
            results.append(found)
            print(f"  {json.dumps(found)}", file=sys.stderr, flush=True)
            if found["end"] != "writer" and number + 1 < args.stories:
                _begin_anew(client, group)
    report = {"seed": args.seed, **summary(results)}
    print(json.dumps(report))
    if report["wrong"]:
        raise SystemExit(1)


def _begin_anew(client: Client, group: str) -> None:
    """Nobody leads: the next story is told to another group."""
    rehearsal.destroy(client, "shop")
    rehearsal.finished(client, rehearsal.apply(client, group))


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """`wrong`: what must not be so, by story and of all of them. Unchecked writes are not among those acknowledged."""
    wrong = [f"{each['story']}: {why}" for each in results if (why := what_is_wrong(each))]
    checked = [each for each in results if each["lost"] is not None]
    happened = Counter(fault for each in results for fault in each["faults"])
    not_now = Counter(fault for each in results for fault in each["not now"])
    if sum(not_now[fault] for fault in BREAKING) > sum(happened[fault] for fault in BREAKING):
        wrong.append("most of what was to be broken could not be")
    if not checked:
        wrong.append("no story was checked")
    return {
        "stories": len(results), "unchecked": len(results) - len(checked), "faults": dict(happened),
        "not now": dict(not_now), "wrong": wrong, "acknowledged": sum(each["acknowledged"] for each in checked),
        "lost": sum(each["lost"] for each in checked), "ends": dict(Counter(each["end"] for each in results)),
    }  # fmt: skip


def what_is_wrong(found: dict[str, Any]) -> str:
    """Two who answer at once take turns every few milliseconds; one after the other, once for each change."""
    if found["lost"]:
        return f"{found['lost']} acknowledged writes are lost"
    if found["turns"] > found["changes of the primary"]:
        return "two servers took writes at once"
    if str(found["end"]).startswith("NEITHER"):
        return str(found["end"])
    return "" if BREAKING.intersection(found["faults"]) else "nothing was broken"


if __name__ == "__main__":
    STATE.mkdir(parents=True, exist_ok=True)
    main()
