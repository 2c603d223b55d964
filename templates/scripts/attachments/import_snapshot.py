"""A dump of some schemas of a MySQL server that is not ours, and where its binary log stood at the dump's moment.

    import_snapshot.py SOURCE.CNF SCHEMA… -- mysqldump …    the dump, after a line with the position, to standard output

MySQL tells no position of a snapshot. So writes to these schemas' tables, and to no others, are held up from before the
position is read until mysqldump's transaction has begun: fractions of a second. A statement that is under way there is
not waited for long, as everybody who writes would wait behind us: then it is tried again. Standard library only.
"""

import subprocess
import sys
import threading
import time

from sql_session import Session, SqlError

LOCK_SECONDS = 1  # so long others may wait behind us
BEGIN_SECONDS = 10.0  # within which mysqldump has begun; then the tables are let go of in any case
TRIES, PAUSE_SECONDS = 10, 5.0
WAITED_TOO_LONG = 1205
BEGUN = b"-- Current Database: "  # the first thing that mysqldump says from inside its transaction


def name(text):
    return "`" + text.replace("`", "``") + "`"


def quoted(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def lock_tables(session, schemas):
    """All tables of these schemas, for reading."""
    session.rows(f"SET SESSION lock_wait_timeout = {LOCK_SECONDS}")
    listed = ", ".join(map(quoted, schemas))
    tables = session.rows(
        "SELECT table_schema, table_name FROM information_schema.tables"
        f" WHERE table_schema IN ({listed}) AND table_type = 'BASE TABLE'"
    )
    if not tables:
        return
    locks = ", ".join(f"{name(schema)}.{name(table)} READ" for schema, table in tables)
    for attempt in range(1, TRIES + 1):
        try:
            session.rows(f"LOCK TABLES {locks}")
            return
        except SqlError as error:
            if error.number != WAITED_TOO_LONG or attempt == TRIES:
                raise
            print(f"A long transaction is under way there; again in {PAUSE_SECONDS:g} s", file=sys.stderr, flush=True)
            time.sleep(PAUSE_SECONDS)


def position(session):
    """[file, number]."""
    try:
        return session.rows("SHOW BINARY LOG STATUS")[0][:2]
    except SqlError:  # before 8.2
        return session.rows("SHOW MASTER STATUS")[0][:2]


def main():
    settings, *words = sys.argv[1:]
    schemas, command = words[: words.index("--")], words[words.index("--") + 1 :]
    session = Session(f"--defaults-extra-file={settings}")
    lock_tables(session, schemas)
    file, number = position(session)
    out = sys.stdout.buffer
    out.write(f"-- CHANGE REPLICATION SOURCE TO SOURCE_LOG_FILE='{file}', SOURCE_LOG_POS={number};\n".encode())
    too_late = threading.Event()
    dump = subprocess.Popen(command, stdout=subprocess.PIPE)

    def give_up():
        too_late.set()
        dump.kill()
        session.close()

    timer = threading.Timer(BEGIN_SECONDS, give_up)
    timer.start()
    for line in dump.stdout:
        if line.startswith(BEGUN):
            timer.cancel()
            session.close()
        out.write(line)
    timer.cancel()
    session.close()
    status = dump.wait()
    if too_late.is_set():
        sys.exit(f"mysqldump has not begun within {BEGIN_SECONDS:g} s, so the tables there were let go of")
    sys.exit(status)


if __name__ == "__main__":
    main()
