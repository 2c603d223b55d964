"""The HTTP API over a world in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest_asyncio
from sqlalchemy import select

from relaunch.records.schema import site_maintenance
from relaunch.servers import api as servers_api
from relaunch.sites import api as sites_api
from relaunch.sites.reconcile import SiteReconciler

from .ann import app_of
from .test_reconcile import eventually
from .world import SHOP, World


@pytest_asyncio.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    app = app_of(servers_api.router, sites_api.router, orders=world.orders, ports=world.ports)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as made:
        yield made


async def test_from_plan_to_destroy(world: World, client: httpx.AsyncClient) -> None:
    source = SHOP + "sites:\n  shop.test: {}\n"
    plan = (await client.post("/plans", json={"source": source})).json()
    assert [action["action"] for action in plan["actions"]] == ["launch", "launch", "add_site"]
    assert {each["name"]: each["level"] for each in plan["inputs"]} == {"COLOUR": "script"}

    answer = await client.post("/deployments", json={"source": source})
    assert answer.status_code == 202
    await world.succeeds(answer.json()["task"]["id"])

    (deployment,) = (await client.get("/deployments")).json()["deployments"]
    assert (deployment["name"], deployment["servers"], deployment["operational"]) == ("shop", 2, 2)
    servers = (await client.get("/servers", params={"deployment": "shop"})).json()["servers"]
    assert [(each["name"], each["state"], each["lost"]) for each in servers] == [
        ("shop/front1", "operational", False),
        ("shop/front2", "operational", False),
    ]
    (site,) = (await client.get("/sites")).json()["sites"]
    assert [front_end["name"] for front_end in site["front_ends"]] == ["front1", "front2"]
    shown = (await client.get("/servers/shop/front1")).json()
    assert shown["scripts"]["boot"] == ["install", "configure", "announce"]
    (run,) = (await client.get("/servers/shop/front1/runs")).json()["runs"]
    assert run["phase"] == "boot"

    answer = await client.delete("/deployments/shop")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "needs_confirmation")
    answer = await client.delete("/deployments/shop", params={"yes": True})
    await world.succeeds(answer.json()["task"]["id"])
    assert (await client.get("/deployments/shop")).status_code == 404


async def test_actions_answer_with_their_task(world: World, client: httpx.AsyncClient) -> None:
    await world.apply()

    answer = await client.post("/servers/shop/front1/reboot")
    assert (answer.status_code, answer.json()["task"]["kind"]) == (202, "reboot")
    await world.succeeds(answer.json()["task"]["id"])
    answer = await client.post("/runs", json={"servers": ["shop/front1"], "script": "greet"})
    await world.succeeds(answer.json()["task"]["id"])
    assert (await client.post("/servers/shop/front1/dance")).status_code == 404
    assert (await client.post("/runs", json={"servers": [], "script": "greet"})).status_code == 400


async def test_a_cloned_template_stands_on_its_own(world: World, client: httpx.AsyncClient) -> None:
    world.ports.template_folders[0].joinpath("unused").mkdir()
    own = world.folder / "own"
    own.mkdir()
    object.__setattr__(world.ports, "template_folders", (own, world.ports.template_folders[0]))

    made = await client.post("/templates/web/clone", json={"name": "my-web"})

    assert made.status_code == 201
    assert made.json()["boot"] == ["install", "configure", "announce"]
    assert (own / "my-web" / "scripts" / "install.sh").exists()
    names = [each["name"] for each in (await client.get("/templates")).json()["templates"]]
    assert names == ["my-web", "mysql", "web"]
    assert (await client.post("/templates/web/clone", json={"name": "my-web"})).status_code == 409


async def test_a_sites_maintenance_is_kept_told_to_every_front_end_and_goes_with_the_site(
    world: World, client: httpx.AsyncClient
) -> None:
    reconciler = SiteReconciler(world.ports)
    world.workflows.subscribe(reconciler.poke)
    reconciler.start()
    source = SHOP + "sites:\n  shop.test: {}\n"
    await world.apply(source)
    assert (await client.get("/sites/shop.test")).json()["maintenance"] is False

    refused = await client.put("/sites/shop.test/maintenance", json={"allow": ["no-address"]})
    answer = await client.put("/sites/www.shop.test/maintenance", json={"allow": ["10.0.0.7"]})
    again = await client.put("/sites/shop.test/maintenance", json={"allow": ["10.0.0.8"]})

    assert refused.status_code == 422
    assert (answer.json()["maintenance"], answer.json()["allow"]) == (True, ["10.0.0.7"])
    assert (again.json()["maintenance"], again.json()["allow"]) == (True, ["10.0.0.8"])
    (site,) = (await client.get("/sites")).json()["sites"]
    assert (site["maintenance"], site["allow"]) == (True, ["10.0.0.8"])

    def told(name: str) -> list[tuple[bool, list[str]]]:
        view = world.agents.views.get(world.instance(f"shop/{name}")["id"], {})
        return [(site["maintenance"], site["allow"]) for site in view.get("sites", [])]

    for name in ("front1", "front2"):
        await eventually("told", lambda name=name: told(name) == [(True, ["10.0.0.8"])])
    await world.apply(source)  # the same file again changes nothing about it
    await world.succeeds(await world.orders.act("shop/front1", "relaunch", who="ann"))
    await eventually("a new front end is told", lambda: told("front1") == [(True, ["10.0.0.8"])])

    opened = await client.delete("/sites/shop.test/maintenance")
    assert opened.json()["maintenance"] is False
    await eventually("opened", lambda: told("front1") == told("front2") == [(False, [])])

    await client.put("/sites/shop.test/maintenance", json={})
    await world.apply(SHOP)
    await world.apply(source)
    assert (await client.get("/sites/shop.test")).json()["maintenance"] is False, "a site that left comes back open"
    await client.put("/sites/shop.test/maintenance", json={})
    await world.succeeds(await world.orders.destroy("shop", who="ann", yes=True))
    with world.ports.database.connect() as connection:
        assert connection.execute(select(site_maintenance)).all() == []
    await reconciler.stop()
