"""What bench/rehearsal.py finds on the host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import rehearsal

from relaunch.cli.client import Client
from relaunch.clouds.local import cgroups

AGENT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from relaunch_agent import runner

folder = Path(sys.argv[2])
(folder / "work").mkdir(parents=True)
job = {"argv": ["/bin/sleep", "60"], "before": [], "environment": {}, "secrets": [], "timeout_seconds": 60.0,
       "work_folder": str(folder / "work"), "log": str(folder / "log")}
_, told = os.pipe()
forked = os.fork()
if forked == 0:
    runner.begin(folder, job, told)
while not (folder / "log").exists():
    pass
print(forked, flush=True)
signal.pause()
"""


class Agents:
    """Each runs a script by a real runner."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[str]] = []
        self._runners: list[int] = []
        (folder / "relaunch-agent.pyz").write_text(AGENT)

    def start(self) -> tuple[int, int]:
        """Its number, and its runner's."""
        words = [sys.executable, str(self._folder / "relaunch-agent.pyz"), str(rehearsal.PROJECT / "src")]
        words.append(str(self._folder / f"job{len(self._started)}"))
        agent = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self._started.append(agent)
        assert agent.stdout is not None
        self._runners.append(int(agent.stdout.readline()))
        return agent.pid, self._runners[-1]

    def kill(self) -> None:
        """The agents alone, as systemd is told to."""
        for agent in self._started:
            agent.kill()
            agent.wait()

    def end(self) -> None:
        self.kill()
        for agent in self._started:
            assert agent.stdout is not None
            agent.stdout.close()
        for runner in self._runners:
            os.kill(runner, signal.SIGTERM)


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    made = Agents(tmp_path)
    yield made
    made.end()


class OneServer:
    def get(self, path: str) -> dict[str, str]:
        assert path == "/servers/shop/db1"
        return {"cloud_id": "i-1"}


def found_among(monkeypatch: pytest.MonkeyPatch, *processes: int) -> int:
    """The server's agent, when these are its processes."""
    monkeypatch.setattr(cgroups, "group_of", lambda process: Path("/i-1") if process in processes else None)
    return rehearsal.agent_of(cast(Client, OneServer()), "db1")


def test_what_an_agent_has_forked_to_run_a_script_is_not_taken_for_it(
    agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, its_runner = agents.start()
    assert found_among(monkeypatch, first, its_runner) == first

    agents.kill()
    with pytest.raises(RuntimeError, match="no agent of db1"):
        found_among(monkeypatch, its_runner)

    second, another = agents.start()
    assert found_among(monkeypatch, its_runner, second, another) == second
