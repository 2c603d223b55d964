"""Orders to run scripts, carried out one script after the other and reported until the controller has it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Awaitable, Callable, Coroutine, Dict, List, Optional, Union

from relaunch.bus.messages import Accepted, Refused, RunProgress, RunScripts, RunState, ScriptResult
from relaunch.errors import Failed, RelaunchError
from relaunch_agent import journal as journals
from relaunch_agent.blobs import BlobStore
from relaunch_agent.jobs import Job, JobFollower, runner_lives
from relaunch_agent.journal import Journal, Run, result_of, with_result
from relaunch_agent.link import Link
from relaunch_agent.packages import installation, not_installed

RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
PHASES = ("bake", "boot", "operational", "decommission")
STREAM_SECONDS = 3.0  # how long the report of an ended script waits for its output to be on its way
TOGETHER_SECONDS = 0.2  # that a script runs is told after so long: the end of a short one tells that too
DISK_SECONDS = 5.0  # until a full disk is tried again
ACKNOWLEDGED_SECONDS = 0.5  # until it is written down that the controller knows
VIEW_SECONDS = 120.0  # what a new server's boot scripts wait for their view: the controller may be starting again
CANCELLED_SECONDS = 0.5  # until a run that waits for its view sees that it was cancelled


class Runs:
    """All runs this agent knows, by id. `first_view`: until this server has been told what it is; no boot script runs
    before. `after_each` is called when a script has ended."""

    def __init__(
        self,
        journal: Journal,
        blobs: BlobStore,
        link: Link,
        *,
        agent: str,
        boot_id: str,
        first_view: Callable[[], Awaitable[None]],
        after_each: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._blobs = blobs
        self._link = link
        self._agent = agent
        self._boot_id = boot_id
        self._first_view = first_view
        self._after_each = after_each
        self._runs: Dict[str, Run] = {}
        self._jobs: Dict[str, Job] = {}
        self._unsent: Dict[str, asyncio.Event] = {}
        self._tasks: Dict[asyncio.Task[None], str] = {}  # of each the run it is of
        self._news = asyncio.Event()

    def load(self) -> None:
        """Take up what the journal holds: a script that still runs is followed, a run cut by a reboot has failed."""
        for run in self._journal.load():
            self._runs[run.run_id] = run
            if run.ended:
                self._news.set()
            elif run.boot_id != self._boot_id or run.order is None:
                self._end(run, "failed", "the instance was rebooted while this ran")
            else:
                self._start(run.run_id, self._carry_out(run))

    def unreported(self) -> List[RunState]:
        return [run.state for run in self._runs.values() if not run.ended or run.acknowledged < run.sequence]

    @property
    def running(self) -> bool:
        return any(not run.ended for run in self._runs.values())

    def state_of(self, run_id: str) -> RunState:
        run = self._runs.get(run_id)
        return run.state if run else RunState(run_id, "unknown")

    def begin(self, order: RunScripts) -> Union[Accepted, Refused]:
        if order.run_id in self._runs:
            return Accepted(self._runs[order.run_id].state)
        why = _why_not(order)
        if why:
            return Refused(why)
        run = self._runs[order.run_id] = self._journal.begin(order, self._boot_id)
        self._start(run.run_id, self._carry_out(run))
        return Accepted(run.state)

    def cancel(self, run_id: str) -> Accepted:
        run = self._runs.get(run_id)
        if run is not None and not run.ended:
            run.cancelled = True
            self._save(run)
            if run_id in self._jobs:
                self._jobs[run_id].cancel()
        return Accepted(self.state_of(run_id))

    async def report_for_ever(self) -> None:
        """Send the state of every run that changed, again and again until it is stored."""
        later = asyncio.get_running_loop()
        while True:
            await self._link.connected.wait()
            self._news.clear()
            for run in [run for run in self._runs.values() if _due(run)]:
                sequence = run.sequence
                await self._output_sent(run.run_id)
                # A number is not given twice; after the end of a run the controller takes none.
                if run.saved < sequence and not self._save(run) and not run.ended:
                    later.call_later(DISK_SECONDS, self._news.set)
                    continue
                try:
                    await self._link.report(RunProgress(run.state, sequence))
                except RelaunchError as error:
                    print(f"run {run.run_id}: not reported yet: {error}", file=sys.stderr, flush=True)
                    self._news.set()
                    await asyncio.sleep(0.5)
                    break
                run.acknowledged = max(run.acknowledged, sequence)
                later.call_later(ACKNOWLEDGED_SECONDS, self._save_acknowledged, run)
                if run.sequence > sequence:
                    self._news.set()
            await self._news.wait()

    async def _output_sent(self, run_id: str) -> None:
        """Who reads that a script has ended can read what it said: give the output a head start."""
        sent = self._unsent.pop(run_id, None)
        if sent is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(sent.wait(), STREAM_SECONDS)

    def _save(self, run: Run) -> bool:
        """False when the disk is full: what the run has come to holds all the same, and is saved later."""
        try:
            self._journal.save(run)
        except OSError as error:
            print(f"run {run.run_id}: not saved: {error}", file=sys.stderr, flush=True)
            return False
        return True

    def _save_acknowledged(self, run: Run) -> None:
        try:
            self._journal.save_acknowledged(run)
        except OSError:
            asyncio.get_running_loop().call_later(DISK_SECONDS, self._save_acknowledged, run)
            return
        if run.ended:
            self._forget_old()

    def _forget_old(self) -> None:
        """Not those whose detached children still write."""
        for run in journals.too_old(self._runs.values()):
            if run.run_id not in self._tasks.values():
                self._journal.forget(run)
                del self._runs[run.run_id]

    def _start(self, run_id: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks[task] = run_id
        task.add_done_callback(self._tasks.pop)

    def _note(self, run: Run, state: RunState) -> None:
        if run.acknowledged >= run.sequence:
            run.unreported_since = time.monotonic()
        run.state = state
        run.sequence += 1
        if run.ended:
            self._save(run)
            self._news.set()
        else:
            asyncio.get_running_loop().call_later(TOGETHER_SECONDS * 1.1, self._news.set)

    def _end(self, run: Run, state: str, detail: str = "") -> None:
        results = [replace(r, state="failed", detail=detail) if r.state == "running" else r for r in run.state.results]
        self._note(run, replace(run.state, state=state, results=results, detail=detail))

    async def _carry_out(self, run: Run) -> None:
        order = run.order
        assert order is not None
        try:
            indexes = range(order.start_at, len(order.scripts)) if order.scripts else [-1]
            if order.phase == "boot" and not any(_has_begun(self._journal.job(run.run_id, each)) for each in indexes):
                await self._viewed(run)
            first = await self._packages(order)
            for index in indexes:
                known = result_of(run.state, index).state
                if known == "succeeded":
                    continue
                result = await self._script(run, order, index, first)
                first = []
                if index >= 0:
                    run.state = with_result(run.state, result)
                if result.state != "succeeded":
                    state = "cancelled" if result.state == "cancelled" else "failed"
                    name = order.scripts[index].name if index >= 0 else "packages"
                    self._note(run, replace(run.state, state=state, detail=f"{name}: {_why(result)}"))
                    return
                if index != len(order.scripts) - 1:
                    self._note(run, run.state)
            self._note(run, replace(run.state, state="succeeded"))
        except (RelaunchError, OSError) as error:
            self._end(run, "failed", str(error))
        finally:
            self._jobs.pop(run.run_id, None)

    async def _viewed(self, run: Run) -> None:
        """Failed when no view comes; a cancelled run need not wait."""
        view = asyncio.ensure_future(self._first_view())
        end = time.monotonic() + VIEW_SECONDS
        try:
            while not (await asyncio.wait({view}, timeout=CANCELLED_SECONDS))[0] and not run.cancelled:
                if time.monotonic() >= end:
                    raise Failed(
                        f"the controller has not told this server within {VIEW_SECONDS:g} s what it is (its view)"
                    )
        finally:
            view.cancel()

    async def _packages(self, order: RunScripts) -> List[Dict[str, object]]:
        missing = await not_installed(order.packages)
        return [installation(missing)] if missing else []

    async def _script(self, run: Run, order: RunScripts, index: int, before: List[Dict[str, object]]) -> ScriptResult:
        folder, log = self._journal.job(run.run_id, index), self._journal.log(run.run_id, max(index, 0))
        job = Job(folder, log)
        self._jobs[run.run_id] = job
        begun = _has_begun(folder)
        if run.cancelled and not begun:
            return ScriptResult(index, "cancelled", detail="cancelled before it began")
        if run.cancelled:  # the agent before may have ended before it could tell the script
            job.cancel()
        if not begun:
            if index >= 0:
                self._note(run, with_result(run.state, ScriptResult(index, "running")))
            try:
                await job.prepare(order, index, before, self._blobs, agent=self._agent)
            except (RelaunchError, OSError) as error:
                job.forget()
                return ScriptResult(index, "failed", detail=str(error))
            if run.cancelled:
                job.forget()
                return ScriptResult(index, "cancelled", detail="cancelled before it began")
            job.start()
        follower = JobFollower(job, run.run_id, max(index, 0), self._link)
        result = await follower.result()
        self._start(run.run_id, follower.finish())
        self._unsent[run.run_id] = follower.sent
        self._after_each()
        return journals.as_result(index, result)


def _has_begun(folder: Path) -> bool:
    return (folder / "started").exists() or runner_lives(folder)


def _due(run: Run) -> bool:
    if run.acknowledged >= run.sequence:
        return False
    return run.ended or time.monotonic() - run.unreported_since >= TOGETHER_SECONDS


def _why(result: ScriptResult) -> str:
    return result.detail or f"exit status {result.exit_status}"


def _why_not(order: RunScripts) -> Optional[str]:
    if not RUN_ID.fullmatch(order.run_id):
        return f"run id {order.run_id!r} is not made of letters, digits, - and _"
    if order.phase not in PHASES:
        return f"phase {order.phase!r} is none of {', '.join(PHASES)}"
    if not 0 <= order.start_at <= len(order.scripts):
        return f"there is no script number {order.start_at}"
    for script in order.scripts:
        for name, value in script.inputs.items():
            if not name or "=" in name or "\0" in name + value:
                return f"{script.name}: input {name!r} cannot be an environment variable"
        if script.timeout_seconds <= 0:
            return f"{script.name}: a time limit of {script.timeout_seconds:g} s"
    bad = [name for name in order.packages if not re.fullmatch(r"[a-z0-9][a-z0-9+.:-]*", name)]
    return f"not names of packages: {', '.join(bad)}" if bad else None
