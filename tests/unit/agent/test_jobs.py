"""Following a script through its job's files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from relaunch_agent import jobs
from relaunch_agent.jobs import Job, JobFollower
from relaunch_agent.link import Link


class Away:
    """No bus: output waits."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()


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
