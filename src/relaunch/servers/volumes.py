"""A server's own volume: made for one instance, gone with it."""

from __future__ import annotations

from typing import Any

from relaunch.clouds.cloud import InstanceId
from relaunch.errors import Conflict
from relaunch.servers.ports import Ports
from relaunch.servers.store import Store


def volume_token(instance: str) -> str:
    return f"{instance}-volume"


async def give_volume(ports: Ports, instance: str, wanted: dict[str, Any]) -> str:
    """wanted: size_bytes, zone, device (where it appears). The volume's id."""
    cloud_id = Store(ports.database, ports.clock).instance(instance)["cloud_id"]
    if cloud_id is None:
        raise Conflict(f"the cloud has no instance {instance}")
    volume = await ports.cloud.create_volume(
        client_token=volume_token(instance), size_bytes=wanted["size_bytes"], zone=wanted["zone"]
    )
    await ports.cloud.attach_volume(volume.id, InstanceId(cloud_id), wanted["device"])
    return str(volume.id)


async def take_volume(ports: Ports, instance: str) -> None:
    """Delete the volume of an instance that has ended, if it had one."""
    for volume in await ports.cloud.volumes():
        if volume.client_token == volume_token(instance):
            if volume.attached_to is not None:
                await ports.cloud.detach_volume(volume.id)
            await ports.cloud.delete_volume(volume.id)
