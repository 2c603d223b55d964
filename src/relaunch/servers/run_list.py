"""What an instance is to run, frozen at its launch, and the orders made from it.

The frozen list names scripts by the hash of their content and inputs as they were written; the credentials those name
are sealed beside it. So a running instance keeps its copy, whatever is edited meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from relaunch.bus.messages import Blob, RunScripts, ScriptToRun
from relaunch.errors import BadInput, NotFound
from relaunch.servers import inputs
from relaunch.servers.images import image_key
from relaunch.servers.inputs import Facts, ResolvedInput, ResolvedInputs
from relaunch.servers.ports import Ports
from relaunch.servers.scripts import InputDeclaration, Script
from relaunch.servers.store import Row, ServerRow, Store
from relaunch.servers.templates import ServerTemplate, template_hash
from relaunch.servers.values import parse_value

Plain = dict[str, Any]

LONGEST_SECONDS = 3 * 24 * 3600.0  # for a script that may have all of a database to read or copy


def freeze(ports: Ports, server: ServerRow, template: ServerTemplate, given: Mapping[str, str]) -> Plain:
    """Plain {run_list, sealed_inputs}; BadInput with all problems when an input is missing, ambiguous or ill-formed."""
    deployment = Store(ports.database, ports.clock).applied_spec(server.deployment)
    if deployment is None:
        raise NotFound(f"no deployment {server.deployment}")
    resolved = inputs.resolve_inputs(template, deployment, server.spec, given, ports.vault)
    if resolved.problems:
        raise BadInput("\n".join(resolved.problems))
    baked = {script.path for script in template.baked}
    run_list: Plain = {
        phase: [script_entry(ports, script, baked=script.path in baked) for script in scripts]
        for phase, scripts in (
            ("boot", template.boot), ("operational", template.operational), ("decommission", template.decommission),
        )
    }  # fmt: skip
    run_list["offers"] = [asdict(offer) for offer in template.offers]
    run_list["template_hash"] = template_hash(template)
    run_list["packages"] = packages_of(template)
    run_list["inputs"] = [_input_entry(each) for each in resolved.inputs]
    names = inputs.credentials_needed(template.scripts, resolved)
    known = {name: ports.vault.credential(name) for name in names if ports.vault.has_credential(name)}
    return {"run_list": run_list, "sealed_inputs": ports.vault.seal(json.dumps(known).encode())}


def packages_of(template: ServerTemplate) -> list[str]:
    """The union over its run lists, in the order first named."""
    return list(dict.fromkeys(package for script in template.scripts for package in script.packages))


def recipe(ports: Ports, server: ServerRow, template: ServerTemplate, base: str, frozen: Plain) -> Plain | None:
    """What `bake.ready_or_baking` needs; None when there is nothing to bake, so that the base image itself will do."""
    packages = packages_of(template)
    if not packages and not template.baked:
        return None
    run_list = frozen["run_list"]
    entries = [entry for entry in run_list["boot"] if entry["baked"]]
    declared = {declaration["name"] for entry in entries for declaration in entry["declares"]}
    used = {each["name"]: each["shown"] for each in run_list["inputs"] if each["name"] in declared}
    files = [file for script in template.baked for file in (script.path, *script.attachments)]
    return {
        "key": image_key(base, packages, files, used),
        "base": base,
        "template": template.name,
        "zone": server.zone,
        "changelog": {
            "base": base,
            "recipe": template.image,
            "packages": packages,
            "scripts": [{"name": entry["name"], "sha256": entry["blob"]["sha256"]} for entry in entries],
        },
        "run_list": {"bake": entries, "packages": packages, "inputs": run_list["inputs"]},
        "sealed_inputs": frozen["sealed_inputs"],
    }


def script_entry(ports: Ports, script: Script, *, baked: bool = False) -> Plain:
    """A script as it is frozen: content by hash, and what it declares."""
    return {
        "name": script.name,
        "blob": asdict(ports.blobs.put(script.path)),
        "attachments": [asdict(ports.blobs.put(path)) for path in script.attachments],
        "declares": [
            {"name": each.name, "is_array": each.is_array, "required": each.required, "default": each.default}
            for each in script.inputs
        ],
        "baked": baked,
    }


def boot_order(ports: Ports, instance: str, run_id: str, *, start_at: int, reboot: bool) -> RunScripts:
    """The boot scripts that are not in the image already."""
    row = Store(ports.database, ports.clock).instance(instance)
    entries = [entry for entry in row["run_list"]["boot"] if not entry["baked"]]
    return _order(ports, row, run_id, "boot", entries, start_at=start_at, reboot=reboot)


def phase_order(ports: Ports, instance: str, run_id: str, phase: str) -> RunScripts:
    row = Store(ports.database, ports.clock).instance(instance)
    return _order(ports, row, run_id, phase, row["run_list"][phase])


def bake_order(ports: Ports, builder: str, run_id: str) -> RunScripts:
    row = Store(ports.database, ports.clock).instance(builder)
    packages = row["run_list"]["packages"]
    return _order(ports, row, run_id, "bake", row["run_list"]["bake"], packages=packages)


def given_order(ports: Ports, script: Plain, target: Plain, *, row: Row | None = None) -> RunScripts:
    """One script on one instance. script: name, entry (None: the instance's own operational one), inputs (written).

    `row`: the instance's, when it is at hand.
    """
    row = row or Store(ports.database, ports.clock).instance(target["instance"])
    entry = script["entry"] or operational_entry(row["run_list"], script["name"], target["server"])
    return _order(ports, row, target["run_id"], "operational", [entry], given=script["inputs"])


def operational_entry(run_list: Plain, name: str, server: str) -> Plain:
    """By its name or its file's, with or without ending, in any case; NotFound lists what there is."""
    wanted = name.casefold()
    for entry in run_list.get("operational", []):
        file = entry["blob"]["name"].casefold()
        if wanted in (entry["name"].casefold(), file, file.rpartition(".")[0]):
            found: Plain = entry
            return found
    known = ", ".join(entry["name"] for entry in run_list.get("operational", [])) or "none"
    raise NotFound(f"{server} has no operational script {name!r}", hint=f"it has: {known}")


def _order(
    ports: Ports,
    row: Mapping[str, Any],
    run_id: str,
    phase: str,
    entries: Sequence[Plain],
    *,
    packages: Sequence[str] = (),
    start_at: int = 0,
    reboot: bool = False,
    given: Mapping[str, str] | None = None,
) -> RunScripts:
    resolved = _resolved(row["run_list"]["inputs"], given or {})
    scripts = [_script(entry) for entry in entries]
    needed = inputs.credentials_needed(scripts, resolved)
    sealed = json.loads(ports.vault.unseal(row["sealed_inputs"])) if needed and row["sealed_inputs"] else {}
    credentials = {name: sealed.get(name) or ports.vault.credential(name) for name in needed}
    # What a script declares is all it gets: without inputs nobody need look at every other server.
    facts = _facts(ports, row) if any(script.inputs for script in scripts) else Facts()
    # A script of a database server may have all of the data to copy, over a slow network.
    has_data = any(offer.get("role") == "database" for offer in row["run_list"].get("offers", ()))
    return RunScripts(
        run_id=run_id,
        phase=phase,
        scripts=[
            ScriptToRun(
                name=script.name,
                blob=Blob(**entry["blob"]),
                attachments=[Blob(**each) for each in entry["attachments"]],
                inputs=inputs.values_for_script(script, resolved, facts, credentials),
                secrets=list(inputs.secret_inputs(script, resolved)),
                **({"timeout_seconds": LONGEST_SECONDS} if has_data else {}),
            )
            for entry, script in zip(entries, scripts, strict=True)
        ],
        packages=list(packages),
        start_at=start_at,
        reboot=reboot,
    )


def _input_entry(resolved: ResolvedInput) -> Plain:
    return {
        "name": resolved.name,
        "shown": resolved.shown,
        "level": resolved.level,
        "source": resolved.source,
        "decided": resolved.value is not None,
    }


def _resolved(entries: Iterable[Plain], given: Mapping[str, str]) -> ResolvedInputs:
    found = {
        each["name"]: ResolvedInput(
            name=each["name"],
            value=parse_value(each["shown"]) if each["decided"] else None,
            shown=each["shown"],
            level=each["level"],
            source=each["source"],
        )
        for each in entries
    }
    for name, written in given.items():
        found[name] = ResolvedInput(name=name, value=parse_value(written), shown=written, level="run", source="run")
    return ResolvedInputs(inputs=tuple(found.values()))


def _script(entry: Plain) -> Script:
    declared = tuple(InputDeclaration(line=0, **declaration) for declaration in entry["declares"])
    return Script(path=Path(entry["blob"]["name"]), name=entry["name"], inputs=declared)


def _facts(ports: Ports, row: Mapping[str, Any]) -> Facts:
    store = Store(ports.database, ports.clock)
    server = store.server_of(row["id"])
    if server is None:
        return Facts(own=_own(row, None))
    siblings = store.servers(server.deployment)
    rows = store.instances([each.instance_id for each in siblings if each.instance_id])
    others = {each.name: _own(rows[each.instance_id], each) for each in siblings if each.instance_id in rows}
    return Facts(own=_own(row, server), others=others)


def _own(row: Mapping[str, Any], server: ServerRow | None) -> dict[str, str]:
    return {
        "PUBLIC_IP": row["public_address"] or "",
        "PRIVATE_IP": row["private_address"] or "",
        "INSTANCE_ID": row["cloud_id"] or "",
        "DATACENTER": row["zone"],
        "RS_INSTANCE_UUID": row["id"],
        "RS_SERVER_NAME": server.name if server else "bake",
        "RS_DEPLOYMENT_NAME": server.deployment if server else "relaunch",
        "RS_SERVER_TEMPLATE_NAME": server.template if server else "",
    }
