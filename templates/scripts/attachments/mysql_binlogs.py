#!/usr/bin/env python3
# Written by relaunch: script configure_backups.sh. Change the script's attachment, not this file.
"""MySQL's binary log: where it ends, and the set of GTIDs a file of it begins with."""

import subprocess

import binlog_server
import gtid_sets

HEAD_BYTES = 1 << 18  # of a file: the set of what came before it is its second event
ONE_LINE = r"REPLACE(@@global.{}, '\n', '')"


def previous_gtids(path):
    """What was in the files before this one, as the log's own tool reads it; None when it finds nothing about that."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    said = subprocess.run(["mysqlbinlog", "-"], input=head, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return said_before(said.decode(errors="replace"))


def said_before(text):
    _, found, after = text.partition("Previous-GTIDs\n")
    lines = []
    for line in after.splitlines():
        if not line.startswith("# ") or line.startswith(("# at ", "# [empty]")):
            break
        lines.append(line[2:].strip())
    return "".join(lines) if found else None


class Server(binlog_server.Server):
    name = "MySQL"
    client_command = "mysql"
    processes = "performance_schema.processlist"
    where_it_stands = (
        "SELECT @@super_read_only OR @@offline_mode, @@log_bin_basename, @@hostname, "
        + ONE_LINE.format("gtid_executed")
        + "; SHOW BINARY LOG STATUS"
    )
    new_file = "FLUSH LOCAL BINARY LOGS"
    plain_again = "SET PERSIST binlog_encryption = OFF"

    def begins(self, path):
        """What was purged counts too: the first log file of a clone says that nothing came before it."""
        purged = self.ask(f"SELECT {ONE_LINE.format('gtid_purged')}")
        previous = previous_gtids(path)
        return None if not purged or previous is None else gtid_sets.union(purged[0][0], previous)

    def holds_all_after(self, begins, reached):
        return gtid_sets.holds(reached, begins)
