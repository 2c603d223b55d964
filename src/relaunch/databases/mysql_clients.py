"""Other people's sessions on a MySQL server: those that could write, and those that its applier waits for.

Shipped in the agent: standard library only, Python 3.9.
"""

from __future__ import annotations

from typing import Any, Dict, List

from relaunch.databases.dialect import Process, Session, processes_of
from relaunch.errors import RelaunchError, Unavailable

WAITING_STATES = ("Waiting for semi-sync ACK from replica", "waiting for handler commit")
APPLIER_WAITS = (
    "SELECT THREAD_ID FROM performance_schema.threads"
    " WHERE NAME LIKE 'thread/sql/replica_%' AND PROCESSLIST_STATE LIKE 'Waiting for%lock%'"
)
OUR_WRITES = (
    "SELECT DISTINCT t.PROCESSLIST_ID AS id FROM performance_schema.metadata_locks h"
    " JOIN performance_schema.threads t ON t.THREAD_ID = h.OWNER_THREAD_ID"
    " JOIN performance_schema.events_statements_current s ON s.THREAD_ID = t.THREAD_ID"
    " WHERE h.OBJECT_TYPE = 'GLOBAL' AND h.LOCK_TYPE = 'INTENTION_EXCLUSIVE' AND h.LOCK_STATUS = 'GRANTED'"
    " AND t.TYPE = 'FOREGROUND' AND t.PROCESSLIST_ID <> CONNECTION_ID()"
    " AND t.NAME NOT LIKE 'thread/sql/replica_%%'"  # they bear the name of who started them: ours
    " AND t.PROCESSLIST_USER = SUBSTRING_INDEX(USER(), '@', 1)"
    " AND s.END_EVENT_ID IS NULL AND s.NESTING_EVENT_ID IS NULL AND s.TIMER_WAIT >= %s * 1e12"
)
APPLIER_WAITS_FOR = (
    "SELECT PROCESSLIST_ID AS id FROM performance_schema.threads WHERE THREAD_ID IN ("
    " SELECT h.OWNER_THREAD_ID FROM performance_schema.threads a"
    " JOIN performance_schema.metadata_locks w ON w.OWNER_THREAD_ID = a.THREAD_ID AND w.LOCK_STATUS = 'PENDING'"
    " JOIN performance_schema.metadata_locks h ON h.LOCK_STATUS = 'GRANTED' AND h.OBJECT_TYPE = w.OBJECT_TYPE"
    " AND h.OBJECT_SCHEMA <=> w.OBJECT_SCHEMA AND h.OBJECT_NAME <=> w.OBJECT_NAME"
    " WHERE a.NAME LIKE 'thread/sql/replica_%'"
    " UNION SELECT w.BLOCKING_THREAD_ID FROM performance_schema.data_lock_waits w"
    " JOIN performance_schema.threads a ON a.THREAD_ID = w.REQUESTING_THREAD_ID"
    " WHERE a.NAME LIKE 'thread/sql/replica_%')"
    " AND TYPE = 'FOREGROUND' AND PROCESSLIST_ID <> CONNECTION_ID() AND NAME NOT LIKE 'thread/sql/replica_%'"
    " AND PROCESSLIST_USER NOT IN ('event_scheduler', 'system user', 'replication', 'relaunch_probe')"
)
# Of information_schema it would make a file, for which there may be no room.
PROCESSES = "SELECT ID, USER, COMMAND, TIME, STATE FROM performance_schema.processlist WHERE ID <> CONNECTION_ID()"


def processes(session: Session) -> List[Process]:
    return processes_of(session.rows(PROCESSES))


def free_applier(session: Session) -> None:
    """When the applier waits for a lock, end the sessions that hold it, an administrator's too; the clients' when none
    is known to."""
    holders = session.rows(APPLIER_WAITS_FOR)
    for holder in holders:
        _kill(session, int(holder["id"]))
    if not holders and session.rows(APPLIER_WAITS):
        cut_clients(session)


def _clients(session: Session) -> List[Dict[str, Any]]:
    """Sessions that could write: all but replicas, probes, the server's own, and those of our own account (these only
    while they wait to be acknowledged). `seconds`: of the statement it runs."""
    states = ", ".join(["%s"] * len(WAITING_STATES))
    return session.rows(
        "SELECT PROCESSLIST_ID AS id, COALESCE(s.TIMER_WAIT, 0) / 1e12 AS seconds FROM performance_schema.threads t"
        " LEFT JOIN performance_schema.events_statements_current s ON s.THREAD_ID = t.THREAD_ID"
        " AND s.END_EVENT_ID IS NULL AND s.NESTING_EVENT_ID IS NULL"
        " WHERE t.TYPE = 'FOREGROUND' AND PROCESSLIST_ID <> CONNECTION_ID() AND PROCESSLIST_USER IS NOT NULL"
        " AND t.NAME NOT LIKE 'thread/sql/replica_%%'"
        " AND PROCESSLIST_COMMAND NOT IN ('Daemon', 'Binlog Dump', 'Binlog Dump GTID')"
        " AND PROCESSLIST_USER NOT IN ('event_scheduler', 'system user', 'replication', 'relaunch_probe')"
        f" AND (PROCESSLIST_USER <> SUBSTRING_INDEX(USER(), '@', 1) OR PROCESSLIST_STATE IN ({states}))",
        *WAITING_STATES,
    )


def cut_clients(session: Session, *, at_least_seconds: float = 0.0) -> None:
    """KILL closes the client's connection at once, so a commit that waits is never answered, even when it ends."""
    for client in _clients(session):
        if float(client["seconds"]) >= at_least_seconds:
            _kill(session, int(client["id"]))


def cut_our_writes(session: Session, *, at_least_seconds: float) -> None:
    """What an administrator writes for so long by our account."""
    for writing in session.rows(OUR_WRITES, at_least_seconds):
        _kill(session, int(writing["id"]))


def _kill(session: Session, client: int) -> None:
    try:
        session.run(f"KILL {client}")
    except Unavailable:
        raise
    except RelaunchError:  # it went by itself
        pass
