#!/usr/bin/env python3
# Written by relaunch: attachment of the script extra_transactions.sh. Change it there.
"""Prints, by mariadb-binlog, the transactions of the binary log that the present primary does not have.

A transaction is known when the present primary has it or a later one of the same origin: the server that wrote it
first, in its replication domain. Newest files first, back to one that holds a known one: what is missing is at the end.
"""

import json
import os
import re
import subprocess
import sys

FOLDER = "/var/lib/mysql"
KEPT = "/var/lib/relaunch-extra"
NAME = re.compile(r"binlog\.[0-9]+$")
TRANSACTION = re.compile(r"\bGTID ([0-9]+)-([0-9]+)-([0-9]+)\b")
SCHEMA = re.compile(r"\bTable_map: `([^`]+)`\.")
AT = re.compile(r"^# at [0-9]+$")


class Known:
    """`text`: the last transaction of each origin in the primary's log, a slash, and the last it took from another
    server, of any origin: what it had when it was promoted."""

    def __init__(self, text):
        state, _, applied = text.partition("/")
        self.origins, self.applied = {}, {}
        for each in filter(None, f"{state},{applied}".split(",")):
            domain, server, number = map(int, each.strip().split("-"))
            self.origins[domain, server] = max(number, self.origins.get((domain, server), 0))
        for each in filter(None, applied.split(",")):
            domain, _, number = map(int, each.strip().split("-"))
            self.applied[domain] = number

    def has(self, domain, server, number):
        return number <= self.origins.get((domain, server), self.applied.get(domain, 0))


def events(file):
    """Lists of lines, one for each event, as mariadb-binlog tells them; a log cut short ends where it ends."""
    reader = subprocess.Popen(
        ["mariadb-binlog", "--base64-output=decode-rows", "-v", file],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    event = []
    for line in reader.stdout:
        if AT.match(line) and event:
            yield event
            event = []
        event.append(line)
    if event:
        yield event
    reader.wait()


def look_into(file, known):
    """[(GTID, lines)] of the transactions that are not known, oldest first; and whether one is."""
    found, lines, saw_known = [], None, False
    for event in events(file):
        begun = next((match for line in event[:3] if (match := TRANSACTION.search(line))), None)
        if begun is not None:
            domain, server, number = map(int, begun.groups())
            lines = None
            if known.has(domain, server, number):
                saw_known = True
            else:
                lines = []
                found.append((f"{domain}-{server}-{number}", lines))
        if lines is not None:
            lines += event
    return found, saw_known


def is_ours(lines):
    """A heartbeat or the like: of rows in the schema relaunch alone. Nobody misses it."""
    return {match[1] for line in lines if (match := SCHEMA.search(line))} == {"relaunch"}


def main():
    known = Known(os.environ["KNOWN_POSITIONS"])
    limit = int(os.environ.get("EXTRA_BYTES") or 3_500_000)
    files = sorted(file for file in os.listdir(FOLDER) if NAME.match(file))
    if not files:
        sys.exit(f"There is no binary log in {FOLDER}.")
    found, own = [], 0
    for file in reversed(files):
        here, saw_known = look_into(os.path.join(FOLDER, file), known)
        theirs = [(file, gtid, lines) for gtid, lines in here if not is_ours(lines)]
        own += len(here) - len(theirs)
        found[:0] = theirs
        if saw_known:
            break
    os.makedirs(KEPT, mode=0o700, exist_ok=True)
    told = 0
    with open(os.path.join(KEPT, "report.txt"), "w") as report:
        for file, gtid, lines in found:
            text = f"== transaction {gtid}, in {file}\n{''.join(lines)}"
            report.write(text)
            told += len(text.encode())
            if told <= limit:
                sys.stdout.write(text)
    if told > limit:
        print(f"… cut short: all {told} bytes are in {KEPT}/report.txt on this server")
    gtids = [gtid for _, gtid, _ in found]
    answer = {"count": len(gtids), "first": gtids[:1], "last": gtids[-1:], "bytes": told, "own": own}
    print("EXTRA " + json.dumps(answer))


if __name__ == "__main__":
    main()
