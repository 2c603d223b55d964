"""Where each front end's HAProxy sends requests and database sessions: desired state, computed in one place."""

from __future__ import annotations

from dataclasses import dataclass

from relaunch.sites.observed import Observed, ObservedServer

DATABASE_PORT = 3306
FULL_WEIGHT = 100
LOCAL_WEIGHT = 50  # of a front end's own app process while another server's is there to share the work


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    name: str
    address: str
    port: int
    weight: int = FULL_WEIGHT


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """HTTP back ends of one site."""

    name: str
    check_path: str
    servers: tuple[Target, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A TCP listener for a database name."""

    name: str
    bind: str
    servers: tuple[Target, ...]


def app_port(server: ObservedServer) -> int | None:
    """The port the server says its app answers on (tag app), None when it says none that could be."""
    tag = server.tags.get("app", "")
    return int(tag) if tag.isascii() and tag.isdigit() and 0 < int(tag) < 65536 else None


def app_targets(observed: Observed, front_end: str) -> tuple[Target, ...]:
    """The app processes that one front end uses: those of operational servers, its own with less weight."""
    apps = [(server, port) for server in observed.servers if server.serves and (port := app_port(server))]
    has_remote = any(server.name != front_end for server, _ in apps)
    return tuple(
        Target(
            name=server.name,
            address="127.0.0.1" if server.name == front_end else server.private_address,
            port=port,
            weight=LOCAL_WEIGHT if server.name == front_end and has_remote else FULL_WEIGHT,
        )
        for server, port in apps
    )


def backends(observed: Observed, front_end: str) -> tuple[Backend, ...]:
    """A back end for each site, by name of site."""
    targets = app_targets(observed, front_end)
    return tuple(
        Backend(name=f"site-{site.name}", check_path=site.check_path, servers=targets)
        for site in sorted(observed.deployment.sites, key=lambda site: site.name)
    )


def listeners(observed: Observed) -> tuple[Listener, ...]:
    """Two for each site that has a database, on loopback addresses of its own, so that a site can be moved alone."""
    primary = _database_targets((observed.primary,) if observed.primary else ())
    replicas = _database_targets(observed.readable_replicas)
    found: list[Listener] = []
    for number in range(1, len(_database_sites(observed)) + 1):
        suffix = "" if number == 1 else f"-{number}"
        primary_address, replica_address = _loopback(number)
        found += [
            Listener(name=f"db-primary{suffix}", bind=f"{primary_address}:{DATABASE_PORT}", servers=primary),
            Listener(name=f"db-replica{suffix}", bind=f"{replica_address}:{DATABASE_PORT}", servers=replicas),
        ]
    return tuple(found)


def database_hosts(observed: Observed) -> dict[str, str]:
    """What the sites' database names resolve to where the listeners are."""
    hosts: dict[str, str] = {}
    for number, name in enumerate(_database_sites(observed), start=1):
        hosts[f"db-primary.{name}"], hosts[f"db-replica.{name}"] = _loopback(number)
    return hosts


def _database_sites(observed: Observed) -> list[str]:
    if observed.deployment.database is None:
        return []
    return sorted(site.name for site in observed.deployment.sites if site.database)


def _loopback(number: int) -> tuple[str, str]:
    """Primary's and replica's address of the site of that number, from 1."""
    high, low = divmod(number, 256)
    return f"127.{high}.{low}.1", f"127.{high}.{low}.2"


def _database_targets(servers: tuple[ObservedServer, ...]) -> tuple[Target, ...]:
    return tuple(Target(name=server.name, address=server.private_address, port=DATABASE_PORT) for server in servers)
