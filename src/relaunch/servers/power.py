"""Acts on one running instance that are one call of the cloud: power-off, start, cut-off, reconnect."""

from __future__ import annotations

from typing import Any

from relaunch.clouds.cloud import InstanceId
from relaunch.errors import Conflict
from relaunch.servers.ports import Ports
from relaunch.servers.store import Store
from relaunch.workflows.durable import Run, workflow


@workflow("power-off")
async def power_off(run: Run, args: dict[str, Any]) -> None:
    """args: instance. As if the plug were pulled."""
    await run.step("power off", run.ports.cloud.power_off, _cloud_id(run.ports, args["instance"]))


@workflow("start")
async def start(run: Run, args: dict[str, Any]) -> None:
    """args: instance. Its agent's hello from the new boot then has its boot scripts run."""
    await run.step("start", run.ports.cloud.start, _cloud_id(run.ports, args["instance"]))


@workflow("cut-off")
async def cut_off(run: Run, args: dict[str, Any]) -> None:
    """args: instance. All its traffic is dropped, both ways."""
    await run.step("cut off", run.ports.cloud.cut_off, _cloud_id(run.ports, args["instance"]), True)


@workflow("reconnect")
async def reconnect(run: Run, args: dict[str, Any]) -> None:
    """args: instance."""
    await run.step("reconnect", run.ports.cloud.cut_off, _cloud_id(run.ports, args["instance"]), False)


def _cloud_id(ports: Ports, instance: str) -> InstanceId:
    cloud_id = Store(ports.database, ports.clock).instance(instance)["cloud_id"]
    if cloud_id is None:
        raise Conflict(f"instance {instance} is not in the cloud yet")
    return InstanceId(cloud_id)
