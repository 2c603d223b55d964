"""What scripts wrote: `logs/runs/RUN/INDEX.log` and the pieces after it, bounded, in order, readable while they grow.

Offsets count bytes of the stream as the agent counts them. A piece file is named by where it starts (`0.log.1048576`);
of a flood the beginning and the end are kept, and where something is missing a line says so when it is read.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from relaunch.bus.messages import Output
from relaunch.errors import NotFound

PIECE_BYTES = 1_000_000
HEAD_BYTES = 4_000_000  # of the beginning, never dropped
KEPT_BYTES = 8_000_000  # of one script
KEPT_PIECES = 64
READ_BYTES = 262_144
STREAMS_REMEMBERED = 1_000
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Text from `offset` on; go on at `next_offset`. `total_bytes` is where the stream ends so far."""

    text: str
    offset: int
    next_offset: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    file: Path
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


class OutputLogs:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._streams: dict[tuple[str, int], list[_Piece]] = {}
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Called after each piece; must return at once."""
        self._listeners.append(listener)

    def append(self, output: Output) -> None:
        """Keep what of it is new; told twice is kept once."""
        pieces = self._pieces(output.run_id, output.index)
        end = pieces[-1].end if pieces else 0
        data = output.text.encode("utf-8", "replace")[max(0, end - output.offset) :]
        if not data:
            return
        start = max(end, output.offset)
        if not pieces or start != end or pieces[-1].length >= PIECE_BYTES:
            pieces.append(_Piece(file=self._piece_file(output.run_id, output.index, start), start=start, length=0))
        last = pieces[-1]
        last.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with last.file.open("ab") as handle:
            handle.write(data)
        pieces[-1] = replace(last, length=last.length + len(data))
        while _too_much(pieces):
            dropped = next(
                (i for i, piece in enumerate(pieces[:-1]) if piece.start >= HEAD_BYTES), max(0, len(pieces) // 2)
            )
            pieces.pop(dropped).file.unlink(missing_ok=True)
        for listener in self._listeners:
            listener()

    def read(self, run_id: str, index: int, offset: int = 0, *, limit: int = READ_BYTES) -> Reading:
        """Up to `limit` bytes from `offset`; a character that is not whole yet is left for the next reading."""
        pieces = self._pieces(run_id, index)
        total = pieces[-1].end if pieces else 0
        piece = next((piece for piece in pieces if piece.end > offset), None)
        if piece is None:
            return Reading(text="", offset=offset, next_offset=offset, total_bytes=total)
        if piece.start > offset:
            left_out = f"\n[relaunch: {piece.start - offset} bytes left out here]\n"
            return Reading(text=left_out, offset=offset, next_offset=piece.start, total_bytes=total)
        with piece.file.open("rb") as handle:
            handle.seek(offset - piece.start)
            data = handle.read(limit)
        whole = data[: _whole(data)] if offset + len(data) < total else data
        return Reading(
            text=whole.decode("utf-8", "replace"), offset=offset, next_offset=offset + len(whole), total_bytes=total
        )

    def tail(self, run_id: str, index: int, *, limit: int = 2 * READ_BYTES) -> str:
        """The end of it, "" when there is none."""
        pieces = self._pieces(run_id, index)
        texts: list[str] = []
        offset = max(0, pieces[-1].end - limit) if pieces else 0
        while (reading := self.read(run_id, index, offset)).next_offset > offset:
            texts.append(reading.text)
            offset = reading.next_offset
        return "".join(texts)

    def forget(self, run_id: str) -> None:
        """All that this run's scripts wrote."""
        for key in [key for key in self._streams if key[0] == run_id]:
            del self._streams[key]
        shutil.rmtree(self._folder / run_id, ignore_errors=True)

    def _pieces(self, run_id: str, index: int) -> list[_Piece]:
        if not RUN_ID.fullmatch(run_id) or not 0 <= index < 10_000:
            raise NotFound(f"no run {run_id[:64]!r} with a script {index}")
        key = (run_id, index)
        if key not in self._streams:
            if len(self._streams) >= STREAMS_REMEMBERED:
                del self._streams[next(iter(self._streams))]
            self._streams[key] = self._found(run_id, index)
        return self._streams[key]

    def _found(self, run_id: str, index: int) -> list[_Piece]:
        """What an earlier controller has kept."""
        found = []
        for file in (self._folder / run_id).glob(f"{index}.log*"):
            start = file.name.removeprefix(f"{index}.log").removeprefix(".") or "0"
            if start.isdecimal():
                found.append(_Piece(file=file, start=int(start), length=file.stat().st_size))
        return sorted(found, key=lambda piece: piece.start)

    def _piece_file(self, run_id: str, index: int, start: int) -> Path:
        return self._folder / run_id / (f"{index}.log.{start}" if start else f"{index}.log")


def _too_much(pieces: list[_Piece]) -> bool:
    return len(pieces) > 1 and (len(pieces) > KEPT_PIECES or sum(piece.length for piece in pieces) > KEPT_BYTES)


def _whole(data: bytes) -> int:
    """How many bytes of `data` end with a whole character."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:  # the first byte of the last character
            wanted = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return len(data) if wanted <= back else len(data) - back
    return len(data)
