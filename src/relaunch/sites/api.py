"""The HTTP API of sites and DNS names; what it needs is in `request.app.state`."""

from __future__ import annotations

from dataclasses import asdict
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from relaunch.errors import NotFound
from relaunch.servers.ports import Ports
from relaunch.sites.backends import backends
from relaunch.sites.observed import Observed
from relaunch.sites.store import SiteStore

router = APIRouter(tags=["sites"])


class Maintenance(BaseModel):
    """`allow`: who still reaches the site, to look at it before everybody does."""

    model_config = ConfigDict(extra="forbid")
    allow: list[IPv4Address | IPv6Address] = Field(default=[], max_length=1000)


@router.get("/sites")
async def list_sites(request: Request) -> dict[str, Any]:
    """All, with who serves them now."""
    return {"sites": _sites(request)}


@router.get("/sites/{name}")
async def show_site(request: Request, name: str) -> dict[str, Any]:
    """By its name or any of its hosts."""
    return _site(request, name)


@router.put("/sites/{name}/maintenance")
async def begin_maintenance(request: Request, name: str, asked: Maintenance) -> dict[str, Any]:
    """Every front end shows the maintenance page from now on, those launched later too; again for other addresses."""
    request.state.action = "begin maintenance"
    site, ports = _site(request, name), _ports(request)
    SiteStore(ports.database).begin_maintenance(
        site["deployment"],
        site["name"],
        allow=[str(address) for address in dict.fromkeys(asked.allow)],
        at=ports.clock.now().isoformat(timespec="microseconds"),
        who=request.state.who,
    )
    return _changed(request, name)


@router.delete("/sites/{name}/maintenance")
async def end_maintenance(request: Request, name: str) -> dict[str, Any]:
    """Visitors get the site again; nothing changes when they got it already."""
    request.state.action = "end maintenance"
    site = _site(request, name)
    SiteStore(_ports(request).database).end_maintenance(site["deployment"], site["name"])
    return _changed(request, name)


@router.get("/dns")
async def list_names(request: Request) -> dict[str, Any]:
    """The names relaunch has set."""
    names = SiteStore(_ports(request).database).names()
    return {
        "records": [
            {"deployment": owner, **asdict(record), "values": list(record.values)}
            for _, (owner, record) in sorted(names.items())
        ]
    }


def _changed(request: Request, name: str) -> dict[str, Any]:
    """The site as it is now, and everyone who must know told."""
    request.app.state.orders.workflows.changed()
    return _site(request, name)


def _site(request: Request, name: str) -> dict[str, Any]:
    for site in _sites(request):
        if name in (site["name"], site["canonical"], *site["aliases"]):
            return site
    raise NotFound(f"no site {name}", hint="`relaunch site list` shows what there is")


def _sites(request: Request) -> list[dict[str, Any]]:
    shown = []
    for observed in SiteStore(_ports(request).database).observe():
        front_ends = [server for server in observed.servers if server.offers_role("front-end") and server.serves]
        for site in observed.deployment.sites:
            shown.append(
                {
                    **asdict(site),
                    "aliases": list(site.aliases),
                    "deployment": observed.deployment.name,
                    "url": f"https://{site.canonical}/",
                    "front_ends": [
                        {"name": server.name, "address": server.public_address or server.private_address}
                        for server in front_ends
                    ],
                    "back_ends": _back_ends(observed, site.name),
                    "maintenance": site.name in observed.maintenance,
                    "allow": list(observed.maintenance.get(site.name, ())),
                }
            )
    return shown


def _back_ends(observed: Observed, site: str) -> list[str]:
    """Names of the servers whose app processes answer for it, as any front end sees them."""
    for server in observed.servers:
        if server.offers_role("front-end"):
            found = [each for each in backends(observed, server.name) if each.name == f"site-{site}"]
            return sorted({target.name for each in found for target in each.servers})
    return []


def _ports(request: Request) -> Ports:
    ports: Ports = request.app.state.ports
    return ports
