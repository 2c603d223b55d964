"""`NAME.relaunch.yml`, our own file beside a server template: image, bake, ports, offers, memory, place of a volume."""

from __future__ import annotations

import os.path
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from relaunch.errors import BadInput, FormatError
from relaunch.servers.scripts import Script
from relaunch.servers.sizes import parse_size
from relaunch.servers.strict_yaml import Element, did_you_mean, read_document

ROLES = ("front-end", "app", "database")
PROTOCOLS = ("tcp", "udp", "icmp", "all")
_KEYS = ("image", "bake", "ingress", "offers", "memory", "volume")


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
class TemplateExtras:
    image: str = "trixie"
    baked: tuple[Script, ...] = ()
    ingress: tuple[Ingress, ...] = ()
    offers: tuple[Offer, ...] = ()
    memory_bytes: int | None = None
    volume: str = ""  # where in the server its volume appears, when the deployment gives it one


def read_extras(path: Path, boot: Sequence[Script]) -> TemplateExtras:
    """What the file says; the defaults when there is none."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return TemplateExtras()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"the file cannot be read: {error}", file=str(path)) from None
    root = read_document(text, file=str(path), what="relaunch's part of the template")
    keys = root.entries(_KEYS) if root else {}
    return TemplateExtras(
        image=keys["image"].required_text() if "image" in keys else TemplateExtras().image,
        baked=_baked(path.parent, keys["bake"], boot) if "bake" in keys else (),
        ingress=tuple(_ingress(item) for item in keys["ingress"].items()) if "ingress" in keys else (),
        offers=tuple(_offer(item) for item in keys["offers"].items()) if "offers" in keys else (),
        memory_bytes=size(keys["memory"]) if "memory" in keys else None,
        volume=_place(keys["volume"]) if "volume" in keys else "",
    )


def size(element: Element) -> int:
    """The bytes an element says."""
    try:
        return parse_size(element.text())
    except BadInput as error:
        raise element.fault(f"{element.what}: {error.message}", hint=error.hint) from None


def _place(element: Element) -> str:
    text = element.text()
    if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", text) or ".." in text.split("/"):
        raise element.fault(f"volume must be an absolute path, not {text!r}", hint="for example /var/lib/mysql-volume")
    return text


def _baked(folder: Path, element: Element, boot: Sequence[Script]) -> tuple[Script, ...]:
    by_path = {script.path: script for script in boot}
    wanted: list[Path] = []
    for item in element.items():
        name = item.required_text()
        file = Path(os.path.normpath(folder / name))
        if file not in by_path:
            hint = did_you_mean(file.name, [script.path.name for script in boot])
            raise item.fault(f"bake: {name} is not among the boot scripts", hint=hint)
        if file in wanted:
            raise item.fault(f"bake: {name} is there twice")
        wanted.append(file)
    # In the order of the boot list, whatever the order here.
    return tuple(script for path, script in by_path.items() if path in wanted)


def _ingress(element: Element) -> Ingress:
    keys = element.entries(("port", "protocol", "source"))
    protocol = keys["protocol"].one_of(PROTOCOLS) if "protocol" in keys else "tcp"
    if "port" not in keys and protocol in ("tcp", "udp"):
        raise element.fault("ingress: port is missing")
    return Ingress(
        port=keys["port"].integer(at_least=0 if protocol in ("icmp", "all") else 1, at_most=65535)
        if "port" in keys
        else 0,
        protocol=protocol,
        source=_source(keys["source"]) if "source" in keys else "deployment",
    )


def _source(element: Element) -> str:
    text = element.text()
    kind, _, name = text.partition(":")
    if text in ("any", "deployment", "host") or (kind == "template" and name):
        return text
    try:
        return str(ip_network(text))
    except ValueError as error:
        hint = did_you_mean(text, ("any", "deployment", "host", "template:NAME"))
        raise element.fault(
            f"source must be any, deployment, host, template:NAME or a CIDR, not {text!r}",
            hint=hint if "/" not in text else str(error),
        ) from None


def _offer(element: Element) -> Offer:
    keys = element.entries(("role", "port", "check_path"))
    if "role" not in keys:
        raise element.fault("offers: role is missing", hint=f"one of {', '.join(ROLES)}")
    path = keys["check_path"].text() if "check_path" in keys else "/"
    if not path.startswith("/"):
        raise keys["check_path"].fault(f"check_path must start with /, not {path!r}")
    return Offer(
        role=keys["role"].one_of(ROLES),
        port=keys["port"].integer(at_least=1, at_most=65535) if "port" in keys else 0,
        check_path=path,
    )
