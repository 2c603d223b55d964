"""Pure parts of a database server's agent: why a write stalls, when a lease is over, what a probe's error says."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace

import pymysql
import pytest

from relaunch.databases.dialect import ServerState
from relaunch_agent.database.lagging import Beat, lagging
from relaunch_agent.database.lease import Lease, hears_replica
from relaunch_agent.database.stalls import Progress, WriteSeen, stall
from relaunch_agent.database.witness import outcome_of


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (WriteSeen(read_only_disk=True, required=True, waiting_commits=3), "read-only file system"),
        (WriteSeen(free_bytes=4096), "disk full"),
        (WriteSeen(free_bytes=0), "disk full"),
        (WriteSeen(state="Waiting for disk space"), "disk full"),
        (WriteSeen(state="Waiting for someone to free some space"), "disk full"),
        (WriteSeen(state="Waiting for semi-sync ACK from slave"), "no acknowledgement"),
        (WriteSeen(required=True, waiting_commits=1, others=[(60.0, "Updating")]), "no acknowledgement"),
        (WriteSeen(state="Waiting for backup lock"), "waits for a lock: Waiting for backup lock"),
        (WriteSeen(others=[(1.0, "x"), (60.0, "Updating")]), "long transaction: 60 s Updating"),
        (WriteSeen(others=[(1.0, "Updating")], free_bytes=10**10), "unexplained"),
        (
            WriteSeen(others=[(60.0, "Commit")], works=False),
            "unexplained",
        ),  # its disk hangs, and so everybody's commits
        (WriteSeen(others=[(60.0, "Commit")], commits=True), "overloaded: other writes end"),
    ],
)
def test_why_a_write_stalls(seen: WriteSeen, why: str) -> None:
    assert stall(seen) == why


def written(bytes: int | None) -> Callable[[], int | None]:
    return lambda: bytes


def test_a_server_works_while_it_writes_a_lot_and_not_when_its_disk_hangs() -> None:
    progress = Progress()
    for second in range(10):
        progress.look(100.0 + second, "0-1-7", written(second * 10**6))
        progress.look(100.01 + second, "0-1-7", written(second * 10**6))  # another look at once says nothing new
        assert progress.works(100.02 + second) == (second > 0)
    for second in range(10):
        progress.look(110.0 + second, "0-1-7", written(9 * 10**6 + second * 1000))

    assert not progress.works(119.0) and not progress.commits(119.0)
    progress.look(120.0, "0-1-8", written(9 * 10**6))
    assert progress.commits(120.5) and progress.commits(122.0)
    assert progress.commits(121.0, within=1.5) and not progress.commits(122.0, within=1.5)


def test_where_nobody_tells_what_is_written_a_server_is_taken_to_work() -> None:
    progress = Progress()
    progress.look(100.0, "0-1-7", written(None))

    assert progress.works(100.5)


def over(lease: Lease, now: float, *, holds: bool = True, heard: float = 0.0, acknowledged: bool = False) -> bool:
    return lease.is_over(now, holds=holds, controller_heard=heard, acknowledged=acknowledged)


def test_a_primary_that_hears_nobody_has_six_seconds() -> None:
    lease = Lease(100.0)

    assert [over(lease, now) for now in (100.0, 105.9, 106.0)] == [False, False, True]


def test_either_the_controller_or_a_replica_renews_it() -> None:
    lease = Lease(100.0)

    assert not over(lease, 110.0, heard=109.0)
    assert not over(lease, 120.0, acknowledged=True)
    assert not over(lease, 125.9, heard=109.0)
    assert over(lease, 126.0, heard=109.0)


def test_a_replica_is_heard_by_what_it_acknowledges_not_by_being_connected() -> None:
    """Found by reading: cut off silently, it stays connected for a quarter of an hour, and the lease never ended."""
    state = ServerState(
        version="11.8", server_id=1, read_only=False, executed="", received="", acknowledgers=("198.18.0.2",)
    )

    assert hears_replica(state, waits=False)
    assert not hears_replica(state, waits=True)
    assert not hears_replica(replace(state, acknowledgers=()), waits=False)
    assert not hears_replica(None, waits=False)


def test_it_counts_only_from_when_it_holds() -> None:
    lease = Lease(100.0)

    assert not over(lease, 200.0, holds=False)
    assert not over(lease, 205.0)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (caused(pymysql.err.OperationalError(2003, "x"), ConnectionRefusedError(111, "x")), "refused"),
        (caused(pymysql.err.OperationalError(2003, "x"), TimeoutError("timed out")), "timeout"),
        (caused(pymysql.err.OperationalError(2003, "x"), OSError(113, "No route to host")), "timeout"),
        (pymysql.err.OperationalError(2013, "Lost connection (timed out)"), "timeout"),
        (pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query"), "refused"),
        (pymysql.err.OperationalError(1040, "Too many connections"), "full of connections"),
        (pymysql.err.OperationalError(1045, "Access denied"), "denied"),
        (caused(pymysql.err.OperationalError(2003, "x"), ssl.SSLCertVerificationError("x")), "denied"),
        (pymysql.err.InternalError(1290, "?"), "error"),
    ],
    ids=str,
)
def test_what_a_failed_probe_says(error: Exception, outcome: str) -> None:
    assert outcome_of(error) == outcome


def test_who_is_too_far_behind_by_the_primarys_own_rows() -> None:
    beats = {"p": Beat(1000.0, 50.0), "near": Beat(999.0, 50.0), "far": Beat(960.0, 49.0), "unheard": Beat(1.0, 40.0)}

    def found(before: frozenset[str] = frozenset(), **changed: Beat) -> frozenset[str]:
        return lagging({**beats, **changed}, "p", before, limit=30.0, now=50.0)

    assert found() == {"far"}
    back = Beat(980.0, 50.0)  # 20 s: less than the limit, more than half of it
    assert found(far=back) == frozenset() and found(frozenset({"far"}), far=back) == {"far"}
    assert found(p=Beat(960.0, 50.0)) == frozenset(), "it stands still, and nobody is behind"
    assert found(p=Beat(1000.0, 44.0)) == frozenset(), "it is not heard: what replicas have is all there is"
    assert lagging({"far": beats["far"]}, "p", frozenset({"far"}), limit=30.0, now=50.0) == frozenset()
