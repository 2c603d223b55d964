#!/usr/bin/env python3
# Written by relaunch: attachment mariadb_replay.py of the scripts that restore MariaDB. Change it there.
"""What mariadb-binlog has decoded, as a client can replay it; between the two.

A server that follows takes three kinds of events as they are meant, and a client does not:

    CREATE TABLE … SELECT    A table and its rows under one GTID. From a client the table is a transaction of its own,
                             and the rows have none left: the table is made unlogged, and the rows have the GTID.
    DROP TABLE               Logged with the tables that were not there, too: it is IF EXISTS.
    what failed in part      DROP USER of one that is there and one that is not: logged with its error, which it gives
                             again. That error ends no replay, any other does.
"""

import itertools
import re
import signal
import sys

END = b"/*!*/;\n"
BEGIN = b"START TRANSACTION\n"
LAST_OF_ROWS = b"'" + END
ROWS = (b"BINLOG ", b"SET @binlog_fragment")
TABLE = re.compile(rb"CREATE (OR REPLACE )?TABLE ")
DROP = re.compile(rb"DROP (TABLE|SEQUENCE) (?!IF EXISTS )")
CUT_OFF = (b"ROLLBACK", b"DELIMITER ")  # what follows a transaction that has no end
FAILED = re.compile(rb"#[0-9]+ .*\tQuery\t.*\terror_code=([1-9][0-9]*)")
BROKEN_OFF = (b"1053", b"1317", b"1927", b"1969")  # by a shutdown, a kill or a limit: nobody knows where


def is_note(line):
    """A comment, or a setting in front of a statement; a statement may begin with a comment of its own."""
    return line.startswith((b"#", b"\n")) or (line.startswith((b"SET ", b"use ", b"/*!")) and line.endswith(b"*/;\n"))


def rest(line, lines):
    """A statement from its first line on."""
    yield line
    if line.startswith(ROWS) and line.endswith(b"'\n"):  # which may be gigabytes
        rows = iter(lines.__next__, LAST_OF_ROWS)
        yield from iter(lambda: b"".join(itertools.islice(rows, 1000)), b"")
        yield LAST_OF_ROWS
    elif not line.endswith(END):
        for line in lines:
            yield line
            if line.endswith(END):
                break


def for_a_client(lines):
    lines = iter(lines)
    begun, table, number, error = False, b"", b"", b""
    for line in lines:
        if line == BEGIN:
            next(lines, b"")
            begun = True
            continue
        if is_note(line):
            failed = FAILED.match(line)
            error = failed[1] if failed else error
            number = line if b"SET @@session.gtid_seq_no=" in line else number
            yield line
            continue
        if begun and not table and not error and TABLE.match(line):
            table = b"".join(rest(line, lines))
            continue
        if table and line.startswith(ROWS):
            yield b"SET sql_log_bin = 0" + END + table + b"SET sql_log_bin = 1" + END + number
            table = b""
        if begun:
            yield BEGIN + END + (b"" if line.startswith(CUT_OFF) else table)
            begun, table = False, b""
        line = DROP.sub(rb"DROP \1 IF EXISTS ", line, count=1) if DROP.match(line) else line
        if error and error not in BROKEN_OFF:
            statement = b"".join(rest(line, lines)).removesuffix(END)
            yield b"BEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR %s BEGIN END; %s; END\n" % (error, statement) + END
        else:
            yield from rest(line, lines)
        error = b""


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the client says why it ended
    sys.stdout.buffer.writelines(for_a_client(sys.stdin.buffer))
