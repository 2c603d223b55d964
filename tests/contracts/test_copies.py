"""The server that a backup or a restore starts on a copy of the data, as the attachment starts it: real ones."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
from mariadb_lab import Authority, MariaDBServer
from mysql_lab import cached_root
from test_dialects import SUITES, folder_of

ATTACHMENTS = Path(__file__).parents[2] / "templates/scripts/attachments"
pytestmark = pytest.mark.root
STAY = """
  {server}() {{ exec setpriv --pdeathsig KILL chroot {root} {server} "${{@/--user=mysql/--user=root}}"; }}
  . {attachments}/{dialect}_copy.sh
  sockets={folder}
  ask_copy() {{ [ -S $sockets/s ]; }}
  start_copy {inside}/data --socket={inside}/s --pid-file={inside}/pid --log-error={inside}/log.err {words}
  echo there
  read -r
  kill_copy
"""


@contextlib.contextmanager
def copy(dialect: str, root: Path | str, folder: Path, *words: str) -> Iterator[Any]:
    """A session on the server that is started on the folder's `data`; its paths are those of the root."""
    script = STAY.format(
        server={"mariadb": "mariadbd", "mysql": "mysqld"}[dialect],
        **{"dialect": dialect, "root": root, "folder": folder, "words": " ".join(words), "attachments": ATTACHMENTS},
        inside="/" + str(folder).removeprefix(str(root)).lstrip("/"),
    )
    shell = subprocess.Popen(["bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert shell.stdout is not None and shell.stdout.readline() == b"there\n"
        session = pymysql.connect(unix_socket=str(folder / "s"), user="root", autocommit=True)
        yield session.cursor()
        session.close()
    finally:
        shell.communicate(b"\n", timeout=60)


@pytest.fixture(params=[*SUITES, "mysql"])
def cursor(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "mysql":
        root, template = cached_root()
        folder = root / "servers" / str(os.getpid()) / "copy"
        shutil.copytree(template, folder / "data")
        try:
            with copy("mysql", root, folder) as session:
                yield session
        finally:
            shutil.rmtree(folder.parent)
        return
    with folder_of(request.param) as (suite, folder):
        server = MariaDBServer(98, suite, folder / "98", Authority(folder / "ca"))
        server.install()
        (server.folder / "data/backup-my.cnf").write_text("[mariadbd]\n")
        with copy("mariadb", suite, server.folder, "--innodb-log-file-size=8M") as session:
            yield session


def test_it_takes_any_function_that_was_made_elsewhere(cursor: Any) -> None:
    cursor.execute("CREATE DATABASE code")
    cursor.execute("CREATE FUNCTION code.f() RETURNS INT BEGIN SET @a = RAND(); RETURN 1; END")
    cursor.execute("SELECT @@event_scheduler, @@log_bin")
    assert cursor.fetchone() == ("OFF", 1)
