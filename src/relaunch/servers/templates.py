"""A server template: image, scripts of each phase, inputs; and the file of our own that stands beside it.

`front-end.yml` is RightScale's format, readable by both. `front-end.relaunch.yml` beside it holds what relaunch needs
beyond: image, what is baked, ports, what the server offers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from relaunch.servers.scripts import Script


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingress:
    """A port of the template's security group. `source`: any | deployment | host | template:NAME | a CIDR."""

    port: int
    protocol: str = "tcp"
    source: str = "deployment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What an operational server of this template offers to others: `app` is HTTP for the site, `database` MySQL."""

    role: str  # front-end | app | database
    port: int = 0
    check_path: str = "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTemplate:
    """`baked` ⊆ boot: scripts of the install half, run once into the image, skipped at launch."""

    name: str
    path: Path
    description: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    boot: tuple[Script, ...] = ()
    operational: tuple[Script, ...] = ()
    decommission: tuple[Script, ...] = ()
    image: str = "trixie"  # the base image's recipe name in images/
    baked: tuple[Script, ...] = ()
    ingress: tuple[Ingress, ...] = ()
    offers: tuple[Offer, ...] = ()
    memory_bytes: int | None = None
