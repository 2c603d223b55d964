"""A MySQL as somebody else runs it, on this host: for importing from it. Its program is that of the contract tests."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from typing import Any

import pymysql
from mysql_lab import cached_root

PASSWORD = 'it\'s a \\ "secret"'
RIGHTS = "SELECT, LOCK TABLES, SHOW VIEW, TRIGGER, EVENT, REPLICATION SLAVE, REPLICATION CLIENT"
MORE_RIGHTS = f"{RIGHTS}, CREATE USER, PROCESS, CONNECTION_ADMIN"
SHOP = (
    "CREATE DATABASE shop CHARACTER SET latin1", "CREATE DATABASE other", "CREATE TABLE other.noise (i INT)",
    "GRANT ALL ON shop.* TO app@'%'", "GRANT ALL ON other.* TO app@'%'", "USE shop",
    "CREATE TABLE ledger (id INT PRIMARY KEY AUTO_INCREMENT, amount DECIMAL(9,2), note VARCHAR(99),"
    " raw BLOB, said JSON, place POINT, at TIMESTAMP(6) DEFAULT NOW(6))",
    "CREATE TABLE total (id INT PRIMARY KEY, n INT)", "INSERT INTO total VALUES (1, 0)",
    "CREATE TRIGGER counts AFTER INSERT ON ledger FOR EACH ROW UPDATE total SET n = n + 1 WHERE id = 1",
    "CREATE VIEW amounts AS SELECT id, amount FROM ledger",
    "CREATE FUNCTION twice (x INT) RETURNS INT DETERMINISTIC RETURN 2 * x",
    "SET SESSION cte_max_recursion_depth = 2000",
    "INSERT INTO ledger (amount, note, raw, said, place) WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1"
    " FROM s WHERE n < 2000) SELECT n, CONCAT('\\\\ '' ', CHAR(228 USING latin1)), UNHEX(SHA2(n, 256)),"
    " JSON_OBJECT('n', n), POINT(n, 1) FROM s",
)  # fmt: skip


class Foreign:
    """`gtid_mode` ON or OFF; its server id is 1, its settings are MySQL's own."""

    def __init__(self, name: str, host: str, port: int, *, gtid_mode: str) -> None:
        self.host, self.port = host, port
        self._root, _ = cached_root()
        self._data = f"/servers/foreign-{name}"
        self._folder = self._root / self._data.lstrip("/")
        mysqld = ["chroot", str(self._root), "/usr/sbin/mysqld", "--no-defaults", "--user=root"]
        self._words = [*mysqld, f"--datadir={self._data}/data"]
        gtids = [f"--gtid-mode={gtid_mode}", f"--enforce-gtid-consistency={gtid_mode}"]
        self._settings = [
            f"--socket={self._data}/s", f"--pid-file={self._data}/pid", f"--port={port}", f"--bind-address={host}",
            "--server-id=1", "--log-bin=theirs", "--mysqlx=OFF", "--secure-file-priv=NULL", "--skip-name-resolve",
            "--innodb-redo-log-capacity=8M", "--log-bin-trust-function-creators=ON", *gtids,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        subprocess.run([*self._words, "--initialize-insecure"], check=True, capture_output=True, timeout=120)
        with (self._folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*self._words, *self._settings],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < end and self.process.poll() is None, (self._folder / "log").read_text()[-3000:]
            time.sleep(0.2)
        self.sql("CREATE USER mover@'%%' IDENTIFIED BY %s", PASSWORD)
        self.sql("CREATE USER app@'%' IDENTIFIED BY 'app'")
        for statement in SHOP:
            self.sql(statement)

    def _answers(self) -> bool:
        with contextlib.suppress(pymysql.MySQLError, OSError):
            self._session = pymysql.connect(
                unix_socket=str(self._folder / "s"), user="root", autocommit=True, charset="utf8mb4"
            )
            return True
        return False

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._session.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def grant(self, rights: str = RIGHTS) -> None:
        static = ", ".join(each for each in rights.split(", ") if "_" not in each)
        self.sql(f"GRANT {static} ON *.* TO mover@'%'")
        for each in rights.split(", "):
            if "_" in each:
                self.sql(f"GRANT {each} ON *.* TO mover@'%'")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
