"""A receiver stops at once also when its source is frozen: two real MariaDB servers, each in its own network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mariadb_lab import PORT, Authority, MariaDBServer, root_of, until

from relaunch.databases.mariadb import MariaDB

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SECONDS_ALLOWED = 0.6  # with MariaDB's own way it is 1 s at least
STOP = """
import sys, time
from relaunch.databases.mariadb import MariaDB
from relaunch_agent.database.session import LocalSession
from relaunch_agent.database.severing import severed
session, dialect = LocalSession(sys.argv[1], answer_seconds=20), MariaDB()
began = time.monotonic()
with severed(sys.argv[2] if sys.argv[4] == "severed" else "", int(sys.argv[3])):
    dialect.stop_receiving(session)
print(time.monotonic() - began)
"""


def ip(*words: str) -> str:
    return subprocess.run(("ip", *words), check=True, capture_output=True, text=True, timeout=10).stdout


@pytest.fixture
def pair() -> Iterator[tuple[MariaDBServer, MariaDBServer]]:
    """A primary and a replica that acknowledges."""
    root = root_of("trixie")
    if root is None:
        pytest.skip("no MariaDB of Debian 13 here")
    folder = Path(tempfile.mkdtemp(prefix="rlsever-", dir=root / "var/tmp"))
    authority = Authority(folder / "ca")
    names = ["rltsev1", "rltsev2"]
    servers = [MariaDBServer(n, str(root), folder / str(n), authority, network=name) for n, name in enumerate(names, 1)]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", "rltsevl1", "netns", names[0], "type", "veth", "peer", "name", "rltsevl2", "netns", names[1])
        for server, name in zip(servers, names, strict=True):
            ip("-n", name, "address", "add", f"{server.address}/24", "dev", f"rltsevl{server.number}")
            ip("-n", name, "link", "set", f"rltsevl{server.number}", "up")
            server.install()
            server.start()
        source, replica = servers
        dialect = MariaDB()
        session = source.session()
        dialect.promote(session, required=False)
        source.make_accounts()
        dialect.follow(replica.session(), source.source, acknowledge=True)
        state = replica.session()
        until("it follows", lambda: dialect.state(state).receiving and dialect.state(state).acknowledging)
        dialect.require(session, True)
        yield source, replica
    finally:
        for server in servers:
            server.stop()
        for name in names:
            subprocess.run(("ip", "netns", "delete", name), check=False, capture_output=True)
        shutil.rmtree(folder)


def stop_receiving(server: MariaDBServer, source: MariaDBServer, how: str) -> float:
    """In the replica's own network, as its agent does it; seconds."""
    words = ("ip", "netns", "exec", server.network, sys.executable, "-c", STOP)
    given = (str(server.socket), source.address, str(PORT), how)
    return float(subprocess.run((*words, *given), check=True, capture_output=True, text=True, timeout=30).stdout)


def follow(replica: MariaDBServer, source: MariaDBServer) -> None:
    dialect, session = MariaDB(), replica.session()
    dialect.follow(session, source.source, acknowledge=True)
    until("it follows", lambda: dialect.state(session).receiving and dialect.state(session).acknowledging)


def severed_in(
    pair: tuple[MariaDBServer, MariaDBServer], silence: Callable[[], object], mend: Callable[[], object]
) -> float:
    """Seconds; the fastest of three, as the machine may be busy with something else. The replica follows again then."""
    source, replica = pair
    took = []
    for _ in range(3):
        silence()
        time.sleep(1.0)
        took.append(stop_receiving(replica, source, "severed"))
        routes = ip("-n", replica.network, "route", "show", "type", "unreachable")
        assert not routes, "the route is taken away again"
        assert not MariaDB().state(replica.session()).receiving
        mend()
        follow(replica, source)
    print(f"severed after {sorted(took)} s")
    return min(took)


def test_a_frozen_source_does_not_delay_the_end_of_receiving(pair: tuple[MariaDBServer, MariaDBServer]) -> None:
    source, replica = pair
    took = severed_in(pair, lambda: source.signal(signal.SIGSTOP), lambda: source.signal(signal.SIGCONT))
    assert took < SECONDS_ALLOWED

    source.signal(signal.SIGSTOP)
    time.sleep(1.0)
    assert stop_receiving(replica, source, "plainly") > took, "else severing is of no use any more"


def test_a_cut_off_source_does_not_delay_it_either(pair: tuple[MariaDBServer, MariaDBServer]) -> None:
    source, _ = pair
    link = ("-n", source.network, "link", "set", f"rltsevl{source.number}")
    assert severed_in(pair, lambda: ip(*link, "down"), lambda: ip(*link, "up")) < SECONDS_ALLOWED
