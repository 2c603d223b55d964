"""Whom a backup is taken from: a replica that does not apply, or lags too far, gives none, of whatever kind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3] / "templates/scripts"
KINDS = ("backup_database.sh", "backup_mysql.sh", "backup_snapshot.sh", "backup_schema.sh")

# A client: its answers lie in files, and one that is taken away after each question in a folder.
CLIENT = """#!/bin/bash
case "${@: -1}" in
  "SHOW REPLICA STATUS")
    lag=$(ls "$folder/lags" 2>/dev/null | head -n 1)
    [ -z "$lag" ] || cat "$folder/lags/$lag"
    [ "$(ls "$folder/lags" 2>/dev/null | wc -l)" -le 1 ] || rm "$folder/lags/$lag" ;;
  *read_only*) cat "$folder/read_only" ;;
  *schemata*) echo 1 ;;
  *lineage*) echo 20261120T000000Z-0000aa ;;
esac
"""


def asked(folder: Path, script: str, *, client: str = "mariadb", lags: tuple[str, ...] = (), read_only: str = "0"):
    """The script with the attachments, its client answering `lags` one after the other, the last again and again."""
    programs, told = folder / "programs", folder / "lags"
    programs.mkdir()
    (programs / client).write_text(CLIENT)
    (programs / client).chmod(0o755)
    told.mkdir()
    word = "Master" if client == "mariadb" else "Source"
    for number, lag in enumerate(lags):
        (told / str(number)).write_text(f"*** 1. row ***\n        Seconds_Behind_{word}: {lag}\n")
    (folder / "read_only").write_text(read_only)
    names = ("backup_store", "table_checks", "schema_dump")
    sourced = "".join(f". {ROOT}/attachments/{name}.sh\n" for name in names)
    hidden = "sleep() { :; }\nBACKUP_ROOT=s3:shop BACKUP_SCHEMA=shop BACKUP_MAX_LAG=5\n"
    environment = {**os.environ, "folder": str(folder), "PATH": f"{programs}:/usr/bin:/bin"}
    return subprocess.run(
        ["bash", "-c", f"work={folder} state={folder}\n{sourced}{hidden}{script}"],
        capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip


ROLE = 'find_role 5; echo "$role $lag"'


@pytest.mark.parametrize("client", ["mariadb", "mysql"])
def test_a_replica_is_waited_for_until_it_lags_little_enough(tmp_path: Path, client: str) -> None:
    done = asked(tmp_path, ROLE, client=client, lags=("9", "9", "NULL", "8", "5"))

    assert (done.returncode, done.stdout) == (0, "replica 5\n"), done.stderr


@pytest.mark.parametrize(
    ("lags", "read_only", "why"),
    [
        (("NULL",), "1", "Replication does not run here: a backup would be older than it says."),
        (
            ("NULL", "0", "NULL", "0", "NULL"),
            "1",
            "Replication does not run here",
        ),  # the agent starts it again and again
        (("600",), "1", "This replica lags 600 s behind, more than 5 s."),
        (("",), "1", "lags"),
        ((), "1", "This server follows nobody and takes no writes"),
    ],
)
@pytest.mark.parametrize("client", ["mariadb", "mysql"])
def test_who_may_be_older_than_a_backup_would_say_gives_none(
    tmp_path: Path, client: str, lags: tuple[str, ...], read_only: str, why: str
) -> None:
    done = asked(tmp_path, ROLE, client=client, lags=lags, read_only=read_only)

    assert done.returncode == 1 and not done.stdout
    assert why in done.stderr


def test_a_primary_gives_one_as_long_as_it_takes_writes(tmp_path: Path) -> None:
    done = asked(tmp_path, f"{ROLE}; id=b1; refuse_fenced; echo 1 >$folder/read_only; refuse_fenced; echo never")

    assert (done.returncode, done.stdout) == (1, "primary 0\n")
    assert "This server is the primary no more: the backup b1 does not count." in done.stderr


def test_a_schema_is_not_dumped_from_a_replica_that_does_not_apply(tmp_path: Path) -> None:
    script = (ROOT / "backup_schema.sh").read_text()
    first = script[script.index("\n[[ $BACKUP_SCHEMA") : script.index("\nbegun=")]

    done = asked(tmp_path, f"{first}\necho dumps", lags=("NULL",), read_only="1")

    assert done.returncode == 1 and "dumps" not in done.stdout
    assert "Replication does not run here" in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_looks_before_and_after(kind: str) -> None:
    lines = (ROOT / kind).read_text().splitlines()

    assert lines.index('find_role "${BACKUP_MAX_LAG:-60}"') < lines.index("refuse_fenced")
    assert "# - backup_store.sh" in lines
