"""Is this machine fit for the local cloud? Looks only, changes nothing, needs no module but Python's own.

Run before anything is installed: `python3 host.py --state DIR [--network NET] [--bridge NAME] [--ports 7443,7422]`.
Exit status 0 when nothing fatal was found, 1 otherwise; `--json` for programs.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network
from pathlib import Path

FREE_DISK_BYTES = 8 << 30
AVAILABLE_MEMORY_BYTES = 3 << 30
DNS_PORT = 53
DEFAULT_PORTS = (7443, 7422)
DEFAULT_NETWORK = IPv4Network("198.18.0.0/16")
STOCK_KERNEL = "use a stock kernel of Debian or Ubuntu, on a machine or VM rather than in a container"
NO_LAYERS_ON = ("overlay", "nfs", "nfs4", "vfat", "9p", "virtiofs", "fuseblk", "ecryptfs")


@dataclass(frozen=True)
class Problem:
    """What is missing, and what to do about it. What is not fatal is worth knowing, no more."""

    what: str
    do: str
    fatal: bool = True


def check_host(folder: Path, network: IPv4Network, bridge: str, ports: Sequence[int] = DEFAULT_PORTS) -> list[Problem]:
    """Everything that keeps this machine from being a local cloud with its state in `folder`; empty when it is fit."""
    if os.geteuid() != 0:
        return [Problem("not run as root", "run it with sudo: instances need mounts, a bridge and firewall rules")]
    mounts = Path("/proc/self/mounts").read_text()
    return [
        *_python(),
        *disk_problems(folder, mounts),
        *memory_problems(Path("/proc/meminfo").read_text()),
        *_kernel(mounts),
        *route_problems(network, bridge, _routes()),
        *_port_problems(network, ports),
        *firewall_problems(bridge, ports, _output("iptables-save")),
    ]


def _python() -> list[Problem]:
    if sys.version_info >= (3, 11):  # noqa: UP036  older ones run this file, to be told
        return []
    return [
        Problem(f"Python {sys.version.split()[0]} is too old", "3.11 or newer is needed: Debian 12 or Ubuntu 24.04 on")
    ]


def disk_problems(folder: Path, mounts: str) -> list[Problem]:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    problems = []
    free = shutil.disk_usage(existing).free
    if free < FREE_DISK_BYTES:
        do = f"free {FREE_DISK_BYTES >> 30} GB there, or give another folder"
        problems.append(Problem(f"only {free >> 20} MB are free at {existing}", do))
    kind = filesystem_of(existing, mounts)
    if kind in NO_LAYERS_ON:
        what = f"{existing} is on {kind}, on which an instance's disk cannot be kept"
        problems.append(Problem(what, "give a folder on ext4, xfs or btrfs"))
    return problems


def filesystem_of(path: Path, mounts: str) -> str:
    """The type of the file system the path is on: that of the longest mount point above it."""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, where, fstype, *_ = line.split(" ")
        above = str(path) == where or str(path).startswith(where.rstrip("/") + "/")
        if above and len(where) >= len(best):
            best, kind = where, fstype
    return kind


def memory_problems(meminfo: str) -> list[Problem]:
    lines = [line.split() for line in meminfo.splitlines()]
    available = next((int(line[1]) << 10 for line in lines if line[0] == "MemAvailable:"), 0)
    if available >= AVAILABLE_MEMORY_BYTES:
        return []
    do = f"four servers with their database need {AVAILABLE_MEMORY_BYTES >> 30} GB: end other programs"
    return [Problem(f"only {available >> 20} MB of memory are available", do)]


def _kernel(mounts: str) -> list[Problem]:
    problems = []
    if not _has_filesystem("overlay"):
        problems.append(Problem("the kernel has no overlay file system", STOCK_KERNEL))
    if not _has_filesystem("btrfs"):
        problems.append(Problem("the kernel has no btrfs", "volumes cannot be made; all else works", fatal=False))
    if " cgroup2 " not in mounts:
        problems.append(
            Problem("cgroup v2 is not mounted", "boot with systemd, or: mount -t cgroup2 none /sys/fs/cgroup")
        )
    if _reason("unshare", "--mount", "--pid", "--fork", "--net", "true"):
        return [*problems, Problem("namespaces are not allowed here", STOCK_KERNEL)]
    tries = {
        "a bridge": _reason("unshare", "--net", "ip", "link", "add", "try", "type", "bridge"),
        "a cable (veth)": _reason(
            "unshare", "--net", "ip", "link", "add", "try", "type", "veth", "peer", "name", "try2"
        ),
        "nftables rules with NAT": _reason("unshare", "--net", "nft", "-f", "-", text=TRY_RULES),
    }
    return [
        *problems,
        *(Problem(f"the kernel cannot do {what}: {why}", STOCK_KERNEL) for what, why in tries.items() if why),
    ]


TRY_RULES = """
table inet try {
    chain leaving { type nat hook postrouting priority srcnat; ip saddr 198.18.0.0/15 masquerade; }
    chain forward { type filter hook forward priority filter; ct original ip saddr 198.18.0.1 accept; }
}
table bridge try {
    chain between { type filter hook forward priority filter; iifname "vb-i-*" drop; }
}
"""


def _has_filesystem(name: str) -> bool:
    def is_known() -> bool:
        return any(line.split()[-1] == name for line in Path("/proc/filesystems").read_text().splitlines())

    if not is_known() and shutil.which("modprobe"):
        _output("modprobe", name)
    return is_known()


def _reason(*argv: str, text: str = "") -> str:
    """Why a command fails, in one line; nothing when it works, or is not installed yet, which proves nothing."""
    if any(shutil.which(word) is None for word in argv if word in ("unshare", "ip", "nft")):
        return ""
    done = subprocess.run(argv, input=text, text=True, capture_output=True, check=False, timeout=20)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["unknown"])[0]


def _output(*argv: str) -> str:
    if shutil.which(argv[0]) is None:
        return ""
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20).stdout


def _routes() -> list[dict[str, str]]:
    routes: list[dict[str, str]] = json.loads(_output("ip", "-j", "-4", "route", "show", "table", "all") or "[]")
    return routes


def route_problems(network: IPv4Network, bridge: str, routes: Sequence[dict[str, str]]) -> list[Problem]:
    for route in routes:
        if route.get("dst", "default") == "default" or route.get("dev") == bridge or route.get("type") == "multicast":
            continue
        if IPv4Network(route["dst"], strict=False).overlaps(network):
            what = f"the address range {network} collides with the route {route['dst']} dev {route.get('dev', '-')}"
            return [Problem(what, "set another `network` in controller.toml, one that no route covers (see: ip route)")]
    return []


def _port_problems(network: IPv4Network, ports: Sequence[int]) -> list[Problem]:
    problems = [
        Problem(f"TCP port {port} is taken", f"see who has it and end that: ss -ltnp 'sport = :{port}'")
        for port in ports
        if _is_taken(port)
    ]
    sockets = "".join(file.read_text() for file in map(Path, ("/proc/net/udp", "/proc/net/udp6")) if file.exists())
    if listens_everywhere(DNS_PORT, sockets):
        address = network.network_address + 1
        do = f"let it listen on certain addresses only, not on {address} (see: ss -lunp 'sport = :{DNS_PORT}')"
        problems.append(Problem(f"another name server listens on port {DNS_PORT} of every address", do))
    return problems


def _is_taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trying:
        trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trying.bind(("0.0.0.0", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def listens_everywhere(port: int, sockets: str) -> bool:
    """Does a UDP socket of /proc/net/udp or udp6 hold this port on every address."""
    everywhere = (f"00000000:{port:04X}", f"{'0' * 32}:{port:04X}")
    return any(word in everywhere for line in sockets.splitlines() for word in line.split()[1:2])


def firewall_problems(bridge: str, ports: Sequence[int], rules: str) -> list[Problem]:
    """What another firewall of this host would drop, and the command that lets it through. `rules`: iptables-save."""
    problems = []
    if ":FORWARD DROP" in rules and f"-i {bridge} -j ACCEPT" not in rules:
        chain = "DOCKER-USER" if ":DOCKER-USER " in rules else "FORWARD"
        what = "this host's firewall (docker or ufw) drops what is forwarded: instances reach nobody"
        do = f"iptables -I {chain} -i {bridge} -j ACCEPT; iptables -I {chain} -o {bridge} -j ACCEPT"
        problems.append(Problem(what, do))
    if ":INPUT DROP" in rules and f"-i {bridge} -j ACCEPT" not in rules:
        wanted = ", ".join(str(port) for port in (DNS_PORT, *ports))
        what = f"this host's firewall drops what comes in: instances do not reach its ports {wanted}"
        problems.append(Problem(what, f"ufw allow in on {bridge}   (or: iptables -I INPUT -i {bridge} -j ACCEPT)"))
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Is this machine fit for relaunch's local cloud?")
    parser.add_argument("--state", type=Path, default=Path("/var/lib/relaunch"))
    parser.add_argument("--network", type=IPv4Network, default=DEFAULT_NETWORK)
    parser.add_argument("--bridge", default="relaunch0")
    parser.add_argument("--ports", default=",".join(str(port) for port in DEFAULT_PORTS), help="'' for none")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    ports = [int(port) for port in asked.ports.split(",") if port]
    problems = check_host(asked.state, asked.network, asked.bridge, ports)
    if asked.json:
        print(json.dumps([asdict(problem) for problem in problems], indent=1))
    else:
        for problem in problems:
            print(f"{'missing' if problem.fatal else 'note'}: {problem.what}\n  do: {problem.do}")
    return 1 if any(problem.fatal for problem in problems) else 0


if __name__ == "__main__":
    sys.exit(main())
