"""The output of one script on disk: the first 20 MB and the last 2 MB, always valid UTF-8.

While it runs: `INDEX.log` is the head, `INDEX.log.ring` the newest bytes beyond it, `INDEX.log.progress` how many there
were in all. Shared by the runner, which writes, and the agent, which reads.
"""

from __future__ import annotations

import codecs
import contextlib
import os
from pathlib import Path
from typing import Iterable

from relaunch_agent.masking import Masker

HEAD_BYTES = 20 * 1024 * 1024
RING_BYTES = 2 * 1024 * 1024
LATE_BYTES = 1024 * 1024


class LogWriter:
    """Takes raw output; masks, decodes with replacement, and keeps what fits."""

    def __init__(
        self, log: Path, secrets: Iterable[str], *, head_bytes: int = HEAD_BYTES, ring_bytes: int = RING_BYTES
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._head_bytes, self._ring_bytes = head_bytes, ring_bytes
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._progress = os.open(progress_of(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._ring = -1
        self._ring_file = ring_of(log)
        self._masker = Masker(secrets)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.total = 0
        self._note()

    def write(self, raw: bytes, *, last: bool = False) -> None:
        data = self._decoder.decode(self._masker.feed(raw, last=last), last).encode()
        if not data:
            return
        head = data[: max(0, self._head_bytes - self.total)]
        with contextlib.suppress(OSError):  # a full disk must not stop the script
            if head:
                os.pwrite(self._log, head, self.total)
            if len(data) > len(head):
                self._write_ring(data[len(head) :], self.total + len(head) - self._head_bytes)
        self.total += len(data)
        self._note()

    def _write_ring(self, data: bytes, at: int) -> None:
        if self._ring < 0:
            self._ring = os.open(self._ring_file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        skipped = max(0, len(data) - self._ring_bytes)
        data, at = data[skipped:], at + skipped
        place = at % self._ring_bytes
        first = data[: self._ring_bytes - place]
        os.pwrite(self._ring, first, place)
        if len(first) < len(data):
            os.pwrite(self._ring, data[len(first) :], 0)

    def _note(self) -> None:
        with contextlib.suppress(OSError):
            os.pwrite(self._progress, b"%020d" % self.total, 0)


class LogReader:
    def __init__(self, log: Path, *, head_bytes: int = HEAD_BYTES, ring_bytes: int = RING_BYTES) -> None:
        self._log_file = log
        self._head_bytes, self._ring_bytes = head_bytes, ring_bytes

    def total(self) -> int:
        try:
            return int(progress_of(self._log_file).read_bytes() or b"0")
        except (FileNotFoundError, ValueError):
            return 0

    def read(self, start: int, end: int) -> bytes:
        """Bytes [start, end) of the stream; shorter at its front when the ring no longer has them."""
        tail = self._ring_part(max(start, self._head_bytes), end) if end > self._head_bytes else b""
        if start >= self._head_bytes or len(tail) < max(0, end - self._head_bytes):
            return tail
        with self._log_file.open("rb") as file:
            file.seek(start)
            return file.read(min(end, self._head_bytes) - start) + tail

    def _ring_part(self, start: int, end: int) -> bytes:
        with ring_of(self._log_file).open("rb") as file:
            content = file.read()
        # What the writer passed over while we read is no longer what it was.
        oldest = max(start, self.total() - self._ring_bytes)
        first = (oldest - self._head_bytes) % self._ring_bytes
        length = max(0, end - oldest)
        return (content[first:] + content[:first])[:length] if length else b""

    def fold(self) -> None:
        """Head and ring into one readable file, once the script has ended."""
        total = self.total()
        ring = ring_of(self._log_file)
        if ring.exists():
            start = max(self._head_bytes, total - self._ring_bytes)
            tail = self._ring_part(start, total)
            with self._log_file.open("ab") as log:
                log.write(f"\n[relaunch: {start - self._head_bytes} bytes left out here]\n".encode())
                log.write(tail)
            ring.unlink()


def progress_of(log: Path) -> Path:
    return log.with_name(f"{log.name}.progress")


def ring_of(log: Path) -> Path:
    return log.with_name(f"{log.name}.ring")


def late_of(log: Path) -> Path:
    """What detached children wrote after the script had ended."""
    return log.with_suffix(".late.log")
