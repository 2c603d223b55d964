"""Launching: what is done, in which order, and what is left when it goes wrong."""

from __future__ import annotations

import asyncio

import pytest

from relaunch.bus.messages import RunScripts, RunState
from relaunch.clouds.cloud import InstanceId
from relaunch.errors import BadInput, Conflict, Failed
from relaunch.servers import bake, reconcile, run_list
from relaunch.servers import boot as booting
from relaunch.servers.reconcile import ServerWatch

from .test_reconcile import eventually
from .world import SHOP, World


async def test_applying_a_file_makes_every_server_operational(world: World) -> None:
    row = await world.apply()

    assert row["result"] == {"launched": ["front1", "front2"], "destroyed": []}
    assert [world.state("shop/front1"), world.state("shop/front2")] == ["operational", "operational"]
    world.check_invariant()


async def test_two_servers_of_one_template_wait_for_one_bake(world: World) -> None:
    await world.apply()

    baked = [name for run, name in world.agents.executed if run.startswith("bake-")]
    assert baked == ["install"]
    assert [row["state"] for row in world.store.images()] == ["ready"]


async def test_what_is_baked_is_not_run_again_at_boot(world: World) -> None:
    await world.apply()

    booted = world.instance("shop/front1")["id"]
    assert [name for run, name in world.agents.executed if run.startswith(booted)] == ["configure", "announce"]


async def test_a_failing_boot_script_strands_the_server_with_its_output_at_hand(world: World) -> None:
    world.agents.failing["configure"] = 2

    row = await world.ended(await world.orders.apply(SHOP, who="ann"))

    assert row["state"] == "failed"
    assert "'configure' failed with exit status 1" in row["error"]
    assert "output of" in world.instance("shop/front1")["stranded_why"]
    assert world.state("shop/front1") == "stranded"
    world.check_invariant()


async def test_a_failing_bake_leaves_no_builder_and_names_the_script(world: World) -> None:
    world.agents.failing["install"] = 1

    row = await world.ended(await world.orders.apply(SHOP, who="ann"))

    assert "bake script 1/1 'install' failed" in row["error"]
    assert world.running() == []
    assert world.state("shop/front1") == "inactive"
    world.check_invariant()


async def test_a_failed_bake_is_tried_again_by_the_next_launch(world: World) -> None:
    world.agents.failing["install"] = 1
    await world.ended(await world.orders.apply(SHOP, who="ann"))

    await world.apply()

    assert world.state("shop/front2") == "operational"


async def test_an_agent_that_never_comes_undoes_the_launch(world: World) -> None:
    world.agents.silent.add("front1")

    row = await world.ended(await world.orders.apply(SHOP, who="ann"))

    assert "did not connect" in row["error"]
    assert world.state("shop/front1") == "inactive"
    assert world.state("shop/front2") == "operational"
    world.check_invariant()


async def test_a_cloud_that_refuses_undoes_the_launch(world: World) -> None:
    await world.apply()
    await world.succeeds(await world.orders.act("shop/front1", "terminate", who="ann"))
    world.cloud.fail_next("launch", Conflict("no space left"))

    row = await world.ended(await world.orders.act("shop/front1", "launch", who="ann"))

    assert "no space left" in row["error"]
    world.check_invariant()


async def test_an_instance_that_dies_while_it_boots_undoes_the_launch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(booting, "LOOK_AFTER_SECONDS", 0.02)
    await world.apply()
    await world.succeeds(await world.orders.act("shop/front1", "terminate", who="ann"))
    world.agents.hanging.add("configure")
    task = await world.orders.act("shop/front1", "launch", who="ann")
    await world.comes_to("shop/front1", "booting")

    world.cloud.shut_itself_down(world.cloud_id("shop/front1"))

    assert "stopped in the cloud" in (await world.ended(task))["error"]
    world.check_invariant()


async def test_a_bake_whose_agent_is_lost_fails_soon_and_is_undone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, seconds in (
        (booting, "LOOK_AFTER_SECONDS", 0.02),
        (bake, "LOST_SECONDS", 0.3),
        (reconcile, "LOOK_SECONDS", 0.05),
        (reconcile, "SILENT_SECONDS", 0.1),
    ):
        monkeypatch.setattr(module, name, seconds)
    watch = ServerWatch(world.ports, world.workflows)
    watch.start()
    world.agents.hanging.add("install")
    task = await world.orders.apply(SHOP, who="ann")
    await eventually("the install script runs", lambda: any(name == "install" for _, name in world.agents.executed))
    (builder,) = world.store.living_instances()
    await asyncio.sleep(0.35)

    await world.cloud.cut_off(InstanceId(builder["cloud_id"]), True)
    await asyncio.sleep(0.25)
    await world.cloud.cut_off(InstanceId(builder["cloud_id"]), False)  # back in time: nothing happens
    await asyncio.sleep(0.4)
    assert world.workflows.tasks.get(task)["state"] == "running"
    await world.cloud.cut_off(InstanceId(builder["cloud_id"]), True)

    assert "has been lost for 0 s: its agent is not heard" in (await world.ended(task, within=3.0))["error"]
    await watch.stop()
    assert [(image["state"], "not heard" in image["detail"]) for image in world.store.images()] == [("failed", True)]
    assert world.store.instance(builder["id"])["state"] == "terminated"
    world.check_invariant()


async def test_cancelling_a_launch_undoes_it(world: World) -> None:
    await world.apply()
    await world.succeeds(await world.orders.act("shop/front1", "terminate", who="ann"))
    world.agents.hanging.add("configure")
    task = await world.orders.act("shop/front1", "launch", who="ann")
    await world.comes_to("shop/front1", "booting")

    world.workflows.cancel(task, "bob")

    assert (await world.ended(task))["state"] == "cancelled"
    assert world.state("shop/front1") == "inactive"
    world.check_invariant()


async def test_a_missing_input_is_refused_before_anything_starts(world: World) -> None:
    source = SHOP + "inputs:\n  COLOR: text:red\n"

    with pytest.raises(BadInput, match="COLOR"):
        await world.orders.apply(source, who="ann")

    assert world.workflows.tasks.unfinished() == []
    assert world.running() == []


async def test_groups_open_what_the_templates_say(world: World) -> None:
    await world.apply()

    rules = (await world.cloud.security_groups())["shop-web"]
    assert [(rule.from_port, rule.source) for rule in rules] == [(80, "0.0.0.0/0"), (22, "10.0.0.1/32")]


async def test_a_primary_that_holds_data_is_never_launched_empty(world: World) -> None:
    source = SHOP.replace("template: web", "template: mysql") + "database: {primary: front1, replicas: [front2]}\n"
    await world.apply(source)
    assert world.store.set_initialised(world.store.server("shop/front1").id)

    with pytest.raises(Conflict, match="data be lost"):
        await world.orders.act("shop/front1", "relaunch", who="ann")
    with pytest.raises(Conflict, match="its writers would be cut off"):
        await world.orders.act("shop/front1", "set-aside", who="ann")

    await world.succeeds(await world.orders.act("shop/front2", "relaunch", who="ann"))
    world.check_invariant()


async def test_waiting_names_the_console_when_the_agent_never_comes(world: World) -> None:
    await world.apply()
    instance = world.instance("shop/front1")
    world.cloud.print_on_console(world.cloud_id("shop/front1"), "Kernel panic")
    world.agents.silent.add("front1")

    with pytest.raises(Failed, match="did not connect") as raised:
        await booting.wait_connected(world.ports, instance["id"])

    assert "Kernel panic" in raised.value.hint


async def test_what_runs_on_an_instance_that_is_set_aside_ends_with_its_agent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup of a server that was replaced meanwhile would else be waited for until its time limit."""
    monkeypatch.setattr(booting, "ASIDE_SECONDS", 0.0)
    monkeypatch.setattr(booting, "LOOK_AFTER_SECONDS", 0.01)
    await world.apply()
    instance = world.instance("shop/front1")["id"]
    waiting = asyncio.ensure_future(booting.while_it_runs(world.ports, instance, asyncio.Event().wait()))
    await asyncio.sleep(0.05)
    assert not waiting.done()

    await world.succeeds(await world.orders.act("shop/front1", "set-aside", who="ann"))

    with pytest.raises(Failed, match="was set aside"):
        await asyncio.wait_for(waiting, 5)


async def test_a_server_s_volume_is_made_with_its_instance_and_goes_with_it(world: World) -> None:
    await world.apply(SHOP.replace("zone: a}", "zone: a, volume: 1G}"))
    given = [(each.size_bytes, each.attached_to, each.device) for each in world.cloud._volumes.values()]
    assert given == [(1 << 30, world.cloud_id("shop/front1"), "/srv/volume")]

    await world.succeeds(await world.orders.act("shop/front1", "relaunch", who="ann"))
    assert [each.attached_to for each in world.cloud._volumes.values()] == [world.cloud_id("shop/front1")]
    await world.succeeds(await world.orders.act("shop/front1", "terminate", who="ann"))

    assert world.cloud._volumes == {}
    world.check_invariant()


async def test_a_volume_for_a_template_that_knows_no_place_for_it_is_refused(world: World) -> None:
    (world.ports.template_folders[0] / "web/web.relaunch.yml").write_text("image: trixie\n")

    row = await world.ended(await world.orders.apply(SHOP.replace("zone: a}", "zone: a, volume: 1G}"), who="ann"))

    assert "cannot have a volume" in row["error"]
    assert world.cloud._volumes == {}


@pytest.mark.parametrize(("template", "has_days"), [("web", False), ("mysql", True)])
async def test_boot_scripts_of_a_database_server_may_copy_all_of_its_data(
    world: World, monkeypatch: pytest.MonkeyPatch, template: str, has_days: bool
) -> None:
    given: set[float] = set()
    run = world.agents.run

    async def watched(instance: str, order: RunScripts, *, task: str | None) -> RunState:
        given.update(each.timeout_seconds for each in order.scripts if order.phase == "boot")
        return await run(instance, order, task=task)

    monkeypatch.setattr(world.agents, "run", watched)

    await world.apply(f"deployment: shop\nservers:\n  one: {{template: {template}, zone: a}}\n")

    assert given == {run_list.LONGEST_SECONDS if has_days else 3600.0}
