"""Ordering an import from a server: again after a failure, and while one is under way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
import pytest_asyncio

from relaunch.bus.messages import Accepted, CancelRun, RunScripts, RunState
from relaunch.controller.blobs import BlobFolder
from relaunch.databases import imports_api
from relaunch.databases import imports_steps as steps
from relaunch.databases.imports import read_source
from relaunch.databases.store import GroupStore
from relaunch.errors import Failed, RelaunchError, Unavailable

from .ann import app_of
from .import_scenarios import FACTS, ROW, STATUS, did, forgotten, know_the_source, load
from .scenarios import SCENARIOS, to_import
from .test_ends import not_back_yet
from .world import World

D = "shop"
SCRIPT = "Import from a server"


@pytest_asyncio.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    blobs = BlobFolder(world.folder / "blobs")
    world.ports = world.workflows.ports = replace(world.ports, blobs=blobs)
    app = app_of(imports_api.router, ports=world.ports, workflows=world.workflows, vault=world.vault, blobs=blobs)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as made:
        await to_import(world, D)
        yield made


async def order(client: httpx.AsyncClient, password: str, host: str = "db.example") -> httpx.Response:
    asked = {"server": host, "user": "mover", "password": password, "schemas": ["shop"]}
    return await client.post(f"/databases/{D}/import/server", json=asked)


def known(world: World) -> dict[str, str]:
    return {name: value for name, value in world.vault.known.items() if name.startswith(f"import.{D}.")}


@pytest.mark.parametrize("password", ["right\r", "right\nssl-mode = DISABLED"])
async def test_a_password_of_more_than_a_line_is_refused_and_not_repeated(
    world: World, client: httpx.AsyncClient, password: str
) -> None:
    refused = await order(client, password)

    assert refused.status_code == 400 and "line end" in refused.text and "right" not in refused.text
    assert known(world) == {}


async def test_an_import_that_is_followed_is_not_touched_by_the_same_order(
    world: World, client: httpx.AsyncClient
) -> None:
    await world.succeeds((await order(client, "right")).json()["task"]["id"])
    before = known(world)
    says = world.agents.says[SCRIPT]
    world.agents.says[SCRIPT] = f"FACTS {json.dumps({**FACTS, 'stage': 'following'})}\n" + says.partition("\n")[2]

    again = await order(client, "wrong")
    if again.status_code == 202:
        await world.ended(again.json()["task"]["id"])

    assert known(world) == before and before[steps.password_name(D)] == "right"
    assert again.status_code == 409
    assert (await client.get(f"/databases/{D}/import")).json()["stage"] == "following"
    cut = await client.post(f"/databases/{D}/import/cut-over", json={})
    await world.succeeds(cut.json()["task"]["id"])
    assert known(world) == {}


async def test_after_a_look_that_failed_it_is_ordered_with_another_password_or_server(
    world: World, client: httpx.AsyncClient
) -> None:
    says = world.agents.says[SCRIPT]
    world.agents.says[SCRIPT] = 'FACTS {"there": null, "error": "denied"}'
    failed = await world.ended((await order(client, "wrong")).json()["task"]["id"])
    assert failed["state"] == "failed" and known(world) == {}

    world.agents.says[SCRIPT] = says
    await world.succeeds((await order(client, "right", "other.example")).json()["task"]["id"])

    assert did(world, D, "copy") and known(world)[steps.password_name(D)] == "right"


async def test_after_a_copy_that_failed_it_is_ordered_again(world: World, client: httpx.AsyncClient) -> None:
    def breaks(kind: str, task: str, number: int, name: str) -> Any:
        if name == "copy as of one moment":
            raise RelaunchError("it broke")

    world.after_effect = breaks
    failed = await world.ended((await order(client, "right")).json()["task"]["id"])
    assert failed["state"] == "failed" and did(world, D, "drop") and known(world) == {}

    world.after_effect = None
    await world.succeeds((await order(client, "right")).json()["task"]["id"])


async def test_what_was_kept_but_never_begun_is_replaced(world: World, client: httpx.AsyncClient) -> None:
    source = read_source("db.example", "mover", ["shop"])
    steps.keep_source(world.ports, D, source, begun=False)
    world.vault.known[steps.password_name(D)] = "wrong"

    await world.succeeds((await order(client, "right")).json()["task"]["id"])

    assert known(world)[steps.password_name(D)] == "right" and steps.has_begun(world.ports, D)


@pytest.mark.parametrize("host", ["db.example", "other.example"])
async def test_what_an_earlier_release_kept_has_begun(world: World, client: httpx.AsyncClient, host: str) -> None:
    know_the_source(world, D)
    before = known(world)

    assert (await order(client, "wrong", host)).status_code == 409
    assert known(world) == before


@pytest.mark.parametrize("kept", [[], [steps.source_name(D)], [steps.password_name(D)]])
async def test_what_is_noted_is_put_away_when_the_other_server_is_not_known_any_more(
    world: World, client: httpx.AsyncClient, kept: list[str]
) -> None:
    know_the_source(world, D)
    for name in {steps.source_name(D), steps.password_name(D)} - set(kept):
        del world.vault.known[name]
    noted = {**STATUS, "import": {**ROW, "locked": "'a'@'%'"}}
    world.agents.says[SCRIPT] = f"STATUS {json.dumps(noted)}"

    ended = await world.succeeds((await client.post(f"/databases/{D}/import/cancel")).json()["task"]["id"])

    assert did(world, D, "leave-two") and did(world, D, "forget") and not did(world, D, "drop")
    assert "shop is left as it is" in ended["result"]["warnings"][0] and "'a'@'%'" in ended["result"]["warnings"][1]
    assert known(world) == {}


async def test_where_nothing_is_noted_there_is_nothing_to_cancel(world: World, client: httpx.AsyncClient) -> None:
    world.agents.says[SCRIPT] = f"STATUS {json.dumps({**STATUS, 'import': None})}"

    assert (await client.post(f"/databases/{D}/import/cancel")).status_code == 404


def holding(world: World, step: str) -> tuple[asyncio.Event, asyncio.Event]:
    """When that step of an import is reached, and when it may go on."""
    reached, may = asyncio.Event(), asyncio.Event()
    plain = world.agents.run

    async def run(instance: str, order: RunScripts, *, task: str | None) -> RunState:
        if order.run_id.endswith(step):
            reached.set()
            await may.wait()
        return await plain(instance, order, task=task)

    world.agents.run = run  # type: ignore[method-assign]
    return reached, may


async def test_cancelled_while_it_copies_it_is_undone_and_that_has_succeeded(
    world: World, client: httpx.AsyncClient
) -> None:
    copies, _ = holding(world, "-copy")
    drops, may_drop = holding(world, "-drop")
    copying = (await order(client, "right")).json()["task"]["id"]
    await asyncio.wait_for(copies.wait(), 10)
    world.agents.says[SCRIPT] += f"\nSTATUS {json.dumps({**STATUS, 'import': None})}"  # once it is undone

    asked = await asyncio.wait_for(client.post(f"/databases/{D}/import/cancel"), 10)
    await asyncio.wait_for(drops.wait(), 10)
    may_drop.set()

    await world.succeeds(asked.json()["task"]["id"])
    assert (await world.ended(copying))["state"] == "cancelled"
    assert did(world, D, "drop") and not did(world, D, "forget") and known(world) == {}


async def test_cancelled_while_it_is_put_away_it_was_cut_over(world: World, client: httpx.AsyncClient) -> None:
    await world.succeeds((await order(client, "right")).json()["task"]["id"])
    leaves, may_leave = holding(world, "-leave-two")
    cutting = (await client.post(f"/databases/{D}/import/cut-over", json={})).json()["task"]["id"]
    await asyncio.wait_for(leaves.wait(), 10)

    asked = await asyncio.wait_for(client.post(f"/databases/{D}/import/cancel"), 10)
    may_leave.set()

    ended = await world.ended(asked.json()["task"]["id"])
    assert ended["state"] == "failed" and "it was cut over meanwhile" in ended["error"]
    assert (await world.ended(cutting))["state"] == "succeeded" and not did(world, D, "drop")


async def send(client: httpx.AsyncClient) -> str:
    sent = await client.put(f"/databases/{D}/import/dump", content=b"CREATE TABLE people;")
    return str(sent.json()["sha256"])


async def load_sent(client: httpx.AsyncClient, sha256: str, **more: str) -> httpx.Response:
    return await client.post(f"/databases/{D}/import/dump", json={"sha256": sha256, **more})


def is_kept(world: World, sha256: str) -> bool:
    return sha256 in {each.name for each in (world.folder / "blobs").iterdir()}


@pytest.mark.parametrize("more", [{"confirm": "shpo"}, {"schema": "a b"}, {}])
async def test_a_dump_whose_import_is_refused_is_not_kept(
    world: World, client: httpx.AsyncClient, more: dict[str, str]
) -> None:
    sha256 = await send(client)
    assert is_kept(world, sha256)
    if not more:
        world.agents.retired.append(world.instance(f"{D}/two")["id"])  # the primary does not answer

    assert (await load_sent(client, sha256, **more)).status_code in (400, 409)

    assert not is_kept(world, sha256)


async def test_a_dump_that_is_being_loaded_is_kept_until_then(world: World, client: httpx.AsyncClient) -> None:
    sha256 = await send(client)
    world.agents.hanging.add("Import database")
    task = (await load_sent(client, sha256)).json()["task"]["id"]

    assert (await load_sent(client, sha256)).status_code == 409
    assert (await client.put(f"/databases/{D}/import/dump", content=b"another")).status_code == 409
    assert is_kept(world, sha256)

    world.agents.hanging.clear()
    await world.succeeds(task)
    assert not is_kept(world, sha256)


async def test_the_undo_of_a_dump_is_of_its_own_run_and_tells_what_it_left(
    world: World, client: httpx.AsyncClient
) -> None:
    orders: list[dict[str, str]] = []
    plain = world.agents.run

    async def noted(instance: str, order: RunScripts, *, task: str | None) -> RunState:
        orders.append(order.scripts[0].inputs)
        return await plain(instance, order, task=task)

    world.agents.run = noted  # type: ignore[method-assign]
    world.agents.failing["Import database"] = 1
    world.agents.says["Import database"] = "WARNING what was in shop is elsewhere"

    failed = await world.ended(await load(world, D))

    loading, cleaning = orders
    assert (loading["IMPORT_STEP"], cleaning["IMPORT_STEP"]) == ("load", "clean")
    assert loading["IMPORT_RUN"] == cleaning["IMPORT_RUN"] != ""
    assert failed["state"] == "failed" and failed["error"].endswith("\nwhat was in shop is elsewhere")


async def test_replicas_follow_though_the_controller_starts_anew_before_their_agents_are_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told again, the primary answers at once: nobody comes back meanwhile."""
    scenario = SCENARIOS["import-server"]
    await scenario.prepare(world, "d")
    run, told = world.agents.run, asyncio.Event()

    async def hangs(instance: str, order: RunScripts, *, task: str | None) -> RunState:
        if order.run_id.endswith("-follow-one"):
            told.set()
            await asyncio.Event().wait()
        return await run(instance, order, task=task)

    monkeypatch.setattr(world.agents, "run", hangs)
    task = await scenario.start(world, "d")
    await asyncio.wait_for(told.wait(), 5)
    monkeypatch.setattr(world.agents, "run", run)
    not_back_yet(world, monkeypatch, "one")

    await world.restart()

    await world.succeeds(task)
    assert any(run_id.endswith("-follow-one") for run_id, _ in world.agents.executed)


async def test_members_that_are_away_are_waited_for_together_while_the_other_server_is_locked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = SCENARIOS["import-cut-over"]
    await scenario.prepare(world, "d")
    run, wait_connected, waiting = world.agents.run, world.agents.wait_connected, set[str]()
    together = asyncio.Event()

    async def fails(instance: str, order: RunScripts, *, task: str | None) -> RunState:
        if order.run_id.endswith("-cut-over"):
            world.agents.silent.update({"one", "two"})
            raise Unavailable("gone")
        return await run(instance, order, task=task)

    async def waits(instance: str, *, timeout_seconds: float) -> None:
        waiting.add(instance)
        if len(waiting) == 2:
            world.agents.silent.clear()
            together.set()
        async with asyncio.timeout(2):
            await together.wait()
        await wait_connected(instance, timeout_seconds=timeout_seconds)

    monkeypatch.setattr(world.agents, "run", fails)
    monkeypatch.setattr(world.agents, "wait_connected", waits)

    failed = await world.ended(await scenario.start(world, "d"))

    assert failed["state"] == "failed" and len(waiting) == 2 and did(world, "d", "unlock")


def when(world: World, monkeypatch: pytest.MonkeyPatch, step: str, does: Callable[[str, RunScripts], None]) -> None:
    """`does` is called, once, as an import's run that ends so is ordered; it may raise."""
    run, left = world.agents.run, [step]

    async def interferes(instance: str, order: RunScripts, *, task: str | None) -> RunState:
        if left and order.run_id.endswith(left[0]):
            left.clear()
            does(instance, order)
        return await run(instance, order, task=task)

    monkeypatch.setattr(world.agents, "run", interferes)


def fails_over(world: World, to: str, *, gone: str) -> None:
    """By the time that anybody looks again."""
    GroupStore(world.ports.database).change("d", primary=world.instance(f"d/{to}")["id"])
    world.agents.silent.add(gone)


def ran(world: World, server: str, step: str) -> bool:
    mine = {run["id"] for run in world.store.runs(instance_id=world.instance(f"d/{server}")["id"])}
    return any(run in mine and f"-{step}" in run for run, _ in world.agents.executed)


async def test_the_other_server_is_unlocked_by_who_leads_when_a_killed_undo_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario, unlocks = SCENARIOS["import-cut-over"], asyncio.Event()
    await scenario.prepare(world, "d")
    run = world.agents.run

    async def hangs(instance: str, order: RunScripts, *, task: str | None) -> RunState:
        if order.run_id.endswith("-cut-over"):
            raise Failed("not equal")
        if order.run_id.endswith("-unlock") and not unlocks.is_set():
            world.agents._begin(instance, order, task)
            unlocks.set()
            await asyncio.Event().wait()
        return await run(instance, order, task=task)

    monkeypatch.setattr(world.agents, "run", hangs)
    task = await scenario.start(world, "d")
    await asyncio.wait_for(unlocks.wait(), 5)
    fails_over(world, "one", gone="two")

    await world.restart()

    assert (await world.ended(task))["state"] == "failed" and ran(world, "one", "unlock")


async def test_whom_nobody_could_unlock_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = SCENARIOS["import-cut-over"]
    await scenario.prepare(world, "d")
    run = world.agents.run

    async def fails(instance: str, order: RunScripts, *, task: str | None) -> RunState:
        if order.run_id.endswith(("-cut-over", "-unlock")):
            raise Failed("not equal" if order.run_id.endswith("-cut-over") else "it does not answer")
        return await run(instance, order, task=task)

    monkeypatch.setattr(world.agents, "run", fails)

    failed = await world.ended(await scenario.start(world, "d"))

    assert failed["state"] == "failed" and failed["error"].startswith("not equal")
    assert "locked on the other server may be locked still (it does not answer)" in failed["error"]


async def test_a_cut_over_whose_agent_was_away_is_stopped_before_anybody_is_unlocked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario, cuts = SCENARIOS["import-cut-over"], asyncio.Event()
    await scenario.prepare(world, "d")
    two, give, told = world.instance("d/two")["id"], world.agents.order, list[str]()

    async def notes(instance: str, message: object, *, timeout_seconds: float = 5.0) -> Accepted:
        answer = await give(instance, message, timeout_seconds=timeout_seconds)
        if instance == two and isinstance(message, CancelRun):
            told.append(message.run_id)
        return answer

    def cuts_over(instance: str, order: RunScripts) -> None:
        world.agents.hanging.add(SCRIPT)
        cuts.set()

    def unlocks(instance: str, order: RunScripts) -> None:
        world.agents.hanging.clear()
        told.append("unlock")

    monkeypatch.setattr(world.agents, "order", notes)
    when(world, monkeypatch, "-cut-over", cuts_over)
    when(world, monkeypatch, "-unlock", unlocks)
    task = await scenario.start(world, "d")
    await asyncio.wait_for(cuts.wait(), 5)
    world.agents.silent.add("two")
    world.after_effect = lambda kind, of, number, name: world.agents.silent.clear() if name == "undo: stop it" else None
    world.workflows.cancel(task, "ann")

    assert (await world.ended(task))["state"] == "cancelled"
    assert any(each.endswith("-cut-over") for each in told[: told.index("unlock")])


@pytest.mark.parametrize(("gone", "leads"), [("one", "two"), ("two", "one")])
async def test_a_server_that_goes_while_it_is_told_does_not_end_a_cut_over(
    world: World, monkeypatch: pytest.MonkeyPatch, gone: str, leads: str
) -> None:
    scenario = SCENARIOS["import-cut-over"]
    await scenario.prepare(world, "d")

    def goes(instance: str, order: RunScripts) -> None:
        fails_over(world, leads, gone=gone)
        raise Failed("it is stopped in the cloud")

    when(world, monkeypatch, f"-leave-{gone}", goes)

    ended = await world.ended(await scenario.start(world, "d"))

    assert ended["state"] == "succeeded", ended["error"]
    assert ran(world, leads, "leave") and ran(world, leads, "forget") and forgotten(world, "d")


async def test_who_leads_after_a_failover_is_the_one_that_follows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = SCENARIOS["import-server"]
    await scenario.prepare(world, "d")

    def goes(instance: str, order: RunScripts) -> None:
        fails_over(world, "one", gone="two")
        raise Failed("it is stopped in the cloud")

    when(world, monkeypatch, "-follow-two", goes)

    ended = await world.ended(await scenario.start(world, "d"))

    assert ended["state"] == "succeeded", ended["error"]
    assert ran(world, "one", "follow")


async def test_a_script_that_fails_on_a_server_that_is_there_ends_the_cut_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = SCENARIOS["import-cut-over"]
    await scenario.prepare(world, "d")

    def fails(instance: str, order: RunScripts) -> None:
        raise Failed("no room")

    when(world, monkeypatch, "-follow-one", fails)

    ended = await world.ended(await scenario.start(world, "d"))

    assert ended["state"] == "failed" and not ran(world, "two", "cut-over")


@pytest.mark.parametrize(("kind", "step"), [("server", "copy"), ("cut-over", "cut-over"), ("cancel", "drop")])
async def test_what_counts_is_what_the_primary_has_by_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str, step: str
) -> None:
    """What a former one did last may be on nobody else."""
    scenario = SCENARIOS[f"import-{kind}"]
    await scenario.prepare(world, "d")
    run = world.agents.run

    async def runs_and_is_deposed(instance: str, order: RunScripts, *, task: str | None) -> RunState:
        ended = await run(instance, order, task=task)
        if order.run_id.endswith(f"-{step}"):
            GroupStore(world.ports.database).change("d", primary=world.instance("d/one")["id"])
        return ended

    monkeypatch.setattr(world.agents, "run", runs_and_is_deposed)

    ended = await world.ended(await scenario.start(world, "d"))

    assert ended["state"] == "succeeded", ended["error"]
    assert ran(world, "two", step) and ran(world, "one", step)


async def test_one_that_is_cancelled_once_it_follows_says_that_it_goes_on(
    world: World, client: httpx.AsyncClient
) -> None:
    follows = asyncio.Event()
    world.after_effect = lambda kind, task, number, name: follows.set() if name == "follow from there" else None
    lags = {**STATUS, "there": "b.1 9000"}
    world.agents.says[SCRIPT] = f"FACTS {json.dumps(FACTS)}\nSTATUS {json.dumps(lags)}"
    task = (await order(client, "right")).json()["task"]["id"]
    await asyncio.wait_for(follows.wait(), 10)

    world.workflows.cancel(task, "ann")

    ended = await world.ended(task)
    assert ended["state"] == "cancelled" and "stays, and is followed" in ended["error"]
    assert "--cancel undoes it" in ended["error"] and steps.has_begun(world.ports, D)
