"""The SQL of sites: one look at each deployment, the views' versions, and the names we have set in DNS."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Engine

from relaunch.dns.zone import RecordSet
from relaunch.records.schema import database_groups, deployments, dns_records, instances, servers, site_maintenance
from relaunch.servers.lifecycle import State
from relaunch.servers.store import spec_from
from relaunch.servers.templates import Offer
from relaunch.sites.observed import Observed, ObservedGroup, ObservedServer


class SiteStore:
    def __init__(self, database: Engine) -> None:
        self._database = database

    def observe(self, lost: Collection[str] = ()) -> list[Observed]:
        """All deployments as they stand, in one transaction. `lost`: ids of instances that are thought to be."""
        with self._database.connect() as connection:
            found = [dict(row) for row in connection.execute(select(deployments)).mappings()]
            rows = [dict(row) for row in connection.execute(_server_rows()).mappings()]
            groups = [dict(row) for row in connection.execute(select(database_groups)).mappings()]
            closed = [dict(row) for row in connection.execute(select(site_maintenance)).mappings()]
        return [
            _observed(
                deployment,
                [{**row, "lost": row["instance"] in lost} for row in rows if row["deployment_id"] == deployment["id"]],
                next((group for group in groups if group["deployment_id"] == deployment["id"]), None),
                {row["site"]: tuple(row["allow"]) for row in closed if row["deployment_id"] == deployment["id"]},
            )
            for deployment in found
        ]

    def begin_maintenance(self, deployment: str, site: str, *, allow: Sequence[str], at: str, who: str) -> None:
        """Of a deployment by its name; again, with other addresses that still reach the site."""
        table = site_maintenance
        with self._database.begin() as connection:
            owner = connection.scalar(select(deployments.c.id).where(deployments.c.name == deployment))
            mine = (table.c.deployment_id == owner, table.c.site == site)
            if not connection.execute(update(table).where(*mine).values(allow=list(allow))).rowcount:
                row = {"deployment_id": owner, "site": site, "allow": list(allow), "since": at, "who": who}
                connection.execute(insert(table).values(row))

    def end_maintenance(self, deployment: str, site: str) -> None:
        with self._database.begin() as connection:
            owner = select(deployments.c.id).where(deployments.c.name == deployment).scalar_subquery()
            mine = (site_maintenance.c.deployment_id == owner, site_maintenance.c.site == site)
            connection.execute(delete(site_maintenance).where(*mine))

    def next_view_version(self, instance: str) -> int:
        """Taken, whether or not the view then arrives: a version is never given twice."""
        with self._database.begin() as connection:
            mine = instances.c.id == instance
            connection.execute(update(instances).where(mine).values(view_version=instances.c.view_version + 1))
            return int(connection.scalar(select(instances.c.view_version).where(mine)) or 0)

    def names(self) -> dict[tuple[str, str], tuple[str, RecordSet]]:
        """What we have set: (name, type) → deployment's name, record set."""
        with self._database.connect() as connection:
            return {
                (row["name"], row["type"]): (
                    row["deployment"],
                    RecordSet(
                        name=row["name"], type=row["type"], values=tuple(row["values"]), ttl_seconds=row["ttl_seconds"]
                    ),
                )
                for row in connection.execute(select(dns_records)).mappings()
            }

    def put_name(self, deployment: str, record: RecordSet) -> None:
        self.forget_name(record.name, record.type)
        with self._database.begin() as connection:
            connection.execute(
                insert(dns_records).values(
                    name=record.name,
                    type=record.type,
                    deployment=deployment,
                    values=list(record.values),
                    ttl_seconds=record.ttl_seconds,
                )
            )

    def forget_name(self, name: str, type: str) -> None:
        with self._database.begin() as connection:
            connection.execute(delete(dns_records).where(dns_records.c.name == name, dns_records.c.type == type))


def _server_rows() -> Any:
    wanted = (
        servers.c.deployment_id, servers.c.id, servers.c.name, servers.c.template, servers.c.zone,
        instances.c.id.label("instance"), instances.c.state, instances.c.private_address, instances.c.public_address,
        instances.c.tags, instances.c.run_list,
    )  # fmt: skip
    return select(*wanted).select_from(servers.outerjoin(instances, servers.c.instance_id == instances.c.id))


def _observed(
    deployment: dict[str, Any],
    rows: list[dict[str, Any]],
    group: dict[str, Any] | None,
    maintenance: Mapping[str, tuple[str, ...]],
) -> Observed:
    spec = spec_from(deployment["spec"])
    order = {server.name: place for place, server in enumerate(spec.servers)}
    names = {row["id"]: row["name"] for row in rows}
    # A server no longer in the file is on its way out: still a peer, last in the order.
    ordered = sorted(rows, key=lambda row: (order.get(row["name"], len(order)), row["name"]))
    return Observed(
        deployment=spec,
        servers=tuple(_server(row) for row in ordered),
        database=None
        if group is None
        else ObservedGroup(
            group=group["name"],
            epoch=group["epoch"],
            primary=names.get(group["primary_server_id"]),
            initialised=group["initialised"],
            mode=(group["state"] or {}).get("mode", "forming"),
        ),
        maintenance=maintenance,
    )


def _server(row: dict[str, Any]) -> ObservedServer:
    if row["instance"] is None:
        return ObservedServer(name=row["name"], template=row["template"], zone=row["zone"])
    return ObservedServer(
        name=row["name"],
        template=row["template"],
        zone=row["zone"],
        instance=row["instance"],
        state=State(row["state"]),
        private_address=row["private_address"] or "",
        public_address=row["public_address"] or "",
        tags=row["tags"],
        lost=row["lost"],
        offers=tuple(Offer(**offer) for offer in row["run_list"].get("offers", ())),
    )
