"""Sites in maintenance, as Apache looks for them: a folder per site, in it an empty file per address let through."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, Dict, FrozenSet, Mapping

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
ADDRESS = re.compile(r"[0-9A-Fa-f.:]+")


def closed_sites(view: Mapping[str, Any]) -> Dict[str, FrozenSet[str]]:
    """Site → the addresses that still reach it; nothing on a server that is no front end."""
    if not (view.get("proxy") or {}).get("backends"):
        return {}
    closed = {}
    for site in view.get("sites") or ():
        if site.get("maintenance"):
            allowed = frozenset(str(address) for address in site.get("allow") or ())
            for text, pattern in [(str(site["name"]), NAME), *((address, ADDRESS) for address in allowed)]:
                if not pattern.fullmatch(text):
                    raise ValueError(f"maintenance: {text!r} cannot be a file's name")
            closed[str(site["name"])] = allowed
    return closed


def close_and_open(folder: Path, closed: Mapping[str, FrozenSet[str]]) -> None:
    """Bring the folder to it; a site is closed with all its addresses, or not yet."""
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    for name in present - set(closed):
        shutil.rmtree(folder / name)
    for site, allowed in closed.items():
        if site not in present:
            half = folder / ".half"
            half.mkdir(parents=True, exist_ok=True)
            _allow(half, allowed)
            half.rename(folder / site)
        else:
            _allow(folder / site, allowed)


def _allow(site: Path, allowed: FrozenSet[str]) -> None:
    for address in allowed:
        (site / address).touch()
    for file in site.iterdir():
        if file.name not in allowed:
            file.unlink()
