"""What every cloud promises: the same cases on the fake and on real instances of the local cloud."""

from __future__ import annotations

import asyncio

import pytest
from cloud_lab import Lab

from relaunch.clouds.cloud import (
    Cloud,
    ImageId,
    IngressRule,
    InstanceId,
    InstanceState,
    SnapshotId,
    VolumeId,
)
from relaunch.errors import BadInput, Conflict, NotFound

pytestmark = pytest.mark.asyncio(loop_scope="session")

ANYWHERE = "0.0.0.0/0"
HTTP = IngressRule(protocol="tcp", from_port=80, to_port=80, source=ANYWHERE)
MEGABYTE = 1 << 20


async def test_it_is_a_cloud(lab: Lab) -> None:
    cloud: Cloud = lab.cloud

    assert cloud.zones == ("a", "b")


async def test_a_launch_repeated_with_its_token_is_the_same_instance(lab: Lab) -> None:
    request = lab.request("web1", tags={"role": "web"})

    first, second = await asyncio.gather(lab.cloud.launch(request), lab.cloud.launch(request))
    third = await lab.cloud.launch(request)

    assert first.id == second.id == third.id
    assert (third.name, third.zone, third.tags) == ("web1", "a", {"role": "web"})
    assert [each.id for each in await lab.cloud.instances()].count(first.id) == 1
    assert third.state is InstanceState.RUNNING


async def test_a_token_of_a_terminated_instance_launches_nothing(lab: Lab) -> None:
    request = lab.request()
    first = await lab.cloud.launch(request)
    await lab.cloud.terminate(first.id)

    again = await lab.cloud.launch(request)

    assert (again.id, again.state) == (first.id, InstanceState.TERMINATED)


async def test_two_tokens_are_two_instances_with_two_addresses(lab: Lab) -> None:
    one, two = await asyncio.gather(lab.launch("same"), lab.launch("same"))

    assert one.id != two.id
    assert one.private_address != two.private_address


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"zone": "z"}, BadInput),
        ({"image": ImageId("img-000000000000")}, NotFound),
        ({"security_groups": ("nobody",)}, NotFound),
        ({"name": "not a host name"}, BadInput),
    ],
)
async def test_a_launch_that_cannot_be_is_refused_and_leaves_nothing(
    lab: Lab, change: dict[str, object], error: type[Exception]
) -> None:
    before = len(await lab.cloud.instances())

    with pytest.raises(error):
        await lab.launch(**{"name": "x", **change})

    assert len(await lab.cloud.instances()) == before


async def test_instances_are_found_by_tags(lab: Lab) -> None:
    await lab.launch(tags={"deployment": "shop", "role": "web"})
    mine = await lab.launch(tags={"deployment": "shop", "role": "db"})

    found = await lab.cloud.instances(tags={"deployment": "shop", "role": "db"})

    assert [each.id for each in found if each.state is not InstanceState.TERMINATED] == [mine.id]


async def test_an_instance_stops_starts_loses_power_and_terminates(lab: Lab) -> None:
    cloud, instance = lab.cloud, await lab.launch()

    async def state() -> InstanceState:
        return (await cloud.instance(instance.id)).state

    await cloud.stop(instance.id)
    assert await state() is InstanceState.STOPPED
    await cloud.stop(instance.id)
    await cloud.start(instance.id)
    assert await state() is InstanceState.RUNNING
    await cloud.start(instance.id)
    await cloud.power_off(instance.id)
    assert await state() is InstanceState.STOPPED
    await cloud.start(instance.id)
    assert await state() is InstanceState.RUNNING
    await cloud.terminate(instance.id)
    await cloud.terminate(instance.id)
    assert await state() is InstanceState.TERMINATED
    assert (await cloud.instance(instance.id)).private_address == instance.private_address


async def test_a_terminated_instance_refuses_everything_but_questions(lab: Lab) -> None:
    instance = await lab.launch()
    await lab.cloud.terminate(instance.id)

    for refused in (
        lab.cloud.start(instance.id),
        lab.cloud.stop(instance.id),
        lab.cloud.reboot(instance.id),
        lab.cloud.power_off(instance.id),
        lab.cloud.cut_off(instance.id, True),
        lab.cloud.set_instance_groups(instance.id, ()),
        lab.cloud.create_image(instance.id, name="never", tags={}),
    ):
        with pytest.raises(Conflict):
            await refused


async def test_an_unknown_instance_is_not_found_and_terminates_without_error(lab: Lab) -> None:
    unknown = InstanceId("i-ffffffffff")

    for refused in (
        lab.cloud.instance(unknown),
        lab.cloud.start(unknown),
        lab.cloud.stop(unknown),
        lab.cloud.reboot(unknown),
        lab.cloud.console_output(unknown),
    ):
        with pytest.raises(NotFound):
            await refused
    await lab.cloud.terminate(unknown)


async def test_a_stopped_instance_does_not_reboot(lab: Lab) -> None:
    instance = await lab.launch()
    await lab.cloud.stop(instance.id)

    with pytest.raises(Conflict):
        await lab.cloud.reboot(instance.id)


async def test_an_image_is_made_of_a_stopped_instance_once(lab: Lab) -> None:
    builder = await lab.launch("builder")
    with pytest.raises(Conflict, match="not stopped"):
        await lab.cloud.create_image(builder.id, name="baked", tags={})
    await lab.cloud.stop(builder.id)

    image = await lab.cloud.create_image(builder.id, name="baked", tags={"bake": "1"})
    again = await lab.cloud.create_image(builder.id, name="baked", tags={"bake": "2"})

    assert again == image
    assert (image.name, image.tags, image.parent) == ("baked", {"bake": "1"}, lab.image)
    assert image.id in [each.id for each in await lab.cloud.images()]
    await lab.cloud.terminate(builder.id)
    launched = await lab.launch(image=image.id)
    assert (launched.image, launched.state) == (image.id, InstanceState.RUNNING)


async def test_an_image_in_use_is_not_deleted(lab: Lab) -> None:
    builder = await lab.launch("builder")
    await lab.cloud.stop(builder.id)
    image = await lab.cloud.create_image(builder.id, name="used", tags={})
    await lab.cloud.terminate(builder.id)
    user = await lab.launch(image=image.id)

    with pytest.raises(Conflict, match=user.id):
        await lab.cloud.delete_image(image.id)
    with pytest.raises(Conflict):
        await lab.cloud.delete_image(lab.image)
    await lab.cloud.terminate(user.id)
    with pytest.raises(Conflict, match="used"):
        await lab.cloud.delete_image(lab.image)
    await lab.cloud.delete_image(image.id)
    await lab.cloud.delete_image(image.id)

    assert image.id not in [each.id for each in await lab.cloud.images()]


async def test_security_groups_are_kept_as_set(lab: Lab) -> None:
    await lab.cloud.set_security_group("web", [HTTP])
    await lab.cloud.set_security_group("web", [HTTP, HTTP])
    await lab.cloud.set_security_group("none", [])
    instance = await lab.launch(security_groups=("web",))

    assert await lab.cloud.security_groups() == {"web": (HTTP, HTTP), "none": ()}
    with pytest.raises(Conflict, match=instance.id):
        await lab.cloud.delete_security_group("web")
    with pytest.raises(NotFound):
        await lab.cloud.set_instance_groups(instance.id, ["nobody"])
    await lab.cloud.set_instance_groups(instance.id, ["none"])
    assert (await lab.cloud.instance(instance.id)).security_groups == ("none",)
    await lab.cloud.delete_security_group("web")
    await lab.cloud.delete_security_group("web")
    assert set(await lab.cloud.security_groups()) == {"none"}


@pytest.mark.parametrize(
    "rule",
    [
        IngressRule(protocol="sctp", from_port=1, to_port=1, source=ANYWHERE),
        IngressRule(protocol="tcp", from_port=0, to_port=80, source=ANYWHERE),
        IngressRule(protocol="tcp", from_port=81, to_port=80, source=ANYWHERE),
        IngressRule(protocol="tcp", from_port=80, to_port=65536, source=ANYWHERE),
        IngressRule(protocol="tcp", from_port=80, to_port=80, source="anywhere"),
        IngressRule(protocol="tcp", from_port=80, to_port=80, source="10.0.0.1/8"),
    ],
)
async def test_a_malformed_rule_is_refused_and_changes_nothing(lab: Lab, rule: IngressRule) -> None:
    await lab.cloud.set_security_group("web", [HTTP])

    with pytest.raises(BadInput):
        await lab.cloud.set_security_group("web", [rule])

    assert (await lab.cloud.security_groups())["web"] == (HTTP,)


async def test_cut_off_shows_and_ends(lab: Lab) -> None:
    instance = await lab.launch()

    await lab.cloud.cut_off(instance.id, True)
    assert (await lab.cloud.instance(instance.id)).cut_off
    await lab.cloud.cut_off(instance.id, False)
    assert not (await lab.cloud.instance(instance.id)).cut_off


async def test_a_volume_is_in_one_place_at_a_time(lab: Lab) -> None:
    volume = await lab.cloud.create_volume(client_token="v1", size_bytes=64 * MEGABYTE, zone="a")
    again = await lab.cloud.create_volume(client_token="v1", size_bytes=64 * MEGABYTE, zone="a")
    other = await lab.cloud.create_volume(client_token="v2", size_bytes=64 * MEGABYTE, zone="a")
    here, there = await lab.launch(), await lab.launch()
    far = await lab.launch(zone="b")

    assert again == volume
    await lab.cloud.attach_volume(volume.id, here.id, "/srv/data")
    await lab.cloud.attach_volume(volume.id, here.id, "/srv/data")
    with pytest.raises(Conflict, match=here.id):
        await lab.cloud.attach_volume(volume.id, there.id, "/srv/data")
    with pytest.raises(Conflict, match="taken"):
        await lab.cloud.attach_volume(other.id, here.id, "/srv/data")
    with pytest.raises(Conflict, match="zone"):
        await lab.cloud.attach_volume(other.id, far.id, "/srv/data")
    with pytest.raises(BadInput):
        await lab.cloud.attach_volume(other.id, there.id, "srv/data")
    with pytest.raises(Conflict):
        await lab.cloud.delete_volume(volume.id)
    await lab.cloud.detach_volume(volume.id)
    await lab.cloud.detach_volume(volume.id)
    await lab.cloud.delete_volume(volume.id)
    await lab.cloud.delete_volume(volume.id)

    assert [each.id for each in await lab.cloud.volumes()] == [other.id]


async def test_a_snapshot_outlives_its_volume(lab: Lab) -> None:
    volume = await lab.cloud.create_volume(client_token="v1", size_bytes=MEGABYTE, zone="a")
    snapshot = await lab.cloud.snapshot_volume(volume.id, client_token="s1")
    again = await lab.cloud.snapshot_volume(volume.id, client_token="s1")
    await lab.cloud.delete_volume(volume.id)

    restored = await lab.cloud.create_volume(
        client_token="v2", size_bytes=MEGABYTE, zone="a", from_snapshot=snapshot.id
    )

    assert again == snapshot
    assert restored.from_snapshot == snapshot.id
    await lab.cloud.delete_snapshot(snapshot.id)
    await lab.cloud.delete_snapshot(snapshot.id)
    assert not await lab.cloud.snapshots()


async def test_volumes_that_cannot_be_are_refused(lab: Lab) -> None:
    with pytest.raises(BadInput):
        await lab.cloud.create_volume(client_token="v", size_bytes=1, zone="a")
    with pytest.raises(BadInput):
        await lab.cloud.create_volume(client_token="v", size_bytes=MEGABYTE, zone="z")
    with pytest.raises(NotFound):
        await lab.cloud.create_volume(
            client_token="v", size_bytes=MEGABYTE, zone="a", from_snapshot=SnapshotId("snap-0")
        )
    with pytest.raises(NotFound):
        await lab.cloud.detach_volume(VolumeId("vol-0"))
    assert not await lab.cloud.volumes()
