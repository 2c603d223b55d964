"""What is refused, what is done at once, and what a second order of the same does."""

from __future__ import annotations

import asyncio
import time

import pytest

from relaunch.bus.messages import Hello
from relaunch.controller.agent_records import AgentRecords
from relaunch.errors import BadInput, Conflict, NeedsConfirmation, NotFound
from relaunch.servers import reconcile
from relaunch.servers.reconcile import ServerWatch
from relaunch.servers.shown import server_shown, servers_shown
from relaunch.workflows.tasks import Asked

from .world import SHOP, World

ONE = "deployment: shop\nservers:\n  front1: {template: web, zone: a}\n"
DATABASE = SHOP.replace("template: web", "template: mysql") + "database: {primary: front1, replicas: [front2]}\n"


async def test_applying_the_same_again_does_nothing(world: World) -> None:
    await world.apply()
    before = world.running()

    row = await world.apply()

    assert row["result"] == {"launched": [], "destroyed": []}
    assert world.running() == before
    assert world.orders.plan(SHOP)["actions"] == []


async def test_two_applies_at_once_the_second_names_the_first(world: World) -> None:
    first = await world.orders.apply(SHOP, who="ann")

    with pytest.raises(Conflict, match=first):
        await world.orders.apply(SHOP, who="bob")

    await world.succeeds(first)


async def test_a_file_that_destroys_servers_asks_first(world: World) -> None:
    await world.apply()

    with pytest.raises(NeedsConfirmation, match="shop/front2"):
        await world.orders.apply(ONE, who="ann")
    assert world.state("shop/front2") == "operational"

    await world.apply(ONE, yes=True)
    assert [server.name for server in world.store.servers("shop")] == ["front1"]
    world.check_invariant()


async def test_all_problems_are_told_at_once(world: World) -> None:
    source = "deployment: shop\nservers:\n  one: {template: wob, zone: a}\n  two: {template: web, zone: q}\n"

    with pytest.raises(BadInput) as raised:
        await world.orders.apply(source, who="ann")

    assert "wob" in raised.value.message
    assert "no zone 'q'" in raised.value.message


async def test_a_member_of_the_group_that_is_no_database_server_is_refused(world: World) -> None:
    servers = "  one: {template: mysql, zone: a}\n  two: {template: web, zone: a}\n"
    source = f"deployment: shop\nservers:\n{servers}database: {{primary: two, replicas: [one]}}\n"

    with pytest.raises(
        BadInput, match="server shop/two is in the database group, but its template web offers no"
    ) as raised:
        await world.orders.apply(source, who="ann")

    assert "shop/one" not in raised.value.message


async def test_a_site_served_elsewhere_is_refused(world: World) -> None:
    site = "sites:\n  shop.test: {}\n"
    await world.apply(ONE + site)

    with pytest.raises(BadInput, match=r"shop.test is served by deployment shop already"):
        await world.orders.apply(ONE.replace("shop", "other") + site, who="ann")


async def test_destroy_leaves_nothing(world: World) -> None:
    await world.apply(DATABASE)

    with pytest.raises(NeedsConfirmation):
        await world.orders.destroy("shop", who="ann")
    await world.succeeds(await world.orders.destroy("shop", who="ann", yes=True))

    assert world.running() == []
    assert world.store.deployments() == []
    assert "shop-mysql" not in await world.cloud.security_groups()
    world.check_invariant()


@pytest.mark.parametrize("action", ["terminate", "reboot", "relaunch"])
async def test_a_locked_server_refuses(world: World, action: str) -> None:
    await world.apply(ONE)
    await world.succeeds(await world.orders.act("shop/front1", "lock", who="ann"))

    with pytest.raises(Conflict, match="locked"):
        await world.orders.act("shop/front1", action, who="ann")
    with pytest.raises(Conflict, match="locked"):
        await world.orders.destroy("shop", who="ann", yes=True)


@pytest.mark.parametrize("action", ["retry", "force-operational", "launch"])
async def test_what_the_state_forbids_is_refused(world: World, action: str) -> None:
    await world.apply(ONE)

    with pytest.raises(Conflict):
        await world.orders.act("shop/front1", action, who="ann")


async def test_unknown_names_are_not_found(world: World) -> None:
    await world.apply(ONE)

    with pytest.raises(NotFound, match="dance"):
        await world.orders.act("shop/front1", "dance", who="ann")
    with pytest.raises(NotFound, match="shop/nobody"):
        await world.orders.act("shop/nobody", "reboot", who="ann")


async def test_decommission_scripts_run_before_the_end_and_why_is_recorded(world: World) -> None:
    await world.apply(ONE)
    instance = world.instance("shop/front1")["id"]

    await world.succeeds(await world.orders.act("shop/front1", "terminate", who="ann"))

    assert (f"{instance}-down", "leave") in world.agents.executed
    row = world.store.instance(instance)
    assert (row["state"], row["ended_why"]) == ("terminated", "asked")


async def test_relaunch_keeps_the_server_and_replaces_the_instance(world: World) -> None:
    await world.apply(ONE)
    old = world.instance("shop/front1")["id"]

    await world.succeeds(await world.orders.act("shop/front1", "relaunch", who="ann"))

    assert world.instance("shop/front1")["id"] != old
    assert world.store.instance(old)["ended_why"] == "replaced"
    world.check_invariant()


async def test_retry_goes_on_from_the_script_that_failed(world: World) -> None:
    world.agents.failing["announce"] = 1
    await world.ended(await world.orders.apply(ONE, who="ann"))
    assert world.state("shop/front1") == "stranded"

    await world.succeeds(await world.orders.act("shop/front1", "retry", who="ann"))

    assert [name for run, name in world.agents.executed if "-retry-" in run] == ["announce"]
    assert world.state("shop/front1") == "operational"
    assert world.instance("shop/front1")["stranded_why"] is None


async def test_retry_from_the_start_runs_all_boot_scripts(world: World) -> None:
    world.agents.failing["announce"] = 1
    await world.ended(await world.orders.apply(ONE, who="ann"))

    await world.succeeds(await world.orders.act("shop/front1", "retry", who="ann", body={"from_start": True}))

    assert [name for run, name in world.agents.executed if "-retry-" in run] == ["configure", "announce"]


async def test_a_script_on_twenty_servers_is_one_task_with_little_overhead(world: World) -> None:
    names = [f"s{number}" for number in range(20)]
    source = "deployment: many\nservers:\n" + "".join(f"  {name}: {{template: web, zone: a}}\n" for name in names)
    await world.apply(source)
    servers = [f"many/{name}" for name in names]

    started = time.monotonic()
    row = await world.succeeds(await world.orders.run(servers, "greet", {}, who="ann"))

    assert time.monotonic() - started < 2.0  # bounded loosely: the figure itself is measured in bench/
    assert [each["server"] for each in row["result"]["servers"]] == servers
    assert sum(name == "greet" for _, name in world.agents.executed) == 20


async def test_a_script_that_fails_somewhere_says_where(world: World) -> None:
    await world.apply()
    world.agents.failing["greet"] = 1

    row = await world.ended(await world.orders.run(["shop/front1", "shop/front2"], "greet", {}, who="ann"))

    assert row["state"] == "failed"
    assert row["error"].startswith("shop/front1: operational script 1/1 'greet' failed")


async def test_an_unknown_script_is_refused_before_any_server_is_told(world: World) -> None:
    await world.apply()

    with pytest.raises(Conflict, match="it has: greet"):
        await world.orders.run(["shop/front1", "shop/front2"], "grete", {}, who="ann")


async def test_a_script_given_as_text_runs(world: World) -> None:
    await world.apply(ONE)
    script = {"name": "mine", "text": "#!/bin/sh\necho hello\n"}

    await world.succeeds(await world.orders.run(["shop/front1"], script, {}, who="ann"))

    assert world.agents.executed[-1][1] == "mine"


async def test_a_hello_from_a_new_boot_has_the_boot_scripts_run(world: World) -> None:
    await world.apply(ONE)
    watch = ServerWatch(world.ports, world.workflows)
    watch.start()
    instance = world.instance("shop/front1")["id"]

    watch.hello(instance, Hello(agent_version="1", agent_sha256="", boot_id="boot-9", view_version=0))
    await asyncio.sleep(0.05)
    await world.succeeds(f"reboot-{instance}-boot-9")
    await watch.stop()

    again = [name for run, name in world.agents.executed if run.startswith(f"{instance}-reboot")]
    assert again == ["configure", "announce"]
    assert world.state("shop/front1") == "operational"


async def boots_beside(world: World, kind: str, state: str, task: str) -> tuple[str, ServerWatch]:
    """An instance in this state boots anew while such a task is at its server."""
    await world.apply(ONE)
    instance = world.instance("shop/front1")["id"]
    world.store.change_instance(instance, state=state)
    watch = ServerWatch(world.ports, world.workflows)
    asked = Asked(kind=kind, title="", subject="server:shop/front1", who="ann")
    world.workflows.tasks.begin(task.format(instance=instance), asked)
    watch.hello(instance, Hello("1", "", "boot-9", 0))
    await asyncio.sleep(0.05)
    return instance, watch


@pytest.mark.parametrize(
    ("kind", "state"), [("start", "stranded"), ("reconnect", "operational"), ("replace", "operational")]
)
async def test_a_new_boot_is_followed_though_a_task_is_at_the_server_that_runs_no_boot_scripts(
    world: World, kind: str, state: str
) -> None:
    """The server may be up again before the order to start it has ended; a replacing may read the old one for hours."""
    instance, watch = await boots_beside(world, kind, state, "another")
    await world.succeeds(f"reboot-{instance}-boot-9")
    await watch.stop()

    assert world.state("shop/front1") == "operational"


@pytest.mark.parametrize(
    ("kind", "state"), [("launch", "booting"), ("reboot", "operational"), ("replace", "operational")]
)
async def test_a_new_boot_is_left_to_the_task_that_runs_the_boot_scripts_or_takes_it_away(
    world: World, kind: str, state: str
) -> None:
    instance, watch = await boots_beside(world, kind, state, f"{kind}-{{instance}}-1")
    await watch.stop()

    assert (
        world.workflows.tasks.count(f"reboot-{instance}-boot-9") == 0
        and world.instance("shop/front1")["boot_id"] == "boot-9"
    )


async def test_a_reboot_is_noticed_though_the_controller_is_killed_before_its_workflow_starts(world: World) -> None:
    await world.apply(ONE)
    instance = world.instance("shop/front1")["id"]
    hello = Hello(agent_version="1", agent_sha256="", boot_id="boot-9", view_version=0)
    records = AgentRecords(world.ports.database, world.ports.clock)
    records.hello(instance, hello)  # all that the killed one came to do

    for _ in range(2):  # and killed again: with the task's row written, but no workflow behind it
        await world.restart()
        watch = ServerWatch(world.ports, world.workflows)
        watch.start()
        records.hello(instance, hello)
        watch.hello(instance, hello)
        await watch.stop()
        asked = Asked(kind="reboot", title="", subject="server:shop/front1", who="relaunch")
        world.workflows.tasks.begin(f"reboot-{instance}-boot-9", asked)
    await world.restart()
    watch = ServerWatch(world.ports, world.workflows)
    watch.start()
    records.hello(instance, hello)
    watch.hello(instance, hello)
    await asyncio.sleep(0.05)
    await world.succeeds(f"reboot-{instance}-boot-9-2")
    await watch.stop()

    again = [name for run, name in world.agents.executed if run.startswith(f"{instance}-reboot")]
    assert again == ["configure", "announce"]
    assert world.instance("shop/front1")["boot_id"] == "boot-9"


@pytest.mark.parametrize("turns", [0, 3])
async def test_a_reboot_that_is_noticed_while_the_controller_starts_is_followed(world: World, turns: int) -> None:
    await world.apply(ONE)
    instance = world.instance("shop/front1")["id"]
    world.store.change_instance(instance, boot_id="boot-1")
    await world.end_and_make_anew()
    watch = ServerWatch(world.ports, world.workflows)

    async def hello() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        watch.hello(instance, Hello("1", "", "boot-9", 0))

    said = asyncio.create_task(hello())
    await world.workflows.start(world.ports)
    await said
    await asyncio.sleep(0.05)

    await world.succeeds(f"reboot-{instance}-boot-9")
    await watch.stop()
    assert [name for run, name in world.agents.executed if run.startswith(f"{instance}-reboot")] != []


async def test_a_hello_from_the_same_boot_does_nothing(world: World) -> None:
    await world.apply(ONE)
    watch = ServerWatch(world.ports, world.workflows)
    watch.start()

    watch.hello(world.instance("shop/front1")["id"], Hello("1", "", "boot-1", 0))
    await asyncio.sleep(0.05)
    await watch.stop()

    assert world.workflows.tasks.unfinished() == []


async def test_a_primary_that_says_so_marks_its_group_as_holding_data(world: World) -> None:
    await world.apply(DATABASE)
    watch = ServerWatch(world.ports, world.workflows)
    world.set_tags("shop/front2", database="primary")  # whatever it says: the stored primary is another
    watch.tags_changed(world.instance("shop/front2")["id"])
    deployment = world.store.deployment("shop")
    assert deployment is not None
    assert world.store.group(deployment["id"])["initialised"] is False

    world.set_tags("shop/front1", database="primary")
    watch.tags_changed(world.instance("shop/front1")["id"])

    assert world.store.group(deployment["id"])["initialised"] is True
    with pytest.raises(Conflict, match="data be lost") as refused:
        await world.orders.act("shop/front1", "terminate", who="ann", body={"yes": True})
    assert "relaunch db switchover shop" in refused.value.hint
    assert "relaunch deployment destroy shop" in refused.value.hint
    assert "--yes" not in refused.value.hint


async def test_what_the_cloud_runs_though_it_was_terminated_is_ended(world: World) -> None:
    await world.apply(ONE)
    watch = ServerWatch(world.ports, world.workflows)
    instance = world.instance("shop/front1")["id"]
    world.store.change_instance(instance, state="terminated")

    await watch.look()

    assert world.running() == []


async def test_an_instance_the_cloud_lost_is_marked_and_left_to_the_operator(world: World) -> None:
    await world.apply(ONE)
    watch = ServerWatch(world.ports, world.workflows)
    instance = world.instance("shop/front1")["id"]
    world.cloud.vanish(world.cloud_id("shop/front1"))

    await watch.look()

    assert watch.lost == {instance: "the cloud has it no more"}
    (shown,) = servers_shown(world.ports)
    assert (shown["lost"], shown["lost_why"]) == (True, "the cloud has it no more")
    assert world.state("shop/front1") == "operational"


async def test_an_agent_that_was_heard_in_between_is_not_counted_as_silent_from_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was connected between two looks, and has just been cut off again."""
    monkeypatch.setattr(reconcile, "SILENT_SECONDS", 0.2)
    await world.apply(ONE)
    watch = ServerWatch(world.ports, world.workflows)
    instance = world.instance("shop/front1")["id"]
    world.agents.silent.add("front1")
    await watch.look()
    await asyncio.sleep(0.25)
    watch.hello(instance, Hello("1", "", "boot-1", 0))

    await watch.look()
    assert watch.lost == {}
    await asyncio.sleep(0.25)
    await watch.look()
    assert watch.lost == {instance: "its agent is not heard"}


async def test_a_server_is_shown_with_what_it_is_doing(world: World) -> None:
    world.agents.hanging.add("configure")
    task = await world.orders.apply(ONE, who="ann")
    await world.comes_to("shop/front1", "booting")
    await asyncio.sleep(0.1)

    shown = server_shown(world.ports, "shop/front1")

    assert shown["state"] == "booting"
    assert shown["current_step"] == "boot scripts"
    world.workflows.cancel(task, "ann")
    assert (await world.ended(task))["state"] in ("cancelled", "failed")
    await asyncio.gather(*(world.ended(each["id"]) for each in world.workflows.tasks.unfinished()))
    world.check_invariant()
