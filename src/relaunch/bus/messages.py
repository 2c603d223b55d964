"""Messages between controller and agent: frozen dataclasses and one small strict decoder.

On the wire: UTF-8 JSON {"kind": "RunScripts", ...fields}. Unknown kind or field, a missing field or a wrong type is a
BadInput. Runs on Python 3.9: shipped in the agent, so the type hints used here are kept to what `_fits` understands.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Type

from relaunch.errors import BadInput

# controller → agent


@dataclass(frozen=True)
class Blob:
    """A file the agent fetches by its hash from GET /agent/blobs/{sha256}, with its own credential."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class ScriptToRun:
    name: str
    blob: Blob
    attachments: List[Blob] = field(default_factory=list)
    inputs: Dict[str, str] = field(default_factory=dict)  # resolved; arrays already joined with commas
    secrets: List[str] = field(default_factory=list)  # names of inputs whose values are masked in the output
    timeout_seconds: float = 3600.0


@dataclass(frozen=True)
class RunScripts:
    """Run these in order, stop at the first failure. The same run_id twice is one run; the answer tells its state."""

    run_id: str
    phase: str  # bake | boot | operational | decommission
    scripts: List[ScriptToRun] = field(default_factory=list)
    packages: List[str] = field(default_factory=list)
    start_at: int = 0  # index of the first script to run: retry from a failed one
    reboot: bool = False  # RS_REBOOT


@dataclass(frozen=True)
class CancelRun:
    run_id: str


@dataclass(frozen=True)
class AskRun:
    """What became of this run?"""

    run_id: str


@dataclass(frozen=True)
class SetView:
    """What the agent is to know of the world; kept on its disk. See docs: the view. Older versions are refused."""

    version: int
    view: Dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class UpgradeAgent:
    blob: Blob


@dataclass(frozen=True)
class PrepareImage:
    """Remove what belongs to this instance only (identity, credentials, keys, logs), ready for create_image."""


@dataclass(frozen=True)
class TakeRole:
    """Bring this database server to a role and keep it there; answered by the `DatabaseReport` of what it is then.

    An order of an older epoch than one obeyed before is refused. The same order again is no change.
    """

    epoch: int
    role: str  # primary | replica | revoked (read-only, receives nothing more) | fenced (revoked, and has no clients)
    source: str = ""  # replica: the primary's address
    acknowledge: bool = False  # replica: say to the primary what has been received; only members of the sync set do
    required: bool = False  # primary: no commit is answered before a replica has acknowledged it
    position: str = ""  # primary: applied before it takes writes
    release: str = ""  # primary: a replica has all of this, so commits within it that wait for its word may end
    grace: float = 0.0  # fenced: seconds for open transactions to end before their sessions are cut
    seconds: float = 1.0  # how long the answer may take; what is not reached then goes on and is reported later


@dataclass(frozen=True)
class Hold:
    """Front ends: hold new connections to the primary database until a view of this epoch is in force here.

    `seconds`: at the longest; 0 lets go at once. New connections wait unanswered, those that stand are left alone.
    """

    epoch: int
    seconds: float


@dataclass(frozen=True)
class Retire:
    """This instance is terminated or set aside: stop doing anything and forget the credential."""

    reason: str


# the agent's answer to an order


@dataclass(frozen=True)
class ScriptResult:
    index: int
    state: str  # waiting | running | succeeded | failed | cancelled | timed_out
    exit_status: Optional[int] = None
    seconds: float = 0.0
    output_bytes: int = 0  # all that it wrote, sent or not
    detail: str = ""  # why, when it is not the exit status that says so


@dataclass(frozen=True)
class RunState:
    run_id: str
    state: str  # unknown | running | succeeded | failed | cancelled
    results: List[ScriptResult] = field(default_factory=list)
    detail: str = ""


@dataclass(frozen=True)
class Accepted:
    run: Optional[RunState] = None


@dataclass(frozen=True)
class Refused:
    reason: str


# agent → controller


@dataclass(frozen=True)
class Hello:
    """First request of every connection; the answer is `Welcome`."""

    agent_version: str
    agent_sha256: str
    boot_id: str
    view_version: int
    runs: List[RunState] = field(default_factory=list)  # unfinished, or finished and not acknowledged


@dataclass(frozen=True)
class Welcome:
    controller_version: str
    heartbeat_seconds: float = 1.0


@dataclass(frozen=True)
class RunProgress:
    """State of a run after any change; answered by `Stored`. Numbered so that a late copy does no harm."""

    run: RunState
    sequence: int = 0


@dataclass(frozen=True)
class Published:
    """A script published a tag or an output (`relaunch-local tag|output`); answered by `Stored`."""

    tags: Dict[str, str] = field(default_factory=dict)
    removed_tags: List[str] = field(default_factory=list)
    outputs: Dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    pass


@dataclass(frozen=True)
class Output:
    """A piece of a script's output, ≤ 256 KB. `offset` counts bytes of this stream; a gap was left out on purpose."""

    run_id: str
    index: int
    offset: int
    text: str


@dataclass(frozen=True)
class Alive:
    boot_id: str
    uptime_seconds: float
    load: float = 0.0
    memory_used_bytes: int = 0
    memory_total_bytes: int = 0


NO_ACKNOWLEDGEMENT = "no acknowledgement"  # `DatabaseReport.stall`: a commit waits for a replica's word
DISK_FULL = "disk full"  # `DatabaseReport.stall`: a commit waits for room
UNEXPLAINED = "unexplained"  # `DatabaseReport.stall`: a commit does not end, and no cause is found


@dataclass(frozen=True)
class DatabaseReport:
    """A database server as its own agent sees it: sent at once when anything but a position or an age changed, and
    twice a second. Ages and durations in seconds of the agent's own monotonic clock; positions in its dialect."""

    dialect: str  # mariadb | mysql
    epoch: int  # of the last order it has carried out wholly, before it looked at all the rest; 0 for none
    role: str  # of that order, "" for none
    answers: bool  # a query over the local socket was answered
    trouble: str = ""  # when not: stopped | starting | frozen | full of connections | …
    trouble_seconds: float = 0.0  # how long that has been so
    version: str = ""
    read_only: bool = True
    executed: str = ""
    history: str = ""
    received: str = ""
    source: str = ""
    receiving: bool = False
    applying: bool = False
    error: str = ""
    lag_seconds: Optional[float] = None
    delayed: bool = False
    received_seconds: Optional[float] = None  # since anything, heartbeats included, came from the source
    acknowledging: bool = False
    required: bool = False
    acknowledgers: List[str] = field(default_factory=list)
    write_seconds: Optional[float] = None  # of a primary: since its last heartbeat row was committed
    started: str = ""  # another one each time that received and not yet applied writes may have been discarded: a start
    # of the server, or of replication from a standstill
    stall: str = ""  # why it is not: no acknowledgement | disk full | read-only file system | long transaction | …
    full: bool = False  # lately it has had no connection left
    free_bytes: Optional[int] = None  # of the disk its data lies on, and of how many: as df(1) has them
    disk_bytes: Optional[int] = None


@dataclass(frozen=True)
class Probe:
    """One database server as an agent elsewhere sees it over a connection it keeps open."""

    outcome: str  # ok | refused | timeout | full of connections | denied | error
    seconds: float = 0.0  # how long the outcome has been this one
    ok_seconds: Optional[float] = None  # since it last answered; None: never
    read_only: Optional[bool] = None  # as it said then


@dataclass(frozen=True)
class Witnessed:
    """What this agent sees of the group's servers, by address: sent when an outcome changed, and each second."""

    probes: Dict[str, Probe] = field(default_factory=dict)
    epoch: int = 0  # of the database group, as the view in force here has it


KINDS: Dict[str, Type[Any]] = {
    kind.__name__: kind
    for kind in (
        RunScripts, CancelRun, AskRun, SetView, UpgradeAgent, PrepareImage, TakeRole, Hold, Retire,
        Accepted, Refused, Hello, Welcome, RunProgress, Published, Stored,
        Output, Alive, DatabaseReport, Witnessed,
    )
}  # fmt: skip


_known_hints: Dict[Type[Any], Dict[str, Any]] = {}


def encode(message: Any) -> bytes:
    """The wire form of a message. What is as it is by default is left out: a reader older than a field is not to refuse
    every message for it."""
    usual = {each.name: each.default for each in dataclasses.fields(message)}
    said = {name: value for name, value in dataclasses.asdict(message).items() if value != usual[name]}
    body = {"kind": type(message).__name__, **said}
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def decode(data: bytes) -> Any:
    """The message in `data`; BadInput when it is not exactly one of KINDS."""
    try:
        body = json.loads(data)
    except ValueError as error:
        raise BadInput(f"bus message is not JSON: {error}") from None
    if not isinstance(body, dict) or body.get("kind") not in KINDS:
        raise BadInput("bus message of unknown kind; controller and agent are of different versions?")
    return _built(KINDS[body.pop("kind")], body)


def _built(kind: Type[Any], body: Dict[str, Any]) -> Any:
    hints = _hints(kind)
    unknown = set(body) - set(hints)
    if unknown:
        raise BadInput(f"bus message {kind.__name__}: unknown field {', '.join(sorted(unknown))}")
    try:
        return kind(**{name: _fitted(hints[name], value, f"{kind.__name__}.{name}") for name, value in body.items()})
    except TypeError as error:
        raise BadInput(f"bus message {kind.__name__}: {error}") from None


def _hints(kind: Type[Any]) -> Dict[str, Any]:
    """The fields' types, looked up once: as strings they would be evaluated anew each time."""
    if kind not in _known_hints:
        _known_hints[kind] = typing.get_type_hints(kind)
    return _known_hints[kind]


def _fitted(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is typing.Union:
        return None if value is None else _fitted(arguments[0], value, where)
    if origin is list:
        _must_be(isinstance(value, list), where, value)
        return [_fitted(arguments[0], item, where) for item in value]
    if origin is dict:
        _must_be(isinstance(value, dict), where, value)
        return {key: _fitted(arguments[1], item, where) for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        _must_be(isinstance(value, dict), where, value)
        return _built(typing.cast(Type[Any], hint), value)
    if hint is float:
        _must_be(isinstance(value, (int, float)) and not isinstance(value, bool), where, value)
        return float(value)
    _must_be(isinstance(value, hint) and not (hint is int and isinstance(value, bool)), where, value)
    return value


def _must_be(fits: bool, where: str, value: Any) -> None:
    if not fits:
        raise BadInput(f"bus message {where}: {type(value).__name__} does not fit")
