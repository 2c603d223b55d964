"""What a durable workflow is here: steps that are done once each and recorded, so that a killed controller goes on.

A workflow is an async function `(run, args)` registered under its kind. Everything it does to the world it does in
`run.step`, whose outcome (a value or an error of our tree, as JSON) is recorded by DBOS; after a restart the function
runs again from the top and the recorded steps answer at once. So: names and random ids are chosen by whoever starts
it, the function itself decides only from its arguments and its steps' values, and each step can be done twice, because
a kill may fall between the effect and its record. A step that was done and cannot be recorded counts as done; one that
cannot be looked up has failed like any other, so that the undo runs, which is done even when it cannot be recorded.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from relaunch import errors
from relaunch.clock import Clock
from relaunch.errors import Conflict, Failed, RelaunchError, Unavailable
from relaunch.workflows.tasks import ENDED, Asked, TaskList

log = logging.getLogger(__name__)

APPLICATION_VERSION = "1"  # pinned: DBOS's own hash changes with its version and would leave old workflows pending
EXECUTOR = "controller"
PENDING = ("PENDING", "ENQUEUED")  # what DBOS runs, or will
AGAIN_SECONDS = 1.0  # until what the store did not take is tried again
NOT_NOW = (OperationalError, InterfaceError, PoolTimeout)  # a store that is full, locked or away
TRIES = 4  # of a step that says try again; waits of 0.25, 0.5, 1 s between

Body = Callable[["Run", dict[str, Any]], Awaitable[Any]]
# A test's hand between a step's effect and its record: (kind, workflow id, step number, step name). True: do it again.
AfterEffect = Callable[[str, str, int, str], Awaitable[bool | None] | bool | None]

REGISTRY: dict[str, Body] = {}
SHARED: set[str] = set()  # kinds that whoever needs them starts, also when they run already
NEVER_BEGAN = "the controller was stopped before it began"


class Cancelled(Conflict):
    """Somebody cancelled the task; its undo runs."""

    code = "cancelled"


def workflow(kind: str, *, shared: bool = False) -> Callable[[Body], Body]:
    """Register a workflow's body under its kind; `shared`: whoever needs one starts it, also when it runs already."""

    def register(body: Body) -> Body:
        REGISTRY[kind] = body
        if shared:
            SHARED.add(kind)
        return body

    return register


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    done: asyncio.Event


class Run:
    """One execution of a workflow: what its body acts through."""

    def __init__(self, workflows: Workflows, task: str, asked: Asked) -> None:
        self.workflows = workflows
        self.ports: Any = workflows.ports
        self.task = task
        self.asked = asked
        self._cancelled_by: str | None = None
        self._undoing = False
        self._number = 0
        self._waiting: asyncio.Future[Any] | None = None

    @property
    def who(self) -> str:
        return self.asked.who

    async def step(self, name: str, act: Callable[..., Any], *args: Any, waits: bool = False) -> Any:
        """Do `act(*args)` once and give its value (JSON); a `waits` step is broken off when the task is cancelled."""
        self._number += 1
        number = self._number

        async def effect() -> dict[str, Any]:
            self._shown(self.workflows.tasks.step_started, number, name)
            started = time.monotonic()
            outcome = await self._outcome(name, act, args, waits)
            if self.workflows.after_effect is not None:
                outcome = await self._interfered(number, name, outcome, lambda: self._outcome(name, act, args, waits))
            state, detail = ("failed", outcome["error"]["message"]) if "error" in outcome else ("succeeded", "")
            seconds = round(time.monotonic() - started, 4)
            self._shown(self.workflows.tasks.step_ended, number, state, seconds=seconds, detail=detail)
            return outcome

        outcome = await self._recorded(name, effect)
        if "error" in outcome:
            raise _error(outcome["error"])
        return outcome["value"]

    async def _recorded(self, name: str, effect: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """The recorded outcome, or that of doing it now. When that cannot be recorded it counts all the same: after a
        restart the step is done once more. One that could not even be looked up has failed, unless it undoes."""
        done: list[dict[str, Any]] = []

        async def kept() -> dict[str, Any]:
            done.append(await effect())
            return done[0]

        try:
            return await self.workflows.recorded(name, kept)
        except Exception as error:  # what DBOS steers by is a BaseException
            log.exception("step %r of task %s is not recorded", name, self.task)
            if done:
                return done[0]
            return await effect() if self._undoing else {"error": _plain(_not_looked_up(name, error))}

    async def _outcome(self, name: str, act: Callable[..., Any], args: tuple[Any, ...], waits: bool) -> dict[str, Any]:
        for attempt in range(TRIES):
            if self._cancelled_by is not None and not self._undoing:
                return {"error": _plain(Cancelled(f"cancelled by {self._cancelled_by}"))}
            try:
                if self._undoing:
                    return {"value": await self.workflows.stored(self.task, self._act, act, args, waits)}
                return {"value": await self._act(act, args, waits)}
            except Unavailable as error:
                if waits or attempt == TRIES - 1:
                    return {"error": _plain(error)}
                await asyncio.sleep(0.25 * 2**attempt)
            except RelaunchError as error:
                return {"error": _plain(error)}
            except asyncio.CancelledError:
                if self._cancelled_by is None or self._undoing:
                    raise
                return {"error": _plain(Cancelled(f"cancelled by {self._cancelled_by}"))}
            except Exception as error:
                log.exception("step %r of task %s", name, self.task)
                return {"error": _plain(Failed(f"{name}: {type(error).__name__}: {error}"))}
        raise AssertionError("unreachable: the last attempt returns")

    async def _act(self, act: Callable[..., Any], args: tuple[Any, ...], waits: bool) -> Any:
        value = act(*args)
        if not inspect.isawaitable(value):
            return value
        if not waits:
            return await value
        self._waiting = asyncio.ensure_future(value)
        try:
            return await self._waiting
        finally:
            self._waiting.cancel()
            self._waiting = None

    async def _interfered(
        self, number: int, name: str, outcome: dict[str, Any], again: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        assert self.workflows.after_effect is not None
        try:
            answer = self.workflows.after_effect(self.asked.kind, self.task, number, name)
            if inspect.isawaitable(answer):
                answer = await answer
        except RelaunchError as error:
            return {"error": _plain(error)}
        return await again() if answer else outcome

    @contextmanager
    def undoing(self) -> Iterator[None]:
        """Steps in here are done even when the task is cancelled or they cannot be recorded, and wait for the store."""
        self._undoing = True
        try:
            yield
        finally:
            self._undoing = False

    def note(self, detail: str) -> None:
        """What the running step is at, in words, for whoever looks on."""
        self._shown(self.workflows.tasks.step_detail, self._number, detail)

    def _shown(self, write: Callable[..., None], *args: Any, **more: Any) -> None:
        """Work that cannot be shown goes on."""
        try:
            write(self.task, *args, **more)
        except SQLAlchemyError as error:
            log.warning("what task %s is at is not stored: %s", self.task, error)
        self.workflows.changed(self.asked.kind)

    async def start_child(self, kind: str, workflow_id: str, args: dict[str, Any], *, title: str, subject: str) -> None:
        """Call it inside a step; the same id again is the same child."""
        asked = Asked(kind=kind, title=title, subject=subject, who=self.who, parent=self.task)
        await self.workflows.start_workflow(asked, workflow_id, args)

    async def wait_for(self, workflow_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The ended tasks' rows, in the order asked; call it inside a step that `waits`."""
        return [_summary(await self.workflows.wait(each)) for each in workflow_ids]

    def cancel(self, who: str) -> None:
        self._cancelled_by = who
        if self._waiting is not None and not self._undoing:
            self._waiting.cancel()


class Workflows:
    """The runtime: starts, resumes, cancels and waits for workflows; one per process, because DBOS is."""

    def __init__(
        self,
        *,
        database: Engine,
        clock: Clock,
        workflow_database_url: str,
        after_effect: AfterEffect | None = None,
        poll_seconds: float = 1.0,
    ) -> None:
        self.tasks = TaskList(database, clock)
        self.ports: Any = None
        self.after_effect = after_effect
        self.not_stored: dict[str, str] = {}  # by task that waits for it: why the store does not take what it did
        self._url = workflow_database_url
        self._poll_seconds = poll_seconds  # how soon DBOS sees that it is to stop
        self._listeners: list[tuple[Callable[[], None], Sequence[str]]] = []
        self._runs: dict[str, Run] = {}
        self._bodies: dict[str, asyncio.Task[Any]] = {}
        self._ended: dict[str, _Watched] = {}
        self._started = asyncio.Event()  # no workflow goes on before those that were lost are ended
        self._stopping = False
        self._not_begun: dict[str, Asked] = {}  # children whose parent is to start them again
        self._starting: set[str] = set()  # those DBOS is being told of
        self._background: set[asyncio.Task[None]] = set()
        self._dbos: Any = None
        self._entry: Any = None

    def subscribe(self, listener: Callable[[], None], *, but_not: Sequence[str] = ()) -> None:
        """Called in the event loop, without arguments, at every change of a task or step; must return at once.

        `but_not`: kinds of workflows whose changes are none of the listener's.
        """
        self._listeners.append((listener, but_not))

    def changed(self, kind: str = "") -> None:
        for listener, but_not in self._listeners:
            if kind not in but_not:
                listener()

    async def start(self, ports: Any) -> None:
        """Ready for work; what a killed controller left unfinished goes on within about a second."""
        self.ports = ports
        _use_write_ahead_log(self._url)
        self._dbos, self._entry = _launched(self._url, self._body, self._poll_seconds)
        going_on = await self._dbos.list_workflows_async(status=list(PENDING), load_input=False)
        pending = {each.workflow_id for each in going_on}
        lost = [row for row in self.tasks.unfinished() if row["id"] not in pending]
        if lost:
            await self._end_lost(lost, pending)
        self._started.set()

    async def _end_lost(self, lost: list[dict[str, Any]], pending: set[str]) -> None:
        """End them, but for those that had not begun yet and are started again by a workflow that goes on."""
        known = await self._dbos.list_workflows_async(workflow_ids=[row["id"] for row in lost], load_input=False)
        begun = {each.workflow_id for each in known}
        for row in lost:
            asked = _asked(row)
            if row["id"] in begun:
                self.tasks.end(row["id"], asked, "failed", error="how it ended could not be stored")
            elif asked.parent in pending:
                self._not_begun[row["id"]] = asked
            elif not (pending and asked.kind in SHARED):
                self.tasks.end(row["id"], asked, "failed", error=NEVER_BEGAN)

    async def stop(self) -> None:
        """Break off what runs, unrecorded, and what begins meanwhile: the next start goes on with it."""
        self._stopping = True
        bodies = list(self._bodies.values())
        for workflow_id, body in list(self._bodies.items()):
            if workflow_id in self._runs:  # else it has ended and is being recorded as such
                body.cancel()
        for work in self._background:
            work.cancel()
        await asyncio.gather(*bodies, *self._background, return_exceptions=True)
        if self._dbos is not None:
            await asyncio.to_thread(self._dbos.destroy, destroy_registry=True)
            self._dbos = None

    async def start_workflow(self, asked: Asked, workflow_id: str, args: dict[str, Any]) -> None:
        """Start it unless it was started already; the task's row is there when this returns."""
        if asked.kind not in REGISTRY:
            raise Failed(f"no workflow is called {asked.kind}")
        await self._started.wait()  # what is under way while we start is not mistaken for what was lost before
        self.tasks.begin(workflow_id, asked)
        self._not_begun.pop(workflow_id, None)
        self._starting.add(workflow_id)
        # Goes on when whoever asked is cancelled: the row is there, and DBOS is to know of it.
        await asyncio.shield(self._beside(self._start(workflow_id, asked, args)))
        self.changed(asked.kind)

    async def _start(self, workflow_id: str, asked: Asked, args: dict[str, Any]) -> None:
        from dbos import SetWorkflowID

        try:
            with SetWorkflowID(workflow_id):
                await self._dbos.start_workflow_async(self._entry, workflow_id, asdict(asked), args)
        except Exception as error:
            why = f"it could not be started: {type(error).__name__}: {error}"
            self._beside(self._end_forsaken(workflow_id, asked, "failed", why))
            raise
        finally:
            self._starting.discard(workflow_id)

    def _beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """In a context of its own: DBOS would count what is done inside a step as an operation of that step."""
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def wait(self, workflow_id: str) -> dict[str, Any]:
        """The task's row once it has ended, however it ended."""
        while True:
            row = self.tasks.get(workflow_id)
            if row["state"] in ENDED:
                return row
            watched = self._ended.setdefault(workflow_id, _Watched(done=asyncio.Event()))
            await watched.done.wait()

    def cancel(self, workflow_id: str, who: str) -> None:
        """Ask for it; the task ends as cancelled once its undo is through. Conflict when it has ended already."""
        row = self.tasks.get(workflow_id)
        if row["state"] in ENDED:
            raise Conflict(f"task {workflow_id} has ended already: {row['state']}")
        self.tasks.ask_cancel(workflow_id, who)
        if (run := self._runs.get(workflow_id)) is not None:
            run.cancel(who)
        elif workflow_id not in self._starting:
            self._beside(self._end_forsaken(workflow_id, _asked(row), "cancelled", f"cancelled by {who}"))
        for child in self.tasks.children(workflow_id):
            if self.tasks.get(child)["state"] not in ENDED:
                self.cancel(child, who)

    async def forget(self, ended: Sequence[str]) -> None:
        """Tasks that nobody will ask for. DBOS first: it begins anew what it was not told the end of, without a row."""
        await self._dbos.delete_workflows_async(list(ended))
        self.tasks.forget(ended)

    async def _end_forsaken(self, workflow_id: str, asked: Asked, state: str, error: str) -> None:
        """End what nothing works on, now or after a restart."""
        status = await self.stored(workflow_id, self._dbos.get_workflow_status_async, workflow_id)
        if status is None or status.status not in PENDING:
            await self._end(workflow_id, asked, state, error=error)

    async def recorded(self, name: str, effect: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """The recorded outcome of this step, or that of doing it now."""
        outcome: dict[str, Any] = await self._dbos.run_step_async({"name": name}, effect)
        return outcome

    async def stored(self, task: str, write: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """What `write` answers, once the store takes it, however long that is: a task that failed instead could not be
        stored as such either, and what it did would be forgotten."""
        try:
            while True:
                try:
                    answer = write(*args, **more)
                    return await answer if inspect.isawaitable(answer) else answer
                except NOT_NOW as error:
                    if task not in self.not_stored:
                        log.warning("what task %s did is tried again until it is stored: %s", task, error)
                    self.not_stored[task] = str(error.orig) if isinstance(error, DBAPIError) else str(error)
                    await asyncio.sleep(AGAIN_SECONDS)
        finally:
            self.not_stored.pop(task, None)

    async def _body(self, workflow_id: str, asked_plain: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
        if self._stopping:
            raise asyncio.CancelledError
        asked = Asked(**asked_plain)
        run = self._runs[workflow_id] = Run(self, workflow_id, asked)
        current = asyncio.current_task()
        assert current is not None
        self._bodies[workflow_id] = current
        current.add_done_callback(lambda _: self._bodies.pop(workflow_id, None))
        try:
            await self._started.wait()
            row = await self.stored(workflow_id, self.tasks.begin, workflow_id, asked)
            if row["state"] in ENDED:  # only DBOS could not be told
                return {}
            if (who := (row["result"] or {}).get("cancel_asked_by")) is not None:
                run.cancel(who)
            result = await REGISTRY[asked.kind](run, args)
            await self._end(workflow_id, asked, "succeeded", result=result)
        except Cancelled as error:
            await self._end(workflow_id, asked, "cancelled", error=str(error))
        except RelaunchError as error:
            await self._end(workflow_id, asked, "failed", error=str(error))
        except Exception as error:
            log.exception("workflow %s", workflow_id)
            await self._end(workflow_id, asked, "failed", error=f"{type(error).__name__}: {error}")
        finally:
            self._runs.pop(workflow_id, None)
        return {}

    async def _end(self, workflow_id: str, asked: Asked, state: str, *, error: str = "", result: Any = None) -> None:
        """Returns once it is stored: until then the workflow goes on, also after a restart. Children it has not started
        again by then end before it."""
        for child, of in [(id, of) for id, of in self._not_begun.items() if of.parent == workflow_id]:
            del self._not_begun[child]
            await self._end(child, of, "failed", error=NEVER_BEGAN)
        await self.stored(workflow_id, self.tasks.end, workflow_id, asked, state, error=error, result=result)
        if (watched := self._ended.pop(workflow_id, None)) is not None:
            watched.done.set()
        self.changed(asked.kind)


def _launched(url: str, body: Callable[..., Awaitable[Any]], poll_seconds: float) -> tuple[Any, Any]:
    """DBOS, started in the running loop: workflows it resumes run there too. Imported late: it takes half a second."""
    from dbos import DBOS, Serializer

    class Json(Serializer):
        def serialize(self, data: Any) -> str:
            return json.dumps(data, separators=(",", ":"), default=repr)

        @classmethod
        def deserialize(cls, serialized_data: str) -> Any:
            return json.loads(serialized_data)

        def name(self) -> str:
            return "relaunch-json"

    DBOS(
        config={
            "name": "relaunch",
            "system_database_url": url,
            "serializer": Json(),
            "application_version": APPLICATION_VERSION,
            "executor_id": EXECUTOR,
            "log_level": "WARNING",
            "enable_otlp": False,
            "notification_listener_polling_interval_sec": poll_seconds,
        }
    )

    @DBOS.workflow(name="durable", max_recovery_attempts=None)
    async def durable(workflow_id: str, asked: dict[str, Any], args: dict[str, Any]) -> Any:
        return await body(workflow_id, asked, args)

    DBOS.launch()
    return DBOS, durable


def _use_write_ahead_log(url: str) -> None:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        with closing(sqlite3.connect(parsed.database)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def _not_looked_up(name: str, error: Exception) -> Failed:
    from dbos import error as dbos_errors

    if isinstance(error, dbos_errors.DBOSUnexpectedStepError):
        return Failed(
            "it was begun by a version of relaunch that does this in other steps, and cannot go on from there",
            hint="look at what it has done, then order it again",
        )
    return Failed(f"{name}: it could not be looked up: {type(error).__name__}: {error}")


def _plain(error: RelaunchError) -> dict[str, str]:
    return {"kind": type(error).__name__, "message": error.message, "hint": error.hint}


def _error(plain: dict[str, str]) -> RelaunchError:
    if plain["kind"] == Cancelled.__name__:
        return Cancelled(plain["message"], hint=plain["hint"])
    found = getattr(errors, plain["kind"], Failed)
    # Some kinds are made from more than a message; the nearest above them is not.
    for kind in found.__mro__:
        try:
            made: RelaunchError = kind(plain["message"], hint=plain["hint"])
        except TypeError:
            continue
        return made
    raise AssertionError("unreachable: RelaunchError itself is made from a message")


def _asked(row: dict[str, Any]) -> Asked:
    return Asked(kind=row["kind"], title=row["title"], subject=row["subject"], who=row["who"], parent=row["parent_id"])


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "state", "error", "result", "subject")}
