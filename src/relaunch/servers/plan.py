"""What applying a deployment file would change: computed, shown, and only then done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from relaunch.servers.deployments import DatabaseSpec, DeploymentSpec, ServerSpec, SiteSpec
from relaunch.servers.lifecycle import State


class ActionKind(StrEnum):
    LAUNCH = "launch"
    RETRY_NEEDED = "retry_needed"  # stranded or set aside: a person decides, apply does not
    RELAUNCH_NEEDED = "relaunch_needed"  # its definition changed; not done unasked
    CHANGE_ZONE = "change_zone"  # the same, because a zone cannot change under a running instance
    DESTROY = "destroy"
    ADD_SITE = "add_site"
    CHANGE_SITE = "change_site"
    REMOVE_SITE = "remove_site"
    ADD_DATABASE = "add_database"
    CHANGE_DATABASE = "change_database"
    REMOVE_DATABASE = "remove_database"


DONE_BY_APPLY = frozenset(ActionKind) - {ActionKind.RETRY_NEEDED, ActionKind.RELAUNCH_NEEDED, ActionKind.CHANGE_ZONE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    kind: ActionKind
    subject: str  # server:shop/front1, site:shop.test, database:shop
    why: str
    destroys: bool = False

    @property
    def done_by_apply(self) -> bool:
        return self.kind in DONE_BY_APPLY


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerNow:
    """A server as it is. `template_hash` is that of the template its instance was launched from; `leads`: it is the
    primary of a group that holds data, whatever the file says."""

    state: State
    has_instance: bool
    template_hash: str | None = None
    leads: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`problems`: why it cannot be applied at all."""

    actions: tuple[Action, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def destroys(self) -> bool:
        return any(action.destroys for action in self.actions)

    @property
    def changes(self) -> bool:
        """Whether applying it would do anything."""
        return any(action.done_by_apply for action in self.actions)


def plan(
    spec_now: DeploymentSpec | None,
    spec_wanted: DeploymentSpec,
    servers_now: Mapping[str, ServerNow],
    template_hashes: Mapping[str, str] | None = None,
) -> Plan:
    """What leads from the one to the other. `template_hashes`: the templates' present hashes, by name."""
    actions = [
        *_servers(spec_now, spec_wanted, servers_now, template_hashes or {}),
        *_database(spec_now, spec_wanted),
        *_sites(spec_now, spec_wanted),
        *_removed_servers(spec_now, spec_wanted, servers_now),
    ]
    return Plan(actions=tuple(actions), problems=tuple(_problems(spec_now, spec_wanted)))


def destruction(spec_now: DeploymentSpec, servers_now: Mapping[str, ServerNow]) -> Plan:
    """What destroying the whole deployment would do."""
    gone = DeploymentSpec(name=spec_now.name, cloud=spec_now.cloud)
    actions = [*_sites(spec_now, gone), *_database(spec_now, gone), *_removed_servers(spec_now, gone, servers_now)]
    return Plan(actions=tuple(actions))


def _servers(
    spec_now: DeploymentSpec | None,
    wanted: DeploymentSpec,
    servers_now: Mapping[str, ServerNow],
    hashes: Mapping[str, str],
) -> list[Action]:
    members = wanted.database.members if wanted.database else ()
    # The database's servers first: the others' applications wait for them.
    order = sorted(wanted.servers, key=lambda server: server.name not in members)
    actions: list[Action] = []
    for server in order:
        subject = f"server:{wanted.name}/{server.name}"
        before = spec_now.server(server.name) if spec_now else None
        now = servers_now.get(server.name)
        if now is None or not now.has_instance:
            why = "it is new" if before is None else "it has no instance"
            actions.append(Action(kind=ActionKind.LAUNCH, subject=subject, why=why))
        else:
            actions += _kept_server(subject, before, server, spec_now, wanted, now, hashes)
    return actions


def _kept_server(
    subject: str,
    before: ServerSpec | None,
    server: ServerSpec,
    spec_now: DeploymentSpec | None,
    wanted: DeploymentSpec,
    now: ServerNow,
    hashes: Mapping[str, str],
) -> list[Action]:
    if now.state in (State.STRANDED, State.SET_ASIDE):
        why = f"it is {now.state.replace('_', ' ')}: retry, force operational or relaunch it"
        return [Action(kind=ActionKind.RETRY_NEEDED, subject=subject, why=why)]
    if before is not None and before.zone != server.zone:
        why = f"zone {before.zone} → {server.zone}: its instance stays where it is until it is relaunched"
        return [Action(kind=ActionKind.CHANGE_ZONE, subject=subject, why=why)]
    reasons: list[str] = []
    if before is not None and before.template != server.template:
        reasons.append(f"template {before.template} → {server.template}")
    elif now.template_hash and hashes.get(server.template, now.template_hash) != now.template_hash:
        reasons.append(f"template {server.template} has changed since its launch")
    if before is not None and before.memory_bytes != server.memory_bytes:
        reasons.append("its memory changed")
    if before is not None and before.volume_bytes != server.volume_bytes:
        reasons.append("its volume changed")
    changed = _changed_inputs(before, server, spec_now, wanted)
    if changed:
        reasons.append(f"inputs changed: {', '.join(changed)}")
    if not reasons:
        return []
    return [Action(kind=ActionKind.RELAUNCH_NEEDED, subject=subject, why="; ".join(reasons))]


def _changed_inputs(
    before: ServerSpec | None, server: ServerSpec, spec_now: DeploymentSpec | None, wanted: DeploymentSpec
) -> list[str]:
    if before is None or spec_now is None:
        return []
    old, new = {**spec_now.inputs, **before.inputs}, {**wanted.inputs, **server.inputs}
    return [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]


def _removed_servers(
    spec_now: DeploymentSpec | None, wanted: DeploymentSpec, servers_now: Mapping[str, ServerNow]
) -> list[Action]:
    kept = {server.name for server in wanted.servers}
    was = [server.name for server in spec_now.servers] if spec_now else []
    database = spec_now.database if spec_now else None
    actions: list[Action] = []
    leader = next((name for name, now in servers_now.items() if now.leads), database.primary if database else None)
    for name in dict.fromkeys([*was, *servers_now]):
        if name in kept:
            continue
        why = "it is no longer in the file" if kept else "the deployment is destroyed"
        holds_data = database is not None and name in database.members
        if database is not None and name == leader:
            why += "; it is the database primary, its data goes with it"
        elif holds_data:
            why += "; its copy of the database goes with it"
        now = servers_now.get(name)
        destroys = holds_data or (now is not None and now.has_instance)
        subject = f"server:{wanted.name}/{name}"
        actions.append(Action(kind=ActionKind.DESTROY, subject=subject, why=why, destroys=destroys))
    return actions


def _database(spec_now: DeploymentSpec | None, wanted: DeploymentSpec) -> list[Action]:
    before, after = (spec_now.database if spec_now else None), wanted.database
    subject = f"database:{wanted.name}"
    if before == after:
        return []
    if before is None and after is not None:
        return [Action(kind=ActionKind.ADD_DATABASE, subject=subject, why=f"primary {after.primary}")]
    if before is not None and after is None:
        why = "it is no longer in the file" if wanted.servers else "the deployment is destroyed"
        return [Action(kind=ActionKind.REMOVE_DATABASE, subject=subject, why=why, destroys=True)]
    assert before is not None and after is not None
    return [Action(kind=ActionKind.CHANGE_DATABASE, subject=subject, why=_database_change(before, after))]


def _database_change(before: DatabaseSpec, after: DatabaseSpec) -> str:
    reasons = [f"new replica {name}" for name in after.replicas if name not in before.members]
    reasons += [f"{name} is no replica any more" for name in before.replicas if name not in after.members]
    if before.durability != after.durability:
        reasons.append(f"durability {before.durability} → {after.durability}")
    if before.failover != after.failover:
        reasons.append(f"failover {before.failover} → {after.failover}")
    if before.never_primary != after.never_primary:
        reasons.append(f"never the primary: {', '.join(after.never_primary) or 'none'}")
    if before.read_lag_seconds != after.read_lag_seconds:
        reasons.append(f"read_lag {before.read_lag_seconds:g} s → {after.read_lag_seconds:g} s")
    if before.backups != after.backups:
        reasons.append("when and how backups are made, or how many are kept")
    return "; ".join(reasons) or "the order of its servers changed"


def _sites(spec_now: DeploymentSpec | None, wanted: DeploymentSpec) -> list[Action]:
    before = {site.name: site for site in spec_now.sites} if spec_now else {}
    after = {site.name: site for site in wanted.sites}
    actions: list[Action] = []
    for name, site in after.items():
        if name not in before:
            actions.append(Action(kind=ActionKind.ADD_SITE, subject=f"site:{name}", why="it is new"))
        elif before[name] != site:
            why = f"changed: {', '.join(_differences(before[name], site))}"
            actions.append(Action(kind=ActionKind.CHANGE_SITE, subject=f"site:{name}", why=why))
    gone = [name for name in before if name not in after]
    why = "it is no longer in the file" if wanted.servers else "the deployment is destroyed"
    actions += [Action(kind=ActionKind.REMOVE_SITE, subject=f"site:{name}", why=why) for name in gone]
    return actions


def _differences(before: SiteSpec, after: SiteSpec) -> list[str]:
    fields = ("canonical", "aliases", "app", "runtime", "database", "check_path")
    return [name for name in fields if getattr(before, name) != getattr(after, name)]


def _problems(spec_now: DeploymentSpec | None, wanted: DeploymentSpec) -> list[str]:
    if spec_now is None:
        return []
    problems: list[str] = []
    if spec_now.cloud != wanted.cloud:
        problems.append(
            f"deployment {wanted.name} runs in cloud {spec_now.cloud}; it cannot be moved to {wanted.cloud}: "
            "destroy it first or give the new one another name"
        )
    before, after = spec_now.database, wanted.database
    if before and after and before.primary != after.primary:
        problems.append(
            f"the primary of database {wanted.name} is {before.primary}; editing the file does not make "
            f"{after.primary} the primary: leave `primary: {before.primary}`"
        )
    return problems
