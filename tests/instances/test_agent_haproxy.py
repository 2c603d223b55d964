"""The agent brings a real HAProxy from view to view: this host's, or Debian 13's in a root of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from agent_stand import free_port, listens, until
from debian_root import inside, root_with

from relaunch.bus.messages import Hold
from relaunch_agent.haproxy import proxies_of
from relaunch_agent.haproxy_process import HAProxy
from relaunch_agent.holding import Holding
from relaunch_agent.places import Places

PROGRAM = "/usr/sbin/haproxy"
MAIN = """
global
    stats socket {socket} mode 600 level admin
    hard-stop-after 20s
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
frontend web
    bind 127.0.0.1:{port}
    use_backend site-%[hdr(host),lower]
"""


def haproxy_for(folder: Path) -> list[str]:
    """The command; it sees that folder."""
    if shutil.which("haproxy"):
        return ["haproxy"]
    root = root_with("haproxy", "trixie", PROGRAM, "haproxy")
    if root is None:
        pytest.skip("no haproxy here, and no root to make one in a Debian of its own")
    return [*inside(root, folder), PROGRAM]


class App:
    """Answers HTTP and everything else with its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()

    async def start(self) -> App:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    def listen_no_more(self) -> None:
        """Who is connected stays so."""
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while (line := await reader.readline()) != b"":
                if line == b"\r\n":
                    body = self.name.encode()
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                elif line == b"who\n":
                    writer.write(f"{self.name}\n".encode())
        writer.close()


class Site:
    def __init__(self, folder: Path, haproxy: list[str]) -> None:
        self.places = Places(folder)
        self._haproxy = haproxy
        self.port, self.database_port = free_port(), free_port()
        self.pid_file = folder / "pid"

    async def open(self) -> Site:
        for file in (self.places.haproxy_file, self.places.haproxy_socket):
            file.parent.mkdir(parents=True)
        self.places.haproxy_main_file.write_text(MAIN.format(socket=self.places.haproxy_socket, port=self.port))
        reload = self.places.root / "reload"
        reload.write_text(f"#!/bin/sh\necho reload >>{self.places.root}/reloads\nkill -USR2 $(cat {self.pid_file})\n")
        reload.chmod(0o755)
        self.agent = HAProxy(self.places, reload=[str(reload)])
        self.agent.write_file(self.view([], []))
        self.places.reload_pending.unlink(missing_ok=True)
        self._process = subprocess.Popen(  # noqa: ASYNC220
            [*self._haproxy, "-W", "-S", self.places.haproxy_master_socket, "-p", self.pid_file,
             "-f", self.places.haproxy_main_file, "-f", self.places.haproxy_file],
            start_new_session=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        await until(lambda: self.pid_file.exists() and self.places.haproxy_socket.exists(), "HAProxy runs")
        await until(lambda: listens(self.port), "HAProxy listens")
        end = time.monotonic() + 10
        while not await self._master_answers():  # before that it takes no notice of a signal to reload
            assert time.monotonic() < end, "HAProxy's master answers"
            await asyncio.sleep(0.02)
        self._keeping = asyncio.ensure_future(self.agent.keep())
        return self

    async def _master_answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.places.haproxy_master_socket))
            writer.write(b"show proc\n")
            writer.write_eof()
            said = await asyncio.wait_for(reader.read(), 5)
            writer.close()
        except ConnectionError:
            return False
        return b"# workers" in said

    async def close(self) -> None:
        self._keeping.cancel()
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait()

    def view(self, apps: list[App], databases: list[App], sites: tuple[str, ...] = ("a.test",)) -> dict[str, Any]:
        def servers(of: list[App]) -> list[dict[str, Any]]:
            return [{"name": app.name, "address": "127.0.0.1", "port": app.port, "weight": 100} for app in of]

        listeners = [{"name": "db-primary", "bind": f"127.0.0.1:{self.database_port}", "servers": servers(databases)}]
        backends = [{"name": f"site-{site}", "check_path": "/", "servers": servers(apps)} for site in sites]
        return {"server": {}, "proxy": {"backends": backends, "listeners": listeners}}

    async def get(self, host: str = "a.test") -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        said = (await asyncio.wait_for(reader.read(), 5)).decode()
        writer.close()
        return said.split(" ")[1] + " " + said.rpartition("\r\n\r\n")[2].splitlines()[0]

    @property
    def reloads(self) -> int:
        file = self.places.root / "reloads"
        return len(file.read_text().splitlines()) if file.exists() else 0


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = await Site(tmp_path, haproxy_for(tmp_path)).open()
    yield site
    await site.close()


async def test_an_app_gets_requests_only_once_it_answers(site: Site) -> None:
    slow, quick = App("slow"), await App("quick").start()
    site.agent.bring_to(site.view([slow, quick], []))
    await asyncio.sleep(1)
    assert {await site.get() for _ in range(20)} == {"200 quick"}
    await slow.start()
    await asyncio.wait_for(site.agent.settled(), 5)
    assert {await site.get() for _ in range(20)} == {"200 quick", "200 slow"}
    assert site.reloads == 0 and site.agent.trouble == ""


async def test_a_new_site_reloads_once_and_serves(site: Site) -> None:
    app = await App("app").start()
    site.agent.bring_to(site.view([app], [], ("a.test", "b.test")))
    await asyncio.wait_for(site.agent.settled(), 20)
    assert (await site.get("a.test"), await site.get("b.test")) == ("200 app", "200 app")
    assert site.reloads == 1 and not site.places.reload_pending.exists()
    assert proxies_of(site.places.haproxy_file.read_text()) == {"site-a.test", "site-b.test", "db-primary"}


async def test_sessions_with_the_old_primary_are_cut(site: Site) -> None:
    old, new = await App("db1").start(), await App("db2").start()
    site.agent.bring_to(site.view([], [old]))
    await asyncio.wait_for(site.agent.settled(), 5)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.database_port)
    writer.write(b"who\n")
    assert await asyncio.wait_for(reader.readline(), 3) == b"db1\n"
    site.agent.bring_to(site.view([], [new]))
    assert await asyncio.wait_for(reader.read(), 3) == b""
    await asyncio.wait_for(site.agent.settled(), 5)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.database_port)
    writer.write(b"who\n")
    assert await asyncio.wait_for(reader.readline(), 3) == b"db2\n"
    assert site.reloads == 0


async def test_who_is_connecting_to_the_silent_old_primary_reaches_the_new_one(site: Site) -> None:
    with socket.socket() as silent, contextlib.ExitStack() as waiting:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for _ in range(3):  # whoever comes after these gets no answer, not even a refusal
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(silent.getsockname())
        old, new = App("db1"), await App("db2").start()
        old.port = silent.getsockname()[1]
        site.agent.bring_to(site.view([], [old]))
        await asyncio.wait_for(site.agent.settled(), 5)
        reader, writer = await asyncio.open_connection("127.0.0.1", site.database_port)
        writer.write(b"who\n")
        await asyncio.sleep(0.4)

        site.agent.bring_to(site.view([], [new]))

        assert await asyncio.wait_for(reader.readline(), 2) == b"db2\n"
        assert site.reloads == 0


async def test_sessions_with_a_database_that_died_are_cut_without_another_view(site: Site) -> None:
    old = await App("db1").start()
    site.agent.bring_to(site.view([], [old]))
    await asyncio.wait_for(site.agent.settled(), 5)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.database_port)
    writer.write(b"who\n")
    assert await asyncio.wait_for(reader.readline(), 3) == b"db1\n"

    old.listen_no_more()

    assert await asyncio.wait_for(reader.read(), 8) == b""


async def session_older_than_a_reload(site: Site, database: App) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The old process serves it on."""
    site.agent.bring_to(site.view([], [database]))
    await asyncio.wait_for(site.agent.settled(), 5)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.database_port)
    writer.write(b"who\n")
    assert await asyncio.wait_for(reader.readline(), 3) == f"{database.name}\n".encode()
    site.agent.bring_to(site.view([], [database], ("a.test", "b.test")))
    await asyncio.wait_for(site.agent.settled(), 20)
    assert site.reloads == 1
    await asyncio.sleep(2)  # the look for the dead leaves it alone
    writer.write(b"who\n")
    assert await asyncio.wait_for(reader.readline(), 3) == f"{database.name}\n".encode()
    return reader, writer


async def test_sessions_older_than_a_reload_are_cut_from_the_old_primary(site: Site) -> None:
    old, new = await App("db1").start(), await App("db2").start()
    reader, _writer = await session_older_than_a_reload(site, old)

    site.agent.bring_to(site.view([], [new], ("a.test", "b.test")))

    assert await asyncio.wait_for(reader.read(), 2) == b""
    assert site.reloads == 1 and site.agent.trouble == ""


async def test_sessions_older_than_a_reload_are_cut_from_a_database_that_died(site: Site) -> None:
    database = await App("db1").start()
    reader, _writer = await session_older_than_a_reload(site, database)

    database.listen_no_more()

    assert await asyncio.wait_for(reader.read(), 8) == b""


class View:
    """What `Holding` wants of `Views`."""

    def __init__(self, view: dict[str, Any]) -> None:
        self.view = view

    async def apply_now(self) -> None:
        pass


async def limit(site: Site) -> str:
    (row,) = [line for line in (await site.agent.ask("show stat -1 1 -1")).splitlines() if "db-primary,FRONT" in line]
    return row.split(",")[6]


async def test_who_was_held_when_the_agent_ended_is_let_go_by_the_next(site: Site) -> None:
    database = await App("db1").start()
    site.agent.bring_to(site.view([], [database]))
    await asyncio.wait_for(site.agent.settled(), 5)
    views: Any = View(site.view([], [database]))
    before = await limit(site)
    await Holding(site.places, site.agent, views).take(Hold(epoch=0, seconds=10.0))
    assert await limit(site) == "0" != before
    reader, writer = await asyncio.open_connection("127.0.0.1", site.database_port)
    writer.write(b"who\n")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(answer := asyncio.ensure_future(reader.readline())), 0.5)

    Holding(site.places, site.agent, views)

    assert await asyncio.wait_for(answer, 2) == b"db1\n"
    assert await limit(site) == before
    await asyncio.sleep(0.1)
    assert [file.name for file in site.places.socket.parent.iterdir()] == []


async def test_a_listener_left_closed_is_open_after_the_next_hold(site: Site) -> None:
    before = await limit(site)
    await site.agent.ask("set maxconn frontend db-primary 0")
    views: Any = View(site.view([], []))
    holding = Holding(site.places, site.agent, views)

    await holding.take(Hold(epoch=0, seconds=10.0))
    await holding.take(Hold(epoch=0, seconds=0.0))

    assert await limit(site) == before


async def test_a_reload_that_was_still_due_is_done_by_the_next_agent(site: Site) -> None:
    app = await App("app").start()
    site.agent.write_file(site.view([app], [], ("a.test", "c.test")))
    again = HAProxy(site.places, reload=[str(site.places.root / "reload")])
    keeping = asyncio.ensure_future(again.keep())
    again.bring_to(site.view([app], [], ("a.test", "c.test")))
    await asyncio.wait_for(again.settled(), 15)
    keeping.cancel()
    assert await site.get("c.test") == "200 app" and not site.places.reload_pending.exists()


async def test_a_process_that_does_not_run_gets_only_its_file(tmp_path: Path) -> None:
    places = Places(tmp_path)
    agent = HAProxy(places, reload=["false"])
    view = {"proxy": {"backends": [{"name": "site-x", "servers": []}]}}
    assert not agent.write_file(view) and not places.haproxy_file.exists()
    places.haproxy_file.parent.mkdir(parents=True)
    keeping = asyncio.ensure_future(agent.keep())
    agent.bring_to(view)
    await asyncio.wait_for(agent.settled(), 3)
    keeping.cancel()
    assert "backend site-x" in places.haproxy_file.read_text() and agent.trouble == ""
