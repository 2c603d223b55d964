"""MySQL 8.4 and 9: sets of GTIDs, semi-synchronous replication by plugins, super_read_only.

Shipped in the agent: standard library only, Python 3.9. Every verb is bounded in time, given a session that is.
"""

from __future__ import annotations

import re
from time import monotonic, sleep
from typing import Any, Dict, Mapping, Optional, Sequence, Set

from relaunch.databases.dialect import Process, ServerState, Session, Source
from relaunch.databases.mysql_clients import WAITING_STATES, cut_clients, cut_our_writes, free_applier, processes
from relaunch.databases.mysql_gtids import gtid_set, text_of, union, without
from relaunch.errors import Conflict, Failed, RelaunchError, Unavailable

FOREVER_MS = 315360000000  # ten years: a commit waits for its acknowledgement without an end
RETRIES = 4294967295  # once a second for longer than any server lives; the default of 10 gives up
LONG_STATEMENT_SECONDS = 0.1  # one that runs longer does not end by itself in time for a fence
OUR_LONG_SECONDS = 1.0  # likewise, of our own account: the agent's own end by themselves
STOP_SECONDS = 5.0
REST_SECONDS = 1.0  # for what was received beyond the position that is to lead; for commits that are under way

SWITCHES = (
    *("rpl_semi_sync_replica_enabled", "rpl_semi_sync_source_enabled", "rpl_semi_sync_source_wait_no_replica"),
    *("offline_mode", "super_read_only"),
)
VARIABLES = (
    *SWITCHES,
    *("rpl_semi_sync_source_timeout", "rpl_semi_sync_source_wait_for_replica_count"),
    *("rpl_semi_sync_source_wait_point", "version", "server_id", "server_uuid", "gtid_executed"),
)
STATUS = (
    *("Rpl_semi_sync_replica_status", "Rpl_semi_sync_source_status", "Rpl_semi_sync_source_wait_sessions"),
    "Rpl_semi_sync_source_clients",
)
CONNECTIONS = "SHOW GLOBAL STATUS LIKE 'Threads_connected'"
FILTERS = (
    *("Replicate_Do_DB", "Replicate_Ignore_DB", "Replicate_Do_Table", "Replicate_Ignore_Table"),
    *("Replicate_Wild_Do_Table", "Replicate_Wild_Ignore_Table", "Replicate_Rewrite_DB", "Replicate_Ignore_Server_Ids"),
)
PROMPT_TAG = "relaunch_prompt"
# After its uuid in the history of one that takes writes: follows nobody; follows somebody by a channel with a name.
WRITES, WRITES_AND_FOLLOWS = "writes", "writes and follows"
REQUIRED = {
    "rpl_semi_sync_source_timeout": str(FOREVER_MS),
    "rpl_semi_sync_source_wait_for_replica_count": "1",
    "rpl_semi_sync_source_wait_no_replica": "ON",
    "rpl_semi_sync_source_wait_point": "AFTER_SYNC",
}


def _values(session: Session) -> Dict[str, str]:
    """By name, in small letters. A variable asked for by its name costs a tenth of its table, which serves where the
    plugins are not loaded."""
    try:
        row = session.rows("SELECT " + ", ".join(f"@@global.{name} AS {name}" for name in VARIABLES))[0]
        found = {name: str(value) for name, value in row.items()}
        found.update((name, "ON" if int(row[name]) else "OFF") for name in SWITCHES)
    except Unavailable:
        raise
    except RelaunchError:
        found = _from_table(session, "global_variables", VARIABLES)
    return {**found, **_from_table(session, "global_status", STATUS)}


def _from_table(session: Session, table: str, names: Sequence[str]) -> Dict[str, str]:
    statement = (
        f"SELECT VARIABLE_NAME AS name, VARIABLE_VALUE AS value FROM performance_schema.{table}"
        f" WHERE VARIABLE_NAME IN ({', '.join(['%s'] * len(names))})"
    )
    return {row["name"].lower(): row["value"] for row in session.rows(statement, *names)}


def _channels(session: Session) -> Dict[str, Dict[str, Any]]:
    """By name, those by which a server follows somebody; its primary by the unnamed one."""
    rows = session.rows("SHOW REPLICA STATUS")
    return {row.get("Channel_Name", ""): row for row in rows if row["Source_Host"]}


def _channel(session: Session) -> Optional[Dict[str, Any]]:
    """The row of the unnamed channel; None when it follows no primary."""
    return _channels(session).get("")


def _required(values: Mapping[str, str]) -> bool:
    return (
        values.get("rpl_semi_sync_source_enabled") == "ON"
        and values.get("rpl_semi_sync_source_status") == "ON"
        and all(values.get(name) == value for name, value in REQUIRED.items())
    )


def _waiting(values: Mapping[str, str]) -> bool:
    """MySQL counts only the leader of a group of commits; those behind it wait as well."""
    return int(values.get("rpl_semi_sync_source_wait_sessions", 0)) > 0


def _waiting_commits(session: Session, values: Mapping[str, str]) -> int:
    if not _waiting(values):
        return 0
    states = ", ".join(["%s"] * len(WAITING_STATES))
    count = (
        "SELECT COUNT(*) AS waiting FROM performance_schema.threads"
        " WHERE PROCESSLIST_ID IS NOT NULL AND PROCESSLIST_STATE IN"
    )
    return max(1, int(session.rows(f"{count} ({states})", *WAITING_STATES)[0]["waiting"]))


def _takes_no_writes(values: Mapping[str, str]) -> bool:
    """Read-only, or closed to clients: the latter needs no lock that a waiting commit holds."""
    return values["super_read_only"] == "ON" or values["offline_mode"] == "ON"


def _state(session: Session) -> ServerState:
    values, channels = _values(session), _channels(session)
    channel, executed = channels.get(""), "".join(values["gtid_executed"].split())
    read_only, uuid = _takes_no_writes(values), values["server_uuid"].lower()
    writes = WRITES_AND_FOLLOWS if channels else WRITES
    state = ServerState(
        version=values["version"],
        server_id=int(values["server_id"]),
        read_only=read_only,
        executed=executed,
        history=uuid if read_only or channel is not None else f"{uuid} {writes}",
        received=executed,
        required=_required(values),
        acknowledgers=_acknowledgers(session, values),
        waiting_commits=_waiting_commits(session, values),
    )
    if channel is None:
        return state
    lag = channel["Seconds_Behind_Source"]
    return ServerState(
        **{
            **vars(state),
            "received": union(executed, channel["Retrieved_Gtid_Set"]),
            "source": channel["Source_Host"],
            "receiving": channel["Replica_IO_Running"] == "Yes",
            "applying": channel["Replica_SQL_Running"] == "Yes",
            "error": channel["Last_IO_Error"] or channel["Last_SQL_Error"] or "",
            "lag_seconds": None if lag is None else float(lag),
            "delayed": int(channel["SQL_Delay"] or 0) > 0 or any(channel.get(name) for name in FILTERS),
            "acknowledging": _acknowledging(values, channel),
            "arrived": _arrived(session, channel),
        }
    )


def _arrived(session: Session, channel: Mapping[str, Any]) -> str:
    row = session.rows(
        "SELECT COUNT_RECEIVED_HEARTBEATS AS heartbeats FROM performance_schema.replication_connection_status"
        " WHERE CHANNEL_NAME = ''"
    )
    names = ("Source_Log_File", "Read_Source_Log_Pos", "Retrieved_Gtid_Set")
    return " ".join([str(row[0]["heartbeats"] if row else 0), *("".join(str(channel[name]).split()) for name in names)])


def _acknowledging(values: Mapping[str, str], channel: Mapping[str, Any]) -> bool:
    """A receiver that connects just now will acknowledge too, and one started with it goes on after it was set off."""
    said = "ON" in (values.get("rpl_semi_sync_replica_enabled"), values.get("rpl_semi_sync_replica_status"))
    return said and channel["Replica_IO_Running"] != "No"


def _acknowledgers(session: Session, values: Mapping[str, str]) -> Sequence[str]:
    """A replica that will acknowledge sets a variable in its session here; who is only connected does not."""
    if int(values.get("rpl_semi_sync_source_clients", 0)) == 0:
        return ()
    rows = session.rows(
        "SELECT DISTINCT t.PROCESSLIST_HOST AS address FROM performance_schema.user_variables_by_thread v"
        " JOIN performance_schema.threads t USING (THREAD_ID)"
        " WHERE v.VARIABLE_NAME = 'rpl_semi_sync_replica' AND v.VARIABLE_VALUE = '1'"
        " AND t.PROCESSLIST_COMMAND IN ('Binlog Dump', 'Binlog Dump GTID')"
    )
    return tuple(sorted(row["address"] for row in rows))


def _short_waits(session: Session) -> None:
    session.run("SET SESSION lock_wait_timeout = 1")
    session.run("SET GLOBAL rpl_stop_replica_timeout = 2")


def _stop(session: Session, thread: str, column: str) -> None:
    """Stop one thread of the channel (IO_THREAD or SQL_THREAD), within `STOP_SECONDS`."""
    end = monotonic() + STOP_SECONDS
    failure: Optional[RelaunchError] = None
    while True:
        channel = _channel(session)
        if channel is None or channel[column] == "No":
            return
        if monotonic() > end:
            raise Unavailable(
                f"the replica's {thread} does not stop; it is asked to: {failure or channel[column]}",
                hint="ask again, or stop the server",
            )
        try:
            session.run(f"STOP REPLICA {thread} FOR CHANNEL ''")
        except Unavailable:
            raise
        except RelaunchError as error:  # not within rpl_stop_replica_timeout: it goes on stopping
            failure = error


def _apply(session: Session) -> None:
    """A server that restarted starts nothing by itself: what it received before is applied from here on."""
    channel = _channel(session)
    if channel is not None and channel["Replica_SQL_Running"] == "No":
        session.run("START REPLICA SQL_THREAD FOR CHANNEL ''")


def _take_no_writes(session: Session) -> None:
    """super_read_only waits for commits under way. Those that wait for an acknowledgement may do so for ever: then
    the server is closed to all clients instead, replicas included, until the next role is taken."""
    values = _values(session)
    if values["super_read_only"] == "ON":  # and so what its clients do are long reads, or a clone of it: left alone
        return
    cut_clients(session, at_least_seconds=LONG_STATEMENT_SECONDS)
    cut_our_writes(session, at_least_seconds=OUR_LONG_SECONDS)
    stuck = _waiting(values) and (int(values["rpl_semi_sync_source_clients"]) == 0 or values["offline_mode"] == "ON")
    if not stuck:
        try:
            session.run("SET GLOBAL super_read_only = ON")
            return
        except Unavailable:
            raise
        except RelaunchError:  # not within lock_wait_timeout
            pass
    if values["offline_mode"] != "ON":
        session.run("SET GLOBAL offline_mode = ON")


def _give_up_primary_side(session: Session) -> None:
    """After `_take_no_writes`. Commits that wait end here, their clients' connections closed before: nobody hears of
    them, and `executed` then says that they exist."""
    values = _values(session)
    if _waiting(values):
        cut_clients(session)
    if values.get("rpl_semi_sync_source_enabled") == "ON":
        session.run("SET GLOBAL rpl_semi_sync_source_enabled = OFF")
    if values["super_read_only"] != "ON":
        session.run("SET GLOBAL super_read_only = ON")


def _not_applied(session: Session, position: str) -> str:
    """What is still to be applied before the relay log may go: all of it; where the applier is stopped by an error,
    `position`, when there is one. The receiver has stopped."""
    end = monotonic() + REST_SECONDS
    while True:
        channel = _channel(session)
        executed = session.rows("SELECT @@global.gtid_executed AS executed")[0]["executed"]
        rest = "" if channel is None else without(channel["Retrieved_Gtid_Set"], executed)
        missing = without(position, executed)
        if missing or not rest or not position:
            return union(missing, rest)
        if channel is not None and channel["Replica_SQL_Running"] == "No" and channel["Last_SQL_Error"]:
            return ""
        if monotonic() > end:
            return rest
        sleep(0.05)


def _forget_source(session: Session) -> None:
    """After `_stop_following`, and last: it brings several files to the disk, which no write should wait for."""
    if _channel(session) is not None:
        session.run("RESET REPLICA ALL FOR CHANNEL ''")


class MySQL:
    """The `Dialect` of MySQL, for a server set up as decisions/0009-mysql.md says."""

    name = "mysql"
    program = "mysqld"

    def covers(self, position: str, other: str) -> bool:
        return without(other, position) == ""

    def parted(self, executed: str, history: str, other: str, other_history: str) -> bool:
        """By what the other one has and the leader lacks, without our prompts. A leader that takes writes and follows
        nobody can get no more of what others wrote; of any other leader only that counts which the other one wrote
        itself. One that takes no writes may have started again and lack what the other wrote when it led: then only if
        it has something that the other lacks, too."""
        leader, _, does = history.partition(" ")
        follower = other_history.partition(" ")[0]
        if "" in (leader, follower) or leader == follower:
            return False
        writers = {uuid for uuid, tag in gtid_set(without(other, executed)) if tag != PROMPT_TAG}
        if does == WRITES:
            return bool(writers - {leader})
        return follower in writers and (does == WRITES_AND_FOLLOWS or not self.covers(other, executed))

    def state(self, session: Session) -> ServerState:
        return _state(session)

    def processes(self, session: Session) -> Sequence[Process]:
        return processes(session)

    def is_full(self, session: Session) -> bool:
        most = session.rows("SELECT @@max_connections AS most")[0]["most"]
        return int(session.rows(CONNECTIONS)[0]["Value"]) >= int(most)

    def stop_receiving(self, session: Session) -> None:
        _short_waits(session)
        if not session.rows("SELECT @@super_read_only OR @@offline_mode AS closed")[0]["closed"]:
            _take_no_writes(session)
        _stop(session, "IO_THREAD", "Replica_IO_Running")
        _apply(session)

    def follow(self, session: Session, source: Source, *, acknowledge: bool) -> None:
        _short_waits(session)
        _take_no_writes(session)
        _give_up_primary_side(session)
        values, channel = _values(session), _channel(session)
        if acknowledge and "rpl_semi_sync_replica_enabled" not in values:
            raise Conflict("the plugin semisync_replica is not loaded", hint="plugin_load_add = semisync_replica.so")
        same_source = channel is not None and _is_set_to(session, channel, source)
        if not same_source or not _acknowledges_as(values, channel, acknowledge):
            _stop(session, "IO_THREAD", "Replica_IO_Running")
            session.run(f"SET GLOBAL rpl_semi_sync_replica_enabled = {'ON' if acknowledge else 'OFF'}")
        if not same_source:
            self._change_source(session, source, first=channel is None or str(channel["Auto_Position"]) != "1")
        channel = _channel(session)
        if channel is None or "No" in (channel["Replica_IO_Running"], channel["Replica_SQL_Running"]):
            session.run("START REPLICA FOR CHANNEL ''")
        if values["offline_mode"] == "ON":
            session.run("SET GLOBAL offline_mode = OFF")

    def _change_source(self, session: Session, source: Source, *, first: bool) -> None:
        """The applier is left running: stopped as well, the server would throw its relay log away, and with it what
        only it has received."""
        if first:
            _stop(session, "SQL_THREAD", "Replica_SQL_Running")
        session.run(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = %s, SOURCE_PORT = %s, SOURCE_USER = %s, SOURCE_PASSWORD = %s,"
            " SOURCE_SSL = 1, SOURCE_SSL_CA = %s, SOURCE_SSL_VERIFY_SERVER_CERT = 1, SOURCE_CONNECT_RETRY = 1,"
            f" SOURCE_RETRY_COUNT = {RETRIES}, SOURCE_HEARTBEAT_PERIOD = 1"
            f"{', SOURCE_AUTO_POSITION = 1' if first else ''} FOR CHANNEL ''",
            *(source.address, source.port, source.user, source.password, source.ca),
        )

    def wait_applied(self, session: Session, position: str, *, seconds: float) -> bool:
        position = text_of(gtid_set(position))
        _apply(session)
        end = monotonic() + seconds
        while True:
            left = end - monotonic()
            if left <= 0:  # for MySQL a time of 0 has no end
                return bool(session.rows("SELECT GTID_SUBSET(%s, @@global.gtid_executed) AS done", position)[0]["done"])
            slice_seconds = min(left, 1.0)
            row = session.rows("SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s) AS late", position, slice_seconds)[0]
            if row["late"] == 0:
                return True

    def promote(self, session: Session, *, required: bool, position: str = "") -> None:
        _short_waits(session)
        self._stop_following(session, position=position)
        self.require(session, required)
        session.run("SET GLOBAL super_read_only = OFF")
        session.run("SET GLOBAL read_only = OFF")
        session.run("SET GLOBAL offline_mode = OFF")
        _forget_source(session)

    def require(self, session: Session, required: bool) -> None:
        values = _values(session)
        if "rpl_semi_sync_source_enabled" not in values:
            raise Conflict("the plugin semisync_source is not loaded", hint="plugin_load_add = semisync_source.so")
        if not required:
            session.run("SET GLOBAL rpl_semi_sync_source_enabled = OFF")
            return
        if _required(values):
            return
        for name, value in REQUIRED.items():
            session.run(f"SET GLOBAL {name} = {value}")
        session.run("SET GLOBAL rpl_semi_sync_source_enabled = ON")
        if not _required(_values(session)):
            raise Failed("MySQL does not wait for acknowledgements although it was told to", hint=str(_values(session)))
        if not _takes_no_writes(values):
            _let_commits_end(session)

    def prompt(self, session: Session) -> None:
        """Write an empty transaction, on a session of its own, as this waits to be acknowledged like any other.

        A replica that connects again acknowledges nothing that it has already: a commit whose acknowledgement was
        lost on the way would wait until the next one, and with every client waiting there is none.
        """
        row = session.rows(
            "SELECT @@server_uuid AS uuid, @@global.gtid_executed AS done, @@global.gtid_owned AS owned"
        )[0]
        key = (str(row["uuid"]).lower(), PROMPT_TAG)
        last = max((end for _, end in gtid_set(row["done"]).get(key, [])), default=0)
        owned = re.findall(rf"{PROMPT_TAG}:(\d+)", str(row["owned"]))
        session.run("SET SESSION gtid_next = %s", f"{key[0]}:{PROMPT_TAG}:{max([last, *map(int, owned)]) + 1}")
        try:
            session.run("BEGIN")
            session.run("COMMIT")
        finally:
            session.run("SET SESSION gtid_next = AUTOMATIC")

    def free_applier(self, session: Session) -> None:
        free_applier(session)

    def release(self, session: Session, position: str) -> None:
        """Nothing: `prompt` brings the acknowledgement."""

    def fence(self, session: Session) -> None:
        _short_waits(session)
        _take_no_writes(session)
        cut_clients(session)
        if _channel(session) is None:  # else its applier would wait too
            self.require(session, True)

    def follow_nobody(self, session: Session) -> None:
        _short_waits(session)
        _take_no_writes(session)
        self._stop_following(session, keep_received=False)
        _forget_source(session)

    def _stop_following(self, session: Session, *, keep_received: bool = True, position: str = "") -> None:
        """For good: the relay log will be thrown away, never while something in it is not applied and could be."""
        _stop(session, "IO_THREAD", "Replica_IO_Running")
        missing = _not_applied(session, position) if keep_received else ""
        if missing:
            raise Conflict(
                f"received and not applied yet: {missing}",
                hint="wait until it is applied; nothing was changed but that this server receives nothing more",
            )
        _stop(session, "SQL_THREAD", "Replica_SQL_Running")
        if _values(session).get("rpl_semi_sync_replica_enabled") == "ON":
            session.run("SET GLOBAL rpl_semi_sync_replica_enabled = OFF")


def _let_commits_end(session: Session) -> None:
    """Those under way when waiting was switched on may not wait: they are in `executed` once that is confirmed."""
    under_way, end = _owned(session), monotonic() + REST_SECONDS
    while under_way & _owned(session) and monotonic() < end:
        sleep(0.01)


def _owned(session: Session) -> Set[str]:
    """The numbers of what is being committed: `uuid:8#17uuid:tag:9#21:7#19`, each with its session."""
    return set(re.findall(r":(\d+)#", str(session.rows("SELECT @@global.gtid_owned AS owned")[0]["owned"])))


def _is_set_to(session: Session, channel: Mapping[str, Any], source: Source) -> bool:
    passwords = session.rows("SELECT User_password AS password FROM mysql.slave_master_info WHERE Channel_name = ''")
    return (
        (channel["Source_Host"], int(channel["Source_Port"])) == (source.address, source.port)
        and (channel["Source_User"], channel["Source_SSL_CA_File"]) == (source.user, source.ca)
        and (channel["Source_SSL_Verify_Server_Cert"], str(channel["Auto_Position"])) == ("Yes", "1")
        and [row["password"] for row in passwords] == [source.password]
    )


def _acknowledges_as(values: Mapping[str, str], channel: Optional[Mapping[str, Any]], acknowledge: bool) -> bool:
    """A receiver says it once, when it connects."""
    enabled = values.get("rpl_semi_sync_replica_enabled") == "ON"
    connected = channel is not None and channel["Replica_IO_Running"] == "Yes"
    says = values.get("rpl_semi_sync_replica_status") == "ON"
    return enabled == acknowledge and (not connected or says == acknowledge)
