"""A controller's bus and store as they really are, on a loopback address, for tests that play the agents."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from sqlalchemy import insert, update

from relaunch.bus import subjects
from relaunch.bus.messages import Accepted, Alive, Hello, RunScripts, RunState, decode, encode
from relaunch.clock import SystemClock
from relaunch.controller.agents import AgentHub
from relaunch.controller.bus import Bus
from relaunch.controller.foundation import Foundation, bus_place, lay_foundation
from relaunch.controller.log import Secrets
from relaunch.controller.settings import Settings
from relaunch.controller.tokens import digest
from relaunch.records.schema import database_groups, deployments, instances, servers

NOW = "2026-01-01T00:00:00.000000+00:00"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def settings_in(state: Path) -> Settings:
    return Settings(
        state=state,
        network=IPv4Network("127.77.0.0/24"),
        bridge="none",
        api_port=free_port(),
        bus_port=free_port(),
        dns_zones=("test",),
        template_folders=(state / "templates",),
    )


@dataclass
class AtWork:
    """`crash` and `begin` are a controller's kill and its next start."""

    settings: Settings
    secrets: Secrets = field(default_factory=Secrets)
    base: Foundation = field(init=False)
    bus: Bus = field(init=False)
    hub: AgentHub = field(init=False)

    def __post_init__(self) -> None:
        self.base = lay_foundation(self.settings, self.secrets, SystemClock())

    async def begin(self) -> None:
        self.bus = Bus(bus_place(self.settings), self.base.records.may_connect)
        await self.bus.start()
        self.hub = AgentHub(self.bus, self.base.records, self.base.output, version="0.1.0")
        await self.hub.start()

    async def end(self) -> None:
        await self.hub.stop()
        await self.bus.stop()

    def add_deployment(self, name: str = "shop", *names: str) -> None:
        """With one instance NAME of each server NAME; the first is the database's primary."""
        names = names or ("front1", "front2")
        with self.base.database.begin() as db:
            db.execute(insert(deployments).values(id=name, name=name, source="", spec={}, created=NOW, changed=NOW))
            for server in names:
                row = {"deployment_id": name, "template": "base", "zone": "a", "spec": {}, "created": NOW}
                db.execute(insert(servers).values(id=f"s-{server}", name=server, instance_id=server, **row))
                db.execute(
                    insert(instances).values(
                        id=server, server_id=f"s-{server}", purpose="serve", state="booting", zone="a", run_list={},
                        tags={}, outputs={}, launched=NOW, agent_secret_sha256=digest(f"secret of {server}"),
                    )
                )  # fmt: skip
            db.execute(
                insert(database_groups).values(
                    deployment_id=name, name=name, epoch=3, primary_server_id=f"s-{names[0]}"
                )
            )

    def set_instance(self, instance: str, **values: Any) -> None:
        with self.base.database.begin() as db:
            db.execute(update(instances).where(instances.c.id == instance).values(values))

    async def connect(self, instance: str, *, secret: str | None = None, **options: Any) -> Client:
        return await nats.connect(
            self.settings.bus_url,
            user=instance,
            password=secret or f"secret of {instance}",
            inbox_prefix=subjects.inbox_prefix(instance),
            tls=ssl.create_default_context(cafile=str(self.settings.ca_file)),
            **{"allow_reconnect": False, "connect_timeout": 5, "error_cb": _quiet} | options,
        )


class SimulatedAgent:
    """Speaks the bus as an agent does. `obey` answers orders; runs succeed at once unless it says otherwise."""

    def __init__(self, at_work: AtWork, instance: str, obey: Callable[[Any], Any] | None = None) -> None:
        self.at_work = at_work
        self.instance = instance
        self.obey = obey or obedient
        self.orders: list[Any] = []
        self.client: Client | None = None
        self._beating: asyncio.Task[None] | None = None

    async def start(self, *, agent_sha256: str = "", runs: list[RunState] | None = None) -> Any:
        self.client = await self.at_work.connect(self.instance)
        await self.client.subscribe(subjects.order(self.instance), cb=self._order)
        await self.client.flush()
        answer = await self.report(Hello("0.1.0", agent_sha256, "boot-1", 0, runs or []))
        self._beating = asyncio.create_task(self._beat())
        return answer

    async def report(self, message: Any) -> Any:
        assert self.client
        reply = await self.client.request(subjects.report(self.instance), encode(message), timeout=3)
        return decode(reply.data)

    async def publish(self, message: Any) -> None:
        assert self.client
        await self.client.publish(subjects.output(self.instance), encode(message))

    async def stop(self) -> None:
        if self._beating:
            self._beating.cancel()
        if self.client:
            await self.client.close()

    async def _order(self, message: Msg) -> None:
        order = decode(message.data)
        self.orders.append(order)
        answer = self.obey(order)
        if answer is not None:
            await message.respond(encode(answer))

    async def _beat(self) -> None:
        while self.client and self.client.is_connected:
            await self.client.publish(subjects.alive(self.instance), encode(Alive("boot-1", 1.0)))
            await asyncio.sleep(1.0)


def obedient(order: Any) -> Any:
    if isinstance(order, RunScripts):
        return Accepted(RunState(order.run_id, "running"))
    return Accepted()


async def until(is_so: Callable[[], Any], what: str, *, seconds: float = 10.0) -> None:
    """Bounded wait that names what it waited for."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def controller_at_work(state: Path) -> AsyncIterator[AtWork]:
    at_work = AtWork(settings_in(state))
    await at_work.begin()
    try:
        yield at_work
    finally:
        await at_work.end()
        at_work.base.database.dispose()


async def _quiet(error: Exception) -> None:
    pass
