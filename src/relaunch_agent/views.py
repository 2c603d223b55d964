"""The view: kept on disk, newest only, and what follows from it on this server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
from typing import Any, Dict, FrozenSet, Mapping, Tuple, Union

from relaunch.bus.messages import Accepted, Refused, SetView
from relaunch_agent.disk import read_json, write_json, write_whole
from relaunch_agent.haproxy import without_lagging
from relaunch_agent.haproxy_process import HAProxy
from relaunch_agent.hosts import with_block
from relaunch_agent.maintenance import close_and_open, closed_sites
from relaunch_agent.places import Places

LOOK_SECONDS = 1.0


class Views:
    def __init__(self, places: Places, haproxy: HAProxy) -> None:
        self._places = places
        self._haproxy = haproxy
        self._kept: Dict[str, Any] = read_json(places.view) or {}
        self.version: int = self._kept.get("version", 0)
        self.view: Mapping[str, Any] = self._kept.get("view", {})
        self.changed = asyncio.Event()  # a new one for every view
        self._lagging: FrozenSet[str] = frozenset()
        self._trouble: Dict[str, str] = {}

    @property
    def trouble(self) -> str:
        return " ".join(filter(None, [*self._trouble.values(), self._haproxy.trouble]))

    def take(self, message: SetView) -> Union[Accepted, Refused]:
        """A newer one is in force at once, whether or not the disk has room for it: the old primary may be gone.

        Another one of the same age is a newer one, of a store that was put back and gives its versions once more.
        """
        ours, theirs = _age(self.view, self.version), _age(message.view, message.version)
        if ours[0] != theirs[0]:  # of another group, or of none: there is no epoch to go by
            ours, theirs = ("", 0, self.version), ("", 0, message.version)
        if theirs < ours:
            return Refused(f"view {theirs[1:]} (epoch, version) is older than {ours[1:]}, which this server has")
        if theirs > ours or message.view != self.view:
            self.version, self.view = message.version, message.view
            changed, self.changed = self.changed, asyncio.Event()
            changed.set()
            self.apply()
        return Accepted()

    async def first(self) -> None:
        """Until there is one: an order to run boot scripts may overtake it."""
        while not self.version:
            await self.changed.wait()

    def apply(self) -> None:
        """Hosts and maintenance at once; HAProxy is brought to it beside."""
        if not self.version:
            return
        self._write()
        view = without_lagging(self.view, self._lagging)
        try:
            with contextlib.suppress(OSError):  # it tries again, and tells
                self._haproxy.write_file(view)
            self._say("haproxy", "")
        except (ValueError, KeyError, TypeError) as error:
            self._say("haproxy", f"relaunch.cfg: {error!r}")
            return
        self._haproxy.bring_to(view)

    def keep_reads_from(self, addresses: FrozenSet[str]) -> None:
        """Replicas that are too far behind, as seen from here."""
        self._lagging = addresses
        self.apply()

    async def apply_now(self) -> None:
        self.apply()
        if self.version:
            await self._haproxy.settled()

    async def keep(self) -> None:
        """Apply again when HAProxy is installed, configured or started after the view came; write what could not be."""
        self.apply()
        seen = self._surroundings()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = self._surroundings()
            if now != seen:
                seen = now
                self.apply()
            elif any(self._trouble.values()):
                self._write()

    def _surroundings(self) -> Tuple[object, ...]:
        files = (self._places.haproxy_file.parent, self._places.haproxy_main_file, self._places.haproxy_socket)
        return tuple(_identity(str(file)) for file in files)

    def _write(self) -> None:
        self._say("view", self._write_view())
        self._say("hosts", self._write_hosts())
        self._say("maintenance", self._close_sites())

    def _write_view(self) -> str:
        newest = {"version": self.version, "view": self.view}
        if newest != self._kept:
            try:
                write_json(self._places.view, newest, mode=0o644, durable=True)
            except OSError as error:
                return f"{self._places.view}: {error}"
            self._kept = newest
        return ""

    def _write_hosts(self) -> str:
        hosts = self.view.get("hosts") or {}
        file = self._places.hosts
        try:
            present = file.read_text() if file.exists() else ""
            text = with_block(present, hosts)
            if text == present:
                return ""
            try:
                write_whole(file, text)
            except OSError as error:
                if error.errno != errno.EBUSY:  # bind-mounted in some containers: it cannot be replaced, only written
                    raise
                file.write_text(text)
        except OSError as error:
            return f"{file}: {error}"
        return ""

    def _close_sites(self) -> str:
        try:
            close_and_open(self._places.maintenance, closed_sites(self.view))
        except (OSError, ValueError, KeyError) as error:
            return f"{self._places.maintenance}: {error}"
        return ""

    def _say(self, what: str, trouble: str) -> None:
        if trouble and self._trouble.get(what) != trouble:
            print(trouble, file=sys.stderr, flush=True)
        self._trouble[what] = trouble


def _age(view: Mapping[str, Any], version: int) -> Tuple[str, int, int]:
    """Group, its epoch, version: a controller whose store was put back counts versions anew, and a view of an older
    epoch than ours may name a primary that was."""
    database: Mapping[str, Any] = view.get("database") or {}
    if not database.get("initialised"):  # it begins, perhaps anew: its epochs do too
        return "", 0, version
    return str(database.get("group") or ""), int(database.get("epoch") or 0), version


def _identity(file: str) -> object:
    try:
        found = os.stat(file)  # noqa: PTH116
    except OSError:
        return None
    return found.st_ino if os.path.isdir(file) else (found.st_ino, found.st_mtime_ns)  # noqa: PTH112
