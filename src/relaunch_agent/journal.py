"""Runs on disk: what was ordered, how far it came, what the controller knows of it.

`run.json` has a line for each state it was in; the last whole one counts.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Iterable, List, Optional, Tuple

from relaunch.bus.messages import RunProgress, RunScripts, RunState, ScriptResult, decode, encode
from relaunch_agent.disk import append_record, last_record, remove, write_new

KEPT_RUNS = 50
KEPT_SECONDS = 7 * 86400.0  # so long a controller whose store was put back may give the same order again
ENDED = ("succeeded", "failed", "cancelled")


@dataclass
class Run:
    """A run in memory; `order` is gone from the disk, and from here, once it ended: it holds secrets."""

    run_id: str
    order: Optional[RunScripts]
    state: RunState
    boot_id: str
    sequence: int = 0
    acknowledged: int = 0
    cancelled: bool = False
    at: float = field(default_factory=time.time)
    saved: int = 0  # the sequence that is on the disk
    unreported_since: float = field(default_factory=time.monotonic)

    @property
    def ended(self) -> bool:
        return self.state.state in ENDED


class Journal:
    def __init__(self, folder: Path, logs: Path) -> None:
        self._folder = folder
        self._logs = logs

    def job(self, run_id: str, index: int) -> Path:
        return self._folder / run_id / str(index)

    def log(self, run_id: str, index: int) -> Path:
        return self._logs / run_id / f"{index}.log"

    def begin(self, order: RunScripts, boot_id: str) -> Run:
        results = [ScriptResult(index, "waiting") for index in range(order.start_at, len(order.scripts))]
        run = Run(order.run_id, order, RunState(order.run_id, "running", results), boot_id, sequence=1)
        folder = self._folder / run.run_id
        folder.mkdir(parents=True, exist_ok=True)
        write_new(folder / "order.json", encode(order), mode=0o600)
        # The order is accepted once this is on the disk: after a loss of power it is not carried out again.
        self.save(run, durable=True)
        return run

    def save(self, run: Run, *, durable: bool = False) -> None:
        known = {
            "progress": json.loads(encode(RunProgress(run.state, run.sequence))), "boot_id": run.boot_id,
            "acknowledged": run.acknowledged, "cancelled": run.cancelled, "at": run.at,
        }  # fmt: skip
        append_record(self._folder / run.run_id / "run.json", known, durable=durable)
        run.saved = run.sequence
        if run.ended:
            run.order = None
            remove(self._folder / run.run_id / "order.json")

    def save_acknowledged(self, run: Run) -> None:
        """Not urgent: what is reported twice is stored once. Nothing when the run is forgotten."""
        if (self._folder / run.run_id).exists():
            self.save(run)

    def load(self) -> List[Run]:
        """All runs on disk, oldest first; the old ones are removed."""
        runs = [run for folder in self._folder.glob("*") if (run := self._read(folder)) is not None]
        runs.sort(key=lambda run: run.at)
        old = too_old(runs)
        for run in old:
            self.forget(run)
        return [run for run in runs if run not in old]

    def forget(self, run: Run) -> None:
        shutil.rmtree(self._folder / run.run_id, ignore_errors=True)
        shutil.rmtree(self._logs / run.run_id, ignore_errors=True)

    def _read(self, folder: Path) -> Optional[Run]:
        known = last_record(folder / "run.json")
        if known is None:
            return None
        progress: RunProgress = decode(json.dumps(known.pop("progress")).encode())
        order_file = folder / "order.json"
        order = decode(order_file.read_bytes()) if order_file.exists() else None
        return Run(folder.name, order, progress.run, sequence=progress.sequence, **known)


def too_old(runs: Iterable[Run]) -> List[Run]:
    """Those of a week ago that the controller knows the end of, but for the newest KEPT_RUNS; `runs`: oldest first."""
    now = time.time()
    return [
        run for run in list(runs)[:-KEPT_RUNS]
        if run.ended and run.acknowledged >= run.sequence and abs(now - run.at) > KEPT_SECONDS
    ]  # fmt: skip


def with_result(state: RunState, result: ScriptResult) -> RunState:
    return replace(state, results=[result if r.index == result.index else r for r in state.results])


def result_of(state: RunState, index: int) -> ScriptResult:
    return next((r for r in state.results if r.index == index), ScriptResult(index, "waiting"))


def as_result(index: int, raw: dict[str, object]) -> ScriptResult:
    """What the runner wrote, as the bus says it."""
    names: Tuple[str, ...] = tuple(f.name for f in dataclasses.fields(ScriptResult))
    return ScriptResult(**{"index": index, **{k: v for k, v in raw.items() if k in names}})  # type: ignore[arg-type]
