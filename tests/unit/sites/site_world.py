"""A redundant deployment as it is observed, to vary in tests."""

from __future__ import annotations

from dataclasses import replace

from relaunch.servers.deployments import read_deployment, starter_file
from relaunch.servers.lifecycle import State
from relaunch.servers.templates import Offer
from relaunch.sites.observed import Observed, ObservedGroup, ObservedServer

FRONT_END = (Offer(role="front-end", port=443), Offer(role="app", port=8000))
DATABASE = (Offer(role="database", port=3306),)


def _server(number: int, name: str, template: str, zone: str, offers: tuple[Offer, ...], **tags: str) -> ObservedServer:
    return ObservedServer(
        name=name,
        template=template,
        zone=zone,
        instance=f"i-{name}",
        state=State.OPERATIONAL,
        private_address=f"198.18.0.{number}",
        public_address=f"198.18.0.{number}",
        offers=offers,
        tags=tags,
    )


REDUNDANT = Observed(
    deployment=read_deployment(starter_file("redundant", "shop", "redmine")),
    servers=(
        _server(11, "front1", "front-end", "a", FRONT_END, app="8000"),
        _server(12, "front2", "front-end", "b", FRONT_END, app="8000"),
        _server(13, "db1", "mysql", "a", DATABASE, database="primary"),
        _server(14, "db2", "mysql", "b", DATABASE, database="replica"),
    ),
    database=ObservedGroup(group="shop", epoch=1, primary="db1", initialised=True),
)


def changed(observed: Observed, name: str, **values: object) -> Observed:
    """The same world with one server changed."""
    servers = (replace(server, **values) if server.name == name else server for server in observed.servers)  # type: ignore[arg-type]
    return replace(observed, servers=tuple(servers))
