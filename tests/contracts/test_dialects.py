"""What a dialect promises, on real servers: one primary and two replicas of each MariaDB there is here.

MySQL's own suite is test_dialect_mysql.py: its servers need more around them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
from mariadb_lab import Authority, MariaDBServer, root_of, until, write_until_it_fails
from small_disk import small_disk

from relaunch.databases.dialect import ServerState
from relaunch.databases.mariadb import MariaDB
from relaunch_agent.database.session import LocalSession, Refusal

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
dialect = MariaDB()
CONFIGURE = Path(__file__).parents[2] / "templates/scripts/configure_mariadb.sh"


class Group:
    """Three servers with a session of the agent's for each; number 0 is the primary after `form`."""

    def __init__(self, servers: list[MariaDBServer]) -> None:
        self.servers = servers
        self.sessions = [server.session() for server in servers]

    def state(self, index: int) -> ServerState:
        return dialect.state(self.sessions[index])

    def follow(self, index: int, source: int = 0, *, acknowledge: bool = True) -> None:
        dialect.follow(self.sessions[index], self.servers[source].source, acknowledge=acknowledge)

    def form(self, *replicas: int, required: bool = True) -> None:
        dialect.promote(self.sessions[0], required=False)
        self.servers[0].make_accounts()
        for index in replicas:
            self.follow(index)
            until("it follows", lambda index=index: self.state(index).receiving)  # type: ignore[misc]
            assert dialect.wait_applied(self.sessions[index], self.state(0).executed, seconds=10)
        dialect.require(self.sessions[0], required)

    def begin_write(self, text: str, index: int = 0) -> Written:
        return Written(self.servers[index], text)

    def rows(self, index: int) -> list[str]:
        return [row["s"] for row in self.sessions[index].rows("SELECT s FROM t.a ORDER BY i")]


class Written:
    """An insert by a client, in a thread; `said` is "" until it was answered."""

    def __init__(self, server: MariaDBServer, text: str, *, begin: bool = True) -> None:
        self.said = ""
        self._client: Any = server.client()
        self._text = text
        self._thread = threading.Thread(target=self._write, daemon=True)
        if begin:
            self.begin()

    def begin(self) -> None:
        self._thread.start()

    def _write(self) -> None:
        try:
            with self._client.cursor() as cursor:
                cursor.execute("INSERT INTO a (s) VALUES (%s)", (self._text,))
            self.said = "ok"
        except pymysql.MySQLError as error:
            self.said = f"error {error.args[0]}"

    def end(self, seconds: float = 5.0) -> str:
        self._thread.join(seconds)
        return self.said


SUITES = {"10.11": "bookworm", "11.8": "trixie"}


@contextlib.contextmanager
def folder_of(version: str) -> Iterator[tuple[str, Path]]:
    """The root of a Debian with that MariaDB, and a folder in it."""
    root = root_of(SUITES[version])
    if root is None:
        pytest.skip(f"no MariaDB {version} here: that needs root and mmdebstrap")
    folder = Path(tempfile.mkdtemp(prefix="rldialect-", dir=f"{root}/var/tmp"))
    try:
        yield str(root), folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=SUITES)
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    with folder_of(request.param) as (root, folder):
        authority = Authority(folder / "ca")
        servers = [MariaDBServer(number, root, folder / str(number), authority) for number in (11, 12, 13)]
        try:
            for server in servers:
                server.install()
                server.start()
            yield Group(servers)
        finally:
            for server in servers:
                server.stop()


def parted(one: ServerState, other: ServerState) -> bool:
    return dialect.parted(one.executed, one.history, other.executed, other.history)


def test_it_says_that_it_has_no_connection_left(group: Group) -> None:
    group.form(required=False)
    assert not dialect.is_full(group.sessions[0])
    group.sessions[0].run("SET GLOBAL max_connections = 10")
    kept = []
    with pytest.raises(pymysql.MySQLError, match="Too many connections"):
        for _ in range(20):
            kept.append(group.servers[0].client())

    assert dialect.is_full(group.sessions[0])


def test_a_replica_that_wrote_itself_is_told_from_one_that_is_behind(group: Group) -> None:
    group.form(1, 2, required=False)
    assert group.begin_write("before").end() == "ok"
    for index in (1, 2):
        assert dialect.wait_applied(group.sessions[index], group.state(0).executed, seconds=5)
    group.sessions[2].run("STOP SLAVE")

    group.sessions[1].run("STOP SLAVE")
    group.sessions[1].run("INSERT INTO t.a (s) VALUES ('of its own')")  # root's, so `read_only` does not hinder it
    assert group.begin_write("after").end() == "ok"
    primary, wrote, behind = (group.state(index) for index in range(3))
    assert len(primary.executed) == len(wrote.executed) and primary.executed != wrote.executed

    assert parted(primary, wrote) and not parted(primary, behind)
    assert not dialect.covers(wrote.executed, primary.executed) and not dialect.covers(primary.executed, wrote.executed)
    assert group.begin_write("and on").end() == "ok"
    assert dialect.covers(group.state(0).executed, wrote.executed), "by their numbers alone they are not told apart"
    assert parted(group.state(0), wrote) and not parted(group.state(0), behind)


def test_a_server_says_what_it_is_and_every_verb_may_be_repeated(group: Group) -> None:
    group.form(1, 2)
    for _ in range(2):
        dialect.promote(group.sessions[0], required=True)
        group.follow(1)
        group.follow(2, acknowledge=False)
    until("one acknowledges", lambda: group.state(2).receiving)
    assert group.begin_write("one").end() == "ok"

    primary, one, two = (group.state(index) for index in range(3))

    assert (primary.read_only, primary.required, primary.source, primary.server_id) == (False, True, "", 11)
    assert group.servers[1].address in primary.acknowledgers and primary.waiting_commits == 0
    assert (one.read_only, one.receiving, one.applying, one.acknowledging, one.error) == (True, True, True, True, "")
    assert (two.acknowledging, two.source, two.delayed) == (False, group.servers[0].address, False)
    assert dialect.wait_applied(group.sessions[2], primary.executed, seconds=5)
    assert group.rows(2) == ["one"]
    assert not dialect.wait_applied(group.sessions[2], "7-11-999999", seconds=0.3)
    for _ in range(2):
        dialect.follow_nobody(group.sessions[2])
        dialect.fence(group.sessions[0])
        dialect.stop_receiving(group.sessions[1])
    assert group.state(2).source == "" and group.state(0).read_only and not group.state(1).receiving


def test_a_write_waits_without_end_and_goes_on_with_a_replica_or_when_let_go(group: Group) -> None:
    group.form(1)
    dialect.stop_receiving(group.sessions[1])
    write = group.begin_write("waits")
    until("it waits", lambda: group.state(0).waiting_commits == 1)
    time.sleep(1.0)
    assert write.said == "" and group.rows(0) == [], "not visible before it is acknowledged"

    group.follow(1)
    assert write.end() == "ok"

    dialect.stop_receiving(group.sessions[1])
    write = group.begin_write("let go")
    until("it waits", lambda: group.state(0).waiting_commits == 1)
    dialect.require(group.sessions[0], False)
    assert write.end() == "ok" and not group.state(0).required


@pytest.mark.parametrize("setting", ["timeout = 86400000", "wait_no_slave = OFF", "wait_point = AFTER_COMMIT"])
def test_what_somebody_has_set_is_mended_without_letting_go_of_what_waits(group: Group, setting: str) -> None:
    group.form(1)
    dialect.stop_receiving(group.sessions[1])
    write = group.begin_write("waits")
    until("it waits", lambda: group.state(0).waiting_commits == 1)

    group.sessions[0].run(f"SET GLOBAL rpl_semi_sync_master_{setting}")
    assert not group.state(0).required
    dialect.require(group.sessions[0], True)
    time.sleep(0.5)

    assert group.state(0).required or setting.startswith("wait_no_slave")  # that one lets go at once, by itself
    if not setting.startswith("wait_no_slave"):
        assert write.said == "" and group.state(0).waiting_commits == 1


def test_a_fence_is_quick_and_answers_no_commit_that_waits(group: Group) -> None:
    group.form(1)
    idle = group.servers[0].client()
    in_transaction = group.servers[0].client()
    in_transaction.cursor().execute("BEGIN")
    in_transaction.cursor().execute("INSERT INTO a (s) VALUES ('never committed')")
    dialect.stop_receiving(group.sessions[1])
    write = group.begin_write("never acknowledged")
    until("it waits", lambda: group.state(0).waiting_commits == 1)

    began = time.monotonic()
    dialect.fence(group.sessions[0])
    took = time.monotonic() - began

    assert took < 1.0
    assert write.end() == "error 2013"
    assert group.state(0).read_only
    for client in (idle, in_transaction):
        with pytest.raises(pymysql.err.OperationalError):
            client.cursor().execute("COMMIT")
    with pytest.raises(pymysql.err.OperationalError, match="read-only"):
        group.servers[0].client().cursor().execute("INSERT INTO a (s) VALUES ('refused')")


def test_a_fence_answers_nobody_of_a_group_of_commits_whoever_leads_it(group: Group) -> None:
    """Commits that wait behind another one are written together, and answered by the one of them that came first."""
    group.form(1)
    dialect.stop_receiving(group.sessions[1])
    writes = [Written(group.servers[0], f"unacknowledged {number}", begin=False) for number in range(12)]
    for write in reversed(writes):  # so that who leads is listed, and ended, before those behind
        write.begin()
        time.sleep(0.05)
    until("one waits", lambda: group.state(0).waiting_commits == 1)

    dialect.fence(group.sessions[0])

    assert [write.end() for write in writes] == ["error 2013"] * 12


def test_what_is_received_counts_before_it_is_applied(group: Group) -> None:
    group.form(1, 2)
    blocker = group.servers[1].session()
    blocker.run("LOCK TABLES t.a WRITE")
    assert group.begin_write("received").end() == "ok"
    executed = group.state(0).executed
    until("it is received", lambda: dialect.covers(group.state(1).received, executed))
    assert not dialect.covers(group.state(1).executed, executed)

    dialect.stop_receiving(group.sessions[1])
    assert dialect.covers(group.state(1).received, executed), "kept while it receives no more"
    blocker.run("UNLOCK TABLES")
    assert dialect.wait_applied(group.sessions[1], executed, seconds=5)


@pytest.mark.parametrize("trouble", ["killed", "frozen"])
def test_a_failover_loses_nothing_acknowledged(group: Group, trouble: str) -> None:
    """T1, T2, T5: the applier goes on, revoking takes a second at most, the old one cannot follow unnoticed."""
    group.form(1, 2)
    written = [group.begin_write(f"row {number}") for number in range(10)]
    assert [write.end() for write in written] == ["ok"] * 10
    if trouble == "killed":
        group.servers[0].kill()
    else:
        group.servers[0].signal(19)

    began = time.monotonic()
    for index in (1, 2):
        dialect.stop_receiving(group.sessions[index])
    revoked = time.monotonic() - began
    states = {index: group.state(index) for index in (1, 2)}
    best = 1 if dialect.covers(states[1].received, states[2].received) else 2
    assert dialect.wait_applied(group.sessions[best], states[best].received, seconds=5)
    dialect.promote(group.sessions[best], required=True)
    group.follow(3 - best, best)

    assert revoked < (0.5 if trouble == "killed" else 2.8)
    assert group.begin_write("after", best).end() == "ok"
    assert sorted(group.rows(best)) == sorted([f"row {number}" for number in range(10)] + ["after"])


def test_a_replica_stopped_by_an_error_leads_with_the_position_it_is_told_to_have(group: Group) -> None:
    group.form(1)
    assert group.begin_write("applied").end() == "ok"
    applied = group.state(0).executed
    assert dialect.wait_applied(group.sessions[1], applied, seconds=5)
    for statement in ("SET sql_log_bin = 0", "DELETE FROM t.a", "SET sql_log_bin = 1"):
        group.sessions[1].run(statement)
    group.sessions[0].run("UPDATE t.a SET s = 'it has no such row'")
    received = group.state(0).executed
    until("it is stopped by that", lambda: group.state(1).error != "" and not group.state(1).applying)
    group.servers[0].kill()
    for _ in range(3):
        dialect.stop_receiving(group.sessions[1])
    state = group.state(1)
    assert (state.executed, state.received, state.applying) == (applied, received, False)
    assert not dialect.wait_applied(group.sessions[1], received, seconds=0.3)

    assert dialect.wait_applied(group.sessions[1], applied, seconds=5)
    dialect.promote(group.sessions[1], required=False, position=applied)

    assert not group.state(1).read_only and group.state(1).source == ""
    assert group.begin_write("it leads", 1).end() == "ok"


def test_a_former_primary_follows_and_one_with_writes_of_its_own_says_so(group: Group) -> None:
    group.form(1)
    assert group.begin_write("before").end() == "ok"
    dialect.fence(group.sessions[0])
    position = group.state(0).executed
    assert dialect.wait_applied(group.sessions[1], position, seconds=5)
    dialect.promote(group.sessions[1], required=False)
    group.follow(0, 1)
    assert group.begin_write("after", 1).end() == "ok"
    until("it has it", lambda: group.rows(0) == ["before", "after"])
    assert group.state(0).read_only and not group.state(0).required

    dialect.follow_nobody(group.sessions[0])
    group.sessions[0].run("SET GLOBAL read_only = OFF")
    group.sessions[0].run("INSERT INTO t.a (s) VALUES ('of its own')")
    assert group.begin_write("elsewhere", 1).end() == "ok"
    assert group.begin_write("elsewhere", 1).end() == "ok"
    group.follow(0, 1)
    until("it says that it has too much", lambda: "GTID" in group.state(0).error.upper())

    def stands_still() -> bool:
        state = group.state(0)
        return not (state.receiving and state.applying)

    until("it goes on no more", stands_still)


def test_neither_side_is_on_after_a_restart(group: Group) -> None:
    group.form(1)
    for index in (0, 1):
        group.servers[index].kill()
        group.servers[index].start()
        group.sessions[index] = group.servers[index].session()

    primary, replica = group.state(0), group.state(1)

    assert (primary.read_only, primary.required) == (True, False)
    assert (replica.read_only, replica.receiving, replica.acknowledging) == (True, False, False)


def test_a_source_that_is_silent_is_noticed_and_one_that_speaks_arrives(group: Group) -> None:
    group.form(1, required=False)
    first = group.state(1).arrived
    until("a heartbeat arrives", lambda: group.state(1).arrived != first, seconds=3)
    group.servers[0].signal(19)
    time.sleep(0.3)
    silent = group.state(1).arrived
    time.sleep(1.5)
    assert group.state(1).arrived == silent
    until("it is not receiving any more", lambda: not group.state(1).receiving, seconds=8)


def test_a_certificate_of_somebody_else_is_not_followed(group: Group) -> None:
    group.form(1, required=False)
    other = Authority(group.servers[0].folder.parent / "other-ca")
    other.issue(group.servers[2].folder / "other", group.servers[2].address)
    source = group.servers[0].source
    wrong = type(source)(**{**source.__dict__, "ca": f"{group.servers[2].inside}/other/ca.crt"})
    dialect.follow(group.sessions[2], wrong, acknowledge=False)
    until("it says why", lambda: "TLS" in group.state(2).error or "SSL" in group.state(2).error)
    assert not group.state(2).receiving


def test_a_password_that_changed_is_taken_up(group: Group) -> None:
    group.form(1)
    group.sessions[0].run("ALTER USER replication@'%' IDENTIFIED BY 'another'")
    group.sessions[1].run("STOP SLAVE")
    group.follow(1)
    until("it is refused", lambda: "denied" in group.state(1).error, seconds=5)
    source = type(group.servers[0].source)(**{**group.servers[0].source.__dict__, "password": "another"})
    dialect.follow(group.sessions[1], source, acknowledge=True)
    until("it follows", lambda: group.state(1).receiving)


def test_the_agent_gets_in_when_all_connections_are_taken(group: Group) -> None:
    group.form(required=False)
    taken = []
    with pytest.raises(pymysql.err.OperationalError) as full:
        while True:
            taken.append(group.servers[0].client())
    assert full.value.args[0] == 1040
    session: LocalSession = group.servers[0].session()
    assert session.rows("SELECT 1 AS one") == [{"one": 1}]
    with pytest.raises(Refusal, match="1040"):
        group.servers[0].session()


def test_a_fenced_server_made_writable_by_hand_answers_no_write(group: Group) -> None:
    group.form(1)
    dialect.stop_receiving(group.sessions[1])
    dialect.fence(group.sessions[0])

    group.sessions[0].run("SET GLOBAL read_only = OFF")
    write = group.begin_write("by somebody who did not know")
    until("it waits", lambda: group.state(0).waiting_commits == 1)
    dialect.fence(group.sessions[0])

    assert write.end() == "error 2013"


@pytest.mark.parametrize("blocks", ["LOCK TABLES a READ", "SELECT * FROM a LOCK IN SHARE MODE"])
def test_what_the_applier_waits_for_is_ended_and_nobody_else(group: Group, blocks: str) -> None:
    group.form(1)
    assert group.begin_write("before").end() == "ok"
    assert dialect.wait_applied(group.sessions[1], group.state(0).executed, seconds=5.0)
    reader = group.servers[1].client()
    reader.begin()
    reader.cursor().execute("SELECT 1")
    dialect.free_applier(group.sessions[1])
    reader.cursor().execute("SELECT 1")

    reader.cursor().execute(blocks)
    group.sessions[0].run("UPDATE t.a SET s = 'behind a lock'")
    position = group.state(0).executed
    assert not dialect.wait_applied(group.sessions[1], position, seconds=1.0)
    dialect.free_applier(group.sessions[1])

    assert dialect.wait_applied(group.sessions[1], position, seconds=5.0)


def test_commits_whose_acknowledgement_was_lost_end_once_a_replica_has_them(group: Group) -> None:
    """A replica that received them before it acknowledged says nothing of them ever after."""
    group.form(1)
    dialect.stop_receiving(group.sessions[1])
    waiting = [group.begin_write(f"waits {number}") for number in range(4)]
    until("they wait", lambda: group.state(0).waiting_commits > 0)
    group.follow(1, acknowledge=False)
    position = group.state(0).executed
    until("it has all", lambda: dialect.covers(group.state(1).received, position))
    group.follow(1)
    until("it acknowledges", lambda: group.state(1).acknowledging and group.state(1).receiving)
    time.sleep(1.0)
    assert group.state(0).waiting_commits > 0, "else there is nothing to release"

    dialect.release(group.sessions[0], "0-1-1")
    assert group.state(0).waiting_commits > 0, "more is written than that"
    until("they end", lambda: _released(group, waiting), seconds=10)

    assert group.begin_write("the next").end() == "ok"
    there = group.rows(1)
    assert all(f"waits {number}" in there for number, write in enumerate(waiting) if write.said == "ok")


def _released(group: Group, waiting: list[Written]) -> bool:
    position = group.state(1).received
    dialect.release(group.sessions[0], position)
    return all(write.said for write in waiting)


@pytest.mark.parametrize("version", SUITES)
def test_with_a_full_disk_it_says_what_it_does_and_can_be_fenced(version: str) -> None:
    with folder_of(version) as (root, folder), small_disk(folder / "11", 120) as fill:
        server = MariaDBServer(11, root, folder / "11", Authority(folder / "ca"))
        server.settings = (f"--tmpdir={server.inside}",)
        try:
            server.install()
            server.start()
            session = server.session()
            dialect.promote(session, required=False)
            server.make_accounts()
            client = server.client()
            fill()
            writing = threading.Thread(target=write_until_it_fails, args=(client,), daemon=True)
            writing.start()
            until("a commit waits for room", lambda: any("free space" in state for state in doing(session)), seconds=30)
            with pytest.raises(Refusal, match="Disk got full"):
                session.rows("SELECT ID FROM information_schema.PROCESSLIST")
            assert not dialect.state(session).read_only

            began = time.monotonic()
            dialect.fence(session)
            assert dialect.state(session).read_only and time.monotonic() - began < 3
            writing.join(10)
            assert not writing.is_alive()
        finally:
            server.stop()


@pytest.mark.parametrize("version", SUITES)
def test_a_statement_cut_within_a_letter_hides_nobody_from_a_fence(version: str) -> None:
    """The list of processes has a statement's first 100 bytes, and a Cyrillic letter is two: one of these is cut."""
    with folder_of(version) as (root, folder):
        server = MariaDBServer(11, root, folder / "11", Authority(folder / "ca"))
        try:
            server.install()
            server.start()
            session = server.session()
            dialect.promote(session, required=False)
            server.make_accounts()
            for padding in ("", "."):
                slow = f"SELECT SLEEP(20) /* {padding}{'ПРИВЕТ' * 20} */"
                threading.Thread(target=_run_until_it_ends, args=(server.client(), slow), daemon=True).start()
            until("both sleep", lambda: session.rows(SLEEPING)[0]["n"] == 2)

            assert sorted(each.user for each in dialect.processes(session) if each.command == "Query") == ["app"] * 2
            dialect.fence(session)
            until("nobody sleeps", lambda: session.rows(SLEEPING)[0]["n"] == 0)

            assert session.rows("SELECT %s AS said, HEX(%s) AS bytes", "Я🙂", "Я🙂") == [
                {"said": "Я🙂", "bytes": "Я🙂".encode().hex().upper()}
            ]
        finally:
            server.stop()


SLEEPING = "SELECT COUNT(*) AS n FROM information_schema.PROCESSLIST WHERE STATE = 'User sleep'"


def _run_until_it_ends(client: Any, statement: str) -> None:
    with contextlib.suppress(pymysql.MySQLError):
        client.cursor().execute(statement)


def doing(session: LocalSession) -> list[str]:
    return [each.state for each in dialect.processes(session)]


@pytest.mark.parametrize("version", SUITES)
def test_a_server_that_nobody_follows_expires_its_binary_logs(version: str) -> None:
    """As every replica does: with the setting of the script that configures ours."""
    ours = re.findall(r"^\w*slave_connections_needed_for_purge = \w+$", CONFIGURE.read_text(), re.M)
    settings = (*("--" + line.replace(" ", "") for line in ours), "--binlog-expire-logs-seconds=1")
    with folder_of(version) as (root, folder):
        server = MariaDBServer(15, root, folder / "15", Authority(folder / "ca"), settings=settings)
        try:
            server.install()
            server.start()
            session = server.session()
            for _ in range(4):
                session.run("FLUSH BINARY LOGS")
            assert len(session.rows("SHOW BINARY LOGS")) >= 4
            time.sleep(2.5)
            session.run("FLUSH BINARY LOGS")

            assert len(session.rows("SHOW BINARY LOGS")) == 2  # the one just ended, and the one just begun
        finally:
            server.stop()
