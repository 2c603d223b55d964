"""The HTTP API of deployments, servers, scripts to run, and templates; what it needs is in `request.app.state`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from relaunch.clouds.cloud import InstanceId
from relaunch.errors import Conflict, NotFound
from relaunch.servers.orders import Orders
from relaunch.servers.shown import deployment_shown, deployments_shown, server_shown, servers_shown
from relaunch.servers.template_cloning import clone_template
from relaunch.servers.templates import ListedTemplate, ServerTemplate, find_template, list_templates

router = APIRouter(tags=["servers"])


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Source(_Body):
    """A deployment file's text; `yes` when destroying servers is meant."""

    source: str = Field(max_length=1_000_000)
    yes: bool = False
    inputs: dict[str, str] = {}


class RunAsked(_Body):
    servers: list[str]
    script: str | dict[str, str]
    inputs: dict[str, str] = {}


class ActionAsked(_Body):
    """`inputs`: given at launch. `yes`: the data may go. `from_start`: retry all boot scripts."""

    inputs: dict[str, str] = {}
    yes: bool = False
    from_start: bool = False


class NewName(_Body):
    name: str


@router.post("/plans")
async def make_plan(request: Request, asked: Source) -> dict[str, Any]:
    """What applying the file would change; nothing is done."""
    return _orders(request).plan(asked.source, asked.inputs)


@router.get("/deployments")
async def list_deployments(request: Request) -> dict[str, Any]:
    return {"deployments": deployments_shown(_orders(request).ports)}


@router.post("/deployments", status_code=202)
async def apply_deployment(request: Request, asked: Source) -> dict[str, Any]:
    """Make it so."""
    orders = _orders(request)
    task = await orders.apply(asked.source, who=request.state.who, yes=asked.yes, given=asked.inputs)
    return _task(orders, task)


@router.get("/deployments/{name}")
async def show_deployment(request: Request, name: str) -> dict[str, Any]:
    orders = _orders(request)
    row = orders.store.deployment(name)
    if row is None:
        raise NotFound(f"no deployment {name}", hint="`relaunch deployment list` shows what there is")
    return deployment_shown(orders.ports, row)


@router.delete("/deployments/{name}", status_code=202)
async def destroy_deployment(request: Request, name: str, yes: bool = False) -> dict[str, Any]:
    """All its servers end, then it is forgotten."""
    orders = _orders(request)
    return _task(orders, await orders.destroy(name, who=request.state.who, yes=yes))


@router.get("/deployments/{name}/inputs")
async def deployment_inputs(request: Request, name: str) -> dict[str, Any]:
    """Every input of its servers with its level and source."""
    return {"inputs": _orders(request).inputs(name)}


@router.get("/servers")
async def list_servers(request: Request, deployment: str = "") -> dict[str, Any]:
    return {"servers": servers_shown(_orders(request).ports, deployment or None)}


@router.get("/servers/{deployment}/{name}")
async def show_server(request: Request, deployment: str, name: str) -> dict[str, Any]:
    return server_shown(_orders(request).ports, f"{deployment}/{name}")


@router.get("/servers/{deployment}/{name}/console")
async def console(
    request: Request, deployment: str, name: str, last_bytes: Annotated[int, Query(ge=1, le=1_000_000)] = 65_536
) -> dict[str, Any]:
    """The end of what its present instance wrote on its console."""
    orders = _orders(request)
    server = orders.store.server(f"{deployment}/{name}")
    cloud_id = orders.store.instance(server.instance_id)["cloud_id"] if server.instance_id else None
    if cloud_id is None:
        raise Conflict(f"{server.full_name} has no instance in the cloud")
    return {"console": await orders.ports.cloud.console_output(InstanceId(cloud_id), last_bytes=last_bytes)}


@router.get("/servers/{deployment}/{name}/runs")
async def server_runs(request: Request, deployment: str, name: str) -> dict[str, Any]:
    """Of its present instance, the newest first."""
    orders = _orders(request)
    server = orders.store.server(f"{deployment}/{name}")
    rows = orders.store.runs(instance_id=server.instance_id) if server.instance_id else []
    return {"runs": [_run_shown(row) for row in rows]}


@router.post("/servers/{deployment}/{name}/{action}", status_code=202)
async def act_on_server(
    request: Request, deployment: str, name: str, action: str, asked: ActionAsked | None = None
) -> dict[str, Any]:
    """The actions are those of `relaunch server`: launch, terminate, reboot and so on."""
    orders = _orders(request)
    body = asked.model_dump() if asked else {}
    task = await orders.act(f"{deployment}/{name}", action, who=request.state.who, body=body)
    return _task(orders, task)


@router.post("/runs", status_code=202)
async def run_script(request: Request, asked: RunAsked) -> dict[str, Any]:
    """One script on many servers at once."""
    orders = _orders(request)
    return _task(orders, await orders.run(asked.servers, asked.script, asked.inputs, who=request.state.who))


@router.get("/templates")
async def templates(request: Request) -> dict[str, Any]:
    """All, also those that cannot be read, with their fault."""
    listed = list_templates(_orders(request).ports.template_folders)
    return {"templates": [_listed(each) for each in listed]}


@router.get("/templates/{name}")
async def show_template(request: Request, name: str) -> dict[str, Any]:
    return _template(find_template(name, _orders(request).ports.template_folders))


@router.post("/templates/{name}/clone", status_code=201)
async def clone(request: Request, name: str, asked: NewName) -> dict[str, Any]:
    """A copy of your own, scripts and all, to be edited on the controller's disk."""
    folders = _orders(request).ports.template_folders
    return _template(clone_template(name, asked.name, folders))


def _orders(request: Request) -> Orders:
    orders: Orders = request.app.state.orders
    return orders


def _task(orders: Orders, task: str) -> dict[str, Any]:
    return {"task": orders.workflows.tasks.get(task)}


def _run_shown(row: dict[str, Any]) -> dict[str, Any]:
    names = [script["name"] for script in row["order"].get("scripts", [])]
    results = [
        {**result, "name": names[result["index"]] if result["index"] < len(names) else ""} for result in row["results"]
    ]
    return {**row, "results": results}


def _listed(each: ListedTemplate) -> dict[str, Any]:
    shown = _template(each.template) if each.template else {"name": each.name, "path": str(each.path)}
    return shown | {"fault": each.fault}


def _template(template: ServerTemplate) -> dict[str, Any]:
    return {
        "name": template.name,
        "title": template.title,
        "description": template.description,
        "path": str(template.path),
        "image": template.image,
        "boot": [script.name for script in template.boot],
        "baked": [script.name for script in template.baked],
        "operational": [script.name for script in template.operational],
        "decommission": [script.name for script in template.decommission],
        "inputs": [
            {
                "name": each.name,
                "description": each.description,
                "required": each.required,
                "default": each.default,
                "script": script.name,
            }
            for script in template.scripts
            for each in script.inputs
        ],
    }
