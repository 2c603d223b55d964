"""Sizes as people write them: `512M`, `2G`, powers of 1024."""

from __future__ import annotations

import re

from relaunch.errors import BadInput

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_size(text: str) -> int:
    """The bytes that `text` says; BadInput when it says none."""
    match = re.fullmatch(r"([0-9]+)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match or int(match[1]) == 0:
        raise BadInput(f"{text!r} is no size", hint="write a number and a unit: 512M, 2G")
    return int(match[1]) * _UNITS[match[2].upper()]


def shown_size(size_bytes: int) -> str:
    """The shortest exact way to write it."""
    for unit in ("T", "G", "M", "K"):
        if size_bytes and size_bytes % _UNITS[unit] == 0:
            return f"{size_bytes // _UNITS[unit]}{unit}"
    return str(size_bytes)
