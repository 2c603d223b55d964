"""How values are worded on a page: spans of time, sizes, states, output; pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from urllib.parse import quote

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_OVERWRITTEN = re.compile(r"[^\n]*\r(?!\n)")


def moment(text: str | None) -> datetime | None:
    """The aware time of a column's ISO text; None when it is empty or is no time."""
    try:
        at = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return at.replace(tzinfo=UTC) if at and at.tzinfo is None else at


def span(seconds: float) -> str:
    """A length of time in one or two units; static/live.js counts on in the same words."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def exact_span(seconds: float) -> str:
    """As `span`, with parts of a second where they matter."""
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s" if seconds < 60 else span(seconds)


def size(bytes_: int) -> str:
    amount = float(bytes_)
    for unit in ("bytes", "KB", "MB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GB"


def plain_output(text: str, *, last: int) -> str:
    """The end of a script's output as a page can show it: no terminal codes, only the last state of rewritten lines."""
    cut = text[-last:]
    if len(text) > last:
        cut = cut[cut.find("\n") + 1 :] if "\n" in cut else cut
    cut = _ESCAPES.sub("", cut)
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", _OVERWRITTEN.sub("", cut).replace("\r", ""))


def said(name: str) -> str:
    """A state or phase as a person says it."""
    return name.replace("_", " ")


def subject_path(subject: str) -> str | None:
    """Where an audit entry's or a task's subject has its page, None when it has none."""
    kind, _, name = subject.partition(":")
    match kind, name.split("/"):
        case "server", [deployment, server] if deployment and server:
            return f"/servers/{quote(deployment, safe='')}/{quote(server, safe='')}"
        case "deployment", [deployment] if deployment:
            return f"/#deployment-{quote(deployment, safe='')}"
        case "image", _:
            return "/images"
        case "site", _:
            return "/sites"
        case "task", [task] if task:
            return f"/tasks/{quote(task, safe='')}"
        case _:
            return None
