"""A cloud in memory: the same verbs and refusals as a real one, at once, with knobs for what goes wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network

from relaunch.clock import Clock
from relaunch.clouds.cloud import (
    Image,
    ImageId,
    IngressRule,
    Instance,
    InstanceId,
    InstanceState,
    LaunchRequest,
    Snapshot,
    SnapshotId,
    Volume,
    VolumeId,
)
from relaunch.errors import BadInput, Conflict, NotFound, RelaunchError

PROTOCOLS = ("tcp", "udp", "icmp", "all")
TERMINATED_LISTED_FOR = timedelta(hours=1)


class FakeCloud:
    """Implements `Cloud`. It has one image, `base`, from the start."""

    def __init__(self, clock: Clock, zones: tuple[str, ...] = ("a", "b")) -> None:
        self._clock = clock
        self._zones = zones
        self._images: dict[str, Image] = {}
        self._instances: dict[str, Instance] = {}
        self._terminated: dict[str, datetime] = {}
        self._groups: dict[str, tuple[IngressRule, ...]] = {}
        self._volumes: dict[str, Volume] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._consoles: dict[str, str] = {}
        self._fail_next: list[tuple[str, RelaunchError]] = []
        self._next_address = int(IPv4Address("10.0.0.2"))
        self.launch_requests: list[LaunchRequest] = []
        self.user_data_runs: dict[str, int] = {}
        self.base = self._add_image(Image(id=_image_id("base"), name="base", created=clock.now()))

    # knobs

    def fail_next(self, verb: str, error: RelaunchError) -> None:
        """The next call of this verb raises the error, having changed nothing."""
        self._fail_next.append((verb, error))

    def vanish(self, instance: InstanceId) -> None:
        """The instance is gone as if it had never been, as a cloud's broken host would have it."""
        del self._instances[instance]
        self._detach_all(instance)

    def shut_itself_down(self, instance: InstanceId) -> None:
        """The guest powered itself off."""
        self._change(instance, state=InstanceState.STOPPED)

    def print_on_console(self, instance: InstanceId, text: str) -> None:
        self._consoles[instance] = self._consoles.get(instance, "") + text

    def _may_fail(self, verb: str) -> None:
        for index, (failing, error) in enumerate(self._fail_next):
            if failing == verb:
                del self._fail_next[index]
                raise error

    # images

    @property
    def zones(self) -> tuple[str, ...]:
        return self._zones

    async def base_image(self, recipe: str, progress: Callable[[str], None]) -> Image:
        """As the local cloud's: one image for each recipe."""
        progress(f"building {recipe}")
        name = f"{recipe}-fake"
        return self._images.get(_image_id(name)) or self._add_image(
            Image(id=_image_id(name), name=name, tags={"recipe": recipe}, created=self._clock.now())
        )

    def _add_image(self, image: Image) -> Image:
        self._images[image.id] = image
        return image

    async def images(self) -> Sequence[Image]:
        return list(self._images.values())

    async def create_image(self, instance: InstanceId, *, name: str, tags: dict[str, str]) -> Image:
        self._may_fail("create_image")
        if _image_id(name) in self._images:
            return self._images[_image_id(name)]
        if not name:
            raise BadInput("an image needs a name")
        source = self._present(instance)
        if source.state is not InstanceState.STOPPED:
            raise Conflict(f"instance {instance} is not stopped", hint="stop it first")
        image = Image(id=_image_id(name), name=name, parent=source.image, tags=dict(tags), created=self._clock.now())
        self._change(instance, image=image.id)
        return self._add_image(image)

    async def delete_image(self, image: ImageId) -> None:
        for instance in self._instances.values():
            if instance.state is not InstanceState.TERMINATED and image in self._layers(instance.image):
                raise Conflict(f"image {image} is in use by instance {instance.id}", hint="terminate that first")
        above = next((each for each in self._images.values() if each.parent == image), None)
        if above is not None:
            raise Conflict(f"image {image} is in use: {above.name} stands on it", hint="delete that one first")
        self._images.pop(image, None)

    def _layers(self, image: ImageId) -> tuple[ImageId, ...]:
        parent = self._images[image].parent if image in self._images else None
        return (image, *(self._layers(parent) if parent else ()))

    # instances

    async def launch(self, request: LaunchRequest) -> Instance:
        self._may_fail("launch")
        self.launch_requests.append(request)
        self._forget_long_terminated()
        id = InstanceId(f"i-{hashlib.sha256(request.client_token.encode()).hexdigest()[:10]}")
        if id in self._instances:
            return self._instances[id]
        self._check(request)
        instance = Instance(
            id=id,
            client_token=request.client_token,
            name=request.name,
            image=request.image,
            zone=request.zone,
            state=InstanceState.RUNNING,
            private_address=str(IPv4Address(self._next_address)),
            public_address=str(IPv4Address(self._next_address)),
            security_groups=tuple(request.security_groups),
            tags=dict(request.tags),
            launched=self._clock.now(),
        )
        self._next_address += 1
        self._instances[id] = instance
        self.user_data_runs[id] = 1 if request.user_data else 0
        self.print_on_console(id, f"{request.name} booted\n")
        return instance

    def _check(self, request: LaunchRequest) -> None:
        if request.zone not in self._zones:
            raise BadInput(f"no zone {request.zone!r}", hint=f"one of {', '.join(self._zones)}")
        if request.image not in self._images:
            raise NotFound(f"no image {request.image}")
        if not request.name or not all(letter.isalnum() or letter in "-." for letter in request.name):
            raise BadInput(f"{request.name!r} is no host name")
        self._refuse_unknown_groups(request.security_groups)

    def _forget_long_terminated(self) -> None:
        for id, at in list(self._terminated.items()):
            if self._clock.now() - at > TERMINATED_LISTED_FOR:
                del self._terminated[id], self._instances[id]

    async def instances(self, *, tags: dict[str, str] | None = None) -> Sequence[Instance]:
        self._forget_long_terminated()
        wanted = (tags or {}).items()
        return [instance for instance in self._instances.values() if wanted <= instance.tags.items()]

    async def instance(self, instance: InstanceId) -> Instance:
        self._forget_long_terminated()
        if instance not in self._instances:
            raise NotFound(f"no instance {instance}")
        return self._instances[instance]

    def _present(self, id: InstanceId) -> Instance:
        if id not in self._instances:
            raise NotFound(f"no instance {id}")
        if self._instances[id].state is InstanceState.TERMINATED:
            raise Conflict(f"instance {id} is terminated")
        return self._instances[id]

    def _change(self, id: InstanceId, **changes: object) -> None:
        self._instances[id] = replace(self._present(id), **changes)  # type: ignore[arg-type]

    async def start(self, instance: InstanceId) -> None:
        self._may_fail("start")
        self._change(instance, state=InstanceState.RUNNING)

    async def stop(self, instance: InstanceId) -> None:
        self._may_fail("stop")
        self._change(instance, state=InstanceState.STOPPED)

    async def reboot(self, instance: InstanceId) -> None:
        self._may_fail("reboot")
        if self._present(instance).state is not InstanceState.RUNNING:
            raise Conflict(f"instance {instance} is not running", hint="start it")
        self.print_on_console(instance, f"{self._present(instance).name} booted\n")

    async def terminate(self, instance: InstanceId) -> None:
        self._may_fail("terminate")
        if instance not in self._instances or instance in self._terminated:
            return
        self._change(instance, state=InstanceState.TERMINATED, cut_off=False)
        self._terminated[instance] = self._clock.now()
        self._detach_all(instance)

    async def power_off(self, instance: InstanceId) -> None:
        self._may_fail("power_off")
        self._change(instance, state=InstanceState.STOPPED)

    async def cut_off(self, instance: InstanceId, cut: bool) -> None:
        self._change(instance, cut_off=cut)

    async def console_output(self, instance: InstanceId, *, last_bytes: int = 65536) -> str:
        await self.instance(instance)
        return self._consoles.get(instance, "").encode()[-last_bytes:].decode(errors="replace")

    # security groups

    def _refuse_unknown_groups(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._groups:
                raise NotFound(f"no security group {name!r}")

    async def set_security_group(self, name: str, rules: Sequence[IngressRule]) -> None:
        if not name:
            raise BadInput("a security group needs a name")
        for rule in rules:
            _check_rule(rule)
        self._groups[name] = tuple(rules)

    async def security_groups(self) -> dict[str, tuple[IngressRule, ...]]:
        return dict(self._groups)

    async def delete_security_group(self, name: str) -> None:
        for instance in self._instances.values():
            if instance.state is not InstanceState.TERMINATED and name in instance.security_groups:
                raise Conflict(f"security group {name} is in use by {instance.id}")
        self._groups.pop(name, None)

    async def set_instance_groups(self, instance: InstanceId, groups: Sequence[str]) -> None:
        self._refuse_unknown_groups(groups)
        self._change(instance, security_groups=tuple(groups))

    # volumes

    async def create_volume(
        self, *, client_token: str, size_bytes: int, zone: str, from_snapshot: SnapshotId | None = None
    ) -> Volume:
        self._may_fail("create_volume")
        id = VolumeId(f"vol-{hashlib.sha256(client_token.encode()).hexdigest()[:12]}")
        if id in self._volumes:
            return self._volumes[id]
        if zone not in self._zones or size_bytes < 1 << 20:
            raise BadInput(f"no volume of {size_bytes} bytes in zone {zone!r}")
        if from_snapshot is not None and from_snapshot not in self._snapshots:
            raise NotFound(f"no snapshot {from_snapshot}")
        self._volumes[id] = Volume(
            id=id, size_bytes=size_bytes, zone=zone, from_snapshot=from_snapshot, client_token=client_token
        )
        return self._volumes[id]

    async def volumes(self) -> Sequence[Volume]:
        return list(self._volumes.values())

    def _volume(self, id: VolumeId) -> Volume:
        if id not in self._volumes:
            raise NotFound(f"no volume {id}")
        return self._volumes[id]

    async def attach_volume(self, volume: VolumeId, instance: InstanceId, device: str) -> None:
        if not device.startswith("/") or device == "/":
            raise BadInput(f"{device!r} is no place for a volume")
        known, to = self._volume(volume), self._present(instance)
        if known.attached_to is not None and (known.attached_to, known.device) != (instance, device):
            raise Conflict(f"volume {volume} is attached to {known.attached_to}", hint="detach it first")
        if known.zone != to.zone:
            raise Conflict(f"volume {volume} is in zone {known.zone}, instance {instance} in zone {to.zone}")
        for other in self._volumes.values():
            if other.id != volume and (other.attached_to, other.device) == (instance, device):
                raise Conflict(f"{device} of {instance} is taken by volume {other.id}")
        self._volumes[volume] = replace(known, attached_to=instance, device=device)

    async def detach_volume(self, volume: VolumeId) -> None:
        self._volumes[volume] = replace(self._volume(volume), attached_to=None, device=None)

    def _detach_all(self, instance: InstanceId) -> None:
        for volume in list(self._volumes.values()):
            if volume.attached_to == instance:
                self._volumes[volume.id] = replace(volume, attached_to=None, device=None)

    async def delete_volume(self, volume: VolumeId) -> None:
        if volume in self._volumes and self._volumes[volume].attached_to is not None:
            raise Conflict(f"volume {volume} is attached to {self._volumes[volume].attached_to}")
        self._volumes.pop(volume, None)

    async def snapshot_volume(self, volume: VolumeId, *, client_token: str) -> Snapshot:
        id = SnapshotId(f"snap-{hashlib.sha256(client_token.encode()).hexdigest()[:12]}")
        if id not in self._snapshots:
            self._snapshots[id] = Snapshot(id=id, volume=self._volume(volume).id, created=self._clock.now())
        return self._snapshots[id]

    async def snapshots(self) -> Sequence[Snapshot]:
        return list(self._snapshots.values())

    async def delete_snapshot(self, snapshot: SnapshotId) -> None:
        self._snapshots.pop(snapshot, None)


def _image_id(name: str) -> ImageId:
    return ImageId(f"img-{hashlib.sha256(name.encode()).hexdigest()[:12]}")


def _check_rule(rule: IngressRule) -> None:
    if rule.protocol not in PROTOCOLS:
        raise BadInput(f"unknown protocol {rule.protocol!r} in a security rule")
    if rule.protocol in ("tcp", "udp") and not 0 < rule.from_port <= rule.to_port < 65536:
        raise BadInput(f"ports {rule.from_port}-{rule.to_port} are not a range within 1-65535")
    try:
        if not rule.source.startswith("group:"):
            IPv4Network(rule.source)
    except ValueError as error:
        raise BadInput(f"{rule.source!r} is no source of a rule: {error}") from None
