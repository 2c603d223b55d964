"""Every error this program raises on purpose, in one tree.

RelaunchError
├── BadInput            what was asked cannot be understood or is not allowed      400  exit 2
│   └── FormatError     a file has a fault: carries file and line                  400  exit 2
├── NotFound            nothing of that name exists                                404  exit 3
├── Conflict            the present state forbids it                               409  exit 4
│   └── NeedsConfirmation   would destroy something; ask again with yes           409  exit 5
├── NotAllowed          who you are is unknown or may not do this                  401  exit 6
├── Unavailable         something outside did not answer; try again                503  exit 7  retry
│   └── NotYetKnown     an input needs a fact of a server that has none yet        503  exit 7  retry
└── Failed              it was tried and did not work                              500  exit 1

The message says what happened, to what, and what to do.
This file is shipped in the agent: it runs on Python 3.9.
"""

from __future__ import annotations

from typing import Optional


class RelaunchError(Exception):
    """Base of all; `code` is stable and part of the API."""

    code = "failed"
    http_status = 500
    exit_status = 1
    retry = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def add_hint(self, more: str) -> None:
        """On a line of its own; "" adds nothing."""
        self.hint = "\n".join(each for each in (self.hint, more) if each)


class BadInput(RelaunchError):
    code = "bad_input"
    http_status = 400
    exit_status = 2


class FormatError(BadInput):
    """A fault in a file; `line` counts from 1, None when it belongs to the whole file."""

    code = "format_error"

    def __init__(self, message: str, *, file: str, line: Optional[int] = None, hint: str = "") -> None:
        super().__init__(f"{file}:{line}: {message}" if line else f"{file}: {message}", hint=hint)
        self.file = file
        self.line = line


class NotFound(RelaunchError):
    code = "not_found"
    http_status = 404
    exit_status = 3


class Conflict(RelaunchError):
    code = "conflict"
    http_status = 409
    exit_status = 4


class NeedsConfirmation(Conflict):
    code = "needs_confirmation"
    exit_status = 5


class NotAllowed(RelaunchError):
    code = "not_allowed"
    http_status = 401
    exit_status = 6


class Unavailable(RelaunchError):
    code = "unavailable"
    http_status = 503
    exit_status = 7
    retry = True


class NotYetKnown(Unavailable):
    """`server` has not got the fact `name` yet; it will once it has booted."""

    code = "not_yet_known"

    def __init__(self, message: str, *, server: str, name: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.server = server
        self.name = name


class Failed(RelaunchError):
    code = "failed"
