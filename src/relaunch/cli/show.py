"""What commands print: tables, JSON, spans of time; and the options they share."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relaunch.errors import NeedsConfirmation

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before something is destroyed.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once; the task goes on.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the output of scripts while they run.")]

WIDE = 400
COLOURS = {
    "operational": "green", "succeeded": "green", "done": "green", "ready": "green", "running": "cyan",
    "pending": "yellow", "booting": "yellow", "waiting": "yellow", "baking": "yellow", "decommissioning": "yellow",
    "stranded": "red", "failed": "red", "refused": "red", "set_aside": "magenta", "cancelled": "magenta",
    "stopped": "dim", "terminated": "dim", "inactive": "dim",
}  # fmt: skip


def console() -> Console:
    from rich.console import Console

    # Into a pipe a line is as long as it needs to be: what reads it counts words, not columns.
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def rows_of(answer: object) -> list[dict[str, Any]]:
    """The list an answer carries, bare or as its only list."""
    if isinstance(answer, list):
        return answer
    if isinstance(answer, Mapping):
        for value in answer.values():
            if isinstance(value, list):
                return value
    return []


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, empty: str) -> None:
    """One line per row. A column is `key`, or `heading=key` with dots into what is nested."""
    if not rows:
        print(empty)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    named = [column.partition("=") for column in columns]
    for heading, _, _ in named:
        table.add_column(heading.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(_inside(row, key or heading), heading) for heading, _, key in named))
    console().print(table, crop=False)


def print_facts(value: Mapping[str, Any], *, leave_out: Sequence[str] = ()) -> None:
    """Names and values, one a line; what is nested is indented below."""
    from rich.markup import escape

    def lines(part: object, indent: str) -> list[str]:
        if isinstance(part, Mapping):
            wide = max((len(str(key)) for key in part), default=0)
            out = []
            for key, inner in part.items():
                if key in leave_out or inner in (None, "", [], {}):
                    continue
                name = str(key).replace("_", " ").ljust(wide)
                if isinstance(inner, Mapping | list):
                    out += [f"{indent}[bold]{escape(name.rstrip())}[/]", *lines(inner, indent + "  ")]
                else:
                    out.append(f"{indent}[bold]{escape(name)}[/]  {_cell(inner, str(key))}")
            return out
        if isinstance(part, list):
            out = []
            for item in part:
                inner = lines(item, indent + "  ")
                out += [f"{indent}- {inner[0].strip()}", *inner[1:]] if inner else []
            return out
        return [f"{indent}{_cell(part, '')}"]

    shown = console()
    for line in lines(value, ""):
        shown.print(line, soft_wrap=True)


def confirm(question: str, *, yes: bool) -> None:
    """Goes on when yes was given or said at the terminal; NeedsConfirmation otherwise."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise NeedsConfirmation(question, hint="nothing was done; say --yes")
    if not typer.confirm(f"{question} Go on?"):
        raise NeedsConfirmation("nothing was done")


def span(seconds: float) -> str:
    """A length of time in at most two units."""
    whole = max(0, int(seconds))
    for unit, below, size in (("s", 120, 1), ("min", 7200, 60), ("h", 172800, 3600)):
        if whole < below:
            return f"{whole // size} {unit}"
    return f"{whole // 86400} d"


def since(text: str | None, now: datetime | None = None) -> float | None:
    """Seconds since a moment of the API (ISO 8601, UTC)."""
    try:
        at = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return ((now or datetime.now(UTC)) - (at if at.tzinfo else at.replace(tzinfo=UTC))).total_seconds()


def coloured(state: str) -> str:
    return f"[{COLOURS[state]}]{state.replace('_', ' ')}[/]" if state in COLOURS else state


def _inside(row: object, path: str) -> object:
    for key in path.split("."):
        row = row.get(key) if isinstance(row, Mapping) else None
    return row


def _cell(value: object, heading: str) -> str:
    from rich.markup import escape

    if value in (None, "", [], {}):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return escape(" ".join(f"{k}={v}" for k, v in value.items()))
    if isinstance(value, list | tuple):
        return escape(", ".join(str(v) for v in value))
    text = str(value)
    if heading in ("age", "seen", "used") and (seconds := since(text)) is not None:
        return span(seconds)
    if len(text) > 19 and text[4:5] == "-" and text[10:11] == "T" and since(text) is not None:
        return text[:19].replace("T", " ")
    return coloured(text) if heading in ("state", "result") else escape(text)
