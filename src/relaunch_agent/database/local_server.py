"""The database server on this machine: how to get in, which dialect it speaks, what becomes of its process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import List, Optional, Tuple, Union

from relaunch.databases.mariadb import MariaDB
from relaunch.databases.mysql import MySQL
from relaunch.errors import RelaunchError
from relaunch_agent.database.data_disk import statistics_of, written_bytes
from relaunch_agent.database.session import TOO_MANY, LocalSession, Refusal
from relaunch_agent.disk import read_json
from relaunch_agent.facts import boot_id
from relaunch_agent.places import Places

AnyDialect = Union[MariaDB, MySQL]
PROGRAMS = ("mariadbd", "mysqld")
STATES = {"T": "frozen", "t": "frozen", "D": "stuck in the kernel"}


class LocalServer:
    def __init__(self, places: Places) -> None:
        self._places = places
        self.pid = 0  # of the process that answered last
        self.started = ""  # another text for each start of it
        self.folder = ""  # that it works in: its data's
        self._statistics = ""  # of the disk that this lies on

    def open(self, *, answer_seconds: float = 5.0) -> LocalSession:
        session = LocalSession(str(self._places.database_socket), answer_seconds=answer_seconds)
        if session.pid != self.pid:
            self.pid, self.folder = session.pid, _folder(session.pid)
            self._statistics = statistics_of(self.folder)
            self.started = f"{boot_id()[:8]} {session.pid} {_stat(session.pid, 19)}"
        return session

    def replication_starts(self) -> None:
        """From a standstill, with something received and not applied: it may be discarded."""
        self.started = f"{' '.join(self.started.split()[:3])} {time.time_ns()}"

    def written_bytes(self) -> Optional[int]:
        """By its process since its start, and to the disk of its data (where that is not told, to all of this machine):
        a long fsync of much is work too. None when the kernel tells neither."""
        disk = written_bytes(self._statistics)
        found = [
            *_numbers(f"/proc/{self.pid}/io", "write_bytes:"),
            *([disk] if disk is not None else (each * 1024 for each in _numbers("/proc/vmstat", "pgpgout"))),
        ]
        return sum(found) if found else None

    @property
    def joined(self) -> bool:
        """Its data is the group's: before, no role can be taken. The mark lives and dies with the data."""
        return self._places.database_joined.exists()

    def login(self) -> Optional[Tuple[str, str, str, int]]:
        """User, password, CA file and port for following another server; the join script wrote them."""
        kept = read_json(self._places.database_login)
        if not isinstance(kept, dict):
            return None
        return str(kept["user"]), str(kept["password"]), str(kept["ca"]), int(kept.get("port", 3306))

    def trouble(self, error: Optional[RelaunchError]) -> str:
        """Why it does not answer, by what its process does."""
        if isinstance(error, Refusal):
            return "full of connections" if error.number == TOO_MANY else f"refuses us: {error.message}"
        state = _state(self.pid)
        if state in STATES:
            return STATES[state]
        if state and state not in "ZX":
            return "does not answer" if error is None else "stopping"
        other = _found(self.folder)
        if other:
            return STATES.get(_state(other), "starting")
        return "stopped"


def dialect_for(version: str) -> AnyDialect:
    return MariaDB() if "mariadb" in version.lower() else MySQL()


def dialect_of(session: LocalSession) -> AnyDialect:
    return dialect_for(str(session.rows("SELECT VERSION() AS version")[0]["version"]))


def _numbers(file: str, *names: str) -> List[int]:
    try:
        lines = [line.split() for line in Path(file).read_text(errors="replace").splitlines()]
    except OSError:
        return []
    return [int(words[1]) for words in lines if len(words) > 1 and words[0] in names]


def _state(pid: int) -> str:
    """One letter, as in proc(5); "" when there is no such process."""
    return _stat(pid, 0)


def _stat(pid: int, field: int) -> str:
    """Counted from the state on: 0; the moment of its start, since the boot, is 19."""
    if not pid:
        return ""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[field]
    except (OSError, IndexError):
        return ""


def _folder(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""


def _found(folder: str) -> int:
    """A server's process that works in this folder, or in any when we know of none."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text(errors="replace").strip() in PROGRAMS and folder in ("", _folder(int(comm.parent.name))):
                return int(comm.parent.name)
        except OSError:
            continue
    return 0
