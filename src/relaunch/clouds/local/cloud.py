"""The cloud on this machine: real Debian instances under systemd-nspawn, on overlayfs, a bridge and nftables."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import IO

from relaunch.clouds.cloud import (
    Image,
    ImageId,
    IngressRule,
    Instance,
    InstanceId,
    LaunchRequest,
    Snapshot,
    SnapshotId,
    Volume,
    VolumeId,
)
from relaunch.clouds.local import firewall, network
from relaunch.clouds.local.files import read_json, remove_tree, write_json, write_text
from relaunch.clouds.local.firewall import Member, Wall
from relaunch.clouds.local.images import Images
from relaunch.clouds.local.instances import Instances
from relaunch.clouds.local.nspawn import Nspawn, interface
from relaunch.clouds.local.records import ImageRecord, SnapshotRecord, VolumeRecord, Wanted
from relaunch.clouds.local.volumes import Volumes
from relaunch.errors import BadInput, Conflict, NotFound, RelaunchError

log = logging.getLogger("relaunch.cloud")

HOUSEKEEPING_SECONDS = 15


class LocalCloud:
    """Implements `Cloud`. All of its state is in `folder`; `open` before the first use."""

    def __init__(
        self,
        folder: Path,
        *,
        network: IPv4Network,
        bridge: str,
        recipes: Path,
        zones: tuple[str, ...] = ("a", "b"),
        host_ports: tuple[int, ...] | None = None,
    ) -> None:
        """`host_ports`: the host's ports that instances reach, None for all."""
        if not 0 < len(bridge) <= 15:
            raise BadInput(f"{bridge!r} is no name for a bridge", hint="1 to 15 letters")
        self._folder = folder.absolute()
        self._network = network
        self._bridge = bridge
        self._recipes = recipes
        self._zones = zones
        self._host_ports = host_ports
        self._owner = f"relaunch {self._folder}"[:250]
        self._groups: dict[str, tuple[IngressRule, ...]] = {}
        self._images = Images(self._folder / "images")
        self._nspawn = Nspawn(self._folder, bridge)
        self._volumes = Volumes(self._folder / "volumes", self._nspawn.init_process)
        self._instances = Instances(
            self._folder / "instances",
            nspawn=self._nspawn,
            images=self._images,
            volumes=self._volumes,
            network=network,
            bridge=bridge,
            put_up_wall=self._put_up_wall,
        )
        self._lock: IO[str] | None = None
        self._wall_lock = asyncio.Lock()
        self._wall_wanted = 0
        self._wall_is = 0
        self._housekeeping: asyncio.Task[None] | None = None

    # opening and closing

    async def open(self) -> None:
        """Take the folder, make bridge and rules as they must be, heal what a reboot or a kill left. Conflict when
        another process has the folder or the address range is taken."""
        if self._lock is not None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        self._take_folder()
        try:
            await self._heal()
        except BaseException:
            self._release_folder()
            raise
        self._housekeeping = asyncio.create_task(self._keep_house(), name="local cloud: housekeeping")

    def _take_folder(self) -> None:
        lock = (self._folder / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip()
            lock.close()
            raise Conflict(
                f"the local cloud in {self._folder} is in use by process {owner}", hint="stop that controller first"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def _release_folder(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def _heal(self) -> None:
        self._nspawn.install_runner()
        saved = read_json(self._folder / "groups.json") or {}
        self._groups = {name: tuple(IngressRule(**rule) for rule in rules) for name, rules in saved.items()}
        await network.create_bridge(self._bridge, self._network, self._owner)
        unfinished = self._images.open()
        self._instances.read()
        await self._volumes.open()
        await self._put_up_wall()
        for image in unfinished:
            await self._finish_image(image)
        await self._instances.recover()

    async def _finish_image(self, image: ImageRecord) -> None:
        """One that cannot be finished is tried again at the next start, and must not keep us from this one."""
        try:
            await self._instances.finish_image(image)
        except (RelaunchError, OSError) as error:
            log.error("the image %s could not be finished: %s", image.name, error)

    async def close(self) -> None:
        """Let go of the folder; instances run on."""
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._housekeeping
            self._housekeeping = None
        self._release_folder()

    async def down(self, purge: bool = False) -> None:
        """Stop every instance in order and take away all that is on the host: mounts, bridge, rules, settings. What
        ran is started again by the next `open`. With `purge` all files go too."""
        if self._lock is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._take_folder()
            self._instances.read()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            self._housekeeping = None
        is_ours = not network.is_foreign(self._bridge, self._owner)  # else all that bears its name is another cloud's
        if is_ours:
            await self._instances.halt_all()
        await self._volumes.close()
        if is_ours:
            await firewall.take_down(self._bridge)
            await network.remove_bridge(self._bridge, self._owner)
            await self._nspawn.remove_all_groups()
        if purge:
            remove_tree(self._folder)
        self._release_folder()

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            try:
                await self._keep_wall()
            except Exception:  # outermost frame of this loop: the next time may go well
                log.exception("housekeeping: firewall")
            try:
                self._instances.keep_house()
            except Exception:  # as above
                log.exception("housekeeping")

    # firewall

    async def _put_up_wall(self) -> None:
        """Bring the rules to what is wanted now; calls that come while nft runs share the next run."""
        self._wall_wanted += 1
        mine = self._wall_wanted
        async with self._wall_lock:
            if self._wall_is >= mine:
                return
            covers = self._wall_wanted
            wall = self._wall()
            write_text(self._folder / "firewall.nft", firewall.ruleset(wall))  # to be read: what is in force
            await firewall.put_up(wall)
            self._wall_is = covers

    async def _keep_wall(self) -> None:
        """Another program of the host may have flushed all rules, as a restart of its own firewall does."""
        if not await firewall.stands(self._bridge):
            log.warning("the firewall rules of %s are gone from the kernel: put up again", self._bridge)
            await self._put_up_wall()

    def _wall(self) -> Wall:
        return Wall(
            bridge=self._bridge,
            network=self._network,
            groups=self._groups,
            host_ports=self._host_ports,
            members=[
                Member(
                    address=instance.address,
                    interface=interface(instance.id),
                    groups=instance.groups,
                    cut_off=instance.cut_off,
                )
                for instance in self._instances.present()
            ],
        )

    # images

    @property
    def zones(self) -> tuple[str, ...]:
        return self._zones

    async def base_image(self, recipe: str, progress: Callable[[str], None]) -> Image:
        """The image of a recipe of the recipes' folder; built now unless this very content was built before."""
        return _image(await self._images.build(self._recipes / recipe, progress))

    async def images(self) -> Sequence[Image]:
        return [_image(image) for image in self._images.all()]

    async def create_image(self, instance: InstanceId, *, name: str, tags: dict[str, str]) -> Image:
        return _image(await self._instances.create_image(instance, name=name, tags=tags))

    async def delete_image(self, image: ImageId) -> None:
        self._instances.refuse_while_used(image)
        await self._images.delete(image)

    # instances

    async def launch(self, request: LaunchRequest) -> Instance:
        if request.zone not in self._zones:
            raise BadInput(f"no zone {request.zone!r} in the local cloud", hint=f"one of {', '.join(self._zones)}")
        self._refuse_unknown_groups(request.security_groups)
        return self._instances.view(await self._instances.launch(request))

    async def instances(self, *, tags: dict[str, str] | None = None) -> Sequence[Instance]:
        wanted = (tags or {}).items()
        return [self._instances.view(each) for each in self._instances.all() if wanted <= each.tags.items()]

    async def instance(self, instance: InstanceId) -> Instance:
        return self._instances.view(self._instances.get(instance))

    async def start(self, instance: InstanceId) -> None:
        await self._instances.start(instance)

    async def stop(self, instance: InstanceId) -> None:
        await self._instances.stop(instance)

    async def reboot(self, instance: InstanceId) -> None:
        await self._instances.reboot(instance)

    async def terminate(self, instance: InstanceId) -> None:
        await self._instances.terminate(instance)

    async def power_off(self, instance: InstanceId) -> None:
        await self._instances.power_off(instance)

    async def cut_off(self, instance: InstanceId, cut: bool) -> None:
        await self._instances.cut_off(instance, cut)

    async def console_output(self, instance: InstanceId, *, last_bytes: int = 65536) -> str:
        return self._instances.console_output(instance, last_bytes)

    def init_process(self, instance: InstanceId) -> int | None:
        """The guest's process 1 as the host numbers it, to enter its namespaces; None when it does not run."""
        return self._nspawn.init_process(instance)

    # security groups

    def _refuse_unknown_groups(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._groups:
                raise NotFound(f"no security group {name!r} in the local cloud")

    async def _save_groups(self, groups: dict[str, tuple[IngressRule, ...]]) -> None:
        plain = {
            name: [{key: getattr(rule, key) for key in IngressRule.__dataclass_fields__} for rule in rules]
            for name, rules in groups.items()
        }
        write_json(self._folder / "groups.json", plain)
        self._groups = groups
        await self._put_up_wall()

    async def set_security_group(self, name: str, rules: Sequence[IngressRule]) -> None:
        if not name or len(name) > 255:
            raise BadInput("a security group needs a name of 1 to 255 letters")
        for rule in rules:
            firewall.check_rule(rule)
        await self._save_groups({**self._groups, name: tuple(rules)})

    async def security_groups(self) -> dict[str, tuple[IngressRule, ...]]:
        return dict(self._groups)

    async def delete_security_group(self, name: str) -> None:
        staying = (each for each in self._instances.present() if each.wanted is not Wanted.TERMINATED)
        user = next((each for each in staying if name in each.groups), None)
        if user is not None:
            raise Conflict(
                f"security group {name} is in use by {user.id}", hint="give that instance other groups first"
            )
        await self._save_groups({other: rules for other, rules in self._groups.items() if other != name})

    async def set_instance_groups(self, instance: InstanceId, groups: Sequence[str]) -> None:
        self._refuse_unknown_groups(groups)
        await self._instances.set_groups(instance, tuple(groups))

    # volumes

    async def create_volume(
        self, *, client_token: str, size_bytes: int, zone: str, from_snapshot: SnapshotId | None = None
    ) -> Volume:
        if zone not in self._zones:
            raise BadInput(f"no zone {zone!r} in the local cloud", hint=f"one of {', '.join(self._zones)}")
        async with self._instances.volume_lock:
            return _volume(
                await self._volumes.create(
                    client_token=client_token, size_bytes=size_bytes, zone=zone, from_snapshot=from_snapshot
                )
            )

    async def volumes(self) -> Sequence[Volume]:
        return [_volume(volume) for volume in self._volumes.known.values()]

    async def attach_volume(self, volume: VolumeId, instance: InstanceId, device: str) -> None:
        await self._instances.attach_volume(volume, instance, device)

    async def detach_volume(self, volume: VolumeId) -> None:
        await self._instances.detach_volume(volume)

    async def delete_volume(self, volume: VolumeId) -> None:
        async with self._instances.volume_lock:
            await self._volumes.delete(volume)

    async def snapshot_volume(self, volume: VolumeId, *, client_token: str) -> Snapshot:
        async with self._instances.volume_lock:
            return _snapshot(await self._volumes.snapshot(volume, client_token=client_token))

    async def snapshots(self) -> Sequence[Snapshot]:
        return [_snapshot(snapshot) for snapshot in self._volumes.known_snapshots.values()]

    async def delete_snapshot(self, snapshot: SnapshotId) -> None:
        async with self._instances.volume_lock:
            await self._volumes.delete_snapshot(snapshot)


def _image(record: ImageRecord) -> Image:
    return Image(
        id=ImageId(record.id),
        name=record.name,
        parent=ImageId(record.parent) if record.parent else None,
        tags=dict(record.tags),
        created=record.created,
    )


def _volume(record: VolumeRecord) -> Volume:
    return Volume(
        id=VolumeId(record.id),
        size_bytes=record.size_bytes,
        zone=record.zone,
        attached_to=InstanceId(record.attached_to) if record.attached_to else None,
        device=record.device,
        from_snapshot=SnapshotId(record.from_snapshot) if record.from_snapshot else None,
        client_token=record.client_token,
    )


def _snapshot(record: SnapshotRecord) -> Snapshot:
    return Snapshot(id=SnapshotId(record.id), volume=VolumeId(record.volume), created=record.created)
