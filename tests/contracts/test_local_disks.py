"""What only real instances can show of images and volumes."""

# ruff: noqa: ASYNC221  one test at a time has the loop; nothing waits for it meanwhile

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

import pytest
from cloud_lab import LocalLab, until

from relaunch.errors import Conflict

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

MEGABYTE = 1 << 20


async def test_an_image_has_what_its_builder_wrote_and_nobody_s_identity(local: LocalLab) -> None:
    data = "#!/bin/sh\necho secret > /etc/relaunch/token\nhostname > /root/who\n"
    builder = await local.launch_booted("builder", user_data=data.replace("echo", "mkdir -p /etc/relaunch; echo"))
    until(lambda: local.inside(builder.id, "cat /root/who; :", check=False) == "builder", "the user data ran")
    local.inside(
        builder.id,
        "echo baked > /srv/baked; rm /usr/bin/less; rm -r /etc/ssh/sshd_config.d; mkdir /etc/ssh/sshd_config.d",
    )
    identity = local.inside(builder.id, "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub")
    await local.cloud.stop(builder.id)

    image = await local.cloud.create_image(builder.id, name="baked-real", tags={})
    tree = local.folder / "images" / image.id / "tree"
    one, two = await asyncio.gather(
        local.launch_booted("one", image=image.id, user_data=data.replace("echo", "mkdir /etc/relaunch; echo")),
        local.launch_booted("two", image=image.id),
    )
    await local.cloud.start(builder.id)
    local.booted(builder.id)

    left = [str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [
        path for path in left if re.search(r"machine-id|ssh_host|cloud/|relaunch/|10-host0|var/log/|resolv", path)
    ]
    assert (
        local.inside(one.id, "cat /srv/baked; test -e /usr/bin/less || echo gone; ls /etc/ssh/sshd_config.d")
        == "baked\ngone"
    )
    until(lambda: local.inside(one.id, "cat /root/who; :") == "one", "its own user data ran")
    ids = [
        local.inside(each.id, "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub") for each in (one, two, builder)
    ]
    assert len(set(ids)) == 3
    assert ids[2] == identity, "the builder itself stays who it was"


async def test_images_stand_on_images(local: LocalLab) -> None:
    image = local.image
    for number in range(4):
        builder = await local.launch_booted("builder", image=image)
        local.inside(builder.id, f"echo {number} >> /srv/layers")
        await local.cloud.stop(builder.id)
        image = (await local.cloud.create_image(builder.id, name=f"layer-{number}", tags={})).id
        await local.cloud.terminate(builder.id)

    top = await local.launch_booted(image=image)

    assert local.inside(top.id, "cat /srv/layers") == "0\n1\n2\n3"
    await local.cloud.terminate(top.id)
    for number in reversed(range(4)):
        found = [each for each in await local.cloud.images() if each.name == f"layer-{number}"]
        await local.cloud.delete_image(found[0].id)


async def test_a_volume_outlives_reboots_and_its_instance(local: LocalLab) -> None:
    volume = await local.cloud.create_volume(client_token="data", size_bytes=64 * MEGABYTE, zone="a")
    instance = await local.launch_booted()

    await local.cloud.attach_volume(volume.id, instance.id, "/srv/data")
    local.inside(instance.id, "echo kept > /srv/data/file && mountpoint -q /srv/data")
    await local.cloud.reboot(instance.id)
    local.booted(instance.id)
    assert local.inside(instance.id, "cat /srv/data/file") == "kept"
    snapshot = await local.cloud.snapshot_volume(volume.id, client_token="then")
    local.inside(instance.id, "echo later > /srv/data/file")
    await local.cloud.terminate(instance.id)

    assert (await local.cloud.volumes())[0].attached_to is None
    restored = await local.cloud.create_volume(
        client_token="again", size_bytes=64 * MEGABYTE, zone="a", from_snapshot=snapshot.id
    )
    other = await local.launch_booted()
    await local.cloud.attach_volume(volume.id, other.id, "/srv/data")
    await local.cloud.attach_volume(restored.id, other.id, "/srv/old")
    assert local.inside(other.id, "cat /srv/data/file /srv/old/file") == "later\nkept"
    local.inside(other.id, "systemd-run -q sleep 1000; cd /srv/old && systemd-run -q --same-dir sleep 1000")
    with pytest.raises(Conflict, match="in use"):
        await local.cloud.detach_volume(restored.id)
    await local.cloud.detach_volume(volume.id)
    assert local.inside(other.id, "ls /srv/data") == ""


async def test_with_a_volume_the_snapshots_that_its_instance_made_in_it_go(local: LocalLab) -> None:
    volume = await local.cloud.create_volume(client_token="data", size_bytes=64 * MEGABYTE, zone="a")
    place = next(local.folder.glob("**/pool/volumes/*"))
    (place / "snapshots").mkdir()
    for name in ("snapshots/1", "snapshots/2"):
        subprocess.run(["btrfs", "subvolume", "snapshot", "-r", place, place / name], check=True)

    await local.cloud.delete_volume(volume.id)

    assert list(place.parent.iterdir()) == []


async def test_an_instance_does_not_hold_another_cloud_s_volumes(local: LocalLab, tmp_path: Path) -> None:
    pool = tmp_path / "volumes/pool"
    pool.mkdir(parents=True)
    with (tmp_path / "disk").open("wb") as disk:
        disk.truncate(256 * MEGABYTE)
    subprocess.run(["mkfs.btrfs", "--quiet", str(disk.name)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk.name), str(pool)], check=True)
    try:
        instance = await local.launch_booted()
    finally:
        subprocess.run(["umount", str(pool)], check=True)

    def holders() -> str:
        return subprocess.run(["losetup", "-j", str(disk.name)], capture_output=True, text=True, check=True).stdout

    until(lambda: holders() == "", "the loop device is free", seconds=3)
    assert local.cloud.init_process(instance.id) is not None


async def test_a_volume_s_path_cannot_lead_out_of_the_instance(local: LocalLab, tmp_path: Path) -> None:
    volume = await local.cloud.create_volume(client_token="data", size_bytes=64 * MEGABYTE, zone="a")
    instance = await local.launch_booted()
    local.inside(instance.id, f"mkdir -p {tmp_path} && ln -s {tmp_path} /srv/out")

    await local.cloud.attach_volume(volume.id, instance.id, "/srv/out/data")

    assert list(tmp_path.iterdir()) == []
    assert local.inside(instance.id, f"mountpoint {tmp_path}/data") == f"{tmp_path}/data is a mountpoint"
