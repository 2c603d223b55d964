"""The examples of the manual are read as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

from relaunch.servers.scripts import parse_script
from relaunch.servers.templates import read_template
from relaunch.servers.values import parse_value

LOOK_UP = Path(__file__).parents[3] / "docs/look-up"


def example(page: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", (LOOK_UP / page).read_text(), re.DOTALL)
    assert found, f"{page} has no example in {language}"
    return found[1]


def test_the_script_of_the_manual_is_one(tmp_path):
    (tmp_path / "attachments").mkdir()
    (tmp_path / "attachments/site.conf").write_text("x")
    (tmp_path / "a.sh").write_text(example("scripts.md", "bash"))

    script = parse_script(tmp_path / "a.sh")

    assert (script.name, script.packages, script.inputs[0].required) == (
        "Install web server",
        ("apache2", "curl"),
        True,
    )


def test_the_template_of_the_manual_is_one(tmp_path):
    text = example("templates.md", "yaml")
    for path in re.findall(r"^  - (.+)$", text, re.MULTILINE):
        file = tmp_path / "web" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("#!/bin/sh\n")
    (tmp_path / "web").mkdir(exist_ok=True)
    (tmp_path / "web/web.yml").write_text(text)

    template = read_template(tmp_path / "web/web.yml")

    assert [len(phase) for phase in (template.boot, template.operational, template.decommission)] == [2, 1, 0]


def test_the_values_of_the_manual_are_such():
    values = re.findall(r"^\| `([^`]+)` \|", (LOOK_UP / "inputs.md").read_text(), re.MULTILINE)

    assert len(values) == 8
    assert len({type(parse_value(value)) for value in values}) == 7
