"""Follow a server that is not ours: its binary log, of some schemas, is applied here as an application would write it.

Run by relaunch-import.service on each member of the group; only where writes are taken does it do anything. The
position is in relaunch.import_source, changed in the same transaction as the rows: none is applied twice or left out,
and after a failover the new primary goes on. A change of structure is a transaction by itself, before its position's:
ended by SIGTERM, both are waited for. What it writes has this group's own GTIDs, waits for its replicas and is refused
when this server is read-only. Standard library only.
"""

import calendar
import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time

IS_MARIADB = shutil.which("mariadb") is not None
CLIENT = "mariadb" if IS_MARIADB else "mysql"
FOLDER = "/etc/relaunch/import"
STATE = "/run/relaunch-import.json"
END = b"/*!*/;"
EVENT = re.compile(rb"#(\d{6})\s+(\d+:\d\d:\d\d) server id \d+  end_log_pos (\d+)(.*)", re.S)
ROTATE = re.compile(rb"\tRotate to (\S+)  pos: (\d+)")
TABLE = re.compile(rb"\tTable_map: `((?:[^`]|``)+)`\.`((?:[^`]|``)+)` mapped")
ALONE = re.compile(rb"\t(?:Start: |Gtid list|Binlog checkpoint|Stop|Previous-GTIDs)")
COMPRESSED = b"# Start of compressed events!"
NOT_OURS = re.compile(rb"(?:gtid_domain_id|server_id|gtid_seq_no|skip_parallel_replication|gtid_next)\s*=", re.I)
# Switched on it commits at once: rows here, without their position.
AUTOCOMMIT = re.compile(rb"@@session\.autocommit\s*=\s*\w+\s*,?\s*", re.I)
# Behind a description of the log MySQL expects a GTID; and to a replica settings of older versions are no error.
OWN_GTIDS = (
    b"" if IS_MARIADB else (b"SET @@SESSION.GTID_NEXT = 'AUTOMATIC', @@SESSION.PSEUDO_REPLICA_MODE = 1" + END + b"\n")
)
ACCOUNTS = re.compile(
    rb"\s*(?:GRANT|REVOKE|SET\s+(?:PASSWORD|DEFAULT|ROLE)|(?:CREATE|ALTER|DROP|RENAME)\s+(?:OR\s+REPLACE\s+)?(?:USER|ROLE|SERVER))\b",
    re.I,
)
NO_CHANGE = re.compile(rb"\s*(?:FLUSH|ANALYZE|CHECK|OPTIMIZE|REPAIR)\b", re.I)
CREATED_WITH_ROWS = re.compile(rb"\s+START\s+TRANSACTION(\s*/\*!\*/;\s*)$", re.I)  # MySQL's CREATE TABLE … SELECT
DEFINER = re.compile(
    rb"^(\s*(?:CREATE|ALTER)\s+(?:OR\s+REPLACE\s+)?(?:AGGREGATE\s+)?(?:ALGORITHM\s*=\s*\w+\s+)?)"
    rb"DEFINER\s*=\s*(?:`(?:[^`]|``)*`@`(?:[^`]|``)*`|'[^']*'@'[^']*'|[\w.]+@[\w.%]+|CURRENT_USER)",
    re.I,
)
IDLE_SECONDS = 0.02
BATCH_SECONDS = 0.2
WRITE_SECONDS = 0.5  # of positions without rows
AGAIN_SECONDS = 3.0


class Stop(Exception):
    """It cannot go on with this statement."""


class Follower:
    """From the text of mariadb-binlog or mysqlbinlog to what is applied here; `send` takes statements, delimiters."""

    def __init__(self, schemas, definer, file, position, send, now=time.time, own_gtids=b""):
        self.schemas = {name.encode() for name in schemas}
        names = b"|".join(re.escape(each) for each in sorted(self.schemas))
        self._mentioned = re.compile(rb"(?:`(?:%s)`|(?<![\w`$.])(?:%s))\s*\." % (names, names), re.I)
        self._definer = definer.encode()
        self._send, self._now, self._own_gtids = send, now, own_gtids
        self.stored = (file, position)  # as it is in the table
        self.reached = (file, position)  # the end of the last whole transaction
        self._file, self._end, self._time = file, position, 0
        self._lines, self._tables = [], set()
        self._current, self._sent_current = b"", b""
        self._inside = False  # of a transaction there
        self._touched = False  # which has changed rows of ours
        self._open = False  # a transaction here: one or several of there
        self._begun = 0.0
        self._started = False

    @property
    def is_due(self):
        """Several transactions become one here, while there are more: each costs a disk and a replica's answer."""
        return self._open and self._now() - self._begun > BATCH_SECONDS

    def line(self, line):
        """One line, with its end."""
        if not self._started:  # settings of the program itself, until it names its delimiter
            if line.startswith(b"DELIMITER "):
                self._started = True
                self._send(b"DELIMITER " + END + b"\n")
            elif line.startswith(b"#"):
                self._comment(line)
            return
        if not self._lines:
            if line.startswith(b"#"):
                self._comment(line)
                return
            if not line.strip() or line.startswith(b"DELIMITER "):
                return
        self._lines.append(line)
        if line.rstrip().endswith(END):
            text, alone = b"".join(self._lines), line.strip() == END
            self._lines = []
            self._statement(text, text.rstrip()[: -len(END)], alone)

    def _comment(self, line):
        event = EVENT.match(line)
        if not event:
            if line.startswith(COMPRESSED):
                raise Stop("binlog_transaction_compression is on there: its positions cannot be followed")
            return
        rotate = ROTATE.search(event[4])
        if rotate:
            self._file, self._end = rotate[1].decode(), int(rotate[2])
            if not self._inside:
                self.reached = (self._file, self._end)
            return
        if event[1] != b"700101" and int(event[3]):
            self._end = int(event[3])
            self._time = _moment(event[1], event[2])
            # A description of the log comes first wherever one begins to read.
            behind = self._file == self.reached[0] and self._end < self.reached[1]
            if not self._inside and not behind and ALONE.search(event[4]):
                self.reached = (self._file, self._end)
        table = TABLE.search(event[4])
        if table:
            self._tables.add((table[1].replace(b"``", b"`"), table[2]))

    def _statement(self, text, body, alone):
        word = body.strip().upper()
        if word in (b"START TRANSACTION", b"BEGIN"):
            self._inside, self._touched = True, False
        elif word in (b"COMMIT", b"ROLLBACK"):
            if word == b"ROLLBACK" and self._touched:
                raise Stop("a transaction of tables that are not transactional was rolled back there")
            if self._inside or self._touched:
                self.reached = (self._file, self._end)
            self._inside = self._touched = False
            if self.is_due:
                self.commit()
        elif word.startswith(b"BINLOG"):
            self._rows(text)
        elif not alone:
            self._setting(text, body)
        else:
            self._query(text, body)

    def _setting(self, text, body):
        if body.lower().startswith(b"use "):
            self._current = body[4:].strip().strip(b"`").replace(b"``", b"`")
        elif not NOT_OURS.search(body):
            ours = AUTOCOMMIT.sub(b"", body)
            if ours == body:
                self._send(text)
            elif ours.strip().upper() != b"SET":
                self._send(ours.rstrip(b", \n") + END + b"\n")

    def _rows(self, text):
        tables, self._tables = self._tables, set()
        ours = {each for each in tables if each[0] in self.schemas}
        if ours and ours != tables:
            names = ", ".join(sorted(b".".join(each).decode() for each in tables))
            raise Stop(f"one statement changed tables inside and outside of the imported schemas: {names}")
        if ours:
            self._begin()
        if ours:
            self._send(text)
        elif not tables:  # a description of the log, at the beginning of each file
            self.commit()
            self._send(text + self._own_gtids)

    def _query(self, text, body):
        if re.match(rb"\s*XA\b", body, re.I):
            raise Stop("an XA transaction cannot be followed")
        if re.match(rb"\s*(?:SAVEPOINT|ROLLBACK\s+TO|RELEASE)\b", body, re.I):
            self._begin()
            self._send(text)
            return
        inside = self._current in self.schemas
        if ACCOUNTS.match(body) or NO_CHANGE.match(body) or not (inside or self._mentioned.search(body)):
            self._passed()
            return
        if re.match(rb"\s*(?:DROP|CREATE)\s+(?:DATABASE|SCHEMA)\b", body, re.I):
            if re.match(rb"\s*CREATE", body, re.I):
                self._passed()
                return
            raise Stop("a schema was dropped there: " + body.decode("utf-8", "replace")[:200])
        self.commit()
        if inside and self._sent_current != self._current:
            self._send(b"use `" + self._current.replace(b"`", b"``") + b"`" + END + b"\n")
            self._sent_current = self._current
        text = CREATED_WITH_ROWS.sub(lambda found: found[1], text)
        self._send(DEFINER.sub(lambda found: found[1] + b"DEFINER=" + self._definer, text, count=1))
        self._passed()
        self._write(rows=True)

    def _passed(self):
        if not self._inside:
            self.reached = (self._file, self._end)

    def _begin(self):
        self._touched = True
        if not self._open:
            self._open, self._begun = True, self._now()
            self._send(b"START TRANSACTION\n" + END + b"\n")

    def commit(self):
        """What is applied and not committed yet, or the position alone. Not in the middle of a transaction there."""
        if not self._touched and self.stored != self.reached:
            self._write(rows=self._open)

    def _write(self, *, rows):
        """Only from the position that is known here: anybody else's change of it is an error, and undoes the rows."""
        (file, position), (new_file, new_position) = self.stored, self.reached
        changed = f", changed = {self._now():.3f}" if rows else ""
        self._send(
            f"UPDATE relaunch.import_source SET"
            f" position = IF(file = '{file}' AND position = {position}, {new_position}, (SELECT 1 UNION SELECT 2)),"
            f" file = '{new_file}', foreign_time = {self._time}{changed}"
            f" WHERE name = 'import'\n/*!*/;\nCOMMIT\n/*!*/;\n".encode()
        )
        self.stored, self._open = self.reached, False


def _moment(day, clock):
    hours, minutes, seconds = (int(each) for each in clock.split(b":"))
    year, month, date = int(day[:2]) + 2000, int(day[2:4]), int(day[4:])
    return calendar.timegm((year, month, date, hours, minutes, seconds))


def ask_ours(statement):
    """Rows of words; None when this server cannot be asked."""
    done = subprocess.run(
        [CLIENT, f"--defaults-extra-file={FOLDER}/ours.cnf", "-N", "-B", "-e", statement],
        capture_output=True, timeout=60,
    )  # fmt: skip
    if done.returncode != 0:
        return None, done.stderr.decode("utf-8", "replace").strip()
    return [line.split("\t") for line in done.stdout.decode().splitlines()], ""


def say(state, error=""):
    new = {"state": state, "error": error[-1000:]}
    try:
        with open(STATE) as file:
            if json.load(file) == new:
                return
    except (OSError, ValueError):
        pass
    with open(STATE + ".new", "w") as file:
        json.dump(new, file)
    os.rename(STATE + ".new", STATE)
    print(state, error, flush=True)


def reader(number):
    """What reads a foreign binary log from the server, as somebody of that number who follows it."""
    if not IS_MARIADB:
        return ["mysqlbinlog", "--skip-gtids", f"--connection-server-id={number}"]
    plain = ["--skip-annotate-row-events", "--skip-print-row-count", "--skip-gtid-strict-mode"]
    return ["mariadb-binlog", *plain, f"--stop-never-slave-server-id={number}"]


def follow(settings, file, position, ending=()):
    """Until one of the two programs ends, or something is in `ending`; what they said."""
    program, *words = reader(settings["server_id"])
    source = subprocess.Popen(
        [program, f"--defaults-extra-file={FOLDER}/source.cnf", "--read-from-remote-server", "--stop-never", *words,
         f"--start-position={position}", file],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "TZ": "UTC"},
    )  # fmt: skip
    ours = subprocess.Popen(
        [CLIENT, f"--defaults-extra-file={FOLDER}/ours.cnf", "--binary-mode", "--comments", "--max-allowed-packet=1G"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    follower = Follower(settings["schemas"], settings["definer"], file, position, ours.stdin.write, own_gtids=OWN_GTIDS)
    rest, written = b"", time.monotonic()
    watched = [source.stdout, ours.stderr]
    try:
        while not ending:
            ready, _, _ = select.select(watched, [], [], IDLE_SECONDS)
            if ours.stderr in ready:
                break
            if source.stdout in ready:
                piece = os.read(source.stdout.fileno(), 1 << 20)
                if not piece:
                    break
                lines = (rest + piece).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    follower.line(line + b"\n")
            if not ready or follower.is_due or time.monotonic() - written > WRITE_SECONDS:
                follower.commit()
                written = time.monotonic()
            ours.stdin.flush()
    except BrokenPipeError:
        pass
    finally:
        source.kill()
        try:
            # It has whole statements only. A change of structure would go on without its client, which so stays until
            # the position is changed, too. What is not committed then goes with the connection.
            with contextlib.suppress(BrokenPipeError):
                ours.stdin.close()
            said = ours.stderr.read()
            ours.wait()
        finally:
            source.wait()
    return (said + source.stderr.read()).decode("utf-8", "replace").strip()


def where_to_begin():
    """(file, position), ""; or None and why nothing is to be done now."""
    rows, error = ask_ours("SELECT @@read_only")
    if rows is None:
        return None, error
    if rows[0][0] != "0":
        return None, "this server takes no writes: it is not the primary"
    # FOR UPDATE: a commit of an earlier connection that still waits for its acknowledgement is waited for.
    rows, error = ask_ours("SELECT stage, file, position FROM relaunch.import_source WHERE name = 'import' FOR UPDATE")
    if rows is None:
        return None, error
    if not rows or rows[0][0] != "following":
        return None, "nothing is to be followed"
    return (rows[0][1], int(rows[0][2])), ""


def main():
    ending = []
    signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
    with open(f"{FOLDER}/settings.json") as file:
        settings = json.load(file)
    while not ending:
        begin, why = where_to_begin()
        if begin is None:
            say("waits", why)
            time.sleep(0.5)
            continue
        say("follows")
        began = time.monotonic()
        try:
            error = follow(settings, *begin, ending) or "the connection ended"
        except Stop as stop:
            error = str(stop)
        if not ending:
            say("broken" if time.monotonic() - began < 60 else "waits", error)
            time.sleep(AGAIN_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
