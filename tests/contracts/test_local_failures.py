"""Kills, reboots of the host, recipes and disks that fail: what is healed, and that nothing is left behind."""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC251  one test at a time has the loop; nothing waits for it meanwhile

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from cloud_lab import LocalLab, until
from conftest import BRIDGE, NETWORK, RECIPES

import relaunch
from relaunch.clouds.cloud import InstanceState
from relaunch.clouds.local.cloud import LocalCloud
from relaunch.clouds.local.nspawn import interface
from relaunch.errors import Conflict, Failed

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

HOST = str(NETWORK.network_address + 1)
MEGABYTE = 1 << 20
SOURCE = Path(relaunch.__file__).parents[1]


LAUNCH_MANY = """
import asyncio, sys
from ipaddress import IPv4Network
from pathlib import Path
from relaunch.clouds.cloud import LaunchRequest
from relaunch.clouds.local.cloud import LocalCloud

async def main():
    folder, network, bridge, image, prefix = sys.argv[1:]
    cloud = LocalCloud(Path(folder), network=IPv4Network(network), bridge=bridge, recipes=Path("/nowhere"))
    await cloud.open()
    print("open", flush=True)
    user_data = "#!/bin/sh\\necho ran >> /root/ran\\n"
    await asyncio.gather(*(
        cloud.launch(LaunchRequest(
            client_token=f"{prefix}{n}", name=f"k{n}", image=image, zone="a", user_data=user_data
        ))
        for n in range(4)
    ))
    print("launched", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("seed", range(5))
async def test_launches_killed_half_way_are_finished_and_nothing_is_launched_twice(local: LocalLab, seed: int) -> None:
    delay = random.Random(seed).uniform(0, 0.15)
    prefix = f"kill-{seed}-{time.time_ns()}-"
    await local.cloud.close()
    argv = [sys.executable, "-c", LAUNCH_MANY, str(local.folder), str(NETWORK), BRIDGE, local.image, prefix]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as controller:
        assert controller.stdout is not None
        assert controller.stdout.readline() == "open\n"
        time.sleep(delay)
        controller.send_signal(signal.SIGKILL)
    await local.cloud.open()

    recorded = await local.cloud.instances()
    again = await asyncio.gather(
        *(
            local.launch(f"k{n}", client_token=f"{prefix}{n}", user_data="#!/bin/sh\necho ran >> /root/ran\n")
            for n in range(4)
        )
    )

    present = [each for each in await local.cloud.instances() if each.client_token.startswith(prefix)]
    assert {each.id for each in present} == {each.id for each in again}, f"seed {seed}, {len(recorded)} were recorded"
    assert len({each.private_address for each in present}) == 4
    for instance in present:
        assert instance.state is InstanceState.RUNNING
        local.booted(instance.id)
        until(lambda id=instance.id: local.inside(id, "cat /root/ran; :") == "ran", "the user data ran once")
    assert sorted(cable.name for cable in Path("/sys/class/net", BRIDGE, "brif").iterdir()) == sorted(
        interface(each.id) for each in present
    )


async def test_what_a_reboot_of_the_host_or_a_killed_runner_leaves_is_healed(local: LocalLab) -> None:
    instance, stopped = await local.launch_booted(), await local.launch_booted()
    local.inside(instance.id, "echo kept > /root/file; sync")
    await local.cloud.stop(stopped.id)
    await local.cloud.close()
    runner = int((local.folder / "instances" / instance.id / "running").read_text())
    init = local.cloud.init_process(instance.id)
    os.kill(runner, signal.SIGKILL)
    subprocess.run(["ip", "link", "delete", BRIDGE], check=True)
    (local.folder / "instances" / "i-00000000ff").mkdir()

    await local.cloud.open()
    local.booted(instance.id)

    assert local.cloud.init_process(instance.id) != init
    assert (
        local.inside(instance.id, f"cat /root/file; ping -c1 -W2 {HOST} > /dev/null && echo reached") == "kept\nreached"
    )
    assert (await local.cloud.instance(stopped.id)).state is InstanceState.STOPPED
    assert not (local.folder / "instances" / "i-00000000ff").exists()


async def test_instances_live_on_while_the_controller_is_away(local: LocalLab) -> None:
    instance = await local.launch_booted()
    init = local.cloud.init_process(instance.id)

    await local.cloud.close()
    local.inside(instance.id, f"ping -c1 -W2 {HOST}")
    await local.cloud.open()

    assert local.cloud.init_process(instance.id) == init


async def test_a_second_controller_is_refused(local: LocalLab) -> None:
    second = LocalCloud(local.folder, network=NETWORK, bridge=BRIDGE, recipes=RECIPES)

    with pytest.raises(Conflict, match=f"process {os.getpid()}"):
        await second.open()


async def test_a_taken_range_or_bridge_is_refused_by_name(local: LocalLab, tmp_path: Path) -> None:
    inside = LocalCloud(tmp_path / "one", network=IPv4Network("198.19.0.0/20"), bridge="rlA1", recipes=RECIPES)
    same = LocalCloud(tmp_path / "two", network=IPv4Network("198.19.13.0/24"), bridge=BRIDGE, recipes=RECIPES)

    with pytest.raises(Conflict, match=rf"198\.19\.0\.0/24 dev {BRIDGE}"):
        await inside.open()
    with pytest.raises(Conflict, match=str(local.folder)):
        await same.open()

    assert not Path("/sys/class/net/rlA1").exists()


async def test_a_recipe_that_fails_says_why_and_leaves_nothing(local: LocalLab, tmp_path: Path) -> None:
    recipe = tmp_path / "broken"
    recipe.mkdir()
    script = (
        "#!/bin/sh\nmkdir -p $1/proc && mount -t tmpfs none $1/proc\necho first\necho the disk is sour >&2\nexit 3\n"
    )
    (recipe / "build").write_text(script)
    (recipe / "build").chmod(0o755)
    cloud = LocalCloud(tmp_path / "cloud", network=IPv4Network("198.19.13.0/24"), bridge="rlA1", recipes=tmp_path)
    await cloud.open()
    try:
        seen: list[str] = []
        with pytest.raises(Failed, match="exit status 3") as failure:
            await cloud.base_image("broken", seen.append)

        assert "the disk is sour" in failure.value.hint
        assert seen == ["first", "the disk is sour"]
        assert list((tmp_path / "cloud/images").iterdir()) == []
        assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    finally:
        await cloud.down(purge=True)


async def test_no_space_is_said_and_nothing_half_made_remains(local: LocalLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relaunch.clouds.local.files.free_bytes", lambda folder: 10 * MEGABYTE)
    before = sorted((local.folder / "instances").iterdir())

    with pytest.raises(Conflict, match="no space left"):
        await local.launch()
    with pytest.raises(Conflict, match="no space left"):
        await local.cloud.create_volume(client_token="v", size_bytes=64 * MEGABYTE, zone="a")

    assert sorted((local.folder / "instances").iterdir()) == before


def left_on_the_host(folder: Path) -> list[str]:
    """What of this cloud is still on the host: processes, mounts, links, tables, loop devices, control groups."""
    found = [f"process {pid.name}" for pid in Path("/proc").iterdir() if pid.name.isdigit() and _is_of(pid, folder)]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]
    found += [link.name for link in Path("/sys/class/net").iterdir() if link.name == BRIDGE]
    for command in ("nft list tables", "losetup --list --output BACK-FILE"):
        output = subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout
        found += [line for line in output.splitlines() if f"relaunch_{BRIDGE}" in line or str(folder) in line]
    found += [group for group, _, _ in os.walk("/sys/fs/cgroup") if group.endswith(f"/relaunch/{BRIDGE}")]
    return found + [str(each) for each in Path("/run/relaunch").glob(f"uplinks/*/for-{BRIDGE}")]


def _is_of(pid: Path, folder: Path) -> bool:
    try:
        return str(folder).encode() in (pid / "cmdline").read_bytes() and pid.name != str(os.getpid())
    except OSError:
        return False


async def test_down_leaves_nothing_and_the_next_open_starts_what_ran(local: LocalLab) -> None:
    volume = await local.cloud.create_volume(client_token="data", size_bytes=64 * MEGABYTE, zone="a")
    instance = await local.launch_booted()
    await local.cloud.attach_volume(volume.id, instance.id, "/srv/data")
    local.inside(instance.id, "echo kept > /srv/data/file")
    assert left_on_the_host(local.folder), "the check finds what is there"

    await local.cloud.down()
    left = left_on_the_host(local.folder)
    await local.cloud.down()
    await local.cloud.open()
    local.booted(instance.id)

    assert left == []
    assert local.inside(instance.id, "cat /srv/data/file") == "kept"


async def test_putting_away_takes_nothing_of_another_cloud_with_the_same_bridge(
    local: LocalLab, tmp_path: Path
) -> None:
    def standing() -> list[str]:
        return sorted(line for line in left_on_the_host(local.folder) if not line.startswith("process"))

    instance = await local.launch_booted()
    init, before = local.cloud.init_process(instance.id), standing()
    same = LocalCloud(tmp_path / "two", network=NETWORK, bridge=BRIDGE, recipes=RECIPES)

    await same.down(purge=True)

    assert local.cloud.init_process(instance.id) == init
    assert standing() == before
    assert any("table" in line for line in before)


async def test_servers_are_put_away_by_the_systems_own_python_alone(local: LocalLab) -> None:
    instance = await local.launch_booted()
    local.inside(instance.id, "echo kept > /root/file; sync")
    await local.cloud.close()
    argv = ["/usr/bin/python3", "-S", "-m", "relaunch.cli.put_away"]
    argv += ["--state", str(local.folder.parent), "--network", str(NETWORK), "--bridge", BRIDGE]
    done = subprocess.run(
        argv, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=90
    )
    left = left_on_the_host(local.folder)
    await local.cloud.open()
    local.booted(instance.id)

    assert (done.returncode, done.stderr) == (0, "")
    assert left == []
    assert local.inside(instance.id, "cat /root/file") == "kept"


async def test_twenty_at_once(local: LocalLab, record_property: object) -> None:
    started = time.time()
    user_data = "#!/bin/sh\ndate +%s.%N > /root/ran.new\nmv /root/ran.new /root/ran\n"

    instances = await asyncio.gather(*(local.launch(f"n{n}", user_data=user_data) for n in range(20)))
    ran = [local.folder / "instances" / each.id / "upper/root/ran" for each in instances]
    until(lambda: all(file.exists() for file in ran), "user data on all twenty", seconds=60)
    took = max(float(file.read_text()) for file in ran) - started

    print(f"\ntwenty at once: all at their user data after {took:.1f} s")
    assert took < 40, "on two idle cores it is 10"
    assert len({each.private_address for each in instances}) == 20
