"""Controller with 20 idle servers: memory and processor time (promise: ≤ 150 MB resident, ≤ 3 % of a core).

    python bench/idle_controller.py [--servers 20] [--seconds 30] [--json]

The controller, its database and its bus are real; the cloud is the one in memory and the agents are played: each has
its own TLS connection, says hello, and beats once a second. The bus (nats-server) is measured beside the controller.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import ssl
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

PROMISED_MB, PROMISED_PERCENT = 150, 3.0
START_SECONDS, SETTLE_SECONDS = 30, 5
TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def run_controller(state: Path) -> None:
    """The whole controller on a loopback address."""
    from relaunch.clock import SystemClock
    from relaunch.clouds.fake import FakeCloud
    from relaunch.controller import main
    from relaunch.controller.settings import Settings, read_settings
    from relaunch.dns.fake import FakeZone

    async def in_memory(settings: Settings, stack: AsyncExitStack) -> main.World:
        cloud = FakeCloud(SystemClock())
        return main.World(cloud=cloud, base_image=cloud.base_image, zone=FakeZone(settings.dns_zones))

    main.run(read_settings(state, program_templates=Path(__file__).parents[1] / "templates"), open_world=in_memory)


def fill(state: Path, servers: int) -> None:
    """A deployment of operational servers whose agents have a credential."""
    from sqlalchemy import insert

    from relaunch import __version__
    from relaunch.controller.tokens import digest
    from relaunch.records import schema
    from relaunch.records.engine import open_database

    at = "2026-01-01T00:00:00.000000+00:00"
    specs = [
        {"name": f"s{n}", "template": "base", "zone": "a", "inputs": {}, "memory_bytes": None} for n in range(servers)
    ]
    spec = {"name": "idle", "cloud": "local", "servers": specs, "database": None, "sites": [], "inputs": {},
            "generate_credentials": [], "source": ""}  # fmt: skip
    engine = open_database(f"sqlite:///{state}/controller.db", program=__version__)
    with engine.begin() as db:
        db.execute(insert(schema.deployments).values(id="d", name="idle", source="", spec=spec, created=at, changed=at))
        for each in specs:
            name = each["name"]
            db.execute(
                insert(schema.servers).values(
                    id=f"server-{name}", deployment_id="d", name=name, template="base", zone="a", spec=each,
                    instance_id=f"i-{name}", created=at,
                )
            )  # fmt: skip
            db.execute(
                insert(schema.instances).values(
                    id=f"i-{name}", server_id=f"server-{name}", purpose="serve", state="operational", zone="a",
                    private_address="127.0.0.1", run_list={}, tags={}, outputs={}, launched=at,
                    agent_secret_sha256=digest(name),
                )
            )  # fmt: skip
    engine.dispose()


async def quiet(error: Exception) -> None:
    """The bus goes before its agents do: nothing to tell."""


async def play_agent(url: str, ca: Path, name: str, connected: asyncio.Event) -> None:
    import nats

    from relaunch.bus import subjects
    from relaunch.bus.messages import Accepted, Alive, Hello, Welcome, decode, encode

    agent = f"i-{name}"
    client = await nats.connect(
        url, user=agent, password=name, inbox_prefix=subjects.inbox_prefix(agent), connect_timeout=10,
        allow_reconnect=False, error_cb=quiet,
        tls=ssl.create_default_context(cafile=str(ca)),
    )  # fmt: skip

    async def obey(message: Any) -> None:
        await message.respond(encode(Accepted()))

    await client.subscribe(subjects.order(agent), cb=obey)
    answer = await client.request(subjects.report(agent), encode(Hello("0.1.0", "", "boot", 0)), timeout=10)
    assert isinstance(decode(answer.data), Welcome), answer.data
    connected.set()
    while True:
        await client.publish(subjects.alive(agent), encode(Alive("boot", 1.0)))
        await asyncio.sleep(1.0)


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


async def measure(servers: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="relaunch-bench-") as folder:
        state = Path(folder)
        api, bus = free_port(), free_port()
        (state / "controller.toml").write_text(f'network = "127.99.0.0/24"\napi_port = {api}\nbus_port = {bus}\n')
        fill(state, servers)
        controller = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--controller", folder, stderr=asyncio.subprocess.DEVNULL
        )
        playing: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(START_SECONDS):
                while "answers at" not in _text(state / "logs" / "controller.log"):
                    assert controller.returncode is None, _text(state / "logs" / "controller.log")
                    await asyncio.sleep(0.1)
            joined = [asyncio.Event() for _ in range(servers)]
            for number, event in enumerate(joined):
                url = f"tls://127.99.0.1:{bus}"
                playing.append(asyncio.create_task(play_agent(url, state / "ca" / "ca.crt", f"s{number}", event)))
            async with asyncio.timeout(START_SECONDS):
                await asyncio.gather(*(event.wait() for event in joined))
            await asyncio.sleep(SETTLE_SECONDS)
            pids = {"controller": controller.pid, "bus": child_of(controller.pid)}
            before = {name: cpu_seconds(pid) for name, pid in pids.items()}
            await asyncio.sleep(seconds)
            return {
                "servers": servers,
                "seconds": seconds,
                **{
                    name: {
                        "resident_mb": round(resident_mb(pid), 1),
                        "cpu_percent": round(100 * (cpu_seconds(pid) - before[name]) / seconds, 2),
                    }
                    for name, pid in pids.items()
                },
                "promised": {"resident_mb": PROMISED_MB, "cpu_percent": PROMISED_PERCENT},
            }
        finally:
            for task in playing:
                task.cancel()
            await asyncio.gather(*playing, return_exceptions=True)
            controller.send_signal(signal.SIGTERM)
            await controller.wait()


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--controller", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.controller:
        run_controller(asked.controller)
        return
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    found = asyncio.run(measure(asked.servers, asked.seconds))
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{'':12}{'resident':>12}{'of a core':>12}   with {found['servers']} servers idle, {found['seconds']:g} s")
    for name in ("controller", "bus", "promised"):
        print(f"{name:12}{found[name]['resident_mb']:>9} MB{found[name]['cpu_percent']:>10} %")


if __name__ == "__main__":
    main()
