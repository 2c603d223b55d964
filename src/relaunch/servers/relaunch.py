"""Relaunch: replace a server's instance and keep the server. A saga of two children, the end and the new start."""

from __future__ import annotations

from typing import Any

from relaunch.errors import Failed
from relaunch.servers.launch import launchable
from relaunch.servers.ports import Ports
from relaunch.servers.store import Store
from relaunch.workflows.durable import Run, workflow


@workflow("relaunch")
async def relaunch(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: server, old (its instance now, or None), instance (the new one's id), inputs, spare_last (optional: as of
    terminate)."""
    server = args["server"]
    ending, starting = f"{run.task}-end", f"{run.task}-launch"
    if args["old"] is not None:
        await launchable(run, args)  # nothing is taken away before what replaces it can start
        await run.step("end the old instance", _end, run, args, ending)
        await run.step("wait for its end", succeeded, run, [ending], waits=True)
    await run.step("launch the new one", _start, run, args, starting)
    await run.step("wait for it to boot", succeeded, run, [starting], waits=True)
    return {"instance": args["instance"], "server": server}


async def _end(run: Run, args: dict[str, Any], child: str) -> None:
    ports: Ports = run.ports
    row = Store(ports.database, ports.clock).instance(args["old"])
    why = "replaced" if row["operational"] else "never booted"
    spare_last = args.get("spare_last", False)
    await start_terminate(run, child, args["server"], args["old"], why, spare_primary=True, spare_last=spare_last)


async def _start(run: Run, args: dict[str, Any], child: str) -> None:
    await start_launch(run, child, args["server"], args["instance"], args["inputs"])


async def start_launch(
    run: Run, child: str, server: str, instance: str, inputs: dict[str, str], *, groups_set: bool = False
) -> None:
    await run.start_child(
        "launch",
        child,
        {"server": server, "instance": instance, "inputs": inputs, "groups_set": groups_set},
        title=f"launch {server}",
        subject=f"server:{server}",
    )


async def start_terminate(
    run: Run,
    child: str,
    server: str,
    instance: str,
    why: str,
    *,
    spare_primary: bool = False,
    spare_last: bool = False,
) -> None:
    args = {"instance": instance, "why": why, "run_id": f"{instance}-down"}
    await run.start_child(
        "terminate",
        child,
        {**args, "spare_primary": spare_primary, "spare_last": spare_last},
        title=f"terminate {server}",
        subject=f"server:{server}",
    )


async def succeeded(run: Run, children: list[str]) -> list[Any]:
    """The children's results; Failed with the errors of those that did not succeed, once all have ended."""
    ended = await run.wait_for(children)
    faults = [f"{each['subject']}: {each['error']}" for each in ended if each["state"] != "succeeded"]
    if faults:
        raise Failed("\n".join(faults))
    return [each["result"] for each in ended]
