"""Running the scripts that back up and restore, and reading what they say at their end."""

from __future__ import annotations

from typing import Any

from relaunch.databases.member_scripts import run_given
from relaunch.errors import NotFound
from relaunch.servers.store import Store
from relaunch.workflows.durable import Run

BACK_UP, RESTORE, CONFIGURE = "Back up database", "Restore database", "Configure backups"
BACK_UP_BY_SNAPSHOT, RESTORE_SNAPSHOT = "Back up database by snapshot", "Restore database from a snapshot"
JOIN = "Join database group"
BACK_UP_SCHEMA, RESTORE_SCHEMA = "Back up one schema", "Restore one schema"


async def run_script(run: Run, args: dict[str, Any], name: str, inputs: dict[str, str]) -> str:
    """One of the instance's operational scripts; the end of its output, Failed with it when the script failed."""
    return await _run(run, args, {"name": name, "entry": None, "inputs": inputs})


async def run_entry(run: Run, args: dict[str, Any], phase: str, name: str, inputs: dict[str, str]) -> str:
    """The same with a script of another phase of the instance's own run list."""
    frozen = Store(run.ports.database, run.ports.clock).instance(args["instance"])["run_list"]
    entry = next((each for each in frozen[phase] if each["name"] == name), None)
    if entry is None:
        raise NotFound(f"{args.get('server', args['instance'])} has no {phase} script {name!r}")
    return await _run(run, args, {"name": name, "entry": entry, "inputs": inputs})


async def _run(run: Run, args: dict[str, Any], script: dict[str, Any]) -> str:
    target = {"server": args.get("server", args["instance"]), "instance": args["instance"], "run_id": args["run_id"]}
    return await run_given(run, target, script)
