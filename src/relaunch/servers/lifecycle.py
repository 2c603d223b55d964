"""The states of an instance and what leads from one to the other: one table, nothing else sets the state."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

from relaunch.errors import Conflict

CERTIFICATE_LIFE = timedelta(days=825)  # of an instance's, from its launch on: the longest Apple's clients accept


class State(StrEnum):
    INACTIVE = "inactive"  # of a server without an instance
    PENDING = "pending"  # asked of the cloud, or baking its image
    BOOTING = "booting"  # the agent has enrolled, boot scripts run
    OPERATIONAL = "operational"
    STRANDED = "stranded"  # a boot script failed; the rest was not run
    SET_ASIDE = "set_aside"  # fenced off, kept running for inspection
    DECOMMISSIONING = "decommissioning"
    TERMINATED = "terminated"


# Its agent has enrolled, and it is neither set aside nor ended. A boot script that failed says nothing of its database.
ENROLLED = (State.BOOTING, State.OPERATIONAL, State.STRANDED)


class Event(StrEnum):
    LAUNCH = "launch"
    ENROLLED = "enrolled"
    BOOTED = "booted"
    SCRIPT_FAILED = "script_failed"
    RETRY = "retry"
    FORCE_OPERATIONAL = "force_operational"
    REBOOTED = "rebooted"
    SET_ASIDE = "set_aside"
    TERMINATE = "terminate"
    GONE = "gone"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.INACTIVE, Event.LAUNCH): State.PENDING,
    (State.PENDING, Event.ENROLLED): State.BOOTING,
    (State.BOOTING, Event.BOOTED): State.OPERATIONAL,
    (State.BOOTING, Event.SCRIPT_FAILED): State.STRANDED,
    (State.BOOTING, Event.REBOOTED): State.BOOTING,
    (State.STRANDED, Event.RETRY): State.BOOTING,
    (State.STRANDED, Event.FORCE_OPERATIONAL): State.OPERATIONAL,
    (State.STRANDED, Event.REBOOTED): State.BOOTING,
    (State.OPERATIONAL, Event.REBOOTED): State.BOOTING,
    (State.PENDING, Event.SET_ASIDE): State.SET_ASIDE,
    (State.BOOTING, Event.SET_ASIDE): State.SET_ASIDE,
    (State.STRANDED, Event.SET_ASIDE): State.SET_ASIDE,
    (State.OPERATIONAL, Event.SET_ASIDE): State.SET_ASIDE,
    (State.PENDING, Event.TERMINATE): State.DECOMMISSIONING,
    (State.BOOTING, Event.TERMINATE): State.DECOMMISSIONING,
    (State.STRANDED, Event.TERMINATE): State.DECOMMISSIONING,
    (State.OPERATIONAL, Event.TERMINATE): State.DECOMMISSIONING,
    (State.SET_ASIDE, Event.TERMINATE): State.DECOMMISSIONING,
    (State.DECOMMISSIONING, Event.GONE): State.TERMINATED,
    (State.PENDING, Event.GONE): State.TERMINATED,
    (State.BOOTING, Event.GONE): State.TERMINATED,
    (State.STRANDED, Event.GONE): State.TERMINATED,
    (State.OPERATIONAL, Event.GONE): State.TERMINATED,
    (State.SET_ASIDE, Event.GONE): State.TERMINATED,
}

ENDED_WHY = ("asked", "shrunk", "replaced", "cloud said so", "vanished", "never booted")


def after(state: State, event: Event) -> State:
    """The state that follows; Conflict when the event has no place there."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        allowed = ", ".join(sorted(str(e) for s, e in TRANSITIONS if s is state)) or "nothing"
        raise Conflict(f"{event} is not possible while {state}", hint=f"possible there: {allowed}") from None
