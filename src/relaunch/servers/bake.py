"""Baking: a template's install half run once on a builder instance, kept as an image named by the hash of its content.

A saga: each step may be done twice; a bake that fails terminates its builder and says why.
"""

from __future__ import annotations

import hashlib
from typing import Any

from relaunch.bus.messages import PrepareImage, RunScripts
from relaunch.clouds.cloud import ImageId, InstanceId, InstanceState, LaunchRequest
from relaunch.errors import Failed, RelaunchError
from relaunch.servers import run_list
from relaunch.servers.boot import is_back, outcome, run_phase, wait_connected
from relaunch.servers.groups import BAKE, host_only, set_groups
from relaunch.servers.images import image_name
from relaunch.servers.lifecycle import Event
from relaunch.servers.ports import Ports
from relaunch.servers.store import Store
from relaunch.servers.terminate import end_unused
from relaunch.workflows.durable import Cancelled, Run, workflow
from relaunch.workflows.tasks import Asked

LOST_SECONDS = 30.0  # an agent that restarts or a controller that does is back by then; nobody mends a builder


async def ready_or_baking(run: Run, recipe: dict[str, Any]) -> dict[str, Any]:
    """Plain {image} when it is there, else {bake}: the id of the one workflow that makes it, started if need be.

    recipe: key, base, template, zone, changelog, run_list, sealed_inputs; all plain.
    """
    ports: Ports = run.ports
    store = Store(ports.database, ports.clock)
    key = recipe["key"]
    row = store.image(key)
    if row is not None and row["state"] == "ready" and await _exists(ports, row["cloud_image_id"]):
        return {"image": row["cloud_image_id"]}
    tasks = run.workflows.tasks
    name = image_name(recipe["template"], key)
    running = tasks.running_on(f"image:{key}")
    if running is None:
        bake_id = f"bake-{key[:16]}-{tasks.count(f'bake-{key[:16]}-') + 1}"
        store.put_image(key, name=name, state="baking", changelog=recipe["changelog"], detail="")
    else:
        bake_id = running["id"]
    # No parent: whoever asked first may be cancelled while others wait for the same image. One that runs is only
    # started again if a kill came before it began.
    asked = Asked(kind="bake", title=f"bake image {name}", subject=f"image:{key}", who=run.who)
    await run.workflows.start_workflow(asked, bake_id, recipe)
    return {"bake": bake_id}


async def baked(run: Run, bake_id: str) -> str:
    """The image's id once the bake has ended; Failed with its error."""
    (ended,) = await run.wait_for([bake_id])
    if ended["state"] != "succeeded":
        raise Failed(f"its image could not be baked: {ended['error']}", hint=f"see: relaunch task show {bake_id}")
    return str(ended["result"]["image"])


@workflow("bake", shared=True)
async def bake(run: Run, args: dict[str, Any]) -> dict[str, Any]:
    """args: the recipe of `ready_or_baking`."""
    ports: Ports = run.ports
    builder = f"b{hashlib.sha256(run.task.encode()).hexdigest()[:15]}"
    try:
        found = await run.step("look for the image", _look, ports, args)
        if found is None:
            await run.step("launch a builder", _launch_builder, ports, args, builder)
            await run.step("wait for its agent", _connect, ports, builder, waits=True)
            await run.step("install", _install, run, args, builder, waits=True)
            await run.step("prepare and stop", _prepare, ports, builder)
            found = await run.step("create the image", _create, ports, args, builder)
        await run.step("record the image", _ready, ports, args, found)
    except RelaunchError as error:
        await _undo(run, args, builder, error)
        raise
    with run.undoing():
        await run.step("terminate the builder", end_unused, ports, builder, "asked")
    return {"image": found}


async def _undo(run: Run, args: dict[str, Any], builder: str, error: RelaunchError) -> None:
    with run.undoing():
        await run.step("undo: terminate the builder", end_unused, run.ports, builder, "never booted")
        detail = "cancelled" if isinstance(error, Cancelled) else error.message
        await run.step("undo: record the failure", _failed, run.ports, args, detail)


async def _exists(ports: Ports, image: str) -> bool:
    return any(each.id == image for each in await ports.cloud.images())


async def _look(ports: Ports, recipe: dict[str, Any]) -> str | None:
    name = image_name(recipe["template"], recipe["key"])
    return next((str(image.id) for image in await ports.cloud.images() if image.name == name), None)


async def _launch_builder(ports: Ports, recipe: dict[str, Any], builder: str) -> None:
    store = Store(ports.database, ports.clock)
    store.add_instance(
        builder,
        server_id=None,
        purpose="bake",
        zone=recipe["zone"],
        image_id=recipe["base"],
        run_list=recipe["run_list"],
        sealed_inputs=recipe["sealed_inputs"],
    )
    await set_groups(ports, {BAKE: host_only(ports.host_source)})
    launched = await ports.cloud.launch(
        LaunchRequest(
            client_token=builder,
            name=f"bake-{recipe['template']}"[:40],
            image=ImageId(recipe["base"]),
            zone=recipe["zone"],
            security_groups=(BAKE,),
            user_data=ports.enrolments.user_data(builder),
            public_key=ports.enrolments.public_key(),
            tags={"relaunch-instance": builder, "relaunch-purpose": "bake"},
        )
    )
    store.set_cloud_instance(builder, launched)


async def _connect(ports: Ports, builder: str) -> None:
    """From now on the watch says when it is lost."""
    await wait_connected(ports, builder)
    Store(ports.database, ports.clock).move(builder, Event.ENROLLED)


async def _install(run: Run, recipe: dict[str, Any], builder: str) -> None:
    ports: Ports = run.ports
    order: RunScripts = run_list.bake_order(ports, builder, f"{run.task}-install")
    ended = await run_phase(ports, builder, order, task=run.task, lost_seconds=LOST_SECONDS)
    result = outcome(ports, order, ended)
    if result["state"] != "succeeded":
        raise Failed(str(result["why"]))


async def _prepare(ports: Ports, builder: str) -> None:
    cloud_id = InstanceId(str(Store(ports.database, ports.clock).instance(builder)["cloud_id"]))
    if (await ports.cloud.instance(cloud_id)).state is not InstanceState.STOPPED:
        await is_back(ports, builder)
        await ports.agents.order(builder, PrepareImage(), timeout_seconds=60.0)
        await ports.cloud.stop(cloud_id)


async def _create(ports: Ports, recipe: dict[str, Any], builder: str) -> str:
    cloud_id = InstanceId(str(Store(ports.database, ports.clock).instance(builder)["cloud_id"]))
    name = image_name(recipe["template"], recipe["key"])
    image = await ports.cloud.create_image(cloud_id, name=name, tags={"relaunch-key": recipe["key"]})
    return str(image.id)


def _ready(ports: Ports, recipe: dict[str, Any], image: str) -> None:
    Store(ports.database, ports.clock).put_image(recipe["key"], cloud_image_id=image, state="ready", detail="")


def _failed(ports: Ports, recipe: dict[str, Any], detail: str) -> None:
    Store(ports.database, ports.clock).put_image(recipe["key"], state="failed", detail=detail)
