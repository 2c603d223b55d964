"""MariaDB 10.11 to 11.8 as `dialect` wants it: GTID by domain, built-in semi-synchronous replication.

Shipped in the agent: standard library only, Python 3.9. Traps (T…) are explained in decisions/0008-mariadb.md.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import Any, Dict, List, Optional, Tuple
from weakref import WeakKeyDictionary

from relaunch.databases.dialect import Process, ServerState, Session, Source, processes_of
from relaunch.errors import BadInput, Failed, RelaunchError, Unavailable

FOREVER_MS = 315360000000  # ten years: no commit gives up waiting by itself (T6)
SLICE_SECONDS = 0.2
LONG_SECONDS = 1.0  # a statement of root's that runs so long does not end by itself in time for a fence
ALONE_SECONDS = 1.6  # one that takes writes and follows nobody is asked so much later whether it does
SETTLE_SECONDS = 1.0  # for what was received to be applied before the source changes
ACCESS_DENIED = 1045
STATE = """SELECT VERSION() AS version, @@server_id AS server_id, @@read_only AS read_only,
 @@gtid_binlog_pos AS binlog_position, @@gtid_slave_pos AS slave_position,
 @@gtid_binlog_state AS binlog_state,
 @@rpl_semi_sync_master_enabled AS enabled, @@rpl_semi_sync_master_timeout AS timeout_ms,
 @@rpl_semi_sync_master_wait_no_slave AS wait_alone, @@rpl_semi_sync_master_wait_point AS wait_point,
 @@rpl_semi_sync_slave_enabled AS acknowledges"""
SEMI_SYNC = "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync%'"  # by WHERE the server would work out all there are
CONNECTIONS = "SHOW GLOBAL STATUS LIKE 'Threads_connected'"  # Connection_errors_max_connections stays 0 in 11.8
REPLICAS = "SHOW SLAVE HOSTS"  # connected ones, by the address each says it has
PROCESSES = "SHOW PROCESSLIST"  # information_schema would make a file for it, on a disk that may be full or hang
NO_CLIENTS = ("Binlog Dump", "Slave_IO", "Slave_SQL", "Slave_worker", "Daemon", "Killed")
NOT_APPS = ("root", "system user", "event_scheduler", "unauthenticated user", "replication", "relaunch_probe")
UNACKNOWLEDGED = "Waiting for semi-sync ACK"
BLOCKED = re.compile("Waiting for.*lock")
ROW_LOCKS = (
    "SELECT waits.trx_mysql_thread_id AS waits, holds.trx_mysql_thread_id AS holds"
    " FROM information_schema.INNODB_LOCK_WAITS l"
    " JOIN information_schema.INNODB_TRX waits ON waits.trx_id = l.requesting_trx_id"
    " JOIN information_schema.INNODB_TRX holds ON holds.trx_id = l.blocking_trx_id"
)
FILTERS = (
    "Replicate_Do_DB", "Replicate_Ignore_DB", "Replicate_Do_Table", "Replicate_Ignore_Table",
    "Replicate_Wild_Do_Table", "Replicate_Wild_Ignore_Table", "Replicate_Do_Domain_Ids",
    "Replicate_Ignore_Domain_Ids", "Replicate_Ignore_Server_Ids", "Replicate_Rewrite_DB",
)  # fmt: skip


class MariaDB:
    name = "mariadb"
    program = "mariadbd"

    def __init__(self) -> None:
        # When each was last found to take writes and to follow nobody: it is not asked that again for a while.
        self._found_alone: WeakKeyDictionary[Session, float] = WeakKeyDictionary()

    # positions

    def covers(self, position: str, other: str) -> bool:
        """By numbers, as within one history each is given once: the same number by another server is another one."""
        have = _domains(position)
        for domain, (server, number) in _domains(other).items():
            own_server, own_number = have.get(domain, (0, -1))
            if own_number < number or (own_number == number and own_server != server):
                return False
        return True

    def parted(self, executed: str, history: str, other: str, other_history: str) -> bool:
        ours, theirs = _domains(executed), _domains(other)
        for domain in ours.keys() & theirs.keys():
            if ours[domain][1] >= theirs[domain][1]:
                longer, shorter, (server, number) = history, other_history, theirs[domain]
            else:
                longer, shorter, (server, number) = other_history, history, ours[domain]
            if ours[domain][1] == theirs[domain][1] and ours[domain][0] != theirs[domain][0]:
                return True
            known = _last_of(longer, domain, server)
            if known is not None and known < number:
                return True
            # One seeded later does not know who wrote before; but what a replica wrote itself, nobody else ever has.
            if known is None and longer and shorter.partition(":")[0] == str(server):
                return True
        return False

    # the server

    def state(self, session: Session) -> ServerState:
        server = session.rows(STATE)[0]
        semi_sync = _semi_sync(session)
        replica = self._replica_if_any(session, writable=not _is_on(server["read_only"]))
        executed = _union(str(server["binlog_position"] or ""), str(server["slave_position"] or ""))
        clients = int(semi_sync.get("master_clients", 0))
        return ServerState(
            version=str(server["version"]),
            server_id=int(server["server_id"]),
            read_only=_is_on(server["read_only"]),
            executed=executed,
            # What a server was seeded with is not in its binary log.
            history=f"{server['server_id']}:{server['binlog_state'] or ''},{server['slave_position'] or ''}",
            received=_union(executed, str(replica.get("Gtid_IO_Pos") or "")),
            source=str(replica.get("Master_Host") or ""),
            receiving=replica.get("Slave_IO_Running") == "Yes",
            applying=replica.get("Slave_SQL_Running") == "Yes",
            error=_error(replica),
            lag_seconds=_lag(replica),
            delayed=bool(int(replica.get("SQL_Delay") or 0)) or any(replica.get(name) for name in FILTERS),
            acknowledging=_is_on(server["acknowledges"]) or semi_sync.get("slave_status") == "ON",
            required=_required(server, semi_sync),
            # The server counts those that acknowledge and does not tell which they are.
            acknowledgers=tuple(sorted({str(row["Host"]) for row in session.rows(REPLICAS)})) if clients else (),
            waiting_commits=int(semi_sync.get("master_wait_sessions", 0)),
            arrived=_arrived(replica),
        )

    def _replica_if_any(self, session: Session, *, writable: bool) -> Dict[str, Any]:
        now = time.monotonic()
        if writable and now - self._found_alone.get(session, float("-inf")) < ALONE_SECONDS:
            return {}
        found = _replica(session) or {}
        if writable and not found:
            self._found_alone[session] = now
        return found

    def processes(self, session: Session) -> List[Process]:
        return _processes(session)

    def is_full(self, session: Session) -> bool:
        most = session.rows("SELECT @@max_connections AS most")[0]["most"]
        return int(session.rows(CONNECTIONS)[0]["Value"]) >= int(most)

    def stop_receiving(self, session: Session) -> None:
        self._be_read_only(session)
        session.run("SET GLOBAL rpl_semi_sync_slave_enabled = OFF")
        # With a source that is silent this waits for rpl_semi_sync_slave_kill_conn_timeout: 1 s in our settings (T2).
        session.run("STOP SLAVE IO_THREAD")

    def follow(self, session: Session, source: Source, *, acknowledge: bool) -> None:
        self._be_read_only(session)
        _let_go(session)
        present = _replica(session)
        refused = int((present or {}).get("Last_IO_Errno") or 0) == ACCESS_DENIED
        if present is None or refused or not _is_set_to(present, source):
            self._point_at(session, source, present)
        _acknowledge(session, acknowledge)
        session.run("START SLAVE")

    def wait_applied(self, session: Session, position: str, *, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not self.covers(_executed(session), position):
            left = end - time.monotonic()
            if left <= 0:
                return False
            # In slices, so that the caller's connection is never silent for long; what counts is the next look.
            session.rows("SELECT MASTER_GTID_WAIT(%s, %s) AS waited", position, round(min(left, SLICE_SECONDS), 3))
        return True

    def free_applier(self, session: Session) -> None:
        processes = {each.id: each for each in _processes(session)}
        appliers = {each.id for each in processes.values() if each.user == "system user"}
        if any(BLOCKED.match(processes[each].state) for each in appliers):
            _kill_clients(session)
        for lock in session.rows(ROW_LOCKS):
            if lock["waits"] in appliers and lock["holds"] in processes.keys() - appliers:
                _kill(session, lock["holds"])

    def promote(self, session: Session, *, required: bool, position: str = "") -> None:
        followed = _replica(session) is not None
        if followed:
            session.run("STOP SLAVE")
        session.run("SET GLOBAL rpl_semi_sync_slave_enabled = OFF")
        self.require(session, required)
        session.run("SET GLOBAL read_only = OFF")
        if followed:  # last, as it syncs files, which no write should wait for
            session.run("RESET SLAVE ALL")

    def require(self, session: Session, required: bool) -> None:
        if not required:
            _let_go(session)
            return
        if self._is_required(session):
            return
        # Off and on: a source that once gave up waiting waits again from here on (T3). Not while it waits: off lets go.
        waits = self._waits(session)
        for statement in (
            "" if waits else "SET GLOBAL rpl_semi_sync_master_enabled = OFF",
            f"SET GLOBAL rpl_semi_sync_master_timeout = {FOREVER_MS}",
            "SET GLOBAL rpl_semi_sync_master_wait_no_slave = ON",
            "SET GLOBAL rpl_semi_sync_master_wait_point = AFTER_SYNC",
            "" if waits else "SET GLOBAL rpl_semi_sync_master_enabled = ON",
        ):
            if statement:
                session.run(statement)

    def release(self, session: Session, position: str) -> None:
        """Their clients' connections end: while two groups of commits wait nothing else can be written, so no later
        acknowledgement can come for them. Not when more is written already than the replica is known to have."""
        if self.covers(position, _executed(session)):
            for each in _processes(session):
                if each.state.startswith(UNACKNOWLEDGED):
                    _kill(session, each.id)

    def fence(self, session: Session) -> None:
        self._be_read_only(session)
        _kill_clients(session)
        if _replica(session) is None:  # else its applier would wait too (T1)
            self.require(session, True)

    def follow_nobody(self, session: Session) -> None:
        self._be_read_only(session)
        _let_go(session)
        session.run("SET GLOBAL rpl_semi_sync_slave_enabled = OFF")
        if _replica(session) is not None:
            session.run("STOP SLAVE")
            session.run("RESET SLAVE ALL")

    def _is_required(self, session: Session) -> bool:
        return _required(session.rows(STATE)[0], _semi_sync(session))

    def _waits(self, session: Session) -> bool:
        enabled = session.rows("SELECT @@rpl_semi_sync_master_enabled AS enabled")[0]["enabled"]
        return _is_on(enabled) and _semi_sync(session).get("master_status") == "ON"

    def _be_read_only(self, session: Session) -> None:
        """`read_only` waits for statements and commits under way, also for those that wait for an acknowledgement.
        Killed, such a commit ends without an answer to its client: it was not acknowledged, and will not be."""
        if _is_on(session.rows("SELECT @@read_only AS read_only")[0]["read_only"]):
            return
        session.run("SET SESSION lock_wait_timeout = 1")
        for attempt in range(10):
            _kill_clients(session)
            try:
                session.run("SET GLOBAL read_only = ON")
            except Unavailable:
                raise
            except RelaunchError:
                if attempt == 9:
                    raise
                continue
            return

    def _point_at(self, session: Session, source: Source, present: Optional[Dict[str, Any]]) -> None:
        """From our own position on. CHANGE MASTER throws away what was received and not applied yet: apply it first."""
        if present is not None:
            session.run("STOP SLAVE IO_THREAD")
            if present.get("Slave_SQL_Running") == "Yes":
                received = _union(_executed(session), str(present.get("Gtid_IO_Pos") or ""))
                self.wait_applied(session, received, seconds=SETTLE_SECONDS)
            session.run("STOP SLAVE")
        own = session.rows(STATE)[0]
        written, applied = str(own["binlog_position"] or ""), str(own["slave_position"] or "")
        if not self.covers(applied, written):
            # A former primary: what it wrote itself is where it goes on.
            session.run("SET GLOBAL gtid_slave_pos = %s", _union(applied, written))
        session.run(
            "CHANGE MASTER TO MASTER_HOST = %s, MASTER_PORT = %s, MASTER_USER = %s, MASTER_PASSWORD = %s,"
            " MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1, MASTER_HEARTBEAT_PERIOD = 1, MASTER_DELAY = 0,"
            " MASTER_SSL = 1, MASTER_SSL_CA = %s, MASTER_SSL_VERIFY_SERVER_CERT = 1",
            source.address, source.port, source.user, source.password, source.ca,
        )  # fmt: skip


def _required(server: Dict[str, Any], semi_sync: Dict[str, str]) -> bool:
    return (
        _is_on(server["enabled"])
        and int(server["timeout_ms"]) >= FOREVER_MS
        and _is_on(server["wait_alone"])
        and server["wait_point"] == "AFTER_SYNC"
        and semi_sync.get("master_status") == "ON"
    )


def _domains(position: str) -> Dict[int, Tuple[int, int]]:
    """domain → (server, sequence number)."""
    found: Dict[int, Tuple[int, int]] = {}
    for text in filter(None, (part.strip() for part in position.split(","))):
        numbers = text.split("-")
        if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
            raise BadInput(f"{position!r} is not a MariaDB GTID position")
        domain, server, sequence = (int(number) for number in numbers)
        if sequence >= found.get(domain, (0, -1))[1]:
            found[domain] = (server, sequence)
    return found


def _last_of(history: str, domain: int, server: int) -> Optional[int]:
    """The number of that server's last write in it. `history`: SERVER:GTIDS, whose it is and the last of each."""
    found = [_domains(text)[domain] for text in history.partition(":")[2].split(",") if text.startswith(f"{domain}-")]
    return max((number for by, number in found if by == server), default=None)


def _union(one: str, other: str) -> str:
    """Per domain the later one."""
    found = _domains(f"{one},{other}")
    return ",".join(f"{domain}-{server}-{number}" for domain, (server, number) in sorted(found.items()))


def _executed(session: Session) -> str:
    row = session.rows("SELECT @@gtid_binlog_pos AS written, @@gtid_slave_pos AS applied")[0]
    return _union(str(row["written"] or ""), str(row["applied"] or ""))


def _replica(session: Session) -> Optional[Dict[str, Any]]:
    """Of the default channel; None when it follows nobody."""
    return next((row for row in session.rows("SHOW ALL SLAVES STATUS") if not row.get("Connection_name")), None)


def _semi_sync(session: Session) -> Dict[str, str]:
    prefix = len("Rpl_semi_sync_")
    return {row["Variable_name"][prefix:]: row["Value"] for row in session.rows(SEMI_SYNC)}


def _is_set_to(present: Dict[str, Any], source: Source) -> bool:
    return (
        present.get("Master_Host") == source.address
        and int(present.get("Master_Port") or 0) == source.port
        and present.get("Master_User") == source.user
        and present.get("Using_Gtid") == "Slave_Pos"
    )


def _acknowledge(session: Session, acknowledge: bool) -> None:
    """The receiver says at its connection whether it acknowledges: when that changes it connects anew. The applier
    goes on, so that what was received is kept."""
    enabled = _is_on(session.rows("SELECT @@rpl_semi_sync_slave_enabled AS enabled")[0]["enabled"])
    present = _replica(session) or {}
    does = _semi_sync(session).get("slave_status") == "ON"
    if enabled != acknowledge:
        session.run(f"SET GLOBAL rpl_semi_sync_slave_enabled = {'ON' if acknowledge else 'OFF'}")
    if present.get("Slave_IO_Running") == "Yes" and does != acknowledge:
        session.run("START SLAVE SQL_THREAD")
        session.run("STOP SLAVE IO_THREAD")


def _let_go(session: Session) -> None:
    """The primary's side off (T1): commits that wait are let go, so the clients they could be answered to go first,
    unless the server takes writes and is to go on with it."""
    row = session.rows("SELECT @@read_only AS read_only, @@rpl_semi_sync_master_enabled AS enabled")[0]
    if not _is_on(row["enabled"]):
        return
    if _is_on(row["read_only"]):
        _kill_clients(session)
    session.run("SET GLOBAL rpl_semi_sync_master_enabled = OFF")


def _processes(session: Session) -> List[Process]:
    own = int(session.rows("SELECT CONNECTION_ID() AS id")[0]["id"])
    return [each for each in processes_of(session.rows(PROCESSES)) if each.id != own]


def _kill_clients(session: Session) -> None:
    """Those without an acknowledgement last: their end lets those behind them be answered that still live."""
    for each in sorted(filter(_goes, _processes(session)), key=lambda each: each.state.startswith(UNACKNOWLEDGED)):
        _kill(session, each.id)


def _goes(each: Process) -> bool:
    """Of root's sessions, the agent's among them, only what makes `read_only` wait: a write without its
    acknowledgement."""
    if each.command in NO_CLIENTS:
        return False
    if each.user != "root":
        return each.user not in NOT_APPS
    return each.command in ("Query", "Execute") and (
        each.seconds >= LONG_SECONDS or each.state.startswith(UNACKNOWLEDGED)
    )


def _kill(session: Session, client: int) -> None:
    with contextlib.suppress(Failed):  # it has gone meanwhile
        session.run(f"KILL CONNECTION {client}")


def _error(replica: Dict[str, Any]) -> str:
    texts: List[str] = [str(replica.get(name) or "") for name in ("Last_SQL_Error", "Last_IO_Error")]
    return "; ".join(filter(None, texts))


def _lag(replica: Dict[str, Any]) -> Optional[float]:
    seconds = replica.get("Seconds_Behind_Master")
    return None if seconds is None else float(seconds)


def _arrived(replica: Dict[str, Any]) -> str:
    names = ("Slave_received_heartbeats", "Master_Log_File", "Read_Master_Log_Pos", "Gtid_IO_Pos")
    return " ".join(str(replica.get(name, "")) for name in names) if replica else ""


def _is_on(value: Any) -> bool:
    return str(value).upper() not in ("0", "OFF", "NONE", "")
