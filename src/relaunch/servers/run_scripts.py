"""Running one script on many servers at once: one task, one step, so that the overhead is the agents' answer time."""

from __future__ import annotations

import asyncio
from typing import Any

from relaunch.bus.messages import CancelRun, RunState
from relaunch.errors import Failed, RelaunchError
from relaunch.servers import run_list
from relaunch.servers.boot import is_back, outcome, while_it_runs
from relaunch.servers.ports import Ports
from relaunch.servers.store import Row, Store
from relaunch.workflows.durable import Cancelled, Run, workflow


@workflow("run")
async def run_script(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: script (frozen), sealed_inputs ({server: sealed}), targets: list of {server, instance, run_id}."""
    targets = args["targets"]
    try:
        ended = await run.step(f"on {len(targets)} servers", _everywhere, run, args, waits=True)
    except Cancelled:
        with run.undoing():
            await run.step("undo: stop it everywhere", _stop, run.ports, targets)
        raise
    faults = [f"{each['server']}: {each['why']}" for each in ended if each["state"] != "succeeded"]
    if faults:
        raise Failed("\n".join(faults))
    return {"servers": ended}


async def _everywhere(run: Run, args: dict[str, Any]) -> list[dict[str, Any]]:
    store = Store(run.ports.database, run.ports.clock)
    rows = store.instances([target["instance"] for target in args["targets"]])
    return list(
        await asyncio.gather(*(_on_one(run, args, target, rows.get(target["instance"])) for target in args["targets"]))
    )


async def _on_one(run: Run, args: dict[str, Any], target: dict[str, Any], row: Row | None) -> dict[str, Any]:
    ports: Ports = run.ports
    plain = {"server": target["server"], "run": target["run_id"]}
    try:
        order = run_list.given_order(ports, args["script"], target, row=row)
        running = ports.agents.run(target["instance"], order, task=run.task)
        ended: RunState = await while_it_runs(ports, target["instance"], running)
    except RelaunchError as error:
        return {**plain, "state": "failed", "why": error.message}
    return {**plain, **outcome(ports, order, ended)}


async def _stop(ports: Ports, targets: list[dict[str, Any]]) -> None:
    async def stop(target: dict[str, Any]) -> None:
        await is_back(ports, target["instance"])
        try:
            await ports.agents.order(target["instance"], CancelRun(run_id=target["run_id"]))
        except RelaunchError:
            return  # not connected, or it knows no such run: nothing runs there for us

    await asyncio.gather(*(stop(target) for target in targets))
