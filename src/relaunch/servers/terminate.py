"""Ending an instance: decommission scripts, then the cloud's terminate; also fencing one off, and undoing a launch.

A saga: each step may be done twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from relaunch.bus.messages import CancelRun, Retire
from relaunch.clouds.cloud import InstanceId
from relaunch.errors import Conflict, NotFound, RelaunchError
from relaunch.servers import run_list
from relaunch.servers.boot import DECOMMISSION_SECONDS, is_back, outcome
from relaunch.servers.groups import QUARANTINE, host_only, set_groups
from relaunch.servers.lifecycle import Event, State
from relaunch.servers.ports import Ports
from relaunch.servers.store import Store
from relaunch.servers.volumes import take_volume
from relaunch.workflows.durable import Run, workflow

log = logging.getLogger(__name__)


@workflow("terminate")
async def terminate(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: instance, why (see lifecycle.ENDED_WHY), run_id, spare_primary (optional: not one that leads by then),
    spare_last (optional: not a replica when no other one is in step by then)."""
    ports: Ports = run.ports
    instance = args["instance"]
    had = await run.step("look at its state", _state, ports, instance)
    await run.step("leave service", _leave_service, ports, args)
    if had in (State.OPERATIONAL, State.STRANDED):
        await run.step("decommission scripts", decommission, run, instance, args["run_id"])
    await run.step("terminate in the cloud", end_in_cloud, ports, instance)
    await run.step("record the end", _record_end, ports, instance, args["why"])
    return {"instance": instance}


@workflow("set-aside")
async def set_aside(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: instance, keep_agent (optional: somebody has work for it yet, and ends it afterwards). Out of service and
    fenced off, but kept running."""
    ports: Ports = run.ports
    instance = args["instance"]
    # Fenced off first: out of the group it counts as one whose word reaches nobody.
    await run.step("fence it off", _fence, ports, instance)
    await run.step("leave service", _move, ports, instance, Event.SET_ASIDE)
    if not args.get("keep_agent"):
        await run.step("retire its agent", _retire, ports, instance, "set aside")
    return {"instance": instance}


async def decommission(run: Run, instance: str, run_id: str) -> str:
    """Run its decommission scripts, at most 180 s; how they ended is noted, never a reason to keep the instance."""
    ports: Ports = run.ports
    order = run_list.phase_order(ports, instance, run_id, "decommission")
    if not order.scripts:
        return "none"
    if not await is_back(ports, instance):
        return "skipped: its agent is not connected"
    try:
        async with asyncio.timeout(DECOMMISSION_SECONDS):
            ended = await ports.agents.run(instance, order, task=run.task)
        return str(outcome(ports, order, ended)["why"] or "succeeded")
    except TimeoutError:
        await stop_run(ports, instance, run_id)
        return f"broken off after {DECOMMISSION_SECONDS:.0f} s"
    except RelaunchError as error:
        return f"not run: {error.message}"


async def end_in_cloud(ports: Ports, instance: str) -> None:
    """Terminate whatever the cloud has under this instance's token, also when we were not told its id."""
    row = Store(ports.database, ports.clock).instance(instance)
    if row["cloud_id"] is not None:
        await ports.cloud.terminate(InstanceId(row["cloud_id"]))
    else:
        for found in await ports.cloud.instances():
            if found.client_token == instance:
                await ports.cloud.terminate(found.id)
    await take_volume(ports, instance)


def record_end(ports: Ports, instance: str, why: str) -> None:
    """Terminated for this reason; its server has no incarnation now, its agent no credential."""
    store = Store(ports.database, ports.clock)
    if store.move(instance, Event.GONE) is State.TERMINATED:
        if store.instance(instance)["ended_why"] is None:
            store.change_instance(instance, ended_why=why)
        store.release_server(instance)
        store.end_enrolments(instance)


async def end_unused(ports: Ports, instance: str, why: str) -> str:
    """End what nobody uses and keeps nothing; how that went is only noted.

    One that the cloud does not end now counts as ended all the same: the server watch has it ended again and again.
    """
    try:
        await end_in_cloud(ports, instance)
    except NotFound:  # the row was never written, so nothing was asked of the cloud either
        return "none"
    except RelaunchError as error:
        record_end(ports, instance, why)
        return f"tried again until it is gone: {error.message}"
    record_end(ports, instance, why)
    return "gone"


async def undo_launch(run: Run, instance: str, run_id: str) -> None:
    """Nothing of this instance is left, in the cloud or as a server's incarnation."""
    with run.undoing():
        await run.step("undo: stop its scripts", stop_run, run.ports, instance, run_id)
        await run.step("undo: terminate in the cloud", end_unless_up, run.ports, instance)


async def end_unless_up(ports: Ports, instance: str) -> str:
    """One that has come up may serve by now, and one that boots still may lead a group, or hold what it counts on:
    whatever went wrong after that, it is kept."""
    store = Store(ports.database, ports.clock)
    with contextlib.suppress(NotFound):
        state = store.instance(instance)["state"]
        group = store.group_that_needs(instance) if state == State.BOOTING else None
        if group is not None:
            why = f"its launch was broken off after it had joined {group}"
            state = store.move(instance, Event.SCRIPT_FAILED, stranded_why=why)
        if state in (State.OPERATIONAL, State.STRANDED):
            return f"kept: it is {state}"
        store.move(instance, Event.TERMINATE)  # it may be about to join: from then on its group lets it in no more
    return await end_unused(ports, instance, "never booted")


def _state(ports: Ports, instance: str) -> str:
    return str(Store(ports.database, ports.clock).instance(instance)["state"])


def _record_end(ports: Ports, instance: str, why: str) -> None:
    record_end(ports, instance, why)


def _leave_service(ports: Ports, args: dict[str, Any]) -> str:
    """From then on nobody lets it lead any more; what was asked may have waited long since it was looked at."""
    store, instance = Store(ports.database, ports.clock), args["instance"]
    if store.instance(instance)["state"] != State.DECOMMISSIONING:
        if args.get("spare_primary"):
            refuse_leader(store, instance)
        if args.get("spare_last"):
            _refuse_last_in_step(store, instance)
    return store.move(instance, Event.TERMINATE)


def refuse_leader(store: Store, instance: str) -> None:
    """Conflict when this instance is the primary of a group that holds data."""
    group = store.group_led_by(instance)
    if group is not None:
        raise Conflict(
            f"{instance} has become the primary of {group} meanwhile: it is left as it is",
            hint="relaunch db status; once another one leads, order it again",
        )


def _refuse_last_in_step(store: Store, instance: str) -> None:
    group = store.group_that_cannot_spare(instance)
    if group is not None:
        raise Conflict(
            f"no other replica of {group} is in step by now: {instance} is left as it is",
            hint="relaunch db status; once another one is in step, order it again",
        )


def _move(ports: Ports, instance: str, event: Event) -> str:
    return Store(ports.database, ports.clock).move(instance, event)


async def _fence(ports: Ports, instance: str) -> None:
    await set_groups(ports, {QUARANTINE: host_only(ports.host_source)})
    cloud_id = Store(ports.database, ports.clock).instance(instance)["cloud_id"]
    if cloud_id is not None:
        await ports.cloud.set_instance_groups(InstanceId(cloud_id), (QUARANTINE,))


async def _retire(ports: Ports, instance: str, reason: str) -> str:
    try:
        await ports.agents.order(instance, Retire(reason=reason))
    except RelaunchError as error:
        return f"not told: {error.message}"
    return "told"


async def stop_run(ports: Ports, instance: str, run_id: str) -> str:
    """Tell the agent to; how that went is only noted."""
    if not ports.agents.connected(instance):
        return "not connected"
    try:
        await ports.agents.order(instance, CancelRun(run_id=run_id))
    except RelaunchError as error:
        return error.message
    return "cancelled"
