"""The files to start from are files the program itself accepts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from relaunch.cli.starters import APPS, ARCHITECTURES, starter
from relaunch.errors import BadInput
from relaunch.servers.deployments import read_deployment


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("app", APPS)
def test_a_starter_is_a_whole_deployment(architecture: str, app: str) -> None:
    spec = read_deployment(starter(architecture, name="shop", app=app))

    assert spec.name == "shop"
    assert [site.name for site in spec.sites] == [f"{app}.test"]
    assert spec.database is not None
    assert {server.name for server in spec.servers} >= set(spec.database.members)


def test_redundant_has_two_of_each_in_two_zones() -> None:
    spec = read_deployment(starter("redundant", name="shop", app="redmine"))

    zones = {template: {s.zone for s in spec.servers if s.template == template} for template in ("front-end", "mysql")}
    assert zones == {"front-end": {"a", "b"}, "mysql": {"a", "b"}}


def test_the_tutorial_names_the_demos_site() -> None:
    tutorial = Path(__file__).parents[3] / "docs/learn/first-site.md"
    demo, _, own = tutorial.read_text().partition("## 7.")
    (site,) = read_deployment(starter("redundant", name="demo", app="redmine")).sites

    assert own
    assert set(re.findall(r"[a-z.]+\.test\b", demo)) == {site.canonical}


def test_an_unknown_architecture_names_the_known() -> None:
    with pytest.raises(BadInput) as refused:
        starter("cloudy", name="shop", app="redmine")

    assert "redundant" in refused.value.hint
