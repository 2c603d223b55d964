"""What only real instances can show of boots, power, consoles and limits."""

# ruff: noqa: ASYNC221  one test at a time has the loop; nothing waits for it meanwhile

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from cloud_lab import LocalLab, until
from conftest import NETWORK

from relaunch.clouds.cloud import InstanceState

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

HOST = str(NETWORK.network_address + 1)
MEGABYTE = 1 << 20


async def test_user_data_runs_once_and_a_reboot_keeps_address_and_disk(local: LocalLab) -> None:
    instance = await local.launch_booted(
        "web1", user_data="#!/bin/sh\necho ran >> /root/ran\necho out of the user data\n"
    )
    until(lambda: local.inside(instance.id, "cat /root/ran; :") == "ran", "the user data ran")
    before = local.inside(instance.id, "cat /etc/machine-id /proc/sys/kernel/hostname")

    await local.cloud.reboot(instance.id)
    local.booted(instance.id)
    local.inside(instance.id, "systemctl start run-user-data")

    assert local.inside(instance.id, "cat /root/ran") == "ran"
    assert local.inside(instance.id, "cat /etc/machine-id /proc/sys/kernel/hostname") == before
    assert instance.private_address in local.inside(instance.id, "ip -4 -o address show host0")
    assert "out of the user data" in await local.cloud.console_output(instance.id)
    assert (await local.cloud.instance(instance.id)).state is InstanceState.RUNNING


async def test_a_guest_may_reboot_and_shut_itself_down(local: LocalLab) -> None:
    instance = await local.launch_booted()
    first = local.cloud.init_process(instance.id)

    local.inside(instance.id, "touch /root/kept")
    local.inside(instance.id, "systemctl reboot --no-block", check=False)  # the reboot may end this command too
    until(lambda: local.cloud.init_process(instance.id) not in (None, first), "another boot")
    local.booted(instance.id)
    local.inside(instance.id, f"test -e /root/kept && ping -c1 -W2 {HOST}")
    local.inside(instance.id, "systemctl poweroff --no-block", check=False)
    # Its runner ends a moment after the guest's last process: until then it counts as running.
    until(lambda: not local.cloud._nspawn.is_running(instance.id), "shut down")
    await local.cloud.close()
    await local.cloud.open()

    assert (await local.cloud.instance(instance.id)).state is InstanceState.STOPPED
    await local.cloud.start(instance.id)
    local.booted(instance.id)


async def test_root_logs_in_with_the_key_given(local: LocalLab, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    instance = await local.launch_booted("web1", public_key=key.with_suffix(".pub").read_text())

    argv = ["ssh", "-i", str(key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    argv += ["-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5", f"root@{instance.private_address}", "hostname"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=15, stdin=subprocess.DEVNULL)

    assert (done.stdout, done.returncode) == ("web1\n", 0), done.stderr


async def test_a_booted_guest_has_no_failed_unit_and_lets_everyone_log_in(local: LocalLab) -> None:
    instance = await local.launch_booted()

    assert local.inside(instance.id, "systemctl is-system-running; systemctl --failed --no-legend") == "running"
    assert local.inside(instance.id, "ls /run/nologin /etc/nologin 2>/dev/null; :") == ""


async def test_power_off_gives_no_time_to_shut_down_and_stop_does(local: LocalLab) -> None:
    instance = await local.launch_booted()
    unit = (
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\nExecStop=sh -c 'echo in order >> /root/ended'\n"
    )
    local.inside(instance.id, f"cat > /etc/systemd/system/note.service <<'END'\n{unit}END\nsystemctl start note")

    started = time.monotonic()
    await local.cloud.power_off(instance.id)
    took = time.monotonic() - started
    ended = local.folder / "instances" / instance.id / "upper/root/ended"

    assert took < 2
    assert not ended.exists()
    await local.cloud.start(instance.id)
    local.booted(instance.id)
    local.inside(instance.id, "systemctl start note")
    await local.cloud.stop(instance.id)
    assert ended.read_text() == "in order\n"


async def test_the_console_is_bounded(local: LocalLab) -> None:
    instance = await local.launch_booted()
    local.inside(instance.id, "head -c 3000000 /dev/zero | tr '\\0' x > /dev/console; echo the end > /dev/console")
    console = local.folder / "instances" / instance.id / "console.log"
    until(lambda: "the end" in console.read_text()[-100:], "all of it has come out")

    local.cloud._instances.keep_house()

    assert console.stat().st_size <= MEGABYTE
    assert "the end" in await local.cloud.console_output(instance.id, last_bytes=100)
    local.inside(instance.id, "echo after that > /dev/console")
    until(lambda: console.read_text().rstrip().endswith("after that"), "what comes later")


async def test_limits_of_memory_are_in_force(local: LocalLab) -> None:
    instance = await local.launch_booted(memory_bytes=200 * MEGABYTE)

    greedy = "python3 -c 'x = bytearray(400 << 20); print(len(x))'"
    assert (
        local.inside(instance.id, f"systemd-run --quiet --wait --pipe {greedy} || echo killed", check=False) == "killed"
    )
