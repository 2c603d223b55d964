"""The agent's block in /etc/hosts; every other line stays as it is."""

from __future__ import annotations

from typing import Mapping

BEGIN = "# relaunch: written by its agent from the view; changes between these two lines are lost"
END = "# relaunch: end"


def with_block(present: str, hosts: Mapping[str, str]) -> str:
    """`present` with the block for `hosts` (name → address); without a block when there are none."""
    lines, inside = [], False
    for line in present.splitlines():
        if line == BEGIN:
            inside = True
        elif line == END:
            inside = False
        elif not inside:
            lines.append(line)
    if hosts:
        lines += [BEGIN, *(f"{address} {name}" for name, address in sorted(hosts.items())), END]
    return "".join(f"{line}\n" for line in lines)
