"""The application of a server that is not ours, which goes on while its data is brought here."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from dataclasses import dataclass, field

import pymysql


@dataclass
class Writer:
    """A transaction each few milliseconds, with a note of each one that was acknowledged."""

    host: str
    port: int
    encrypted: bool = False  # as MySQL's default way to log in wants it
    acknowledged: list[int] = field(default_factory=list)
    unanswered: int | None = None  # whose commit was sent and has no answer: it may be there or not
    last: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(20)

    def accounts_for(self, rows: set[int]) -> bool:
        """Whether these rows are all that was acknowledged, and nothing but that and what had no answer.

        A cut-over ends the sessions of accounts it locks: one that is just committing may have its row and no answer.
        """
        return set(self.acknowledged) <= rows <= {*self.acknowledged, self.unanswered}

    def _write(self) -> None:
        with contextlib.suppress(pymysql.err.MySQLError):  # locked out: what a cut-over does
            self._write_until_told()

    def _write_until_told(self) -> None:
        tls = ssl._create_unverified_context() if self.encrypted else None
        with pymysql.connect(
            host=self.host, port=self.port, user="app", password="app", charset="utf8mb4", ssl=tls
        ) as connection:
            while not self._over.wait(0.02):
                with connection.cursor() as cursor:
                    row = "INSERT INTO shop.ledger (amount, note, raw) VALUES (%s, %s, %s)"
                    cursor.execute(row, (1.5, "it's ä \\ \n", b"\x00\xff'\n"))
                    number = int(cursor.lastrowid)
                    cursor.execute("UPDATE shop.ledger SET note = 'changed' WHERE id = %s", (number // 2,))
                    cursor.execute("INSERT INTO other.noise VALUES (%s)", (number,))
                    self.unanswered = number
                    connection.commit()
                self.acknowledged.append(number)
                self.unanswered = None
                self.last = time.time()
