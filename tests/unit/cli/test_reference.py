"""The manual's pages about the command line are what the program says of itself."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main

import relaunch
from relaunch.cli import reference
from relaunch.cli.main import app

ROOT = Path(relaunch.__file__).parents[2]
WITHOUT_JSON = {"relaunch controller run", "relaunch server ssh"}  # they become another program


def commands() -> dict[str, Any]:
    return dict(reference._commands(typer.main.get_command(app), "relaunch"))


@pytest.mark.parametrize("name", reference.pages())
def test_the_page_is_current(name: str) -> None:
    assert (reference.FOLDER / name).read_text() == reference.pages()[name], "run python -m relaunch.cli.reference"


def test_every_command_has_json() -> None:
    without = {
        path for path, command in commands().items() if "--json" not in [o for p in command.params for o in p.opts]
    }

    assert without == WITHOUT_JSON


def test_every_command_has_a_sentence() -> None:
    assert [path for path, command in commands().items() if not str(command.help or "").endswith(".")] == []


def test_the_version_is_that_of_the_project() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == relaunch.__version__


def test_every_exit_status_is_explained() -> None:
    page = reference.status_page()

    for status in (0, 1, 2, 3, 4, 5, 6, 7, 130):
        assert f"| {status} |" in page
