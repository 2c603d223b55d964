"""One schema's dump: the server that it is loaded into for trial, and what its own schema is like."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "templates/scripts"
ATTACHMENT = SCRIPTS / "attachments/schema_dump.sh"

# Like MariaDB and MySQL: a log's name that has no ending is given one.
SERVER = """#!/bin/bash
for word; do case $word in --log-error=*) log=${word#*=}; [[ ${log##*/} == *.* ]] || log=$log.err; esac; done
echo "no room for the redo log" >"$log"
exit 1
"""


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "server").write_text(SERVER)
    (tmp_path / "server").chmod(0o755)
    script = f"""
      install() {{ mkdir -p "${{@: -3}}"; }}
      . {ATTACHMENT}
      make_scratch() {{ :; }}
      server=({tmp_path}/server) client=false
      start_scratch {tmp_path}/scratch
    """

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 1
    assert "no room for the redo log" in done.stderr


@pytest.mark.parametrize(
    ("manifest", "trial", "own"),
    [
        (
            '{"default": {"character_set": "utf8mb4", "collation": "utf8mb4_turkish_ci"}}',
            "CHARACTER SET utf8mb4 COLLATE utf8mb4_turkish_ci",
            "CHARACTER SET utf8mb4 COLLATE utf8mb4_turkish_ci",
        ),
        ("{}", "", "CHARACTER SET utf8mb4"),
    ],
)
def test_a_schema_is_restored_with_the_collation_that_its_manifest_says(
    tmp_path: Path, manifest: str, trial: str, own: str
) -> None:
    lines = (SCRIPTS / "restore_schema.sh").read_text().splitlines()
    making = "\n".join(line for line in lines if line.startswith("as=") or "; CREATE DATABASE" in line)
    (tmp_path / "manifest").write_text(manifest)
    script = f'set -eu\nsecret={tmp_path} trial=relaunch_trial name=shop\nsql() {{ echo "$1"; }}\n{making}'

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=True)

    made = [line.partition("; CREATE DATABASE ")[2].strip() for line in done.stdout.splitlines()]
    assert made == [f"relaunch_trial {trial}".strip(), f"`shop` {own}"]


def test_tables_that_cannot_be_listed_are_not_none(tmp_path: Path) -> None:
    """A backup that noted no table would be proven by comparing none."""
    script = f"""set -euo pipefail; work={tmp_path} here=(true)
      . {SCRIPTS}/attachments/table_checks.sh; . {SCRIPTS}/attachments/schema_dump.sh
      open_session() {{ exec {{to_db}}>/dev/null {{from_db}}</dev/null; }}; ask() {{ :; }}; sql() {{ return 1; }}
      sums_of shop 9 >{tmp_path}/before
      echo noted"""

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)

    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "cannot be listed" in done.stderr
