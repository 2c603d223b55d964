"""The bridge the instances hang on: its address, its kernel settings, and the free addresses in its range.

Instances never reach each other through the bridge itself: the firewall drops frames between ports, and the host
answers ARP for the other instances (proxy_arp_pvlan). So each packet is routed by the host and passes the security
groups.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from relaunch.clouds.local.watches import give_back, raise_limit
from relaunch.errors import Conflict
from relaunch.shell import run

# Which clouds of this host forward through an uplink, and what its setting was before the first of them. Lost with a
# reboot, as the setting is.
UPLINKS = Path("/run/relaunch/uplinks")
SYSCTL = Path("/proc/sys")


def host_address(network: IPv4Network) -> str:
    return str(network.network_address + 1)


def free_address(network: IPv4Network, *, taken: Collection[str], lately: Collection[str] = ()) -> str:
    """The lowest address nobody has, rather one that nobody had lately; Conflict when all are taken."""
    second_choice = None
    for number in range(int(network.network_address) + 2, int(network.broadcast_address)):
        address = str(IPv4Address(number))
        if address in taken:
            continue
        if address not in lately:
            return address
        second_choice = second_choice or address
    if second_choice is None:
        raise Conflict(f"no address is left in {network}", hint="terminate instances, or set a larger `network`")
    return second_choice


def fixed_mac(bridge: str) -> str:
    """Else the bridge takes the lowest of its ports', and changes it as instances come and go: they lose each other."""
    return "02:" + hashlib.sha256(bridge.encode()).digest()[:5].hex(":")


def collision(network: IPv4Network, bridge: str, routes: list[dict[str, Any]]) -> str | None:
    """The route of this host that covers a part of the range, or None; the default route does not count."""
    for route in routes:
        if route.get("dst", "default") == "default" or route.get("dev") == bridge:
            continue
        if route.get("type", "unicast") not in ("unicast", "local", "blackhole", "unreachable", "prohibit"):
            continue
        if IPv4Network(route["dst"], strict=False).overlaps(network):
            return f"{route['dst']} dev {route.get('dev', '-')}"
    return None


async def create_bridge(bridge: str, network: IPv4Network, owner: str) -> None:
    """Make the bridge as it must be; idempotent. Conflict when its name or range belongs to someone else."""
    routes = json.loads((await run("ip", "-j", "-4", "route", "show", "table", "all")).stdout or "[]")
    route = collision(network, bridge, routes)
    if route is not None:
        raise Conflict(
            f"the address range {network} collides with the route {route} of this host",
            hint="set another `network` in controller.toml, one that no route covers (see: ip route)",
        )
    await _refuse_foreign_bridge(bridge, owner)
    if not Path("/sys/class/net", bridge).exists():
        await run("ip", "link", "add", bridge, "address", fixed_mac(bridge), "type", "bridge")
        await run("ip", "link", "set", bridge, "alias", owner)
    _set(f"net/ipv6/conf/{bridge}/disable_ipv6", "1")
    _set(f"net/ipv4/conf/{bridge}/forwarding", "1")
    _set(f"net/ipv4/conf/{bridge}/proxy_arp_pvlan", "1")
    _set(f"net/ipv4/conf/{bridge}/send_redirects", "0")
    _set(f"net/ipv4/neigh/{bridge}/proxy_delay", "0")  # else each first answer takes up to 0.8 s
    await run("ip", "address", "replace", f"{host_address(network)}/{network.prefixlen}", "dev", bridge)
    await run("ip", "link", "set", bridge, "up")
    for uplink in {route["dev"] for route in routes if route.get("dst") == "default" and "dev" in route} - {bridge}:
        _forward_through(uplink, bridge)
    raise_limit(bridge)


def is_foreign(bridge: str, owner: str) -> bool:
    """Is there an interface of that name which another cloud, or somebody else, has made?"""
    link = Path("/sys/class/net", bridge)
    return link.exists() and (link / "ifalias").read_text().strip() != owner


async def _refuse_foreign_bridge(bridge: str, owner: str) -> None:
    if is_foreign(bridge, owner):
        alias = Path("/sys/class/net", bridge, "ifalias").read_text().strip()
        raise Conflict(
            f"an interface {bridge} exists already and is not of this cloud" + (f" ({alias})" if alias else ""),
            hint="set another `bridge` in controller.toml, or remove that one",
        )


async def remove_bridge(bridge: str, owner: str) -> None:
    """Remove our bridge and give the host its settings back; gone already is no error."""
    if not is_foreign(bridge, owner):
        await run("ip", "link", "delete", bridge, check=False)
    for folder in UPLINKS.iterdir() if UPLINKS.exists() else ():
        _stop_forwarding(folder.name, bridge)
    give_back(bridge)


def _set(name: str, value: str) -> None:
    file = SYSCTL / name
    if file.exists() and file.read_text().strip() != value:
        file.write_text(value)


def _forward_through(uplink: str, bridge: str) -> None:
    """Let answers come in through the uplink. Several clouds may share it: the first notes what was, the last restores
    it."""
    folder = UPLINKS / uplink
    UPLINKS.mkdir(parents=True, exist_ok=True)
    with (UPLINKS.parent / "uplinks.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        setting = SYSCTL / f"net/ipv4/conf/{uplink}/forwarding"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "before").exists():
            (folder / "before").write_text(setting.read_text())
        (folder / f"for-{bridge}").touch()
        setting.write_text("1")


def _stop_forwarding(uplink: str, bridge: str) -> None:
    folder = UPLINKS / uplink
    with (UPLINKS.parent / "uplinks.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / f"for-{bridge}").exists():
            return
        (folder / f"for-{bridge}").unlink()
        if any(folder.glob("for-*")):
            return
        setting = SYSCTL / f"net/ipv4/conf/{uplink}/forwarding"
        if setting.exists():
            setting.write_text((folder / "before").read_text())
        (folder / "before").unlink()
        folder.rmdir()
        with contextlib.suppress(OSError):  # another cloud of this host still has one
            UPLINKS.rmdir()
            Path(lock.name).unlink()
            UPLINKS.parent.rmdir()
