"""What tests of snapshots do on a database server of either dialect: take them, write meanwhile, look into them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relaunch.cli.servers import ssh_command

PROJECT = Path(__file__).parents[2]
VOLUME = "/var/lib/mysql-volume"
TAKE = "python3 /usr/local/lib/relaunch/snapshots/take_snapshot.py"


def until(is_so: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


@dataclass
class Server:
    address: str
    key: Path  # of ssh
    dialect: str  # mariadb or mysql, as its client is called

    def ssh(self, command: str) -> list[str]:
        return ssh_command(self.address, self.key, [command])

    def run(self, command: str, *, check: bool = True, text: str | None = None) -> str:
        done = subprocess.run(
            self.ssh(command), input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout
        return done.stdout.strip()

    def sql(self, statements: str) -> str:
        return self.run(f"{self.dialect} -N -B", text=statements)

    def take(self, options: str = "") -> dict[str, Any]:
        said = self.run(f"{TAKE} take {options}")
        return {**json.loads(next(line for line in said.splitlines() if line.startswith("{"))), "said": said}

    def listed(self) -> list[str]:
        return [json.loads(line)["id"] for line in self.run(f"{TAKE} list").splitlines()]

    def copy_scripts(self) -> None:
        packed = subprocess.run(
            ["tar", "-C", PROJECT / "templates/scripts", "-cz", "."], stdout=subprocess.PIPE, check=True
        ).stdout
        subprocess.run(self.ssh("mkdir -p s && tar -C s -xz"), input=packed, check=True)

    @contextmanager
    def statement(self, statement: str) -> Iterator[None]:
        running = subprocess.Popen(
            self.ssh(f'exec {self.dialect} -e "{statement}" shop'), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        mine = f"SELECT id FROM information_schema.processlist WHERE info LIKE '{statement[:6]}%SLEEP(%' AND time > 1"
        try:
            until(lambda: self.sql(mine) != "", f"{statement} to run for a while")
            yield
        finally:
            self.sql("".join(f"KILL {id};" for id in self.sql(mine).split()))
            running.wait(30)

    def numbers_in(self, snapshot: dict[str, Any]) -> set[int]:
        """The ledger's rows in a snapshot: a server of its own is started on a copy of it."""
        size = snapshot["settings"].get("innodb_redo_log_capacity")
        redo = f"--innodb-redo-log-capacity={size}" if size else ""
        script = f"""set -euo pipefail
          sockets=$(mktemp -d); chown mysql "$sockets"; chmod 711 "$sockets"
          trap 'kill_copy; rm -rf "$sockets" {VOLUME}/looked-at' EXIT
          . /root/s/attachments/{self.dialect}_copy.sh
          rm -rf {VOLUME}/looked-at; {TAKE} lay-out {snapshot["id"]} {VOLUME}/looked-at >/dev/null
          start_copy {VOLUME}/looked-at --innodb-buffer-pool-size=32M {redo}
          ask_copy -e "CHECK TABLE shop.ledger, shop.more" | grep -v "OK$" >&2 || true
          ask_copy -e "SELECT number FROM shop.ledger" """
        self.copy_scripts()
        return {int(line) for line in self.run("bash", text=script).splitlines()}


@dataclass
class Writes:
    """Rows that were acknowledged: number, when that was asked for, when answered."""

    acks: list[tuple[int, float, float]] = field(default_factory=list)

    def before(self, moment: float) -> set[int]:
        return {number for number, _, ended in self.acks if ended < moment}

    @property
    def longest(self) -> float:
        return max(ended - began for _, began, ended in self.acks)


WRITER = """
import sys, threading, time
sys.path.insert(0, "/usr/local/lib/relaunch/snapshots")
from sql_session import Session
over = threading.Event()
def write(first):
    session, number = Session(), first
    while not over.is_set():
        number += 4
        began = time.monotonic()
        session.rows(f"INSERT INTO shop.ledger VALUES ({number})")
        print(f"{number} {began} {time.monotonic()}\\n", end="", flush=True)  # whole, whoever else prints
        time.sleep(0.003)
begin = int(Session().value("SELECT COALESCE(MAX(number), 0) FROM shop.ledger")) + 10
threads = [threading.Thread(target=write, args=(begin + n,)) for n in range(4)]
for thread in threads: thread.start()
sys.stdin.read(); over.set()
"""


@contextmanager
def writing(server: Server) -> Iterator[Writes]:
    """Four writers; what they have is in the result once they have ended."""
    server.run("cat >/root/writer.py", text=WRITER)
    writes = Writes()
    running = subprocess.Popen(  # unbuffered, so that nothing is read here but the first lines
        server.ssh("exec python3 /root/writer.py"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert running.stdout is not None
    out = b""
    try:
        out = b"".join(running.stdout.readline() for _ in range(20))
        yield writes
    finally:
        out += running.communicate(timeout=60)[0]
        for line in out.decode().splitlines():
            number, began, ended = line.split()
            writes.acks.append((int(number), float(began), float(ended)))
    assert len(writes.acks) > 20, out
