"""Applying a deployment file, and destroying a deployment: all its servers at once, each by a child workflow.

Sagas: each step may be done twice. A server whose launch fails does not hold up the others; apply again to try again.
"""

from __future__ import annotations

from typing import Any

from relaunch.servers.groups import group_name
from relaunch.servers.launch import set_deployment_groups
from relaunch.servers.ports import Ports
from relaunch.servers.relaunch import start_launch, start_terminate, succeeded
from relaunch.servers.store import Store, spec_from
from relaunch.workflows.durable import Run, workflow


@workflow("apply")
async def apply(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: spec (plain), deployment_id, server_ids (for new ones), launches {server: instance}, inputs, removes.

    removes: list of {server, server_id, instance or None, asides}, whose definitions go too.
    """
    ports: Ports = run.ports
    name = args["spec"]["name"]
    await run.step("store the deployment", _store, run, args)
    children = await run.step("start the servers", _start, run, name, args)
    await run.step("wait for them", succeeded, run, children, waits=True)
    if args["removes"]:
        await run.step("forget the removed servers", _forget, ports, name, args["removes"])
    return {"launched": sorted(args["launches"]), "destroyed": [each["server"] for each in args["removes"]]}


@workflow("destroy")
async def destroy(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: deployment, removes (as above), templates (names, for its security groups)."""
    ports: Ports = run.ports
    name = args["deployment"]
    await run.step("mark it", _mark, ports, name)
    children = await run.step("end the servers", _end, run, name, args["removes"])
    await run.step("wait for them", succeeded, run, children, waits=True)
    await run.step("forget the deployment", _forget_all, ports, name, args)
    return {"destroyed": [each["server"] for each in args["removes"]]}


async def _store(run: Run, args: dict[str, Any]) -> None:
    ports: Ports = run.ports
    spec = spec_from(args["spec"])
    for credential in spec.generate_credentials:
        ports.vault.generate_credential(credential, who=run.who)
    store = Store(ports.database, ports.clock)
    store.put_deployment(spec, new_id=args["deployment_id"], new_server_ids=args["server_ids"])
    await set_deployment_groups(ports, spec.name)


async def _start(run: Run, name: str, args: dict[str, Any]) -> list[str]:
    children = await _end(run, name, args["removes"], spare_primary=args["spec"]["database"] is not None)
    for server, instance in args["launches"].items():
        child = f"{run.task}-{server}"
        await start_launch(run, child, f"{name}/{server}", instance, args["inputs"], groups_set=True)
        children.append(child)
    return children


async def _end(run: Run, name: str, removes: list[dict[str, Any]], *, spare_primary: bool = False) -> list[str]:
    children = []
    for each in removes:
        if each["instance"] is not None:
            child = f"{run.task}-{each['server']}"
            server = f"{name}/{each['server']}"
            await start_terminate(run, child, server, each["instance"], "asked", spare_primary=spare_primary)
            children.append(child)
        for number, aside in enumerate(each.get("asides", ()), start=1):
            child = f"{run.task}-{each['server']}-aside-{number}"
            await start_terminate(run, child, f"{name}/{each['server']}", aside, "asked")
            children.append(child)
    return children


async def _forget(ports: Ports, name: str, removes: list[dict[str, Any]]) -> None:
    store = Store(ports.database, ports.clock)
    for each in removes:
        store.remove_server(each["server_id"])
    await set_deployment_groups(ports, name)


def _mark(ports: Ports, name: str) -> None:
    Store(ports.database, ports.clock).set_destroying(name)


async def _forget_all(ports: Ports, name: str, args: dict[str, Any]) -> None:
    store = Store(ports.database, ports.clock)
    for each in args["removes"]:
        store.remove_server(each["server_id"])
    store.remove_deployment(name)
    present = await ports.cloud.security_groups()
    wanted = [group_name(name, template) for template in args["templates"]]
    mine = [group for group in wanted if group in present]
    for group in mine:  # emptied first: a group that another's rules name cannot be deleted
        await ports.cloud.set_security_group(group, ())
    for group in mine:
        await ports.cloud.delete_security_group(group)
