"""Runs on a database server: writers that print, for each acknowledged row, worker, number, when it was asked for and
when it was answered (monotonic clock). Ends when its input does. bench/snapshots.py puts it there."""

import argparse
import sys
import threading
import time

sys.path.insert(0, "/root/s/attachments")
from sql_session import Session, SqlError

over = threading.Event()


def write(worker, pause, lines):
    session = Session()
    last = session.value(f"SELECT COALESCE(MAX(number), 0) FROM bench.ledger WHERE worker = {worker}")
    number = int(last or 0)
    while not over.is_set():
        number += 1
        began = time.monotonic()
        try:
            session.rows(f"INSERT INTO bench.ledger VALUES ({worker}, {number})")
        except SqlError as error:
            sys.exit(f"{worker}: {error}")
        lines.append(f"{worker} {number} {began:.6f} {time.monotonic():.6f}")
        time.sleep(pause)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.002)
    told = parser.parse_args()
    lines = []
    threads = [threading.Thread(target=write, args=(n, told.pause, lines)) for n in range(told.workers)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    print("\n".join(lines))


if __name__ == "__main__":
    main()
