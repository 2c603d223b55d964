"""What the workflows are handed to act with; wired in `controller/main.py`, faked in tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sqlalchemy.engine import Engine

from relaunch.bus.messages import Accepted, Blob, DatabaseReport, RunScripts, RunState, TakeRole
from relaunch.clock import Clock, SteadyClock
from relaunch.clouds.cloud import Cloud, Image
from relaunch.dns.zone import Zone
from relaunch.storage.objects import ObjectStore


class Agents(Protocol):
    """The controller's side of the bus. Instances are named by our own id (table instances)."""

    def connected(self, instance: str) -> bool: ...

    async def wait_connected(self, instance: str, *, timeout_seconds: float) -> None:
        """Until the agent has enrolled and said hello on this connection; Unavailable names it when time is over."""
        ...

    async def order(self, instance: str, message: object, *, timeout_seconds: float = 5.0) -> Accepted:
        """Unavailable when no such agent is connected, Conflict with its reason when it refuses."""
        ...

    async def take_role(self, instance: str, role: TakeRole) -> DatabaseReport:
        """What the database server is then; errors as of `order`."""
        ...

    async def run(self, instance: str, order: RunScripts, *, task: str | None) -> RunState:
        """Give the order (again, if need be: the agent knows the run_id) and wait until it ended; stored meanwhile."""
        ...

    def last_output(self, run: str, index: int, *, last_bytes: int = 2000) -> str:
        """The end of what a script wrote, as far as it has arrived; "" when nothing has."""
        ...


class Vault(Protocol):
    """Encryption at rest with the controller's master key, and the named credentials."""

    def seal(self, clear: bytes) -> str: ...
    def unseal(self, sealed: str) -> bytes: ...
    def credential(self, name: str) -> str:
        """The value; NotFound says how to create it."""
        ...

    def has_credential(self, name: str) -> bool: ...
    def generate_credential(self, name: str, *, who: str) -> None:
        """A random one, 32 letters and digits; nothing happens when it exists."""
        ...

    def set_credential(self, name: str, value: str, *, description: str = "") -> None: ...
    def delete_credential(self, name: str) -> None:
        """NotFound when there is none."""
        ...


class Enrolments(Protocol):
    """What an instance needs to find and trust its controller at the first boot."""

    def user_data(self, instance: str) -> str:
        """The executable text for LaunchRequest.user_data, with a fresh one-time token for this instance."""
        ...

    def public_key(self) -> str:
        """The OpenSSH key for root on every instance."""
        ...


class Blobs(Protocol):
    """Files agents may fetch, by hash."""

    def put(self, file: Path) -> Blob: ...
    def remove(self, sha256: str) -> None:
        """Nothing happens when it is not there."""
        ...


@dataclass(slots=True, kw_only=True)
class Switchover:
    """Somebody wants another primary: `to` is its instance."""

    to: str
    who: str
    begun: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    cloud: Cloud
    agents: Agents
    zone: Zone
    vault: Vault
    enrolments: Enrolments
    blobs: Blobs
    database: Engine
    clock: Clock
    template_folders: Sequence[Path]
    base_image: Callable[[str, Callable[[str], None]], Awaitable[Image]]  # recipe's name, told of progress; made once
    objects: ObjectStore  # where backups are
    host_source: str  # CIDR of the host itself, for ingress `host`
    lost: dict[str, str] = field(default_factory=dict)  # instance → why it is thought lost now; the watch's word
    switchovers: dict[str, Switchover] = field(default_factory=dict)  # deployment → what was asked and has not begun
    steady: Clock = field(
        init=False
    )  # of the database groups: they measure how long it is since what is stored of them

    def __post_init__(self) -> None:
        object.__setattr__(self, "steady", SteadyClock(self.clock))
