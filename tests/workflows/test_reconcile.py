"""Views and names follow what is stored."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest_asyncio

from relaunch.bus.messages import Accepted, Hello
from relaunch.controller.agent_records import AgentRecords
from relaunch.dns.zone import RecordSet
from relaunch.servers.lifecycle import Event
from relaunch.sites.reconcile import SiteReconciler

from .world import World

SITE = """deployment: shop
servers:
  front1: {template: web, zone: a}
  front2: {template: web, zone: b}
sites:
  shop.test: {canonical: www.shop.test}
"""


@pytest_asyncio.fixture
async def sites(world: World) -> AsyncIterator[SiteReconciler]:
    made = SiteReconciler(world.ports)
    world.workflows.subscribe(made.poke)
    made.start()
    yield made
    await made.stop()


async def eventually(what: str, holds: Callable[[], Any], *, within: float = 1.0) -> None:
    for _ in range(int(within / 0.005)):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"not within {within} s: {what}")


def view(world: World, name: str) -> dict[str, Any]:
    return world.agents.views.get(world.instance(name)["id"], {})


async def test_every_agent_is_told_of_its_peers_as_they_come(world: World, sites: SiteReconciler) -> None:
    await world.apply(SITE)

    def peers() -> list[tuple[str, str]]:
        return [(peer["name"], peer["state"]) for peer in view(world, "shop/front1").get("peers", [])]

    await eventually("both", lambda: peers() == [("front1", "operational"), ("front2", "operational")])


async def test_a_view_is_told_again_only_when_it_changed(world: World, sites: SiteReconciler) -> None:
    await world.apply(SITE)
    await eventually("told", lambda: view(world, "shop/front2").get("peers", [{}])[0].get("state") == "operational")
    await asyncio.sleep(0.2)
    version = world.instance("shop/front1")["view_version"]

    for _ in range(5):
        sites.poke()
        await asyncio.sleep(0.05)
    assert world.instance("shop/front1")["view_version"] == version

    world.set_tags("shop/front2", app="8000")
    sites.poke()
    await eventually("tags", lambda: view(world, "shop/front1")["peers"][1]["tags"] == {"app": "8000"}, within=0.5)
    assert world.instance("shop/front1")["view_version"] > version


async def test_an_agent_that_connects_anew_is_told_again(world: World, sites: SiteReconciler) -> None:
    await world.apply(SITE)
    await eventually("told", lambda: view(world, "shop/front1"))
    await asyncio.sleep(0.2)
    instance = world.instance("shop/front1")["id"]
    world.agents.views.clear()

    sites.forget_view(instance)

    await eventually("told again", lambda: instance in world.agents.views)


async def test_an_agent_that_connects_anew_while_a_view_is_on_its_way_is_told_at_once(
    world: World, sites: SiteReconciler
) -> None:
    """The connection that it was sent over is gone, and with it perhaps the view, or its answer."""
    await world.apply(SITE)
    await eventually("told", lambda: view(world, "shop/front2").get("peers", [{}])[0].get("state") == "operational")
    await asyncio.sleep(0.2)
    instance = world.instance("shop/front1")["id"]
    order, on_its_way, answered = world.agents.order, asyncio.Event(), asyncio.Event()

    async def first_is_lost(to: str, message: object, *, timeout_seconds: float = 5.0) -> Any:
        if to == instance and not on_its_way.is_set():
            on_its_way.set()
            with contextlib.suppress(asyncio.CancelledError):  # as it may be lost until Python 3.12
                await answered.wait()
            return Accepted()
        return await order(to, message)

    world.agents.order = first_is_lost  # type: ignore[method-assign]
    world.agents.views.clear()
    world.set_tags("shop/front1", app="8000")
    sites.poke()
    await asyncio.wait_for(on_its_way.wait(), 1)

    sites.forget_view(instance)

    await eventually("told over the new connection", lambda: view(world, "shop/front1"), within=0.5)
    answered.set()
    version = world.instance("shop/front1")["view_version"]
    sites.poke()
    await asyncio.sleep(0.2)
    assert world.instance("shop/front1")["view_version"] == version


async def test_a_view_that_is_answered_as_its_agent_connects_anew_is_told_again(
    world: World, sites: SiteReconciler
) -> None:
    await world.apply(SITE)
    await eventually("told", lambda: view(world, "shop/front2").get("peers", [{}])[0].get("state") == "operational")
    await asyncio.sleep(0.2)
    instance = world.instance("shop/front1")["id"]
    order = world.agents.order
    times = 0

    async def connects_anew(to: str, message: object, *, timeout_seconds: float = 5.0) -> Any:
        nonlocal times
        answer = await order(to, message)
        if to == instance:
            times += 1
            if times == 1:
                sites.forget_view(instance)
        return answer

    world.agents.order = connects_anew  # type: ignore[method-assign]
    world.set_tags("shop/front1", app="8000")
    sites.poke()

    await eventually("told again", lambda: times == 2, within=0.5)


async def test_a_view_is_newer_than_what_its_agent_has_from_before_the_store_was_put_back(
    world: World, sites: SiteReconciler
) -> None:
    await world.apply(SITE)
    await eventually("told", lambda: view(world, "shop/front1"))
    await asyncio.sleep(0.2)
    instance, told = world.instance("shop/front1")["id"], world.instance("shop/front1")["view_version"]
    records = AgentRecords(world.ports.database, world.ports.clock)
    hello = Hello(agent_version="1", agent_sha256="", boot_id="boot", view_version=60)
    assert told < 60
    world.agents.view_versions.clear()

    records.hello(instance, hello)
    sites.forget_view(instance)
    await eventually("told again", lambda: world.agents.view_versions.get(instance) == 61)

    records.hello(instance, replace(hello, view_version=told))
    assert world.instance("shop/front1")["view_version"] == 61


async def test_names_point_at_who_serves_and_go_with_the_deployment(world: World, sites: SiteReconciler) -> None:
    await world.apply(SITE)
    addresses = tuple(sorted(str(world.instance(f"shop/{name}")["private_address"]) for name in ("front1", "front2")))
    wanted = RecordSet(name="www.shop.test", type="A", values=addresses, ttl_seconds=30)
    await eventually("both", lambda: world.zone._records.get(("www.shop.test", "A")) == wanted)

    world.move("shop/front2", Event.SET_ASIDE)
    sites.poke()
    await eventually("one", lambda: len(world.zone._records["www.shop.test", "A"].values) == 1)

    await world.succeeds(await world.orders.destroy("shop", who="ann", yes=True))
    await eventually("none", lambda: world.zone._records == {})


async def test_a_dns_server_that_was_gone_gets_the_names_later(world: World, sites: SiteReconciler) -> None:
    world.zone.answers = False
    await world.apply(SITE)
    await asyncio.sleep(0.1)
    assert world.zone._records == {}

    world.zone.answers = True

    await eventually("names", lambda: world.zone._records, within=3.0)


async def test_an_agent_that_does_not_answer_holds_up_nobody(world: World, sites: SiteReconciler) -> None:
    await world.apply(SITE)
    await eventually("told", lambda: view(world, "shop/front2").get("peers", [{}])[0].get("state") == "operational")
    slow = world.instance("shop/front1")["id"]
    order = world.agents.order

    async def stuck(instance: str, message: object, *, timeout_seconds: float = 5.0) -> Any:
        if instance == slow:
            await asyncio.sleep(60)
        return await order(instance, message)

    world.agents.order = stuck  # type: ignore[method-assign]
    for tag in ("1", "2"):
        world.set_tags("shop/front1", app=tag)
        sites.poke()
        await eventually(
            "the other is told",
            lambda tag=tag: view(world, "shop/front2")["peers"][0]["tags"] == {"app": tag},
            within=0.5,
        )
