"""One look at a deployment, frozen: what the views, the back ends and the names are computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from relaunch.servers.deployments import DeploymentSpec
from relaunch.servers.lifecycle import ENROLLED, State
from relaunch.servers.templates import Offer


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedServer:
    """`instance` is empty while the server has none; addresses are empty until the cloud has given them."""

    name: str
    template: str
    zone: str
    instance: str = ""
    state: State = State.INACTIVE
    private_address: str = ""
    public_address: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    offers: tuple[Offer, ...] = ()
    lost: bool = False  # not heard, or down in the cloud: an observation that may be ours alone

    def offers_role(self, role: str) -> bool:
        return any(offer.role == role for offer in self.offers)

    @property
    def serves(self) -> bool:
        """Operational, and meant to be: others may send it requests. Whether it answers, their health checks know."""
        return self.state is State.OPERATIONAL and bool(self.instance and self.private_address)

    @property
    def is_enrolled(self) -> bool:
        """Its agent has been heard, so it may be one of the group, and lead it, whatever its boot scripts do."""
        return self.state in ENROLLED and bool(self.instance and self.private_address)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedGroup:
    """The database group as it is stored; `primary` is a server's name, None until there was a first one."""

    group: str
    epoch: int
    primary: str | None = None
    initialised: bool = False
    mode: str = "forming"  # what is promised of its writes: databases/group.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """`servers` are in the deployment file's order; `maintenance`: site → addresses that reach it all the same."""

    deployment: DeploymentSpec
    servers: tuple[ObservedServer, ...] = ()
    database: ObservedGroup | None = None
    maintenance: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def server(self, name: str) -> ObservedServer | None:
        return next((server for server in self.servers if server.name == name), None)

    @property
    def primary_name(self) -> str | None:
        """The stored primary; the file's, until one is stored."""
        if self.deployment.database is None:
            return None
        stored = self.database.primary if self.database else None
        return stored or self.deployment.database.primary

    @property
    def primary(self) -> ObservedServer | None:
        """The group's primary, from its enrolment on."""
        found = self.server(self.primary_name) if self.primary_name else None
        return found if found and found.is_enrolled else None

    @property
    def replicas(self) -> tuple[ObservedServer, ...]:
        """The group's other servers, from their enrolment on, in the file's order."""
        if self.deployment.database is None:
            return ()
        names = [name for name in self.deployment.database.members if name != self.primary_name]
        found = [self.server(name) for name in names]
        return tuple(server for server in found if server and server.is_enrolled)

    @property
    def members(self) -> tuple[ObservedServer, ...]:
        """The group's servers with an instance that has an address, in the file's order."""
        if self.deployment.database is None:
            return ()
        found = [self.server(name) for name in self.deployment.database.members]
        return tuple(server for server in found if server and server.is_enrolled)

    @property
    def readable_replicas(self) -> tuple[ObservedServer, ...]:
        """The replicas that answer queries; the primary when there is none. The tag says with which role it joined."""
        ready = tuple(server for server in self.replicas if server.serves and server.tags.get("database"))
        return ready or ((self.primary,) if self.primary else ())
