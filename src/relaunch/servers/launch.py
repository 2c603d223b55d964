"""Launching a server: from a definition to an operational (or stranded) instance, or to nothing at all.

A saga: each step may be done twice. A failing boot script leaves the instance stranded, to be looked into; whatever
else goes wrong undoes the launch, unless a group needs the instance by then. So does cancelling it.
"""

from __future__ import annotations

from typing import Any

from relaunch.clouds.cloud import ImageId, LaunchRequest
from relaunch.errors import BadInput, Conflict, Failed, RelaunchError
from relaunch.servers import run_list
from relaunch.servers.bake import baked, ready_or_baking
from relaunch.servers.boot import boot, settle, wait_connected
from relaunch.servers.groups import group_name, rules_for, set_groups
from relaunch.servers.lifecycle import Event
from relaunch.servers.ports import Ports
from relaunch.servers.store import ServerRow, Store
from relaunch.servers.templates import find_template
from relaunch.servers.terminate import undo_launch
from relaunch.servers.volumes import give_volume
from relaunch.workflows.durable import Run, workflow


def boot_run_id(instance: str) -> str:
    """Of an instance's first boot: fixed, so that asking twice is one run."""
    return f"{instance}-boot"


def refuse_empty_primary(store: Store, server: ServerRow) -> None:
    """Conflict when this server is the primary of a group that holds data: its new disk would be empty."""
    group = store.group(server.deployment_id)
    if group is not None and group["initialised"] and group["primary_server_id"] == server.id:
        raise Conflict(
            f"{server.full_name} is the primary of a database that holds data: a new instance would start empty and "
            f"the data be lost",
            hint=f"another primary first: relaunch db switchover {server.deployment}; "
            f"if the data may go: relaunch deployment destroy {server.deployment}",
        )


@workflow("launch")
async def launch(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: server (deployment/name), instance (its new id), inputs (given at launch), groups_set (already)."""
    ports: Ports = run.ports
    instance = args["instance"]
    try:
        plan, image = await launchable(run, args)
        await run.step("launch in the cloud", _launch, ports, args, plan, image)
        await run.step("wait for its agent", _connect, ports, instance, waits=True)
        if plan.get("volume") is not None:
            await run.step("give it its volume", give_volume, ports, instance, plan["volume"])
        booted = await run.step("boot scripts", boot, run, instance, boot_run_id(instance), waits=True)
        state = await run.step("settle its state", settle, ports, instance, booted)
    except RelaunchError:
        await undo_launch(run, instance, boot_run_id(instance))
        raise
    if state != "operational":
        raise Failed(f"{args['server']} is stranded: {booted['why']}", hint=retry_hint(args["server"]))
    return {"instance": instance, "state": state}


async def launchable(run: Run, args: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What the launch with these args needs, inputs and image, all there; whatever is missing is said here."""
    plan = await run.step("resolve inputs and image", _resolve, run, args, waits=True)
    image = plan["image"]
    if image is None:
        image = await run.step("wait for the image to be baked", baked, run, plan["bake"], waits=True)
    return plan, image


def retry_hint(server: str) -> str:
    return f"mend it and run `relaunch server retry {server}`, or `relaunch server force-operational {server}`"


async def _resolve(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """Plain: run_list and sealed inputs as they are frozen now, and the image or the bake that makes it."""
    ports: Ports = run.ports
    store = Store(ports.database, ports.clock)
    server = store.server(args["server"])
    refuse_empty_primary(store, server)
    template = find_template(server.template, ports.template_folders)
    base = str((await ports.base_image(template.image, run.note)).id)
    frozen = run_list.freeze(ports, server, template, args["inputs"])
    recipe = run_list.recipe(ports, server, template, base, frozen)
    plan = {**frozen, "image": base, "bake": None, "memory_bytes": server.spec.memory_bytes or template.memory_bytes}
    if server.spec.volume_bytes is not None:
        if not template.volume:
            raise BadInput(
                f"{server.full_name} cannot have a volume: its template {template.name} does not say where it appears",
                hint=f"`volume: /PATH` in {template.name}.relaunch.yml, or no volume in the deployment file",
            )
        plan["volume"] = {"size_bytes": server.spec.volume_bytes, "device": template.volume, "zone": server.zone}
    if recipe is not None:
        plan |= {"image": None} | await ready_or_baking(run, recipe)
    return plan


async def _launch(ports: Ports, args: dict[str, Any], plan: dict[str, Any], image: str) -> None:
    store = Store(ports.database, ports.clock)
    server = store.server(args["server"])
    if server.instance_id not in (None, args["instance"]):
        raise Conflict(f"{server.full_name} has another instance already: {server.instance_id}")
    instance = args["instance"]
    store.add_instance(
        instance,
        server_id=server.id,
        purpose="serve",
        zone=server.zone,
        image_id=image,
        run_list=plan["run_list"],
        sealed_inputs=plan["sealed_inputs"],
    )
    if not args["groups_set"]:
        await set_deployment_groups(ports, server.deployment)
    found = await ports.cloud.launch(
        LaunchRequest(
            client_token=instance,
            name=server.name,
            image=ImageId(image),
            zone=server.zone,
            security_groups=(group_name(server.deployment, server.template),),
            user_data=ports.enrolments.user_data(instance),
            public_key=ports.enrolments.public_key(),
            memory_bytes=plan["memory_bytes"],
            tags={"relaunch-instance": instance, "relaunch-server": server.full_name, "relaunch-purpose": "serve"},
        )
    )
    store.set_cloud_instance(instance, found)


async def set_deployment_groups(ports: Ports, deployment: str) -> None:
    """The security groups of a deployment, as its servers' templates say now."""
    names = sorted({server.template for server in Store(ports.database, ports.clock).servers(deployment)})
    templates = [find_template(name, ports.template_folders) for name in names]
    await set_groups(ports, rules_for(deployment, templates, ports.host_source))


async def _connect(ports: Ports, instance: str) -> str:
    await wait_connected(ports, instance)
    return Store(ports.database, ports.clock).move(instance, Event.ENROLLED)
