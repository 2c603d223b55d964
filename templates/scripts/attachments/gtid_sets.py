#!/usr/bin/env python3
# Written by relaunch: an attachment of scripts for database servers. Change it there.
"""Sets of GTIDs, MySQL's positions: `uuid[:tag]:1-5:7, uuid…`.

gtid_sets.py holds ALL PART       ends with 0 when ALL has everything of PART, else with 1
gtid_sets.py union ONE OTHER      prints what is in either
gtid_sets.py unbroken SET <LIST   an error when a GTID of LIST, one a line and in the order of a log, is not in SET,
                                  but one that comes after it is: nothing may be left out of a history
"""

import re
import sys

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NUMBERS = re.compile(r"([0-9]+)(?:-([0-9]+))?")
TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}")


def read(text):
    """{(uuid, tag): [(first, last), …]} in order and apart from each other; ValueError names what is no set."""
    found = {}
    for part in "".join(text.split()).replace("\\n", "").lower().split(","):
        uuid, *fields = part.split(":")
        if not part:
            continue
        if not UUID.fullmatch(uuid) or not fields or TAG.fullmatch(fields[-1]):
            raise ValueError(f"not a set of GTIDs, as uuid:1-57: {part[:100]}")
        tag = ""
        for field in fields:
            numbers = NUMBERS.fullmatch(field)
            if numbers:
                first = int(numbers[1])
                found.setdefault((uuid, tag), []).append((first, int(numbers[2] or first)))
            elif TAG.fullmatch(field):
                tag = field
            else:
                raise ValueError(f"not a set of GTIDs, as uuid:1-57: {part[:100]}")
    return {key: merged(spans) for key, spans in found.items()}


def merged(spans):
    result = []
    for first, last in sorted(spans):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return result


def text_of(gtids):
    parts = {}
    for (uuid, tag), spans in sorted(gtids.items()):
        fields = parts.setdefault(uuid, [uuid])
        fields += [tag] if tag else []
        fields += [f"{first}-{last}" if last > first else f"{first}" for first, last in spans]
    return ",".join(":".join(fields) for fields in parts.values())


def union(one, other):
    both = read(one)
    for key, spans in read(other).items():
        both[key] = merged(both.get(key, []) + spans)
    return text_of(both)


def common(one, other):
    there = read(other)
    both = {
        key: [(max(low, first), min(high, last)) for low, high in there.get(key, ()) for first, last in spans]
        for key, spans in read(one).items()
    }
    held = {key: merged(span for span in spans if span[0] <= span[1]) for key, spans in both.items()}
    return text_of({key: spans for key, spans in held.items() if spans})


def holds(whole, part):
    there = read(whole)
    return all(
        any(low <= first and last <= high for low, high in there.get(key, ()))
        for key, spans in read(part).items()
        for first, last in spans
    )


def unbroken(wanted, listed):
    """See above."""
    there, left_out = read(wanted), ""
    for gtid in listed:
        ((key, ((number, _),)),) = read(gtid).items()
        if not any(first <= number <= last for first, last in there.get(key, ())):
            left_out = gtid
        elif left_out:
            raise ValueError(f"{gtid} comes after {left_out}, which the position leaves out: name that too")


def main(words):
    try:
        if words[:1] == ["holds"]:
            return 0 if holds(words[1], words[2]) else 1
        if words[:1] in (["union"], ["common"]):
            print({"union": union, "common": common}[words[0]](words[1], words[2]))
            return 0
        if words[:1] == ["unbroken"]:
            unbroken(words[1], (line.strip() for line in sys.stdin if line.strip()))
            return 0
    except (ValueError, IndexError) as error:
        print(f"gtid_sets: {error}", file=sys.stderr)
        return 2
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
