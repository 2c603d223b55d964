"""A database group: what is stored of it, what is seen of it, and what may be decided. Data only, all frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from relaunch.bus.messages import DatabaseReport, Probe, TakeRole


class Mode(StrEnum):
    FORMING = "forming"  # no replica has been in step yet; nothing but the first primary can be the primary
    SYNC = "sync"  # every acknowledged write is on a member of the sync set too
    ASYNC = "async"  # durability available: writes go on without a replica; no failover unless a person allows loss
    BLOCKED = "blocked"  # durability strict: no replica, and so no writes, until there is one or somebody decides
    SINGLE = "single"  # there is no other member that could take over


class Step(StrEnum):
    REVOKE = "revoke"  # no replica receives any more, so the old primary can acknowledge nothing
    DRAIN = "drain"  # switchover: proxies hold new connections
    FREEZE = "freeze"  # switchover: the old primary takes no more writes
    PROMOTE = "promote"  # the candidate applies all of `position`, then takes writes
    GO_BACK = "go back"  # switchover given up: the old primary takes writes again


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A failover or switchover under way; survives the controller's end. `began`: UTC, seconds since 1970."""

    kind: str  # failover | switchover
    step: Step
    old: str
    candidate: str | None  # in REVOKE: the one that was to lead before, and could not
    position: str = ""
    rule: str = ""  # the rule that decided, or who asked
    forced: str = ""  # a failover somebody ordered to this member, whatever the others have
    began: float
    step_began: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """As stored. Members are named by their instance's id: a server's next incarnation is another member.

    `sync_set` holds every member that may acknowledge: one is added before it is told to, and removed only once it
    surely does not any more. `failovers`: when automatic ones began (UTC, seconds since 1970), a day back.

    An epoch gives each member one order and never another: whatever changes an order raises it. So an order that comes
    late does no harm, and a report of the present epoch was surely made after the decision that raised it.
    """

    name: str
    epoch: int
    primary: str | None
    durability: str  # available | strict
    initialised: bool
    mode: Mode = Mode.FORMING
    reason: str = ""  # why the mode is this one
    since: float = 0.0
    promoted: float = 0.0  # when the present primary was found to take writes; nobody can have missed it for longer
    required: bool = False  # the primary is ordered to wait for acknowledgements; in mode SYNC it has confirmed that
    sync_set: frozenset[str] = frozenset()
    # Of the sync set, and of one that is promoted: the start of each one's server that we count on. Of the sync set:
    # those that have started again since and may lack what they acknowledged before; those ordered to acknowledge no
    # more; and of these, those that surely do not: they go once the others have all that these may be alone with.
    starts: Mapping[str, str] = field(default_factory=dict)
    forgot: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()
    fenced: frozenset[str] = frozenset()  # former primaries and strangers to the data: read-only until replaced
    change: Change | None = None
    paused: str = ""  # who said so, and why: no automatic failover
    loss_allowed: str = ""  # who said so, and why: one failover may lose writes that no replica has
    loss_allowed_at: float = 0.0  # when that was said (UTC, seconds since 1970), and for how long it is so
    loss_allowed_seconds: float = 0.0
    failovers: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One database server as it is seen now. Ages in seconds. One whose instance is no more is not listed."""

    id: str  # of its instance
    name: str
    address: str
    zone: str = ""
    connected: bool = False  # its agent is connected to the controller
    away_seconds: float = 0.0  # since when it is not, as far as this controller has seen
    report: DatabaseReport | None = None
    report_seconds: float = 0.0  # since its agent said so; since the controller began, when it has said nothing yet
    answering_seconds: float = 0.0  # for how long its agent has said without a gap that it answers
    standing_seconds: float = 0.0  # for how long all its agent has said is that it has executed nothing more
    cloud_running: bool | None = None  # what the cloud says: None when it does not answer
    rank: int = 0  # in the deployment file: of two that could lead, the lower one does
    never_leads: bool = False  # the file says so; such a one does not acknowledge either
    going: bool = False  # its instance is being terminated: it acknowledges until it says otherwise, and never leads
    cut_off: bool = False  # by us, confirmed by the cloud: nothing it sends arrives anywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """Another server's agent that probes the group's servers. `probes`: by member's id."""

    id: str
    name: str
    connected: bool
    heard_seconds: float = 0.0  # since it last said what it sees
    probes: Mapping[str, Probe] = field(default_factory=dict)
    epoch: int = 0  # of the group, as the newest view it was given has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One look at a group. `now`: UTC, seconds since 1970, of a clock that does not jump while the controller runs."""

    now: float
    members: Mapping[str, Member]
    observers: tuple[Observer, ...] = ()
    held: frozenset[str] = frozenset()  # front ends whose proxies confirm that they hold new connections
    proxies: frozenset[str] = frozenset()  # all front ends that should
    maintenance: bool = False
    wanted_primary: str | None = None  # a switchover was asked to this member
    watched_seconds: float = float("inf")  # since this controller began to listen


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """How long what must be seen to be believed, in seconds."""

    refused: float = 0.4
    silent: float = 3.0
    stalled: float = 10.0
    degrade_after: float = 3.0  # available: writes wait so long for a lost replica before they go on without
    replace_after: float = 10.0  # a lost replica is cut off and replaced after this
    fresh: float = 1.5  # an agent's word older than this says nothing about now


PRESETS: Mapping[str, Windows] = {
    "fast": Windows(silent=1.0, fresh=1.2),
    "normal": Windows(),
    "careful": Windows(silent=10.0),
}
PER_HOUR, PER_DAY = 1, 3  # automatic failovers


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a person should know; the same rule about the same subject is one page until it is over."""

    rule: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`group` is stored before any order is given. `rule` says which rule decided what to do about the primary."""

    group: Group
    rule: str
    why: str = ""
    orders: Mapping[str, TakeRole] = field(default_factory=dict)  # by member's id; only where its report differs
    cut_off: frozenset[str] = frozenset()  # members the cloud is to cut off now
    replace: frozenset[str] = frozenset()  # members that are to be set aside and replaced by a fresh replica
    hold: bool = False  # proxies hold new connections to the primary
    pages: tuple[Page, ...] = ()
