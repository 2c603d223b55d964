"""Following a script through its job's files."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import cast

import pytest

from relaunch.bus.messages import Output
from relaunch_agent import jobs
from relaunch_agent.jobs import Job, JobFollower
from relaunch_agent.link import Link
from relaunch_agent.run_log import LATE_BYTES, LogWriter, late_of


class Away:
    """No bus: output waits."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()


class There:
    """A bus that takes every piece of output."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.connected.set()
        self.said: list[Output] = []

    async def send(self, output: Output) -> None:
        self.said.append(output)
        await asyncio.sleep(0)


def ended_job(folder: Path) -> Job:
    """It said "begun"; its runner is gone."""
    job = Job(folder / "job", folder / "0.log")
    job.folder.mkdir()
    LogWriter(job.log, []).write(b"begun\n", last=True)
    return job


async def test_a_runner_that_begins_while_it_is_looked_for_is_not_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path / "job", tmp_path / "log")
    job.folder.mkdir()

    def begins(folder: Path) -> bool:
        """It had no lock yet when looked for, and says right afterwards that it has begun."""
        (folder / "started").write_text("1")
        monkeypatch.setattr(jobs, "runner_lives", lambda _: True)
        return False

    monkeypatch.setattr(jobs, "runner_lives", begins)
    following = asyncio.ensure_future(JobFollower(job, "run", 0, cast(Link, Away())).result())
    await asyncio.sleep(0.1)
    (job.folder / "result.json").write_text('{"state": "succeeded"}')

    assert await following == {"state": "succeeded"}


@pytest.mark.parametrize("line", ["line\n", "Zeile – ü\n"])
async def test_a_daemon_that_writes_more_than_is_kept_does_not_hold_up_the_end(tmp_path: Path, line: str) -> None:
    job = ended_job(tmp_path)
    late = LogWriter(late_of(job.log), [], head_bytes=LATE_BYTES, ring_bytes=1)
    said = line.encode() * (2 * LATE_BYTES // len(line.encode()))
    for at in range(0, LATE_BYTES + 65536, 65536):
        late.write(said[at : at + 65536])
    assert late.total > late_of(job.log).stat().st_size == LATE_BYTES
    link = There()

    await asyncio.wait_for(JobFollower(job, "run", 0, cast(Link, link)).finish(), 10)

    text = "".join(output.text for output in link.said)
    assert all(output.text for output in link.said)
    assert text.startswith(f"begun\n{line}")
    assert LATE_BYTES - 4 <= len(text.encode()) - len("begun\n") <= LATE_BYTES
    assert job.log.read_text().startswith(f"begun\n\n[relaunch: written after the script had ended]\n{line}")


async def test_late_output_that_a_full_disk_did_not_take_does_not_hold_up_the_end(tmp_path: Path) -> None:
    job = ended_job(tmp_path)
    LogWriter(late_of(job.log), []).write(b"late\n" * 1000)
    os.truncate(late_of(job.log), 5)
    link = There()

    await asyncio.wait_for(JobFollower(job, "run", 0, cast(Link, link)).finish(), 10)

    assert [output.text for output in link.said] == ["begun\n", "late\n"]


async def test_a_script_is_followed_to_its_end_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    monkeypatch.setattr(jobs, "write_json", full)
    monkeypatch.setattr(jobs, "runner_lives", lambda _: True)
    job, link = ended_job(tmp_path), There()
    follower = JobFollower(job, "run", 0, cast(Link, link))
    following = asyncio.ensure_future(follower.result())
    await asyncio.sleep(0.1)
    assert [output.text for output in link.said] == ["begun\n"]
    (job.folder / "result.json").write_text('{"state": "succeeded"}')

    assert await following == {"state": "succeeded"}
