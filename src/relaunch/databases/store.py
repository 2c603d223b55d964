"""The SQL of database groups: what failover remembers, changed only by compare-and-set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.engine import Engine

from relaunch.databases.group import Change, Group, Mode, Step
from relaunch.errors import Conflict
from relaunch.records import schema
from relaunch.servers.lifecycle import ENROLLED, State
from relaunch.servers.sparing import in_step, spared
from relaunch.servers.store import kept_aside, spec_from

COLUMNS = frozenset({"name", "epoch", "primary", "durability", "initialised"})  # the rest is kept in `state`
SETS = frozenset({"sync_set", "forgot", "leaving", "left", "fenced"})
GOING = (*ENROLLED, State.DECOMMISSIONING)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMember:
    """A server of the group with an instance; `server` is deployment/name, `id` the instance's."""

    id: str
    server_id: str
    name: str
    server: str
    address: str
    zone: str
    cloud_id: str | None
    state: State
    launched: datetime
    rank: int = 0
    never_leads: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """An instance of the group set aside for inspection, until a moment (UTC, ISO 8601)."""

    id: str
    server: str
    address: str
    until: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredGroup:
    """`version` counts changes. `front_ends` and `others`: instances with an agent that are not members, by name."""

    deployment_id: str
    deployment: str
    version: int
    group: Group
    members: Mapping[str, StoredMember]
    front_ends: Mapping[str, str]
    others: Mapping[str, str]
    empty: tuple[str, ...]  # the group's servers without an instance, or with one that failover set aside
    asides: tuple[Aside, ...]
    destroying: bool
    preset: str

    @property
    def in_step(self) -> frozenset[str]:
        group, states = self.group, {id: member.state for id, member in self.members.items()}
        return in_step(group.sync_set, leaving=group.leaving, primary=group.primary, states=states)

    def can_spare(self, instance: str) -> bool:
        group, changing = self.group, self.group.change is not None
        return spared(instance, self.in_step, primary=group.primary, mode=group.mode, changing=changing)


class GroupStore:
    def __init__(self, database: Engine) -> None:
        self._database = database

    def groups(self) -> list[StoredGroup]:
        """All, in one transaction."""
        d, g, s, i = schema.deployments, schema.database_groups, schema.servers, schema.instances
        with self._database.connect() as connection:
            found = connection.execute(select(g, d.c.name.label("deployment"), d.c.spec, d.c.destroying).join(d))
            groups = [dict(row) for row in found.mappings()]
            if not groups:
                return []
            wanted = (
                s.c.deployment_id, s.c.id.label("server_id"), s.c.name, s.c.zone, i.c.id.label("instance"), i.c.state,
                i.c.private_address, i.c.cloud_id, i.c.run_list, i.c.aside_until,
                i.c.launched,            )  # fmt: skip
            servers = [
                dict(row)
                for row in connection.execute(select(*wanted).outerjoin(i, s.c.instance_id == i.c.id)).mappings()
            ]
            asides = [
                dict(row)
                for row in connection.execute(
                    select(i.c.id, i.c.server_id, i.c.private_address, i.c.aside_until).where(kept_aside())
                ).mappings()
            ]
        return [
            _stored(row, [each for each in servers if each["deployment_id"] == row["deployment_id"]], asides)
            for row in groups
        ]

    def group(self, deployment: str) -> StoredGroup | None:
        return next((each for each in self.groups() if each.deployment == deployment), None)

    def put(self, old: StoredGroup, new: Group) -> None:
        """Store `new` in place of what was read; Conflict when somebody else was quicker."""
        table = schema.database_groups
        primary = old.members.get(new.primary or "")
        values: dict[str, Any] = {
            "epoch": new.epoch,
            "primary_instance_id": new.primary,
            "state": _state(new),
            "version": old.version + 1,
        }
        if primary is not None:
            values["primary_server_id"] = primary.server_id
        mine = (table.c.deployment_id == old.deployment_id, table.c.version == old.version)
        with self._database.begin() as connection:
            if not connection.execute(update(table).where(*mine).values(values)).rowcount:
                raise Conflict(f"the group of {old.deployment} has changed meanwhile")

    def change(self, deployment: str, **values: Any) -> Group:
        """Change fields of the group whatever else changed; used for what an operator says (paused, loss_allowed)."""
        for _ in range(20):
            stored = self.group(deployment)
            if stored is None:
                raise Conflict(f"{deployment} has no database group")
            new = _with(stored.group, values)
            try:
                self.put(stored, new)
            except Conflict:
                continue
            return new
        raise Conflict(f"the group of {deployment} keeps changing")

    def set_aside_until(self, instance: str, until: datetime) -> None:
        table = schema.instances
        with self._database.begin() as connection:
            moment = until.astimezone(UTC).isoformat(timespec="microseconds")
            connection.execute(update(table).where(table.c.id == instance).values(aside_until=moment))


def _with(group: Group, values: Mapping[str, Any]) -> Group:
    return Group(**{**{name: getattr(group, name) for name in Group.__dataclass_fields__}, **values})


def _state(group: Group) -> dict[str, Any]:
    """What has no column of its own, plain."""
    plain = {name: _plain(getattr(group, name)) for name in Group.__dataclass_fields__ if name not in COLUMNS}
    return plain | {"change": asdict(group.change) | {"step": str(group.change.step)} if group.change else None}


def _plain(value: Any) -> Any:
    match value:
        case frozenset() | set():
            return sorted(value)
        case tuple():
            return list(value)
        case Mapping():
            return dict(value)
        case Mode():
            return str(value)
        case _:
            return value


def _stored(row: dict[str, Any], servers: list[dict[str, Any]], asides: list[dict[str, Any]]) -> StoredGroup:
    spec = spec_from(row["spec"])
    wanted = spec.database.members if spec.database else ()
    by_id = {each["server_id"]: each for each in servers}
    group = _group(row, spec.database.durability if spec.database else "available", by_id)
    needed = group.sync_set | ({group.primary} if group.initialised else set())
    # Whoever may acknowledge is one of the group until it surely does not, whatever the file says and whoever ends it.
    mine = [
        each
        for each in servers
        if each["name"] in wanted or each["server_id"] == row["primary_server_id"] or each["instance"] in needed
    ]
    members = {
        each["instance"]: StoredMember(
            id=each["instance"],
            server_id=each["server_id"],
            name=each["name"],
            server=f"{row['deployment']}/{each['name']}",
            address=each["private_address"] or "",
            zone=each["zone"],
            cloud_id=each["cloud_id"],
            state=State(each["state"]),
            launched=datetime.fromisoformat(each["launched"]),
            rank=wanted.index(each["name"]) if each["name"] in wanted else len(wanted),
            never_leads=spec.database is not None and each["name"] in spec.database.never_primary,
        )
        for each in mine
        if each["instance"] and each["state"] in (GOING if each["instance"] in needed else ENROLLED)
    }
    others = {
        each["instance"]: each
        for each in servers
        if each["instance"] and each["instance"] not in members and each["state"] == State.OPERATIONAL
    }
    return StoredGroup(
        deployment_id=row["deployment_id"],
        deployment=row["deployment"],
        version=row["version"],
        group=group,
        members=members,
        front_ends={key: each["name"] for key, each in others.items() if _has_proxy(each["run_list"])},
        others={key: each["name"] for key, each in others.items()},
        empty=tuple(
            f"{row['deployment']}/{each['name']}" for each in mine if each["name"] in wanted and _is_empty(each)
        ),
        asides=tuple(
            Aside(
                id=each["id"], server=f"{row['deployment']}/{name}", address=each["private_address"] or "",
                until=each["aside_until"],
            )
            for each in asides
            if (name := by_id.get(each["server_id"], {}).get("name")) in wanted
        ),
        destroying=row["destroying"],
        preset=spec.database.failover if spec.database else "normal",
    )  # fmt: skip


def _is_empty(server: Mapping[str, Any]) -> bool:
    return not server["instance"] or (server["state"] == State.SET_ASIDE and server["aside_until"] is not None)


def _has_proxy(run_list: Mapping[str, Any]) -> bool:
    return any(offer.get("role") in ("front-end", "app") for offer in run_list.get("offers", ()))


def _group(row: dict[str, Any], durability: str, servers: Mapping[str, dict[str, Any]]) -> Group:
    state: Mapping[str, Any] = row["state"] or {}
    change = state.get("change")
    primary = row["primary_instance_id"] if row["initialised"] else None
    if primary is None:
        # No data yet, so nothing to lose: whatever instance the file's primary has now.
        primary = servers.get(row["primary_server_id"], {}).get("instance")
    kept = {name: state[name] for name in state if name in Group.__dataclass_fields__ and name not in COLUMNS}
    for name in SETS & kept.keys():
        kept[name] = frozenset(kept[name])
    return Group(
        name=row["name"],
        epoch=row["epoch"],
        primary=primary,
        durability=durability,
        initialised=row["initialised"],
        **kept
        | {
            "mode": Mode(state.get("mode", Mode.FORMING)),
            "change": Change(**{**change, "step": Step(change["step"])}) if change else None,
            "failovers": tuple(state.get("failovers", ())),
        },
    )
