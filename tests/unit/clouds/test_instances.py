"""What the local cloud makes of an instance's record when an end or a step of it fails; no guest runs."""

from __future__ import annotations

import errno
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, cast

import pytest

from relaunch.clouds.local import cloud as local_cloud
from relaunch.clouds.local import images
from relaunch.clouds.local.cloud import LocalCloud
from relaunch.clouds.local.nspawn import Nspawn
from relaunch.clouds.local.records import ImageRecord, InstanceRecord, Store, Wanted
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


def full_disk(**_: Any) -> None:
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
