#!/usr/bin/env python3
# Written by relaunch: script configure_backups.sh. Change the script's attachment, not this file.
"""MariaDB's binary log: where it ends, and the GTID position a file of it begins with."""

import binlog_events
import binlog_server


def numbers(position):
    """{domain: number} of a position's text."""
    return {domain: number for domain, (_, number) in binlog_events.position_of(position).items()}


class Server(binlog_server.Server):
    name = "MariaDB"
    client_command = "mariadb"
    where_it_stands = "SELECT @@read_only, @@log_bin_basename, @@hostname, @@gtid_binlog_pos; SHOW MASTER STATUS"
    new_file = "FLUSH LOCAL BINARY LOGS"

    def begins(self, path):
        """What the server was seeded with counts too: its first log file says that nothing came before it."""
        rows = self.ask("SELECT @@gtid_slave_pos, @@gtid_binlog_state")
        if not rows:
            return None
        seeded, logged = (binlog_events.position_of(text) for text in rows[0])
        position = binlog_events.file_begins(path)
        missing = seeded.keys() - position.keys()
        first = binlog_events.first_of(path, missing)
        for domain in missing:
            if domain in first:
                server, number = first[domain]
                before = (server, number - 1)
                position[domain] = seeded[domain] if seeded[domain][1] == number - 1 else before
            elif domain not in logged:
                position[domain] = seeded[domain]
        known = sorted(position.items())
        return ",".join(f"{domain}-{server}-{number}" for domain, (server, number) in known if number > 0)

    def holds_all_after(self, begins, reached):
        there = numbers(reached)
        return all(number <= there.get(domain, 0) for domain, number in numbers(begins).items())
