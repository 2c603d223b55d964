"""Running a command of the host, with its time bounded, its failure explained and its secrets unseen."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from relaunch.errors import Failed

LAST_LINES = 12  # how much of a failed command's output its error carries


class Secret:
    """A text that shows as ••• everywhere but in `reveal`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "•••"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


Word = str | Path | Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """How a command ended; `status` is negative when a signal ended it."""

    status: int
    stdout: str
    stderr: str


def shown(argv: Sequence[Word]) -> str:
    """The command as it may be printed: secrets hidden, blanks quoted."""
    words = [str(word) for word in argv]
    return " ".join(f"'{word}'" if " " in word or not word else word for word in words)


def last_lines(text: str, *, count: int = LAST_LINES) -> str:
    return "\n".join(text.rstrip().splitlines()[-count:])


async def run(
    *argv: Word,
    input: str | None = None,
    timeout_seconds: float = 60,
    check: bool = True,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Run a command to its end. Failed, with the last lines of its output, when it exits non-zero (unless `check` is
    off), outlasts its time (it and its process group are then killed) or cannot be started."""
    words = [word.reveal() if isinstance(word, Secret) else str(word) for word in argv]
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL if input is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=cwd,
            env=None if environment is None else {**os.environ, **environment},
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError):
        # A folder of PATH that we may not read says "permission denied" for every program that is in no other.
        present = shutil.which(words[0], os.F_OK, None if environment is None else environment.get("PATH"))
        why = "may not be run" if present else "is not installed"
        raise Failed(f"{words[0]} {why}", hint=f"needed for: {shown(argv)}") from None
    except OSError as error:  # no program, or there is no memory for one more process
        raise Failed(f"{words[0]} cannot be started: {error.strerror}", hint=f"needed for: {shown(argv)}") from None
    try:
        async with asyncio.timeout(timeout_seconds):
            out, err = await process.communicate(None if input is None else input.encode())
    except TimeoutError:
        await _kill(process)
        raise Failed(f"did not end within {timeout_seconds:g} s: {shown(argv)}") from None
    except asyncio.CancelledError:
        await _kill(process)
        raise
    done = Completed(
        status=process.returncode or 0, stdout=out.decode(errors="replace"), stderr=err.decode(errors="replace")
    )
    if check and done.status != 0:
        raise Failed(
            f"exit status {done.status}: {shown(argv)}", hint=_hide(last_lines(done.stderr or done.stdout), argv)
        )
    return done


def _hide(text: str, argv: Sequence[Word]) -> str:
    for word in argv:
        if isinstance(word, Secret) and word.reveal():
            text = text.replace(word.reveal(), repr(word))
    return text


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
