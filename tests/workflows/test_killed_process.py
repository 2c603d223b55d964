"""A controller killed by SIGKILL in the midst of launches, and another one started on its disk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def controller(what: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"{HERE.name}.killed", what, str(folder), *more]
    return subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=60)


def test_every_launch_finishes_after_sigkill_and_none_is_launched_twice(folder: Path) -> None:
    killed = controller("kill", folder)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    hung = json.loads((folder / "hung.json").read_text())
    assert len([d for d in hung if d.startswith("launch")]) >= 5

    resumed = controller("resume", folder)

    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.parametrize(
    ("kind", "child"),
    [
        ("relaunch", "terminate"),
        ("relaunch", "launch"),
        ("apply", "launch"),
        ("apply", "bake"),
        ("destroy", "terminate"),
    ],
)
def test_a_child_that_was_killed_before_it_began_is_begun_again(folder: Path, kind: str, child: str) -> None:
    killed = controller("kill-starting", folder, kind, child)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    resumed = controller("resume", folder)

    assert resumed.returncode == 0, resumed.stderr
