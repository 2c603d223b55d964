"""The binary log's shipper beside real servers whose log is reset, loses a file that is written, or is encrypted."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mariadb_lab import MariaDBServer, server_alone
from mysql_lab import mysql_lab

from relaunch.databases.mariadb import MariaDB

ATTACHMENTS = Path(__file__).parents[2] / "templates/scripts/attachments"
pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


class FolderStore:
    """The store as a folder, which rclone reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, key: str, body: bytes) -> None:
        (self.folder / key).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / key).write_bytes(body)

    def histories(self) -> list[str]:
        return sorted(each.name for each in self.folder.iterdir())


def shipper(monkeypatch: pytest.MonkeyPatch, folder: Path, dialect: str, root: Path | str) -> Any:
    """A primary's; the paths its server says are of that root."""
    monkeypatch.syspath_prepend(str(ATTACHMENTS))
    ship: Any = importlib.import_module("ship_binlogs")
    (folder / "bin").mkdir()
    (folder / "bin/relaunch-local").write_text("#!/bin/sh\ncase $1 in role) echo primary ;; get) echo 7 ;; esac\n")
    (folder / "bin/relaunch-local").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("RCLONE_CONFIG", "/nonexistent")
    monkeypatch.setattr(ship, "STATE", str(folder / "shipping.json"))
    monkeypatch.setattr(ship, "SHIP_SECONDS", 0.0)
    monkeypatch.setattr(ship, "sealed", lambda data, recipient: data)
    server = importlib.import_module(f"{dialect}_binlogs").Server()
    standing = server.standing

    def standing_here() -> Any:
        said = standing()
        return said and [f"{root}{each}" if str(each).startswith("/") else each for each in said]

    server.standing = standing_here
    keys = {f"RCLONE_CONFIG_STORE_{name}": "x" for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION", "ENDPOINT")}
    made = ship.Shipper({"BACKUP_RECIPIENT": "age1", "BACKUP_ROOT": f"store:{folder}/store", **keys}, server)
    made.environment = {"BACKUP_ROOT": str(folder / "store")}
    made.store = FolderStore(folder / "store")
    return made


def shipped(made: Any) -> str:
    made.seen, made.looked_for_backup = None, float("-inf")
    made.look()
    return str(made.at["state"])


def is_well_once_backed_up(made: Any) -> bool:
    name = f"{made.at['lineage']}/backups/29991231T000000Z-full-db1/manifest.json"
    made.store.put(name, b"{}")
    state = shipped(made)
    (made.store.folder / name).unlink()
    return state == "ok"


@pytest.fixture
def mariadb() -> Iterator[MariaDBServer]:
    with server_alone(15) as made:
        yield made


@pytest.fixture
def beside_mariadb(mariadb: MariaDBServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Once a replica, which has come to 7-99-400; the primary now."""
    plain = subprocess.Popen

    def inside(words: list[str], **how: Any) -> Any:
        """The client of the server's own Debian, by its socket."""
        if words[0] == "mariadb":
            words = ["chroot", mariadb.root, words[0], f"--socket={mariadb.inside}/sock", *words[1:]]
        return plain(words, **how)

    monkeypatch.setattr(subprocess, "Popen", inside)
    session = mariadb.session()
    session.run("SET GLOBAL gtid_slave_pos = '7-99-400'")
    MariaDB().promote(session, required=False)
    mariadb.make_accounts()
    made = shipper(monkeypatch, tmp_path, "mariadb", mariadb.root)
    assert shipped(made) == "ok"
    yield made
    if made.server.client is not None:
        made.server.client.kill()
        made.server.client.wait()


def write(server: MariaDBServer) -> None:
    client = server.client()
    client.cursor().execute("INSERT INTO a (s) VALUES ('x')")
    client.close()


def newest(server: MariaDBServer) -> Path:
    (row,) = server.session().rows("SHOW MASTER STATUS")
    return server.folder / "data" / str(row["File"])


@pytest.mark.parametrize("written", [0, 3])
def test_a_mariadb_whose_log_is_reset_goes_on_in_another_history(
    mariadb: MariaDBServer, beside_mariadb: Any, written: int
) -> None:
    before = beside_mariadb.at["lineage"]
    session = mariadb.session()
    time.sleep(1.1)  # log files are told apart by the second in which they were made
    session.run("RESET MASTER")
    for _ in range(written):
        write(mariadb)

    assert shipped(beside_mariadb) == "reset"

    lineage = beside_mariadb.at["lineage"]
    assert session.rows("SELECT id FROM relaunch.lineage") == [{"id": lineage}]
    assert beside_mariadb.store.histories() == sorted([before, lineage])
    write(mariadb)
    assert shipped(beside_mariadb) == "reset"
    # What a backup says of where it is. Where this server was as a replica is of the numbers before.
    assert session.rows("SELECT @@gtid_current_pos = @@gtid_binlog_pos AS same") == [{"same": 1}]
    assert session.rows("SELECT @@gtid_binlog_pos AS at") == [{"at": f"7-15-{written + 2}"}]
    assert is_well_once_backed_up(beside_mariadb)


def test_a_mariadb_whose_log_file_is_removed_while_it_is_written_goes_on_with_the_next(
    mariadb: MariaDBServer, beside_mariadb: Any
) -> None:
    write(mariadb)
    removed = newest(mariadb)
    removed.unlink()
    write(mariadb)

    assert shipped(beside_mariadb) == "gap"
    write(mariadb)

    for _ in range(2):  # the second ships what the first has written, where the server took the same number again
        assert shipped(beside_mariadb) in ("gap", "reset")
    assert beside_mariadb.at["position"] == newest(mariadb).stat().st_size
    assert is_well_once_backed_up(beside_mariadb)


def test_an_encrypted_log_of_mariadb_is_known_and_refused(
    mariadb: MariaDBServer, beside_mariadb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mariadb.folder / "keys").write_text("1;" + "0f" * 32 + "\n")
    mariadb.kill()
    mariadb.settings = (
        "--plugin-load-add=file_key_management", f"--file-key-management-filename={mariadb.inside}/keys",
        "--encrypt-binlog=ON",
    )  # fmt: skip
    mariadb.start()
    session = mariadb.session()
    session.run("SET GLOBAL read_only = OFF")
    write(mariadb)
    encrypted: Any = importlib.import_module("ship_binlogs").Encrypted
    with pytest.raises(encrypted, match=re.escape(f"{newest(mariadb).name} can be replayed by no other server: set")):
        for _ in range(2):  # one sees that the server was started again
            shipped(beside_mariadb)

    mariadb.kill()
    mariadb.settings = ("--plugin-load-add=file_key_management", mariadb.settings[1])
    mariadb.start()
    mariadb.session().run("SET GLOBAL read_only = OFF")
    write(mariadb)

    for _ in range(2):
        state = shipped(beside_mariadb)
    assert state == "gap" and beside_mariadb.at["position"] == newest(mariadb).stat().st_size
    assert is_well_once_backed_up(beside_mariadb)


def test_a_mysql_whose_log_is_reset_or_loses_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = subprocess.Popen
    with mysql_lab() as lab:
        mysql = lab.fresh()[0]
        session = mysql.session()
        session.run("SET GLOBAL super_read_only = OFF")
        session.run("SET GLOBAL read_only = OFF")

        def inside(words: list[str], **how: Any) -> Any:
            """The log's own tool of the server's Debian."""
            return plain(["chroot", str(lab.root), *words] if words[0] == "mysqlbinlog" else words, **how)

        def ask(statements: str) -> Any:
            rows = [row for each in statements.split("; ") for row in session.rows(each)]
            return [[str(value) for value in row.values()] for row in rows]

        monkeypatch.setattr(subprocess, "Popen", inside)
        made = shipper(monkeypatch, tmp_path, "mysql", lab.root)
        made.server.ask = ask

        def write(times: int = 1) -> None:
            for _ in range(times):
                session.run("INSERT INTO shop.orders (what) VALUES ('x')")

        def newest() -> Path:
            (row,) = session.rows("SHOW BINARY LOG STATUS")
            return Path(f"{lab.root}{mysql.data}/{row['File']}")

        write(5)
        assert shipped(made) == "ok"
        before = made.at["lineage"]
        time.sleep(1.1)
        session.run("RESET BINARY LOGS AND GTIDS")
        write(9)

        assert shipped(made) == "reset"
        assert session.rows("SELECT id FROM relaunch.lineage") == [{"id": made.at["lineage"]}]
        assert made.store.histories() == sorted([before, made.at["lineage"]])
        assert is_well_once_backed_up(made)

        newest().unlink()
        write()
        assert shipped(made) == "gap"
        write()
        for _ in range(2):  # the second ships what the first has written, where the server took the same number again
            assert shipped(made) in ("gap", "reset")
        assert made.at["position"] == newest().stat().st_size
        assert is_well_once_backed_up(made)
