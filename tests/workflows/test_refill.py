"""A server of a group whose launch fails is launched again: a few times at once, then now and then, for ever."""

from __future__ import annotations

from datetime import timedelta

from relaunch.databases.repair import TRIES, launch_missing, replace_member, unlaunched
from relaunch.errors import Failed

from .scenarios import two_is_primary
from .test_primary_is_spared import D, stored
from .world import World


async def test_it_is_never_given_up_and_a_person_is_told(world: World) -> None:
    await two_is_primary(world, D)
    old, now = world.instance(f"{D}/one")["id"], world.ports.clock.now()
    for _ in range(TRIES + 1):
        world.cloud.fail_next("launch", Failed("no capacity"))
    prefix = f"refill-{stored(world).deployment_id}-{D}/one"

    await replace_member(world.workflows, f"{D}/one", old, now)
    assert "no capacity" in (await world.ended(f"replace-{old}-1"))["error"]
    for number in range(1, TRIES + 1):
        assert stored(world).empty == (f"{D}/one",) and unlaunched(world.workflows, stored(world)) == ()
        await launch_missing(world.workflows, stored(world), now)
        assert (await world.ended(f"{prefix}-{number}"))["state"] == "failed"

    (page,) = unlaunched(world.workflows, stored(world))
    assert page.rule == "not launched" and "no capacity" in page.text and f"{prefix}-{TRIES}" in page.text
    await launch_missing(world.workflows, stored(world), now + timedelta(minutes=1))
    assert len(world.workflows.tasks.tries(prefix)) == TRIES

    await launch_missing(world.workflows, stored(world), now + timedelta(minutes=16))
    assert (await world.ended(f"{prefix}-{TRIES + 1}"))["state"] == "succeeded"
    assert world.state(f"{D}/one") == "operational" and unlaunched(world.workflows, stored(world)) == ()


async def test_those_that_succeeded_long_ago_do_not_count(world: World) -> None:
    await two_is_primary(world, D)
    now = world.ports.clock.now()
    for number in range(1, 2 * TRIES):
        old = world.instance(f"{D}/one")["id"]
        world.cloud.fail_next("launch", Failed("no capacity"))
        await replace_member(world.workflows, f"{D}/one", old, now)
        await world.ended(f"replace-{old}-1")
        await launch_missing(world.workflows, stored(world), now)

        refilled = await world.ended(f"refill-{stored(world).deployment_id}-{D}/one-{number}")
        assert refilled["state"] == "succeeded"
