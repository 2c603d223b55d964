"""Following a task: its steps as they come, script output when asked for, and its end as this command's exit status."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from relaunch.cli.client import Client, part
from relaunch.cli.show import print_json, span
from relaunch.errors import Failed, Unavailable

ENDED = ("succeeded", "failed", "cancelled")
DETAIL_SECONDS = 5.0  # at least so long between two lines on how far a step is, where they cannot be rewritten
RECONNECT_SECONDS = 60.0  # a controller that restarts resumes its tasks; so does who watches them


def task_id(answer: Mapping[str, Any]) -> str:
    """Of a 202 answer: `{"task": {"id": …}}`, `{"task": "…"}` or the task itself."""
    task = answer.get("task", answer)
    return str(task.get("id")) if isinstance(task, Mapping) else str(task)


def finish(client: Client, answer: Mapping[str, Any], *, json: bool, no_wait: bool, verbose: bool) -> dict[str, Any]:
    """Show the task to its end and return it; Failed when it did not succeed."""
    task = task_id(answer)
    if no_wait:
        found: dict[str, Any] = client.get(f"/tasks/{part(task)}")
        if json:
            print_json(found)
        else:
            print(f"task {task} goes on; see it with: relaunch task follow {task}")
        return found
    ended = follow(client, task, quiet=json, verbose=verbose)
    if json:
        print_json(ended)
    elif ended.get("state") == "succeeded":
        print(f"{ended.get('title') or 'task ' + task}: done")
    if ended.get("state") != "succeeded":
        why = str(ended.get("error") or "no reason was given")
        state = ended.get("state")
        raise Failed(f"{ended.get('title') or 'task'} {state}: {why}", hint=f"relaunch task show {task}")
    return ended


def follow(client: Client, task: str, *, quiet: bool = False, verbose: bool = False) -> dict[str, Any]:
    """The task once it has ended; a controller that restarts meanwhile is waited for."""
    printed = Printed(quiet=quiet, verbose=verbose)
    lost_since: float | None = None
    try:
        while True:
            try:
                for name, data in client.events(f"/tasks/{part(task)}/events"):
                    lost_since = None
                    printed.event(name, data)
                    if name == "task" and data.get("state") in ENDED:
                        break
                found: dict[str, Any] = client.get(f"/tasks/{part(task)}")
                if found.get("state") in ENDED:
                    for step in found.get("steps") or []:
                        printed.event("step", step)
                    printed.fresh_line()
                    return found
                time.sleep(0.2)
            except Unavailable:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > RECONNECT_SECONDS:
                    raise
                time.sleep(0.5)
    except KeyboardInterrupt:
        print(f"\ntask {task} goes on without you: relaunch task follow {task} · task cancel {task}", file=sys.stderr)
        raise


class Printed:
    """Which steps were printed already: a stream that is opened again starts from the first.

    How far a running step is stands on one line that is rewritten; where standard output is no terminal, on a new line
    now and then.
    """

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        self._quiet, self._verbose = quiet, verbose
        self._steps: dict[Any, tuple[str, str]] = {}  # state and detail
        self._told: dict[Any, float] = {}  # when a line said how far it is
        self._line_open = False
        self._rewritten = False
        self._source = ""

    def event(self, name: str, data: Mapping[str, Any]) -> None:
        if self._quiet:
            return
        if name == "step":
            self._step(data)
        elif name == "output" and self._verbose:
            self._output(f"{data.get('server')} · {data.get('script')}", str(data.get("text", "")))

    def _step(self, step: Mapping[str, Any]) -> None:
        key = (step.get("task_id"), step.get("number"))
        state, detail = str(step.get("state")), str(step.get("detail") or "")
        known, _ = self._steps.get(key, ("", ""))
        if self._steps.get(key) == (state, detail):
            return
        self._steps[key] = state, detail
        what = f"{step.get('server')}: {step.get('name')}" if step.get("server") else step.get("name")
        if state != known:
            self._line(f"  … {what}" if state == "running" else _ended_line(what, state, detail, step.get("seconds")))
        if state == "running" and detail:
            self._how_far(key, f"  … {what}: {detail}")

    def _how_far(self, key: Any, line: str) -> None:
        if sys.stdout.isatty():
            if not self._rewritten:
                self.fresh_line()
            sys.stdout.write(f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K")
            sys.stdout.flush()
            self._rewritten = True
        elif time.monotonic() - self._told.get(key, -DETAIL_SECONDS) >= DETAIL_SECONDS:
            self._told[key] = time.monotonic()
            self._line(line)

    def _line(self, line: str) -> None:
        self.fresh_line()
        print(line, flush=True)

    def fresh_line(self) -> None:
        """An open line of output ends; one that is rewritten goes."""
        sys.stdout.write("\r\x1b[K" if self._rewritten else "\n" if self._line_open else "")
        self._line_open = self._rewritten = False
        self._source = ""

    def _output(self, source: str, text: str) -> None:
        if self._rewritten:
            self.fresh_line()
        if source != self._source:
            self._source = source
            sys.stdout.write(("\n" if self._line_open else "") + f"── {source}\n")
        sys.stdout.write(text)
        sys.stdout.flush()
        self._line_open = not text.endswith("\n")


def _ended_line(what: Any, state: str, detail: str, seconds: float | None) -> str:
    mark = {"succeeded": "✓", "done": "✓", "failed": "✗", "cancelled": "–"}.get(state, "·")
    line = f"  {mark} {what}" + (f"  {_exact(seconds)}" if seconds is not None else "")
    return line + (f"\n      {detail}" if detail and state == "failed" else "")


def _exact(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else span(seconds)
