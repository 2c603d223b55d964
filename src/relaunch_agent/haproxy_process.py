"""Brings the running HAProxy to the view: file first, then commands; a reload only when nothing else will do."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path
from typing import Any, Collection, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from relaunch_agent.disk import remove, write_whole
from relaunch_agent.haproxy import (
    Decision,
    Key,
    Seen,
    Server,
    astray,
    dead,
    decide,
    established,
    old_workers,
    parse_proxies,
    parse_servers,
    proxies_of,
    render,
    structure,
    wanted_servers,
)
from relaunch_agent.places import Places

PROBE_SECONDS = 2.0
LOOK_SECONDS = 0.1
ANSWER_SECONDS = 5.0
DEAD_LOOK_SECONDS = 1.0  # for databases that died silently
SERVERS = ("show servers state", "show stat -1 4 -1")  # what parse_servers reads
AT_ONCE = 100  # commands to HAProxy in one line
SLOW_LOOK_SECONDS = 1.0  # while we wait only for an app that does not answer yet
QUICK_SECONDS = 15.0
LONGEST_PAUSE_SECONDS = 60.0  # after failures: a reload that fails must not be tried all the time
RELOAD_SECONDS = 30.0
LOADED_SECONDS = 10.0
SURELY_LOADED = 3  # answers
FAILURES = (OSError, EOFError, ValueError, asyncio.TimeoutError)
SOUND_ANSWERS = ("", "New server registered.", "Server deleted.")
# Said while the last connections of a drained server close: the next look tries again.
NOT_YET = ("This server cannot be removed yet", "Server still has connections", "not removable", "in maintenance mode")


class HAProxy:
    def __init__(self, places: Places, *, reload: Sequence[str] = ("systemctl", "reload", "haproxy")) -> None:
        self._places = places
        self._reload = tuple(reload)
        self._lacking = 0  # looks in a row that found what only a reload mends
        self._draining_since: Dict[Key, float] = {}
        self._changed = asyncio.Event()
        self._view: Optional[Mapping[str, Any]] = None
        self._settled = asyncio.Event()
        self._look_soon = asyncio.Event()
        self._reloading: Optional[Tuple[asyncio.Future[None], str]] = None  # and the structure that it is for
        self._unwritten = self._complaint = self._hindrance = ""

    @property
    def trouble(self) -> str:
        return self._complaint or self._hindrance

    def bring_to(self, view: Mapping[str, Any]) -> None:
        self._view = view
        self._settled.clear()
        self._changed.set()
        self._look_soon.set()

    async def settled(self) -> None:
        """Until the running process was brought to the newest view as far as its apps answer."""
        await self._settled.wait()

    def write_file(self, view: Mapping[str, Any]) -> bool:
        """The file first, always; whether its structure changed. Nothing happens where HAProxy is not installed."""
        file = self._places.haproxy_file
        if not file.parent.is_dir():
            return False
        text = render(view)
        before = file.read_text() if file.exists() else ""
        if text != before:
            if structure(text) != structure(before):
                # Noted first: an agent that dies in between still knows that the process has an older structure.
                write_whole(self._places.reload_pending, "")
            write_whole(file, text)
        return self._places.reload_pending.exists()

    async def keep(self) -> None:
        try:
            await asyncio.gather(self._follow(), self._look_for_sessions())
        finally:
            if self._reloading is not None:
                self._reloading[0].cancel()

    async def _look_for_sessions(self) -> None:
        """Beside what follows a view, which waits for no process that answers late."""
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._look_soon.wait(), DEAD_LOOK_SECONDS)
            self._look_soon.clear()
            await self._cut_from_the_dead()

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            began, failures = time.monotonic(), 0
            while self._view is not None and not self._changed.is_set():
                try:
                    unfinished = await self._step(self._view) or bool(self._unwritten)
                    self._complain(self._unwritten)
                    failures = 0
                except FAILURES as error:
                    self._complain(f"HAProxy: {error or type(error).__name__}")
                    unfinished = True
                    failures += 1
                if not unfinished:
                    break
                pause = SLOW_LOOK_SECONDS if time.monotonic() - began > QUICK_SECONDS else LOOK_SECONDS
                if failures:
                    pause = min(LONGEST_PAUSE_SECONDS, LOOK_SECONDS * 2**failures)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), pause)

    async def _step(self, view: Mapping[str, Any]) -> bool:
        """One look and what follows from it; whether there is more to do."""
        reload = self._write(view)
        seen = None
        with contextlib.suppress(ConnectionRefusedError):
            if self._places.haproxy_socket.exists() and self._places.haproxy_file.exists():
                seen = await self._look()
        if seen is None:  # it reads the file when it starts
            if not self._unwritten:
                self._settled.set()
            return False
        wanted = wanted_servers(view.get("proxy"))
        ours = proxies_of(self._places.haproxy_file.read_text())
        decision = decide(wanted, ours, seen)
        failed = await self._carry_out(decision)
        self._lacking = self._lacking + 1 if failed or decision.needs_reload else 0
        if reload or self._lacking >= SURELY_LOADED:
            self._lacking = 0
            await self._reload_it(ours)
            return True
        if self._lacking:  # who answered may be the process that ends since the last reload
            return True
        probing = asyncio.ensure_future(self._probe(decision.to_probe))
        if not await self._unless_changed(probing):
            probing.cancel()
            return True
        answering = probing.result()
        if answering:
            again = decide(
                wanted, ours, Seen(seen.servers, seen.proxies, answering, self._draining_since, time.monotonic())
            )
            coming = [c for c in again.commands if c not in decision.commands and not c.startswith("del ")]
            if await self._carry_out(Decision(tuple(coming))):
                await self._reload_it(ours)
        if len(answering) == len(decision.to_probe):
            self._settled.set()
        return decision.unfinished

    def _write(self, view: Mapping[str, Any]) -> bool:
        """Whether a reload is due. On a full disk the process still follows the view, as far as it needs no file."""
        try:
            self._unwritten = ""
            return self.write_file(view)
        except OSError as error:
            self._unwritten = f"{self._places.haproxy_file}: {error}"
            return False

    async def _look(self) -> Seen:
        state, stat, proxies = [await self.ask(question) for question in (*SERVERS, "show backend")]
        servers = parse_servers(state, stat)
        now = time.monotonic()
        self._draining_since = {
            key: self._draining_since.get(key, now) for key, server in servers.items() if server.draining
        }
        return Seen(servers, parse_proxies(proxies), frozenset(), self._draining_since, now)

    async def _carry_out(self, decision: Decision) -> bool:
        """Whether a command failed in a way that only a reload mends."""
        failed = False
        for command in decision.commands:
            if command.startswith("cut "):
                await self._cut(command.partition(" ")[2])
                continue
            said = (await self.ask(command)).strip()
            if said in SOUND_ANSWERS or (command.startswith("del ") and any(text in said for text in NOT_YET)):
                continue
            if command.startswith(("disable ", "shutdown ", "set server")) and "No such server" in said:
                continue
            self._complain(f"HAProxy: {command}: {said}")
            failed = True
        return failed

    async def _cut(self, server: str, old: str = "") -> None:
        ending = [f"shutdown session {id}" for id in established(await self.ask("show sess", old=old), server)]
        for first in range(0, len(ending), AT_ONCE):
            await self.ask(*ending[first : first + AT_ONCE], old=old)

    async def _cut_from_the_dead(self) -> None:
        proxy = (self._view or {}).get("proxy") or {}
        listeners = proxy.get("listeners") or ()
        if not listeners or not self._places.haproxy_socket.exists():
            return
        found: Dict[str, int] = {}
        with contextlib.suppress(*FAILURES):  # the next look may go well
            found = dead(await self.ask("show stat -1 4 -1"), frozenset(str(each["name"]) for each in listeners))
            for server, sessions in found.items():
                if sessions:
                    await self._cut(server)
        with contextlib.suppress(*FAILURES):
            await self._cut_in_old_workers(wanted_servers(proxy), found)

    async def _cut_in_old_workers(self, wanted: Mapping[Key, Server], dead: Collection[str] = ()) -> None:
        """A reload leaves the old process alive for as long as it has sessions, a database's for days: only the master
        still reaches it. It probes no server any more, so who is dead is told by the new one."""
        missing = not self._places.haproxy_master_socket.exists()
        if missing and not self._hindrance:
            self._hindrance = (
                f"HAProxy runs without -S {self._places.haproxy_master_socket}: database sessions that are older than"
                " its last reload stay with a primary that was"
            )
            print(self._hindrance, file=sys.stderr, flush=True)
        if missing:
            return
        self._hindrance = ""
        for old in old_workers(await self._ask_master("show proc")):
            with contextlib.suppress(*FAILURES):  # the others are asked all the same
                running = parse_servers(*[await self.ask(question, old=old) for question in SERVERS])
                for server in astray(running, wanted, dead):
                    await self._cut(server, old)

    async def _probe(self, servers: Sequence[Server]) -> FrozenSet[Key]:
        answers: List[bool] = list(await asyncio.gather(*(answers_http(server) for server in servers)))
        return frozenset(server.key for server, answered in zip(servers, answers) if answered)

    async def _reload_it(self, ours: FrozenSet[str]) -> None:
        """Master-worker reload; done when whoever answers has our proxies, so often in a row: the process that ends
        takes a connection now and then until it is gone, and would have it done once more. A newer view is not kept
        waiting for that: what it wants is looked at first, and the reload stays due."""
        if self._unwritten:  # the file is an older one
            raise ValueError(self._unwritten)
        wanted = structure(self._places.haproxy_file.read_text())
        if self._reloading is not None and self._reloading[1] != wanted:  # begun for a view before this one
            if not await self._unless_changed(self._reloading[0]):
                return
            self._reloading[0].exception()  # whatever came of it
            self._reloading = None
        if self._reloading is None:
            self._reloading = asyncio.ensure_future(self._run_reload()), wanted
        if not await self._unless_changed(self._reloading[0]):
            return
        try:
            self._reloading[0].result()
            if not await self._is_loaded(ours):
                return
        except FAILURES:
            self._reloading = None
            raise
        self._reloading = None
        remove(self._places.reload_pending)

    async def _run_reload(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._reload,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), RELOAD_SECONDS)
        if process.returncode != 0:
            raise ValueError(f"{' '.join(self._reload)}: {said.decode('utf-8', 'replace').strip()[-500:]}")

    async def _is_loaded(self, ours: FrozenSet[str]) -> bool:
        """False when a newer view came first."""
        end, in_a_row = time.monotonic() + LOADED_SECONDS, 0
        while time.monotonic() < end:
            if self._changed.is_set():
                return False
            with contextlib.suppress(OSError):
                in_a_row = in_a_row + 1 if ours <= parse_proxies(await self.ask("show backend")) else 0
                if in_a_row == SURELY_LOADED:
                    return True
            await asyncio.sleep(LOOK_SECONDS)
        raise ValueError(
            f"after the reload it still lacks {', '.join(sorted(ours))}: does it read {self._places.haproxy_file}?"
        )

    async def _unless_changed(self, work: asyncio.Future[Any]) -> bool:
        """Whether it has ended; False as soon as a newer view has come."""
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({work, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        return work.done()

    async def ask(self, *commands: str, old: str = "") -> str:
        """The answer of the admin socket; with `old`, of that old process, which only the master reaches."""
        if old:
            return await self._ask_master(*(f"@!{old} {command}" for command in commands))
        return await asyncio.wait_for(_asked(self._places.haproxy_socket, "; ".join(commands)), ANSWER_SECONDS)

    async def _ask_master(self, *commands: str) -> str:
        asked = _asked(self._places.haproxy_master_socket, "; ".join(commands), hang_up=True)
        return await asyncio.wait_for(asked, ANSWER_SECONDS)

    def _complain(self, trouble: str) -> None:
        if trouble and trouble != self._complaint:
            print(trouble, file=sys.stderr, flush=True)
        self._complaint = trouble


async def _asked(socket: Path, command: str, *, hang_up: bool = False) -> str:
    """`hang_up` after the question: else the master waits for another one."""
    reader, writer = await asyncio.open_unix_connection(str(socket), limit=4 * 1024 * 1024)
    try:
        writer.write(f"{command}\n".encode())
        if hang_up:
            writer.write_eof()
        return (await reader.read(-1)).decode("utf-8", "replace")
    finally:
        writer.close()


async def answers_http(server: Server) -> bool:
    """Whether the app behind it gives a 2xx or 3xx within PROBE_SECONDS."""
    try:
        return await asyncio.wait_for(_status_is_good(server), PROBE_SECONDS)
    except (OSError, EOFError, ValueError, asyncio.TimeoutError):
        return False


async def _status_is_good(server: Server) -> bool:
    reader, writer = await asyncio.open_connection(server.address, server.port)
    try:
        head = f"GET {server.check_path} HTTP/1.1", f"Host: {server.host}", "User-Agent: relaunch-check"
        writer.write("\r\n".join((*head, "Connection: close", "", "")).encode())
        status = (await reader.readline()).split(b" ")
        return len(status) > 1 and status[1][:1] in (b"2", b"3")
    finally:
        writer.transport.abort()
