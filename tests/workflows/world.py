"""A whole small world in memory: fake cloud and agents, a real database and real durable workflows."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, event, insert, select, update
from sqlalchemy.engine import Engine

from relaunch.bus.messages import (
    Accepted,
    Blob,
    CancelRun,
    DatabaseReport,
    PrepareImage,
    Retire,
    RunScripts,
    RunState,
    ScriptResult,
    SetView,
    TakeRole,
)
from relaunch.clock import SystemClock
from relaunch.clouds.cloud import InstanceId, InstanceState
from relaunch.clouds.fake import FakeCloud
from relaunch.dns.fake import FakeZone
from relaunch.errors import Conflict, NotFound, Unavailable
from relaunch.records.schema import instances, metadata, runs
from relaunch.servers.lifecycle import Event
from relaunch.servers.orders import Orders
from relaunch.servers.ports import Ports
from relaunch.servers.store import Store, now
from relaunch.servers.volumes import volume_token
from relaunch.storage.memory import MemoryStore
from relaunch.workflows.durable import Workflows

SCRIPT = """#!/bin/sh
# ---
# RightScript Name: {name}
# Packages: {packages}
# Inputs:
#   COLOUR:
#     Input Type: single
#     Required: true
#     Default: text:green
# ...
echo {name}
"""
TEMPLATE = """Name: Web
Description: for tests
Inputs: {}
RightScripts:
  Boot:
  - scripts/install.sh
  - scripts/configure.sh
  - scripts/announce.sh
  Operational:
  - scripts/greet.sh
  Decommission:
  - scripts/leave.sh
MultiCloudImages: []
"""
EXTRAS = """image: trixie
bake: [scripts/install.sh]
ingress:
- {port: 80, source: any}
- {port: 22, source: host}
offers:
- {role: front-end, port: 80}
volume: /srv/volume
"""
SHOP = """deployment: shop
servers:
  front1: {template: web, zone: a}
  front2: {template: web, zone: b}
"""


def write_templates(folder: Path, names: tuple[str, ...] = ("web", "mysql")) -> Path:
    for template in names:
        scripts = folder / template / "scripts"
        scripts.mkdir(parents=True, exist_ok=True)
        for name in ("install", "configure", "announce", "greet", "leave"):
            packages = "apache2" if name == "install" else '""'
            (scripts / f"{name}.sh").write_text(SCRIPT.format(name=name, packages=packages))
        (folder / template / f"{template}.yml").write_text(TEMPLATE)
        extras = EXTRAS if template == "web" else EXTRAS.replace("front-end, port: 80", "database, port: 3306")
        (folder / template / f"{template}.relaunch.yml").write_text(extras)
    return folder


class RebootingCloud(FakeCloud):
    """Whose reboots the agents notice: the instance comes back with another boot id."""

    database: Engine
    boots = 1
    rebooted: tuple[str, ...] = ()

    async def reboot(self, instance: InstanceId) -> None:
        await super().reboot(instance)
        self.rebooted += (str(instance),)
        self.boots += 1
        with self.database.begin() as connection:
            mine = instances.c.cloud_id == instance
            connection.execute(update(instances).where(mine).values(boot_id=f"boot-{self.boots}"))


class PlainVault:
    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def seal(self, clear: bytes) -> str:
        return base64.b64encode(clear).decode()

    def unseal(self, sealed: str) -> bytes:
        return base64.b64decode(sealed)

    def credential(self, name: str) -> str:
        if name not in self.known:
            raise NotFound(f"no credential {name}")
        return self.known[name]

    def has_credential(self, name: str) -> bool:
        return name in self.known

    def generate_credential(self, name: str, *, who: str) -> None:
        self.known.setdefault(name, f"generated-{name}")

    def set_credential(self, name: str, value: str, *, description: str = "") -> None:
        self.known[name] = value

    def delete_credential(self, name: str) -> None:
        if self.known.pop(name, None) is None:
            raise NotFound(f"no credential {name}")


class PlainEnrolments:
    def user_data(self, instance: str) -> str:
        return f"#!/bin/sh\n# {instance}\n"

    def public_key(self) -> str:
        return "ssh-ed25519 AAAA"


class PlainBlobs:
    def put(self, file: Path) -> Blob:
        content = file.read_bytes()
        return Blob(name=file.name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))

    def remove(self, sha256: str) -> None:
        return


class FakeAgents:
    """An agent on each running instance of the cloud. A run's end is remembered by its id, as the agent does."""

    def __init__(self, cloud: FakeCloud, database: Engine) -> None:
        self.cloud = cloud
        self.database = database
        self.executed: list[tuple[str, str]] = []  # (run id, script), each time one really ran
        self.failing: dict[str, int] = {}  # script → how many more times it fails
        self.hanging: set[str] = set()  # scripts that never end
        self.silent: set[str] = set()  # names of instances whose agent never comes
        self.views: dict[str, dict[str, Any]] = {}
        self.view_versions: dict[str, int] = {}
        self.retired: list[str] = []
        self.roles: dict[str, TakeRole] = {}
        self.said = ""  # what every script's output is
        self.says: dict[str, str] = {}  # script → what its output ends with
        self._said: dict[str, str] = {}  # run id → the same, of its first script
        self._restored: dict[str, str] = {}  # instance → the history of the data that is prepared beside its own
        self._ended: dict[str, RunState] = {}

    def _cloud_instance(self, instance: str) -> Any:
        known = self.cloud._instances.values()
        return next((found for found in known if found.client_token == instance), None)

    def connected(self, instance: str) -> bool:
        found = self._cloud_instance(instance)
        up = found is not None and found.state is InstanceState.RUNNING and not found.cut_off
        return up and found.name not in self.silent and instance not in self.retired

    async def wait_connected(self, instance: str, *, timeout_seconds: float) -> None:
        await asyncio.sleep(0)
        if not self.connected(instance):
            raise Unavailable(f"{instance} did not connect")
        with self.database.begin() as connection:
            known = select(instances.c.boot_id).where(instances.c.id == instance)
            if connection.scalar(known) is None:
                connection.execute(update(instances).where(instances.c.id == instance).values(boot_id="boot-1"))

    async def order(self, instance: str, message: object, *, timeout_seconds: float = 5.0) -> Accepted:
        await asyncio.sleep(0)
        if not self.connected(instance):
            raise Unavailable(f"{instance} is not connected")
        if isinstance(message, SetView):
            self.views[instance] = message.view
            self.view_versions[instance] = message.version
        if isinstance(message, CancelRun):
            self._ended.setdefault(message.run_id, RunState(run_id=message.run_id, state="cancelled"))
        if isinstance(message, Retire):
            self.retired.append(instance)
        if isinstance(message, PrepareImage):
            self.executed.append((instance, "prepare image"))
        return Accepted()

    async def take_role(self, instance: str, role: TakeRole) -> DatabaseReport:
        await asyncio.sleep(0)
        if not self.connected(instance):
            raise Unavailable(f"{instance} is not connected")
        self.roles[instance] = role
        return DatabaseReport(dialect="mariadb", epoch=role.epoch, role=role.role, answers=True)

    async def run(self, instance: str, order: RunScripts, *, task: str | None) -> RunState:
        self._begin(instance, order, task)
        while order.run_id not in self._ended:
            await asyncio.sleep(0.001)
            if self.connected(instance):
                await self._execute(order)
        ended = self._ended[order.run_id]
        self._said[order.run_id] = self.says.get(order.scripts[0].name, "") if order.scripts else ""
        self._restore(instance, order)
        with self.database.begin() as connection:
            results = [asdict(result) for result in ended.results]
            connection.execute(update(runs).where(runs.c.id == order.run_id).values(state=ended.state, results=results))
        return ended

    def _restore(self, instance: str, order: RunScripts) -> None:
        """As the script restores in two phases, and the program that ships binary logs says whose history it ships."""
        for given in (script.inputs for script in order.scripts):
            if given.get("RESTORE_PHASE") == "prepare":
                self._restored[instance] = given["RESTORE_NEW_LINEAGE"]
            elif given.get("RESTORE_PHASE") == "swap":
                tags = {"database": "primary", "binlogs": "ok", "lineage": self._restored[instance]}
                with self.database.begin() as connection:
                    connection.execute(update(instances).where(instances.c.id == instance).values(tags=tags))

    async def _execute(self, order: RunScripts) -> None:
        results = [ScriptResult(index=index, state="waiting") for index in range(len(order.scripts))]
        for index, script in enumerate(order.scripts[order.start_at :], start=order.start_at):
            self.executed.append((order.run_id, script.name))
            while script.name in self.hanging:
                if order.run_id in self._ended:
                    return
                await asyncio.sleep(0.005)
            if self.failing.get(script.name, 0) > 0:
                self.failing[script.name] -= 1
                results[index] = ScriptResult(index=index, state="failed", exit_status=1)
                self._ended[order.run_id] = RunState(run_id=order.run_id, state="failed", results=results)
                return
            results[index] = ScriptResult(index=index, state="succeeded", exit_status=0)
        self._ended[order.run_id] = RunState(run_id=order.run_id, state="succeeded", results=results)

    def _begin(self, instance: str, order: RunScripts, task: str | None) -> None:
        with self.database.begin() as connection:
            owner = connection.scalar(select(runs.c.instance_id).where(runs.c.id == order.run_id))
            if owner not in (None, instance):
                raise Conflict(f"run {order.run_id} belongs to another instance")
            if owner is None:
                connection.execute(
                    insert(runs).values(
                        id=order.run_id, instance_id=instance, task_id=task, phase=order.phase,
                        order={"reboot": order.reboot}, state="running", results=[], created=now(SystemClock()),
                    )
                )  # fmt: skip

    def last_output(self, run: str, index: int, *, last_bytes: int = 2000) -> str:
        return self._said.get(run) or self.said or f"output of {run} {index}"


@dataclass
class World:
    """Everything a controller has; `restart` is a kill and a new start on the same disk."""

    folder: Path
    cloud: RebootingCloud
    agents: FakeAgents
    zone: FakeZone
    vault: PlainVault
    ports: Ports
    store: Store
    workflows: Workflows
    orders: Orders
    after_effect: Callable[[str, str, int, str], Any] | None = None
    players: list[asyncio.Task[None]] = field(default_factory=list)  # of parts that are not here; ended with the world
    _made: list[Workflows] = field(default_factory=list)

    @classmethod
    async def create(cls, folder: Path, *, resume: Path | None = None) -> World:
        """`resume`: what an earlier process, since killed, has saved of its cloud and agents."""
        clock = SystemClock()
        database = create_engine(f"sqlite:///{folder}/controller.db")
        event.listen(database, "connect", lambda raw, _: raw.execute("PRAGMA journal_mode=WAL"))
        metadata.create_all(database)
        cloud = RebootingCloud(clock)
        cloud.database = database
        agents = FakeAgents(cloud, database)
        if resume is not None:
            saved = pickle.loads(resume.read_bytes())
            vars(cloud).update(saved["cloud"])
            vars(agents).update(saved["agents"])
        vault = PlainVault()
        zone = FakeZone(("test",))
        ports = Ports(
            cloud=cloud, agents=agents, zone=zone, vault=vault, enrolments=PlainEnrolments(), blobs=PlainBlobs(),
            database=database, clock=clock, template_folders=(write_templates(folder / "templates"),),
            host_source="10.0.0.1/32", base_image=cloud.base_image, objects=MemoryStore(clock),
        )  # fmt: skip
        workflows = Workflows(
            database=database, clock=clock, workflow_database_url=f"sqlite:///{folder}/workflows.db", poll_seconds=0.02
        )
        world = cls(
            folder=folder, cloud=cloud, agents=agents, zone=zone, vault=vault, ports=ports,
            store=Store(database, clock), workflows=workflows, orders=Orders(ports, workflows),
        )  # fmt: skip
        workflows.after_effect = world._hook
        await workflows.start(ports)
        return world

    def _hook(self, kind: str, task: str, number: int, name: str) -> Any:
        return self.after_effect(kind, task, number, name) if self.after_effect else None

    async def restart(self) -> None:
        await self.end_and_make_anew()
        await self.workflows.start(self.ports)

    async def end_and_make_anew(self) -> None:
        """As a restart, but for the start."""
        await self.workflows.stop()
        self.workflows = Workflows(
            database=self.ports.database,
            clock=self.ports.clock,
            workflow_database_url=f"sqlite:///{self.folder}/workflows.db",
            after_effect=self._hook,
            poll_seconds=0.02,
        )
        self.orders = Orders(self.ports, self.workflows)

    def save(self, file: Path) -> None:
        """Cloud and agents live on when the controller's process is killed."""
        cloud = {name: value for name, value in vars(self.cloud).items() if name not in ("database", "_clock")}
        agents = {name: value for name, value in vars(self.agents).items() if name not in ("database", "cloud")}
        file.write_bytes(pickle.dumps({"cloud": cloud, "agents": agents}))

    async def stop(self) -> None:
        for player in self.players:
            player.cancel()
        await self.workflows.stop()
        self.ports.database.dispose()

    async def ended(self, task: str, *, within: float = 20.0) -> dict[str, Any]:
        return await asyncio.wait_for(self.workflows.wait(task), within)

    async def succeeds(self, task: str) -> dict[str, Any]:
        row = await self.ended(task)
        assert row["state"] == "succeeded", row["error"]
        return row

    async def apply(self, source: str = SHOP, **more: Any) -> dict[str, Any]:
        return await self.succeeds(await self.orders.apply(source, who="ann", **more))

    async def comes_to(self, full_name: str, wanted: str) -> None:
        """Bounded: until the server is in that state."""
        for _ in range(500):
            known = [server.full_name for server in self.store.servers()]
            if full_name in known and self.state(full_name) == wanted:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{full_name} is {self.state(full_name)}, not {wanted}")

    def instance(self, full_name: str) -> dict[str, Any]:
        server = self.store.server(full_name)
        assert server.instance_id is not None
        return self.store.instance(server.instance_id)

    def state(self, full_name: str) -> str:
        server = self.store.server(full_name)
        return str(self.store.instance(server.instance_id)["state"]) if server.instance_id else "inactive"

    def running(self) -> list[str]:
        """The tokens of what the cloud runs."""
        found = self.cloud._instances.values()
        return sorted(each.client_token for each in found if each.state is not InstanceState.TERMINATED)

    def set_tags(self, full_name: str, **tags: str) -> None:
        self.store.change_instance(self.instance(full_name)["id"], tags=tags)

    def move(self, full_name: str, happened: Event) -> None:
        self.store.move(self.instance(full_name)["id"], happened)

    def cloud_id(self, full_name: str) -> InstanceId:
        return InstanceId(str(self.instance(full_name)["cloud_id"]))

    def check_invariant(self) -> None:
        """No task unfinished, no instance half-way, nothing in the cloud that is not in the books and the reverse."""
        assert self.workflows.tasks.unfinished() == []
        living = {row["id"]: row for row in self.store.living_instances()}
        half_way = [
            row["id"] for row in living.values() if row["state"] not in ("operational", "stranded", "set_aside")
        ]
        assert half_way == []
        assert self.running() == sorted(living)
        theirs = {volume_token(id) for id in living}
        assert [each for each in self.cloud._volumes.values() if each.client_token not in theirs] == []
        for server in self.store.servers():
            if server.instance_id and server.spec.volume_bytes is not None:
                mine = [v for v in self.cloud._volumes.values() if v.client_token == volume_token(server.instance_id)]
                assert [each.attached_to for each in mine] == [self.cloud_id(server.full_name)]
        incarnations = [server.instance_id for server in self.store.servers() if server.instance_id]
        serving = [
            row["id"]
            for row in living.values()
            if row["purpose"] == "serve" and (row["state"] != "set_aside" or row["id"] in incarnations)
        ]
        assert sorted(incarnations) == sorted(serving)
        assert [row for row in living.values() if row["purpose"] == "bake"] == []
        runs_done = [run for run in self.agents.executed if "-boot" in run[0]]
        assert len(runs_done) == len(set(runs_done)), "a boot script ran twice"
