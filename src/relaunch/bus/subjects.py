"""Subjects of the bus between controller and agents. Frozen: a change is a new version, not an edit.

An agent may subscribe only to its own `order` and inbox, and publish only to its own `report`, `output` and `alive`.
Runs on Python 3.9: shipped in the agent.
"""

from __future__ import annotations

VERSION = 1


def order(agent: str) -> str:
    """Request (controller → agent), answered by an `Accepted` or `Refused`."""
    return f"v1.agent.{agent}.order"


def report(agent: str) -> str:
    """Request (agent → controller), answered once it is stored; sent again until it is."""
    return f"v1.agent.{agent}.report"


def output(agent: str) -> str:
    """Publish (agent → controller): output chunks of a running script, not acknowledged."""
    return f"v1.agent.{agent}.output"


def alive(agent: str) -> str:
    """Publish (agent → controller): heartbeat, once a second unless an order says otherwise."""
    return f"v1.agent.{agent}.alive"


def inbox_prefix(agent: str) -> str:
    return f"_INBOX.{agent}"


ALL_REPORTS = "v1.agent.*.report"
ALL_OUTPUT = "v1.agent.*.output"
ALL_ALIVE = "v1.agent.*.alive"


def agent_of(subject: str) -> str:
    """The agent's id out of any of the subjects above."""
    return subject.split(".")[2]
