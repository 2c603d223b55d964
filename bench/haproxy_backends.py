"""A back end added, drained and removed 25 times under keep-alive GET and POST load: how many requests failed?

    python bench/haproxy_backends.py [--rounds 25] [--requests 100000]

A real HAProxy in master-worker mode, three real HTTP apps, the agent's own code bringing it from view to view.
Prints a table and, last, one JSON line; exit status 1 when a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from relaunch_agent.haproxy_process import HAProxy
from relaunch_agent.places import Places

CONNECTIONS = 24
BACKEND = "site-bench.test"
MAIN = """
global
    stats socket {socket} mode 600 level admin expose-fd listeners
    hard-stop-after 20s
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout http-keep-alive 30s
frontend bench
    bind 127.0.0.1:{port}
    use_backend site-bench.test
"""


class App:
    """Answers every request with its name, after a little while; counts what it has begun and not yet answered."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.served = 0

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = self.name.encode()
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                at = head.lower().find(b"content-length:")
                if at >= 0:
                    await reader.readexactly(int(head[at + 15 : head.index(b"\r\n", at)]))
                self.served += 1
                writer.write(answer)
        writer.close()


class Load:
    def __init__(self, port: int) -> None:
        self._port = port
        self.done = {"GET": 0, "POST": 0}
        self.failed: list[str] = []
        self.stopping = False

    async def client(self, method: str) -> None:
        body = b"x=1" * 20 if method == "POST" else b""
        question = f"{method} / HTTP/1.1\r\nHost: bench.test\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while not self.stopping:
            try:
                writer.write(question)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
                at = head.lower().index(b"content-length:")
                await reader.readexactly(int(head[at + 15 : head.index(b"\r\n", at)]))
                if not head.startswith(b"HTTP/1.1 200"):
                    self.failed.append(f"{method}: {head[:40]!r}")
                self.done[method] += 1
            except (TimeoutError, OSError, EOFError, ValueError) as error:
                self.failed.append(f"{method}: {error!r}")
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.close()


def view(ports: dict[str, int]) -> dict[str, Any]:
    servers = [
        {"name": n, "address": "127.0.0.1", "port": p, "weight": 50 if n == "a" else 100} for n, p in ports.items()
    ]
    backends = [{"name": BACKEND, "check_path": "/", "servers": servers}]
    return {"server": {"name": "bench", "deployment": "bench"}, "proxy": {"backends": backends, "listeners": []}}


async def in_process(haproxy: HAProxy, wanted: set[str]) -> None:
    """Until the running process has exactly these servers."""
    for _ in range(400):
        said = await haproxy.ask(f"show servers state {BACKEND}")
        if {line.split(" ")[3] for line in said.splitlines() if " " in line and not line.startswith("#")} == wanted:
            return
        await asyncio.sleep(0.05)
    raise SystemExit(f"HAProxy has not come to {wanted}: {said}")


async def measure(rounds: int, requests: int, folder: Path) -> dict[str, Any]:
    version = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout.split()[2]  # noqa: ASYNC221
    places = Places(folder)
    places.haproxy_file.parent.mkdir(parents=True)
    places.haproxy_socket.parent.mkdir(parents=True)
    apps = {name: App(name) for name in "abc"}
    ports = {name: await app.start() for name, app in apps.items()}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places.haproxy_main_file.write_text(MAIN.format(socket=places.haproxy_socket, port=port))
    two = {name: ports[name] for name in "ab"}
    agent = HAProxy(places, reload=["false"])  # a reload would be a fault: nothing structural changes here
    agent.write_file(view(two))
    places.reload_pending.unlink()
    process = subprocess.Popen(  # noqa: ASYNC220
        ["haproxy", "-W", "-f", str(places.haproxy_main_file), "-f", str(places.haproxy_file)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                (await asyncio.open_connection("127.0.0.1", port))[1].close()
                break
            await asyncio.sleep(0.05)
        keeping = asyncio.ensure_future(agent.keep())
        load = Load(port)
        clients = [asyncio.ensure_future(load.client("POST" if n % 2 else "GET")) for n in range(CONNECTIONS)]
        began, adding, removing, taken = time.monotonic(), [], [], []
        for number in range(rounds):
            before = apps["c"].served
            at = time.monotonic()
            agent.bring_to(view(ports))
            await in_process(agent, {"a", "b", "c"})
            adding.append(time.monotonic() - at)
            await until_load(load, (number + 0.5) * requests / rounds)
            at = time.monotonic()
            agent.bring_to(view(two))
            await in_process(agent, {"a", "b"})
            removing.append(time.monotonic() - at)
            taken.append(apps["c"].served - before)
            await until_load(load, (number + 1) * requests / rounds)
        seconds = time.monotonic() - began
        load.stopping = True
        await asyncio.gather(*clients)
        keeping.cancel()
        return {
            "bench": "haproxy_backends",
            "haproxy": version,
            "rounds": rounds,
            "get": load.done["GET"],
            "post": load.done["POST"],
            "failed": len(load.failed),
            "failures": load.failed[:5],
            "seconds": round(seconds, 1),
            "add_median_ms": round(sorted(adding)[rounds // 2] * 1000),
            "remove_median_ms": round(sorted(removing)[rounds // 2] * 1000),
            "fewest_requests_on_the_added_one": min(taken),
            "trouble": agent.trouble,
        }
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


async def until_load(load: Load, count: float) -> None:
    end = time.monotonic() + 120
    while sum(load.done.values()) < count:
        if time.monotonic() > end:
            raise SystemExit("the load does not move")
        await asyncio.sleep(0.02)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--requests", type=int, default=110_000)
    chosen = parser.parse_args()
    if not shutil.which("haproxy"):
        raise SystemExit("haproxy is not installed: apt-get install haproxy")
    with tempfile.TemporaryDirectory(prefix="relaunch-bench-") as folder:
        Path(folder).chmod(0o755)
        result = asyncio.run(measure(chosen.rounds, chosen.requests, Path(folder)))
    for name, value in result.items():
        print(f"{name.replace('_', ' '):36} {value}")
    print(json.dumps(result))
    # An added back end that never got a request would make the figure worthless.
    return 1 if result["failed"] or not result["fewest_requests_on_the_added_one"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
