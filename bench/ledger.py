"""Writers that remember every acknowledged write: run inside a front end's network, as its apps are.

    python bench/ledger.py --host 127.0.1.1 --table ledger_1 --out FILE < password

One line per acknowledged write: worker, number, moment (seconds of the host's monotonic clock), server_id of the
primary that took it. Ends at SIGTERM. A write whose answer did not come is tried again under the next number.
"""

from __future__ import annotations

import argparse
import signal
import ssl
import sys
import threading
import time
from pathlib import Path

import pymysql

PAUSE_SECONDS = 0.005  # so that an outage is measured to 10 ms, and the machine is not busy with nothing else
TIMEOUT_SECONDS = 2.0
over = threading.Event()


def connection(args: argparse.Namespace, password: str) -> pymysql.Connection:
    return pymysql.connect(
        host=args.host,
        port=3306,
        user=args.user,
        password=password,
        database=args.database,
        autocommit=True,
        connect_timeout=TIMEOUT_SECONDS,
        read_timeout=TIMEOUT_SECONDS,
        write_timeout=TIMEOUT_SECONDS,
        ssl=ssl._create_unverified_context(),  # the listener's address is not the primary's name
    )


def write(worker: int, args: argparse.Namespace, password: str, out) -> None:  # type: ignore[no-untyped-def]
    number, session = 0, None
    while not over.is_set():
        number += 1
        try:
            if session is None:
                session = connection(args, password)
                with session.cursor() as cursor:
                    cursor.execute("SELECT @@server_id")
                    server = cursor.fetchone()[0]
            with session.cursor() as cursor:
                cursor.execute(f"INSERT INTO {args.table} VALUES (%s, %s, %s)", (worker, number, server))
            out.write(f"{worker} {number} {time.monotonic():.4f} {server}\n")
        except (pymysql.MySQLError, OSError):
            if session is not None:
                session._force_close()
            session = None
        time.sleep(PAUSE_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.1.1")
    parser.add_argument("--user", default="app")
    parser.add_argument("--database", required=True)
    parser.add_argument("--table", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rows", action="store_true", help="print the table's rows instead, and end")
    args = parser.parse_args()
    password = sys.stdin.readline().strip()
    if args.rows:
        with connection(args, password).cursor(pymysql.cursors.SSCursor) as cursor, args.out.open("w") as file:
            cursor.execute(f"SELECT worker, number FROM {args.table}")
            file.writelines(f"{worker} {number}\n" for worker, number in cursor)
        return
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    with connection(args, password).cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS {args.table}"
            " (worker INT, number INT, server BIGINT, PRIMARY KEY (worker, number))"
        )
    with args.out.open("w", buffering=1) as out:
        threads = [threading.Thread(target=write, args=(n, args, password, out)) for n in range(args.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
