"""Runs one script to its end, apart from the agent: a restarted or upgraded agent finds it still running.

Forked by the agent for each script, which hands it the job. The runner holds a lock on the job folder's `lock` while it
lives, and writes `started` before the first exec and `result.json` at the end. SIGTERM to the runner cancels; it
is blocked from the fork until the runner can take it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import json
import os
import select
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Dict, List, NoReturn, Optional, Tuple

from relaunch_agent.run_log import LATE_BYTES, LogWriter, late_of

TERM_SECONDS = 10.0  # between SIGTERM and SIGKILL
PACKAGES_SECONDS = 1800.0
QUIET_SECONDS = 0.05  # after the exit, no output for so long: what still holds the pipe is a daemon
DRAIN_SECONDS = 0.5
LATE_SECONDS = 600.0
RESULT_BYTES = 4096  # more than any result has: its detail is a name or two, or NAMED_CHARACTERS of packages
DISK_SECONDS = 1.0  # until a full disk is tried again
# What Python ignores or handles, and a script expects as the system has it.
RESET = (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ)


class Execution:
    """One process after the other, their output into one log."""

    def __init__(self, job: Dict[str, Any], log: LogWriter) -> None:
        self._job = job
        self._log = log
        self._cancelled = False
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._wake, wake_writer = os.pipe()
        for end in (self._wake, wake_writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._cancel)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # one that came before is taken now
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._poll.register(self._reader, select.POLLIN)
        self.output_ended = False

    def run(self, argv: List[str], seconds: float) -> Tuple[str, Optional[int], str]:
        """(state, exit status, why)."""
        if self._cancelled:
            return "cancelled", None, "cancelled"
        child, trouble = self._start(argv)
        if trouble:
            return "failed", None, trouble
        deadline, killing_at, ended_by = time.monotonic() + seconds, 0.0, ""
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            now = time.monotonic()
            if not ended_by and (self._cancelled or now >= deadline):
                ended_by = "cancelled" if self._cancelled else "timed_out"
                killing_at = now + TERM_SECONDS
                _signal_group(child, signal.SIGTERM)
            elif ended_by and now >= killing_at:
                killing_at = now + 1.0
                _signal_group(child, signal.SIGKILL)
            self._take_output(max(0.0, (killing_at if ended_by else deadline) - now))
        if ended_by:
            _signal_group(child, signal.SIGKILL)
        return _outcome(status, ended_by, seconds)

    def close_writer(self) -> None:
        os.close(self._writer)
        self._writer = -1

    def drain(self) -> None:
        """What is still in the pipe; a daemon that holds it open must not hold us up."""
        end = time.monotonic() + DRAIN_SECONDS
        while not self.output_ended and time.monotonic() < end:
            if not self._take_output(QUIET_SECONDS):
                return

    def linger(self, late: Path) -> None:
        """Write down what detached children still say, for a while; then only keep their pipe open."""
        end, room = time.monotonic() + LATE_SECONDS, LATE_BYTES
        self._log = LogWriter(late, self._job["secrets"], head_bytes=LATE_BYTES, ring_bytes=1)
        while not self.output_ended and time.monotonic() < end and self._log.total < room:
            self._take_output(end - time.monotonic())
        self._log.write(b"", last=True)
        if not self.output_ended:
            # Closing the pipe would kill them with SIGPIPE at their next line.
            os.set_blocking(self._reader, True)
            os.dup2(self._reader, 0)
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), 1)
            os.execv("/bin/cat", ["cat"])

    def _take_output(self, seconds: float) -> bool:
        """Whether something came within `seconds`."""
        ready = [descriptor for descriptor, _ in self._poll.poll(min(seconds, 3600.0) * 1000 + 1)]
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
        if self._reader in ready and not self.output_ended:
            with contextlib.suppress(BlockingIOError):
                piece = os.read(self._reader, 65536)
                if piece:
                    self._log.write(piece)
                else:
                    self.output_ended = True
                    self._poll.unregister(self._reader)
        return self._reader in ready

    def _cancel(self, *_: object) -> None:
        self._cancelled = True

    def _start(self, argv: List[str]) -> Tuple[int, str]:
        """(process id, "") or (0, why it could not be started).

        Spawned rather than forked: our memory, a copy of the agent's, need not be copied once more.
        """
        os.umask(0o022)
        own = _oom_score_adjusted("0")
        number = errno.ETXTBSY
        try:
            os.chdir(self._job["work_folder"])
            for _ in range(20):
                try:
                    return self._spawned(argv), ""
                except OSError as error:
                    number = error.errno or errno.EIO
                    if number != errno.ETXTBSY:  # another fork of the agent may hold the file open for a moment
                        break
                time.sleep(0.01)
        except OSError as error:
            number = error.errno or errno.EIO
        finally:
            os.chdir("/")
            _oom_score_adjusted(own)
        return 0, _why_not_started(argv[0], number)

    def _spawned(self, argv: List[str]) -> int:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, self._writer, 1),
            (os.POSIX_SPAWN_DUP2, self._writer, 2),
        ]
        return os.posix_spawn(
            argv[0], argv, self._job["environment"], file_actions=actions, setsid=True, setsigmask=(), setsigdef=RESET
        )


def _oom_score_adjusted(score: str) -> str:
    """What it was before; "" when that cannot be told, and is not changed then."""
    if not score:
        return ""
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:  # noqa: PTH123
            before = file.read().strip()
            file.seek(0)
            file.write(score)
        return before
    except OSError:
        return ""


def _signal_group(child: int, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, what)


def _outcome(status: int, ended_by: str, seconds: float) -> Tuple[str, Optional[int], str]:
    exit_status = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
    if ended_by == "timed_out":
        return "timed_out", exit_status, f"did not end within {seconds:g} s"
    if ended_by == "cancelled":
        return "cancelled", exit_status, "cancelled"
    if os.WIFSIGNALED(status):
        return "failed", exit_status, f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return ("succeeded" if exit_status == 0 else "failed"), exit_status, ""


def _why_not_started(program: str, number: int) -> str:
    if number == errno.ENOEXEC:
        return "cannot be executed: its first line must be #! and an interpreter, such as #!/bin/sh"
    first = ""
    with contextlib.suppress(OSError), open(program, "rb") as file:  # noqa: PTH123
        first = file.readline(200).decode("utf-8", "replace")
    if number == errno.ENOENT and first.startswith("#!"):
        interpreter = (first[2:].split() or ["?"])[0]
        ends = "; its lines end with CR LF, save it with LF" if first.endswith("\r\n") else ""
        return f"its interpreter {interpreter} is not on this server{ends}"
    return f"cannot be executed: {os.strerror(number)}"


def _reserve(file: Path) -> None:
    """Room for the result that no script can fill; OSError when there is none.

    Allocated, not written: the first write into that needs no more room on a file system that copies on write either.
    """
    with file.open("wb") as reserved:
        os.posix_fallocate(reserved.fileno(), 0, RESULT_BYTES)


def _store(result: Dict[str, Any], reserved: Path, file: Path) -> None:
    """In place, for which a full disk has room. When it has not, the job counts as running until it has."""
    while True:
        try:
            with reserved.open("r+") as room:
                room.write(json.dumps(result).ljust(RESULT_BYTES))
            reserved.replace(file)
            return
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        time.sleep(DISK_SECONDS)


def run_job(folder: Path, job: Dict[str, Any], told: int) -> None:
    reserved = folder / ".result"
    _reserve(reserved)
    log_file = Path(job["log"])
    log = LogWriter(log_file, job["secrets"])
    execution = Execution(job, log)
    started = time.monotonic()
    state, status, why = "succeeded", None, ""
    for command in job["before"]:
        state, status, why = execution.run(command["argv"], PACKAGES_SECONDS)
        if state != "succeeded":
            why = f"{command['what']}: {why or f'exit status {status}'}"
            break
    script_started = time.monotonic()
    if state == "succeeded" and job["argv"]:
        state, status, why = execution.run(job["argv"], job["timeout_seconds"])
    else:
        script_started = started
    execution.close_writer()
    execution.drain()
    log.write(b"", last=True)
    result = {
        "state": state, "exit_status": status, "detail": why, "output_bytes": log.total,
        "seconds": round(time.monotonic() - script_started, 3),
    }  # fmt: skip
    _store(result, reserved, folder / "result.json")
    os.close(told)
    shutil.rmtree(job["work_folder"], ignore_errors=True)
    if not execution.output_ended:
        execution.linger(late_of(log_file))


def begin(folder: Path, job: Dict[str, Any], told: int) -> NoReturn:
    """In the forked child: let go of all that is the agent's, run the job, end. What goes wrong is in runner.err.

    `told` is closed once the result is there.
    """
    status = 1
    gc.disable()  # it would touch, and so copy, what we share with the agent
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(name, signal.SIG_DFL)
        _take_own_descriptors(folder / "runner.err", keep=told)
        os.chdir("/")
        status = main(folder, job, told)
    except BaseException:  # outermost frame of this process: nothing of it may run on in the agent's code
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(status)


def _take_own_descriptors(complaints: Path, *, keep: int) -> None:
    """Lets go of the agent's connections.

    Their numbers stay taken: objects of the agent still hold these, and close them whenever they are collected, which
    must not be our lock or log.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:  # noqa: PTH208
        if number > 2 and number not in (nothing, keep):
            os.dup2(nothing, number, inheritable=False)
    written = os.open(complaints, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for source, target in ((nothing, 0), (nothing, 1), (written, 2)):
        os.dup2(source, target)


def _locked(lock: int) -> bool:
    """Whether the job is ours; the agent, looking whether somebody has it, holds the lock for an instant too."""
    for _ in range(50):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.01)
    return False


def main(folder: Path, job: Dict[str, Any], told: int) -> int:
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    if not _locked(lock):
        return 0
    if (folder / "started").exists():
        return 0
    (folder / "started").write_text(str(os.getpid()))
    run_job(folder, job, told)
    return 0
