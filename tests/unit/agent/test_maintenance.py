"""What the agent makes of the sites in maintenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relaunch_agent.maintenance import close_and_open, closed_sites

SITES = [
    {"name": "shop.test", "maintenance": True, "allow": ["10.0.0.7", "fd00::7"]},
    {"name": "blog.test", "maintenance": False, "allow": []},
]


def view(sites: list[dict[str, Any]], *, front_end: bool = True) -> dict[str, Any]:
    return {"sites": sites, "proxy": {"backends": [{"name": "site-shop.test"}] if front_end else []}}


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_only_a_front_end_closes_sites_and_only_those_in_maintenance() -> None:
    assert closed_sites(view(SITES)) == {"shop.test": {"10.0.0.7", "fd00::7"}}
    assert closed_sites(view(SITES, front_end=False)) == {}
    assert closed_sites({}) == {}


@pytest.mark.parametrize("site", [{"name": "../etc"}, {"name": "a.test", "allow": ["../../x"]}, {"name": ".half"}])
def test_a_name_that_would_lead_elsewhere_is_refused(site: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be a file's name"):
        closed_sites(view([{"maintenance": True, **site}]))


def test_the_folder_follows_and_a_leftover_goes(tmp_path: Path) -> None:
    folder = tmp_path / "maintenance"
    close_and_open(folder, {})
    assert not folder.exists()

    close_and_open(folder, {"shop.test": frozenset({"10.0.0.7"})})
    assert files(folder) == ["shop.test", "shop.test/10.0.0.7"]

    (folder / ".half").mkdir()
    (folder / ".half" / "10.0.0.1").touch()
    close_and_open(folder, {"shop.test": frozenset({"10.0.0.8"}), "blog.test": frozenset()})
    assert files(folder) == ["blog.test", "shop.test", "shop.test/10.0.0.8"]

    close_and_open(folder, {"blog.test": frozenset()})
    assert files(folder) == ["blog.test"]
