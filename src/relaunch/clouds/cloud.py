"""The port to a cloud: what relaunch asks of the place servers come from.

Names and semantics follow EC2, because the same port gets an EC2 implementation. Every verb is async, can be repeated,
and raises errors of `relaunch.errors` only: NotFound (no such id), Conflict (wrong state, no space left, address range
taken), BadInput (malformed), Unavailable (try again). One contract suite (tests/contracts/test_cloud.py) runs on every
implementation, the in-memory fake included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType, Protocol

InstanceId = NewType("InstanceId", str)  # "i-0123456789": 10 hex digits, so that the host's interface name fits
ImageId = NewType("ImageId", str)
VolumeId = NewType("VolumeId", str)
SnapshotId = NewType("SnapshotId", str)


class InstanceState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"  # powered off, disk kept; also after `power_off`
    TERMINATED = "terminated"  # disk gone; listed for an hour, so that a late question gets an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    id: ImageId
    name: str
    parent: ImageId | None = None  # the layer below, where the cloud has layers
    tags: dict[str, str] = field(default_factory=dict)
    created: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    id: InstanceId
    client_token: str
    name: str
    image: ImageId
    zone: str
    state: InstanceState
    private_address: str
    public_address: str
    security_groups: tuple[str, ...]
    tags: dict[str, str] = field(default_factory=dict)
    cut_off: bool = False
    launched: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressRule:
    """Who may open a connection to a member. `source`: a CIDR, or `group:NAME` for all members of a group."""

    protocol: str  # tcp | udp | icmp | all
    from_port: int  # 0 for icmp and all
    to_port: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    id: VolumeId
    size_bytes: int
    zone: str
    attached_to: InstanceId | None = None
    device: str | None = None  # the path inside the instance where its file system is mounted
    from_snapshot: SnapshotId | None = None
    client_token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    id: SnapshotId
    volume: VolumeId
    created: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """One instance. The same client_token always means the same instance, whenever and by whomever it is repeated."""

    client_token: str
    name: str  # the host name; for people, need not be unique
    image: ImageId
    zone: str
    security_groups: tuple[str, ...] = ()
    user_data: str = ""  # an executable text (`#!`), run once as root at the first boot
    public_key: str = ""  # OpenSSH authorized_keys line for root
    memory_bytes: int | None = None
    cpus: float | None = None
    tags: dict[str, str] = field(default_factory=dict)


class Cloud(Protocol):
    """About twenty verbs; see the module's sentence on repetition and errors."""

    @property
    def zones(self) -> tuple[str, ...]: ...

    # images
    async def images(self) -> Sequence[Image]: ...
    async def create_image(self, instance: InstanceId, *, name: str, tags: dict[str, str]) -> Image:
        """Make an image of a stopped instance's disk; the same name twice gives the same image."""
        ...

    async def delete_image(self, image: ImageId) -> None:
        """Conflict while an instance or another image stands on it; gone already is no error."""
        ...

    # instances
    async def launch(self, request: LaunchRequest) -> Instance: ...
    async def instances(self, *, tags: dict[str, str] | None = None) -> Sequence[Instance]: ...
    async def instance(self, instance: InstanceId) -> Instance: ...
    async def start(self, instance: InstanceId) -> None: ...
    async def stop(self, instance: InstanceId) -> None:
        """Shut down in order (bounded, then by force); the disk is kept."""
        ...

    async def reboot(self, instance: InstanceId) -> None: ...
    async def terminate(self, instance: InstanceId) -> None:
        """Gone with its disk; attached volumes are detached and kept. Terminated or unknown already is no error."""
        ...

    async def power_off(self, instance: InstanceId) -> None:
        """As if the plug were pulled: no shut-down. State becomes stopped."""
        ...

    async def cut_off(self, instance: InstanceId, cut: bool) -> None:
        """Drop all its traffic silently, both ways, established connections too; or let it through again."""
        ...

    async def console_output(self, instance: InstanceId, *, last_bytes: int = 65536) -> str: ...

    # security groups
    async def set_security_group(self, name: str, rules: Sequence[IngressRule]) -> None:
        """Create or replace; in force at once for running members. Established connections that no rule allows end."""
        ...

    async def security_groups(self) -> dict[str, tuple[IngressRule, ...]]: ...
    async def delete_security_group(self, name: str) -> None: ...
    async def set_instance_groups(self, instance: InstanceId, groups: Sequence[str]) -> None: ...

    # volumes
    async def create_volume(
        self, *, client_token: str, size_bytes: int, zone: str, from_snapshot: SnapshotId | None = None
    ) -> Volume: ...
    async def volumes(self) -> Sequence[Volume]: ...
    async def attach_volume(self, volume: VolumeId, instance: InstanceId, device: str) -> None: ...
    async def detach_volume(self, volume: VolumeId) -> None: ...
    async def delete_volume(self, volume: VolumeId) -> None: ...
    async def snapshot_volume(self, volume: VolumeId, *, client_token: str) -> Snapshot: ...
    async def snapshots(self) -> Sequence[Snapshot]: ...
    async def delete_snapshot(self, snapshot: SnapshotId) -> None: ...
