"""What the dialect of MySQL promises, on one primary and two replicas of real servers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mysql_lab import MySQLLab, Server, TestSession, mysql_lab, until

from relaunch.databases.dialect import Dialect, ServerState
from relaunch.databases.mysql import PROMPT_TAG, WRITES, WRITES_AND_FOLLOWS, MySQL
from relaunch.errors import Conflict, Failed, RelaunchError, Unavailable

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
INSERT = "INSERT INTO shop.orders (what) VALUES (%s)"
SCRIPTS = Path(__file__).parents[2] / "templates/scripts"
REFUSE = "refuse_rows_of_other_engines"
CLIENT = """#!{python}
import sys
import pymysql
from pymysql.constants import CLIENT
with pymysql.connect(host="{address}", user="agent", password="agent", ssl_ca="{ca}",
                     client_flag=CLIENT.MULTI_STATEMENTS).cursor() as cursor:
    cursor.execute(sys.stdin.read())
    while True:
        for row in cursor.fetchall():
            print(*row, sep="\\t")
        if not cursor.nextset():
            break
"""


class Group:
    """Three servers, a session of the agent's with each, and the client's writes in threads."""

    def __init__(self, servers: list[Server], dialect: Dialect, threads: ThreadPoolExecutor) -> None:
        self.servers, self.dialect, self.threads = servers, dialect, threads
        self.sessions = [server.session() for server in servers]

    def state(self, index: int) -> ServerState:
        return self.dialect.state(self.sessions[index])

    def follow(self, index: int, source: int = 0, *, acknowledge: bool = True) -> None:
        self.dialect.follow(self.sessions[index], self.servers[source].source, acknowledge=acknowledge)

    def promote(self, index: int, *, required: bool = True, position: str = "") -> None:
        self.dialect.promote(self.sessions[index], required=required, position=position)

    def fence(self, index: int) -> None:
        self.dialect.fence(self.sessions[index])

    def reopen(self, index: int) -> None:
        self.sessions[index] = self.servers[index].session()

    def write(self, index: int, what: str, *, user: str = "app") -> Future[None]:
        session = self.servers[index].session(user)
        return self.threads.submit(session.run, INSERT, what)

    def written(self, index: int) -> set[str]:
        return {row["what"] for row in self.sessions[index].rows("SELECT what FROM shop.orders")}

    def in_step(self, *replicas: int, primary: int = 0) -> None:
        """The primary requires acknowledgements and these replicas give them."""
        self.promote(primary)
        for index in replicas:
            self.follow(index, primary)
        addresses = sorted(self.servers[index].address for index in replicas)
        until("replicas acknowledge", lambda: sorted(self.state(primary).acknowledgers) == addresses)

    def waits(self, index: int, commits: int = 1) -> None:
        until(f"{commits} commits wait", lambda: self.state(index).waiting_commits == commits)


@pytest.fixture(scope="module")
def lab() -> Iterator[MySQLLab]:
    with mysql_lab() as lab:
        yield lab


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


@pytest.fixture
def group(lab: MySQLLab, threads: ThreadPoolExecutor) -> Iterator[Group]:
    group = Group(lab.fresh(), MySQL(), threads)
    yield group
    for server in group.servers:
        if server.process is not None:
            server.thaw()
        server.close_sessions()


def still_waits(write: Future[None], seconds: float = 0.5) -> bool:
    return not wait_for([write], timeout=seconds).done


def never_answered(write: Future[None], seconds: float = 5.0) -> bool:
    """The client lost its connection: it cannot know, and was not told that all is well."""
    with pytest.raises(Unavailable):
        write.result(timeout=seconds)
    return True


def took(act: Callable[[], Any]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def test_a_server_says_what_it_is(group: Group) -> None:
    state = group.state(0)

    assert state.version.startswith(("8.", "9."))
    assert (state.server_id, state.read_only, state.source) == (1, True, "")
    assert (state.executed, state.received, state.required, state.acknowledgers) == ("", "", False, ())


def test_it_says_that_it_has_no_connection_left(group: Group) -> None:
    group.in_step(1)
    assert not group.dialect.is_full(group.sessions[0])
    group.sessions[0].run("SET GLOBAL max_connections = 10")
    kept = []
    with pytest.raises(Unavailable, match="Too many connections"):
        for _ in range(20):
            kept.append(group.servers[0].session("app"))

    assert group.dialect.is_full(group.sessions[0])
    group.sessions[0].run("SET GLOBAL max_connections = 151")


def test_writes_reach_the_replicas_and_every_verb_may_be_repeated(group: Group) -> None:
    for _ in range(2):
        group.promote(0)
        group.follow(1)
        group.follow(2)
    until("both acknowledge", lambda: len(group.state(0).acknowledgers) == 2)

    group.write(0, "one").result(timeout=10)
    position = group.state(0).executed

    for index in (1, 2):
        assert group.dialect.wait_applied(group.sessions[index], position, seconds=5)
        state = group.state(index)
        assert state.executed == state.received == position
        assert state.read_only and state.receiving and state.applying and state.acknowledging
        assert (state.source, state.error, state.delayed) == (group.servers[0].address, "", False)
        assert state.lag_seconds is not None and state.lag_seconds < 5
        assert group.written(index) == {"one"}
    primary = group.state(0)
    assert not primary.read_only and primary.required and primary.source == ""


def test_following_again_keeps_the_connection_there_is(group: Group) -> None:
    group.in_step(1)
    dump = "SELECT PROCESSLIST_ID AS id FROM performance_schema.threads WHERE PROCESSLIST_COMMAND LIKE 'Binlog Dump%'"
    before = group.sessions[0].rows(dump)

    group.follow(1)

    assert group.sessions[0].rows(dump) == before


def test_a_required_write_waits_for_a_replica_that_acknowledges(group: Group) -> None:
    group.promote(0)
    group.follow(2, acknowledge=False)
    until("a replica receives", lambda: group.state(2).receiving)
    write = group.write(0, "patient")

    group.waits(0)
    until("it was received", lambda: group.state(2).received != "")
    assert still_waits(write)
    assert group.state(0).acknowledgers == () and not group.state(2).acknowledging

    group.follow(1, acknowledge=True)
    write.result(timeout=5)
    assert group.state(0).acknowledgers == (group.servers[1].address,)


def test_acknowledging_is_switched_on_and_off_while_following(group: Group) -> None:
    group.in_step(1)

    group.follow(1, acknowledge=False)
    assert not group.state(1).acknowledging
    write = group.write(0, "patient")
    assert still_waits(write)

    group.follow(1, acknowledge=True)
    group.write(0, "next").result(timeout=5)
    write.result(timeout=5)


def test_a_commit_whose_acknowledgement_was_lost_is_acknowledged_after_a_prompt(group: Group) -> None:
    group.in_step(1)
    group.follow(1, acknowledge=False)
    writes = [group.write(0, f"received {number}") for number in range(3)]
    group.waits(0, 3)
    until("they were received", lambda: len(group.written(1)) == 3)
    group.follow(1, acknowledge=True)
    until("it acknowledges", lambda: group.state(0).acknowledgers != ())
    assert still_waits(writes[0])

    prompting = [group.threads.submit(MySQL().prompt, group.servers[0].session()) for _ in range(2)]

    for each in (*writes, *prompting):
        each.result(timeout=5)
    assert group.state(0).waiting_commits == 0


def test_with_one_of_two_replicas_gone_writes_go_on_with_both_gone_they_wait(group: Group) -> None:
    group.in_step(1, 2)
    group.servers[1].kill()
    group.write(0, "one is enough").result(timeout=5)

    group.servers[2].kill()
    write = group.write(0, "none is not")
    group.waits(0)
    assert still_waits(write)

    for _ in range(2):
        group.dialect.require(group.sessions[0], False)
    write.result(timeout=5)
    assert not group.state(0).required
    group.write(0, "and so it goes on").result(timeout=5)

    for _ in range(2):
        group.dialect.require(group.sessions[0], True)
    assert group.state(0).required
    assert still_waits(group.write(0, "waits again"))


def test_waiting_is_confirmed_once_commits_have_ended_that_do_not_wait(group: Group) -> None:
    group.in_step(1)
    group.dialect.require(group.sessions[0], False)
    group.dialect.stop_receiving(group.sessions[1])
    group.sessions[0].run("SET GLOBAL binlog_group_commit_sync_delay = 500000")
    try:
        write = group.write(0, "written before")
        until("it is written", lambda: group.sessions[0].rows("SELECT @@global.gtid_owned AS owned")[0]["owned"] != "")
        group.dialect.require(group.sessions[0], True)
        confirmed = group.state(0)
        write.result(timeout=5)
    finally:
        group.sessions[0].run("SET GLOBAL binlog_group_commit_sync_delay = 0")

    assert confirmed.required and confirmed.executed == group.state(0).executed


@pytest.mark.parametrize("trouble", ["none", "frozen", "cut off", "cut off, then asked to connect", "dead"])
def test_stop_receiving_takes_no_longer_than_its_bound_and_ends_acknowledgements(group: Group, trouble: str) -> None:
    group.in_step(1, 2)
    group.dialect.stop_receiving(group.sessions[2])
    primary = group.servers[0]
    if trouble == "frozen":
        primary.freeze()
    elif trouble.startswith("cut off"):
        primary.cut()
    elif trouble == "dead":
        primary.kill()
    if trouble.endswith("connect"):
        group.sessions[1].run("STOP REPLICA IO_THREAD")
        group.sessions[1].run("START REPLICA IO_THREAD")
        time.sleep(0.5)

    seconds = took(lambda: group.dialect.stop_receiving(group.sessions[1]))

    assert seconds < 3
    for _ in range(2):
        group.dialect.stop_receiving(group.sessions[1])
        state = group.state(1)
        assert not state.receiving and not state.acknowledging and state.applying
    if trouble not in ("dead",):
        primary.mend()
        primary.thaw()
        write = group.write(0, "not acknowledged")
        assert still_waits(write, 1.0)


def test_who_is_to_receive_nothing_more_takes_no_writes_either(group: Group) -> None:
    """Somebody had opened it by hand: a failover waits until nobody takes any."""
    group.in_step(1)
    for name in ("super_read_only", "read_only"):
        group.sessions[1].run(f"SET GLOBAL {name} = OFF")
    assert not group.state(1).read_only

    for _ in range(2):
        group.dialect.stop_receiving(group.sessions[1])

    state = group.state(1)
    assert state.read_only and state.applying and not state.receiving and not state.acknowledging


def test_fence_cuts_clients_and_refuses_writes_but_lets_replicas_fetch(group: Group) -> None:
    group.in_step(1, 2)
    group.write(0, "one").result(timeout=5)
    idle = group.servers[0].session("app")
    in_transaction = group.servers[0].session("app")
    in_transaction.run("START TRANSACTION")
    in_transaction.run(INSERT, "never committed")
    sleeping = group.threads.submit(group.servers[0].session("app").rows, "SELECT SLEEP(20)")
    until("it sleeps", lambda: len(group.sessions[0].rows("SHOW PROCESSLIST")) >= 6)

    assert took(lambda: group.fence(0)) < 1.5
    group.fence(0)

    assert group.state(0).read_only
    for session in (idle, in_transaction):
        with pytest.raises(Unavailable):
            session.rows("SELECT 1")
    with pytest.raises(Unavailable):
        sleeping.result(timeout=5)
    with pytest.raises(RelaunchError, match="read-only"):
        group.servers[0].session("app").run(INSERT, "refused")
    assert len(group.state(0).acknowledgers) == 2
    assert group.written(0) == {"one"}


def test_fence_is_bounded_behind_locks_and_long_statements(group: Group) -> None:
    group.promote(0, required=False)
    app = group.servers[0].session("app")
    app.run("LOCK TABLES shop.orders WRITE")
    other = group.threads.submit(group.servers[0].session("app").run, INSERT, "waits for the table")
    long_write = "INSERT INTO shop.orders (what) SELECT SLEEP(20)"
    long = group.threads.submit(group.servers[0].session("app").run, long_write)
    backup = group.servers[0].session("agent")
    backup.run("LOCK INSTANCE FOR BACKUP")
    time.sleep(0.3)

    assert took(lambda: group.fence(0)) < 3

    assert group.state(0).read_only
    for write in (other, long):
        with pytest.raises(RelaunchError):
            write.result(timeout=5)
    assert group.written(0) == set()


@pytest.mark.parametrize("required", [True, False], ids=["strict", "not acknowledged"])
def test_fence_ends_what_an_administrator_writes_for_long(group: Group, required: bool) -> None:
    group.in_step(1)
    group.promote(0, required=required)
    root = group.servers[0].session("agent")
    write = group.threads.submit(root.run, "INSERT INTO shop.orders (what) SELECT CONCAT(SLEEP(3), 'long')")
    time.sleep(1.2)

    assert took(lambda: group.fence(0)) < 3

    assert group.state(0).read_only
    with pytest.raises(RelaunchError):
        write.result(timeout=10)
    assert group.written(0) == group.written(1) == set()


def test_fence_holds_commits_that_wait_and_never_answers_them(group: Group) -> None:
    group.in_step(1)
    group.servers[1].kill()
    writes = [group.write(0, f"trapped {number}") for number in range(3)]
    group.waits(0, 3)

    assert took(lambda: group.fence(0)) < 3
    group.fence(0)

    assert all(never_answered(write) for write in writes)
    state = group.state(0)
    assert state.read_only and state.required and state.waiting_commits == 3
    with pytest.raises(RelaunchError):
        group.servers[0].session("app").run(INSERT, "refused")


@pytest.mark.parametrize("replica", ["gone", "frozen"])
def test_a_server_that_is_stopped_answers_no_commit_that_waits(group: Group, replica: str) -> None:
    """As its unit does it: by the command of its own, then by a signal."""
    group.in_step(1)
    if replica == "gone":
        group.dialect.stop_receiving(group.sessions[1])
    else:
        group.servers[1].freeze()
    writes = [group.write(0, f"nobody has it {number}") for number in range(3)]
    group.waits(0, 3)

    for statement in re.findall(r'^ExecStop=.* -e "(.*)"$', (SCRIPTS / "install_mysql.sh").read_text(), re.M):
        group.sessions[0].run(statement)
    group.servers[0].signal(signal.SIGTERM)

    assert all(never_answered(write, 20) for write in writes)


def test_a_fence_while_the_replica_is_only_slow_ends_read_only(group: Group) -> None:
    group.in_step(1)
    group.servers[1].freeze()
    write = group.write(0, "late")
    group.waits(0)

    group.fence(0)
    assert group.state(0).read_only
    group.servers[1].thaw()

    assert never_answered(write)
    group.promote(0)
    until("the replica is back", lambda: group.state(0).acknowledgers != ())
    group.threads.submit(MySQL().prompt, group.servers[0].session()).result(timeout=5)
    until("nobody waits any more", lambda: group.state(0).waiting_commits == 0)
    group.write(0, "next").result(timeout=5)
    assert group.written(0) == {"late", "next"}


@pytest.mark.parametrize("fenced", [True, False])
def test_a_former_primary_with_waiting_commits_follows_and_says_what_it_has_too_many(
    group: Group, fenced: bool
) -> None:
    group.in_step(1, 2)
    group.write(0, "acknowledged").result(timeout=5)
    for index in (1, 2):
        group.dialect.stop_receiving(group.sessions[index])
    writes = [group.write(0, "nobody has it"), group.write(0, "not even the agent's", user="agent")]
    group.waits(0, 2)
    if fenced:
        group.fence(0)
    group.promote(1, required=False)

    for _ in range(2):
        group.follow(0, 1)

    assert all(never_answered(write) for write in writes)
    state = group.state(0)
    assert state.read_only and not state.required and state.waiting_commits == 0
    assert state.source == group.servers[1].address
    assert not group.dialect.covers(group.state(1).executed, state.executed)


@pytest.mark.parametrize(
    ("account", "blocks"),
    [
        ("app", "LOCK TABLES shop.orders READ"),
        ("app", "SELECT * FROM shop.orders FOR SHARE"),
        ("agent", "LOCK TABLES shop.orders READ"),
        ("agent", "FLUSH TABLES WITH READ LOCK"),
        ("agent", "FLUSH TABLES shop.orders WITH READ LOCK"),
    ],
)
def test_what_the_applier_waits_for_is_ended_and_nobody_else(group: Group, account: str, blocks: str) -> None:
    """Also what an administrator's session holds that does nothing more."""
    group.in_step(1, 2)
    group.write(0, "before").result(timeout=5)
    until("applied", lambda: group.written(1) == {"before"})
    reader, blocking = group.servers[1].session("app"), group.servers[1].session(account)
    if "FOR" in blocks:
        blocking.run("BEGIN")
    blocking.run(blocks)
    group.sessions[0].run("UPDATE shop.orders SET what = 'after'")
    position = group.state(0).executed
    assert not group.dialect.wait_applied(group.sessions[1], position, seconds=1.0)
    group.dialect.free_applier(group.sessions[1])

    assert group.dialect.wait_applied(group.sessions[1], position, seconds=3.0)
    assert group.written(1) == {"after"}
    reader.run("SELECT 1")


def test_what_frees_the_applier_leaves_its_own_threads_alone(group: Group) -> None:
    """One that alters a table holds a lock on it while it waits for another, and bears the name of who started it."""
    group.in_step(1)
    group.sessions[0].run("CREATE TABLE shop.more (id INT PRIMARY KEY)")
    assert group.dialect.wait_applied(group.sessions[1], group.state(0).executed, seconds=5.0)
    before, reader = appliers(group, 1), group.servers[1].session("app")
    reader.run("BEGIN")
    reader.run("SELECT * FROM shop.more")
    group.sessions[0].run("ALTER TABLE shop.more ADD COLUMN what INT")
    position = group.state(0).executed
    assert not group.dialect.wait_applied(group.sessions[1], position, seconds=1.0)

    group.dialect.free_applier(group.sessions[1])

    assert group.dialect.wait_applied(group.sessions[1], position, seconds=3.0)
    assert appliers(group, 1) == before
    group.sessions[0].run("DROP TABLE shop.more")
    assert group.dialect.wait_applied(group.sessions[1], group.state(0).executed, seconds=5.0)


def appliers(group: Group, index: int) -> set[int]:
    threads = "SELECT THREAD_ID AS id FROM performance_schema.threads WHERE NAME LIKE 'thread/sql/replica_%'"
    return {row["id"] for row in group.sessions[index].rows(threads)}


def test_a_failover_loses_nothing_acknowledged(group: Group) -> None:
    group.in_step(1, 2)
    group.sessions[2].run("STOP REPLICA IO_THREAD")  # it will miss what comes now
    group.write(0, "only one replica has it").result(timeout=5)
    group.servers[0].kill()
    for index in (1, 2):
        group.dialect.stop_receiving(group.sessions[index])
    received = [group.state(index).received for index in (1, 2)]
    assert group.dialect.covers(received[0], received[1]) and not group.dialect.covers(received[1], received[0])

    assert group.dialect.wait_applied(group.sessions[1], received[0], seconds=5)
    for _ in range(2):
        group.promote(1)
    write = group.write(1, "waits for the sibling")
    assert still_waits(write)
    group.follow(2, 1)
    write.result(timeout=5)
    group.servers[0].launch()
    group.servers[0].wait_until_it_answers()
    group.reopen(0)
    restarted = group.state(0)
    assert restarted.read_only and not restarted.required and not restarted.acknowledging
    assert group.dialect.covers(group.state(1).executed, restarted.executed)
    group.follow(0, 1)

    position = group.state(1).executed
    for index in (0, 2):
        assert group.dialect.wait_applied(group.sessions[index], position, seconds=5)
        assert group.written(index) == {"only one replica has it", "waits for the sibling"}


def blocked_applier(group: Group, index: int) -> TestSession:
    locker = group.servers[index].session("agent")
    locker.run("FLUSH TABLES WITH READ LOCK")
    return locker


def test_what_is_received_counts_before_it_is_applied_and_is_never_thrown_away(group: Group) -> None:
    group.in_step(1)
    locker = blocked_applier(group, 1)
    group.write(0, "received").result(timeout=5)
    position = group.state(0).executed
    assert group.state(1).received == position and group.state(1).executed == ""
    group.servers[0].kill()

    assert not group.dialect.wait_applied(group.sessions[1], position, seconds=0.3)
    assert not group.dialect.wait_applied(group.sessions[1], position, seconds=0)
    with pytest.raises(Conflict, match="not applied yet"):
        group.promote(1)
    assert group.state(1).read_only
    locker.run("UNLOCK TABLES")

    assert group.dialect.wait_applied(group.sessions[1], position, seconds=5)
    group.promote(1, required=False)
    assert group.written(1) == {"received"}


def test_a_replica_stopped_by_an_error_leads_with_the_position_it_is_told_to_have(group: Group) -> None:
    group.in_step(1)
    group.write(0, "applied").result(timeout=5)
    applied = group.state(0).executed
    assert group.dialect.wait_applied(group.sessions[1], applied, seconds=5)
    group.sessions[1].run("SET GLOBAL super_read_only = OFF")
    for statement in ("SET sql_log_bin = 0", "DELETE FROM shop.orders", "SET sql_log_bin = 1"):
        group.sessions[1].run(statement)
    group.sessions[0].run("UPDATE shop.orders SET what = 'it has no such row'")
    received = group.state(0).executed
    group.servers[0].kill()
    group.dialect.stop_receiving(group.sessions[1])
    until("it is stopped by that", lambda: group.state(1).error != "" and not group.state(1).applying)
    assert (group.state(1).executed, group.state(1).received) == (applied, received)

    for position in ("", received):
        with pytest.raises(Conflict, match="not applied yet"):
            group.promote(1, position=position)
        assert group.state(1).source != ""
    for _ in range(5):  # as its agent keeps the role
        group.dialect.stop_receiving(group.sessions[1])
    assert not group.dialect.wait_applied(group.sessions[1], received, seconds=0.3)
    assert group.dialect.wait_applied(group.sessions[1], applied, seconds=5)
    assert took(lambda: group.promote(1, required=False, position=applied)) < 3

    assert not group.state(1).read_only and group.state(1).source == ""
    group.write(1, "it leads").result(timeout=5)


def test_what_is_received_beyond_the_position_it_is_to_have_is_applied_first_where_it_can_be(group: Group) -> None:
    """Of a planned switchover: a commit that waits is on replicas, and the old primary does not say yet that it is."""
    group.in_step(1)
    group.write(0, "applied").result(timeout=5)
    applied = group.state(0).executed
    assert group.dialect.wait_applied(group.sessions[1], applied, seconds=5)
    locker = blocked_applier(group, 1)
    group.write(0, "received").result(timeout=5)

    with pytest.raises(Conflict, match="not applied yet"):
        group.promote(1, required=False, position=applied)
    promoting = group.threads.submit(group.promote, 1, required=False, position=applied)
    time.sleep(0.2)
    locker.run("UNLOCK TABLES")
    promoting.result(timeout=5)

    assert group.written(1) == {"applied", "received"}


def parted(one: ServerState, other: ServerState) -> bool:
    return MySQL().parted(one.executed, one.history, other.executed, other.history)


@pytest.mark.parametrize("how", ["a statement that super_read_only does not hinder", "a row"])
def test_a_replica_that_wrote_itself_is_told_from_one_that_is_behind(group: Group, how: str) -> None:
    group.in_step(1, 2)
    group.write(0, "before").result(timeout=5)
    for index in (1, 2):
        assert group.dialect.wait_applied(group.sessions[index], group.state(0).executed, seconds=5)
    assert not any(parted(group.state(0), group.state(index)) for index in (1, 2))

    if how == "a row":
        group.sessions[1].run("SET GLOBAL super_read_only = OFF")
        group.sessions[1].run(INSERT, "of its own")
        group.sessions[1].run("SET GLOBAL super_read_only = ON")
    else:
        group.sessions[1].run("FLUSH PRIVILEGES")

    assert parted(group.state(0), group.state(1)) and not parted(group.state(0), group.state(2))
    group.sessions[2].run("STOP REPLICA SQL_THREAD")
    group.write(0, "after").result(timeout=5)
    primary, wrote, behind = (group.state(index) for index in range(3))
    assert not group.dialect.covers(behind.executed, primary.executed)
    assert parted(primary, wrote) and not parted(primary, behind)


def test_a_former_primary_that_follows_and_its_prompts_are_no_writes_of_its_own(group: Group) -> None:
    group.in_step(1, 2)
    group.write(0, "before").result(timeout=5)
    MySQL().prompt(group.servers[0].session())
    group.fence(0)
    position = group.state(0).executed
    assert group.dialect.wait_applied(group.sessions[1], position, seconds=5)
    group.promote(1, position=position)
    for index in (0, 2):
        group.follow(index, 1)
    group.write(1, "after").result(timeout=5)

    assert not any(parted(group.state(1), group.state(index)) for index in (0, 2))
    group.sessions[0].run("SET GLOBAL super_read_only = OFF")
    uuid = group.state(0).history.split()[0]
    for tag, is_own in ((f"{PROMPT_TAG}:1000", False), ("1000", True)):
        group.sessions[0].run("SET SESSION gtid_next = %s", f"{uuid}:{tag}")
        group.sessions[0].run("BEGIN")
        group.sessions[0].run("COMMIT")
        group.sessions[0].run("SET SESSION gtid_next = AUTOMATIC")
        assert parted(group.state(1), group.state(0)) is is_own


def test_what_a_former_primary_sent_to_another_one_alone_parts_that_one_from_the_new_primary(group: Group) -> None:
    group.in_step(1, 2)
    group.write(0, "before").result(timeout=5)
    assert group.dialect.wait_applied(group.sessions[1], group.state(0).executed, seconds=5)
    group.dialect.stop_receiving(group.sessions[1])
    group.write(0, "to one alone").result(timeout=5)
    position = group.state(0).executed
    assert group.dialect.wait_applied(group.sessions[2], position, seconds=5)
    group.fence(0)
    group.promote(1, required=False)
    group.follow(2, 1)
    # Not a row more, whose key the one that went to one alone has already.
    group.servers[1].session("app").run("UPDATE shop.orders SET what = 'after' WHERE what = 'before'")
    assert group.dialect.wait_applied(group.sessions[2], group.state(1).executed, seconds=5)

    assert group.written(1) == {"after"} and group.written(2) == {"after", "to one alone"}
    assert parted(group.state(1), group.state(2))


def test_a_primary_that_follows_somebody_by_a_channel_with_a_name_says_so(group: Group) -> None:
    """Its replica may have got from it what it had not when it was last asked."""
    group.in_step(1)
    uuid = group.state(0).history.split()[0]
    assert group.state(0).history == f"{uuid} {WRITES}"
    group.sessions[0].run("CHANGE REPLICATION SOURCE TO SOURCE_HOST = '192.0.2.1' FOR CHANNEL 'another'")
    try:
        state = group.state(0)
        assert (state.history, state.source) == (f"{uuid} {WRITES_AND_FOLLOWS}", "")
        group.fence(0)
        assert group.state(0).history == uuid
    finally:
        group.sessions[0].run("RESET REPLICA ALL FOR CHANNEL 'another'")


def test_what_was_received_survives_a_kill_of_the_replica_that_has_it(group: Group) -> None:
    group.in_step(1)
    locker = blocked_applier(group, 1)
    for number in range(20):
        group.write(0, f"received {number}").result(timeout=5)
    position = group.state(0).executed
    group.servers[0].kill()
    locker.close()
    group.servers[1].restart()
    group.reopen(1)

    state = group.state(1)
    assert state.received == position and state.read_only and not state.receiving and not state.acknowledging
    group.dialect.stop_receiving(group.sessions[1])
    assert group.dialect.wait_applied(group.sessions[1], position, seconds=10)
    group.promote(1, required=False)
    assert len(group.written(1)) == 20


def test_another_source_does_not_cost_what_was_received_from_the_last(group: Group) -> None:
    group.in_step(1, 2)
    locker = blocked_applier(group, 1)
    group.write(0, "received").result(timeout=5)
    position = group.state(0).executed
    group.servers[0].kill()
    until("both have it", lambda: group.state(1).received == group.state(2).received == position)

    follow = group.threads.submit(group.follow, 1, 2)  # a server that has not got it applied, nor takes writes
    follow.result(timeout=10)

    assert group.state(1).received == position and group.state(1).source == group.servers[2].address
    locker.run("UNLOCK TABLES")
    assert group.dialect.wait_applied(group.sessions[1], position, seconds=5)


def test_a_transaction_cut_in_the_middle_comes_whole_from_the_next_source(group: Group) -> None:
    group.in_step(1, 2)
    group.dialect.stop_receiving(group.sessions[2])
    group.write(0, "small").result(timeout=5)
    big = (
        "INSERT INTO shop.orders (what) WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 900)"
    )
    app = group.servers[0].session("app")
    writes = group.threads.submit(app.run, f"{big} SELECT REPEAT('x', 100) FROM n, (SELECT 1 UNION SELECT 2) m")
    writes.result(timeout=10)
    group.servers[0].kill()
    group.dialect.stop_receiving(group.sessions[1])
    assert group.dialect.wait_applied(group.sessions[1], group.state(1).received, seconds=10)
    group.promote(1, required=False)

    group.follow(2, 1)

    assert group.dialect.wait_applied(group.sessions[2], group.state(1).executed, seconds=10)
    assert group.written(2) == group.written(1)


@pytest.mark.parametrize("fault", ["password", "ca", "name", "port"])
def test_a_source_that_is_not_who_it_should_be_is_not_followed(group: Group, fault: str) -> None:
    group.promote(0, required=False)
    source = group.servers[0].source
    wrong = {
        "password": replace(source, password="wrong"),
        "ca": replace(source, ca="/etc/hostname"),
        "name": replace(source, address=group.servers[0].other_address()),
        "port": replace(source, port=3307),
    }[fault]

    group.dialect.follow(group.sessions[1], wrong, acknowledge=True)

    until("it says why", lambda: group.state(1).error != "")
    assert not group.state(1).receiving
    group.follow(1)
    until("it follows", lambda: group.state(1).receiving and group.state(1).error == "")


def test_a_replica_that_applies_late_or_not_all_says_so(group: Group) -> None:
    group.in_step(1, 2)
    for index, statement in (
        (1, "CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 60"),
        (2, "CHANGE REPLICATION FILTER REPLICATE_WILD_IGNORE_TABLE = ('shop.%%')"),
    ):
        group.sessions[index].run("STOP REPLICA SQL_THREAD")
        group.sessions[index].run(statement.replace("%%", "%"))
        group.sessions[index].run("START REPLICA SQL_THREAD")

    assert group.state(1).delayed and group.state(2).delayed
    assert not group.state(0).delayed


def test_a_replica_hears_its_source_also_when_nothing_is_written(group: Group) -> None:
    group.in_step(1)
    heard = group.state(1).arrived

    until("a heartbeat arrived", lambda: group.state(1).arrived != heard, seconds=3)
    group.servers[0].freeze()
    time.sleep(0.3)
    heard = group.state(1).arrived
    time.sleep(1.5)
    assert group.state(1).arrived == heard


def test_a_password_that_changed_is_taken_up(group: Group) -> None:
    group.promote(0, required=False)
    wrong = replace(group.servers[0].source, password="old")
    group.dialect.follow(group.sessions[1], wrong, acknowledge=True)
    until("it is refused", lambda: "Access denied" in group.state(1).error)
    tries = group.sessions[1].rows("SHOW REPLICA STATUS")[0]["Last_IO_Error_Timestamp"]

    group.dialect.follow(group.sessions[1], wrong, acknowledge=True)
    until("it tries on", lambda: group.sessions[1].rows("SHOW REPLICA STATUS")[0]["Last_IO_Error_Timestamp"] != tries)
    group.follow(1)

    until("it follows", lambda: group.state(1).receiving and group.state(1).error == "")


def test_who_follows_nobody_stays_read_only(group: Group) -> None:
    group.in_step(1)

    for _ in range(2):
        group.dialect.follow_nobody(group.sessions[1])

    state = group.state(1)
    assert (state.read_only, state.source, state.receiving, state.acknowledging) == (True, "", False, False)


def test_positions_compare_as_the_server_compares_them_tags_included(group: Group) -> None:
    group.promote(0, required=False)
    positions = [group.state(0).executed]
    for tag in ("", ":backup", "", ":site_7", ":backup"):
        group.sessions[0].run(f"SET SESSION gtid_next = 'AUTOMATIC{tag}'")
        group.sessions[0].run(INSERT, tag)
        positions.append(group.state(0).executed)
    positions.append(positions[-1].replace(":backup", ":other"))

    for one in positions:
        for other in positions:
            row = group.sessions[0].rows("SELECT GTID_SUBSET(%s, %s) AS covered", other, one)[0]
            assert group.dialect.covers(one, other) == bool(row["covered"]), (one, other)


def test_with_a_full_disk_it_says_what_it_does_and_can_be_fenced(lab: MySQLLab, threads: ThreadPoolExecutor) -> None:
    dialect = MySQL()
    with lab.on_a_small_disk(160) as (server, fill):
        session, app = server.session(), server.session("app")
        dialect.promote(session, required=False)
        app.run(INSERT, "0")
        fill()
        writing = threads.submit(write_until_it_fails, app)
        log = server.root / server.data.lstrip("/") / "log"
        until("a commit waits for room", lambda: "Waiting for someone to free space" in log.read_text())
        # Its state does not say what for: the agent goes by the room there is.
        assert "waiting for handler commit" in [each.state for each in dialect.processes(session)]
        with pytest.raises(Failed, match="is full"):
            session.rows("SELECT ID FROM information_schema.PROCESSLIST")
        assert not dialect.state(session).read_only

        seconds = took(lambda: dialect.fence(session))
        assert dialect.state(session).read_only and seconds < 3
        writing.result(timeout=10)


def test_rows_that_a_clone_does_not_have_are_named_before_one_is_made(group: Group, tmp_path: Path) -> None:
    server, session = group.servers[0], group.sessions[0]
    group.promote(0, required=False)
    session.run("SET SESSION sql_log_bin = 0")
    session.run("CREATE DATABASE `it's``kinds`")
    try:
        session.run("USE `it's``kinds`")
        for engine in ("InnoDB", "MyISAM", "ARCHIVE", "CSV", "MEMORY"):
            session.run(f"CREATE TABLE empty_{engine} (a INT NOT NULL) ENGINE = {engine}")
        assert refused_rows(server, tmp_path) == ""
        for engine in ("InnoDB", "MyISAM", "ARCHIVE", "CSV", "MEMORY"):
            session.run(f"CREATE TABLE {engine} (a INT NOT NULL) ENGINE = {engine}")
            session.run(f"INSERT INTO {engine} VALUES (1), (2)")
        clone = f"{server.data}-clone"
        session.run(f"CLONE LOCAL DATA DIRECTORY = '{clone}'")

        named = [f"it's`kinds.{engine} ({engine})" for engine in ("ARCHIVE", "CSV", "MyISAM")]
        assert f"db1 has some: {' '.join(named)}." in refused_rows(server, tmp_path)
        copied = [each.stat().st_size for each in (server.root / clone.lstrip("/")).rglob("*.MYD")]
        assert not any(copied), copied
    finally:
        session.run("DROP DATABASE `it's``kinds`")


def refused_rows(server: Server, folder: Path) -> str:
    """What the script that joins says of this primary, "" when it may be cloned."""
    script = (SCRIPTS / "join_mysql_group.sh").read_text()
    found = [
        re.search(rf"^{name}\(\) \{{.*{end}", script, re.M) for name, end in (("at", "$"), (REFUSE, r"(\n.+)*?\n\}"))
    ]
    parts = [each[0] for each in found if each is not None]
    (folder / "mysql").write_text(CLIENT.format(python=sys.executable, address=server.address, ca=server.ca))
    (folder / "mysql").chmod(0o755)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join([*parts, REFUSE])],
        env={"PATH": f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin", "primary": "db1", "primary_address": server.address,
             "copy": str(folder / "copy")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) is ("has some" not in done.stderr), done.stderr
    return done.stderr if done.returncode else ""


def write_until_it_fails(app: TestSession) -> None:
    with pytest.raises(RelaunchError):
        for number in range(10**6):
            app.run("UPDATE shop.orders SET what = %s", str(number))
