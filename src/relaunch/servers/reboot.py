"""Booting again: ordered or noticed, retried from a failed script, or declared operational by hand.

Sagas: each step may be done twice.
"""

from __future__ import annotations

import asyncio
from typing import Any

from relaunch.clouds.cloud import InstanceId
from relaunch.errors import Failed, RelaunchError
from relaunch.servers.boot import CONNECT_SECONDS, boot, is_back, settle, while_it_runs
from relaunch.servers.launch import retry_hint
from relaunch.servers.lifecycle import Event, State
from relaunch.servers.ports import Ports
from relaunch.servers.server_orders import REBOOT_STEP
from relaunch.servers.store import Store
from relaunch.servers.terminate import decommission, stop_run
from relaunch.workflows.durable import Cancelled, Run, workflow

LOOK_SECONDS = 0.1  # between two looks at whether the agent said hello from the new boot


@workflow("reboot")
async def reboot(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: server, instance, run_id, boot_id (the one before), ordered (False: it has rebooted by itself)."""
    ports: Ports = run.ports
    instance, told = args["instance"], not args["ordered"]
    try:
        if args["ordered"]:
            await run.step("decommission scripts", decommission, run, instance, f"{args['run_id']}-down")
            await run.step(REBOOT_STEP, _reboot, ports, instance, args["boot_id"])
            told = True
        await run.step("wait for its agent", _wait_rebooted, ports, instance, args["boot_id"], waits=True)
    except RelaunchError as error:
        why = "cancelled before its agent was back" if isinstance(error, Cancelled) else error.message
        with run.undoing():
            await run.step("undo: strand it", _strand_down, ports, args, f"its reboot was broken off: {why}", told)
        raise
    return await _boot_and_settle(run, args, Event.REBOOTED, start_at=0, reboot=True)


@workflow("retry")
async def retry(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: server, instance, run_id, start_at (index of the script that failed), reboot."""
    return await _boot_and_settle(run, args, Event.RETRY, start_at=args["start_at"], reboot=args["reboot"])


@workflow("force-operational")
async def force_operational(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: instance."""
    state = await run.step("operational", _move, run.ports, args["instance"], Event.FORCE_OPERATIONAL)
    return {"instance": args["instance"], "state": state}


async def _boot_and_settle(
    run: Run, args: dict[str, Any], why_booting: Event, *, start_at: int, reboot: bool
) -> dict[str, Any]:
    """A boot that cannot be carried through strands the instance: it stays, and can be retried."""
    ports: Ports = run.ports
    instance = args["instance"]

    async def scripts() -> dict[str, Any]:
        return await boot(run, instance, args["run_id"], start_at=start_at, reboot=reboot)

    try:
        await run.step("booting", _move, ports, instance, why_booting)
        booted = await run.step("boot scripts", scripts, waits=True)
        state = await run.step("settle its state", settle, ports, instance, booted)
    except RelaunchError as error:
        why = "cancelled while its boot scripts ran" if isinstance(error, Cancelled) else error.message
        with run.undoing():
            await run.step("undo: strand it", _strand, ports, instance, args["run_id"], why)
        raise
    if state != State.OPERATIONAL:
        raise Failed(f"{args['server']} is stranded: {booted['why']}", hint=retry_hint(args["server"]))
    return {"instance": instance, "state": state}


async def _strand_down(ports: Ports, args: dict[str, Any], why: str, told: bool) -> str:
    """Its services are stopped, and start again with its boot scripts alone. `told`: to reboot. One whose decommission
    scripts never began either is left as it is."""
    instance, down = args["instance"], f"{args['run_id']}-down"
    store = Store(ports.database, ports.clock)
    if not told and all(each["id"] != down for each in store.runs(instance_id=instance)):
        return "nothing was stopped"
    await is_back(ports, instance)
    await stop_run(ports, instance, down)
    if store.instance(instance)["state"] in (State.BOOTING, State.OPERATIONAL, State.STRANDED):
        store.move(instance, Event.REBOOTED)
    await _strand(ports, instance, args["run_id"], why)
    return str(store.instance(instance)["state"])


async def _strand(ports: Ports, instance: str, run_id: str, why: str) -> None:
    """Unless it is not half-way any more."""
    await is_back(ports, instance)
    await stop_run(ports, instance, run_id)
    store = Store(ports.database, ports.clock)
    if store.instance(instance)["state"] == State.BOOTING:
        store.move(instance, Event.SCRIPT_FAILED, stranded_why=why)


def _move(ports: Ports, instance: str, event: Event) -> str:
    return Store(ports.database, ports.clock).move(instance, event)


async def _reboot(ports: Ports, instance: str, before: str | None) -> None:
    row = Store(ports.database, ports.clock).instance(instance)
    if row["boot_id"] == before:  # else it has come back already: this step is being done again
        await ports.cloud.reboot(InstanceId(row["cloud_id"]))


async def _wait_rebooted(ports: Ports, instance: str, before: str | None) -> None:
    store = Store(ports.database, ports.clock)

    async def new_boot() -> None:
        for _ in range(int(CONNECT_SECONDS / LOOK_SECONDS)):
            if store.instance(instance)["boot_id"] != before and ports.agents.connected(instance):
                return
            await asyncio.sleep(LOOK_SECONDS)
        raise Failed(
            f"the agent of instance {instance} did not come back within {CONNECT_SECONDS:.0f} s of the reboot",
            hint="look at its console: `relaunch server console`",
        )

    await while_it_runs(ports, instance, new_boot())
