"""The templates we ship: they parse, their scripts pass shellcheck and say what they generate."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from relaunch.servers.scripts import parse_script
from relaunch.servers.templates import read_template

ROOT = Path(__file__).parents[2] / "templates"
SCRIPTS = sorted(ROOT.glob("scripts/*.sh"))
SHELL = [*SCRIPTS, *sorted(ROOT.glob("scripts/attachments/*.sh"))]
READ_BY_SERVICES = (
    "/etc/app/environment", "/etc/redmine/default/database.yml", "/etc/redmine/default/secret_key.txt",
    "/etc/relaunch/replication.json", "/etc/relaunch/backup.env", "/etc/relaunch/backup-ca.crt",
    "/etc/haproxy/haproxy.cfg", "/etc/haproxy/sites.map", "/etc/apache2/conf-available/relaunch.conf",
    '"$config"', '"/etc/mysql/tls/$file"',
)  # fmt: skip
TEMPLATES = sorted(path for path in ROOT.glob("*/*.yml") if not path.name.endswith(".relaunch.yml"))
PASSWORDS = re.compile(r"(PASSWORD|SECRET)")


def named(path: Path) -> str:
    return path.name


def test_there_is_something_to_check() -> None:
    assert {path.stem for path in TEMPLATES} >= {"base", "front-end", "app-server", "mysql", "all-in-one"}
    assert len(SCRIPTS) > 10


@pytest.mark.parametrize("path", SHELL, ids=named)
def test_shellcheck_finds_nothing(path: Path) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    checked = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", SHELL, ids=named)
def test_a_script_stops_at_the_first_error_and_is_executable(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("#!/bin/bash\n")
    assert "set -euo pipefail" in text
    assert path.stat().st_mode & 0o111


@pytest.mark.parametrize("file", READ_BY_SERVICES)
def test_what_a_service_may_be_reading_is_put_in_place_whole(file: str) -> None:
    """A service that starts, or is told to read it again, at that moment would find half of it, or nothing."""
    texts = {path.name: path.read_text() for path in SHELL if not path.name.startswith("install_")}
    written = re.compile(rf"(?:>|^ *install .* |\| install .* ){re.escape(file)}(?: <<.*)?$", re.M)
    assert [name for name, text in texts.items() if written.search(text)] == []
    assert any(f"{file}\n" in text or f"put {file} " in text for text in texts.values()), "somebody writes it"


@pytest.mark.parametrize("path", SCRIPTS, ids=named)
def test_a_script_declares_the_inputs_it_uses(path: Path) -> None:
    script = parse_script(path)
    text = path.read_text().split("# ...\n", 1)[1]
    declared = {declared.name for declared in script.inputs}
    unused = [name for name in declared if name not in text]
    assert not unused
    assert script.name and script.description


@pytest.mark.parametrize("path", TEMPLATES, ids=named)
def test_a_template_gives_every_password_by_a_credential_and_only_inputs_that_exist(path: Path) -> None:
    template = read_template(path)
    scripts = (*template.boot, *template.operational, *template.decommission)
    declared = {declared.name: declared for script in scripts for declared in script.inputs}
    assert set(template.inputs) <= set(declared)
    for name, declaration in declared.items():
        if PASSWORDS.search(name):
            assert template.inputs[name].startswith("cred:"), name
        elif declaration.required:
            assert template.inputs.get(name) or declaration.default, name


@pytest.mark.parametrize("path", TEMPLATES, ids=named)
def test_what_is_baked_needs_no_secret_and_nothing_of_the_deployment(path: Path) -> None:
    for script in read_template(path).baked:
        assert script.path.name.startswith("install_")
        assert not [declared.name for declared in script.inputs if PASSWORDS.search(declared.name)]
        assert "relaunch-local" not in script.path.read_text()


@pytest.mark.parametrize("path", TEMPLATES, ids=named)
def test_nothing_is_installed_at_launch(path: Path) -> None:
    template = read_template(path)
    for script in template.boot:
        if script not in template.baked:
            assert not script.packages, script.path.name
            assert "apt-get" not in script.path.read_text()
