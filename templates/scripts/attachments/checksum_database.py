#!/usr/bin/env python3
# Written by relaunch: attachment of the script checksum_database.sh. Change it there.
"""Compares the primary with its replicas at the same position, without stopping anybody for long.

A piece of a table is summed by INSERT … SELECT in the binary log's format STATEMENT, in a session of its own: so what
is replicated is the question, not the answer, and every replica answers it for its own rows after exactly the same
transactions. The rows summed are share-locked, and only they, for the fraction of a second that a piece takes. The
next piece begins when each replica has done the one before: so none falls behind by more than one. A statement that a
replica could not run would stop its replication, so a table is looked at on every replica first.
"""

import contextlib
import json
import os
import sys
import tempfile
import threading
import time

from sql_session import IS_MARIADB, Session, SqlError, checked_tls, options_file

# relaunch_trial is where restore_schema.sh loads a schema for trial: on the primary alone.
SYSTEM = "('mysql', 'sys', 'information_schema', 'performance_schema', 'relaunch', 'relaunch_trial')"
# Of these a key's order is not that of its values as texts or numbers that a variable can hold.
UNFIT = ("enum", "set", "bit", "float", "double", "json", "geometry")
FIRST_ROWS, FEWEST_ROWS, MOST_ROWS = 1000, 100, 5_000_000
LONGEST_SECONDS = 2.0  # of one piece, then it is tried again smaller
TRIES = 10
AGAIN = (1205, 1213)  # it waited too long for a lock, or was chosen in a deadlock
TOO_LONG = (1969, 3024, 1317)
SAY_SECONDS = 2.0
SHOWN = 20  # pieces of a table that differ, named one by one


def quoted(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def name(text):
    return "`" + text.replace("`", "``") + "`"


class Table:
    def __init__(self, schema, table, rows, size):
        self.schema, self.table, self.rows, self.bytes = schema, table, int(rows), int(size)
        self.columns, self.key, self.binary = [], [], frozenset()

    @property
    def shown(self):
        return f"{self.schema}.{self.table}"

    @property
    def from_(self):
        return f"{name(self.schema)}.{name(self.table)}"

    @property
    def where(self):
        return f"table_schema = {quoted(self.schema)} AND table_name = {quoted(self.table)}"

    def read_structure(self, session):
        """Columns that hold something, and the primary key when pieces can be cut by it."""
        columns = session.rows(
            f"SELECT column_name, column_type, data_type FROM information_schema.columns WHERE {self.where}"
            " AND COALESCE(generation_expression, '') = '' ORDER BY ordinal_position"
        )
        types = {column: kind for column, _, kind in columns}
        key = [
            row[0]
            for row in session.rows(
                f"SELECT column_name FROM information_schema.statistics WHERE {self.where}"
                " AND index_name = 'PRIMARY' ORDER BY seq_in_index"
            )
        ]
        self.columns = [column for column, _, _ in columns]
        self.binary = frozenset(column for column, kind in types.items() if kind.endswith(("binary", "blob")))
        self.key = key if all(types.get(column, "json") not in UNFIT for column in key) else []
        return columns, key

    def sum(self):
        """The same number wherever the same rows are, whatever their order."""
        values = ",".join(f"COALESCE(HEX(CAST({name(column)} AS BINARY)), '-')" for column in self.columns)
        # SHA2, as MySQL has no MD5 any more.
        return f"COALESCE(SUM(CAST(CONV(LEFT(SHA2(CONCAT_WS(',', {values}), 256), 15), 16, 10) AS UNSIGNED)), 0)"

    def beyond(self, sign, variable):
        """Rows after (>) or up to (<=) the key in the variables @VARIABLE0, @VARIABLE1, …"""
        parts = []
        for number, column in enumerate(self.key):
            same = [f"{name(each)} = @{variable}{index}" for index, each in enumerate(self.key[:number])]
            last = number == len(self.key) - 1
            parts.append(" AND ".join([*same, f"{name(column)} {sign if last else sign[0]} @{variable}{number}"]))
        return "(" + " OR ".join(f"({part})" for part in parts) + ")"


class Comparison:
    def __init__(self, check, primary, replicas, *, chunk_seconds, wait_seconds):
        self.check, self.primary, self.replicas = check, primary, replicas
        self.chunk_seconds, self.wait_seconds = chunk_seconds, wait_seconds
        self.size = FIRST_ROWS
        self.last = ""  # position of the last piece
        self.said = time.monotonic()
        self.differences, self.unchecked, self.tables = [], [], []
        self.done_bytes = self.all_bytes = 0
        self.began = time.monotonic()

    def prepare(self):
        limit = f"max_statement_time = {LONGEST_SECONDS}" if IS_MARIADB else "information_schema_stats_expiry = 0"
        for statement in (
            "SET SESSION binlog_format = STATEMENT, time_zone = '+00:00', innodb_lock_wait_timeout = 1",
            f"SET SESSION {limit}",
            "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "CREATE DATABASE IF NOT EXISTS relaunch CHARACTER SET utf8mb4",
            "CREATE TABLE IF NOT EXISTS relaunch.checksums (id VARCHAR(64) NOT NULL, table_schema VARCHAR(64) NOT NULL,"
            " table_name VARCHAR(64) NOT NULL, piece INT UNSIGNED NOT NULL, row_count BIGINT UNSIGNED NOT NULL,"
            " row_sum DECIMAL(60, 0) NOT NULL, PRIMARY KEY (id, table_schema, table_name, piece)) ENGINE = InnoDB",
        ):
            self.primary.rows(statement)
        # Also what an attempt that was broken off has left.
        self.primary.rows("DELETE FROM relaunch.checksums")
        self.note_position()

    def note_position(self):
        """MySQL does not tell a session's last transaction: then everybody's until now."""
        last = self.primary.value("SELECT @@last_gtid") if IS_MARIADB else self.primary.position()
        self.last = last or self.last

    def all_tables(self):
        found = self.primary.rows(
            "SELECT table_schema, table_name, COALESCE(table_rows, 0), COALESCE(data_length, 0), engine FROM"
            " information_schema.tables WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')"
            f" AND table_schema NOT IN {SYSTEM} ORDER BY table_schema, table_name"
        )
        tables = []
        for schema, table, rows, size, engine in found:
            if engine != "InnoDB":
                self.unchecked.append({"table": f"{schema}.{table}", "why": f"its engine is {engine}"})
            else:
                tables.append(Table(schema, table, rows, size))
        self.all_bytes = sum(each.bytes for each in tables) or 1
        return tables

    def run(self):
        self.prepare()
        tables = self.all_tables()
        self.wait_for_replicas()
        for number, table in enumerate(tables, start=1):
            self.say(f"{table.shown}: table {number} of {len(tables)}{self.to_go()}")
            self.compare(table)
            self.done_bytes += table.bytes

    def compare(self, table):
        structure = table.read_structure(self.primary)
        unlike = [each for each in self.replicas if self.structure_on(self.replicas[each], table) != structure]
        if unlike:  # a change of the table may be on its way
            self.last = self.primary.position() or self.last
            self.wait_for_replicas()
            structure = table.read_structure(self.primary)
            unlike = [each for each in unlike if self.structure_on(self.replicas[each], table) != structure]
        if unlike:
            why = "the table is another one, or missing"
            self.differences += [
                {"table": table.shown, "replica": each, "from": "", "to": "", "why": why} for each in unlike
            ]
            return
        bounds = self.sum_pieces(table)
        if bounds is not None:
            self.wait_for_replicas()
            self.judge(table, bounds)

    @staticmethod
    def structure_on(session, table):
        return Table(table.schema, table.table, 0, 0).read_structure(session)

    def sum_pieces(self, table):
        """[(from, to)] of the pieces, as texts; None when it could not be done."""
        if not table.key and table.rows > 50_000:
            why = "it has no primary key that it could be cut by, and is too large for one piece"
            self.unchecked.append({"table": table.shown, "why": why})
            return None
        bounds, lower = [], ""
        while True:
            try:
                upper = self.upper_bound(table, lower) if table.key else None
                took = self.sum_piece(table, len(bounds), lower, upper)
            except SqlError as error:
                if error.number not in (*TOO_LONG, *AGAIN):
                    raise
                if self.size > FEWEST_ROWS and table.key:
                    self.size = max(FEWEST_ROWS, self.size // 4)
                    continue
                self.unchecked.append({"table": table.shown, "why": "its rows stay locked or take too long to read"})
                return None
            bounds.append((lower, upper or ""))
            if upper is None:
                return bounds
            faster = min(2.0, self.chunk_seconds / max(took, 0.001))
            self.size = int(min(MOST_ROWS, max(FEWEST_ROWS, self.size * faster)))
            lower = upper
            keys = range(len(table.key))
            self.primary.rows("SET " + ", ".join(f"@l{number} = @u{number}" for number in keys))
            self.say(f"{table.shown}: {len(bounds)} pieces, up to {upper}{self.to_go()}")

    def upper_bound(self, table, lower):
        """The key of the piece's last row into @u…, and as a text; None for the last piece, which has no end."""
        keys = ", ".join(map(name, table.key))
        into = ", ".join(f"@u{number}" for number in range(len(table.key)))
        self.primary.rows("SET " + ", ".join(f"@u{number} = NULL" for number in range(len(table.key))))
        where = f" WHERE {table.beyond('>', 'l')}" if lower else ""
        self.primary.rows(
            f"SELECT {keys} INTO {into} FROM {table.from_} FORCE INDEX (PRIMARY){where} ORDER BY {keys}"
            f" LIMIT {self.size - 1}, 1"
        )
        texts = ", ".join(
            f"CONCAT('0x', HEX(@u{number}))" if column in table.binary else f"QUOTE(@u{number})"
            for number, column in enumerate(table.key)
        )
        text = self.primary.value(f"SELECT CONCAT_WS(', ', {texts}) FROM DUAL WHERE @u0 IS NOT NULL")
        # What is no text all the same comes as halves of characters, which no answer may hold.
        return text and text.encode("utf-8", "backslashreplace").decode()

    def sum_piece(self, table, piece, lower, upper):
        """Seconds it took. Then the replicas are given the time to come to the piece before."""
        where = [table.beyond(">", "l")] if lower else []
        where += [table.beyond("<=", "u")] if upper is not None else []
        index = " FORCE INDEX (PRIMARY)" if table.key else ""
        statement = (
            f"INSERT INTO relaunch.checksums SELECT {quoted(self.check)}, {quoted(table.schema)},"
            f" {quoted(table.table)}, {piece}, COUNT(*), {table.sum()} FROM {table.from_}{index}"
            + (" WHERE " + " AND ".join(where) if where else "")
        )
        for attempt in range(TRIES):
            began = time.monotonic()
            try:
                with self.limited():
                    self.primary.rows(statement)
            except SqlError as error:
                if error.number not in AGAIN or attempt == TRIES - 1:
                    raise
                time.sleep(0.2)
                continue
            took = time.monotonic() - began
            before = self.last
            self.note_position()
            self.wait_for_replicas(before)
            return took
        raise AssertionError("unreachable: the last attempt raises")

    @contextlib.contextmanager
    def limited(self):
        """MySQL's own limit is for reading statements alone: there another session ends what takes too long."""
        if IS_MARIADB:
            yield
            return
        number = self.primary.value("SELECT CONNECTION_ID()")
        timer = threading.Timer(LONGEST_SECONDS, end_statement, [number])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            with contextlib.suppress(SqlError):  # what came too late for the statement meets this one
                self.primary.rows("DO 0")

    def wait_for_replicas(self, position=None):
        """Until each has executed up to this position; SqlError names the one that does not come."""
        position = self.last if position is None else position
        if not position:
            return
        for replica, session in self.replicas.items():
            end = time.monotonic() + self.wait_seconds
            while not session.has_come_to(position, SAY_SECONDS):
                if time.monotonic() > end:
                    raise SqlError(f"{replica} has not come to {position} within {self.wait_seconds:g} s")
                self.say(f"waiting for {replica}, which lags", at_once=True)

    def judge(self, table, bounds):
        question = (
            "SELECT piece, row_count, row_sum FROM relaunch.checksums WHERE"
            f" id = {quoted(self.check)} AND {table.where} ORDER BY piece"
        )
        here = {piece: found for piece, *found in self.primary.rows(question)}
        rows = sum(int(count) for count, _ in here.values())
        differing = []
        for replica, session in self.replicas.items():
            there = {piece: found for piece, *found in session.rows(question)}
            unlike = [piece for piece in here if there.get(piece) != here[piece]]
            if unlike:
                differing.append(replica)
            for piece in unlike[:SHOWN]:
                lower, upper = bounds[int(piece)]
                told = there.get(piece, ["no", ""])[0]
                why = f"{here[piece][0]} rows on the primary, {told} on {replica}"
                why = "rows with other contents" if told == here[piece][0] else why
                self.differences.append(
                    {"table": table.shown, "replica": replica, "from": lower, "to": upper, "why": why}
                )
            if len(unlike) > SHOWN:
                more = f"and {len(unlike) - SHOWN} more of {len(here)} pieces"
                self.differences.append({"table": table.shown, "replica": replica, "from": "", "to": "", "why": more})
        self.tables.append({"table": table.shown, "rows": rows, "pieces": len(here), "differs_on": differing})
        verdict = f"DIFFERS on {', '.join(differing)}" if differing else "the same everywhere"
        print(f"{table.shown}: {rows} rows in {len(here)} pieces: {verdict}", flush=True)

    def say(self, text, *, at_once=False):
        if at_once or time.monotonic() - self.said >= SAY_SECONDS:
            self.said = time.monotonic()
            print(f"… {text}", flush=True)

    def to_go(self):
        took = time.monotonic() - self.began
        if not self.done_bytes or took < SAY_SECONDS:
            return ""
        return f", about {took * (self.all_bytes - self.done_bytes) / self.done_bytes:.0f} s to go"


def end_statement(number):
    session = Session()
    with contextlib.suppress(SqlError):
        session.rows(f"KILL QUERY {number}")
    session.close()


def main():
    replicas = dict(each.split("=", 1) for each in os.environ["CHECKSUM_REPLICAS"].split())
    if not replicas:
        sys.exit("There is no replica to compare with.")
    primary = Session()
    if primary.value("SELECT @@read_only") != "0":
        sys.exit("This server takes no writes: it is not the primary.")
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for replica, address in replicas.items():
            options = options_file(
                f"{folder}/{replica}",
                host=address,
                user="seed",
                password=os.environ["REPLICATION_PASSWORD"],
                connect_timeout=10,
                **checked_tls(),
            )
            sessions[replica] = Session(options)
            sessions[replica].rows("SET time_zone = '+00:00'")
        comparison = Comparison(
            os.environ["CHECKSUM_ID"],
            primary,
            sessions,
            chunk_seconds=float(os.environ["CHECKSUM_CHUNK_SECONDS"]),
            wait_seconds=float(os.environ["CHECKSUM_WAIT_SECONDS"]),
        )
        comparison.run()
    found = {
        "replicas": sorted(replicas),
        "tables": comparison.tables,
        "differences": comparison.differences,
        "unchecked": comparison.unchecked,
        "seconds": round(time.monotonic() - comparison.began, 1),
    }
    print("CHECKSUM " + json.dumps(found))


if __name__ == "__main__":
    try:
        main()
    except SqlError as error:
        sys.exit(f"The comparison was given up: {error}")
