"""Secrets taken out of output: also when a value arrives in two pieces."""

from __future__ import annotations

import re
from typing import Iterable, List

SHORTEST_BYTES = 4  # a shorter value would blot out ordinary words
SHORTEST_LINE_BYTES = 16  # of a value with several lines, such as a key: each line is a secret of its own
SHOWN = "•••".encode()


class Masker:
    """Feed it bytes in order; what it returns may lag behind by the longest secret."""

    def __init__(self, secrets: Iterable[str]) -> None:
        values = set()
        for secret in secrets:
            value = secret.encode()
            if len(value) >= SHORTEST_BYTES:
                values.add(value)
            values.update(line for line in value.splitlines() if len(line) >= SHORTEST_LINE_BYTES)
        self._values: List[bytes] = sorted(values, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, self._values))) if self._values else None
        self._longest = len(self._values[0]) if self._values else 0
        self._held = b""

    def feed(self, piece: bytes, *, last: bool = False) -> bytes:
        if self._pattern is None:
            return piece
        data = self._held + piece
        keep = 0 if last else self._start_of_a_secret(data)
        # A match that reaches into the kept tail is complete already: it must not be cut in two.
        cut = len(data) - keep
        shown: List[bytes] = []
        at = 0
        for match in self._pattern.finditer(data):
            if match.start() >= cut:
                break
            shown += (data[at : match.start()], SHOWN)
            at = match.end()
        cut = max(cut, at)
        shown.append(data[at:cut])
        self._held = data[cut:]
        return b"".join(shown)

    def _start_of_a_secret(self, data: bytes) -> int:
        """How many bytes at the end of `data` could be the beginning of a secret."""
        for length in range(min(self._longest - 1, len(data)), 0, -1):
            tail = data[-length:]
            if any(len(value) > length and value.startswith(tail) for value in self._values):
                return length
        return 0
