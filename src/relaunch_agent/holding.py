"""Holding new connections to the primary database while its role moves: they wait in the listener's queue."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import Any, Dict, List, Mapping, Optional, Union

from relaunch.bus.messages import Accepted, Hold, Refused
from relaunch_agent.disk import read_json, remove, write_json
from relaunch_agent.haproxy_process import HAProxy
from relaunch_agent.places import Places
from relaunch_agent.views import Views

LISTENERS = "db-primary"
LOOK_SECONDS = 0.02
MOST_SECONDS = 10.0
AGAIN_SECONDS = 0.5
HELD = "0"


class Holding:
    """What an agent holds when it ends, the next one lets go at its start."""

    def __init__(self, places: Places, haproxy: HAProxy, views: Views) -> None:
        self._file = places.socket.with_name("held-listeners.json")
        self._haproxy = haproxy
        self._views = views
        kept = read_json(self._file)
        self._limits: Dict[str, str] = kept if isinstance(kept, dict) else {}  # what each held listener had before
        self._asking = asyncio.Lock()
        self._release: Optional[asyncio.Task[None]] = None
        if self._limits:
            self._let_go_after(0.0)

    async def take(self, order: Hold) -> Union[Accepted, Refused]:
        if order.seconds <= 0:
            await self._let_go_with(order.epoch)
            return Accepted()
        self._let_go_after(min(order.seconds, MOST_SECONDS))
        try:
            async with self._asking:
                await self._hold()
        except (OSError, EOFError, ValueError, asyncio.TimeoutError) as error:
            self._let_go_after(0.0)
            return Refused(f"HAProxy: {error or type(error).__name__}")
        return Accepted()

    async def _hold(self) -> None:
        names = _listeners(self._views.view)
        limits = _limits(await self._haproxy.ask("show stat -1 1 -1")) if names else {}
        there = [name for name in names if name in limits]
        before = {name: self._limits.get(name) or await self._limit(limits[name]) for name in there}
        self._keep({**self._limits, **before})
        for name in before:
            await self._haproxy.ask(f"set maxconn frontend {name} {HELD}")

    async def _limit(self, found: str) -> str:
        """Somebody may have left it held: then what HAProxy gives a listener that is written without a limit, as are
        all of ours."""
        if found not in ("", HELD):
            return found
        most = re.search(r"^Maxconn: ([1-9]\d*)$", await self._haproxy.ask("show info"), re.MULTILINE)
        if most is None:
            raise ValueError("how many connections it takes is not told")
        return most[1]

    async def _let_go_with(self, epoch: int) -> None:
        """Once the view of that epoch is in force: who waited then reaches the new primary."""
        end = time.monotonic() + 1.0
        while self._limits and time.monotonic() < end:
            if int((self._views.view.get("database") or {}).get("epoch") or 0) >= epoch:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._views.apply_now(), end - time.monotonic())
                break
            await asyncio.sleep(LOOK_SECONDS)
        await asyncio.wait([self._let_go_after(0.0)], timeout=1.0)

    def _let_go_after(self, seconds: float) -> asyncio.Task[None]:
        """Whatever becomes of the controller, nobody waits here for longer."""
        if self._release is not None:
            self._release.cancel()

        async def release() -> None:
            await asyncio.sleep(seconds)
            await self._let_go()

        self._release = asyncio.ensure_future(release())
        return self._release

    async def _let_go(self) -> None:
        """Tried until HAProxy has answered for all."""
        while True:
            async with self._asking:
                for name, limit in list(self._limits.items()):
                    with contextlib.suppress(OSError, EOFError, asyncio.TimeoutError):
                        if await self._haproxy.ask(f"set maxconn frontend {name} {limit}"):  # "": it broke off
                            self._keep({other: kept for other, kept in self._limits.items() if other != name})
            if not self._limits:
                return
            await asyncio.sleep(AGAIN_SECONDS)

    def _keep(self, limits: Dict[str, str]) -> None:
        if limits:
            write_json(self._file, limits)
        else:
            remove(self._file)
        self._limits = limits


def _listeners(view: Mapping[str, Any]) -> List[str]:
    listeners = (view.get("proxy") or {}).get("listeners") or ()
    return [str(each["name"]) for each in listeners if str(each["name"]).startswith(LISTENERS)]


def _limits(stat: str) -> Dict[str, str]:
    """Each frontend's limit of connections, from `show stat`."""
    rows = stat.lstrip("# \n").splitlines()
    columns = rows[0].split(",") if rows else []
    values = [dict(zip(columns, row.split(","))) for row in rows[1:]]
    return {value["pxname"]: value["slim"] for value in values if value.get("svname") == "FRONTEND"}
