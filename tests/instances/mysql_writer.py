"""Writes to whichever of some MySQL servers takes writes, and notes each write that was acknowledged.

    python mysql_writer.py OUT WORKERS ADDRESS… < password

A line per acknowledged write: worker, number, moment of the monotonic clock, the server's address. Ends at SIGTERM. A
write whose answer did not come is never tried again: the next has the next number.
"""

from __future__ import annotations

import signal
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pymysql

PAUSE_SECONDS = 0.01
over = threading.Event()


def connect(addresses: list[str], password: str) -> tuple[Any, str]:
    """A session on the server that takes writes; OSError when none does now."""
    for address in addresses:
        try:
            session: Any = pymysql.connect(
                host=address, user="app", password=password, database="shop", autocommit=True,
                connect_timeout=1, read_timeout=3, write_timeout=3, ssl=ssl._create_unverified_context(),
            )  # fmt: skip
        except (pymysql.MySQLError, OSError):
            continue
        with session.cursor() as cursor:
            cursor.execute("SELECT @@global.super_read_only")
            if not cursor.fetchone()[0]:
                return session, address
        session.close()
    raise OSError("no server takes writes")


def write(worker: int, addresses: list[str], password: str, out: Any) -> None:
    session, address, number = None, "", 0
    while not over.wait(PAUSE_SECONDS):
        try:
            if session is None:
                session, address = connect(addresses, password)
            number += 1
            with session.cursor() as cursor:
                cursor.execute("INSERT INTO ledger VALUES (%s, %s)", (worker, number))
            out.write(f"{worker} {number} {time.monotonic():.4f} {address}\n")
        except (pymysql.MySQLError, OSError):
            if session is not None:
                session._force_close()
            session = None


def main() -> None:
    out, workers, addresses, password = sys.argv[1], int(sys.argv[2]), sys.argv[3:], sys.stdin.readline().strip()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    with Path(out).open("w", buffering=1) as file:
        threads = [threading.Thread(target=write, args=(n, addresses, password, file)) for n in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
