"""What one server's agent is told of the world: a pure function of one look at its deployment."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from relaunch.errors import NotFound
from relaunch.servers.deployments import SiteSpec
from relaunch.sites.backends import backends, database_hosts, listeners
from relaunch.sites.observed import Observed as Observed
from relaunch.sites.observed import ObservedGroup as ObservedGroup
from relaunch.sites.observed import ObservedServer as ObservedServer


def view_for(observed: Observed, server_name: str) -> dict[str, Any]:
    """The view of one server, plain data; two equal views mean there is nothing to tell."""
    server = observed.server(server_name)
    if server is None:
        raise NotFound(f"deployment {observed.deployment.name} has no server {server_name}")
    is_front_end = server.offers_role("front-end")
    # A database server has no HAProxy: there the names are DNS's alone.
    has_proxy = is_front_end or server.offers_role("app")
    return {
        "server": {
            "name": server.name,
            "deployment": observed.deployment.name,
            "template": server.template,
            "zone": server.zone,
            "instance": server.instance,
            "address": server.private_address,
        },
        "peers": [_peer(peer) for peer in observed.servers if peer.instance],
        "database": _database(observed),
        "sites": [_site(site, observed) for site in sorted(observed.deployment.sites, key=lambda site: site.name)],
        "hosts": database_hosts(observed) if has_proxy else {},
        "proxy": {
            "backends": [_plain(backend) for backend in backends(observed, server_name)] if is_front_end else [],
            "listeners": [_plain(listener) for listener in listeners(observed)] if has_proxy else [],
        },
    }


def _peer(server: ObservedServer) -> dict[str, Any]:
    return {
        "name": server.name,
        "template": server.template,
        "zone": server.zone,
        "address": server.private_address,
        "state": str(server.state),
        "tags": dict(sorted(server.tags.items())),
    }


def _database(observed: Observed) -> dict[str, Any] | None:
    wanted = observed.deployment.database
    if wanted is None:
        return None
    group = observed.database or ObservedGroup(group=observed.deployment.name, epoch=0)
    return {
        "group": group.group,
        "epoch": group.epoch,
        "durability": wanted.durability,
        "mode": group.mode,
        "read_lag_seconds": wanted.read_lag_seconds,
        "primary": _member(observed.primary) if observed.primary else None,
        "initialised": group.initialised,
        "replicas": [_member(replica) for replica in observed.replicas],
        "members": [
            {"name": each.name, "address": each.private_address, "instance": each.instance} for each in observed.members
        ],
    }


def _member(server: ObservedServer) -> dict[str, str]:
    return {"name": server.name, "address": server.private_address, "state": str(server.state)}


def _site(site: SiteSpec, observed: Observed) -> dict[str, Any]:
    return {
        "name": site.name,
        "canonical": site.canonical,
        "aliases": list(site.aliases),
        "app": site.app,
        "database": site.database,
        "maintenance": site.name in observed.maintenance,
        "allow": list(observed.maintenance.get(site.name, ())),
    }


def _plain(value: Any) -> dict[str, Any]:
    """Plain JSON data: lists, no tuples, so that a view read back from JSON compares equal."""
    plain = asdict(value)
    plain["servers"] = list(plain["servers"])
    return plain
