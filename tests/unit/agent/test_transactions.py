"""Which clients' transactions are open, by what InnoDB says, and how long a fence waits for them."""

from __future__ import annotations

from typing import Any

from relaunch.databases.transactions import let_end, written

MARIADB = """
LIST OF TRANSACTIONS FOR EACH SESSION:
---TRANSACTION 3102, ACTIVE 4 sec
1 lock struct(s), heap size 1128, 0 row lock(s), undo log entries 1
MariaDB thread id 41, OS thread handle 139, query id 88 localhost app
---TRANSACTION 3101, ACTIVE (PREPARED) 0 sec
2 lock struct(s), heap size 1128, 1 row lock(s), undo log entries 2
MariaDB thread id 40, OS thread handle 138, query id 87 localhost app Commit
COMMIT
---TRANSACTION 421867, ACTIVE 9 sec
0 lock struct(s), heap size 1128, 0 row lock(s)
MariaDB thread id 39, OS thread handle 137, query id 80 localhost app Sending data
SELECT 1
---TRANSACTION (0x7f), not started
0 lock struct(s), heap size 1128, 0 row lock(s)
--------
FILE I/O
"""
MYSQL = """
---TRANSACTION 2587, ACTIVE 1 sec
1 lock struct(s), heap size 1128, 0 row lock(s), undo log entries 1
MySQL thread id 12, OS thread handle 140, query id 40 localhost root
"""


def test_those_that_have_written_are_told_from_those_that_read() -> None:
    assert written(MARIADB) == {41: "3102", 40: "3101"}
    assert written(MYSQL) == {12: "2587"}


class Told:
    def __init__(self, *said: str) -> None:
        self._said = list(said)
        self.asked = 0

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        self.asked += 1
        return [{"Status": self._said.pop(0) if len(self._said) > 1 else self._said[0]}]

    def run(self, statement: str, *values: Any) -> None:
        raise AssertionError(statement)


def test_it_waits_for_those_open_at_the_beginning_and_for_no_others() -> None:
    later = MYSQL.replace("2587", "2590")
    session = Told(MYSQL, MYSQL, later)

    assert let_end(session, 1.0)
    assert session.asked == 3


def test_it_waits_no_longer_than_it_may() -> None:
    assert not let_end(Told(MYSQL), 0.02)
    assert let_end(Told(""), 0.02)
