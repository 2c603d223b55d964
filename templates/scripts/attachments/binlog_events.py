#!/usr/bin/env python3
# Written by relaunch: attachment binlog_events.py of the scripts that ship and restore. Change it there.
"""What the files of a binary log say of themselves, without any server.

    binlog_events.py goes-on POSITION FILE…   exit status 1 and why, when MariaDB's logs do not go on from there
    binlog_events.py comes-to MOMENT FILE…    exit status 1 when all that is in them, of MySQL's too, is from before
    binlog_events.py whole FILE               takes off what a crash has left of an event at its end, of MySQL's too

MOMENT is YYYY-MM-DD HH:MM:SS in UTC. The format is described in MariaDB's documentation: "Binlog Event Types".
"""

import datetime
import itertools
import mmap
import struct
import sys

MAGIC = b"\xfebin"
MAGIC_OF_ENCRYPTED = b"\xfdbin"  # MySQL's
HEAD = struct.Struct("<IBII")  # of each event: time, type, server, length; then 6 more bytes
NEXT = struct.Struct("<I")  # then: where the next event begins
HEAD_BYTES = 19
CLOSING = (3, 4)  # the last event of a file that was closed: the server stopped, or went on with the next file
CLOSING_BYTES = 600  # no such event is longer: it holds the next file's name
GTID, GTID_LIST, ENCRYPTED = 162, 163, 164


def events(data):
    """(time, type, server, where its body begins) of each event of a file; it may end within one."""
    at = len(MAGIC) if data[: len(MAGIC)] == MAGIC else len(data)
    while at + HEAD_BYTES <= len(data):
        time, kind, server, length = HEAD.unpack_from(data, at)
        yield time, kind, server, at + HEAD_BYTES
        at += max(length, HEAD_BYTES)


def opened(path):
    with open(path, "rb") as file:
        file.seek(0, 2)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b""


def is_encrypted(path):
    """MariaDB says so in the second event."""
    data = opened(path)
    kinds = [kind for _, kind, _, _ in itertools.islice(events(data), 2)]
    return data[: len(MAGIC)] == MAGIC_OF_ENCRYPTED or ENCRYPTED in kinds


def listed(data, at):
    """{domain: (server, number)} of the list of GTIDs at the beginning of a file."""
    (count,) = struct.unpack_from("<I", data, at)
    entries = [struct.unpack_from("<IIQ", data, at + 4 + 16 * each) for each in range(count & 0x0FFFFFFF)]
    return {domain: (server, number) for domain, server, number in entries}  # the last of a domain is its newest


def file_begins(path):
    """What its list says: all that came before it in the files before it."""
    data = opened(path)
    return next((listed(data, at) for _, kind, _, at in events(data) if kind == GTID_LIST), {})


def transactions(data):
    """(domain, server, number) of each."""
    for _, kind, server, at in events(data):
        if kind == GTID and at + 12 <= len(data):
            number, domain = struct.unpack_from("<QI", data, at)
            yield domain, server, number


def first_of(path, wanted):
    """(server, number) of the first transaction of this domain in the file; None when it has none."""
    found = ((server, number) for domain, server, number in transactions(opened(path)) if domain == wanted)
    return next(found, None)


def position_of(text):
    """{domain: (server, number)}."""
    parts = (each.strip().split("-") for each in text.split(",") if each.strip())
    found = {}
    for domain, server, number in parts:
        if int(number) >= found.get(int(domain), (0, 0))[1]:  # a state has several of a domain
            found[int(domain)] = (int(server), int(number))
    return found


def why_it_does_not_go_on(position, paths):
    """From there, in each domain: "" when the next one has the next number, and the one before is the same."""
    open_ones = position_of(position)
    for path in paths:
        data = opened(path)
        if not open_ones:
            break
        for domain, (server, number) in file_begins(path).items():
            if domain in open_ones and open_ones[domain][1] == number and open_ones[domain][0] != server:
                return another(domain, server, number, open_ones[domain][0])
        for domain, server, number in transactions(data):
            if domain not in open_ones or number < open_ones[domain][1]:
                continue
            known, reached = open_ones[domain]
            if number == reached and server != known:
                return another(domain, server, number, known)
            if number > reached + 1:
                return f"MISSING LINK: after {domain}-{known}-{reached} they go on with {domain}-{server}-{number}."
            if number > reached:
                del open_ones[domain]
                if not open_ones:
                    break
    return ""


def another(domain, server, number, known):
    return (
        f"ANOTHER HISTORY: they have {domain}-{server}-{number} where the backup has {domain}-{known}-{number}, which"
        " never was the group's. Restore an earlier backup."
    )


def was_closed(data):
    lengths = range(HEAD_BYTES, min(CLOSING_BYTES, len(data)) + 1)
    ends = ((length, HEAD.unpack_from(data, len(data) - length)) for length in lengths)
    return any(kind in CLOSING and said == length for length, (_, kind, _, said) in ends)


def make_whole(path):
    data = opened(path)
    if data[: len(MAGIC)] != MAGIC or was_closed(data):
        return
    at = len(MAGIC)
    while at + HEAD_BYTES <= len(data):
        _, kind, _, length = HEAD.unpack_from(data, at)
        if kind == ENCRYPTED:
            return
        if not HEAD_BYTES <= length <= len(data) - at:
            (ends,) = NEXT.unpack_from(data, at + HEAD.size)
            if any(data[at:]) and (length < HEAD_BYTES or ends != (at + length) % (1 << 32)):
                return  # it is damaged, not cut off: what decodes it says so
            break
        at += length
    with open(path, "r+b") as file:
        file.truncate(at)


def comes_to(moment, paths):
    return any(time >= moment for path in paths for time, _, _, _ in events(opened(path)))


def main(what, limit, *paths):
    if what == "goes-on":
        why = why_it_does_not_go_on(limit, paths)
        if why:
            sys.exit(why)
    elif what == "comes-to":
        at = datetime.datetime.fromisoformat(limit).replace(tzinfo=datetime.UTC)
        sys.exit(0 if comes_to(at.timestamp(), paths) else 1)
    elif what == "whole":
        make_whole(limit)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
