"""One controller per state folder, found by its lock and started in the background."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relaunch.cli import process
from relaunch.cli.process import ControllerProcess
from relaunch.errors import Conflict, Failed

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the controller runs as root only")
HOLDER = """
import sys, time
from pathlib import Path
from relaunch.cli.process import ControllerProcess
held = ControllerProcess(state=Path(sys.argv[1])).hold()
print("held", flush=True)
time.sleep(60)
"""


def holder(state: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(state)], stdout=subprocess.PIPE, text=True)
    assert child.stdout and child.stdout.readline() == "held\n"
    return child


def test_without_a_controller_there_is_no_pid_and_nothing_to_stop(tmp_path: Path) -> None:
    controller = ControllerProcess(state=tmp_path)

    assert controller.pid() is None
    assert controller.stop() is False


@needs_root
def test_a_second_controller_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    child = holder(tmp_path)
    try:
        with pytest.raises(Conflict) as refused:
            ControllerProcess(state=tmp_path).hold()
        assert str(child.pid) in str(refused.value)
    finally:
        child.kill()
        child.wait()


@needs_root
def test_a_killed_controller_leaves_the_folder_free(tmp_path: Path) -> None:
    child = holder(tmp_path)
    child.send_signal(signal.SIGKILL)
    child.wait()

    assert ControllerProcess(state=tmp_path).pid() is None


@needs_root
def test_stop_ends_it_and_waits_for_its_end(tmp_path: Path) -> None:
    child = holder(tmp_path)

    assert ControllerProcess(state=tmp_path).stop() is True

    assert child.wait(timeout=5) == -signal.SIGTERM


@pytest.mark.parametrize("loaded", [True, False])
def test_one_that_systemd_is_about_to_start_again_is_stopped_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: bool
) -> None:
    """Between two tries the unit is `activating`, and no process holds the folder."""
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    answers = "is-active) exit 3;; stop) exit 0;;" if loaded else "is-active) exit 4;; stop) exit 5;;"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncase $1 in {answers} esac\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{systemctl.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(process, "systemd_runs", lambda: True)
    controller = ControllerProcess(state=tmp_path)

    assert controller.stop() is loaded

    assert (tmp_path / "asked").read_text() == f"stop {controller.unit}\n"


@needs_root
def test_one_that_dies_at_its_start_fails_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [sys.executable, "-c", "raise SystemExit('the port is taken')"]
    monkeypatch.setattr(ControllerProcess, "_command", lambda self: words)
    monkeypatch.setattr(process, "systemd_runs", lambda: False)
    began = time.monotonic()

    with pytest.raises(Failed) as refused:
        ControllerProcess(state=tmp_path).start(lambda: False)

    assert "the port is taken" in str(refused.value)
    assert time.monotonic() - began < 10
