#!/usr/bin/env python3
# Written by relaunch: script configure_backups.sh. Change the script's attachment, not this file.
"""MariaDB's binary log: where it ends, and the GTID position a file of it begins with."""

import glob

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
    plain_again = "set encrypt_binlog = OFF in its configuration, and start MariaDB again"
    forget_position = "SET GLOBAL gtid_slave_pos = @@gtid_binlog_pos; "  # else backups say it, as the higher one

    def begins(self, path):
        """What the server was seeded with counts too: its first log file says that nothing came before it."""
        rows = self.ask("SELECT @@gtid_slave_pos, @@gtid_domain_id")
        if not rows:
            return None
        position, domain = binlog_events.file_begins(path), int(rows[0][1])
        seed = binlog_events.position_of(rows[0][0]).get(domain)  # of other domains there may be nothing to come
        if seed and domain not in position:
            first = self.first_from(path, domain)
            position[domain] = seed if first is None or first[1] == seed[1] + 1 else (first[0], first[1] - 1)
        known = sorted(position.items())
        return ",".join(f"{domain}-{server}-{number}" for domain, (server, number) in known if number > 0)

    def first_from(self, path, domain):
        """(server, number) of the first transaction of a domain in this file or those after it; None without any."""
        base = path.rpartition(".")[0]
        files = (each for each in glob.glob(f"{base}.[0-9]*") if each.rpartition(".")[2].isdigit())
        firsts = (binlog_events.first_of(each, domain) for each in sorted(files) if each >= path)
        return next(filter(None, firsts), None)

    def holds_all_after(self, begins, reached):
        there = numbers(reached)
        return all(number <= there.get(domain, 0) for domain, number in numbers(begins).items())
