"""The SQL of servers: deployments, servers, instances and their runs, as frozen rows in and out."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, insert, or_, select, update
from sqlalchemy.engine import Connection, Engine, RowMapping

from relaunch.clock import Clock
from relaunch.clouds.cloud import Instance as CloudInstance
from relaunch.errors import NotFound
from relaunch.records import schema
from relaunch.servers.deployments import DatabaseSpec, DeploymentSpec, ServerSpec, SiteSpec
from relaunch.servers.lifecycle import Event, State, after
from relaunch.servers.sparing import in_step, spared

Row = dict[str, Any]
Args = dict[str, Any]  # of a workflow: plain
ENDED = State.TERMINATED


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRow:
    """A server with its deployment's name; `instance_id` is its present incarnation."""

    id: str
    deployment_id: str
    deployment: str
    name: str
    template: str
    zone: str
    spec: ServerSpec
    locked: bool
    instance_id: str | None

    @property
    def full_name(self) -> str:
        return f"{self.deployment}/{self.name}"

    @property
    def subject(self) -> str:
        return f"server:{self.full_name}"


def new_id() -> str:
    """For anything that gets a row; chosen before a workflow starts, never in it."""
    return secrets.token_hex(8)


def kept_aside() -> ColumnElement[bool]:
    """Of an instance: set aside, or its end has begun after that and has not come."""
    table = schema.instances
    going = and_(table.c.state == State.DECOMMISSIONING, table.c.aside_until.is_not(None))
    return or_(table.c.state == State.SET_ASIDE, going)


def now(clock: Clock) -> str:
    """The present moment as the database writes it."""
    return clock.now().isoformat(timespec="microseconds")


def spec_from(plain: Mapping[str, Any]) -> DeploymentSpec:
    """The specification out of its JSON column."""
    database = plain.get("database")
    return DeploymentSpec(
        **{
            **plain,
            "servers": tuple(ServerSpec(**server) for server in plain["servers"]),
            "sites": tuple(SiteSpec(**{**site, "aliases": tuple(site["aliases"])}) for site in plain["sites"]),
            "database": _database(database) if database else None,
            "generate_credentials": tuple(plain.get("generate_credentials", ())),
        }
    )


def _database(plain: Mapping[str, Any]) -> DatabaseSpec:
    lists = {name: tuple(plain.get(name, ())) for name in ("replicas", "never_primary")}
    return DatabaseSpec(**{**plain, **lists})


class Store:
    """Each method is one transaction; every write can be repeated."""

    def __init__(self, database: Engine, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # deployments

    def deployments(self) -> list[Row]:
        with self._database.connect() as connection:
            return _rows(connection, select(schema.deployments).order_by(schema.deployments.c.name))

    def deployment(self, name: str) -> Row | None:
        with self._database.connect() as connection:
            query = select(schema.deployments).where(schema.deployments.c.name == name)
            return _row(connection, query)

    def applied_spec(self, name: str) -> DeploymentSpec | None:
        row = self.deployment(name)
        return spec_from(row["spec"]) if row else None

    def put_deployment(self, spec: DeploymentSpec, *, new_id: str, new_server_ids: Mapping[str, str]) -> None:
        """The deployment, its servers and its database group as the file says; servers not in it are left alone."""
        moment = now(self._clock)
        values = {"source": spec.source, "spec": asdict(spec), "changed": moment, "destroying": False}
        table = schema.deployments
        with self._database.begin() as connection:
            changed = connection.execute(update(table).where(table.c.name == spec.name).values(values))
            if not changed.rowcount:
                connection.execute(insert(table).values(id=new_id, name=spec.name, created=moment, **values))
            deployment = connection.scalar(select(table.c.id).where(table.c.name == spec.name))
            for server in spec.servers:
                _put_server(connection, str(deployment), server, new_server_ids[server.name], moment)
            if spec.database is not None:
                _put_group(connection, str(deployment), spec.name, spec.database.primary)
            else:
                groups = schema.database_groups
                connection.execute(delete(groups).where(groups.c.deployment_id == deployment))
            closed, kept = schema.site_maintenance, [site.name for site in spec.sites]
            connection.execute(delete(closed).where(closed.c.deployment_id == deployment, closed.c.site.not_in(kept)))

    def set_destroying(self, name: str) -> None:
        with self._database.begin() as connection:
            table = schema.deployments
            connection.execute(update(table).where(table.c.name == name).values(destroying=True))

    def remove_server(self, server_id: str) -> None:
        """Its instances' rows stay, without a server: failure rates and old runs need them."""
        with self._database.begin() as connection:
            instances = schema.instances
            connection.execute(update(instances).where(instances.c.server_id == server_id).values(server_id=None))
            connection.execute(delete(schema.servers).where(schema.servers.c.id == server_id))

    def remove_deployment(self, name: str) -> None:
        """With its database group and its sites' maintenance; its servers must be gone."""
        with self._database.begin() as connection:
            deployments, groups = schema.deployments, schema.database_groups
            found = connection.scalar(select(deployments.c.id).where(deployments.c.name == name))
            connection.execute(delete(groups).where(groups.c.deployment_id == found))
            closed = schema.site_maintenance
            connection.execute(delete(closed).where(closed.c.deployment_id == found))
            connection.execute(delete(deployments).where(deployments.c.id == found))

    def group(self, deployment_id: str) -> Row | None:
        with self._database.connect() as connection:
            table = schema.database_groups
            return _row(connection, select(table).where(table.c.deployment_id == deployment_id))

    def group_led_by(self, instance_id: str) -> str | None:
        """The name of the group that holds data and whose primary this instance is."""
        table = schema.database_groups
        leads = (table.c.primary_instance_id == instance_id, table.c.initialised.is_(True))
        with self._database.connect() as connection:
            return connection.scalar(select(table.c.name).where(*leads))

    def group_that_needs(self, instance_id: str) -> str | None:
        """The name of the group that holds data and counts on this instance: it leads, or may acknowledge writes."""
        table = schema.database_groups
        with self._database.connect() as connection:
            for group in _rows(connection, select(table).where(table.c.initialised.is_(True))):
                if instance_id in (group["primary_instance_id"], *group["state"].get("sync_set", ())):
                    return str(group["name"])
        return None

    def group_that_cannot_spare(self, instance_id: str) -> str | None:
        """The name of the group of this instance's server, unless another replica is in step there, and not gone."""
        table, servers = schema.database_groups, schema.servers
        query = select(table).join(servers, servers.c.deployment_id == table.c.deployment_id)
        with self._database.connect() as connection:
            group = _row(connection, query.where(servers.c.instance_id == instance_id))
        if group is None:
            return None
        state, primary = group["state"] or {}, group["primary_instance_id"]
        states = {row["id"]: row["state"] for row in self.living_instances()}
        replicas = in_step(state.get("sync_set", ()), leaving=state.get("leaving", ()), primary=primary, states=states)
        changing = state.get("change") is not None
        is_spared = spared(instance_id, replicas, primary=primary, mode=state.get("mode", ""), changing=changing)
        return None if is_spared else str(group["name"])

    def set_initialised(self, server_id: str) -> bool:
        """The group whose primary this server is holds data from now on; True when that is news."""
        with self._database.begin() as connection:
            table, servers = schema.database_groups, schema.servers
            instance = connection.scalar(select(servers.c.instance_id).where(servers.c.id == server_id))
            changed = connection.execute(
                update(table)
                .where(table.c.primary_server_id == server_id, table.c.initialised.is_(False))
                .values(initialised=True, primary_instance_id=instance, version=table.c.version + 1)
            )
            return bool(changed.rowcount)

    # servers

    def servers(self, deployment: str | None = None) -> list[ServerRow]:
        query = _servers_query().order_by(schema.deployments.c.name, schema.servers.c.name)
        if deployment is not None:
            query = query.where(schema.deployments.c.name == deployment)
        with self._database.connect() as connection:
            return [_server(row) for row in connection.execute(query).mappings()]

    def server(self, full_name: str) -> ServerRow:
        deployment, _, name = full_name.partition("/")
        query = _servers_query().where(schema.deployments.c.name == deployment, schema.servers.c.name == name)
        with self._database.connect() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            raise NotFound(f"no server {full_name}", hint="names are deployment/server; see `relaunch server list`")
        return _server(row)

    def server_of(self, instance_id: str) -> ServerRow | None:
        query = _servers_query().where(schema.servers.c.instance_id == instance_id)
        with self._database.connect() as connection:
            row = connection.execute(query).mappings().first()
        return _server(row) if row else None

    def set_locked(self, server_id: str, locked: bool) -> None:
        with self._database.begin() as connection:
            connection.execute(update(schema.servers).where(schema.servers.c.id == server_id).values(locked=locked))

    # instances

    def instance(self, instance_id: str) -> Row:
        with self._database.connect() as connection:
            table = schema.instances
            row = _row(connection, select(table).where(table.c.id == instance_id))
        if row is None:
            raise NotFound(f"no instance {instance_id}")
        return row

    def instances(self, ids: list[str]) -> dict[str, Row]:
        with self._database.connect() as connection:
            table = schema.instances
            return {row["id"]: row for row in _rows(connection, select(table).where(table.c.id.in_(ids)))}

    def asides(self, server_id: str) -> list[str]:
        """Ids of the server's instances, present or earlier, that are set aside, or whose end has begun after that."""
        with self._database.connect() as connection:
            table = schema.instances
            mine = (table.c.server_id == server_id, kept_aside())
            return list(connection.scalars(select(table.c.id).where(*mine).order_by(table.c.launched)))

    def living_instances(self) -> list[Row]:
        with self._database.connect() as connection:
            table = schema.instances
            return _rows(connection, select(table).where(table.c.state != ENDED))

    def add_instance(
        self,
        instance_id: str,
        *,
        server_id: str | None,
        purpose: str,
        zone: str,
        image_id: str,
        run_list: Mapping[str, Any],
        sealed_inputs: str,
    ) -> None:
        """The row in state pending, and the server's present instance; nothing when it is there already."""
        with self._database.begin() as connection:
            table = schema.instances
            if connection.scalar(select(table.c.id).where(table.c.id == instance_id)) is None:
                connection.execute(
                    insert(table).values(
                        id=instance_id, server_id=server_id, purpose=purpose, state=after(State.INACTIVE, Event.LAUNCH),
                        zone=zone, image_id=image_id, run_list=dict(run_list), sealed_inputs=sealed_inputs,
                        tags={}, outputs={}, launched=now(self._clock),
                    )
                )  # fmt: skip
            if server_id is not None:
                connection.execute(
                    update(schema.servers).where(schema.servers.c.id == server_id).values(instance_id=instance_id)
                )

    def set_cloud_instance(self, instance_id: str, found: CloudInstance) -> None:
        self.change_instance(
            instance_id,
            cloud_id=str(found.id),
            private_address=found.private_address,
            public_address=found.public_address,
        )

    def change_instance(self, instance_id: str, **values: Any) -> None:
        with self._database.begin() as connection:
            table = schema.instances
            connection.execute(update(table).where(table.c.id == instance_id).values(**values))

    def move(self, instance_id: str, event: Event, **values: Any) -> State:
        """The state after the event; nothing when it is there already, Conflict when the event has no place."""
        table = schema.instances
        with self._database.begin() as connection:
            found = connection.scalar(select(table.c.state).where(table.c.id == instance_id))
            if found is None:
                raise NotFound(f"no instance {instance_id}")
            present = State(found)
            if present in _LEADS_TO[event]:
                return present
            wanted = after(present, event)
            times: Row = {}
            if wanted is State.OPERATIONAL:
                times = {"operational": now(self._clock), "stranded_why": None}
            elif wanted is State.TERMINATED:
                times = {"ended": now(self._clock)}
            connection.execute(update(table).where(table.c.id == instance_id).values(state=wanted, **times, **values))
            return wanted

    def release_server(self, instance_id: str) -> None:
        """The server has this incarnation no more."""
        with self._database.begin() as connection:
            table = schema.servers
            connection.execute(update(table).where(table.c.instance_id == instance_id).values(instance_id=None))

    def end_enrolments(self, instance_id: str) -> None:
        """A terminated instance's agent that comes back is nobody: its secret and tokens are worth nothing now."""
        with self._database.begin() as connection:
            connection.execute(delete(schema.enrolments).where(schema.enrolments.c.instance_id == instance_id))
        self.change_instance(instance_id, agent_secret_sha256=None, sealed_inputs="")

    # images

    def image(self, key: str) -> Row | None:
        with self._database.connect() as connection:
            return _row(connection, select(schema.images).where(schema.images.c.key == key))

    def images(self) -> list[Row]:
        with self._database.connect() as connection:
            query = select(schema.images).order_by(schema.images.c.created.desc())
            return _rows(connection, query)

    def put_image(self, key: str, **values: Any) -> None:
        table = schema.images
        with self._database.begin() as connection:
            if not connection.execute(update(table).where(table.c.key == key).values(**values)).rowcount:
                connection.execute(insert(table).values(key=key, created=now(self._clock), **values))

    # runs

    def step_succeeded(self, task: str, name: str) -> bool:
        steps = schema.task_steps
        mine = (steps.c.task_id == task, steps.c.name == name, steps.c.state == "succeeded")
        with self._database.connect() as connection:
            return connection.scalar(select(steps.c.number).where(*mine)) is not None

    def run_instance(self, run: str) -> str | None:
        """Which instance was given this run; None when none was."""
        with self._database.connect() as connection:
            return connection.scalar(select(schema.runs.c.instance_id).where(schema.runs.c.id == run))

    def runs(self, *, instance_id: str | None = None, task_id: str | None = None) -> list[Row]:
        query = select(schema.runs).order_by(schema.runs.c.created.desc())
        if instance_id is not None:
            query = query.where(schema.runs.c.instance_id == instance_id)
        if task_id is not None:
            query = query.where(schema.runs.c.task_id == task_id)
        with self._database.connect() as connection:
            return _rows(connection, query)


_LEADS_TO = {
    Event.LAUNCH: (State.PENDING,),
    Event.ENROLLED: (State.BOOTING,),
    Event.BOOTED: (State.OPERATIONAL,),
    Event.SCRIPT_FAILED: (State.STRANDED,),
    Event.RETRY: (State.BOOTING,),
    Event.FORCE_OPERATIONAL: (State.OPERATIONAL,),
    Event.REBOOTED: (State.BOOTING,),
    Event.SET_ASIDE: (State.SET_ASIDE,),
    Event.TERMINATE: (State.DECOMMISSIONING, State.TERMINATED),
    Event.GONE: (State.TERMINATED,),
}  # where an event has already led: it may be done twice


def _rows(connection: Connection, query: Any) -> list[Row]:
    return [dict(row) for row in connection.execute(query).mappings()]


def _row(connection: Connection, query: Any) -> Row | None:
    row = connection.execute(query).mappings().first()
    return dict(row) if row else None


def _servers_query() -> Any:
    servers, deployments = schema.servers, schema.deployments
    return select(servers, deployments.c.name.label("deployment")).join(deployments)


def _server(row: RowMapping) -> ServerRow:
    return ServerRow(
        id=row["id"], deployment_id=row["deployment_id"], deployment=row["deployment"], name=row["name"],
        template=row["template"], zone=row["zone"], spec=ServerSpec(**row["spec"]), locked=row["locked"],
        instance_id=row["instance_id"],
    )  # fmt: skip


def _put_server(connection: Connection, deployment: str, spec: ServerSpec, new_id: str, moment: str) -> None:
    table = schema.servers
    values = {"template": spec.template, "zone": spec.zone, "spec": asdict(spec)}
    mine = (table.c.deployment_id == deployment, table.c.name == spec.name)
    if not connection.execute(update(table).where(*mine).values(values)).rowcount:
        connection.execute(
            insert(table).values(
                id=new_id, deployment_id=deployment, name=spec.name, locked=False, created=moment, **values
            )
        )


def _put_group(connection: Connection, deployment: str, name: str, primary: str) -> None:
    """Once there is data the stored primary counts, not the file: only a switchover moves it."""
    table, servers = schema.database_groups, schema.servers
    server = connection.scalar(
        select(servers.c.id).where(servers.c.deployment_id == deployment, servers.c.name == primary)
    )
    found = connection.execute(select(table).where(table.c.deployment_id == deployment)).mappings().first()
    if found is None:
        connection.execute(
            insert(table).values(
                deployment_id=deployment, name=name, epoch=1, primary_server_id=server, initialised=False
            )
        )
    elif not found["initialised"]:
        connection.execute(update(table).where(table.c.deployment_id == deployment).values(primary_server_id=server))
