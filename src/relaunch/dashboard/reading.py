"""Servers, deployments and sites as their pages show them: queries → frozen values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, func, select

from relaunch.dashboard.activity import Action, Activity, activity, possible_actions, roles
from relaunch.errors import NotFound
from relaunch.records import schema
from relaunch.servers.lifecycle import State


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRow:
    deployment: str
    name: str
    template: str
    zone: str
    locked: bool
    state: str
    activity: Activity
    address: str
    roles: tuple[str, ...]
    since: str | None  # in this state, as far as it is known
    connected: bool | None  # None when there is nothing that could be

    @property
    def path(self) -> str:
        return f"/servers/{self.deployment}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRow:
    deployment: str
    name: str
    canonical: str
    aliases: tuple[str, ...]
    app: str
    database: str
    serving: int  # operational servers of the deployment that say they run an app
    apps: int  # servers with an app that are to serve, whether they do now or not


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRow:
    name: str
    changed: str
    destroying: bool
    servers: tuple[ServerRow, ...]
    sites: tuple[SiteRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """An instance that was this server before."""

    id: str
    launched: str
    ended: str | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerDetail:
    row: ServerRow
    facts: tuple[tuple[str, str], ...]
    moments: tuple[tuple[str, str], ...]
    tags: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    actions: tuple[Action, ...]
    instance: str | None
    earlier: tuple[Earlier, ...]


Connected = Callable[[str], bool]

_OUT_OF_SERVICE = (State.SET_ASIDE, State.DECOMMISSIONING, State.TERMINATED)
_WITHOUT_AGENT = (State.PENDING, State.TERMINATED)  # not yet or no longer: nothing is wrong


def session_stands(db: Connection, who: str, opened: datetime) -> bool:
    """Is the token a session was opened with still there, unrevoked and not one of the same name made later?"""
    token = db.execute(
        select(schema.tokens.c.created, schema.tokens.c.revoked).where(schema.tokens.c.name == who)
    ).first()
    return token is not None and token.revoked is None and datetime.fromisoformat(token.created) <= opened


def deployments(db: Connection, connected: Connected) -> tuple[DeploymentRow, ...]:
    """Every deployment with its servers and sites, by name."""
    kept = db.execute(select(schema.deployments).order_by(schema.deployments.c.name)).mappings().all()
    servers = db.execute(select(schema.servers).order_by(schema.servers.c.name)).mappings().all()
    rows = _server_rows(db, kept, servers, connected)
    return tuple(
        DeploymentRow(
            name=deployment["name"],
            changed=deployment["changed"],
            destroying=deployment["destroying"],
            servers=(mine := tuple(row for row in rows if row.deployment == deployment["name"])),
            sites=_sites(deployment, mine),
        )
        for deployment in kept
    )


def server(db: Connection, deployment: str, name: str, connected: Connected) -> ServerDetail:
    """One server with all that is known of its present instance; NotFound when there is none of that name."""
    home = (
        db.execute(select(schema.deployments).where(schema.deployments.c.name == deployment)).mappings().one_or_none()
    )
    row = home and (
        db.execute(
            select(schema.servers).where(
                schema.servers.c.deployment_id == home["id"],
                schema.servers.c.name == name,
            )
        )
        .mappings()
        .one_or_none()
    )
    if home is None or row is None:
        raise NotFound(f"there is no server {deployment}/{name}", hint="the board lists all there are")
    (shown,) = _server_rows(db, [home], [row], connected)
    instances = db.execute(
        select(schema.instances)
        .where(schema.instances.c.server_id == row["id"])
        .order_by(schema.instances.c.launched.desc())
        .limit(20)
    ).mappings()
    every = {instance["id"]: instance for instance in instances}
    present = every.pop(row["instance_id"], None)
    return ServerDetail(
        row=shown,
        facts=_facts(row, present),
        moments=_moments(present),
        tags=_pairs(present, "tags"),
        outputs=_pairs(present, "outputs"),
        actions=possible_actions(shown.state, locked=row["locked"]),
        instance=present["id"] if present else None,
        earlier=tuple(
            Earlier(id=i["id"], launched=i["launched"], ended=i["ended"], why=i["ended_why"] or "")
            for i in every.values()
        ),
    )


def _server_rows(
    db: Connection, deployments: Sequence[RowMapping], servers: Sequence[RowMapping], connected: Connected
) -> list[ServerRow]:
    ids = [server["instance_id"] for server in servers if server["instance_id"]]
    found = db.execute(select(schema.instances).where(schema.instances.c.id.in_(ids))).mappings()
    instances = {instance["id"]: instance for instance in found}
    homes = {deployment["id"]: deployment for deployment in deployments}
    groups = db.execute(select(schema.database_groups.c.deployment_id, schema.database_groups.c.primary_server_id))
    primaries = {group.deployment_id: group.primary_server_id for group in groups}
    runs, steps = _latest_runs(db, ids), _present_steps(db)
    rows = []
    for server in servers:
        home = homes[server["deployment_id"]]
        instance = instances.get(server["instance_id"])
        state = instance["state"] if instance else State.INACTIVE.value
        rows.append(
            ServerRow(
                deployment=home["name"],
                name=server["name"],
                template=server["template"],
                zone=instance["zone"] if instance else server["zone"],
                locked=server["locked"],
                state=state,
                activity=activity(
                    state,
                    run=runs.get(server["instance_id"]),
                    step=steps.get(f"server:{home['name']}/{server['name']}"),
                    stranded_why=instance["stranded_why"] if instance else None,
                ),
                address=(instance["private_address"] or "") if instance else "",
                roles=roles(
                    server_id=server["id"],
                    name=server["name"],
                    template=server["template"],
                    tags=instance["tags"] if instance else {},
                    spec=home["spec"],
                    primary=primaries.get(home["id"]),
                ),
                since=_since(instance, state),
                connected=None if instance is None or state in _WITHOUT_AGENT else connected(instance["id"]),
            )
        )
    return rows


def _latest_runs(db: Connection, instances: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The run of each instance that was ordered last."""
    latest = (
        select(schema.runs.c.instance_id, func.max(schema.runs.c.created).label("created"))
        .where(schema.runs.c.instance_id.in_(list(instances)))
        .group_by(schema.runs.c.instance_id)
        .subquery()
    )
    found = db.execute(
        select(schema.runs).join(
            latest,
            (schema.runs.c.instance_id == latest.c.instance_id) & (schema.runs.c.created == latest.c.created),
        )
    ).mappings()
    return {run["instance_id"]: {**run} for run in found}


def _present_steps(db: Connection) -> dict[str, tuple[str, str]]:
    """Of each subject with a running task: (the step it is at, its start)."""
    found = db.execute(
        select(schema.tasks.c.subject, schema.task_steps.c.name, schema.task_steps.c.started)
        .join(schema.task_steps, schema.task_steps.c.task_id == schema.tasks.c.id)
        .where(schema.tasks.c.state == "running", schema.task_steps.c.state == "running")
        .order_by(schema.task_steps.c.started)
    )
    return {row.subject: (row.name, row.started) for row in found}


def _since(instance: RowMapping | None, state: str) -> str | None:
    if instance is None:
        return None
    match state:
        case State.OPERATIONAL:
            return str(instance["operational"] or instance["launched"])
        case State.TERMINATED:
            return str(instance["ended"] or instance["launched"])
        case _:
            return str(instance["launched"])


def _sites(deployment: RowMapping, servers: Sequence[ServerRow]) -> tuple[SiteRow, ...]:
    apps = [row for row in servers if "app" in row.roles and row.state not in _OUT_OF_SERVICE]
    return tuple(
        SiteRow(
            deployment=deployment["name"],
            name=site["name"],
            canonical=site.get("canonical") or site["name"],
            aliases=tuple(site.get("aliases") or ()),
            app=site.get("app") or "",
            database=site.get("database") or "",
            serving=sum(row.state == State.OPERATIONAL for row in apps),
            apps=len(apps),
        )
        for site in deployment["spec"].get("sites") or ()
    )


def _facts(server: RowMapping, instance: RowMapping | None) -> tuple[tuple[str, str], ...]:
    facts: list[tuple[str, Any]] = [("Template", server["template"]), ("Zone", server["zone"])]
    if instance:
        facts += [
            ("Private address", instance["private_address"]),
            ("Public address", instance["public_address"]),
            ("Instance", instance["id"]),
            ("In the cloud", instance["cloud_id"]),
            ("Image", instance["image_id"]),
            ("Agent", instance["agent_version"]),
        ]
    return tuple((name, str(value)) for name, value in facts if value)


def _moments(instance: RowMapping | None) -> tuple[tuple[str, str], ...]:
    if instance is None:
        return ()
    columns = (("Launched", "launched"), ("Operational", "operational"), ("Heard of", "last_seen"), ("Ended", "ended"))
    return tuple((name, instance[column]) for name, column in columns if instance[column])


def _pairs(instance: RowMapping | None, column: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((str(k), str(v)) for k, v in instance[column].items())) if instance else ()
