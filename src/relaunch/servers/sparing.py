"""When a group can spare a replica: the one rule of failover's store and of the last look before a server is ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from relaunch.servers.lifecycle import ENROLLED


def in_step(
    sync_set: Collection[str], *, leaving: Collection[str], primary: str | None, states: Mapping[str, str]
) -> frozenset[str]:
    """Replicas in the sync set that stay there: none that is leaving it, being terminated, or gone by now.

    `states`: of the instances that there are.
    """
    return frozenset(id for id in {*sync_set} - {*leaving, primary} if states.get(id) in ENROLLED)


def spared(instance: str, replicas: frozenset[str], *, primary: str | None, mode: str, changing: bool) -> bool:
    """Another of the replicas in step is left, so that writes go on without this one, and on two servers."""
    return mode == "sync" and not changing and instance != primary and bool(replicas - {instance})
