"""Running one script on a member of a group, and the answer that its output ends with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from relaunch.bus.messages import CancelRun
from relaunch.errors import Failed, NotFound, RelaunchError
from relaunch.servers import run_list
from relaunch.servers.boot import is_back, outcome, while_it_runs
from relaunch.servers.ports import Ports
from relaunch.servers.store import Store
from relaunch.servers.templates import find_template
from relaunch.workflows.durable import Run

PROGRESS_SECONDS = 1.0
PROGRESS = "… "  # begins a line that says how far a script is


def script_of(ports: Ports, server: str, name: str) -> dict[str, Any]:
    """An operational script of the server's template as it is now, frozen: also for servers launched before it came."""
    row = Store(ports.database, ports.clock).server(server)
    template = find_template(row.template, ports.template_folders)
    for script in template.operational:
        if script.name == name:
            return run_list.script_entry(ports, script)
    raise NotFound(f"template {template.name} of {server} has no operational script {name!r}")


async def answer_of(
    run: Run, target: Mapping[str, str], entry: dict[str, Any], inputs: Mapping[str, str], marker: str
) -> dict[str, Any]:
    """The JSON object after the marker; Failed with the script's last line. target: server, instance, run_id."""
    return dict(json.loads(last_word(await output_of(run, target, entry, inputs), marker)))


async def output_of(run: Run, target: Mapping[str, str], entry: dict[str, Any], inputs: Mapping[str, str]) -> str:
    """The end of the output; Failed with its last line when the script failed. The same run_id again is one run."""
    return await run_given(run, target, {"name": entry["name"], "entry": entry, "inputs": dict(inputs)})


async def run_given(run: Run, target: Mapping[str, str], script: dict[str, Any]) -> str:
    """The same; script: name, entry (None: the instance's own operational one of that name), inputs.

    It may have a whole database to read, over a slow network: it is given days."""
    ports: Ports = run.ports
    order = run_list.given_order(ports, script, dict(target))
    order = replace(order, scripts=[replace(each, timeout_seconds=run_list.LONGEST_SECONDS) for each in order.scripts])
    shown = asyncio.create_task(_show_progress(run, order.run_id))
    try:
        running = ports.agents.run(target["instance"], order, task=run.task)
        ended = await while_it_runs(ports, target["instance"], running)
    finally:
        shown.cancel()
    result = outcome(ports, order, ended)
    output = ports.agents.last_output(order.run_id, 0, last_bytes=200_000)
    if result["state"] != "succeeded":
        told = [line for line in output.splitlines() if line.strip()]
        raise Failed(f"{target['server']}: {told[-1] if told else result['why']}", hint=output[-2000:])
    return output


def last_word(output: str, marker: str) -> str:
    """What follows the marker on the last line that begins with it."""
    for line in reversed(output.splitlines()):
        if line.startswith(f"{marker} "):
            return line[len(marker) + 1 :].strip()
    raise Failed(f"the script did not end with {marker}", hint=output[-2000:])


async def stop(ports: Ports, instance: str, run_id: str) -> str:
    """Cancel the run, if the agent knows it."""
    await is_back(ports, instance)
    try:
        await ports.agents.order(instance, CancelRun(run_id=run_id))
    except RelaunchError as error:
        return error.message
    return "stopped"


async def _show_progress(run: Run, run_id: str) -> None:
    said = ""
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        lines = [line for line in run.ports.agents.last_output(run_id, 0).splitlines() if line.startswith(PROGRESS)]
        if lines and lines[-1] != said:
            said = lines[-1]
            run.note(said.removeprefix(PROGRESS))
