"""Holding new connections to the primary database while its role moves: they wait in the listener's queue."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Dict, List, Mapping, Optional, Union

from relaunch.bus.messages import Accepted, Hold, Refused
from relaunch_agent.haproxy_process import HAProxy
from relaunch_agent.views import Views

LISTENERS = "db-primary"
LOOK_SECONDS = 0.02
MOST_SECONDS = 10.0


class Holding:
    def __init__(self, haproxy: HAProxy, views: Views) -> None:
        self._haproxy = haproxy
        self._views = views
        self._limits: Dict[str, str] = {}  # what each held listener had before
        self._release: Optional[asyncio.Task[None]] = None

    async def take(self, order: Hold) -> Union[Accepted, Refused]:
        if order.seconds <= 0:
            await self._let_go_with(order.epoch)
            return Accepted()
        names = [name for name in _listeners(self._views.view) if name not in self._limits]
        try:
            limits = _limits(await self._haproxy.ask("show stat -1 1 -1")) if names else {}
            for name in names:
                if name in limits:
                    await self._haproxy.ask(f"set maxconn frontend {name} 0")
                    self._limits[name] = limits[name]
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            await self._let_go()
            return Refused(f"HAProxy: {error or type(error).__name__}")
        self._let_go_after(min(order.seconds, MOST_SECONDS))
        return Accepted()

    async def _let_go_with(self, epoch: int) -> None:
        """Once the view of that epoch is in force: who waited then reaches the new primary."""
        end = time.monotonic() + 1.0
        while self._limits and time.monotonic() < end:
            if int((self._views.view.get("database") or {}).get("epoch") or 0) >= epoch:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._views.apply_now(), end - time.monotonic())
                break
            await asyncio.sleep(LOOK_SECONDS)
        await self._let_go()

    def _let_go_after(self, seconds: float) -> None:
        """Whatever becomes of the controller, nobody waits here for longer."""
        if self._release is not None:
            self._release.cancel()

        async def release() -> None:
            await asyncio.sleep(seconds)
            self._release = None
            await self._let_go()

        self._release = asyncio.ensure_future(release())

    async def _let_go(self) -> None:
        if self._release is not None:
            self._release.cancel()
            self._release = None
        for name, limit in list(self._limits.items()):
            with contextlib.suppress(OSError, EOFError, asyncio.TimeoutError):
                await self._haproxy.ask(f"set maxconn frontend {name} {limit}")
            del self._limits[name]


def _listeners(view: Mapping[str, Any]) -> List[str]:
    listeners = (view.get("proxy") or {}).get("listeners") or ()
    return [str(each["name"]) for each in listeners if str(each["name"]).startswith(LISTENERS)]


def _limits(stat: str) -> Dict[str, str]:
    """Each frontend's limit of connections, from `show stat`."""
    rows = stat.lstrip("# \n").splitlines()
    columns = rows[0].split(",") if rows else []
    values = [dict(zip(columns, row.split(","))) for row in rows[1:]]
    return {value["pxname"]: value["slim"] for value in values if value.get("svname") == "FRONTEND"}
