"""What a new replica logs in with at the primary, whatever the password is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "templates/scripts"
STUBS = """
  set -euo pipefail
  install() { cat >seed.cnf; }
"""


def function(script: str, name: str) -> str:
    begin = script.index(f"\n{name}() {{")
    return script[begin : script.index("\n}\n", begin) + 3]


@pytest.mark.parametrize(
    ("script", "escapes"),
    [
        ("join_database_group.sh", "join_database_group.sh"),
        ("join_mysql_group.sh", "attachments/mysql_logins.sh"),
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
def test_a_password_may_have_any_sign(tmp_path: Path, script: str, escapes: str, password: str, written: str) -> None:
    text, helper = (SCRIPTS / script).read_text(), (SCRIPTS / escapes).read_text()
    parts = [function(helper, "in_file")] if "\nin_file() {" in helper else []
    source = "".join([STUBS, *parts, function(text, "log_in"), "\nlog_in\n"])

    subprocess.run(
        ["bash", "-c", source],
        cwd=tmp_path, env={"REPLICATION_PASSWORD": password, "PATH": "/usr/bin:/bin"}, timeout=30, check=True,
    )  # fmt: skip

    assert f"\npassword = {written}\n" in (tmp_path / "seed.cnf").read_text()


def test_a_primary_that_is_silent_is_given_up_soon_and_a_dump_is_not_told_what_it_does_not_know() -> None:
    text = function((SCRIPTS / "join_database_group.sh").read_text(), "log_in")
    client, own = text.split("\n[mariadb-client]\n")

    assert "connect-timeout = 5" in own and "connect-timeout" not in client
