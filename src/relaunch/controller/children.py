"""Programs the controller runs as children: ended with it, found again after a kill -9, restarted when they die."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relaunch.errors import Failed

log = logging.getLogger("relaunch.children")

STOP_SECONDS = 3.0
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
CALM_SECONDS = 30.0  # ran this long: the next death starts from the shortest pause again
LOG_BYTES = 5_000_000  # then what is in it becomes NAME.1, in place of what was there
LOG_SECONDS = 60.0  # how often it is looked at: a stranger who fails to connect can add a line each time

Ready = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run. `ready` is asked until it says yes; the output goes to `log_file`."""

    name: str
    command: Sequence[str]
    pid_file: Path
    log_file: Path
    ready: Ready
    ready_seconds: float = 10.0
    environment: Mapping[str, str] = field(default_factory=dict)  # beside our own; keys go here, not into the command


class Child:
    """One supervised child process."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Running and ready, or Failed with the end of its log."""
        await end_stale(self._program.pid_file, self._program.command[0])
        await self._spawn()
        if not await self._became_ready():
            await self._end()
            raise Failed(f"{self._program.name} did not start", hint=_tail(self._program.log_file))
        self._watch = asyncio.create_task(self._keep_running(), name=f"watch {self._program.name}")

    async def stop(self) -> None:
        if self._watch:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        await self._end()
        self._program.pid_file.unlink(missing_ok=True)

    async def _spawn(self) -> None:
        program = self._program
        self._bound_log()
        with program.log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                "setpriv",
                *("--pdeathsig", "KILL", "--"),
                *program.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **program.environment},
                start_new_session=True,  # a Ctrl-C meant for us is ours to pass on, in order
            )
        with contextlib.suppress(OSError):  # gone already: then there is nothing to find again
            program.pid_file.write_text(f"{self._process.pid} {_started(self._process.pid)}\n")

    def _bound_log(self) -> None:
        """Emptied rather than renamed: the child appends to it wherever that is."""
        log_file = self._program.log_file
        if not log_file.exists() or log_file.stat().st_size <= LOG_BYTES:
            return
        with contextlib.suppress(OSError):  # a full disk needs the room all the more
            shutil.copyfile(log_file, log_file.with_name(f"{log_file.name}.1"))
        os.truncate(log_file, 0)

    async def _became_ready(self) -> bool:
        assert self._process
        end = time.monotonic() + self._program.ready_seconds
        while time.monotonic() < end and self._process.returncode is None:
            if self._is_itself() and await self._program.ready():
                return True
            await asyncio.sleep(0.02)
        return False

    def _is_itself(self) -> bool:
        """No longer setpriv: from then on it dies with us, and a later controller knows it by its program."""
        assert self._process
        executable = Path(self._program.command[0]).resolve()
        try:
            return Path(f"/proc/{self._process.pid}/exe").readlink() == executable
        except OSError:
            return False

    async def _keep_running(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            assert self._process
            began = time.monotonic()
            status = await self._ended()
            if time.monotonic() - began > CALM_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            log.error("%s ended with status %s; starting it again in %.1f s", self._program.name, status, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            self.restarts += 1
            try:
                await self._spawn()
            except OSError as error:
                log.error("%s cannot be started: %s", self._program.name, error)

    async def _ended(self) -> int:
        """Its status, once it has; until then its log stays bounded, or is tried again."""
        assert self._process
        ended = asyncio.ensure_future(self._process.wait())  # one for all the time: asyncio keeps each that is given up
        try:
            while not (await asyncio.wait({ended}, timeout=LOG_SECONDS))[0]:
                with contextlib.suppress(OSError):
                    self._bound_log()
            return ended.result()
        finally:
            ended.cancel()

    async def _end(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def end_stale(pid_file: Path, executable: str) -> None:
    """End the child a killed controller left behind, and nothing that merely has its number."""
    try:
        pid, started = (int(word) for word in pid_file.read_text().split())
    except (OSError, ValueError):
        return
    if not _is(pid, started, executable):
        return
    log.warning("ending %s (pid %d) that an earlier controller left behind", Path(executable).name, pid)
    for which in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, which)
        end = time.monotonic() + STOP_SECONDS
        while time.monotonic() < end:
            if not _is(pid, started, executable):
                return
            await asyncio.sleep(0.02)
    raise Failed(f"{executable} (pid {pid}) does not end", hint="end it by hand and start again")


def _is(pid: int, started: int, executable: str) -> bool:
    try:
        return (
            _started(pid) == started
            and Path(f"/proc/{pid}/exe").readlink() == Path(executable).resolve()
            and _status(pid) != "Z"
        )
    except OSError:
        return False


def _stat_fields(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _started(pid: int) -> int:
    """Clock ticks after boot: with the pid it names a process for good (field 22 of proc(5) stat)."""
    return int(_stat_fields(pid)[19])


def _status(pid: int) -> str:
    return _stat_fields(pid)[0]


def _tail(file: Path, lines: int = 8) -> str:
    try:
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
