"""Starting: one controller per folder, ports that are taken, children that die and are left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from relaunch.controller.children import Child, Program, end_stale
from relaunch.controller.listening import listen
from relaunch.controller.main import only_one
from relaunch.errors import Conflict, Failed


def test_a_second_controller_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with only_one(tmp_path), pytest.raises(Conflict, match=str(tmp_path)), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


def test_a_taken_port_is_named_with_who_has_it() -> None:
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        port = owner.getsockname()[1]

        with pytest.raises(Conflict, match=rf"port {port} .*process {os.getpid()}") as refused:
            listen("127.0.0.1", port, purpose="the API")

    assert "controller.toml" in refused.value.hint


def test_an_address_no_interface_has_yet_can_be_listened_on() -> None:
    listen("198.18.255.254", 0, purpose="the API").close()


def program(folder: Path, *words: str, ready: bool = True) -> Program:
    async def is_ready() -> bool:
        return ready

    return Program(
        name="sleeper",
        command=words,
        pid_file=folder / "pid",
        log_file=folder / "log",
        ready=is_ready,
        ready_seconds=0.5,
    )


async def ended(pid: int) -> bool:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        await asyncio.sleep(0.02)
    return False


async def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    child = Child(program(tmp_path, "/usr/bin/sleep", "60"))
    await child.start()
    first = child.pid
    assert first

    os.kill(first, signal.SIGKILL)
    end = time.monotonic() + 5
    while child.pid in (None, first):
        assert time.monotonic() < end, "it is not started again"
        await asyncio.sleep(0.02)

    second = child.pid
    await child.stop()
    assert second and await ended(second)


async def test_a_child_that_cannot_start_says_why(tmp_path: Path) -> None:
    child = Child(program(tmp_path, "/usr/bin/sleep", "not-a-number", ready=False))

    with pytest.raises(Failed) as failed:
        await child.start()

    assert "not-a-number" in failed.value.hint


async def test_what_a_killed_controller_left_is_ended_but_not_who_has_its_number(tmp_path: Path) -> None:
    left = Child(program(tmp_path, "/usr/bin/sleep", "60"))
    await left.start()
    pid, note = left.pid, (tmp_path / "pid").read_text()
    assert pid

    await end_stale(tmp_path / "pid", "/usr/bin/cat")
    assert left.pid == pid, "another program's process is left alone"
    (tmp_path / "pid").write_text(f"{pid} 1\n")
    await end_stale(tmp_path / "pid", "/usr/bin/sleep")
    assert left.pid == pid, "so is a process that began at another time"
    (tmp_path / "pid").write_text(note)
    await end_stale(tmp_path / "pid", "/usr/bin/sleep")

    assert await ended(pid)
    await left.stop()


async def test_children_die_with_a_killed_controller(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from relaunch.controller.children import Child, Program
async def ready(): return True
async def main():
    folder = Path(sys.argv[1])
    child = Child(Program(name="sleeper", command=("/usr/bin/sleep", "60"), pid_file=folder / "pid",
                          log_file=folder / "log", ready=ready))
    await child.start()
    print(child.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 10))

    parent.kill()
    await parent.wait()

    assert await ended(pid)
