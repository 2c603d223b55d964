"""The HTTP API of sites and DNS names; what it needs is in `request.app.state`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from relaunch.errors import NotFound
from relaunch.servers.ports import Ports
from relaunch.sites.backends import backends
from relaunch.sites.observed import Observed
from relaunch.sites.store import SiteStore

router = APIRouter(tags=["sites"])


@router.get("/sites")
async def list_sites(request: Request) -> dict[str, Any]:
    """All, with who serves them now."""
    return {"sites": _sites(request)}


@router.get("/sites/{name}")
async def show_site(request: Request, name: str) -> dict[str, Any]:
    """By its name or any of its hosts."""
    for site in _sites(request):
        if name in (site["name"], site["canonical"], *site["aliases"]):
            return site
    raise NotFound(f"no site {name}", hint="`relaunch site list` shows what there is")


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
