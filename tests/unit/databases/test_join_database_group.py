"""How a MariaDB replica comes to the group's data: what it does when that does not come at once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from test_join_logins import SCRIPTS, function

SCRIPT = (SCRIPTS / "join_database_group.sh").read_text()


def run(folder: Path, stubs: str, *names: str, end: str) -> subprocess.CompletedProcess[str]:
    """`end` with these functions of the script; `stubs` come after them."""
    source = "".join(["set -euo pipefail\n", *(function(SCRIPT, name) for name in names), stubs, "\n", end])
    return subprocess.run(
        ["bash", "-c", source], cwd=folder, env={"PATH": "/usr/bin:/bin", "REPLICATION_PASSWORD": "secret"},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def test_an_unfinished_copy_of_files_is_gone_before_rows_come(tmp_path: Path) -> None:
    (tmp_path / "copying").mkdir()
    (tmp_path / "copying/ibdata1").write_bytes(b"x")
    stubs = """
      copying=copying half=half data= primary=one
      systemctl() { :; }
      history_words() { :; }
      at_primary() { case "$*" in *mariadb-dump*) ls; exit 3 ;; esac; }
      mariadb() { cat; }
    """

    done = run(tmp_path, stubs, "copy_rows", end="copy_rows")

    assert done.returncode == 3
    assert "half" in done.stdout.splitlines() and "copying" not in done.stdout.splitlines()
    assert (tmp_path / "half").exists()  # of which the next try knows that this server is not empty


@pytest.mark.parametrize(
    ("ends", "turns", "status"),
    [("0", 1, 0), ("1 0", 2, 0), ("1 1 1 1 1 0", 5, 1), ("2 0", 1, 1)],
    ids=["at once", "the second time", "never", "refused"],
)
def test_what_could_not_be_copied_now_is_tried_again(tmp_path: Path, ends: str, turns: int, status: int) -> None:
    stubs = f"""
      joined=joined primary_address=10.0.0.1
      install() {{ cat >/dev/null; }}
      wait_for_primary() {{ echo "waits"; }}
      refuse_another_version() {{ :; }}
      sleep() {{ :; }}
      ends=({ends})
      copy_data() {{ local turn=$(cat turn 2>/dev/null || echo 0); echo $((turn + 1)) >turn; (exit ${{ends[$turn]}}); }}
    """

    done = run(tmp_path, stubs, "in_file", "seed", end="seed; echo goes on")

    assert done.returncode == status, done.stderr
    assert done.stdout.count("waits") == turns and ("goes on" in done.stdout) == (status == 0)
