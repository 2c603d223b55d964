"""Which part of a script's output is sent now: all of it at first, a sample of a flood, always its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

PIECE_BYTES = 64 * 1024  # as JSON at most six times that: below the bus's limit of 1 MB
WHOLE_BYTES = 1024 * 1024
SAMPLE_BYTES_PER_SECOND = 64 * 1024
END_BYTES = 64 * 1024


@dataclass(frozen=True)
class Sent:
    """How far the stream was sent (or left out), and what may still be sent beyond WHOLE_BYTES at `at` (seconds)."""

    to: int = 0
    allowance: float = SAMPLE_BYTES_PER_SECOND
    at: float = 0.0


def next_piece(sent: Sent, *, total: int, ended: bool, now: float) -> Optional[Tuple[int, int]]:
    """The bytes [start, end) to send next, None when there is nothing to send for the moment."""
    left = total - sent.to
    if left <= 0:
        return None
    if ended:
        start = sent.to if total <= WHOLE_BYTES else max(sent.to, total - END_BYTES)
        if sent.to < WHOLE_BYTES:
            start = sent.to
        return start, min(total, start + PIECE_BYTES)
    if sent.to < WHOLE_BYTES:
        return sent.to, min(total, sent.to + PIECE_BYTES, WHOLE_BYTES)
    allowance = _allowance(sent, now)
    if left <= allowance:
        return sent.to, min(total, sent.to + PIECE_BYTES)
    if allowance >= SAMPLE_BYTES_PER_SECOND:
        return total - PIECE_BYTES, total
    return None


def after_sending(sent: Sent, piece: Tuple[int, int], *, now: float) -> Sent:
    start, end = piece
    if end <= WHOLE_BYTES:
        return Sent(end, sent.allowance, now)
    return Sent(end, max(0.0, _allowance(sent, now) - (end - start)), now)


def _allowance(sent: Sent, now: float) -> float:
    gained = max(0.0, now - sent.at) * SAMPLE_BYTES_PER_SECOND
    return min(float(SAMPLE_BYTES_PER_SECOND), sent.allowance + gained)


def on_character_bounds(data: bytes) -> Tuple[int, bytes]:
    """`data` without the half characters at its ends, and how many bytes were cut at its front."""
    front = 0
    while front < min(4, len(data)) and data[front] & 0xC0 == 0x80:
        front += 1
    back = len(data)
    for length in range(1, min(4, back - front) + 1):
        byte = data[back - length]
        if byte & 0xC0 == 0x80:
            continue
        needed = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        if needed > length:
            back -= length
        break
    return front, data[front:back]
