"""The controller as a process of this host: started in the background, found again, stopped."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import relaunch
from relaunch.errors import Conflict, Failed, NotAllowed, Unavailable

START_SECONDS = 60.0
STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerProcess:
    """The controller of one state folder. Whoever holds the lock file's lock is it, whatever the file says."""

    state: Path

    @property
    def lock_file(self) -> Path:
        return self.state / "controller.lock"

    @property
    def log_file(self) -> Path:
        return self.state / "logs" / "controller.out"

    @property
    def unit(self) -> str:
        """A name per state folder, so that two controllers of one host do not meet."""
        if self.state == Path("/var/lib/relaunch"):
            return "relaunch-controller.service"
        return f"relaunch-controller-{hashlib.sha256(str(self.state).encode()).hexdigest()[:8]}.service"

    def pid(self) -> int | None:
        """Of the running controller, None when there is none."""
        try:
            with self.lock_file.open("r+") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(file.read().strip() or 0) or None
        except (FileNotFoundError, ValueError):
            return None
        except PermissionError:
            raise NotAllowed(f"{self.lock_file} belongs to root", hint="use sudo") from None
        return None

    def hold(self) -> object:
        """Become the controller of this folder until the returned file is closed; Conflict when there is one."""
        need_root("the controller")
        self.state.mkdir(parents=True, exist_ok=True, mode=0o711)
        file = self.lock_file.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"a controller runs already with {self.state} (process {self.pid()})",
                hint="relaunch controller status, or set RELAUNCH_STATE for a second one",
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        return file

    def start(self, healthy: Callable[[], bool]) -> bool:
        """Start it in the background and wait until it answers; False when it ran already."""
        if self.pid():
            self._wait_healthy(healthy)
            return False
        need_root("the controller")
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        offset = self.log_file.stat().st_size if self.log_file.exists() else 0
        child = None
        if systemd_runs():
            self._start_as_unit()
        else:
            child = self._start_detached()
        self._wait_healthy(healthy, child=child, log_offset=offset)
        return True

    def stop(self) -> bool:
        """End it in order, by force when that takes too long; False when none ran. Instances live on."""
        stopped = systemd_runs() and self._stop_unit()
        pid = self.pid()
        if pid is None:
            return stopped
        for sent in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(pid, sent)
            except ProcessLookupError:
                return True
            end = time.monotonic() + STOP_SECONDS
            while time.monotonic() < end:
                if self.pid() != pid:
                    return True
                time.sleep(0.05)
        raise Failed(f"the controller (process {pid}) does not end", hint=f"see {self.log_file}")

    def log_end(self, *, offset: int = 0, lines: int = 12) -> str:
        try:
            with self.log_file.open("rb") as file:
                file.seek(offset)
                return "\n  ".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "relaunch.cli.main", "controller", "run"]

    def _environment(self) -> dict[str, str]:
        return {"RELAUNCH_STATE": str(self.state), "PYTHONPATH": str(Path(relaunch.__file__).parents[1])}

    def _start_as_unit(self) -> None:
        subprocess.run(["systemctl", "reset-failed", self.unit], check=False, capture_output=True, timeout=30)
        settings = {
            "Description": "relaunch controller", "Restart": "on-failure", "RestartSec": "1", "KillMode": "mixed",
            "TimeoutStopSec": str(int(STOP_SECONDS)), "StandardOutput": f"append:{self.log_file}",
            "StandardError": f"append:{self.log_file}",
        }  # fmt: skip
        words = ["systemd-run", "--collect", "--quiet", f"--unit={self.unit}"]
        words += [f"--property={name}={value}" for name, value in settings.items()]
        words += [f"--setenv={name}={value}" for name, value in {**self._environment(), "PATH": _path()}.items()]
        done = subprocess.run([*words, *self._command()], capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise Failed(f"systemd-run could not start the controller: {done.stderr.strip()}")

    def _start_detached(self) -> subprocess.Popen[bytes]:
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                env={**os.environ, **self._environment(), "PATH": _path()},
            )

    def _wait_healthy(
        self, healthy: Callable[[], bool], *, child: subprocess.Popen[bytes] | None = None, log_offset: int = 0
    ) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if healthy():
                return
            if child is not None and child.poll() is not None:
                raise Failed(
                    f"the controller ended at its start, with status {child.returncode} ({self.log_file})",
                    hint=self.log_end(offset=log_offset),
                )
            time.sleep(0.1)
        raise Unavailable(
            f"the controller does not answer after {START_SECONDS:.0f} s ({self.log_file})",
            hint=self.log_end(offset=log_offset),
        )

    def _stop_unit(self) -> bool:
        """Also one that has just failed and waits to be started again; False when systemd has no such unit."""
        words = ["systemctl", "stop", self.unit]
        return subprocess.run(words, check=False, capture_output=True, timeout=STOP_SECONDS * 2).returncode == 0


def systemd_runs() -> bool:
    return Path("/run/systemd/system").is_dir() and shutil.which("systemd-run") is not None


def need_root(what: str) -> None:
    if os.geteuid() != 0:
        raise NotAllowed(f"{what} needs root", hint="use sudo")


def _path() -> str:
    """Debian's minimal PATH leaves out sbin for who is not root by login."""
    return f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/local/sbin:/usr/sbin:/sbin"
