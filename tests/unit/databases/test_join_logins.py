"""What a new replica logs in with at the primary, whatever the password is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "templates/scripts"
STUBS = """
  set -euo pipefail
  install() { cat >seed.cnf; }
  wait_for_primary() { :; }
  refuse_another_version() { :; }
  primary_address=10.0.0.1 joined=/
"""


def function(script: str, name: str) -> str:
    begin = script.index(f"\n{name}() {{")
    return script[begin : script.index("\n}\n", begin) + 3]


@pytest.mark.parametrize(
    ("script", "writes", "escapes"),
    [
        ("join_database_group.sh", "seed", "join_database_group.sh"),
        ("join_mysql_group.sh", "log_in", "attachments/mysql_logins.sh"),
    ],
)
@pytest.mark.parametrize(
    ("password", "written"),
    [
        ("plain", '"plain"'),
        (r"a\nb\\c", r'"a\\nb\\\\c"'),
        ('a"b#c', r'"a\"b#c"'),
        ("it's $HOME `id`", '"it\'s $HOME `id`"'),
    ],
)
def test_a_password_may_have_any_sign(
    tmp_path: Path, script: str, writes: str, escapes: str, password: str, written: str
) -> None:
    text, helper = (SCRIPTS / script).read_text(), (SCRIPTS / escapes).read_text()
    parts = [function(helper, "in_file")] if "\nin_file() {" in helper else []
    source = "".join([STUBS, *parts, function(text, writes), f"\n{writes}\n"])

    subprocess.run(
        ["bash", "-c", source],
        cwd=tmp_path, env={"REPLICATION_PASSWORD": password, "PATH": "/usr/bin:/bin"}, timeout=30, check=True,
    )  # fmt: skip

    assert f"\npassword = {written}\n" in (tmp_path / "seed.cnf").read_text()
