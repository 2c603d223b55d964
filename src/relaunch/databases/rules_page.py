"""The generated part of docs/understand/failover.md, written from the tables that decide.

python -m relaunch.databases.rules_page writes it; a test holds it equal to what this makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import relaunch
from relaunch.databases.group import PRESETS
from relaunch.databases.membership import TRANSITIONS
from relaunch.databases.rules import DETECTION, PERMISSION

PAGE = Path(relaunch.__file__).parents[2] / "docs" / "understand" / "failover.md"
BEGIN = "<!-- From here on written by `python -m relaunch.databases.rules_page`; changes made below are lost. -->\n"


def generated() -> str:
    lifted = (" A named person may allow the loss all the same." if each.lifted else "" for each in PERMISSION)
    parts = (
        "## The rules: has the primary failed?",
        "In this order, the first that holds decides; its name is in the audit trail together with what was seen.",
        _table(("rule", "verdict", "holds when"), ((each.name, each.verdict, each.why) for each in DETECTION)),
        "## The rules: may another one lead?",
        "The primary has failed, and there is no failover but a page when one of these holds.",
        _table(
            ("rule", "why not"),
            ((each.name, each.why + more) for each, more in zip(PERMISSION, lifted, strict=True)),
        ),
        "## While the primary lives",
        "The first of these that applies is made and stored, orders follow, and the group is looked at again.",
        _table(("transition", "what it does"), ((each.name, each.why) for each in TRANSITIONS)),
        "## The windows, in seconds",
        _table(
            ("preset", *_WINDOWS), ((name, *(_number(windows, each) for each in _WINDOWS)) for name, windows in _ALL)
        ),
    )
    return BEGIN + "\n" + "\n\n".join(parts) + "\n"


_WINDOWS = ("refused", "silent", "stalled", "degrade_after", "replace_after", "fresh")
_ALL = tuple(PRESETS.items())


def _number(windows: object, name: str) -> str:
    return f"{getattr(windows, name):g}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *([str(cell) for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page() -> str:
    """The page as it should be: what is written by hand, then what is generated."""
    return PAGE.read_text().partition(BEGIN)[0] + generated()


if __name__ == "__main__":
    PAGE.write_text(page())
