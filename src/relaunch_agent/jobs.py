"""One script as a job on disk: prepared, given to a runner, followed to its end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from relaunch.bus.messages import Output, RunScripts
from relaunch.errors import Unavailable
from relaunch_agent import runner
from relaunch_agent.blobs import BlobStore
from relaunch_agent.disk import read_json, write_json, write_new
from relaunch_agent.link import Link
from relaunch_agent.run_log import LATE_BYTES, LogReader, late_of
from relaunch_agent.streaming import PIECE_BYTES, Sent, after_sending, next_piece, on_character_bounds

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_SECONDS = 10.0
TIDY_SECONDS = 0.3  # after the end of a script until we tidy up: who waits for it is told first
FILES_SECONDS = 3600.0  # a controller killed in the midst of a boot is waited for: it will want to go on with it


class Job:
    def __init__(self, folder: Path, log: Path) -> None:
        self.folder = folder
        self.log = log
        self._order: Dict[str, Any] = {}  # for the runner, from its preparation until its start: it holds secrets
        self._runner = 0  # process id, while it is a child of ours that was not waited for
        self.ended = asyncio.Event()  # set at once when a runner of ours has a result or is gone

    async def prepare(
        self, order: RunScripts, index: int, before: List[Dict[str, object]], blobs: BlobStore, *, agent: str
    ) -> None:
        """Everything the runner needs: files into the job's folder, the rest kept until `start`."""
        if self.folder.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "attachments").mkdir(parents=True, mode=0o700)
        work = self.folder / "work"
        work.mkdir()
        script = order.scripts[index] if index >= 0 else None
        argv: List[str] = []
        if script is not None:
            wanted = (script.blob, *script.attachments)
            files = await asyncio.gather(*(blobs.file(each, patience_seconds=FILES_SECONDS) for each in wanted))
            program = self.folder / (re.sub(r"[^A-Za-z0-9._-]+", "-", Path(script.name).name).strip(".-") or "script")
            if program.name in ("result.json", "lock", "started", "sent", "work", "attachments", "runner.err"):
                program = program.with_name(f"script-{program.name}")
            write_new(program, files[0].read_bytes(), mode=0o700)
            for blob, file in zip(script.attachments, files[1:]):
                write_new(self.folder / "attachments" / Path(blob.name).name, file.read_bytes(), mode=0o600)
            argv = [str(program)]
        inputs = dict(script.inputs) if script else {}
        environment = {
            **inputs,
            "PATH": PATH,
            "HOME": "/root",
            "SHELL": "/bin/bash",
            "USER": "root",
            "LANG": inputs.get("LANG", "C.UTF-8"),
            "RS_ATTACH_DIR": str(self.folder / "attachments"),
            "RS_PACKAGES": " ".join(order.packages),
            "RS_SELF_HREF": f"/api/v1/instances/{agent}",
            **({"RS_REBOOT": "true"} if order.reboot else {}),
        }
        self._order = {
            "argv": argv,
            "before": [{**command} for command in before],
            "environment": environment,
            "secrets": [inputs[name] for name in (script.secrets if script else []) if name in inputs],
            "timeout_seconds": script.timeout_seconds if script else 0.0,
            "work_folder": str(work),
            "log": str(self.log),
        }

    def start(self) -> None:
        """Followed through its files, as after a restart; only its end is told through a pipe, sooner than seen.

        A fork, not a new Python: that alone would cost more than most scripts. The agent has no threads.
        """
        ending, told = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # for the runner, until it can be cancelled
        try:
            self._runner = os.fork()
            if self._runner == 0:
                runner.begin(self.folder, self._order, told)
        except OSError:
            os.close(ending)
            os.close(told)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        self._order = {}
        os.close(told)
        asyncio.get_running_loop().add_reader(ending, self._has_ended, ending)

    def _has_ended(self, ending: int) -> None:
        """Its last word, or its end without one."""
        asyncio.get_running_loop().remove_reader(ending)
        os.close(ending)
        self.ended.set()

    def cancel(self) -> None:
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            if self._runner and not self.ended.is_set():
                os.kill(self._runner, signal.SIGTERM)
            elif runner_lives(self.folder):
                os.kill(int((self.folder / "started").read_text()), signal.SIGTERM)

    def result(self) -> Optional[Dict[str, Any]]:
        return read_json(self.folder / "result.json")

    def forget(self) -> None:
        """Remove what only the script needed, and what was secret."""
        self._order = {}
        shutil.rmtree(self.folder / "attachments", ignore_errors=True)
        shutil.rmtree(self.folder / "work", ignore_errors=True)

    def complaint(self) -> str:
        file = self.folder / "runner.err"
        return file.read_text("utf-8", "replace")[-500:].strip() if file.exists() else ""

    def reap(self) -> None:
        if self._runner:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(self._runner, os.WNOHANG)[0] == 0:
                    return
            self._runner = 0


def runner_lives(folder: Path) -> bool:
    """The runner holds a lock on this file for as long as it lives."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class JobFollower:
    """Streams a job's output while it runs; `sent` is set once all that was to be sent before its end is on the bus."""

    def __init__(self, job: Job, run_id: str, index: int, link: Link) -> None:
        self._job = job
        self._run_id = run_id
        self._index = index
        self._link = link
        self._reader = LogReader(job.log)
        self._sent = Sent(**(read_json(job.folder / "sent") or {}))
        self.sent = asyncio.Event()

    async def result(self) -> Dict[str, Any]:
        """The runner's result, as soon as there is one."""
        began = looked = time.monotonic()
        while True:
            result = self._job.result()
            if result is not None:
                return result
            now = time.monotonic()
            if now - looked > 0.5 or self._job.ended.is_set():
                looked = now
                # `started` is looked at before the lock: a runner may take that and write this right now.
                expected = (self._job.folder / "started").exists() or now - began > START_SECONDS
                if expected and not runner_lives(self._job.folder) and self._job.result() is None:
                    why = self._job.complaint() or "killed, or out of memory"
                    return {
                        "state": "failed", "detail": f"the process that watched over the script is gone: {why}",
                        "output_bytes": self._reader.total(),
                    }  # fmt: skip
            await self._pump(ended=False)
            await self._rest(now - began)

    async def _rest(self, seconds_so_far: float) -> None:
        """Until the next look at the output: soon at first, ten a second later on; the end is noticed at once."""
        pause = min(0.1, max(0.02, seconds_so_far / 20))
        if self._job.ended.is_set():
            await asyncio.sleep(pause)
            return
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._job.ended.wait(), pause)

    async def finish(self) -> None:
        """Send the rest, now or when connected again; then what detached children still write; then tidy up."""
        while not await self._pump(ended=True):
            await self._link.connected.wait()
            await asyncio.sleep(0.1)
        self.sent.set()
        await asyncio.sleep(TIDY_SECONDS)
        with contextlib.suppress(OSError):  # a full disk
            await self._late_output()
            self._reader.fold()
        self._job.forget()
        self._job.reap()

    async def _late_output(self) -> None:
        late, at = late_of(self._job.log), 0
        reader, base = LogReader(late), self._reader.total()
        pause = 0.05
        while True:
            alive = runner_lives(self._job.folder)
            self._job.reap()
            total = min(reader.total(), LATE_BYTES)
            if total > at and self._link.connected.is_set():
                front, text = on_character_bounds(reader.read(at, min(total, at + PIECE_BYTES)))
                if not text:  # the disk was full, or LATE_BYTES end within a character
                    at = total
                    continue
                with contextlib.suppress(Unavailable):
                    said = Output(self._run_id, self._index, base + at + front, text.decode("utf-8", "replace"))
                    await self._link.send(said)
                    at += front + len(text)
                    continue
            elif not alive:
                break
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 2)
        if at:
            _, text = on_character_bounds(reader.read(0, at))
            with self._job.log.open("ab") as log:
                log.write(b"\n[relaunch: written after the script had ended]\n" + text)

    async def _pump(self, *, ended: bool) -> bool:
        """Send what is to be sent now; False when the bus is away."""
        while True:
            total, now = self._reader.total(), time.monotonic()
            piece = next_piece(self._sent, total=total, ended=ended, now=now)
            if piece is None:
                return True
            if not self._link.connected.is_set():
                return False
            data = self._reader.read(*piece)
            front, text = on_character_bounds(data)
            if not text:
                if not ended:
                    return True
                self._sent = after_sending(self._sent, piece, now=now)
                continue
            start = piece[1] - len(data) + front
            try:
                await self._link.send(Output(self._run_id, self._index, start, text.decode("utf-8", "replace")))
            except Unavailable:
                return False
            self._sent = after_sending(self._sent, (start, start + len(text)), now=now)
            with contextlib.suppress(OSError):  # a full disk: an agent that is started anew sends some of it again
                write_json(self._job.folder / "sent", vars(self._sent))
