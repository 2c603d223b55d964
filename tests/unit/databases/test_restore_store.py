"""How a restore stops the server whose data it replaces."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ATTACHMENT = Path(__file__).parents[3] / "templates/scripts/attachments/restore_store.sh"


@pytest.mark.parametrize(
    "answer, killed",
    [
        pytest.param("echo 0", True, id="all its tables have transactions"),
        pytest.param("echo 1", False, id="one has none and would be torn"),
        pytest.param("exit 1", False, id="it does not answer"),
    ],
)
def test_a_server_is_only_killed_when_its_data_recovers_from_that(tmp_path: Path, answer: str, killed: bool) -> None:
    for name, does in {"mysql": answer, "systemctl": f'echo "$*" >>{tmp_path}/said'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)

    subprocess.run(
        ["bash", "-c", f"unit=mysql; . {ATTACHMENT}; stop_for_good"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True, timeout=30,
    )  # fmt: skip

    said = (tmp_path / "said").read_text().splitlines()
    assert [each for each in said if not each.startswith("kill")] == ["stop mysql", "reset-failed mysql"]
    assert ("kill --signal=KILL mysql" in said) is killed
    assert not killed or said[0].startswith("kill")
