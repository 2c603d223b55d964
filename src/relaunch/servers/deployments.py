"""A deployment: servers, a database group, arrays and sites that belong together, in one file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from relaunch.durations import parse_duration
from relaunch.errors import BadInput
from relaunch.servers.scripts import value_text
from relaunch.servers.starters import starter_file as starter_file
from relaunch.servers.strict_yaml import Element, did_you_mean, read_document
from relaunch.servers.template_extras import size

_KEYS = ("deployment", "cloud", "servers", "database", "arrays", "sites", "inputs", "credentials")
_NOT_A_SITES = ("mysql", "sys", "information_schema", "performance_schema", "relaunch", "relaunch_trial")
_SITE_KEYS = ("canonical", "aliases", "source", "runtime", "database", "check_path")
_SOURCES_LATER = ("git", "tarball", "svn")
RUNTIMES = ("rails", "wsgi", "php", "node", "static", "proxy")
DURABILITIES = ("available", "strict")
FAILOVER_PRESETS = ("fast", "normal", "careful")
NAME_LENGTH = 40
LEAST_BYTES = 32 << 20  # of memory, or of a volume
READ_LAG_SECONDS, LEAST_READ_LAG_SECONDS = 30.0, 5.0  # what is measured is a row a second, asked for once a second
LEAST_BACKUP_SECONDS = 15.0
BACKUP_INTERVALS = ("incremental", "full", "primary", "prove", "schemas")
BACKUPS_KEPT = ("last", "daily", "weekly", "monthly", "yearly")
BACKUP_METHODS = ("server", "snapshot")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    name: str
    template: str
    zone: str = "a"
    inputs: dict[str, str] = field(default_factory=dict)
    memory_bytes: int | None = None
    volume_bytes: int | None = None  # of its own volume, which lives and dies with the instance


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSpec:
    """The deployment's one database group. durability: available | strict. failover: fast | normal | careful."""

    primary: str
    replicas: tuple[str, ...] = ()
    durability: str = "available"
    failover: str = "normal"
    never_primary: tuple[str, ...] = ()  # of the replicas
    read_lag_seconds: float = READ_LAG_SECONDS  # a replica further behind gets no reads
    backups: dict[str, str] = field(default_factory=dict)  # as written; databases/backup_catalogue.py reads it

    @property
    def members(self) -> tuple[str, ...]:
        return (self.primary, *self.replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSpec:
    """`name` is the apex domain; `canonical` the host every other name redirects to; `app` names the app's recipe."""

    name: str
    canonical: str
    aliases: tuple[str, ...] = ()  # every host but the canonical one
    app: str = ""
    runtime: str = "rails"
    database: str = ""
    check_path: str = "/"

    @property
    def hosts(self) -> tuple[str, ...]:
        return (self.canonical, *self.aliases)


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

    def server(self, name: str) -> ServerSpec | None:
        return next((server for server in self.servers if server.name == name), None)


def read_deployment(text: str, *, file: str = "deployment.yml") -> DeploymentSpec:
    """The deployment a file describes; FormatError carries file and line of the first fault."""
    root = read_document(text, file=file, what="deployment file")
    if root is None:
        root = read_document("{}", file=file, what="deployment file")
        assert root is not None
    keys = root.entries(_KEYS)
    if "deployment" not in keys:
        raise root.fault("`deployment: NAME` is missing")
    if "arrays" in keys:
        raise keys["arrays"].fault(
            "arrays are not supported in this version", hint="list each server under servers instead"
        )
    servers = _servers(keys["servers"]) if "servers" in keys else ()
    if not servers:
        raise keys.get("servers", root).fault("a deployment needs at least one server")
    database = _database(keys["database"], [server.name for server in servers]) if "database" in keys else None
    _check_method(keys, servers, database)
    return DeploymentSpec(
        name=_label(keys["deployment"]),
        cloud=_label(keys["cloud"]) if "cloud" in keys else "local",
        servers=servers,
        database=database,
        sites=_sites(keys["sites"], database) if "sites" in keys else (),
        inputs=_inputs(keys["inputs"]) if "inputs" in keys else {},
        generate_credentials=_credentials(keys["credentials"]) if "credentials" in keys else (),
        source=text,
    )


def _label(element: Element, text: str | None = None) -> str:
    """A name that can be a part of a host name."""
    text = element.text() if text is None else text
    if len(text) > NAME_LENGTH or not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", text):
        raise element.fault(
            f"{element.what}: {text!r} cannot be a name",
            hint=f"small letters, digits and inner hyphens, at most {NAME_LENGTH}",
        )
    return text


def _servers(element: Element) -> tuple[ServerSpec, ...]:
    return tuple(_server(name, entry) for name, entry in element.entries().items())


def _server(name: str, element: Element) -> ServerSpec:
    _label(element, name)
    keys = element.entries(("template", "zone", "inputs", "memory", "volume"))
    if "template" not in keys:
        raise element.fault(f"server {name}: template is missing")
    return ServerSpec(
        name=name,
        template=_template(keys["template"]),
        zone=_label(keys["zone"]) if "zone" in keys else "a",
        inputs=_inputs(keys["inputs"]) if "inputs" in keys else {},
        memory_bytes=_size(keys["memory"]) if "memory" in keys else None,
        volume_bytes=_size(keys["volume"]) if "volume" in keys else None,
    )


def _size(element: Element) -> int:
    found = size(element)
    if found < LEAST_BYTES:
        raise element.fault(
            f"{element.what}: {element.text()} is {found} bytes, with which no server runs",
            hint="a number alone is bytes: write a unit, 512M or 2G for example",
        )
    return found


def _template(element: Element) -> str:
    text = element.text()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text):
        raise element.fault(f"template: {text!r} cannot be a template's name", hint="a name, not a path")
    return text


def _inputs(element: Element) -> dict[str, str]:
    return {name: value_text(value) for name, value in element.entries().items()}


def _database(element: Element, servers: list[str]) -> DatabaseSpec:
    keys = element.entries(("primary", "replicas", "never_primary", "durability", "failover", "read_lag", "backups"))
    if "primary" not in keys:
        raise element.fault("database: primary is missing")
    members = [keys["primary"], *(keys["replicas"].items() if "replicas" in keys else ())]
    names: list[str] = []
    for member in members:
        name = member.text()
        if name not in servers:
            raise member.fault(f"database: there is no server {name!r}", hint=did_you_mean(name, servers))
        if name in names:
            raise member.fault(f"database: {name} is there twice")
        names.append(name)
    durability = keys["durability"].one_of(DURABILITIES) if "durability" in keys else "available"
    if durability == "strict" and len(names) == 1:
        raise keys["durability"].fault("durability strict needs a replica: without one no write could be confirmed")
    never = _never_primary(keys["never_primary"], names) if "never_primary" in keys else ()
    if durability == "strict" and set(never) == set(names[1:]):
        raise keys["never_primary"].fault("durability strict needs a replica that may become the primary")
    return DatabaseSpec(
        primary=names[0],
        replicas=tuple(names[1:]),
        never_primary=never,
        read_lag_seconds=_read_lag(keys["read_lag"]) if "read_lag" in keys else READ_LAG_SECONDS,
        durability=durability,
        failover=keys["failover"].one_of(FAILOVER_PRESETS) if "failover" in keys else "normal",
        backups=_backups(keys["backups"]) if "backups" in keys else {},
    )


def _never_primary(element: Element, members: list[str]) -> tuple[str, ...]:
    """They follow, and answer reads; no commit rests on one, as it could not take over."""
    never = [each.text() for each in element.items()]
    for name in never:
        if name not in members[1:]:
            raise element.fault(f"database: never_primary: {name} is no replica", hint=did_you_mean(name, members[1:]))
    return tuple(never)


def _read_lag(element: Element) -> float:
    try:
        seconds = parse_duration(element.text()).total_seconds()
    except BadInput as error:
        raise element.fault(f"database: read_lag: {error.message}", hint=error.hint) from None
    if seconds < LEAST_READ_LAG_SECONDS:
        raise element.fault(f"database: read_lag must be {LEAST_READ_LAG_SECONDS:g} s or more: shorter is not measured")
    return seconds


def _check_method(keys: Mapping[str, Element], servers: Sequence[ServerSpec], database: DatabaseSpec | None) -> None:
    if database is None or database.backups.get("method") != "snapshot":
        return
    for server in servers:
        if server.name in database.members and server.volume_bytes is None:
            raise keys["database"].fault(
                f"backups: method snapshot needs a volume, and server {server.name} has none",
                hint=f"`volume: 20G` at {server.name}",
            )


def _backups(element: Element) -> dict[str, str]:
    """How often each is made, how many are kept, and by what; `full: never` makes none by itself."""
    found = {}
    for name, value in element.entries((*BACKUP_INTERVALS, *BACKUPS_KEPT, "method")).items():
        text = found[name] = value.text()
        if name == "method":
            value.one_of(BACKUP_METHODS)
        elif name in BACKUPS_KEPT:
            if not re.fullmatch(r"[0-9]{1,4}", text):
                raise value.fault(f"backups: {name} must be a number of backups, not {text!r}")
        elif text != "never":
            try:
                seconds = parse_duration(text).total_seconds()
            except BadInput as error:
                raise value.fault(f"backups: {name}: {error.message}", hint=error.hint) from None
            if seconds < LEAST_BACKUP_SECONDS:
                raise value.fault(
                    f"backups: {name} must be {LEAST_BACKUP_SECONDS:g} s or more: nobody looks more often what is due",
                    hint=f"`{name}: never` makes none by itself",
                )
    return found


def _sites(element: Element, database: DatabaseSpec | None) -> tuple[SiteSpec, ...]:
    sites: list[SiteSpec] = []
    owner: dict[str, str] = {}
    for name, entry in element.entries().items():
        site = _site(name, entry, database)
        for host in site.hosts:
            if host in owner:
                raise entry.fault(f"site {name}: the name {host} belongs to site {owner[host]} already")
            owner[host] = name
        sites.append(site)
    return tuple(sites)


def _site(name: str, element: Element, database: DatabaseSpec | None) -> SiteSpec:
    _domain(element, name)
    keys = element.entries(_SITE_KEYS)
    aliases = [_domain(item, item.text()) for item in keys["aliases"].items()] if "aliases" in keys else []
    hosts = list(dict.fromkeys([name, *aliases]))
    canonical = f"www.{name}"
    if "canonical" in keys:
        canonical = keys["canonical"].text()
        if canonical not in (*hosts, f"www.{name}"):
            raise keys["canonical"].fault(
                f"site {name}: canonical {canonical!r} is neither its name nor one of its aliases",
                hint=did_you_mean(canonical, [*hosts, f"www.{name}"]),
            )
    return SiteSpec(
        name=name,
        canonical=canonical,
        aliases=tuple(host for host in hosts if host != canonical),
        app=_app(keys["source"]) if "source" in keys else "",
        runtime=keys["runtime"].one_of(RUNTIMES) if "runtime" in keys else "rails",
        database=_logical_database(keys["database"], database) if "database" in keys else "",
        check_path=_path(keys["check_path"]) if "check_path" in keys else "/",
    )


def _domain(element: Element, text: str) -> str:
    labels = text.split(".")
    label = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
    if len(text) > 253 or len(labels) < 2 or not all(label.fullmatch(part) for part in labels) or labels[-1].isdigit():
        raise element.fault(
            f"{text!r} is no domain name", hint="for example shop.test: small letters, digits, inner hyphens and dots"
        )
    return text


def _app(element: Element) -> str:
    keys: Mapping[str, Element] = element.entries(("package", "app", *_SOURCES_LATER))
    for later in _SOURCES_LATER:
        if later in keys:
            raise keys[later].fault(
                f"source: {later} is not supported in this version",
                hint="write {package: NAME} for an app from the distribution, or {app: rack}",
            )
    if len(keys) != 1:
        raise element.fault("source must have one key, package or app")
    return _label(next(iter(keys.values())))


def _logical_database(element: Element, database: DatabaseSpec | None) -> str:
    text = element.text()
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,47}", text):
        raise element.fault(
            f"database: {text!r} cannot be a database's name",
            hint="a small letter, then small letters, digits and _, at most 48",
        )
    own = next((each for each in _NOT_A_SITES if re.fullmatch(text.replace("_", "."), each)), None)
    if own is not None:
        means = "is" if own == text else f"means {own} in a grant, where _ stands for any sign, and that is"
        raise element.fault(f"database: {text} {means} the server's own or ours", hint="choose another name")
    if database is None:
        raise element.fault(
            f"the site wants database {text!r}, but the deployment has no database group",
            hint="add `database: {primary: SERVER}`",
        )
    return text


def _path(element: Element) -> str:
    text = element.text()
    if not re.fullmatch(r"/[!-~]*", text):
        raise element.fault(f"{element.what} must start with / and have no blanks, not {text!r}")
    return text


def _credentials(element: Element) -> tuple[str, ...]:
    for name, entry in element.entries().items():
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise entry.fault(f"credential {name!r}: letters, digits, _, . and - only")
        if entry.text() != "generate":
            raise entry.fault(
                f"credential {name}: the only thing that can stand here is `generate`",
                hint=f"a value does not belong into a file: relaunch credential set {name}",
            )
    return tuple(element.entries())
