"""The binary log's shipper beside a MariaDB whose commits wait: it must not use up the server's connections."""

from __future__ import annotations

import importlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mariadb_lab import MariaDBServer, server_alone, until

from relaunch.databases.mariadb import MariaDB

ATTACHMENTS = Path(__file__).parents[2] / "templates/scripts/attachments"
pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def server() -> Iterator[MariaDBServer]:
    with server_alone(14) as made:
        yield made


def test_what_waits_in_the_server_is_asked_by_one_session_at_a_time(
    server: MariaDBServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ATTACHMENTS))
    asking: Any = importlib.import_module("binlog_server")
    plain = subprocess.Popen

    def inside(words: list[str], **how: Any) -> Any:
        """The client of the server's own Debian, by its socket."""
        return plain(["chroot", server.root, words[0], f"--socket={server.inside}/sock", *words[1:]], **how)

    monkeypatch.setattr(asking.subprocess, "Popen", inside)
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 1.0)
    session = server.session()
    MariaDB().promote(session, required=False)
    server.make_accounts()
    MariaDB().require(session, True)
    for text in ("first", "second"):  # two groups: one waits for a replica that is not there, one stands behind it
        app = server.client()
        threading.Thread(target=_write, args=(app, text), daemon=True).start()
        until("it waits", lambda: MariaDB().state(session).waiting_commits > 0)
    database = importlib.import_module("mariadb_binlogs").Server()
    assert database.ask("SELECT 7") == [["7"]]

    for _ in range(4):
        assert database.ask_where_it_writes("SHOW MASTER STATUS") is None

    how_many = "SELECT COUNT(*) AS many FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SHOW MASTER%'"
    assert session.rows(how_many) == [{"many": 1}]
    assert database.ask("SELECT 7") == [["7"]], "the rest of the server answers"
    MariaDB().require(session, False)
    until("it answers again", lambda: database.ask_where_it_writes("SHOW MASTER STATUS") is not None)
    database.client.kill()
    database.client.wait()


def _write(app: Any, text: str) -> None:
    app.cursor().execute("INSERT INTO a (s) VALUES (%s)", (text,))
