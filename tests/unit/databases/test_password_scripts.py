"""A replica logs in anew only once all is applied that it has received: what is not, MariaDB discards. And where a
password is seen."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from test_import_scripts import functions

# The agent starts the receiver while it is waited for the applier, as often as $restarts says; then more has come.
STUBS = """
set -euo pipefail
NEXT_REPLICATION_LOGIN=next position=5 applied=5 restarts={restarts} refuses={refuses}
quoted() {{ printf "'%s'" "$1"; }}
replica_says() {{ cat $folder/received; }}
sql() {{
  echo "$1" >>$folder/said
  case $1 in
    *"MASTER_GTID_WAIT('0-1-5', 30)"*) [ $restarts = 0 ] || echo 0-1-9 >$folder/received; echo 0 ;;
    *"MASTER_GTID_WAIT('0-1-9', 30)"*) echo 0 ;;
    *"MASTER_GTID_WAIT('0-1-9', 0)"*) if grep -q "0-1-9', 30" $folder/said; then echo 0; else echo -1; fi ;;
    *MASTER_GTID_WAIT*) echo 0 ;;
    *"STOP SLAVE;"*) ;;  # MariaDB would change it, and discard what has just come
    *"CHANGE MASTER"*) [ "$(grep -c "CHANGE MASTER" $folder/said)" -gt $refuses ] ;;
  esac
}}
echo 0-1-5 >$folder/received
"""


@pytest.mark.parametrize(("restarts", "refuses", "tries"), [(0, 0, 1), (1, 0, 2), (0, 1, 2), (1, 1, 3)])
def test_what_came_in_between_is_applied_before_the_login_is_changed(
    tmp_path: Path, restarts: int, refuses: int, tries: int
) -> None:
    script = functions("change_passwords.sh", "log_in_again")
    again = "for n in 1 2 3; do if log_in_again; then echo $n; break; fi; done"

    done = subprocess.run(
        ["bash", "-c", f"folder={tmp_path}\n{STUBS.format(restarts=restarts, refuses=refuses)}{script}{again}"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert (done.stdout, done.stderr) == (f"{tries}\n", "")
    said = (tmp_path / "said").read_text().splitlines()
    changes = [each for each in said if "CHANGE MASTER" in each]
    assert len(changes) == refuses + 1 and said[-1] == changes[-1]
    assert said.count("START SLAVE SQL_THREAD") == refuses, "what was refused leaves the applier running"
    # Both threads stand only for the change: what was received is discarded when both start from a standstill.
    assert not [each for each in said if each.startswith(("STOP SLAVE;", "START SLAVE;"))]
    assert all("STOP SLAVE SQL_THREAD; CHANGE" in each for each in changes)


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("join_database_group.sh", "take_role"),
        ("attachments/database_group.sh", "be_a_member"),
        ("change_passwords.sh", "follow"),
        ("change_mysql_passwords.sh", "follow"),
    ],
)
def test_a_password_is_no_argument_of_a_program(tmp_path: Path, script: str, name: str) -> None:
    (tmp_path / "replication.json").write_text('{"user": "replication", "password": "old"}')
    (tmp_path / "jq").write_text('#!/bin/bash\necho "$*" >>arguments\nexec /usr/bin/jq "${@/\\/etc\\/relaunch/.}"\n')
    (tmp_path / "jq").chmod(0o755)
    stubs = """
      set -euo pipefail
      group=shop joined=joined ROTATION_POSITION=
      install() { cat >written; }
      mv() { :; }
      replica_says() { :; }
      relaunch-local() { echo primary; }
      ensure_accounts() { :; }
    """

    subprocess.run(
        ["bash", "-c", f"{stubs}{functions(script, name)}\n{name}"],
        cwd=tmp_path, timeout=30, check=True, stdout=subprocess.DEVNULL,
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin", "REPLICATION_PASSWORD": "it's \\", "NEXT_REPLICATION_LOGIN": "it's \\",
        },
    )  # fmt: skip

    assert json.loads((tmp_path / "written").read_text())["password"] == "it's \\"
    assert "it's" not in (tmp_path / "arguments").read_text()
