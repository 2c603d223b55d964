"""Runs carried out by real runners; the bus and the disk are as a test wants them."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from relaunch.bus.messages import (
    Accepted,
    Blob,
    CancelRun,
    Output,
    Refused,
    RunProgress,
    RunScripts,
    ScriptToRun,
    Stored,
    UpgradeAgent,
)
from relaunch_agent import journal, runner, runs
from relaunch_agent.blobs import BlobStore
from relaunch_agent.disk import append_record, last_record
from relaunch_agent.jobs import runner_lives
from relaunch_agent.journal import Journal
from relaunch_agent.link import Link
from relaunch_agent.main import Agent
from relaunch_agent.packages import installation
from relaunch_agent.places import Places
from relaunch_agent.runs import Runs

BOOT = "boot-1"


class Controller:
    """It stores whatever it is told."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.connected.set()
        self.told: list[tuple[str, int]] = []

    async def send(self, output: Output) -> None:
        pass

    async def report(self, message: RunProgress) -> Stored:
        self.told.append((message.run.state, message.sequence))
        return Stored()


class OneScript:
    """Whatever blob is wanted."""

    def __init__(self, file: Path, text: str) -> None:
        self._file = file
        file.write_text(text)

    async def file(self, blob: Blob, *, patience_seconds: float) -> Path:
        return self._file


class Disk:
    """Takes no record while it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        monkeypatch.setattr(journal, "append_record", self._append)
        monkeypatch.setattr(runs, "DISK_SECONDS", 0.05)

    def _append(self, file: Path, value: Any, *, durable: bool = False) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        append_record(file, value, durable=durable)


async def at_once() -> None:
    pass


def runs_of(
    folder: Path, script: str, controller: Controller, first_view: Callable[[], Awaitable[None]] = at_once
) -> Runs:
    return Runs(
        Journal(folder / "runs", folder / "logs"), cast(BlobStore, OneScript(folder / "script", script)),
        cast(Link, controller), agent="i-1", boot_id=BOOT, first_view=first_view, after_each=lambda: None,
    )  # fmt: skip


def order(run_id: str, phase: str = "operational") -> RunScripts:
    return RunScripts(run_id, phase, [ScriptToRun("script", Blob("script", "0" * 64, 1))])


async def until(true: Callable[[], object], *, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def test_a_run_whose_end_finds_the_disk_full_is_told_as_it_ended_and_saved_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, disk = Controller(), Disk(monkeypatch)
    ran = runs_of(tmp_path, "#!/bin/sh\n", controller)
    reporting = asyncio.ensure_future(ran.report_for_ever())
    ran.begin(order("r1"))
    disk.full = True
    await until(lambda: controller.told)

    assert ran.state_of("r1").state == "succeeded"
    assert controller.told[-1][0] == "succeeded"
    assert (tmp_path / "runs/r1/order.json").exists()

    disk.full = False
    await until(lambda: not (tmp_path / "runs/r1/order.json").exists())
    record = last_record(tmp_path / "runs/r1/run.json")
    assert record and record["progress"]["run"]["state"] == "succeeded"
    assert record["acknowledged"] == record["progress"]["sequence"]
    assert not reporting.done()
    reporting.cancel()


async def test_boot_scripts_begin_once_the_server_knows_what_it_is(tmp_path: Path) -> None:
    view, done = asyncio.Event(), tmp_path / "done"

    async def first_view() -> None:
        await view.wait()

    ran = runs_of(tmp_path, f"#!/bin/sh\ntouch {done}\n", Controller(), first_view)
    ran.begin(order("b1", "boot"))
    ran.begin(order("b2", "boot"))
    ran.begin(order("r1"))
    await until(lambda: ran.state_of("r1").state == "succeeded")
    done.unlink()
    ran.cancel("b2")
    await until(lambda: ran.state_of("b2").state == "cancelled")
    assert ran.state_of("b1").state == "running" and not done.exists()

    view.set()

    await until(lambda: ran.state_of("b1").state == "succeeded")
    assert done.exists()


async def test_boot_scripts_that_have_begun_are_followed_though_the_next_agent_has_no_view(tmp_path: Path) -> None:
    """The disk had no room for it."""
    go = tmp_path / "go"
    ran = runs_of(tmp_path, f"#!/bin/sh\nuntil [ -e {go} ]; do sleep 0.05; done\n", Controller())
    ran.begin(order("b1", "boot"))
    await until(lambda: list(tmp_path.glob("runs/b1/*/started")))
    for task in list(ran._tasks):  # it ends
        task.cancel()

    again = runs_of(tmp_path, "#!/bin/sh\n", Controller(), asyncio.Event().wait)  # type: ignore[arg-type]
    again.load()
    go.touch()

    await until(lambda: again.state_of("b1").state == "succeeded")


async def test_a_run_that_is_cancelled_as_its_agent_ends_is_over_when_its_script_is(tmp_path: Path) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    at_its_end = f"until [ -e {go} ]; do sleep 0.05; done; exit 1"
    script = f"#!/bin/sh\ntrap '{at_its_end}' TERM\ntouch {begun}\nwhile :; do sleep 0.05; done\n"
    ran = runs_of(tmp_path, script, Controller())
    ran.begin(order("r1"))
    await until(begun.exists)
    for task in list(ran._tasks):  # it ends
        task.cancel()
    ran._runs["r1"].cancelled = True
    ran._save(ran._runs["r1"])

    again = runs_of(tmp_path, "#!/bin/sh\n", Controller())
    again.load()
    await asyncio.sleep(0.3)
    assert again.state_of("r1").state == "running", "its script is not over"
    go.touch()

    await until(lambda: again.state_of("r1").state == "cancelled")
    assert not runner_lives(tmp_path / "runs/r1/0")


async def test_boot_scripts_that_wait_in_vain_say_for_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "VIEW_SECONDS", 0.3)
    monkeypatch.setattr(runs, "CANCELLED_SECONDS", 0.05)
    ran = runs_of(tmp_path, "#!/bin/sh\n", Controller(), asyncio.Event().wait)  # type: ignore[arg-type]
    ran.begin(order("b1", "boot"))

    await until(lambda: ran.state_of("b1").state == "failed")

    assert "has not told this server within 0.3 s what it is" in ran.state_of("b1").detail


async def test_a_step_that_finds_the_disk_full_is_told_once_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, disk = Controller(), Disk(monkeypatch)
    go_on = tmp_path / "go-on"
    ran = runs_of(tmp_path, f"#!/bin/sh\nwhile ! [ -e {go_on} ]; do sleep 0.05; done\n", controller)
    reporting = asyncio.ensure_future(ran.report_for_ever())
    ran.begin(order("r1"))
    disk.full = True
    await asyncio.sleep(0.6)
    assert controller.told == [] and not reporting.done()

    disk.full = False
    await until(lambda: controller.told)
    assert controller.told == [("running", 2)]
    go_on.touch()
    await until(lambda: controller.told[-1] == ("succeeded", 3))
    reporting.cancel()


async def test_a_run_is_cancelled_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    ran = runs_of(tmp_path, "#!/bin/sh\nexec sleep 20\n", Controller())
    ran.begin(order("r1"))
    await until((tmp_path / "runs/r1/0/started").exists)
    await asyncio.sleep(0.3)
    disk.full = True
    ran.cancel("r1")

    await until(lambda: not ran.running)
    assert ran.state_of("r1").state == "cancelled"


@pytest.mark.parametrize("step", ["begin", "_locked", "run_job"])
async def test_a_run_that_is_cancelled_while_its_runner_begins_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    work = getattr(runner, step)

    def slow(*given: Any) -> Any:
        time.sleep(0.5)
        return work(*given)

    monkeypatch.setattr(runner, step, slow)
    started = asyncio.Event()
    start = runs.Job.start

    def start_and_tell(job: runs.Job) -> None:
        start(job)
        started.set()

    monkeypatch.setattr(runs.Job, "start", start_and_tell)
    ran = runs_of(tmp_path, f"#!/bin/sh\ntouch {tmp_path}/ran\nexec sleep 3\n", Controller())
    ran.begin(order("r1"))
    await started.wait()
    await asyncio.sleep(0.25)
    ran.cancel("r1")
    await until(lambda: not ran.running)

    assert ran.state_of("r1").state == "cancelled"
    assert not (tmp_path / "ran").exists()


async def test_scripts_and_agent_have_sigterm_as_it_was(tmp_path: Path) -> None:
    ran = runs_of(tmp_path, f"#!/bin/sh\ngrep SigBlk /proc/self/status >{tmp_path}/blocked\n", Controller())
    ran.begin(order("r1"))
    await until(lambda: not ran.running)

    assert (tmp_path / "blocked").read_text().split() == ["SigBlk:", "0" * 16]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
async def test_a_script_that_fills_the_disk_and_succeeds_is_told_as_that(small_disk: Path) -> None:
    controller = Controller()
    fill = f"#!/bin/sh\nif cat /dev/zero >{small_disk}/big; then exit 1; fi\necho worked\n"
    ran = runs_of(small_disk, fill, controller)
    reporting = asyncio.ensure_future(ran.report_for_ever())
    ran.begin(order("r1"))
    await until(lambda: not ran.running and controller.told)

    assert ran.state_of("r1").results[0].state == "succeeded"
    assert controller.told[-1][0] == "succeeded"
    reporting.cancel()


async def test_a_script_has_the_room_for_its_result_reserved(tmp_path: Path) -> None:
    ran = runs_of(tmp_path, f"#!/bin/sh\nstat -c '%i %s %b' ../.result >{tmp_path}/reserved\n", Controller())
    ran.begin(order("r1"))
    await until(lambda: not ran.running)

    inode, size, blocks = map(int, (tmp_path / "reserved").read_text().split())
    written = (tmp_path / "runs/r1/0/result.json").stat()
    assert size == runner.RESULT_BYTES <= blocks * 512
    assert (written.st_ino, written.st_size) == (inode, size)


async def test_a_result_that_the_full_disk_does_not_take_is_waited_for_also_by_an_agent_that_is_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "DISK_SECONDS", 0.05)
    job = tmp_path / "runs/r1/0"
    before = runs_of(tmp_path, "#!/bin/sh\nln -sf /dev/full ../.result\n", Controller())
    before.begin(order("r1"))
    await until((job / ".result").is_symlink)
    await asyncio.sleep(0.7)
    assert before.state_of("r1").state == "running"

    for task in before._tasks:
        task.cancel()
    controller = Controller()
    ran = runs_of(tmp_path, "", controller)
    ran.load()
    reporting = asyncio.ensure_future(ran.report_for_ever())
    await asyncio.sleep(0.7)
    assert ran.state_of("r1").state == "running"

    (tmp_path / "room").touch()
    (tmp_path / "room").replace(job / ".result")
    await until(lambda: controller.told and controller.told[-1][0] != "running")
    assert controller.told[-1][0] == ran.state_of("r1").state == "succeeded"
    reporting.cancel()


async def test_a_result_that_cannot_be_stored_for_another_reason_is_a_failure(tmp_path: Path) -> None:
    ran = runs_of(tmp_path, "#!/bin/sh\nrm ../.result\nmkdir ../.result\n", Controller())
    ran.begin(order("r1"))
    await until(lambda: not ran.running)

    assert ran.state_of("r1").state == "failed"
    assert ran.state_of("r1").detail.startswith("script: the process that watched over the script is gone")


async def test_the_longest_result_fits_into_the_room_reserved(tmp_path: Path) -> None:
    """Each character of a name that is unknown here takes six in JSON."""
    interpreter = "/" + "\x01" * 250
    ran = runs_of(tmp_path, f"#!{interpreter}\n", Controller())
    ran.begin(order("r1"))
    await until(lambda: not ran.running)
    assert "\x01" * 100 in ran.state_of("r1").detail
    assert (tmp_path / "runs/r1/0/result.json").stat().st_size == runner.RESULT_BYTES

    what = str(installation([f"package-{number}" for number in range(10_000)])["what"])
    assert what.startswith("installing package-0, package-1, ") and what.endswith(", …")
    assert len(what) < runner.RESULT_BYTES / 3
    assert installation(["apache2", "php-fpm"])["what"] == "installing apache2, php-fpm"


async def test_an_agent_that_is_being_replaced_takes_runs_and_the_next_one_carries_them_out(tmp_path: Path) -> None:
    """The controller gives up on a run that is refused."""
    agent = Agent(Places(tmp_path))
    agent._runs = runs_of(tmp_path, "#!/bin/sh\n", Controller())
    agent._leave("this agent is being replaced by a newer one")

    for run_id in ("r1", "r2"):
        assert isinstance(await agent._obey(order(run_id)), Accepted)
    await agent._obey(CancelRun("r2"))
    for task in list(agent._runs._tasks):  # it ends
        task.cancel()

    again = runs_of(tmp_path, "#!/bin/sh\n", Controller())
    again.load()
    await until(lambda: again.state_of("r1").state == "succeeded")
    await until(lambda: again.state_of("r2").state == "cancelled")
    assert isinstance(await agent._obey(UpgradeAgent(Blob("agent", "0" * 64, 1))), Refused)


async def test_an_agent_that_leaves_for_good_takes_nothing(tmp_path: Path) -> None:
    agent = Agent(Places(tmp_path))
    agent._runs = runs_of(tmp_path, "#!/bin/sh\n", Controller())
    agent._leave("this instance is retired", lambda _: None)

    assert isinstance(await agent._obey(order("r1")), Refused)


async def test_an_agent_that_works_for_months_keeps_the_runs_of_a_week(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica is backed up 144 times a day, and its agent may never start anew."""
    monkeypatch.setattr(journal, "KEPT_RUNS", 2)
    monkeypatch.setattr(runs, "ACKNOWLEDGED_SECONDS", 0.01)
    controller, late = Controller(), tmp_path / "late"
    detached = f"(for _ in $(seq 400); do [ ! -e {late} ] || break; sleep 0.05; done) &"
    ran = runs_of(tmp_path, f'#!/bin/sh\ncase "$PWD" in *r1*) {detached} esac\n', controller)
    reporting = asyncio.ensure_future(ran.report_for_ever())

    async def carried_out(run_id: str, *, days_ago: float) -> None:
        ran.begin(order(run_id))
        ran._runs[run_id].at -= days_ago * 86400
        await until(lambda: not ran.running and not ran.unreported())
        await asyncio.sleep(0.1)

    for number in range(1, 6):
        await carried_out(f"r{number}", days_ago=9.5 - number)
    await until(lambda: not (tmp_path / "runs/r2").exists())
    assert ran.state_of("r2").state == "unknown"
    assert not (tmp_path / "logs/r2").exists()
    assert (tmp_path / "runs/r1/run.json").exists(), "a child of its script may still write"

    late.touch()
    await until(lambda: set(ran._tasks.values()) <= {"r5"})
    await carried_out("r6", days_ago=0)

    kept = ["r3", "r4", "r5", "r6"]
    await until(lambda: sorted(run.name for run in (tmp_path / "runs").iterdir()) == kept)
    assert sorted(run.name for run in (tmp_path / "logs").iterdir()) == kept
    assert ran.state_of("r3").state == "succeeded", "a controller that was put back may ask for it"
    reporting.cancel()
