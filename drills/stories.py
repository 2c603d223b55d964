"""The simulation's stories, told to a real site: faults in any order, generated from a seed that is printed.

    sudo python drills/stories.py [--stories 5] [--length 24] [--seed N]

The same generator as drills/simulate_failover.py, on a site as bench/failover.py makes it (a front end, a primary, two
replicas, durability strict). What the generator knows and a real machine cannot be asked for without harm to others (a
jumping clock, a full disk, a slow network, a store put back) is calm here. Writers go through the site's own HAProxy,
and straight to every server that has ever led. After each story all faults stop, and then must hold: one server takes
writes, or a page says why not; every acknowledged write is there; and nobody was answered by one server after another
had begun. Prints what it does and, last, one line of JSON; exit status 1 when one of these is not so.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "simulation"))

import rehearsal
from failover import DEPLOYMENT, PASSWORD, Ack, Group, acks, ledger_command, writers
from rehearsal import STATE
from rigs import Rig, missing
from stories import CALM, GOOD_PAGES, invented

from relaunch.cli.client import Client

STEP_SECONDS = (0.1, 0.3, 1.0, 2.0, 4.0)
END_SECONDS = 240
BLOCK_SECONDS = 30
TABLE_OF_OURS = "story"


class World:
    """The real group, and what can be done to it. Faults keep what they need to be undone."""

    def __init__(self, client: Client, chosen: random.Random) -> None:
        self.group = Group(client)
        self.random = chosen
        self.frozen: list[int] = []
        self.blocking: list[subprocess.Popen[bytes]] = []
        self.walled: list[int] = []  # processes in whose networks a wall of ours stands
        self.cut: list[str] = []
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

    # the faults, by the generator's names

    def crash(self) -> None:
        os.kill(self.group.process(self.member()), signal.SIGKILL)

    def power_off(self) -> None:
        self.group.act(self.member(), "power-off")

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
        self.group.act(member, "cut-off")

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
        self._nft(process, rules)
        self.walled.append(process)

    def mend(self) -> None:
        while self.walled:
            self._nft(self.walled.pop(), "delete table ip story")
        while self.cut:
            with contextlib.suppress(Exception):  # it may be replaced already
                self.client.post(f"/servers/shop/{self.cut.pop()}/reconnect", {})

    def _nft(self, process: int, rules: str) -> None:
        words = ("nsenter", f"--net=/proc/{process}/ns/net", "nft", rules)
        subprocess.run(words, check=False, capture_output=True, timeout=10)

    def block_applier(self) -> None:
        member = self.random.choice([each for each in self.members() if each["role"] == "replica"])
        rig = Rig(self.client, self.group)
        self.blocking.append(rig.sql(member, f"FLUSH TABLES WITH READ LOCK; SELECT SLEEP({BLOCK_SECONDS})"))

    def free_applier(self) -> None:
        while self.blocking:
            process = self.blocking.pop()
            process.terminate()
            process.wait(30)

    def kill_agent(self) -> None:
        def is_it(words: list[str]) -> bool:
            return "relaunch-agent.pyz" in " ".join(words)

        os.kill(rehearsal.process_of(self.client, self.member()["name"], is_it), signal.SIGKILL)

    def kill_controller(self) -> None:
        if self.controller_up:
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
OVER = ("mend", "thaw", "free applier", "start controller", "power on", "go on")
WITHOUT_CONTROLLER = frozenset({"thaw", "free applier", "start controller", "kill controller"})


@contextlib.contextmanager
def strays(client: Client, table: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Tell it who leads: from then on somebody writes straight to that address, whoever leads."""
    with ExitStack() as stack:
        known: set[str] = set()

        def lead(member: dict[str, Any]) -> None:
            address = str(member["address"])
            if address in known:
                return
            known.add(address)
            name = f"{table}_{address.replace('.', '_')}"
            words = ledger_command(client, name, STATE / f"{name}.stray", "--host", address, "--workers", "1")
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            assert process.stdin is not None
            process.stdin.write(PASSWORD + "\n")
            process.stdin.close()
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)

        yield lead


def told(world: World, name: str, faults: list[str], table: str) -> dict[str, Any]:
    """What one story came to."""
    world.group.wait_redundant(300)
    world.a_day_later()
    done: list[str] = []
    for left in STATE.glob(f"{table}*"):
        left.unlink()
    with writers(world.client, table) as out, strays(world.client, table) as lead:
        for fault in faults:
            if world.controller_up:
                with contextlib.suppress(StopIteration):
                    lead(world.group.primary())
            if fault in FAULTS and (world.controller_up or fault in WITHOUT_CONTROLLER):
                _happen(world, fault, done)
            time.sleep(world.random.choice(STEP_SECONDS) if fault != CALM else STEP_SECONDS[0])
        for fault in OVER:
            _happen(world, fault, [])
        ended = _ended(world)
        time.sleep(1.0)
    given = {table: acks(out)} | {
        file.stem: acks(file) for file in STATE.glob(f"{table}_*.stray") if file.stat().st_size
    }
    lost = 0
    if ended == "writer":
        lost = sum(missing(world.client, each, rows) for each, rows in given.items() if rows)
    changes = _changes(world.client)
    together = sorted(itertools.chain(*given.values()), key=lambda ack: ack.moment)
    return {
        "story": name, "faults": done, "end": ended, "acknowledged": len(together), "lost": lost,
        "turns": _turns(together), "changes of the primary": changes,
    }  # fmt: skip


def _happen(world: World, fault: str, done: list[str]) -> None:
    """What cannot be done at this moment, as nobody is there to do it to, is no fault."""
    try:
        FAULTS[fault](world)
    except Exception as error:
        print(f"  {fault}: not now: {type(error).__name__} {str(error)[:80]}", file=sys.stderr, flush=True)
        return
    print(f"  {fault}", file=sys.stderr, flush=True)
    done.append(fault)


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


def _changes(client: Client) -> int:
    """How often another was made the primary, by the audit trail, at the most of what it keeps here."""
    entries = client.get("/audit", subject="database:shop", limit=1000)["entries"]
    return sum(str(each["action"]).endswith((": promote", "given up", ": go back")) for each in entries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", type=int, default=5)
    parser.add_argument("--length", type=int, default=24)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    print(f"seed {args.seed}", file=sys.stderr, flush=True)
    results: list[dict[str, Any]] = []
    with rehearsal.controller() as client:
        client.put("/credentials/DB_PASSWORD", {"value": PASSWORD})
        rehearsal.finished(client, rehearsal.apply(client, DEPLOYMENT))
        before = _changes(client)
        for number in range(args.stories):
            name = f"{args.seed}-{number}"
            print(f"story {name}", file=sys.stderr, flush=True)
            world = World(client, random.Random(name))
            found = told(world, name, list(invented(name, args.length).faults), f"{TABLE_OF_OURS}_{number}")
            client = world.client  # it may be another process now
            found["changes of the primary"], before = found["changes of the primary"] - before, _changes(client)
            results.append(found)
            print(f"  {json.dumps(found)}", file=sys.stderr, flush=True)
    wrong = [each["story"] for each in results if _is_wrong(each)]
    count = Counter(fault for each in results for fault in each["faults"])
    report = {
        "seed": args.seed, "stories": len(results), "faults": dict(count), "wrong": wrong,
        "acknowledged": sum(each["acknowledged"] for each in results), "lost": sum(each["lost"] for each in results),
        "ends": dict(Counter(each["end"] for each in results)),
    }  # fmt: skip
    print(json.dumps(report))
    if wrong:
        raise SystemExit(1)


def _is_wrong(found: dict[str, Any]) -> bool:
    """Two who answer at once take turns every few milliseconds; one after the other, once for each change."""
    two = found["turns"] > found["changes of the primary"]
    return bool(found["lost"]) or two or str(found["end"]).startswith("NEITHER")


if __name__ == "__main__":
    STATE.mkdir(parents=True, exist_ok=True)
    main()
