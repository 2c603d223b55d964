"""Which tasks of one deployment are not begun beside which others.

Only what people order is asked here, and backups that are due: failover and automatic repair wait for nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from relaunch.errors import Conflict
from relaunch.servers.deployments import DeploymentSpec
from relaunch.servers.store import Row, Store
from relaunch.workflows.tasks import TaskList


class Work(StrEnum):
    """What a task does, or is ordered to do."""

    PRIMARY = "on the server that is the primary"
    REPLICA = "on another member of the group"
    OTHER = "on a server without a database"
    WAY_OUT = "on any server, when nothing else helps"
    APPLY = "a deployment file, or the end of the deployment"
    BACKUP = "a backup or a proof"
    RESTORE = "a restore of all data"
    SCHEMA = "a restore of one schema"
    FORGET = "the removal of an older history of backups"
    IMPORT = "an import; one that only follows is no task"
    UNDO_IMPORT = "the end of an import, which unlocks the accounts of the other server"
    ROTATION = "new passwords"
    CHECKSUM = "a comparison"
    SWITCHOVER = "a planned switchover"
    RESIZE = "all members replaced, one after the other"


KINDS: Mapping[str, Work] = {
    "back-up": Work.BACKUP,
    "prove": Work.BACKUP,
    "prove-schemas": Work.BACKUP,
    "restore": Work.RESTORE,
    "restore-schema": Work.SCHEMA,
    "forget-backups": Work.FORGET,
    "import-dump": Work.IMPORT,
    "import-server": Work.IMPORT,
    "import-cut-over": Work.IMPORT,
    "import-cancel": Work.UNDO_IMPORT,
    "rotate-passwords": Work.ROTATION,
    "checksum": Work.CHECKSUM,
    "switchover": Work.SWITCHOVER,
    "resize": Work.RESIZE,
    "apply": Work.APPLY,
    "destroy": Work.APPLY,
    "set-aside": Work.WAY_OUT,
    "power-off": Work.WAY_OUT,
    "start": Work.WAY_OUT,
    "cut-off": Work.WAY_OUT,
    "reconnect": Work.WAY_OUT,
}

# Each pair once: neither is begun beside the other. Two tasks on the same server never are.
APART: Mapping[Work, frozenset[Work]] = {
    Work.APPLY: frozenset({Work.APPLY, Work.PRIMARY, Work.REPLICA, Work.OTHER, Work.WAY_OUT}),
    Work.BACKUP: frozenset({Work.BACKUP, Work.RESTORE, Work.SCHEMA}),
    Work.RESTORE: frozenset(Work) - {Work.OTHER, Work.WAY_OUT, Work.APPLY},
    Work.SCHEMA: frozenset(
        {Work.SCHEMA, Work.FORGET, Work.IMPORT, Work.UNDO_IMPORT, Work.SWITCHOVER, Work.RESIZE, Work.PRIMARY}
    ),
    Work.FORGET: frozenset({Work.FORGET}),
    Work.IMPORT: frozenset(
        {Work.IMPORT, Work.UNDO_IMPORT, Work.ROTATION, Work.SWITCHOVER, Work.RESIZE, Work.PRIMARY}
    ),
    Work.UNDO_IMPORT: frozenset({Work.UNDO_IMPORT}),
    Work.ROTATION: frozenset(
        {Work.ROTATION, Work.CHECKSUM, Work.SWITCHOVER, Work.RESIZE, Work.PRIMARY, Work.REPLICA, Work.OTHER}
    ),
    Work.CHECKSUM: frozenset({Work.CHECKSUM, Work.SWITCHOVER, Work.RESIZE}),
    Work.SWITCHOVER: frozenset({Work.SWITCHOVER, Work.RESIZE}),
    Work.RESIZE: frozenset({Work.RESIZE, Work.PRIMARY, Work.REPLICA}),
}  # fmt: skip
# What a file that is being applied may still do to servers; it never ends who leads.
_APPLYING = frozenset({Work.APPLY, Work.REPLICA, Work.OTHER})


def refuse_beside(
    store: Store,
    tasks: TaskList,
    deployment: str,
    kind: str,
    *,
    servers: Iterable[str] = (),
    spec: DeploymentSpec | None = None,
    besides: str = "",
) -> None:
    """Conflict names the task that is in the way of one of this kind.

    servers: the names of those that it changes; spec: a file that is to be applied; besides: a task that, with its
    children, is not in the way.
    """
    members = members_of(store, deployment, spec)
    running = [row for row in tasks.unfinished() if not besides or besides not in (row["id"], row["parent_id"])]
    found = in_the_way(deployment, kind, frozenset(servers), members, running)
    if found is not None:
        raise Conflict(
            f"task {found['id']} is under way: {found['title']}",
            hint=f"wait for it (relaunch task follow {found['id']}) or cancel it (relaunch task cancel {found['id']})",
        )


def members_of(store: Store, deployment: str, spec: DeploymentSpec | None = None) -> dict[str, Work]:
    """PRIMARY or REPLICA of each server (its name) of the group, and of those that this file adds to it."""
    group, known = None, store.deployment(deployment)
    if known is not None:
        group = store.group(known["id"])
    databases = [each.database for each in (store.applied_spec(deployment), spec) if each and each.database]
    names = {name for database in databases for name in database.members}
    leads = {server.name for server in store.servers(deployment) if group and group["primary_server_id"] == server.id}
    return {name: Work.PRIMARY if name in leads else Work.REPLICA for name in names | leads}


def in_the_way(
    deployment: str, kind: str, servers: frozenset[str], members: Mapping[str, Work], running: Iterable[Row]
) -> Row | None:
    """The first of these tasks that one of this kind is not begun beside."""
    mine = _ordered(kind, servers, members)
    for task in running:
        theirs, server = _runs(task, deployment, members)
        if server in servers or any(_apart(one, other) for one in mine for other in theirs):
            return task
    return None


def _ordered(kind: str, servers: frozenset[str], members: Mapping[str, Work]) -> frozenset[Work]:
    work = KINDS.get(kind)
    if work is Work.WAY_OUT:
        return frozenset({work})
    changed = frozenset(members.get(name, Work.OTHER) for name in servers)
    return changed if work is None else changed | {work}


def _runs(task: Row, deployment: str, members: Mapping[str, Work]) -> tuple[frozenset[Work], str | None]:
    """What it does in this deployment, and on which server alone."""
    about, _, subject = task["subject"].partition(":")
    whose, _, server = subject.partition("/")
    if whose != deployment or task["kind"] == "run":
        return frozenset(), None
    if about == "server":
        return frozenset({members.get(server, Work.OTHER)}), server
    if about == "deployment":
        return _APPLYING | ({Work.PRIMARY} if task["kind"] == "destroy" else set()), None
    work = KINDS.get(task["kind"])
    return frozenset({work} if work is not None else ()), None


def _apart(one: Work, other: Work) -> bool:
    return other in APART.get(one, ()) or one in APART.get(other, ())
