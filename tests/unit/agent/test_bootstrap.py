from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from relaunch.errors import BadInput
from relaunch.servers.agent_archive import build
from relaunch.servers.bootstrap import render_user_data

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def test_the_archive_is_the_same_bytes_each_time_and_runs(tmp_path: Path) -> None:
    one, two = build(tmp_path / "one.pyz"), build(tmp_path / "two" / "two.pyz")
    assert one.sha256 == two.sha256 and one.path.read_bytes() == two.path.read_bytes()
    said = subprocess.run([sys.executable, "-IS", one.path, "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == one.version


def test_user_data_is_a_sound_shell_script(tmp_path: Path) -> None:
    text = render_user_data("https://198.18.0.1:7443/", "to.ken-1", PEM, "a" * 64)
    assert text.startswith("#!/bin/sh\n") and PEM in text and "controller='https://198.18.0.1:7443'\n" in text
    assert not [line for line in text.splitlines() if "{{" in line or "}}" in line]
    (tmp_path / "user-data").write_text(text)
    assert subprocess.run(["sh", "-n", tmp_path / "user-data"], check=False).returncode == 0
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", tmp_path / "user-data"], check=False).returncode == 0


@pytest.mark.parametrize(
    "values",
    [
        ("http://x", "t", PEM, "a" * 64),
        ("https://x'; rm -rf /", "t", PEM, "a" * 64),
        ("https://x", "t'$(id)", PEM, "a" * 64),
        ("https://x", "t", "CERTIFICATE\nid", "a" * 64),
        ("https://x", "t", PEM, "short"),
    ],
)
def test_a_value_that_could_break_out_is_refused(values: tuple[str, str, str, str]) -> None:
    with pytest.raises(BadInput, match="not of the expected form"):
        render_user_data(*values)
