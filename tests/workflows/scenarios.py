"""For every registered workflow: how to come to the point where it starts, how to start it, and what is then true."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from relaunch.clouds.cloud import InstanceState
from relaunch.databases import (  # noqa: F401  the workflows register themselves when imported
    checksums,
    extra_transactions,
    passwords,
    repair,
    switchover,
)
from relaunch.databases.alarm import Alarm
from relaunch.databases.backup_catalogue import Catalogue
from relaunch.databases.backup_keeper import BackupKeeper
from relaunch.databases.backup_key import new_identity
from relaunch.databases.backups import read_manifest
from relaunch.databases.group import Mode
from relaunch.databases.store import GroupStore
from relaunch.errors import Conflict, NotFound
from relaunch.records.schema import audit
from relaunch.servers.store import new_id
from relaunch.storage.memory import MemoryStore
from relaunch.workflows.tasks import Asked

from . import import_scenarios as imports
from . import resize_scenarios as resizes
from .world import World, write_templates


@dataclass(frozen=True)
class Scenario:
    """`d` is the name of a deployment with the one server `d`/one. `start` answers the task."""

    prepare: Callable[[World, str], Awaitable[None]]
    start: Callable[[World, str], Awaitable[str]]
    done: Callable[[World, str], bool]


def source(d: str, template: str = "web") -> str:
    return f"deployment: {d}\nservers:\n  one: {{template: {template}, zone: a, volume: 1G}}\n"


async def nothing(world: World, d: str) -> None:
    pass


async def applied(world: World, d: str) -> None:
    await world.apply(source(d))


async def without_instance(world: World, d: str) -> None:
    await applied(world, d)
    await world.succeeds(await world.orders.act(f"{d}/one", "terminate", who="ann"))


async def stranded(world: World, d: str) -> None:
    world.agents.failing["configure"] = 1
    await world.ended(await world.orders.apply(source(d), who="ann"))
    assert world.state(f"{d}/one") == "stranded"


async def own_template(world: World, d: str) -> None:
    write_templates(world.folder / "templates", (f"web-{d}",))
    script = world.folder / "templates" / f"web-{d}" / "scripts" / "install.sh"
    script.write_text(script.read_text() + f"echo {d}\n")


async def powered_off(world: World, d: str) -> None:
    await applied(world, d)
    await world.succeeds(await world.orders.act(f"{d}/one", "power-off", who="ann"))


def act(action: str) -> Callable[[World, str], Awaitable[str]]:
    async def start(world: World, d: str) -> str:
        return await world.orders.act(f"{d}/one", action, who="ann")

    return start


async def apply(world: World, d: str) -> str:
    return await world.orders.apply(source(d), who="ann")


async def apply_own(world: World, d: str) -> str:
    return await world.orders.apply(source(d, f"web-{d}"), who="ann")


async def destroy(world: World, d: str) -> str:
    return await world.orders.destroy(d, who="ann", yes=True)


async def run_greeting(world: World, d: str) -> str:
    return await world.orders.run([f"{d}/one"], "greet", {}, who="ann")


def group(d: str) -> str:
    servers = "".join(f"  {name}: {{template: mysql, zone: a}}\n" for name in ("one", "two"))
    return f"deployment: {d}\nservers:\n{servers}database: {{primary: two, replicas: [one]}}\n"


async def group_applied(world: World, d: str) -> None:
    await world.apply(group(d))


async def replica_missing(world: World, d: str) -> None:
    await group_applied(world, d)
    await world.succeeds(await world.orders.act(f"{d}/one", "set-aside", who="ann"))


async def replace(world: World, d: str) -> str:
    """As the watch does; once the old one is set aside, what is left to do is to fill its place."""
    server = world.store.server(f"{d}/one")
    instance = server.instance_id
    if instance is None or world.state(f"{d}/one") == "set_aside":
        return await refill(world, d)
    if world.store.asides(server.id):
        raise Conflict("a fresh one has taken its place")
    asked = Asked(kind="replace", title=f"replace {d}/one", subject=f"server:{d}/one", who="relaunch")
    args = {"server": f"{d}/one", "old": instance, "instance": new_id()}
    return await started(world, asked, args)


async def refill(world: World, d: str) -> str:
    asked = Asked(kind="refill", title=f"launch {d}/one again", subject=f"server:{d}/one", who="relaunch")
    return await started(world, asked, {"server": f"{d}/one", "instance": new_id()})


async def switch_over(world: World, d: str) -> str:
    """To who is the primary already: done, or (the first time) to the other, done by somebody in the watch's place."""
    to = world.instance(f"{d}/one")["id"]
    asked = Asked(kind="switchover", title="switch over", subject=f"database:{d}", who="ann")
    return await started(world, asked, {"deployment": d, "to": to, "server": f"{d}/one"})


async def one_is_primary(world: World, d: str) -> None:
    await group_applied(world, d)
    store = GroupStore(world.ports.database)
    stored = store.group(d)
    assert stored is not None
    world.store.set_initialised(world.store.server(f"{d}/two").id)
    store.change(d, primary=world.instance(f"{d}/one")["id"])


async def check(world: World, d: str) -> str:
    """As ordered, but for the script's name: what it would say, and that the replica is to be replaced."""
    differs = {"table": "t", "replica": "one", "from": "", "to": "", "why": "rows with other contents"}
    found = {"replicas": ["one"], "tables": [], "differences": [differs], "unchecked": [], "seconds": 1.0}
    world.agents.said = "CHECKSUM " + json.dumps(found)
    replica, primary = world.instance(f"{d}/one"), world.instance(f"{d}/two")
    if world.store.asides(world.store.server(f"{d}/one").id) and world.state(f"{d}/one") == "operational":
        raise Conflict("it was replaced")
    if world.state(f"{d}/one") != "operational":
        return await refill(world, d)
    args = {
        "deployment": d, "server": f"{d}/two", "instance": primary["id"], "run_id": f"run-{new_id()}",
        "entry": primary["run_list"]["operational"][0], "repair": True,
        "replicas": [{"name": "one", "server": f"{d}/one", "instance": replica["id"], "address": "10.0.0.2",
                      "fresh": new_id()}],
    }  # fmt: skip
    return await started(world, Asked(kind="checksum", title="compare", subject=f"database:{d}", who="ann"), args)


async def rotate(world: World, d: str) -> str:
    """New values for the credentials of this deployment alone; its scripts only say that they did."""
    world.agents.said = 'PASSWORDS {"position": "1-1-1"}'
    row = world.instance(f"{d}/two")
    greet = row["run_list"]["operational"][0]
    args = {
        "deployment": d, "credentials": {"DB_PASSWORD": f"{d}-app", "REPLICATION_PASSWORD": f"{d}-replicas"},
        "entry": greet, "run_id": f"run-{new_id()}",
        "apps": [{"server": f"{d}/one", "instance": world.instance(f"{d}/one")["id"], "entries": [greet]}],
    }  # fmt: skip
    asked = Asked(kind="rotate-passwords", title="new passwords", subject=f"database:{d}", who="ann")
    return await started(world, asked, args)


async def with_passwords(world: World, d: str) -> None:
    await two_is_primary(world, d)
    for name in (f"{d}-app", f"{d}-replicas"):
        world.vault.known[name] = "old"


async def two_is_primary(world: World, d: str) -> None:
    await group_applied(world, d)
    world.store.set_initialised(world.store.server(f"{d}/two").id)
    GroupStore(world.ports.database).change(d, primary=world.instance(f"{d}/two")["id"])


def rotated(world: World, d: str) -> bool:
    known = {name: value for name, value in world.vault.known.items() if name.startswith(f"{d}-")}
    return sorted(known) == [f"{d}-app", f"{d}-replicas"] and "old" not in known.values()


LINEAGE = "20261122T120000Z-00aa11"
BACKED_UP = "20261122T120500Z-full-two"
DATABASE = """Name: Database
Description: for tests
Inputs: {}
RightScripts:
  Boot: [scripts/configure.sh, scripts/join.sh]
  Operational: [scripts/backup.sh, scripts/restore.sh, scripts/schema.sh]
  Decommission: []
MultiCloudImages: []
"""
MANIFEST = {
    "id": BACKED_UP, "kind": "full", "parent": None, "server": "two", "role": "primary", "objects": [],
    "begun": "2026-11-22T12:05:00Z", "ended": "2026-11-22T12:05:01Z", "gtid": "0-1-1", "stored_bytes": 1,
    "data_bytes": 1, "recipient": "age1",
}  # fmt: skip


def write_database_template(folder: Path) -> None:
    """With scripts of the names that backups need, and the inputs that restoring gives."""
    scripts = folder / "scripts"
    scripts.mkdir(parents=True, exist_ok=True)
    names = {
        "configure": "Configure backups", "join": "Join database group", "backup": "Back up database",
        "restore": "Restore database", "schema": "Restore one schema",
    }  # fmt: skip
    given = ("PHASE", "NEW_LINEAGE", "SCHEMA", "AS", "CONFIRM", "LINEAGE", "BACKUP", "TO", "GROUP")
    inputs = "".join(f"#   RESTORE_{each}:\n#     Input Type: single\n#     Default: blank\n" for each in given)
    for file, name in names.items():
        text = f"#!/bin/sh\n# ---\n# RightScript Name: {name}\n# Inputs:\n{inputs}# ...\n"
        (scripts / f"{file}.sh").write_text(text)
    (folder / "database.yml").write_text(DATABASE)
    (folder / "database.relaunch.yml").write_text(
        "image: trixie\nbake: []\ningress: []\noffers:\n- {role: database, port: 3306}\n"
    )


async def backed_up(world: World, d: str, file: str = "") -> None:
    """A group whose primary `two` ships its binary log, with one backup in the store; of two unless a file is given."""
    write_database_template(world.folder / "templates" / "database")
    await world.apply(file or group(d).replace("template: mysql", "template: database"))
    world.vault.known["BACKUP_KEY"], world.vault.known["BACKUP_RECIPIENT"] = new_identity()
    restored = {"id": BACKED_UP, "gtid": "0-1-1", "seconds": 1, "tables_compared": 1}
    world.agents.says |= {
        "Back up database": f"BACKED-UP {BACKED_UP}", "Restore database": f"RESTORED {json.dumps(restored)}",
        "Restore one schema": f"RESTORED {json.dumps(restored)}",
    }  # fmt: skip
    world.store.set_initialised(world.store.server(f"{d}/two").id)
    world.set_tags(f"{d}/one", database="replica", lineage=LINEAGE)
    world.set_tags(f"{d}/two", database="primary", lineage=LINEAGE, binlogs="ok")
    await world.ports.objects.put(f"{d}/{LINEAGE}/backups/{BACKED_UP}/manifest.json", json.dumps(MANIFEST))


def keeper(world: World, applies: Callable[[str], bool] = lambda _: True) -> BackupKeeper:
    return BackupKeeper(world.ports, world.workflows, Alarm(None), applies)


async def back_up(world: World, d: str) -> str:
    return await keeper(world).orders.back_up(d, kind="full", side="primary", who="ann")


async def prove(world: World, d: str) -> str:
    return await keeper(world).orders.prove(d, backup="latest", who="ann")


async def prove_schemas(world: World, d: str) -> str:
    backups = [
        read_manifest({**MANIFEST, "kind": "schema", "schema": name, "id": f"{name}-1", "lineage": LINEAGE})
        for name in ("blog", "shop")
    ]
    return await keeper(world).orders.prove_schemas(d, backups, who="ann")


def schemas_are_proven(world: World, d: str) -> bool:
    proofs = Catalogue(world.ports.database, world.ports.objects, d).schema_proofs()
    throw_away = [row for row in world.store.living_instances() if row["purpose"] == "prove"]
    return {each.schema for each in proofs if each.proven} == {"blog", "shop"} and not throw_away


async def restore(world: World, d: str) -> str:
    return await keeper(world).orders.restore(d, source="", lineage="", backup="latest", to="newest", who="ann")


async def restore_schema(world: World, d: str) -> str:
    return await keeper(world).orders.restore_schema(
        d, schema="shop", name="", backup="latest", source="", lineage="", confirm="shop", who="ann"
    )


async def to_import(world: World, d: str) -> None:
    await group_applied(world, d)
    imports.prepared(world, d)


OLDER = "20261101T080000Z-91aa02"


async def with_an_older_history(world: World, d: str, file: str = "") -> None:
    await backed_up(world, d, file)
    id = "20261101T080500Z-full-two"
    older = {**MANIFEST, "id": id, "begun": "2026-11-01T08:05:00Z", "ended": "2026-11-01T08:05:01Z"}
    await world.ports.objects.put(f"{d}/{OLDER}/backups/{id}/manifest.json", json.dumps(older))
    await world.ports.objects.put(f"{d}/{OLDER}/binlogs/0000000001-1-two/binlog.000001-00/begins", "0-1-1")


async def forget_backups(world: World, d: str) -> str:
    return await keeper(world).orders.forget(d, OLDER, who="ann")


def only_the_present_history_is_left(world: World, d: str) -> bool:
    assert isinstance(world.ports.objects, MemoryStore)
    return {key.split("/")[1] for key in world.ports.objects._objects if key.startswith(f"{d}/")} == {LINEAGE}


def schema_is_restored(world: World, d: str) -> bool:
    mine = {run["id"] for run in world.store.runs(instance_id=world.instance(f"{d}/two")["id"])}
    return any(name == "Restore one schema" and run in mine for run, name in world.agents.executed)


def has_backed_up(world: World, d: str) -> bool:
    mine = {run["id"] for run in world.store.runs(instance_id=world.instance(f"{d}/two")["id"])}
    return any(name == "Back up database" and run in mine for run, name in world.agents.executed)


def is_proven(world: World, d: str) -> bool:
    proofs = Catalogue(world.ports.database, world.ports.objects, d).proofs()
    throw_away = [row for row in world.store.living_instances() if row["purpose"] == "prove"]
    return any(proof.proven and proof.backup == BACKED_UP for proof in proofs) and not throw_away


def is_restored(world: World, d: str) -> bool:
    """A new history, only its primary in the group, and failover as it was."""
    stored = GroupStore(world.ports.database).group(d)
    assert stored is not None
    others = stored.members.keys() - {stored.group.primary}
    alone = stored.group.mode is Mode.FORMING and others == stored.group.fenced and not stored.group.paused
    return alone and world.instance(f"{d}/two")["tags"]["lineage"] != LINEAGE


async def read_extra(world: World, d: str) -> str:
    """Of the server that was set aside; as the scripts say it: it has two transactions that nobody else has."""
    world.agents.said = 'POSITIONS {"positions": "1-1-5/"}\nEXTRA {"count": 2, "first": ["1-2-6"], "last": ["1-2-7"]}'
    instance = world.store.asides(world.store.server(f"{d}/one").id)[0]
    if (extra_transactions.last_reading(world.ports.database, instance) or {}).get("state") == "succeeded":
        raise Conflict("it was read")
    args = {
        "deployment": d, "server": f"{d}/one", "instance": instance, "run_id": f"run-{new_id()}", "start": False,
        "entry": world.instance(f"{d}/two")["run_list"]["operational"][0],
    }  # fmt: skip
    asked = Asked(kind="extra-transactions", title="read", subject=f"instance:{instance}", who="ann")
    return await started(world, asked, args)


async def old_one_aside(world: World, d: str) -> None:
    """Set aside, and reachable again for those who look into it."""
    await two_is_primary(world, d)
    await world.succeeds(await world.orders.act(f"{d}/one", "set-aside", who="ann"))
    await world.cloud.cut_off(world.cloud_id(f"{d}/one"), False)
    world.agents.retired.clear()


def read_and_told(world: World, d: str) -> bool:
    instance = world.store.asides(world.store.server(f"{d}/one").id)[0]
    found = extra_transactions.last_reading(world.ports.database, instance) or {}
    with world.ports.database.connect() as connection:
        mine = (audit.c.subject == f"database:{d}", audit.c.action == "extra transactions")
        told = connection.scalar(select(func.count()).select_from(audit).where(*mine))
    return found.get("count") == 2 and told is not None and told >= 1


async def started(world: World, asked: Asked, args: dict[str, str]) -> str:
    task = f"{asked.kind}-{new_id()}"
    await world.workflows.start_workflow(asked, task, args)
    return task


def replaced(world: World, d: str) -> bool:
    server = world.store.server(f"{d}/one")
    asides = world.store.asides(server.id)
    return OPERATIONAL(world, d) and len(asides) == 1 and server.instance_id not in asides


def is_primary(world: World, d: str) -> bool:
    stored = GroupStore(world.ports.database).group(d)
    return stored is not None and stored.group.primary == world.instance(f"{d}/one")["id"]


def state(wanted: str) -> Callable[[World, str], bool]:
    return lambda world, d: world.state(f"{d}/one") == wanted


def gone(world: World, d: str) -> bool:
    return world.store.deployment(d) is None


def in_cloud(wanted: InstanceState, *, cut_off: bool = False) -> Callable[[World, str], bool]:
    def done(world: World, d: str) -> bool:
        found = world.cloud._instances[world.cloud_id(f"{d}/one")]
        return found.state is wanted and found.cut_off is cut_off

    return done


def greeted(world: World, d: str) -> bool:
    mine = {run["id"] for run in world.store.runs(instance_id=world.instance(f"{d}/one")["id"])}
    return any(name == "greet" and run in mine for run, name in world.agents.executed)


def fenced(world: World, d: str) -> bool:
    found = world.cloud._instances[world.cloud_id(f"{d}/one")]
    return world.state(f"{d}/one") == "set_aside" and found.security_groups == ("relaunch-quarantine",)


OPERATIONAL = state("operational")
RUNNING = InstanceState.RUNNING

SCENARIOS: dict[str, Scenario] = {
    "apply": Scenario(nothing, apply, OPERATIONAL),
    "bake": Scenario(own_template, apply_own, OPERATIONAL),
    "destroy": Scenario(applied, destroy, gone),
    "launch": Scenario(without_instance, act("launch"), OPERATIONAL),
    "relaunch": Scenario(applied, act("relaunch"), OPERATIONAL),
    "terminate": Scenario(applied, act("terminate"), state("inactive")),
    "set-aside": Scenario(applied, act("set-aside"), fenced),
    "reboot": Scenario(applied, act("reboot"), OPERATIONAL),
    "retry": Scenario(stranded, act("retry"), OPERATIONAL),
    "force-operational": Scenario(stranded, act("force-operational"), OPERATIONAL),
    "power-off": Scenario(applied, act("power-off"), in_cloud(InstanceState.STOPPED)),
    "start": Scenario(powered_off, act("start"), in_cloud(RUNNING)),
    "cut-off": Scenario(applied, act("cut-off"), in_cloud(RUNNING, cut_off=True)),
    "reconnect": Scenario(applied, act("reconnect"), in_cloud(RUNNING)),
    "run": Scenario(applied, run_greeting, greeted),
    "replace": Scenario(group_applied, replace, replaced),
    "refill": Scenario(replica_missing, refill, replaced),
    "back-up": Scenario(backed_up, back_up, has_backed_up),
    "prove": Scenario(backed_up, prove, is_proven),
    "prove-schemas": Scenario(backed_up, prove_schemas, schemas_are_proven),
    "restore-schema": Scenario(backed_up, restore_schema, schema_is_restored),
    "restore": Scenario(backed_up, restore, is_restored),
    "forget-backups": Scenario(with_an_older_history, forget_backups, only_the_present_history_is_left),
    "switchover": Scenario(one_is_primary, switch_over, is_primary),
    "resize": Scenario(resizes.prepared, resizes.resize, resizes.is_resized),
    "checksum": Scenario(two_is_primary, check, replaced),
    "extra-transactions": Scenario(old_one_aside, read_extra, read_and_told),
    "rotate-passwords": Scenario(with_passwords, rotate, rotated),
    "import-dump": Scenario(to_import, imports.load, imports.loaded),
    "import-server": Scenario(to_import, imports.copy, imports.followed),
    "import-cut-over": Scenario(to_import, imports.cut_over, imports.is_cut_over),
    "import-cancel": Scenario(to_import, imports.cancel, imports.is_cancelled),
}

REFUSED_WHEN_DONE = (Conflict, NotFound)


async def start_again(world: World, kind: str, d: str) -> None:
    """Order it once more after a failure, as an operator would; refused only when it is done already."""
    scenario = SCENARIOS[kind]
    try:
        await world.ended(await scenario.start(world, d))
    except REFUSED_WHEN_DONE:
        assert scenario.done(world, d), f"{kind} refused although it is not done"
