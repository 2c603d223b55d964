"""Sets of GTIDs, the positions of MySQL: `uuid[:tag]:1-5:7, uuid…`. Pure. Shipped in the agent."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Dict, List, Tuple

from relaunch.errors import BadInput

Intervals = List[Tuple[int, int]]  # both ends included, sorted, apart from each other
GtidSet = Dict[Tuple[str, str], Intervals]  # by uuid and tag

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}")
INTERVAL = re.compile(r"([0-9]{1,19})(?:-([0-9]{1,19}))?", re.ASCII)
LARGEST = 2**63 - 2


def gtid_set(position: str) -> GtidSet:
    """`uuid[:tag]:1-5:7[:tag:1-3], uuid…` read; numbers before the first tag of a uuid have the tag ""."""
    found: Dict[Tuple[str, str], Intervals] = defaultdict(list)
    for part in "".join(position.split()).lower().split(","):
        if not part:
            continue
        uuid, *fields = part.split(":")
        if not UUID.fullmatch(uuid) or not fields:
            raise _unreadable(position, part)
        tag, bare_tag = "", False
        for text in fields:
            interval = INTERVAL.fullmatch(text)
            if interval:
                first, last = int(interval[1]), int(interval[2] or interval[1])
                if not 1 <= first <= LARGEST or not first <= last <= LARGEST:
                    raise _unreadable(position, text)
                found[uuid, tag].append((first, last))
                bare_tag = False
            elif TAG.fullmatch(text) and not bare_tag:
                tag, bare_tag = text, True
            else:
                raise _unreadable(position, text)
        if bare_tag:
            raise _unreadable(position, part)
    return {key: _merged(intervals) for key, intervals in found.items()}


def _unreadable(position: str, part: str) -> BadInput:
    return BadInput(f"not a set of GTIDs: {position[:200]!r}, at {part[:80]!r}", hint="uuid[:tag]:1-5:7, as MySQL says")


def _merged(intervals: Intervals) -> Intervals:
    merged: Intervals = []
    for first, last in sorted(intervals):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def text_of(gtids: GtidSet) -> str:
    """As MySQL writes it, in one line."""
    parts: Dict[str, List[str]] = {}
    for (uuid, tag), intervals in sorted(gtids.items()):
        fields = parts.setdefault(uuid, [uuid])
        if tag:
            fields.append(tag)
        fields += [f"{first}-{last}" if last > first else f"{first}" for first, last in intervals]
    return ",".join(":".join(fields) for fields in parts.values())


def union(position: str, other: str) -> str:
    """All of both."""
    both: Dict[Tuple[str, str], Intervals] = defaultdict(list)
    for gtids in (gtid_set(position), gtid_set(other)):
        for key, intervals in gtids.items():
            both[key] += intervals
    return text_of({key: _merged(intervals) for key, intervals in both.items()})


def without(position: str, other: str) -> str:
    """What of `position` is not in `other`: of a replica against its primary, the errant transactions."""
    taken = gtid_set(other)
    left: GtidSet = {}
    for key, intervals in gtid_set(position).items():
        rest: Intervals = []
        for first, last in intervals:
            for hole_first, hole_last in taken.get(key, []):
                if hole_last < first or hole_first > last:
                    continue
                if hole_first > first:
                    rest.append((first, hole_first - 1))
                first = hole_last + 1
            if first <= last:
                rest.append((first, last))
        if rest:
            left[key] = rest
    return text_of(left)
