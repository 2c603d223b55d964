"""What goes on as long as the controller does: one error ends none of it."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relaunch.clouds.local import cloud as local_cloud
from relaunch.clouds.local.cloud import LocalCloud
from relaunch.controller import agents, children, main
from relaunch.controller.agents import AgentHub, AgentLost, _Link
from relaunch.controller.children import Child, Program

FULL = OSError(28, "No space left on device")


FLUSHED = """
import asyncio, subprocess, sys
from ipaddress import IPv4Network
from pathlib import Path
from relaunch.clouds.local import cloud, firewall

async def main():
    folder = Path(sys.argv[1])
    cloud.HOUSEKEEPING_SECONDS = 0.01
    made = cloud.LocalCloud(folder, network=IPv4Network("198.18.0.0/24"), bridge="none", recipes=folder)
    await made._put_up_wall()
    print(await firewall.stands("none"))
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    print(await firewall.stands("none"))
    keeping = asyncio.create_task(made._keep_house())
    for _ in range(100):
        await asyncio.sleep(0.1)
        if await firewall.stands("none"):
            break
    print(await firewall.stands("none"))
    keeping.cancel()

asyncio.run(main())
"""


async def for_a_while(loop: Any, seconds: float) -> None:
    """TimeoutError: it was still going on."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(loop, seconds)


def child_that(does: str, log: Path, ready: Callable[[], Awaitable[bool]]) -> Child:
    """`does`: in shell."""
    command = (shutil.which("dash") or "", "-c", does)
    program = Program(name="a child", command=command, log_file=log, pid_file=log.with_suffix(".pid"), ready=ready)
    return Child(program)


async def test_what_a_child_writes_for_months_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "LOG_BYTES", 10_000)
    monkeypatch.setattr(children, "LOG_SECONDS", 0.05)
    said = tmp_path / "child.log"

    async def ready() -> bool:
        return said.stat().st_size > 100_000

    lines = "i=0; while i=$((i + 1)); do echo line $i; [ $i -lt 20000 ] || sleep 0.01; done"
    child = child_that(lines, said, ready)
    await child.start()
    pid, before = child.pid, tmp_path / "child.log.1"
    try:
        for _ in range(100):
            await asyncio.sleep(0.05)
            if before.exists() and said.stat().st_size < 10_000:
                break
        assert before.stat().st_size > 10_000
        assert 0 < said.stat().st_size < 10_000
        assert said.read_text().splitlines()[-1].startswith("line ")
        assert child.pid == pid, "it never ended"
    finally:
        await child.stop()


async def test_a_child_is_started_again_though_its_log_could_not_be_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "LOG_BYTES", 0)
    monkeypatch.setattr(children, "LOG_SECONDS", 0.01)
    monkeypatch.setattr(children, "FIRST_PAUSE_SECONDS", 0.01)
    log = tmp_path / "log"
    child = child_that("echo; sleep 60", log, lambda: asyncio.sleep(0, log.stat().st_size > 0))
    await child.start()
    try:
        log.unlink()
        log.mkdir()  # which even root cannot make empty
        await asyncio.sleep(0.1)
        assert child.restarts == 0
        log.rmdir()
        os.kill(child.pid or 0, signal.SIGKILL)
        for _ in range(200):
            await asyncio.sleep(0.02)
            if child.restarts and child.pid:
                break
        assert child.restarts == 1
    finally:
        await child.stop()


async def test_a_child_that_runs_for_years_leaves_nothing_behind_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at once a minute, what one look leaves is half a million a year."""
    monkeypatch.setattr(children, "LOG_SECONDS", 0.001)
    child = child_that("sleep 60; :", tmp_path / "log", lambda: asyncio.sleep(0, True))
    await child.start()
    try:
        await asyncio.sleep(0.3)
        gc.collect()
        left = [each for each in gc.get_objects() if isinstance(each, asyncio.Future) and each.cancelled()]
        assert len(left) < 10
    finally:
        await child.stop()


async def test_knotd_is_started_again_after_a_start_without_room_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dns:
        starts = 0

        async def wait_ended(self) -> int:
            if self.starts > 1:
                await asyncio.Event().wait()
            return -9

        async def start(self) -> None:
            self.starts += 1
            if self.starts == 1:
                raise FULL

    monkeypatch.setattr(main, "RESTART_PAUSE_SECONDS", 0.01)
    dns = Dns()

    await for_a_while(main._keep_dns(dns), 0.3)  # type: ignore[arg-type]

    assert dns.starts == 2


async def test_agents_are_found_lost_after_an_error_of_the_database() -> None:
    def called(instance: str) -> str:
        if instance == "i-1":
            raise FULL
        return instance

    lost: list[str] = []
    records: Any = SimpleNamespace(called=called, begin_runs=None)
    hub = AgentHub(None, records, None, version="1")  # type: ignore[arg-type]
    hub.subscribe(lambda event: lost.append(event.instance) if isinstance(event, AgentLost) else None)
    hub._links["i-1"] = _Link(connection=1, heard=0.0)

    async def another() -> None:
        await asyncio.sleep(1.5)
        hub._links["i-2"] = _Link(connection=2, heard=0.0)

    await asyncio.gather(another(), for_a_while(hub._tick(), 2.5))

    assert lost == ["i-1", "i-2"]


async def test_agents_are_not_taken_for_silent_while_the_controller_itself_stood_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agents, "SILENT_SECONDS", 2.5)
    lost: list[str] = []
    records: Any = SimpleNamespace(called=str, begin_runs=None)
    hub = AgentHub(None, records, None, version="1")  # type: ignore[arg-type]
    hub.subscribe(lambda event: lost.append(event.instance) if isinstance(event, AgentLost) else None)
    hub._links["i-1"] = _Link(connection=1, heard=time.monotonic())

    def speak() -> None:
        hub._links["i-1"].heard = time.monotonic()

    asyncio.get_running_loop().call_later(0.5, time.sleep, 2.8)
    asyncio.get_running_loop().call_later(3.4, speak)
    await for_a_while(hub._tick(), 5.0)

    assert lost == []


async def test_the_local_cloud_keeps_house_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = LocalCloud(tmp_path, network=IPv4Network("198.18.0.0/24"), bridge="none", recipes=tmp_path)
    times: list[str] = []

    async def keep_wall() -> None:
        times.append("wall")
        raise FULL

    def keep_house() -> None:
        times.append("house")
        raise FULL

    monkeypatch.setattr(local_cloud, "HOUSEKEEPING_SECONDS", 0.01)
    monkeypatch.setattr(cloud, "_keep_wall", keep_wall)
    monkeypatch.setattr(cloud._instances, "keep_house", keep_house)

    await for_a_while(cloud._keep_house(), 0.2)

    assert times[:4] == ["wall", "house", "wall", "house"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes the kernel's rules")
@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed")
def test_the_local_clouds_rules_are_put_up_again_after_somebody_flushed_them(tmp_path: Path) -> None:
    """In a network namespace of its own, with the real nft."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", FLUSHED, tmp_path], capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "False", "True"]
    assert "the firewall rules of none are gone from the kernel" in done.stderr
