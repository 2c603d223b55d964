"""What the dashboard is handed by whoever starts it: `app.state.dashboard = DashboardPorts(...)`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from sqlalchemy.engine import Engine

from relaunch.clock import Clock
from relaunch.dashboard.sessions import EndedSessions, LoginTries


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardPorts:
    """Synchronous ones are called from worker threads, asynchronous ones from the event loop.

    A session lives while the token it was opened with stands in table `tokens` unrevoked: revoking it logs out.
    """

    engine: Engine
    clock: Clock
    session_key: bytes  # ≥ 32 random bytes, the same after a restart, else everybody is logged out by it
    check_token: Callable[[str], str | None]  # the token's name (tokens.name), None when it is unknown or revoked
    run_output: Callable[[str, int], str]  # (run_id, index of the script): the last 512 KB or so, "" when there is none
    connected: Callable[[str], bool]  # is the agent of this instance (instances.id) on the bus now?
    console: Callable[[str], Awaitable[str]]  # instances.id → the end of its console log; NotFound when it is gone
    changes: Callable[[], AsyncIterator[None]]  # yields once after something shown here changed; ends at shut-down
    actions: Callable[[str, str, str], Awaitable[str]]  # (who, "server:shop/front1", "relaunch") → task id
    version: str = ""
    token_file: str = "/var/lib/relaunch/admin-token"  # where the login page says the first token is
    tries: LoginTries = field(default_factory=LoginTries)
    ended: EndedSessions = field(default_factory=EndedSessions)
