"""A deployment: servers, a database group, arrays and sites that belong together, in one file."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    name: str
    template: str
    zone: str = "a"
    inputs: dict[str, str] = field(default_factory=dict)
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSpec:
    """The deployment's one database group. durability: available | strict."""

    primary: str
    replicas: tuple[str, ...] = ()
    durability: str = "available"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSpec:
    """`name` is the apex domain; `canonical` the host every other name redirects to; `app` names the app's recipe."""

    name: str
    canonical: str
    aliases: tuple[str, ...] = ()
    app: str = ""
    runtime: str = "rails"
    database: str = ""
    check_path: str = "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSpec:
    name: str
    cloud: str = "local"
    servers: tuple[ServerSpec, ...] = ()
    database: DatabaseSpec | None = None
    sites: tuple[SiteSpec, ...] = ()
    inputs: dict[str, str] = field(default_factory=dict)
    generate_credentials: tuple[str, ...] = ()  # made with a random value when they do not exist yet
    source: str = ""  # the text it was read from
