"""Running a phase's scripts on one instance, and what their end means for its state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from relaunch.bus.messages import RunScripts, RunState, ScriptResult
from relaunch.clouds.cloud import InstanceId, InstanceState
from relaunch.errors import Failed, NotFound, RelaunchError, Unavailable
from relaunch.servers import run_list
from relaunch.servers.lifecycle import Event, State
from relaunch.servers.ports import Ports
from relaunch.servers.store import Store
from relaunch.workflows.durable import Run

CONNECT_SECONDS = 120.0
LOOK_AFTER_SECONDS = 3.0  # how often the cloud is asked whether an instance that keeps us waiting still runs
DECOMMISSION_SECONDS = 180.0
LOST_SECONDS = 300.0  # a machine that reboots amid its boot scripts is back by then; until then nobody replaces it
RECONNECT_SECONDS = 10.0  # a controller that has just started goes on with its workflows before agents are back
ASIDE_SECONDS = 30.0  # without an agent, of an instance that was set aside: it does not come back

Answer = TypeVar("Answer")


async def wait_connected(ports: Ports, instance_id: str) -> None:
    """Until its agent is on the bus; Failed with the end of its console when it never comes."""
    try:
        waiting = ports.agents.wait_connected(instance_id, timeout_seconds=CONNECT_SECONDS)
        await while_it_runs(ports, instance_id, waiting)
    except Unavailable:
        console = await _console(ports, instance_id)
        raise Failed(
            f"the agent of instance {instance_id} did not connect within {CONNECT_SECONDS:.0f} s",
            hint=f"the end of its console:\n{console}",
        ) from None


async def is_back(ports: Ports, instance_id: str) -> bool:
    """Whether its agent is on the bus, or is so within RECONNECT_SECONDS; one that is lost is not waited for."""
    if ports.agents.connected(instance_id) or instance_id in ports.lost:
        return ports.agents.connected(instance_id)
    try:
        await ports.agents.wait_connected(instance_id, timeout_seconds=RECONNECT_SECONDS)
    except RelaunchError:
        return False
    return True


async def boot(run: Run, instance_id: str, run_id: str, *, start_at: int = 0, reboot: bool = False) -> dict[str, Any]:
    """Run its boot scripts; plain result {state, why, failed_at}. The same run_id twice is one run.

    Failed when the instance has been lost for LOST_SECONDS.
    """
    ports: Ports = run.ports
    order = run_list.boot_order(ports, instance_id, run_id, start_at=start_at, reboot=reboot)
    ended = await run_phase(ports, instance_id, order, task=run.task, lost_seconds=LOST_SECONDS)
    return outcome(ports, order, ended)


async def run_phase(
    ports: Ports, instance_id: str, order: RunScripts, *, task: str | None, lost_seconds: float | None = None
) -> RunState:
    """The run's end; at once when there is nothing to run. `lost_seconds`: see `while_it_runs`."""
    if not order.scripts and not order.packages:
        return RunState(run_id=order.run_id, state="succeeded")
    running = ports.agents.run(instance_id, order, task=task)
    return await while_it_runs(ports, instance_id, running, lost_seconds=lost_seconds)


def outcome(ports: Ports, order: RunScripts, ended: RunState) -> dict[str, Any]:
    """Plain: {state, why, failed_at}; `why` names the script and carries the end of its output."""
    if ended.state == "succeeded":
        return {"state": "succeeded", "why": "", "failed_at": None}
    failed = next((each for each in ended.results if each.state not in ("succeeded", "waiting")), None)
    if failed is None:
        return {"state": ended.state, "why": ended.detail or f"the run ended as {ended.state}", "failed_at": 0}
    why = f"{order.phase} script {failed.index + 1}/{len(order.scripts)} {_script_name(order, failed)} {_how(failed)}"
    output = ports.agents.last_output(order.run_id, failed.index)
    return {
        "state": ended.state,
        "why": f"{why}; its last output:\n{output}" if output else why,
        "failed_at": failed.index,
    }


def settle(ports: Ports, instance_id: str, result: dict[str, Any]) -> str:
    """Operational or stranded, as the boot scripts ended."""
    store = Store(ports.database, ports.clock)
    if result["state"] == "succeeded":
        return store.move(instance_id, Event.BOOTED)
    return store.move(instance_id, Event.SCRIPT_FAILED, stranded_why=result["why"])


async def while_it_runs(
    ports: Ports, instance_id: str, work: Awaitable[Answer], *, lost_seconds: float | None = None
) -> Answer:
    """The work's answer; Failed as soon as the cloud says that the instance runs no more, and when it has been set
    aside and its agent is gone.

    Failed also when it has been lost (see `Ports.lost`) for `lost_seconds`; None: it may come back however late.
    """
    task = asyncio.ensure_future(work)
    last_there = last_connected = time.monotonic()
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=LOOK_AFTER_SECONDS)
            if done:
                return task.result()
            if ports.agents.connected(instance_id):
                last_connected = time.monotonic()
            else:
                await _must_run(ports, instance_id)
                if time.monotonic() - last_connected >= ASIDE_SECONDS:
                    _must_be_in_service(ports, instance_id)
            if instance_id not in ports.lost:
                last_there = time.monotonic()
            elif lost_seconds is not None and time.monotonic() - last_there >= lost_seconds:
                why = ports.lost[instance_id]
                raise Failed(f"instance {instance_id} has been lost for {lost_seconds:.0f} s: {why}")
    finally:
        task.cancel()


def _must_be_in_service(ports: Ports, instance_id: str) -> None:
    """Nobody brings the agent of one that was set aside back."""
    if Store(ports.database, ports.clock).instance(instance_id)["state"] == State.SET_ASIDE:
        raise Failed(f"instance {instance_id} was set aside while it was being waited for, and its agent is gone")


async def _must_run(ports: Ports, instance_id: str) -> None:
    cloud_id = Store(ports.database, ports.clock).instance(instance_id)["cloud_id"]
    try:
        state = (await ports.cloud.instance(InstanceId(cloud_id))).state
    except NotFound:
        state = InstanceState.TERMINATED
    except Unavailable:
        return
    if state in (InstanceState.STOPPED, InstanceState.TERMINATED):
        raise Failed(f"instance {instance_id} ({cloud_id}) is {state} in the cloud while it was being waited for")


async def _console(ports: Ports, instance_id: str) -> str:
    cloud_id = Store(ports.database, ports.clock).instance(instance_id)["cloud_id"]
    try:
        return await ports.cloud.console_output(InstanceId(cloud_id), last_bytes=1500)
    except (NotFound, Unavailable) as error:
        return f"(not to be had: {error.message})"


def _script_name(order: RunScripts, failed: ScriptResult) -> str:
    return repr(order.scripts[failed.index].name) if failed.index < len(order.scripts) else "(packages)"


def _how(failed: ScriptResult) -> str:
    if failed.detail:
        return f"{failed.state}: {failed.detail}"
    return f"failed with exit status {failed.exit_status}" if failed.state == "failed" else failed.state
