"""The agent takes and keeps roles on real MariaDB servers; the controller's part is played by hand."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pymysql
import pytest
import pytest_asyncio
from agent_stand import until as until_so
from database_stand import Member
from mariadb_lab import Authority, MariaDBServer, root_of, until, write_until_it_fails
from small_disk import hanging_disk, small_disk

from relaunch.bus.messages import DatabaseReport, Refused, TakeRole
from relaunch.databases.group import Windows
from relaunch.databases.mariadb import MariaDB

covers = MariaDB().covers
pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest_asyncio.fixture
async def group() -> AsyncIterator[list[Member]]:
    """Three servers with their agents, started, empty, joined; no role yet."""
    root = root_of("trixie")
    if root is None:
        pytest.skip("no MariaDB of Debian 13 here")
    folder = Path(tempfile.mkdtemp(prefix="rlagent-", dir=root / "var/tmp"))
    authority = Authority(folder / "ca")
    members = []
    try:
        for number in (1, 2, 3):
            members.append(await started(MariaDBServer(number, str(root), folder / str(number), authority)))
        for member in members:
            await member.stand.connected()
            member.join()
            await member.tell(members)
        yield members
    finally:
        for member in members:
            await member.close()
        shutil.rmtree(folder)


async def started(server: MariaDBServer) -> Member:
    server.install()
    server.start()
    member = Member(server.folder.parent / f"agent{server.number}", server, server.authority)
    await member.open()
    member.stand.start_agent()
    return member


async def form(group: list[Member], *, required: bool = True) -> tuple[Member, Member, Member]:
    """One primary with two replicas that acknowledge."""
    one, two, three = group
    assert not (await one.become("primary")).read_only
    one.server.make_accounts()
    for replica in (two, three):
        answer = await replica.become("replica", source=one.address, acknowledge=True)
        assert answer.source == one.address and answer.read_only, answer
        if not answer.receiving:
            await replica.reports("it follows", lambda report: report.receiving and report.applying)
    if required:
        answer = await one.become("primary", required=True)
        assert answer.required and not answer.read_only, answer
    return one, two, three


async def test_each_role_is_taken(group: list[Member]) -> None:
    one, two, three = await form(group)
    app = one.server.client()
    app.cursor().execute("INSERT INTO a (s) VALUES ('acknowledged')")
    await one.reports("both acknowledge", lambda report: len(set(report.acknowledgers)) == 2 or report.required)
    position = one_position(one)
    assert await two.reports("it has the row", lambda report: covers(report.executed, position)) < 2

    revoked = await two.become("revoked", 2)
    assert (revoked.receiving, revoked.acknowledging, revoked.read_only) == (False, False, True)
    fenced = await one.become("fenced", 2)
    assert fenced.read_only
    with pytest.raises(pymysql.err.OperationalError):
        app.cursor().execute("SELECT 1")
    assert three.report.role == "replica"


def one_position(member: Member) -> str:
    return str(member.sql("SELECT @@gtid_binlog_pos AS position")[0]["position"])


async def test_an_older_epoch_is_refused_also_after_the_agents_restart(group: list[Member]) -> None:
    one = group[0]
    await one.become("primary", 5)
    answer = await one.stand.order(TakeRole(epoch=4, role="fenced"))
    assert isinstance(answer, Refused) and "epoch 5" in answer.reason
    one.stand._agents[-1].kill()
    one.stand._agents[-1].wait()
    hellos = len(one.stand.hellos)
    one.stand.start_agent()
    await one.stand.connected(hellos + 1)
    answer = await one.stand.order(TakeRole(epoch=4, role="fenced"))
    assert isinstance(answer, Refused) and "epoch 5" in answer.reason
    assert one.sql("SELECT @@read_only AS r") == [{"r": 0}]


async def test_a_killed_server_is_told_at_once_and_stays_read_only(group: list[Member]) -> None:
    one, two, _ = await form(group)
    noticed = []
    for _ in range(3):  # the machine may be busy with something else just then
        await until_so(lambda: one.report.answers, "it answers", 20)
        killed = time.monotonic()
        one.server.kill()
        await until_so(lambda: one.report.trouble == "stopped", "it has stopped")
        noticed.append(
            next(at for at, said in one.stand.reports if at >= killed and said.trouble == "stopped") - killed
        )
        one.server.start()
    print(f"noticed after {sorted(noticed)} s")
    assert min(noticed) < 0.2
    await one.reports("it answers, read-only", lambda report: report.answers and report.read_only)
    await asyncio.sleep(1.5)
    assert one.report.read_only and one.report.role == "primary" and not one.report.required
    two.server.kill()
    two.server.start()
    await two.reports("it follows again", lambda report: report.receiving and report.acknowledging, seconds=15)


async def test_switched_over_by_hand_and_back(group: list[Member]) -> None:
    one, two, three = await form(group)
    written, took = ["before"], []
    one.server.client().cursor().execute("INSERT INTO a (s) VALUES ('before')")
    # Three times, as the machine may be busy with something else just then.
    for epoch, (old, new) in enumerate([(one, two), (two, one), (one, two)], start=2):
        began = time.monotonic()
        frozen = await old.become("fenced", epoch)
        assert frozen.read_only
        leads = await new.become("primary", epoch, required=True, position=frozen.executed)
        assert not leads.read_only and leads.executed.startswith(frozen.executed.split("-")[0]), leads
        took.append(time.monotonic() - began)
        for replica in (old, three):
            await replica.become("replica", epoch, source=new.address, acknowledge=True)
        written.append(f"in epoch {epoch}")
        new.server.client().cursor().execute("INSERT INTO a (s) VALUES (%s)", (written[-1],))
        position = one_position(new)
        for replica in (old, three):
            await has_all(replica, position)
            assert [row["s"] for row in replica.sql("SELECT s FROM t.a ORDER BY i")] == written
    print(f"switched over in {sorted(took)} s")
    assert min(took) < 2


async def has_all(replica: Member, position: str) -> None:
    await replica.reports("it has all", lambda report: covers(report.executed, position))


async def test_a_commit_that_waits_is_never_answered_by_a_fence(group: list[Member]) -> None:
    one, two, three = await form(group)
    for replica in (two, three):
        await replica.become("revoked", 2)
    said: list[str] = []
    app = one.server.client()

    def write() -> None:
        try:
            app.cursor().execute("INSERT INTO a (s) VALUES ('never acknowledged')")
            said.append("acknowledged")
        except pymysql.err.OperationalError as error:
            said.append(f"error {error.args[0]}")

    thread = threading.Thread(target=write)
    thread.start()
    await one.reports("why it stalls", lambda report: report.stall == "no acknowledgement", seconds=8)
    assert not said
    fenced = await one.become("fenced", 2)
    thread.join(5)
    assert fenced.read_only and said == ["error 2013"]


async def test_a_fence_with_grace_lets_an_open_transaction_end_and_cuts_one_that_does_not(group: list[Member]) -> None:
    one, _, _ = await form(group)
    short, long = one.server.client(), one.server.client()
    said: list[str] = []
    wrote = {name: threading.Event() for name in ("short", "long")}

    def transact(client: pymysql.Connection, name: str, seconds: float) -> None:
        try:
            client.begin()
            client.cursor().execute("INSERT INTO a (s) VALUES (%s)", (name,))
            wrote[name].set()
            time.sleep(seconds)
            client.commit()
            said.append(f"{name} committed")
        except pymysql.MySQLError:
            said.append(f"{name} cut")

    threads = [threading.Thread(target=transact, args=each) for each in ((short, "short", 0.2), (long, "long", 3.0))]
    for thread in threads:
        thread.start()
    for each in wrote.values():
        assert await asyncio.to_thread(each.wait, 10)
    began = time.monotonic()
    fenced = await one.become("fenced", 2, grace=0.5)
    took = time.monotonic() - began
    for thread in threads:
        await asyncio.to_thread(thread.join, 5)

    assert fenced.read_only and took < 1.5, (took, fenced)
    assert sorted(said) == ["long cut", "short committed"]


async def test_a_primary_alone_fences_itself(group: list[Member]) -> None:
    one, two, three = await form(group)
    await one.tell(group, mode="sync", primary=one)
    for replica in (two, three):
        await replica.become("revoked", 2)
    await asyncio.sleep(7)
    assert one.sql("SELECT @@read_only AS r") == [{"r": 0}], "the controller is heard"
    await one.stand.stop_bus()
    cut = time.monotonic()
    until("it is read-only", lambda: one.sql("SELECT @@read_only AS r") == [{"r": 1}], seconds=12)
    assert 4 < time.monotonic() - cut < 9


async def test_replicas_that_are_connected_and_silent_do_not_keep_a_primary_alone_from_fencing_itself(
    group: list[Member],
) -> None:
    one, two, three = await form(group)
    await one.tell(group, mode="sync", primary=one)
    for replica in (two, three):
        replica.server.signal(19)
    await one.stand.stop_bus()
    cut = time.monotonic()
    until("it is read-only", lambda: one.sql("SELECT @@read_only AS r") == [{"r": 1}], seconds=14)
    assert 4 < time.monotonic() - cut < 11
    for replica in (two, three):
        replica.server.signal(18)


async def test_a_primary_with_its_replicas_carries_on_without_the_controller(group: list[Member]) -> None:
    one, _, _ = await form(group)
    await one.tell(group, mode="sync", primary=one)
    await one.stand.stop_bus()
    await asyncio.sleep(9)
    one.server.client().cursor().execute("INSERT INTO a (s) VALUES ('carries on')")


async def test_witnesses_say_how_it_ends(group: list[Member]) -> None:
    one, two, _ = await form(group)

    def outcome() -> str:
        return two.stand.witnessed[-1].probes[one.address].outcome if two.stand.witnessed else ""

    await until_so(lambda: outcome() == "ok", "the probe is answered")
    assert two.stand.witnessed[-1].probes[one.address].read_only is False
    one.server.signal(19)
    await until_so(lambda: outcome() == "timeout", "frozen")
    one.server.signal(18)
    noticed = []
    for _ in range(3):  # the machine may be busy with something else just then
        await until_so(lambda: outcome() == "ok", "thawed, or started again", 20)
        killed = time.monotonic()
        one.server.kill()
        await until_so(lambda: outcome() == "refused", "killed")
        noticed.append(time.monotonic() - killed)
        one.server.start()
    print(f"noticed after {sorted(noticed)} s")
    assert min(noticed) < 0.6


async def test_the_primary_is_probed_often_and_a_replica_is_not(group: list[Member]) -> None:
    one, _, three = await form(group)

    async def probes(member: Member) -> float:
        """A second and prober."""
        session = member.server.session()
        session.run("TRUNCATE mysql.general_log")
        session.run("SET GLOBAL log_output = 'TABLE', GLOBAL general_log = ON")
        began = time.monotonic()
        await asyncio.sleep(4)
        session.run("SET GLOBAL general_log = OFF")
        took = time.monotonic() - began
        said = "SELECT COUNT(*) AS n FROM mysql.general_log WHERE argument = 'SELECT @@global.read_only'"
        found = int(session.rows(said)[0]["n"])
        session.close()
        return found / took / 2

    for each in group:
        await each.tell(group, mode="sync", primary=one)
    assert 3 < await probes(one) < 4.5
    assert 0.5 < await probes(three) < 1.5
    for each in group:
        await each.tell(group, mode="sync", primary=three)
    assert 3 < await probes(three) < 4.5


async def test_a_primary_without_a_connection_left_is_told_though_who_looks_at_it_has_one(group: list[Member]) -> None:
    one, _, _ = await form(group)
    await one.reports("it goes on", lambda report: report.answers and not report.full)
    one.sql("SET GLOBAL max_connections = 10")
    kept = []
    with pytest.raises(pymysql.err.OperationalError, match="Too many connections"):
        for _ in range(20):
            kept.append(one.server.client())

    await one.reports("it has none left", lambda report: report.answers and report.full)

    for each in kept:
        each.close()

    def connects() -> bool:
        with contextlib.suppress(pymysql.err.OperationalError):
            one.server.client().close()
            return True
        return False

    await until_so(connects, "a connection")
    await one.reports("it has some again", lambda report: not report.full)


@pytest_asyncio.fixture
async def on(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Member, Callable[..., None]]]:
    """A primary whose data, and what it puts aside for the moment, are on a disk of its own; what is done to that."""
    root = root_of("trixie")
    if root is None:
        pytest.skip("no MariaDB of Debian 13 here")
    folder = Path(tempfile.mkdtemp(prefix="rldisk-", dir=root / "var/tmp"))
    server = MariaDBServer(1, str(root), folder / "1", Authority(folder / "ca"))
    server.settings = (f"--tmpdir={server.inside}",)
    disk, megabytes = request.param
    try:
        with disk(server.folder, megabytes) as act:
            member = await started(server)
            try:
                await member.stand.connected()
                member.join()
                await member.tell([member])
                assert not (await member.become("primary")).read_only
                server.make_accounts()
                yield member, act
            finally:
                await member.close()
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("on", [(small_disk, 120)], indirect=True)
async def test_a_full_disk_is_why_nothing_is_written_and_its_server_answers_all_the_while(
    on: tuple[Member, Callable[[], None]],
) -> None:
    member, fill = on
    fill()
    known = len(member.stand.reports)
    writing = threading.Thread(target=write_until_it_fails, args=(member.server.client(),), daemon=True)
    writing.start()

    await member.reports("why it stalls", lambda report: report.stall == "disk full", seconds=20)
    await member.reports(
        "the room there is", lambda report: report.disk_bytes == 120 << 20 and report.free_bytes < 1 << 20
    )

    assert answered([report for _, report in member.stand.reports[known:]])
    await member.become("fenced", 2)
    writing.join(10)
    assert member.report.read_only and not writing.is_alive()


@pytest.mark.parametrize("on", [(hanging_disk, 256)], indirect=True)
async def test_a_disk_that_hangs_is_a_stall_without_an_explanation_and_its_server_answers_all_the_while(
    on: tuple[Member, Callable[[bool], None]],
) -> None:
    member, hang = on
    writing = threading.Thread(target=write_until_it_fails, args=(member.server.client(),), daemon=True)
    writing.start()
    await asyncio.sleep(1)
    known = len(member.stand.reports)
    hang(True)
    try:
        with neighbour():
            await member.reports("it stalls", lambda report: (report.write_seconds or 0) > 10, seconds=20)
    finally:
        hang(False)

    said = [report for _, report in member.stand.reports[known:]]
    assert answered(said)
    assert {report.stall for report in said if (report.write_seconds or 0) > 6} == {"unexplained"}
    await member.reports("it goes on", lambda report: not report.stall and (report.write_seconds or 0) < 2)
    await member.become("fenced", 2)
    writing.join(10)
    assert not writing.is_alive()


def answered(said: list[DatabaseReport]) -> bool:
    """Nobody was refused, and no answer was missed for as long as counts: on a busy machine one may be late."""
    return all(not each.trouble.startswith("refuses") and each.trouble_seconds < Windows().silent for each in said)


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """Somebody else on this machine, whose disk works."""
    over = threading.Event()

    def write() -> None:
        with tempfile.TemporaryFile(dir="/var/tmp") as file:
            while not over.wait(0.1):
                file.seek(0)
                file.write(os.urandom(1 << 19))
                file.flush()
                os.fsync(file.fileno())

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def test_a_replica_that_follows_before_the_new_primary_has_applied_all_comes_in_step_at_once(
    group: list[Member],
) -> None:
    one, two, three = await form(group)
    client = two.server.client()
    client.cursor().execute("LOCK TABLES a READ")  # two receives and acknowledges, and does not apply
    one.server.client().cursor().execute("INSERT INTO a (s) VALUES ('not applied yet')")
    position = one_position(one)
    await three.reports("it has the row", lambda report: covers(report.executed, position))
    one.server.kill()

    await three.become("replica", 2, source=two.address, acknowledge=True)
    await three.reports("it is sent away", lambda report: "1236" in report.error or "not in the master" in report.error)
    client.cursor().execute("UNLOCK TABLES")
    taken = await two.become("primary", 2, required=True, position=position)

    assert not taken.read_only
    await until_so(lambda: three.report.receiving and three.report.source == two.address, "it follows", 1.5)


async def test_a_replica_too_far_behind_answers_no_reads_until_it_is_near_again(group: list[Member]) -> None:
    """As a front end's agent sees it: its HAProxy's file is what is looked at."""
    one, two, three = await form(group)
    near = [{"name": each.name, "address": each.address, "port": 3306} for each in (two, three)]
    listeners = [
        {"name": "db-primary", "bind": "127.0.1.1:3306", "servers": [{**one.as_member, "port": 3306}]},
        {"name": "db-replica", "bind": "127.0.1.2:3306", "servers": near},
    ]
    # db2's agent probes the other two, so what it sees of db3 is what counts; db3 blocks on a row of its reader's lock.
    file = two.stand.root / "etc/haproxy/relaunch.cfg"
    file.parent.mkdir(parents=True)
    await two.tell(group, mode="sync", primary=one, proxy={"backends": [], "listeners": listeners})

    def readers() -> list[str]:
        text = file.read_text().partition("listen db-replica")[2] if file.exists() else ""
        return [line.split()[1] for line in text.splitlines() if line.strip().startswith("server ")]

    await until_so(lambda: readers() == ["db2", "db3"], "both answer reads")
    has_table = "SELECT 1 FROM information_schema.tables WHERE table_schema = 't' AND table_name = 'a'"
    await until_so(lambda: three.sql(has_table), "db3 has the table")
    lock = three.server.session()
    lock.run("LOCK TABLES t.a READ")
    one.server.client().cursor().execute("INSERT INTO a (s) VALUES ('waits at db3')")
    await until_so(lambda: readers() == ["db2"], "db3 is left out", 15)
    lock.close()
    await until_so(lambda: readers() == ["db2", "db3"], "db3 is back", 15)
