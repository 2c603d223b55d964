"""A database server with its agent, and a stand-in of the controller that gives the orders: all real processes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent_stand import Stand
from mariadb_lab import PASSWORD, Authority, MariaDBServer

from relaunch.bus.messages import DatabaseReport, SetView, TakeRole
from relaunch_agent.database.session import LocalSession


class Member:
    """One server of a group: MariaDB, agent, and the side of the controller that talks to this agent."""

    def __init__(self, folder: Path, server: MariaDBServer, authority: Authority) -> None:
        self.server = server
        self.name = f"db{server.number}"
        self.address = server.address
        folder.mkdir(parents=True)
        authority.issue(folder, "127.0.0.1", server.address)
        self.stand = Stand(folder)
        self._version = 0

    @property
    def as_member(self) -> dict[str, str]:
        return {"name": self.name, "address": self.address, "instance": f"i-{self.name}"}

    async def open(self) -> Member:
        await self.stand.open()
        root = self.stand.root
        for file in ("run/mysqld", "var/lib/mysql"):
            (root / file).mkdir(parents=True)
        (root / "run/mysqld/mysqld.sock").symlink_to(self.server.socket)
        login = {"user": "replication", "password": PASSWORD, "ca": self.server.ca, "port": 3306}
        (root / "etc/relaunch/replication.json").write_text(json.dumps(login))
        return self

    def join(self) -> None:
        (self.stand.root / "var/lib/mysql/relaunch-group").write_text("shop\n")

    async def close(self) -> None:
        await self.stand.close()
        self.server.stop()

    async def tell(
        self, members: list[Member], *, mode: str = "forming", primary: Member | None = None, **more: Any
    ) -> None:
        """`more`: further parts of the view."""
        self._version += 1
        view = {
            "server": {"name": self.name, "instance": f"i-{self.name}", "address": self.address},
            "database": {
                "group": "shop", "epoch": 1, "durability": "available", "mode": mode, "initialised": True,
                "primary": primary.as_member if primary else None, "members": [each.as_member for each in members],
                "read_lag_seconds": 5.0,
            },
            **more,
        }  # fmt: skip
        await self.stand.order(SetView(self._version, view))

    async def become(self, role: str, epoch: int = 1, *, seconds: float = 5.0, **how: Any) -> DatabaseReport:
        answer = await self.stand.order(TakeRole(epoch=epoch, role=role, seconds=seconds, **how), timeout=seconds + 3)
        assert isinstance(answer, DatabaseReport), answer
        return answer

    @property
    def report(self) -> DatabaseReport:
        return self.stand.reports[-1][1]

    async def reports(self, what: str, is_so: Callable[[DatabaseReport], bool], *, seconds: float = 10.0) -> float:
        """Wait for such a report from now on; how long that took."""
        began = time.monotonic()
        known = len(self.stand.reports)
        while True:
            for at, report in self.stand.reports[known:]:
                known += 1
                if is_so(report):
                    return at - began
            last = self.stand.reports[-1][1] if self.stand.reports else None
            assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what}; {last}; {self.stand.log}"
            await asyncio.sleep(0.005)

    def sql(self, statement: str) -> list[dict[str, Any]]:
        session: LocalSession = self.server.session()
        try:
            return session.rows(statement)
        finally:
            session.close()
