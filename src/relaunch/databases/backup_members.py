"""The servers of a database group, and the history its data is of, as its backups need them."""

from __future__ import annotations

from relaunch.databases.backup_catalogue import Catalogue
from relaunch.databases.backup_colour import alarms_of_tags
from relaunch.databases.backup_key import fault_of_pair
from relaunch.databases.group import Group
from relaunch.databases.store import GroupStore
from relaunch.errors import Conflict, NotFound
from relaunch.servers.deployments import DatabaseSpec
from relaunch.servers.lifecycle import State
from relaunch.servers.ports import Ports
from relaunch.servers.store import Row, ServerRow, Store


def role_now(group: Group | None, instance: str, joined_as: str) -> str:
    """primary, replica, or "" for neither. The tag says what a server was when it joined; a failover or a switchover
    since then is known to the group only."""
    if joined_as not in ("primary", "replica") or (group is not None and instance in group.fenced):
        return ""
    if group is None or not group.primary:
        return joined_as
    return "primary" if group.primary == instance else "replica"


def _role_of(group: Group | None, row: Row) -> str:
    """As `role_now`; a primary whose boot scripts gave up leads though its tag does not say so."""
    if row["state"] == State.STRANDED:
        return "primary" if group is not None and group.initialised and group.primary == row["id"] else ""
    return role_now(group, row["id"], str(row["tags"].get("database", ""))) if row["state"] == State.OPERATIONAL else ""


class Members:
    """Of every deployment with a database."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._store = Store(ports.database, ports.clock)

    def catalogue(self, deployment: str) -> Catalogue:
        self.spec(deployment)
        return Catalogue(self._ports.database, self._ports.objects, deployment)

    def spec(self, deployment: str) -> DatabaseSpec:
        spec = self._store.applied_spec(deployment)
        if spec is None:
            raise NotFound(f"no deployment {deployment}")
        if spec.database is None:
            raise NotFound(f"deployment {deployment} has no database group")
        return spec.database

    def schemas(self, deployment: str) -> list[str]:
        """Of its sites."""
        spec = self._store.applied_spec(deployment)
        return sorted({site.database for site in spec.sites if site.database}) if spec is not None else []

    def connected(self, deployment: str) -> list[tuple[ServerRow, Row, str]]:
        """Members that can be told what to do."""
        return [each for each in self.with_roles(deployment) if self._ports.agents.connected(each[1]["id"])]

    def with_roles(self, deployment: str) -> list[tuple[ServerRow, Row, str]]:
        """Server, instance, the role it has now: of operational members, and of the primary, which may lead though its
        boot scripts gave up."""
        stored = GroupStore(self._ports.database).group(deployment)
        group = stored.group if stored is not None else None
        return [(server, row, role) for server, row in self._rows(deployment) if (role := _role_of(group, row))]

    def lineage(self, deployment: str) -> str | None:
        """The id of its data's history, as the primary says, or else another member; None when none has said."""
        stored = GroupStore(self._ports.database).group(deployment)
        group = stored.group if stored is not None else None
        rows = [row for _, row in self._rows(deployment)]
        rows.sort(key=lambda row: role_now(group, row["id"], str(row["tags"].get("database", ""))) != "primary")
        return next((str(row["tags"]["lineage"]) for row in rows if row["tags"].get("lineage")), None)

    def must_have_lineage(self, deployment: str) -> str:
        lineage = self.lineage(deployment)
        if lineage is None:
            raise Conflict(
                f"no server of {deployment} has said yet which history its data is of",
                hint="its primary does within seconds: see relaunch-ship-binlogs there",
            )
        return lineage

    def present(self, source: str) -> str | None:
        """The history that the group of this name lives in; None when there is none, or none has said."""
        spec = self._store.applied_spec(source)
        return self.lineage(source) if spec is not None and spec.database is not None else None

    def alarming(self, deployment: str, lineage: str | None) -> tuple[str, ...]:
        """What the servers themselves said last is wrong, and what is with the key."""
        found = tuple(
            f"{server.full_name}: {why}"
            for server, row, role in self.with_roles(deployment)
            for why in alarms_of_tags(row["tags"], role)
        )
        if fault := fault_of_pair(self._ports.vault):
            found = (*found, fault)
        return found if lineage else (*found, "no server has said yet which history its data is of")

    def _rows(self, deployment: str) -> list[tuple[ServerRow, Row]]:
        """The members that have an instance, with it."""
        names = self.spec(deployment).members
        servers = [each for each in self._store.servers(deployment) if each.name in names and each.instance_id]
        rows = self._store.instances([str(each.instance_id) for each in servers])
        return [(server, rows[str(server.instance_id)]) for server in servers]
