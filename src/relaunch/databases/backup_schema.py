"""One schema restored by itself, on the primary, beside everything else the group holds: the workflow.

A saga: its step may be done twice.
"""

from __future__ import annotations

import json
from typing import Any

from relaunch.bus.messages import CancelRun
from relaunch.databases.backup_key import PRIVATE
from relaunch.databases.backup_scripts import RESTORE_SCHEMA, run_script
from relaunch.databases.member_scripts import last_word
from relaunch.errors import RelaunchError
from relaunch.workflows.durable import Run, workflow


@workflow("restore-schema")
async def restore_schema(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, server, instance (the primary's), run_id, source, lineage, schema, name (what it is to be
    called), backup, confirm (the name again, when one that is there may be replaced)."""
    try:
        return dict(await run.step(f"restore {args['schema']} as {args['name']}", _restore, run, args, waits=True))
    except RelaunchError:
        with run.undoing():
            await run.step("undo: stop it", _stop, run, args)
        raise


async def _restore(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    inputs = {
        "BACKUP_KEY": f"cred:{PRIVATE}",
        "RESTORE_SCHEMA": f"text:{args['schema']}",
        "RESTORE_AS": f"text:{args['name']}",
        "RESTORE_BACKUP": f"text:{args['backup']}",
        "RESTORE_GROUP": f"text:{args['source']}",
        "RESTORE_LINEAGE": f"text:{args['lineage']}",
        "RESTORE_CONFIRM": f"text:{args['confirm']}" if args["confirm"] else "blank",
    }
    return dict(json.loads(last_word(await run_script(run, args, RESTORE_SCHEMA, inputs), "RESTORED")))


async def _stop(run: Run, args: dict[str, Any]) -> str:
    try:
        await run.ports.agents.order(args["instance"], CancelRun(run_id=args["run_id"]))
    except RelaunchError as error:
        return error.message
    return "stopped"
