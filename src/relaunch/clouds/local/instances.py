"""Instances: what each shall be is written down first, then made so; every step can be repeated after a kill."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from pathlib import Path

from relaunch.clouds.cloud import ImageId, Instance, InstanceId, InstanceState, LaunchRequest
from relaunch.clouds.local.cgroups import Limits
from relaunch.clouds.local.files import need_space, no_space_is_a_conflict, remove_tree
from relaunch.clouds.local.guest import check_host_name, guest_files, write_guest_files
from relaunch.clouds.local.images import Images
from relaunch.clouds.local.network import free_address
from relaunch.clouds.local.nspawn import REBOOT, STOP_SECONDS, Boot, Nspawn
from relaunch.clouds.local.records import ImageRecord, InstanceRecord, Store, Wanted
from relaunch.clouds.local.volumes import Volumes, check_device
from relaunch.errors import Conflict, NotFound, RelaunchError
from relaunch.shell import run

log = logging.getLogger("relaunch.cloud")

REBOOT_LOOKS_EACH = 0.05  # seconds
LAUNCH_NEEDS_BYTES = 256 << 20
TERMINATED_LISTED_FOR = timedelta(hours=1)
CONSOLE_BYTES = 1 << 20  # beyond this the older half is dropped
OWN_FILES = ("instance.json", "console.log")  # what is kept of a terminated instance, for as long as it is listed


class Instances:
    """The instances of one cloud."""

    def __init__(
        self,
        folder: Path,
        *,
        nspawn: Nspawn,
        images: Images,
        volumes: Volumes,
        network: IPv4Network,
        bridge: str,
        put_up_wall: Callable[[], Awaitable[None]],
    ) -> None:
        self._folder = folder
        self._store = Store(folder, "instance.json")
        self._nspawn = nspawn
        self._images = images
        self._volumes = volumes
        self._network = network
        self._bridge = bridge
        self._put_up_wall = put_up_wall
        self._known: dict[str, InstanceRecord] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self.volume_lock = asyncio.Lock()

    # looking

    def read(self) -> None:
        self._known = {record.id: record for record in self._store.read(InstanceRecord)}

    def all(self) -> list[InstanceRecord]:
        return list(self._known.values())

    def present(self) -> list[InstanceRecord]:
        """All whose processes and disk may be there yet: also those whose end is under way, or has failed."""
        return [record for record in self._known.values() if record.terminated is None]

    def get(self, id: str) -> InstanceRecord:
        if id not in self._known:
            raise NotFound(f"no instance {id} in the local cloud")
        return self._known[id]

    def _get_present(self, id: str, *, ending: bool = False) -> InstanceRecord:
        """`ending`: also one whose end is under way, or has failed: it may run still."""
        record = self.get(id)
        if record.terminated is not None or (record.wanted is Wanted.TERMINATED and not ending):
            raise Conflict(f"instance {id} is terminated")
        return record

    def view(self, record: InstanceRecord) -> Instance:
        """What the port's users see of it."""
        return Instance(
            id=InstanceId(record.id),
            client_token=record.client_token,
            name=record.name,
            image=ImageId(record.image),
            zone=record.zone,
            state=self._state(record),
            private_address=record.address,
            public_address=record.address,
            security_groups=record.groups,
            tags=dict(record.tags),
            cut_off=record.cut_off,
            launched=record.launched,
        )

    def _state(self, record: InstanceRecord) -> InstanceState:
        if record.terminated is not None:
            return InstanceState.TERMINATED
        if self._nspawn.is_running(record.id):
            return InstanceState.RUNNING
        if record.wanted is Wanted.RUNNING and (not record.prepared or self._lock(record.id).locked()):
            return InstanceState.PENDING
        return InstanceState.STOPPED

    def _lock(self, id: str) -> asyncio.Lock:
        return self._locks.setdefault(id, asyncio.Lock())

    def _keep(self, record: InstanceRecord) -> InstanceRecord:
        self._store.write(record)
        self._known[record.id] = record
        return record

    # launching

    async def launch(self, request: LaunchRequest) -> InstanceRecord:
        """The record is on disk before anything else is made; whatever happens then, `recover` or a repeat finishes
        it."""
        # With the folder: two clouds of one host may be given the same token (that of a bake is made from its content),
        # and the number names an interface of the host.
        id = f"i-{hashlib.sha256(f'{self._folder} {request.client_token}'.encode()).hexdigest()[:10]}"
        known = self._known.get(id)
        if known is None:
            self._note(id, request)
        async with self._lock(id):
            record = self._known.get(id)
            if record is None:
                raise Conflict(f"the launch of {request.name} has just failed", hint="repeat it")
            if record.wanted is not Wanted.RUNNING or record.prepared:
                return record
            try:
                return await self._bring_up(record)
            except (RelaunchError, OSError):
                await self._remove(record)
                self._store.remove(id)
                del self._known[id]
                await self._put_up_wall()
                raise

    def _note(self, id: str, request: LaunchRequest) -> InstanceRecord:
        check_host_name(request.name)
        need_space(self._folder, LAUNCH_NEEDS_BYTES, f"instance {request.name}")
        return self._keep(
            InstanceRecord(
                id=id,
                client_token=request.client_token,
                name=request.name,
                image=request.image,
                layers=self._images.layers(request.image),
                zone=request.zone,
                address=free_address(
                    self._network,
                    taken={record.address for record in self.present()},
                    lately={record.address for record in self._known.values()},
                ),
                groups=tuple(request.security_groups),
                tags=dict(request.tags),
                wanted=Wanted.RUNNING,
                launched=datetime.now(UTC),
                user_data=request.user_data,
                public_key=request.public_key,
                memory_bytes=request.memory_bytes,
                cpus=request.cpus,
            )
        )

    async def _bring_up(self, record: InstanceRecord) -> InstanceRecord:
        if not record.prepared:
            self._prepare(record)
        await self._put_up_wall()
        await self._nspawn.start(self._boot(record), Limits(memory_bytes=record.memory_bytes, cpus=record.cpus))
        # The user data may hold a one-time secret: it is on the instance's disk now, and nowhere else.
        return record if record.prepared else self._keep(replace(record, prepared=True, user_data=""))

    def _prepare(self, record: InstanceRecord) -> None:
        """Its own layer, with what makes it itself; begins anew when a kill cut it short."""
        own = self._folder / record.id
        with no_space_is_a_conflict(own):
            for name in ("upper", "work", "root"):
                remove_tree(own / name)
                (own / name).mkdir()
            (own / "upper").chmod(0o755)
            files = guest_files(
                instance=record.id,
                name=record.name,
                address=record.address,
                network=self._network,
                user_data=record.user_data,
                public_key=record.public_key,
            )
            lowers = [self._images.tree(layer) for layer in record.layers]
            write_guest_files(files, upper=own / "upper", lowers=lowers)

    def _boot(self, record: InstanceRecord) -> Boot:
        return Boot(instance=record.id, bridge=self._bridge, layers=record.layers, binds=self._volumes.binds(record.id))

    # changing

    async def start(self, id: str) -> None:
        async with self._lock(id):
            record = self._keep(replace(self._get_present(id), wanted=Wanted.RUNNING))
            await self._bring_up(record)

    async def stop(self, id: str) -> None:
        async with self._lock(id):
            self._keep(replace(self._get_present(id), wanted=Wanted.STOPPED))
            await self._nspawn.stop(id)

    async def power_off(self, id: str) -> None:
        async with self._lock(id):
            self._keep(replace(self._get_present(id), wanted=Wanted.STOPPED))
            await self._nspawn.kill(id)

    async def reboot(self, id: str) -> None:
        """As the guest's own `reboot`; when that does not come about in time, by force."""
        async with self._lock(id):
            record = self._get_present(id)
            before = self._nspawn.init_process(id)
            if not self._nspawn.is_running(id) or before is None:
                raise Conflict(f"instance {id} is not running", hint="start it")
            for attempt in range(int(STOP_SECONDS / REBOOT_LOOKS_EACH)):
                now = self._nspawn.init_process(id)
                if now is not None and now != before:
                    return
                if attempt % 10 == 0 and now == before:  # again, should it have been too young to hear
                    self._nspawn.signal_init(id, REBOOT)
                await asyncio.sleep(REBOOT_LOOKS_EACH)
            await self._nspawn.kill(id)
            await self._bring_up(record)

    async def terminate(self, id: str) -> None:
        """To be repeated when it fails: until it has succeeded the instance is not said to be terminated."""
        if id not in self._known:
            return
        async with self._lock(id), self.volume_lock:
            record = self.get(id)
            if record.terminated is not None:
                return
            record = self._keep(replace(record, wanted=Wanted.TERMINATED, user_data=""))
            if self._volumes.binds(id):
                await self._nspawn.stop(id)  # what it has on volumes outlives it: let it be written
            await self._end(record)

    async def _end(self, record: InstanceRecord) -> None:
        await self._remove(record)
        self._keep(replace(record, terminated=datetime.now(UTC), cut_off=False))
        await self._put_up_wall()

    async def _remove(self, record: InstanceRecord) -> None:
        """Everything of it but its record and its console."""
        await self._nspawn.kill(record.id)
        self._volumes.forget_instance(record.id)
        own = self._folder / record.id
        for entry in own.iterdir():
            if entry.is_dir():
                await asyncio.to_thread(remove_tree, entry)
            elif entry.name not in OWN_FILES:
                entry.unlink()

    async def cut_off(self, id: str, cut: bool) -> None:
        self._keep(replace(self._get_present(id, ending=True), cut_off=cut))
        await self._put_up_wall()

    async def set_groups(self, id: str, groups: tuple[str, ...]) -> None:
        self._keep(replace(self._get_present(id), groups=groups))
        await self._put_up_wall()

    # images

    def refuse_while_used(self, image: str) -> None:
        user = next((record for record in self.present() if image in record.layers), None)
        if user is not None:
            raise Conflict(f"image {image} is in use by instance {user.id} ({user.name})", hint="terminate that first")

    async def create_image(self, id: str, *, name: str, tags: dict[str, str]) -> ImageRecord:
        known = self._images.by_name(name)
        if known is not None:
            return known
        async with self._lock(id):
            record = self._get_present(id)
            if self._nspawn.is_running(id) or not record.prepared:
                raise Conflict(f"instance {id} is not stopped", hint="stop it first")
            await self._nspawn.kill(id)  # clears what a guest that shut itself down left
            image = self._images.begin(name=name, tags=tags, parent=record.image, builder=id)
            return await self.finish_image(image)

    async def finish_image(self, image: ImageRecord) -> ImageRecord:
        """Every step from the note on; can be repeated."""
        record = self._known.get(image.builder or "")
        if record is None or record.wanted is Wanted.TERMINATED:
            self._images.forget(image)
            return image
        with no_space_is_a_conflict(self._folder):
            await asyncio.to_thread(self._images.finish, image, instance_folder=self._folder / record.id)
        if record.image != image.id:
            self._keep(replace(record, image=image.id, layers=(image.id, *record.layers)))
        self._images.publish(image)
        return image

    # volumes

    async def attach_volume(self, volume: str, id: str, device: str) -> None:
        check_device(device)
        async with self.volume_lock:
            record = self._get_present(id)
            zone = self._volumes.get(volume).zone
            if zone != record.zone:
                raise Conflict(f"volume {volume} is in zone {zone}, instance {id} in zone {record.zone}")
            await self._volumes.attach(volume, id, device)
            self._nspawn.write_boot(self._boot(record))

    async def detach_volume(self, volume: str) -> None:
        async with self.volume_lock:
            id = self._volumes.get(volume).attached_to
            await self._volumes.detach(volume)
            if id is not None and id in self._known:
                self._nspawn.write_boot(self._boot(self._known[id]))

    # console, healing, house-keeping

    def console_output(self, id: str, last_bytes: int) -> str:
        self.get(id)
        try:
            with (self._folder / id / "console.log").open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - last_bytes))
                return log.read().decode(errors="replace").replace("\r\n", "\n")
        except FileNotFoundError:
            return ""

    def keep_house(self) -> None:
        """Bound the consoles; forget who has been terminated for long."""
        for record in self.all():
            if record.terminated is not None and datetime.now(UTC) - record.terminated > TERMINATED_LISTED_FOR:
                self._store.remove(record.id)
                del self._known[record.id]
                self._locks.pop(record.id, None)
                continue
            bound(self._folder / record.id / "console.log")
            bound(self._folder / record.id / "runner.log")

    async def recover(self) -> None:
        """Make everything what its record says: after a kill, a reboot of the host, a launch cut short."""
        for entry in self._folder.iterdir():
            if entry.name not in self._known and (entry.name.startswith(".") or await self._is_killed(entry.name)):
                remove_tree(entry)
        wanted = {record.id for record in self._known.values() if record.wanted is Wanted.RUNNING}
        for id in await self._nspawn.running_groups():
            if id not in wanted:
                await self._is_killed(id)
        for cable in Path("/sys/class/net", self._bridge, "brif").iterdir():
            if cable.name.removeprefix("vb-") not in wanted:
                await run("ip", "link", "delete", cable.name, check=False)
        # One that cannot be healed must not keep the others, or the controller, from starting.
        records = self.all()
        healed = await asyncio.gather(*(self._heal(record) for record in records), return_exceptions=True)
        for record, error in zip(records, healed, strict=True):
            if error is not None:
                log.error(
                    "instance %s (%s) could not be made what it shall be: %s",
                    *(record.name, record.id, error),
                    exc_info=None if isinstance(error, RelaunchError) else error,
                )
        self.keep_house()

    async def _is_killed(self, id: str) -> bool:
        """One whose processes hang must not keep the others, or the controller, from starting either."""
        try:
            await self._nspawn.kill(id)
        except RelaunchError as error:
            log.error("instance %s, which shall not run, could not be ended: %s", id, error)
            return False
        return True

    async def _heal(self, record: InstanceRecord) -> None:
        async with self._lock(record.id):
            if record.wanted is Wanted.STOPPED:
                await self._nspawn.kill(record.id)
            elif record.wanted is Wanted.TERMINATED and record.terminated is None:
                await self._end(record)
            elif record.wanted is Wanted.RUNNING and not self._nspawn.is_running(record.id):
                if self._nspawn.ended_by_itself(record.id):
                    self._keep(replace(record, wanted=Wanted.STOPPED))
                else:
                    await self._bring_up(record)
            elif record.wanted is Wanted.RUNNING and not record.prepared:
                self._keep(replace(record, prepared=True, user_data=""))

    async def halt_all(self) -> None:
        """Stop every instance in order, at once; what is wanted of them stays."""
        ids = {record.id for record in self.all()} | set(await self._nspawn.running_groups())
        await asyncio.gather(*(self._nspawn.stop(id) for id in ids))


def bound(log: Path) -> None:
    """Drop the older half of a log that has grown too long; its writer appends."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size <= CONSOLE_BYTES:
            return
        with log.open("rb") as stream:
            stream.seek(-CONSOLE_BYTES // 2, os.SEEK_END)
            last = stream.read()
        os.truncate(log, 0)
        with log.open("ab") as stream:
            stream.write(last)
