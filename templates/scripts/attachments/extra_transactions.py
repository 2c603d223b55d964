#!/usr/bin/env python3
# Written by relaunch: attachment of the script extra_transactions.sh. Change it there.
"""Prints, by mariadb-binlog or mysqlbinlog, the transactions of the binary log that the present primary does not have.

On MySQL it says so itself: its set of GTIDs. On MariaDB a transaction is known when the present primary has it or a
later one of the same origin: the server that wrote it first, in its replication domain. Newest files first, back to one
that holds a known one and has nothing unknown before it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

FOLDER = "/var/lib/mysql"
KEPT = "/var/lib/relaunch-extra"
NAME = re.compile(r"binlog\.[0-9]+$")
OF_MARIADB = re.compile(r"\bGTID ([0-9]+-[0-9]+-[0-9]+)\b")
OF_MYSQL = re.compile(r"SET @@SESSION\.GTID_NEXT= '([0-9a-f-]{36}:[0-9a-z_:]+)'")
BEFORE = re.compile(r"\t(?:Previous-GTIDs|Gtid list)\b")  # at the beginning of a file: what came before it
LISTED_BY_MARIADB = re.compile(r"(?<![\w-])[0-9]+-[0-9]+-[0-9]+(?![\w-])")
LISTED_BY_MYSQL = re.compile(r"^# ([0-9a-f-]{36}:.*)$", re.M)
A_GTID = re.compile(r"\t(?:Anonymous_|Tagged_)?GTID\b", re.I)
PROMPT = ":relaunch_prompt:"  # an empty transaction, by which the agent asks for a lost acknowledgement
SCHEMA = re.compile(r"\bTable_map: `([^`]+)`\.")
AT = re.compile(r"^# at [0-9]+$")


class KnownToMariaDB:
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

    def has(self, gtid):
        domain, server, number = map(int, gtid.split("-"))
        return number <= self.origins.get((domain, server), self.applied.get(domain, 0))

    def has_all_of(self, text):
        return all(self.has(gtid) for gtid in LISTED_BY_MARIADB.findall(text))


class KnownToMySQL:
    """`text`: the primary's gtid_executed, `uuid[:tag]:1-5:7[:tag:1-3],uuid…`."""

    def __init__(self, text):
        self.intervals = self.read(text)

    @staticmethod
    def read(text):
        intervals = {}
        for part in filter(None, "".join(text.lower().split()).split(",")):
            uuid, *fields = part.split(":")
            tag = ""
            for field in fields:
                if field[0].isdigit():
                    first, _, last = field.partition("-")
                    intervals.setdefault((uuid, tag), []).append((int(first), int(last or first)))
                else:
                    tag = field
        return intervals

    def has(self, gtid):
        uuid, *tag, number = gtid.lower().split(":")
        return self._has((uuid, "".join(tag)), int(number), int(number))

    def has_all_of(self, text):
        """But for our prompts: one that led before and follows again may have some alone for as long as it lives."""
        listed = self.read(",".join(LISTED_BY_MYSQL.findall(text)))
        missed = {key: each for key, each in listed.items() if key[1] != PROMPT.strip(":")}
        return all(self._has(key, *each) for key, intervals in missed.items() for each in intervals)

    def _has(self, key, low, high):
        return any(first <= low and high <= last for first, last in self.intervals.get(key, []))


def known_to_primary(text):
    return (KnownToMySQL if ":" in text else KnownToMariaDB)(text)


def events(file, unread):
    """Lists of lines, one for each event, up to where it can be read; when that is not its end, `unread` gets why."""
    with tempfile.TemporaryFile() as said:
        reader = subprocess.Popen(
            [shutil.which("mariadb-binlog") or "mysqlbinlog", "--base64-output=decode-rows", "-v", file],
            stdout=subprocess.PIPE,
            stderr=said,
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
        if reader.wait():
            said.seek(0)
            words = said.read().decode("utf-8", "replace").split("\n")
            why = [line for line in words if line.strip()] or [f"exit status {reader.returncode}"]
            unread.append(f"{os.path.basename(file)}: {why[-1]}")


def begun_by(event):
    """The GTID of the transaction that begins with this event; None for any other event."""
    found = next((match for line in event[:3] if (match := OF_MARIADB.search(line))), None)
    if found is None and any(A_GTID.search(line) for line in event[:2]):
        found = next((match for line in event if (match := OF_MYSQL.match(line))), None)
    return found and found[1]


def look_into(file, known, unread):
    """[(GTID, lines)] of the transactions that are not known, oldest first; and whether files before this one may
    have more of them. `unread`: as above."""
    found, lines, saw_known, knows_before = [], None, False, True
    for event in events(file, unread):
        if any(BEFORE.search(line) for line in event[:2]):
            knows_before = known.has_all_of("".join(event))
        gtid = begun_by(event)
        if gtid is not None:
            lines = None
            if known.has(gtid):
                saw_known = True
            else:
                lines = []
                found.append((gtid, lines))
        if lines is not None:
            lines += event
    return found, not (saw_known and knows_before)


def is_ours(gtid, lines):
    """A heartbeat or the like: of rows in the schema relaunch alone. Nobody misses it."""
    return PROMPT in gtid or {match[1] for line in lines if (match := SCHEMA.search(line))} == {"relaunch"}


def main():
    known = known_to_primary(os.environ["KNOWN_POSITIONS"])
    limit = int(os.environ.get("EXTRA_BYTES") or 3_500_000)
    files = sorted(file for file in os.listdir(FOLDER) if NAME.match(file))
    if not files:
        sys.exit(f"There is no binary log in {FOLDER}.")
    found, unread, own = [], [], 0
    for file in reversed(files):
        here, more = look_into(os.path.join(FOLDER, file), known, unread)
        theirs = [(file, gtid, lines) for gtid, lines in here if not is_ours(gtid, lines)]
        own += len(here) - len(theirs)
        found[:0] = theirs
        if not more:
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
    answer["unread"] = "; ".join(unread)
    print("EXTRA " + json.dumps(answer))


if __name__ == "__main__":
    main()
