"""The controller, put together: the only place where parts are chosen and handed to each other."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI

import relaunch
from relaunch import __version__
from relaunch.clock import SystemClock
from relaunch.clouds.cloud import Cloud, Image, InstanceId
from relaunch.clouds.local.cloud import LocalCloud
from relaunch.controller import admin_api, agent_api, tasks_api
from relaunch.controller.activity import Activity
from relaunch.controller.agents import AgentEvent, AgentHub, AgentLost, DatabaseSeen, HelloSaid, TagsChanged
from relaunch.controller.audit import Audit
from relaunch.controller.bus import Bus
from relaunch.controller.ending_certificates import watch_certificates
from relaunch.controller.enrolments import EnrolmentDesk
from relaunch.controller.foundation import Foundation, bus_place, lay_foundation
from relaunch.controller.housekeeping import keep_tidy
from relaunch.controller.http import Guards, create_app
from relaunch.controller.listening import listen, refuse_taken
from relaunch.controller.log import Secrets, start_logging
from relaunch.controller.object_store import backup_store
from relaunch.controller.pager import Pager
from relaunch.controller.refusals import Refusals
from relaunch.controller.serving import HttpsServer
from relaunch.controller.settings import Settings
from relaunch.controller.unstored import watch_unstored
from relaunch.controller.upgrades import AgentUpgrades
from relaunch.dashboard import pages
from relaunch.dashboard.ports import DashboardPorts
from relaunch.databases import api as databases_api
from relaunch.databases import (
    backups_api,
    buttons_api,
    imports_api,
    switchover,  # noqa: F401  the workflow registers itself when imported
)
from relaunch.databases.alarm import Alarm
from relaunch.databases.backup_keeper import BackupKeeper
from relaunch.databases.watch import DatabaseWatch
from relaunch.dns.knot import KnotServer, host_resolver
from relaunch.dns.zone import Zone
from relaunch.errors import Conflict, NotAllowed, NotFound, RelaunchError
from relaunch.servers import api as servers_api
from relaunch.servers.agent_archive import build as build_agent
from relaunch.servers.bootstrap import render_user_data
from relaunch.servers.orders import Orders
from relaunch.servers.ports import Ports
from relaunch.servers.reconcile import ServerWatch
from relaunch.sites import api as sites_api
from relaunch.sites.names import site_name_problems
from relaunch.sites.reconcile import SiteReconciler
from relaunch.storage.rclone import RcloneStore
from relaunch.workflows.durable import Workflows

log = logging.getLogger("relaunch")

CHECKOUT = Path(relaunch.__file__).parents[2]
RESTART_PAUSE_SECONDS = 1.0

BaseImage = Callable[[str, Callable[[str], None]], Awaitable[Image]]


class HasPid(Protocol):
    @property
    def pid(self) -> int | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Where servers and names come from."""

    cloud: Cloud
    base_image: BaseImage
    zone: Zone
    children: dict[str, HasPid] = field(default_factory=dict)


OpenWorld = Callable[[Settings, AsyncExitStack], Awaitable[World]]


async def local_world(settings: Settings, stack: AsyncExitStack) -> World:
    """Instances and DNS on this host."""
    cloud = LocalCloud(
        settings.state / "local-cloud",
        network=settings.network,
        bridge=settings.bridge,
        recipes=CHECKOUT / "images",
    )
    stack.push_async_callback(cloud.close)
    await cloud.open()

    dns = KnotServer(
        settings.state / "dns",
        address=settings.host_address,
        zones=settings.dns_zones,
        forward_to=host_resolver(but_not=settings.host_address),
    )
    stack.push_async_callback(dns.stop)
    await dns.start()
    in_background(stack, _keep_dns(dns), "keep knotd running")
    return World(cloud=cloud, base_image=cloud.base_image, zone=dns.zone(), children={"knotd": dns})


async def _keep_dns(dns: KnotServer) -> None:
    while True:
        status = await dns.wait_ended()
        log.error("knotd ended with status %s; starting it again", status)
        await asyncio.sleep(RESTART_PAUSE_SECONDS)
        try:
            await dns.start()
        except RelaunchError as error:
            log.error("knotd does not start: %s", error)
        except Exception:  # outermost frame of this loop: it may start the next time
            log.exception("starting knotd")


def run(settings: Settings, *, open_world: OpenWorld = local_world) -> None:
    """Run the controller until SIGTERM or SIGINT; Conflict when its state folder or a port has an owner already."""
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o711)
    with only_one(settings.state):
        secrets = Secrets()
        start_logging(settings.log_folder, secrets)
        try:
            asyncio.run(_until_told(settings, secrets, open_world))
        except RelaunchError as error:
            log.error("%s", error)
            raise


@contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold the state folder; Conflict when another controller does."""
    folder = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Conflict(
            f"another controller runs on {state}", hint="stop it first, or set RELAUNCH_STATE for a second one"
        ) from None
    finally:
        os.close(folder)


async def _until_told(settings: Settings, secrets: Secrets, open_world: OpenWorld) -> None:
    told = asyncio.Event()
    for which in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(which, told.set)
    async with AsyncExitStack() as stack:
        starting = asyncio.create_task(start(settings, secrets, stack, open_world))
        ending = asyncio.create_task(told.wait())
        await asyncio.wait((starting, ending), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        gc.freeze()  # what stands now stays: no collection need look at it again
        await ending
        log.info("stopping")
    log.info("stopped; instances live on")


async def start(settings: Settings, secrets: Secrets, stack: AsyncExitStack, open_world: OpenWorld) -> FastAPI:
    """All parts running and the API answering; `stack` ends them in the opposite order."""
    sockets = [
        listen("127.0.0.1", settings.api_port, purpose="the API"),
        listen(settings.host_address, settings.api_port, purpose="the API for instances"),
    ]
    for sock in sockets:
        stack.callback(sock.close)
    refuse_taken(settings.host_address, settings.bus_port, purpose="the bus")
    base = lay_foundation(settings, secrets, SystemClock())
    stack.callback(base.database.dispose)
    program = base.blobs.put(build_agent(settings.state / "agent" / "relaunch-agent.pyz").path)
    world = await open_world(settings, stack)
    objects = RcloneStore(await backup_store(stack, settings, base.vault, world.children))

    place = bus_place(settings)
    bus = Bus(place, base.records.may_connect)
    hub = AgentHub(bus, base.records, base.output, version=__version__)
    desk = EnrolmentDesk(
        base.database,
        base.clock,
        base.authority,
        user_data=lambda token: render_user_data(settings.agent_api_url, token, base.authority.pem, program.sha256),
        bus_url=settings.bus_url,
        ssh_public_key=base.ssh_public_key,
    )
    ports = Ports(
        cloud=world.cloud,
        agents=hub,
        zone=world.zone,
        vault=base.vault,
        enrolments=desk,
        blobs=base.blobs,
        database=base.database,
        clock=base.clock,
        template_folders=settings.template_folders,
        base_image=world.base_image,
        host_source=f"{settings.host_address}/32",
        objects=objects,
    )
    workflows = Workflows(
        database=base.database, clock=base.clock, workflow_database_url=settings.workflow_database_url
    )
    orders = Orders(ports, workflows, remarks=lambda spec: site_name_problems(spec, world.zone.zones))
    activity = Activity()
    base.output.subscribe(activity.changed)
    hub.subscribe(activity.changed)
    workflows.subscribe(activity.changed)
    alarm = Alarm(Pager(settings.alert_command, base.clock).tell)
    in_background(stack, alarm.tell_for_ever(), "alarm")
    certificates = watch_certificates(place.certificate_file, base.authority, base.database, base.clock, alarm)
    in_background(stack, certificates, "certificates")
    in_background(stack, watch_unstored(workflows, alarm), "unstored")
    upgrades = AgentUpgrades(hub, program, base.records.called, alarm)
    databases = await _start_acting(stack, bus, hub, ports, workflows, upgrades, base.audit, alarm)

    keeper = BackupKeeper(ports, workflows, alarm, databases.applies)
    stack.push_async_callback(keeper.stop)
    keeper.start()
    in_background(stack, keep_tidy(ports, workflows, base.output), "housekeeping")
    refusals = Refusals(base.audit, base.clock)
    stack.callback(refusals.summarise)
    app = create_app(
        Guards(tokens=base.tokens, audit=base.audit, refusals=refusals),
        routers=(
            admin_api.router,
            tasks_api.router,
            agent_api.router,
            servers_api.router,
            sites_api.router,
            databases_api.router,
            backups_api.router,
            buttons_api.router,
            imports_api.router,
        ),
        pages=pages.router,
        state={
            "ports": ports,
            "workflows": workflows,
            "orders": orders,
            "databases": databases,
            "activity": activity,
            "backups": keeper,
            "hub": hub,
            "desk": desk,
            "agent_program": program,
            "children": {"nats-server": bus, **world.children},
            "agent_records": base.records,
            "dashboard": dashboard_ports(base, hub, ports, orders, activity),
            **{name: getattr(base, name) for name in ("database", "tokens", "audit", "vault", "output", "blobs")},
        },
    )
    server = HttpsServer(app, sockets, certificate=place.certificate_file, key=place.key_file)
    stack.push_async_callback(server.stop)
    stack.callback(activity.end)
    await server.start()
    log.info("relaunch %s answers at %s", __version__, settings.api_url)
    return app


async def _start_acting(
    stack: AsyncExitStack,
    bus: Bus,
    hub: AgentHub,
    ports: Ports,
    workflows: Workflows,
    upgrades: AgentUpgrades,
    audit: Audit,
    alarm: Alarm,
) -> DatabaseWatch:
    """Bus, reconcilers and workflows, in the order in which they need each other."""
    watch = ServerWatch(ports, workflows)
    sites = SiteReconciler(ports, lost=lambda: watch.lost)
    databases = DatabaseWatch(ports, workflows, record=audit.record, changed=sites.poke, alarm=alarm)

    def heard(event: AgentEvent) -> None:
        match event:
            case HelloSaid():
                watch.hello(event.instance, event.hello)
                sites.forget_view(event.instance)
                databases.poke()
            case TagsChanged():
                watch.tags_changed(event.instance)
                sites.poke()
                databases.poke()
            case AgentLost():
                watch.poke()
                databases.poke()
            case DatabaseSeen():
                databases.seen(event.instance, event.seen)

    hub.subscribe(heard)
    hub.subscribe(upgrades.heard)
    # A script moves no server: what it publishes pokes by itself.
    workflows.subscribe(sites.poke, but_not=("run",))
    workflows.subscribe(databases.poke, but_not=("run",))
    stack.push_async_callback(bus.stop)
    stack.push_async_callback(hub.stop)
    stack.push_async_callback(upgrades.stop)
    watch.start()
    stack.push_async_callback(watch.stop)
    await bus.start()
    await hub.start()
    sites.start()
    stack.push_async_callback(sites.stop)
    stack.push_async_callback(workflows.stop)
    await workflows.start(ports)
    databases.start()
    stack.push_async_callback(databases.stop)
    return databases


def dashboard_ports(
    base: Foundation, hub: AgentHub, ports: Ports, orders: Orders, activity: Activity
) -> DashboardPorts:
    """What the pages see of everything else."""

    def check_token(token: str) -> str | None:
        try:
            return base.tokens.who(token)
        except NotAllowed:
            return None

    async def console(instance: str) -> str:
        cloud_id = orders.store.instance(instance)["cloud_id"]
        if not cloud_id:
            raise NotFound("the cloud has not given this instance a number yet")
        return await ports.cloud.console_output(InstanceId(cloud_id))

    async def act(who: str, subject: str, action: str) -> str:
        return await orders.act(subject.removeprefix("server:"), action, who=who)

    return DashboardPorts(
        engine=base.database,
        clock=base.clock,
        session_key=base.session_key,
        check_token=check_token,
        run_output=base.output.tail,
        connected=hub.connected,
        console=console,
        changes=activity.changes,
        actions=act,
        version=__version__,
        token_file=str(base.token_file),
    )


def in_background(stack: AsyncExitStack, work: Any, name: str) -> None:
    """Run it until the controller ends."""
    task = asyncio.create_task(work, name=name)

    async def end() -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(end)
