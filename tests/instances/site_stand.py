"""A redundant site with everything real: a controller of the tests' own, four servers, and what can be done to them."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rdatatype

from relaunch.cli.client import Client, find_controller
from relaunch.cli.process import ControllerProcess, systemd_runs
from relaunch.cli.starters import starter
from relaunch.clouds.local import cgroups

PROJECT = Path(__file__).parents[2]
BRIDGE, NETWORK, HOST_ADDRESS = "rlt-site", "198.19.241.0/24", "198.19.241.1"
SETTINGS = f'network = "{NETWORK}"\nbridge = "{BRIDGE}"\napi_port = 17543\nbus_port = 17522\n'
SITE = "www.rack.test"
VISIT_EACH_SECONDS = 0.05


class Site:
    """Deployment `shop` in the state folder `state`."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self._seen: set[str] = set()
        self.environment = {**os.environ, "RELAUNCH_STATE": str(state), "PYTHONPATH": str(PROJECT / "src")}

    # the program

    def relaunch(self, *words: str, seconds: float = 300) -> str:
        """The command line; what it printed. AssertionError when it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "relaunch.cli.main", *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        assert done.returncode == 0, f"relaunch {' '.join(words)}: exit status {done.returncode}\n{done.stdout}"
        return done.stdout

    def bring_up(self) -> None:
        self.put_away()
        self.state.mkdir(mode=0o711)
        (self.state / "controller.toml").write_text(SETTINGS)
        self.relaunch("controller", "start")
        self.apply("shop")
        self.wait_whole("shop")

    def put_away(self) -> None:
        if self.state.exists():
            self.relaunch("demo", "--stop", "--purge")
            self.state.rmdir()

    def apply(self, deployment: str, *, wait: bool = True) -> None:
        file = self.state / f"{deployment}.yml"
        text = starter("redundant", name=deployment, app="rack")
        file.write_text(text if deployment == "shop" else text.replace("rack.test", f"{deployment}.test"))
        self.relaunch("apply", str(file), "--yes", *([] if wait else ["--no-wait"]))

    @property
    def client(self) -> Client:
        return Client(find_controller(self.environment))

    def kill_controller(self) -> None:
        pid = ControllerProcess(state=self.state).pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def start_controller(self) -> None:
        self.relaunch("controller", "start")

    # its servers

    def servers(self, deployment: str) -> list[dict[str, Any]]:
        return list(self.client.get("/servers", deployment=deployment)["servers"])

    def server(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/servers/{name}")
        return found

    def address(self, name: str) -> str:
        return str(self.server(name)["private_address"])

    def inside(self, server: str, *command: str) -> str:
        return self.relaunch("server", "ssh", server, *command).strip()

    def wait_whole(self, deployment: str, *, seconds: float = 90) -> None:
        """Every server operational and heard, every task over."""
        missing = ["not looked yet"]

        def whole() -> bool:
            busy = [task for task in self.client.get("/tasks")["tasks"] if task["finished"] is None]
            missing[:] = [f"{task['id']} is under way" for task in busy] + [
                f"{s['name']} is {s['state']}, {s['current_step'] or 'at no step'}; {s['stranded_why'] or ''}"
                for s in self.servers(deployment)
                if s["state"] != "operational" or not s["connected"]
            ]
            return not missing

        try:
            until(whole, f"all servers of {deployment} operational", seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {missing}") from None

    def cables(self) -> set[str]:
        """The instances that have a cable in the bridge, as the host sees it."""
        ports = Path("/sys/class/net", BRIDGE, "brif")
        found = {port.name.removeprefix("vb-") for port in ports.iterdir()} if ports.exists() else set()
        self._seen |= found
        return found

    # its visitors

    def resolved(self) -> set[str]:
        """The addresses of the site, asked of its name server."""
        query = dns.message.make_query(SITE, dns.rdatatype.A)
        answer = dns.query.udp(query, HOST_ADDRESS, timeout=3)
        return {str(item) for found in answer.answer if found.rdtype == dns.rdatatype.A for item in found}

    def visit(self, address: str, method: str = "GET", *, host: str = SITE) -> int:
        """The status of one request through this front end; OSError when none came."""
        context = ssl.create_default_context(cafile=str(self.state / "ca" / "ca.crt"))
        with (
            socket.create_connection((address, 443), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            connection = http.client.HTTPConnection(host)
            connection.sock = secured
            connection.request(method, "/", headers={"Connection": "close"})
            answer = connection.getresponse()
            answer.read()
            return answer.status

    def serves(self, address: str) -> bool:
        with contextlib.suppress(OSError):
            return self.visit(address) == 200
        return False

    @contextlib.contextmanager
    def visitors(self, addresses: Sequence[str], *, who: Sequence[str] = ("GET", "POST")) -> Iterator[None]:
        """Readers and writers all the time, through each of the addresses; AssertionError when one request fails."""
        failed: list[str] = []
        done = [0]
        over = threading.Event()

        def come(address: str, method: str, good: int) -> None:
            while not over.wait(VISIT_EACH_SECONDS):
                try:
                    status = self.visit(address, method)
                except OSError as error:
                    failed.append(f"{method} by {address}: {error or type(error).__name__}")
                    continue
                done[0] += 1
                if status != good:
                    failed.append(f"{method} by {address}: {status}")

        kinds = [(method, {"GET": 200, "POST": 303}[method]) for method in who]
        threads = [threading.Thread(target=come, args=(a, *kind)) for a in addresses for kind in kinds]
        for thread in threads:
            thread.start()
        try:
            yield
            until(lambda: done[0] > 5, "six requests were answered")
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert not failed, f"{len(failed)} of {done[0] + len(failed)} requests failed: {failed[:5]}"

    # what befalls its host

    def lose_host(self) -> None:
        """As near to the plug of the host being pulled as can be had on one that goes on: no process and nothing in
        the kernel is left, the disk is as it was."""
        self.kill_controller()
        if systemd_runs():  # else it would start it again at once
            unit = ControllerProcess(state=self.state).unit
            subprocess.run(["systemctl", "stop", unit], check=False, timeout=60)
        groups = [self._group(instance) for instance in self.cables()]
        for group in groups:
            cgroups.kill_all(group)
        until(lambda: not any(map(cgroups.is_populated, groups)), "all processes are gone")
        for command in (
            *(("ip", "link", "delete", f"vb-{instance}") for instance in self.cables()),
            ("ip", "link", "delete", BRIDGE),
            ("nft", "delete", "table", "inet", f"relaunch_{BRIDGE}"),
            ("nft", "delete", "table", "bridge", f"relaunch_{BRIDGE}"),
        ):
            subprocess.run(command, check=False, timeout=20, capture_output=True)
        if not systemd_runs():
            cgroups.remove_groups(BRIDGE)
        assert self.traces() == []

    def _group(self, instance: str) -> Path:
        root = cgroups.unified_root()
        assert root is not None
        if Path("/run/systemd/system").is_dir():
            return root / "relaunch.slice" / f"relaunch-{BRIDGE}-{instance}.service"
        return root / "relaunch" / BRIDGE / instance

    def traces(self) -> list[str]:
        """What of this site is on the host beside its files."""
        words = (str(self.state), BRIDGE, NETWORK.removesuffix("0/24"))
        found = subprocess.run([PROJECT / "tests" / "leftovers"], capture_output=True, text=True, timeout=60).stdout
        lines = [line for line in found.splitlines() if any(word in line for word in words)]
        return lines + [name for name in map("vb-{}".format, self._seen) if Path("/sys/class/net", name).exists()]


def until(is_so: Callable[[], object], what: str, *, seconds: float = 20) -> None:
    """Bounded wait that names what it waited for."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)
