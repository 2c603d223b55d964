"""Volumes as subvolumes of one btrfs file system in a sparse file: a snapshot takes milliseconds.

A volume appears in its instance as a folder at the path given as its device. Its size is recorded and checked against
the space there is; a volume may outgrow it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from relaunch.clouds.local.files import need_space
from relaunch.clouds.local.records import SnapshotRecord, Store, VolumeRecord
from relaunch.errors import BadInput, Conflict, Failed, NotFound, RelaunchError
from relaunch.shell import run

log = logging.getLogger("relaunch.cloud")

POOL_BYTES = 256 << 30  # sparse: it takes what is written to it
SMALLEST_BYTES = 1 << 20
LOOP_GONE_SECONDS = 30  # it took more than 5 on a loaded machine


def check_device(device: str) -> None:
    """BadInput unless it is a plain absolute path."""
    path = PurePosixPath(device)
    if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2 or any(sign in device for sign in ":\n\\"):
        raise BadInput(f"{device!r} is no place for a volume", hint="an absolute path in the instance, as /srv/data")


class Volumes:
    """The volumes and snapshots of one cloud. `init_process` gives process 1 of a running instance, None otherwise."""

    def __init__(self, folder: Path, init_process: Callable[[str], int | None]) -> None:
        self._folder = folder
        self._pool = folder / "pool"
        self._file = folder / "pool.btrfs"
        self._init_process = init_process
        self._volumes = Store(folder / "volumes", "volume.json")
        self._snapshots = Store(folder / "snapshots", "snapshot.json")
        self.known: dict[str, VolumeRecord] = {}
        self.known_snapshots: dict[str, SnapshotRecord] = {}

    async def open(self) -> None:
        self.known = {volume.id: volume for volume in self._volumes.read(VolumeRecord)}
        self.known_snapshots = {each.id: each for each in self._snapshots.read(SnapshotRecord)}
        if self._file.exists():
            try:
                await self._mount()
                await self._remove_orphans()
            except RelaunchError as error:  # every verb on a volume says why too, and all that needs none goes on
                log.error("the volumes are not there: %s", error)

    async def _remove_orphans(self) -> None:
        """Subvolumes that a kill left without a record, and the reverse."""
        for kind, known in (("volumes", set(self.known)), ("snapshots", set(self.known_snapshots))):
            for entry in (self._pool / kind).iterdir():
                if entry.name not in known:
                    await self._delete_subvolume(entry)
        for volume in list(self.known.values()):
            await self._make_subvolume(volume)

    async def close(self) -> None:
        """Unmount; the loop device goes with it, once guests that just ended are cleared away."""
        if not self._pool.is_mount():
            return
        await run("umount", self._pool)
        for _ in range(LOOP_GONE_SECONDS * 10):
            if not (await run("losetup", "--associated", self._file)).stdout:
                return
            await asyncio.sleep(0.1)

    async def _mount(self) -> None:
        if "btrfs" not in Path("/proc/filesystems").read_text():
            await run("modprobe", "btrfs", check=False)
        if "btrfs" not in Path("/proc/filesystems").read_text():
            raise Conflict("this host's kernel has no btrfs, which volumes need", hint="everything else works without")
        self._pool.mkdir(parents=True, exist_ok=True)
        if self._pool.is_mount():
            return
        if not self._file.exists():
            fresh = self._file.with_suffix(".new")
            with fresh.open("wb") as stream:
                stream.truncate(POOL_BYTES)
            await run("mkfs.btrfs", "--quiet", fresh)
            fresh.rename(self._file)
        mounted = await run("mount", "-o", "loop,noatime", self._file, self._pool, check=False)
        if mounted.status != 0:
            raise Conflict(f"the volumes in {self._file} cannot be mounted", hint=mounted.stderr.strip())
        for kind in ("volumes", "snapshots"):
            (self._pool / kind).mkdir(exist_ok=True)

    def get(self, id: str) -> VolumeRecord:
        if id not in self.known:
            raise NotFound(f"no volume {id} in the local cloud")
        return self.known[id]

    def _keep(self, volume: VolumeRecord) -> VolumeRecord:
        self._volumes.write(volume)
        self.known[volume.id] = volume
        return volume

    async def create(self, *, client_token: str, size_bytes: int, zone: str, from_snapshot: str | None) -> VolumeRecord:
        id = f"vol-{hashlib.sha256(client_token.encode()).hexdigest()[:12]}"
        if id in self.known:
            return self.known[id]
        if size_bytes < SMALLEST_BYTES:
            raise BadInput(f"a volume of {size_bytes} bytes is too small", hint=f"at least {SMALLEST_BYTES}")
        if from_snapshot is not None and from_snapshot not in self.known_snapshots:
            raise NotFound(f"no snapshot {from_snapshot} in the local cloud")
        need_space(self._folder, size_bytes, "the volume")
        await self._mount()
        volume = VolumeRecord(
            id=id, client_token=client_token, size_bytes=size_bytes, zone=zone, from_snapshot=from_snapshot
        )
        self._keep(volume)
        await self._make_subvolume(volume)
        return volume

    async def _make_subvolume(self, volume: VolumeRecord) -> None:
        target = self.source(volume.id)
        if target.exists():
            return
        origin = self._pool / "snapshots" / volume.from_snapshot if volume.from_snapshot else None
        if origin is not None and origin.exists():
            await run("btrfs", "subvolume", "snapshot", origin, target)
        else:
            await run("btrfs", "subvolume", "create", target)

    def source(self, id: str) -> Path:
        return self._pool / "volumes" / id

    def binds(self, instance: str) -> tuple[tuple[str, str], ...]:
        """What systemd-nspawn has to bind at the instance's boot."""
        mine = (volume for volume in self.known.values() if volume.attached_to == instance)
        return tuple((str(self.source(volume.id)), volume.device) for volume in mine if volume.device)

    async def attach(self, id: str, instance: str, device: str) -> None:
        volume = self.get(id)
        check_device(device)
        if volume.attached_to not in (None, instance) or (volume.attached_to and volume.device != device):
            raise Conflict(
                f"volume {id} is attached to {volume.attached_to} at {volume.device}", hint="detach it first"
            )
        for other in self.known.values():
            if other.id != id and other.attached_to == instance and other.device == device:
                raise Conflict(f"{device} of {instance} is taken by volume {other.id}", hint="give another path")
        self._keep(replace(volume, attached_to=instance, device=device))
        pid = self._init_process(instance)
        if pid is not None:
            await _bind_into(str(self.source(id)), pid, device)

    async def detach(self, id: str) -> None:
        volume = self.get(id)
        if volume.attached_to is None or volume.device is None:
            return
        pid = self._init_process(volume.attached_to)
        if pid is not None:
            await _bind_into("-", pid, volume.device)
        self._keep(replace(volume, attached_to=None, device=None))

    def forget_instance(self, instance: str) -> None:
        """Note that the instance, which no longer runs, has no volumes."""
        for volume in list(self.known.values()):
            if volume.attached_to == instance:
                self._keep(replace(volume, attached_to=None, device=None))

    async def delete(self, id: str) -> None:
        volume = self.known.get(id)
        if volume is None:
            return
        if volume.attached_to is not None:
            raise Conflict(f"volume {id} is attached to {volume.attached_to}", hint="detach it first")
        self._volumes.remove(id)
        del self.known[id]
        await self._mount()
        if self.source(id).exists():
            await self._delete_subvolume(self.source(id))

    async def snapshot(self, id: str, *, client_token: str) -> SnapshotRecord:
        snapshot_id = f"snap-{hashlib.sha256(client_token.encode()).hexdigest()[:12]}"
        if snapshot_id in self.known_snapshots:
            return self.known_snapshots[snapshot_id]
        volume = self.get(id)
        await self._mount()
        target = self._pool / "snapshots" / snapshot_id
        if not target.exists():
            await run("btrfs", "subvolume", "snapshot", "-r", self.source(volume.id), target)
        record = SnapshotRecord(id=snapshot_id, client_token=client_token, volume=id, created=datetime.now(UTC))
        self._snapshots.write(record)
        self.known_snapshots[snapshot_id] = record
        return record

    async def delete_snapshot(self, id: str) -> None:
        if id not in self.known_snapshots:
            return
        await self._mount()
        self._snapshots.remove(id)
        del self.known_snapshots[id]
        target = self._pool / "snapshots" / id
        if target.exists():
            await self._delete_subvolume(target)

    async def _delete_subvolume(self, path: Path) -> None:
        """With the subvolumes that the instance made in it, as its own snapshots are, the innermost first."""
        listed = (await run("btrfs", "subvolume", "list", self._pool)).stdout.splitlines()
        inside = f"{path.relative_to(self._pool)}/"
        names = [line.partition(" path ")[2] for line in listed]
        for name in sorted((each for each in names if each.startswith(inside)), key=len, reverse=True):
            await run("btrfs", "subvolume", "delete", self._pool / name)
        await run("btrfs", "subvolume", "delete", path)


async def _bind_into(source: str, pid: int, target: str) -> None:
    program = Path(__file__).with_name("bind_into.py")
    done = await run(sys.executable, "-I", program, source, str(pid), target, check=False)
    if done.status == 2:
        raise Conflict(f"{target} is in use in the instance", hint="stop what has files open there, then repeat")
    if done.status != 0:
        raise Failed(f"a volume could not be shown at {target} in the instance", hint=done.stderr.strip())
