"""The DNS names of a deployment and its sites: what should stand there, computed from one look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relaunch.dns.zone import RecordSet
from relaunch.servers.deployments import DeploymentSpec
from relaunch.sites.observed import Observed, ObservedServer

FRONT_END_TTL_SECONDS = 30
DATABASE_TTL_SECONDS = 5  # it fails over
SITE_TTL_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedName:
    """`record` is None when nobody is there to answer: what stands there now is left as it is."""

    name: str
    type: str
    record: RecordSet | None


def dns_records(observed: Observed, zones: Sequence[str]) -> tuple[WantedName, ...]:
    """All names of the deployment and of its sites that lie in a served zone, sorted.

    The deployment's own names lie in the first zone. A set is never emptied: better an answer that may be stale.
    """
    if not zones:
        return ()
    spec = observed.deployment
    own = f"{spec.name}.{zones[0]}"
    front_ends = _addresses(_answering(observed), public=True)
    wanted = [_a(f"www.{own}", front_ends, FRONT_END_TTL_SECONDS)]
    if spec.database is not None:
        primary = (observed.primary,) if observed.primary else ()
        wanted.append(_a(f"db-primary.{own}", _addresses(primary), DATABASE_TTL_SECONDS))
        wanted.append(_a(f"db-replica.{own}", _addresses(observed.readable_replicas), DATABASE_TTL_SECONDS))
    for site in spec.sites:
        wanted.append(_a(site.name, front_ends, FRONT_END_TTL_SECONDS))
        wanted += [_cname(host, f"www.{own}") for host in site.hosts if host != site.name]
        if site.database:
            wanted += [_cname(f"{name}.{site.name}", f"{name}.{own}") for name in ("db-primary", "db-replica")]
    # A site called like its deployment needs no CNAME from a name to itself: the first one of a name stands.
    first: dict[str, WantedName] = {}
    for record in wanted:
        if zone_of(record.name, zones):
            first.setdefault(record.name, record)
    return tuple(first[name] for name in sorted(first))


def zone_of(name: str, zones: Sequence[str]) -> str | None:
    """The longest served zone that holds the name."""
    holding = [zone for zone in zones if name == zone or name.endswith(f".{zone}")]
    return max(holding, key=len, default=None)


def site_name_problems(spec: DeploymentSpec, zones: Sequence[str]) -> tuple[str, ...]:
    """A sentence for each name of a site that we cannot serve because it lies in none of our zones."""
    served = ", ".join(zones) or "none"
    problems = [
        f"site {site.name}: {host} lies in no zone served here ({served}); its DNS must be set by hand"
        for site in spec.sites
        for host in dict.fromkeys((site.name, *site.hosts))
        if zone_of(host, zones) is None
    ]
    problems += [
        f"site {site.name}: {host} is the zone itself; a site needs a name below it"
        for site in spec.sites
        for host in dict.fromkeys((site.name, *site.hosts))
        if host in zones
    ]
    return tuple(problems)


def _answering(observed: Observed) -> list[ObservedServer]:
    """The front ends that serve; without the lost ones while any other is left, for a browser waits long for those."""
    serving = [server for server in observed.servers if server.offers_role("front-end") and server.serves]
    return [server for server in serving if not server.lost] or serving


def _addresses(servers: Sequence[ObservedServer], *, public: bool = False) -> tuple[str, ...]:
    found = {
        (server.public_address or server.private_address) if public else server.private_address for server in servers
    }
    return tuple(sorted(found))


def _a(name: str, addresses: tuple[str, ...], ttl_seconds: int) -> WantedName:
    record = RecordSet(name=name, type="A", values=addresses, ttl_seconds=ttl_seconds) if addresses else None
    return WantedName(name=name, type="A", record=record)


def _cname(name: str, target: str) -> WantedName:
    record = RecordSet(name=name, type="CNAME", values=(target,), ttl_seconds=SITE_TTL_SECONDS)
    return WantedName(name=name, type="CNAME", record=record)
