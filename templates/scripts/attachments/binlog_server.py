#!/usr/bin/env python3
# Written by relaunch: script configure_backups.sh. Change the script's attachment, not this file.
"""The server as the binary log's shipper asks it; what differs is in mariadb_binlogs.py and mysql_binlogs.py."""

import datetime
import os
import secrets
import select
import struct
import subprocess
import time

ANSWER_SECONDS = 10.0
MAGIC = b"\xfebin"
LINEAGE_KNOWN = (
    "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'relaunch' AND table_name = 'lineage'"
)
LINEAGE_MADE = (
    "CREATE DATABASE IF NOT EXISTS relaunch CHARACTER SET utf8mb4; "
    "CREATE TABLE IF NOT EXISTS relaunch.lineage (one TINYINT PRIMARY KEY, id VARCHAR(40) NOT NULL) ENGINE = InnoDB; "
    "INSERT IGNORE INTO relaunch.lineage VALUES (1, '{id}'); SELECT id FROM relaunch.lineage"
)
LINEAGE_NEXT = "UPDATE relaunch.lineage SET id = '{id}' WHERE id = '{known}'; SELECT id FROM relaunch.lineage"


def new_id():
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{stamp}-{secrets.token_hex(3)}"


def created(path):
    """When this log file was made: the time of its first event."""
    with open(path, "rb") as file:
        head = file.read(8)
    return struct.unpack_from("<I", head, 4)[0] if head[:4] == MAGIC and len(head) == 8 else 0


class Server:
    """A client kept running: asking costs no process."""

    name = ""
    client_command = ""
    processes = "information_schema.PROCESSLIST"
    where_it_stands = ""  # two statements: what `standing` makes a row of, and where the newest log file ends
    new_file = ""
    plain_again = ""  # what makes an encrypted log a plain one
    forget_position = ""  # when the log was reset: what is left of the numbers before

    def __init__(self):
        self.client = None
        self.session = ""  # its number in the server
        self.stuck = ""  # of one that was given up, and may wait there still
        self.lineage = (None, False, "")  # as the client that is kept open has read it: (client, takes writes, id)

    # What a dialect says

    def begins(self, path):
        """The position this log file begins with; None when the server does not answer."""
        raise NotImplementedError

    def holds_all_after(self, begins, reached):
        """Whether a log that begins at this position has everything that comes after `reached`."""
        raise NotImplementedError

    # What is the same

    def standing(self):
        """(takes writes, path of the log files without their number, host, position, newest log file, its end)."""
        # The file's end is read after the position: everything up to this position is before that end.
        rows = self.ask_where_it_writes(self.where_it_stands)
        if not rows or len(rows) < 2:
            return None
        read_only, base, host, gtid = rows[0]
        return read_only == "0", base, host, gtid, os.path.join(os.path.dirname(base), rows[1][0]), int(rows[1][1])

    def begin_new_file(self):
        self.ask_where_it_writes(self.new_file)

    def lineage_of(self, *, writable):
        """The id of the data's history; "" while nobody has given it one; None when the server does not answer.

        Data is replaced only while the server is stopped, which ends the client: until then the id stays what it is,
        unless a primary that is followed begins another history.
        """
        client, wrote, known = self.lineage
        if known and client is self.client and wrote == writable:
            return known
        there = self.ask(LINEAGE_KNOWN)
        if not there:
            return None
        found = []
        if there[0][0] == "1":
            found = self.ask("SELECT id FROM relaunch.lineage")
        if found == [] and writable:
            found = self.ask(LINEAGE_MADE.format(id=new_id()))
        if found is None:
            return None
        self.lineage = (self.client, writable, found[0][0] if found else "")
        return self.lineage[2]

    def begin_lineage(self, known):
        """The id that is next after `known`, which the data has unless another is there already; None when the server
        does not answer."""
        found = self.ask_where_it_writes(self.forget_position + LINEAGE_NEXT.format(id=new_id(), known=known))
        if not found:
            return None
        self.lineage = (self.client, True, found[0][0])
        return self.lineage[2]

    def ask(self, statements):
        """Rows as lists of texts; None when the server does not answer in time."""
        if self.client is None or self.client.poll() is not None:
            self.client = subprocess.Popen(
                [self.client_command, "-N", "-B", "--unbuffered", "--skip-reconnect"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            self.session = ""
            rows = self.answer("SELECT CONNECTION_ID()")
            if rows is None:
                return None
            self.session = rows[0][0]
        return self.answer(statements)

    def ask_where_it_writes(self, statements):
        """As `ask`, for what waits while commits wait for an acknowledgement: one session at a time, as one that waits
        there cannot be ended, and each that is given up would take one of the server's connections."""
        if self.stuck:
            # Its number may be another's in a server that was started again: that one is not at what hangs.
            hanging = [self.where_it_stands.rpartition("; ")[2], self.new_file, LINEAGE_NEXT.partition(" SET")[0]]
            rows = self.ask(
                f"SELECT COUNT(*) FROM {self.processes} WHERE ID = {self.stuck}"
                " AND (" + " OR ".join(f"INFO LIKE '{each}%'" for each in hanging) + ")"
            )
            if not rows or rows[0][0] != "0":
                return None
            self.stuck = ""
        return self.ask(statements)

    def answer(self, statements):
        try:
            self.client.stdin.write(f"{statements}; SELECT '#end';\n".encode())
            self.client.stdin.flush()
            text, deadline = b"", time.monotonic() + ANSWER_SECONDS
            while not text.endswith(b"#end\n"):
                ready, _, _ = select.select([self.client.stdout], [], [], max(0, deadline - time.monotonic()))
                self.stuck = self.stuck if ready else self.session
                more = os.read(self.client.stdout.fileno(), 65536) if ready else b""
                if not more:
                    raise OSError
                text += more
        except OSError:
            self.client.kill()
            self.client.wait()
            self.client = None
            return None
        return [line.split("\t") for line in text.decode().splitlines()[:-1]]
