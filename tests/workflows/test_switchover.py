"""What a switchover waits for before it begins."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from relaunch.clock import SystemClock
from relaunch.databases import switchover
from relaunch.databases.group import Change, Step
from relaunch.databases.store import GroupStore
from relaunch.workflows.tasks import Asked

from .scenarios import group_applied, one_is_primary, started, switch_over
from .test_primary_is_spared import stored
from .test_reconcile import eventually
from .world import World

BACKUP = Asked(kind="back-up", title="full backup of shop/two", subject="backups:shop", who="relaunch")


async def test_a_backup_ends_first(world: World) -> None:
    await one_is_primary(world, "shop")
    world.workflows.tasks.begin("back-up-1", BACKUP)

    task = await switch_over(world, "shop")
    await asyncio.sleep(0.5)
    meanwhile = world.workflows.tasks.get(task)["state"]
    world.workflows.tasks.end("back-up-1", BACKUP, "succeeded")

    assert meanwhile == "running"
    await world.succeeds(task)


def change(world: World) -> Change:
    one, two = (world.instance(f"shop/{name}")["id"] for name in ("one", "two"))
    return Change(
        kind="switchover", step=Step.DRAIN, old=two, candidate=one, rule="asked", began=0.0, step_began=0.0
    )  # fmt: skip


@pytest.mark.parametrize(
    ("begun", "says"),
    [
        (False, "none will\n  relaunch audit --subject database:shop tells why"),
        (True, "is still to\n  relaunch db status shop says what it waits for"),
    ],
)
async def test_one_that_is_given_up_waiting_for_says_whether_it_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, begun: bool, says: str
) -> None:
    monkeypatch.setattr(switchover, "BEGIN_SECONDS", 0.3)
    monkeypatch.setattr(switchover, "DONE_SECONDS", 0.3)
    await group_applied(world, "shop")

    task = await switch_over(world, "shop")
    await eventually("it is asked for", lambda: "shop" in world.ports.switchovers)
    if begun:
        GroupStore(world.ports.database).change("shop", change=change(world))
        world.ports.switchovers["shop"].begun = True

    assert (await world.ended(task))["error"].endswith(says)


@pytest.mark.parametrize(("leads", "state"), [("one", "succeeded"), ("two", "failed")])
async def test_one_that_was_under_way_when_the_controller_was_killed_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch, leads: str, state: str
) -> None:
    """Agents may take longer to come back than one that has not begun is waited for."""
    monkeypatch.setattr(switchover, "BEGIN_SECONDS", 0.1)
    await one_is_primary(world, "shop")
    store, to = GroupStore(world.ports.database), world.instance(f"shop/{leads}")["id"]
    store.change("shop", primary=world.instance("shop/two")["id"], change=change(world))

    task = await switch_over(world, "shop")
    await asyncio.sleep(0.5)
    store.change("shop", primary=to, change=None)

    ended = await world.ended(task)
    assert ended["state"] == state, ended["error"]
    assert state == "succeeded" or "was given up" in ended["error"]


async def test_one_whose_candidate_failed_ends_once_a_third_leads(world: World) -> None:
    await one_is_primary(world, "shop")
    store = GroupStore(world.ports.database)
    store.change("shop", primary=world.instance("shop/two")["id"])
    task = await switch_over(world, "shop")
    await eventually("it is asked for", lambda: "shop" in world.ports.switchovers)
    store.change("shop", change=change(world))
    world.ports.switchovers["shop"].begun = True
    await asyncio.sleep(0.1)

    store.change("shop", primary="three", change=None)

    assert "was given up and another server leads" in (await world.ended(task, within=5))["error"]


@pytest.mark.parametrize(
    ("leads", "says"),
    [("one", "it had begun: shop/one is the primary"), ("two", "cancelled by ann"), ("", "it has begun, and goes on")],
)
async def test_one_that_is_cancelled_says_what_had_begun(
    world: World, monkeypatch: pytest.MonkeyPatch, leads: str, says: str
) -> None:
    await one_is_primary(world, "shop")
    store = GroupStore(world.ports.database)
    store.change("shop", primary=world.instance("shop/two")["id"], change=change(world))
    task = await switch_over(world, "shop")
    await eventually("it is asked for", lambda: "shop" in world.ports.switchovers)
    monkeypatch.setattr(switchover, "BEGIN_SECONDS", 0.5)

    world.workflows.cancel(task, "ann")
    await asyncio.sleep(0.1)
    if leads:
        store.change("shop", primary=world.instance(f"shop/{leads}")["id"], change=None)

    ended = await world.ended(task)
    assert ended["state"] == "cancelled" and says in ended["error"].splitlines()[-1]


@pytest.mark.parametrize("hours", [-1, 1])
async def test_one_that_is_forced_counts_from_now_also_when_the_clock_has_been_set_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """By the clock of the watch, which does not jump: else it is given up before all are revoked, or never allowed."""
    await one_is_primary(world, "shop")
    to, store = world.instance("shop/two")["id"], GroupStore(world.ports.database)
    now = SystemClock.now
    monkeypatch.setattr(SystemClock, "now", lambda clock: now(clock) + timedelta(hours=hours))
    asked = Asked(kind="switchover", title="force it", subject="database:shop", who="ann")
    task = await started(world, asked, {"deployment": "shop", "to": to, "server": "shop/two", "force": "it is old"})
    await eventually("it has begun", lambda: stored(world).group.change is not None)

    group = stored(world).group
    assert group.change is not None and group.change.forced == to
    passed = [world.ports.steady.now().timestamp() - at for at in (group.change.step_began, group.loss_allowed_at)]
    assert all(0 <= each < 60 for each in passed)

    store.change("shop", primary=to, change=None)
    await world.succeeds(task)
