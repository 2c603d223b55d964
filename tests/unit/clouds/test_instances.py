"""What the local cloud makes of an instance's record when an end or a step of it fails; no guest runs."""

from __future__ import annotations

import errno
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, cast

import pytest

from relaunch.clouds.cloud import InstanceState
from relaunch.clouds.local import cloud as local_cloud
from relaunch.clouds.local import images
from relaunch.clouds.local.cloud import LocalCloud
from relaunch.clouds.local.firewall import Wall
from relaunch.clouds.local.nspawn import Nspawn
from relaunch.clouds.local.records import ImageRecord, InstanceRecord, Store, VolumeRecord, Wanted
from relaunch.errors import Conflict, Failed

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
BUILDER = InstanceRecord(
    id="i-1",
    client_token="t-1",
    name="bake",
    image="img-base",
    layers=("img-base",),
    zone="a",
    address="198.18.0.2",
    groups=(),
    tags={},
    wanted=Wanted.STOPPED,
    launched=BEGAN,
    prepared=True,
)


class Guests:
    """In the place of systemd-nspawn: who runs, and whose processes hang in the kernel."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.hanging: set[str] = set()

    def install_runner(self) -> None:
        return

    def is_running(self, instance: str) -> bool:
        return instance in self.running

    def ended_by_itself(self, instance: str) -> bool:
        return False

    async def running_groups(self) -> list[str]:
        return sorted(self.running)

    async def stop(self, instance: str) -> None:
        await self.kill(instance)

    async def kill(self, instance: str) -> None:
        if instance in self.hanging:
            raise Failed(f"{instance} does not die: a process of it hangs in the kernel")
        self.running.discard(instance)


async def nothing(*_: object) -> None:
    return


def cloud_in(folder: Path, guests: Guests, monkeypatch: pytest.MonkeyPatch) -> LocalCloud:
    """As a controller's start finds it; without bridge and rules, which only root makes."""
    monkeypatch.setattr(local_cloud.network, "create_bridge", nothing)
    monkeypatch.setattr(local_cloud.firewall, "put_up", nothing)
    cloud = LocalCloud(folder, network=IPv4Network("198.18.0.0/24"), bridge="none", recipes=folder)
    cloud._nspawn = cloud._instances._nspawn = cast(Nspawn, guests)
    cloud._instances._bridge = str(folder / "bridge")  # a whole path in the place of a name below /sys/class/net
    (folder / "bridge" / "brif").mkdir(parents=True, exist_ok=True)
    return cloud


def lay_out(folder: Path, *records: InstanceRecord) -> None:
    """A base image, and instances with their disks."""
    Store(folder / "images", "image.json").write(ImageRecord(id="img-base", name="base", parent=None, created=BEGAN))
    (folder / "images" / "img-base" / "tree" / "etc").mkdir(parents=True)
    for record in records:
        Store(folder / "instances", "instance.json").write(record)
        for name in ("upper/etc", "work", "root"):
            (folder / "instances" / record.id / name).mkdir(parents=True)


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_an_image_whose_builder_was_ended_half_way_is_given_up_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, BUILDER)
    cloud = cloud_in(tmp_path, Guests(), monkeypatch)
    await cloud.open()
    with monkeypatch.context() as full:
        full.setattr(images, "move_identity", full_disk)
        with pytest.raises(Conflict, match="no space left"):
            await cloud.create_image(cloud._instances.view(BUILDER).id, name="baked", tags={})
    await cloud.terminate(cloud._instances.view(BUILDER).id)
    await cloud.close()

    again = cloud_in(tmp_path, Guests(), monkeypatch)
    await again.open()

    assert [image.name for image in await again.images()] == ["base"]
    assert list((tmp_path / "images" / ".making").iterdir()) == []
    await again.close()


async def test_an_image_that_cannot_be_finished_keeps_no_controller_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lay_out(tmp_path, BUILDER)
    monkeypatch.setattr(images, "move_identity", full_disk)
    cloud = cloud_in(tmp_path, Guests(), monkeypatch)
    await cloud.open()
    with pytest.raises(Conflict, match="no space left"):
        await cloud.create_image(cloud._instances.view(BUILDER).id, name="baked", tags={})
    await cloud.close()

    still_full = cloud_in(tmp_path, Guests(), monkeypatch)
    await still_full.open()
    assert "the image baked could not be finished: no space left" in caplog.text
    await still_full.close()

    monkeypatch.undo()
    with_room = cloud_in(tmp_path, Guests(), monkeypatch)
    await with_room.open()

    assert sorted(image.name for image in await with_room.images()) == ["baked", "base"]
    await with_room.close()


async def test_an_instance_is_not_said_to_be_terminated_before_its_end_has_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = replace(BUILDER, wanted=Wanted.RUNNING, groups=("web",), cut_off=True)
    lay_out(tmp_path, running)
    guests = Guests()
    guests.running, guests.hanging = {"i-1"}, {"i-1"}
    cloud = cloud_in(tmp_path, guests, monkeypatch)
    await cloud.open()
    walls: list[Wall] = []

    async def put_up(wall: Wall) -> None:
        walls.append(wall)

    monkeypatch.setattr(local_cloud.firewall, "put_up", put_up)
    (instance,) = await cloud.instances()

    with pytest.raises(Failed, match="does not die"):
        await cloud.terminate(instance.id)

    assert (await cloud.instance(instance.id)).state is InstanceState.RUNNING
    await cloud.set_security_group("web", [])
    assert [(member.address, member.cut_off) for member in walls[-1].members] == [("198.18.0.2", True)]
    with pytest.raises(Conflict, match="is in use by instance i-1"):
        await cloud.delete_image(instance.image)
    await cloud.delete_security_group("web")
    for cut in (False, True):
        await cloud.cut_off(instance.id, cut)
        assert [member.cut_off for member in walls[-1].members] == [cut]

    guests.hanging.clear()
    await cloud.terminate(instance.id)

    assert (await cloud.instance(instance.id)).state is InstanceState.TERMINATED
    assert walls[-1].members == []
    with pytest.raises(Conflict, match="i-1 is terminated"):
        await cloud.cut_off(instance.id, True)
    await cloud.close()


async def test_an_instance_whose_end_met_a_full_disk_is_ended_with_its_volume_by_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, BUILDER)
    volume = VolumeRecord(
        id="vol-1", client_token="v", size_bytes=1 << 20, zone="a", attached_to="i-1", device="/srv/data"
    )
    Store(tmp_path / "volumes" / "volumes", "volume.json").write(volume)
    cloud = cloud_in(tmp_path, Guests(), monkeypatch)
    await cloud.open()
    (instance,) = await cloud.instances()
    with monkeypatch.context() as full:
        full.setattr(cloud._volumes, "_keep", full_disk)
        with pytest.raises(OSError, match="No space left"):
            await cloud.terminate(instance.id)

    assert (await cloud.instance(instance.id)).state is InstanceState.STOPPED
    await cloud.terminate(instance.id)

    assert (await cloud.instance(instance.id)).state is InstanceState.TERMINATED
    assert [each.attached_to for each in await cloud.volumes()] == [None]
    await cloud.close()


async def test_one_whose_processes_hang_keeps_no_controller_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lay_out(tmp_path, replace(BUILDER, wanted=Wanted.TERMINATED))
    guests = Guests()
    guests.running, guests.hanging = {"i-1", "i-unknown"}, {"i-1", "i-unknown"}
    (tmp_path / "instances" / "i-unknown").mkdir()
    cloud = cloud_in(tmp_path, guests, monkeypatch)

    await cloud.open()

    assert "instance i-unknown, which shall not run, could not be ended: i-unknown does not die" in caplog.text
    assert (tmp_path / "instances" / "i-unknown").exists()
    (instance,) = await cloud.instances()
    assert instance.state is InstanceState.RUNNING
    await cloud.close()


async def test_what_could_not_be_healed_at_the_start_is_named_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lay_out(tmp_path, BUILDER, replace(BUILDER, id="i-2", name="web", client_token="t-2", address="198.18.0.3"))
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes" / "pool.btrfs").write_text("no file system")
    guests = Guests()
    guests.hanging = {"i-2"}
    cloud = cloud_in(tmp_path, guests, monkeypatch)

    await cloud.open()

    assert "instance web (i-2) could not be made what it shall be: i-2 does not die" in caplog.text
    assert "the volumes are not there: " in caplog.text
    assert "bake" not in caplog.text
    await cloud.close()
