"""The imports' scenarios: what the scripts would say is canned, what the workflows make of it is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from relaunch.databases import imports_steps as steps
from relaunch.databases.store import GroupStore
from relaunch.errors import Conflict
from relaunch.servers.store import new_id
from relaunch.workflows.tasks import Asked

from .world import World

SCRIPTS = Path(__file__).parents[2] / "templates/scripts"
SIDE = {"version": "10.11-MariaDB", "server_id": 1, "sql_mode": "", "lower_case_table_names": 0}
FACTS = {
    "there": {**SIDE, "log_bin": 1, "binlog_format": "ROW", "binlog_row_image": "FULL"}, "here": SIDE,
    "schemas": ["shop"], "bytes": 1, "free": 10, "odd": [], "keyless": [], "events": [], "unknown": [], "full": [],
    "grants": ["GRANT ALL PRIVILEGES ON *.* TO x"], "replicas": [], "position": "b.1 4", "cipher": "x", "stage": "",
    "wanted": "", "source": "",
}  # fmt: skip
ROW = {
    "stage": "following", "schemas": "shop", "file": "b.1", "position": 4, "foreign_time": 1, "changed": 1.0,
    "locked": "", "result": "", "now": 2.0,
}  # fmt: skip
STATUS = {"import": ROW, "follower": {"state": "follows", "error": ""}, "there": "b.1 4", "error": ""}


def prepared(world: World, d: str) -> None:
    for file in (steps.LOAD, steps.FROM_SERVER):
        target = world.folder / "templates/scripts"
        target.mkdir(exist_ok=True)
        shutil.copy(SCRIPTS / file, target / file)
    shutil.copytree(SCRIPTS / "attachments", world.folder / "templates/scripts/attachments", dirs_exist_ok=True)
    world.agents.says |= {
        "Import database": 'WARNING odd\nIMPORTED {"schemas": ["shop"], "tables": 1, "bytes": 1, "position": "1-1-1"}',
        "Import from a server": (
            f"FACTS {json.dumps(FACTS)}\nSTATUS {json.dumps(STATUS)}\n"
            'CUT-OVER {"downtime_seconds": 1.0, "tables_compared": 1}'
        ),
    }
    world.store.set_initialised(world.store.server(f"{d}/two").id)
    GroupStore(world.ports.database).change(d, primary=world.instance(f"{d}/two")["id"])


def know_the_source(world: World, d: str) -> None:
    plain = {"host": "db.example", "port": 3306, "user": "mover", "schemas": ["shop"]}
    world.vault.known[steps.source_name(d)] = json.dumps(plain)
    world.vault.known[steps.password_name(d)] = "secret"


async def start(world: World, kind: str, d: str, **args: object) -> str:
    task = f"{kind}-{new_id()}"
    asked = Asked(kind=kind, title=kind, subject=steps.subject(d), who="ann")
    await world.workflows.start_workflow(asked, task, {"deployment": d, "run_id": f"import-{new_id()}", **args})
    return task


async def load(world: World, d: str) -> str:
    return await start(world, "import-dump", d, sha256="0" * 64, schema="", confirm="")


async def copy(world: World, d: str) -> str:
    know_the_source(world, d)
    return await start(world, "import-server", d)


async def cut_over(world: World, d: str) -> str:
    """Once: a second time there is nothing that is followed."""
    if is_cut_over(world, d):
        raise Conflict("it is cut over")
    know_the_source(world, d)
    return await start(world, "import-cut-over", d, quiet_seconds=1, wait_seconds=1)


async def cancel(world: World, d: str) -> str:
    know_the_source(world, d)
    return await start(world, "import-cancel", d)


def did(world: World, d: str, step: str) -> bool:
    """Whether the primary of this deployment ran that step of an import from a server."""
    mine = {run["id"] for run in world.store.runs(instance_id=world.instance(f"{d}/two")["id"])}
    return any(run in mine and f"-{step}" in run for run, _ in world.agents.executed)


def loaded(world: World, d: str) -> bool:
    mine = {run["id"] for run in world.store.runs(instance_id=world.instance(f"{d}/two")["id"])}
    return any(name == "Import database" and run in mine for run, name in world.agents.executed)


def followed(world: World, d: str) -> bool:
    return did(world, d, "copy") and did(world, d, "follow-two")


def forgotten(world: World, d: str) -> bool:
    return not any(name.startswith(f"import.{d}.") for name in world.vault.known)


def is_cut_over(world: World, d: str) -> bool:
    return did(world, d, "cut-over") and did(world, d, "leave-two") and forgotten(world, d)


def is_cancelled(world: World, d: str) -> bool:
    return did(world, d, "drop") and did(world, d, "leave-two") and forgotten(world, d)
