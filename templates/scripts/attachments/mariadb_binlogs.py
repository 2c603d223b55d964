#!/usr/bin/env python3
# Written by relaunch: script configure_backups.sh. Change the script's attachment, not this file.
"""MariaDB's binary log: where it ends, and the GTID position a file of it begins with."""

import struct

import binlog_server

GTID_LIST = 163  # the event


def file_begins(path):
    """{domain: (server, number)}, from its first events."""
    with open(path, "rb") as file:
        head = file.read(65536)
    at, position = 4, {}
    while head[:4] == binlog_server.MAGIC and at + 19 <= len(head):
        _, kind, _, length = struct.unpack_from("<IBII", head, at)
        if kind == GTID_LIST:
            (count,) = struct.unpack_from("<I", head, at + 19)
            for each in range(count & 0x0FFFFFFF):
                domain, server, number = struct.unpack_from("<IIQ", head, at + 23 + 16 * each)
                position[domain] = (server, number)  # the last of a domain is its newest
            break
        at += max(length, 19)
    return position


def numbers(position):
    """{domain: number} of a position's text."""
    parts = [each.strip().split("-") for each in position.split(",") if each.strip()]
    return {int(domain): int(number) for domain, _, number in parts}


class Server(binlog_server.Server):
    name = "MariaDB"
    client_command = "mariadb"
    where_it_stands = "SELECT @@read_only, @@log_bin_basename, @@hostname, @@gtid_binlog_pos; SHOW MASTER STATUS"
    new_file = "FLUSH LOCAL BINARY LOGS"

    def begins(self, path):
        known = sorted(file_begins(path).items())
        return ",".join(f"{domain}-{server}-{number}" for domain, (server, number) in known)

    def holds_all_after(self, begins, reached):
        there = numbers(reached)
        return all(number <= there.get(domain, 0) for domain, number in numbers(begins).items())
