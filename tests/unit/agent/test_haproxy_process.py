"""What the agent asks of HAProxy when something is not as it should be; HAProxy is as much of its sockets."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from relaunch.bus.messages import Accepted, SetView
from relaunch_agent import disk
from relaunch_agent.haproxy_process import HAProxy
from relaunch_agent.places import Places
from relaunch_agent.views import Views

HEAD = (
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight f0 f1 f2 f3 f4 f5"
    " f6 f7 srv_fqdn srv_port"
)
ANSWERS = {
    "show servers state": f"1\n{HEAD}\n2 db-primary 1 db1 10.0.0.1 2 0 100 100 0 0 0 0 0 0 0 0 - 3306\n\n",
    "show stat -1 4 -1": "# pxname,svname,scur,status\ndb-primary,db1,0,UP\n\n",
    "show backend": "# name\ndb-primary\n\n",
    "show proc": "#<PID> <type>\n1 master\n# workers\n2 worker\n# programs\n\n",
}


class Process:
    """db1 is all it ever says it has; `commands` are what else it was told."""

    def __init__(self) -> None:
        self.answers = dict(ANSWERS)
        self.commands: list[str] = []
        self.silent_on = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = (await reader.readline()).decode().strip()
        if command == self.silent_on:
            return
        if command not in self.answers:
            self.commands.append(command)
        writer.write(self.answers.get(command, "\n").encode())
        writer.close()


def view(epoch: int, primary: str) -> dict[str, Any]:
    servers = [{"name": primary, "address": f"10.0.0.{primary[2:]}", "port": 3306}]
    return {
        "hosts": {"db-primary.shop.test": "127.0.1.1"} if epoch > 1 else {},
        "database": {"group": "shop", "epoch": epoch, "initialised": True},
        "proxy": {"listeners": [{"name": "db-primary", "bind": "127.0.1.1:3306", "servers": servers}]},
    }


async def eventually(what: Callable[[], bool]) -> None:
    for _ in range(300):
        if what():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 3 s")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    places = Places(tmp_path)
    for file in (places.haproxy_file, places.haproxy_socket):
        file.parent.mkdir(parents=True)
    places.hosts.write_text("127.0.0.1 localhost\n")
    return places


@pytest_asyncio.fixture
async def process(places: Places) -> AsyncIterator[Process]:
    process = Process()
    sockets = (places.haproxy_socket, places.haproxy_master_socket)
    servers = [await asyncio.start_unix_server(process.answer, str(socket)) for socket in sockets]
    yield process
    for server in servers:
        server.close()


@pytest_asyncio.fixture
async def views(places: Places, process: Process) -> AsyncIterator[Views]:
    """In force is the view of epoch 1, by file and process, with db1 as the primary."""
    haproxy = HAProxy(places, reload=["false"])
    found = Views(places, haproxy)
    found.take(SetView(version=1, view=view(1, "db1")))
    disk.remove(places.reload_pending)
    keeping = [asyncio.ensure_future(each.keep()) for each in (haproxy, found)]
    await haproxy.settled()
    yield found
    for each in keeping:
        each.cancel()


async def test_a_full_disk_does_not_keep_the_old_primary(
    places: Places, process: Process, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = (places.view, places.haproxy_file, places.hosts)
    before = [file.read_text() for file in files]

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(disk, "write_new", full)
        assert views.take(SetView(version=2, view=view(2, "db2"))) == Accepted()
        await eventually(lambda: any(said.startswith("enable server db-primary/db2") for said in process.commands))

        assert views.view == view(2, "db2")
        assert process.commands[0] == "disable server db-primary/db1"
        assert [file.read_text() for file in files] == before, "nothing is written in part"
        await eventually(lambda: all(str(file) in views.trouble for file in files))

    await eventually(lambda: views.trouble == "")
    assert "10.0.0.2" in places.haproxy_file.read_text() and "db-primary.shop.test" in places.hosts.read_text()
    assert Views(places, HAProxy(places)).view == view(2, "db2")


async def test_without_the_masters_socket_it_says_what_it_cannot_do(places: Places, views: Views) -> None:
    places.haproxy_master_socket.unlink()
    views.apply()

    await eventually(lambda: f"-S {places.haproxy_master_socket}" in views.trouble)


async def test_sessions_with_the_dead_are_cut_while_a_reload_fails(process: Process, views: Views) -> None:
    other = {**view(2, "db1")["proxy"]["listeners"][0], "name": "db-primary-2", "bind": "127.0.2.1:3306"}
    both = view(2, "db1")
    both["proxy"]["listeners"].append(other)
    views.take(SetView(version=2, view=both))
    await eventually(lambda: views.trouble.startswith("HAProxy: false"))

    process.answers["show stat -1 4 -1"] = "# pxname,svname,scur,status\ndb-primary,db1,1,DOWN\n\n"
    process.answers["show sess"] = "0x7f: proto=tcpv4 be=db-primary srv=db1 ts=00 scf=[8,0h,fd=1] scb=[8,1h,fd=2]\n\n"

    await eventually(lambda: "shutdown session 0x7f" in process.commands)


@pytest.mark.parametrize(
    "reload",
    [
        pytest.param("true", id="says that it is done while the old process still answers"),
        pytest.param("sleep 4", id="takes long"),
    ],
)
async def test_a_newer_view_is_not_kept_waiting_for_a_reload(places: Places, process: Process, reload: str) -> None:
    haproxy = HAProxy(places, reload=("sh", "-c", f"echo x >>{places.root}/reloads; {reload}"))
    following = asyncio.ensure_future(haproxy.keep())
    both = view(2, "db1")
    both["proxy"]["listeners"].append({**both["proxy"]["listeners"][0], "name": "db-primary-2", "bind": "127.0.2.1:1"})
    haproxy.bring_to(both)
    await eventually(lambda: (places.root / "reloads").exists())
    await asyncio.sleep(0.3)

    moved = json.loads(json.dumps(both).replace("db1", "db2").replace("10.0.0.1", "10.0.0.2"))
    haproxy.bring_to(moved)

    await eventually(lambda: any("db-primary/db2" in command for command in process.commands))
    assert (places.root / "reloads").read_text() == "x\n", "it is the same structure: one reload is enough"
    following.cancel()


@pytest.mark.parametrize("silent_on", ["show proc", "@!7 show servers state"])
async def test_a_view_is_followed_though_the_master_or_an_old_process_does_not_answer(
    process: Process, views: Views, silent_on: str
) -> None:
    process.answers["show proc"] = ANSWERS["show proc"].replace("# programs", "# old workers\n7 worker\n# programs")
    process.silent_on = silent_on
    views.take(SetView(version=2, view=view(1, "db1") | {"hosts": {"a": "127.0.1.2"}}))
    await asyncio.sleep(0.2)

    views.take(SetView(version=3, view=view(2, "db2")))

    await eventually(lambda: any("db-primary/db2" in command for command in process.commands))
