"""What a backup says while it goes to the store."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ATTACHMENTS = Path(__file__).parents[3] / "templates/scripts/attachments"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("full", ["… 60 of 300 MB, 30 MB/s, about 8 s to go", "… 60 of 300 MB, 15 MB/s, about 16 s to go"]),
        ("incremental", ["… 60 MB, 30 MB/s", "… 60 MB, 15 MB/s"]),
    ],
)
def test_a_backup_says_every_two_seconds_how_far_it_is(tmp_path: Path, kind: str, said: list[str]) -> None:
    """The clock is moved on by sleeping; dd has written what it writes each second."""
    (tmp_path / "progress").write_text(
        "".join(f"\r{n}000000 bytes ({n} MB) copied, 1 s, 20 MB/s" for n in (20, 40, 60))
    )
    given = f"work={tmp_path} kind={kind} data_bytes=300000000"
    sleep = "sleep() { SECONDS=$((SECONDS + $1)); [ $SECONDS -lt 6 ]; }"

    done = subprocess.run(
        ["bash", "-c", f". {ATTACHMENTS}/backup_store.sh; {sleep}; {given}; show_progress"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip

    assert done.stdout.splitlines() == said


@pytest.mark.parametrize(("lineage", "status"), [("20261122T190000Z-00aa11", 0), ("20261129T090000Z-00bb22", 1)])
def test_a_backup_during_which_its_history_ended_does_not_count(tmp_path: Path, lineage: str, status: int) -> None:
    """Its position may be of the next one's numbers."""
    script = f"""
      . {ATTACHMENTS}/backup_store.sh
      sql() {{ case $1 in *relaunch.lineage*) echo {lineage} ;; *) echo 11.8 ;; esac; }}
      rclone() {{ cat >{tmp_path}/manifest.json; }}
      work={tmp_path} state={tmp_path}/state target=there BACKUP_GROUP=shop BACKUP_RECIPIENT=age1
      id=1 kind=full parent= lineage=20261122T190000Z-00aa11 server=db1 role=primary lag=0 data_bytes=1
      begun=1 ended=1 gtid=0-1-1 check_gtid=
      mkdir -p $state/last.new
      touch $work/{{objects,checks,unchecked,warnings}}
      end_backup mariadb '{{}}'"""

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30)

    assert (done.returncode, (tmp_path / "manifest.json").exists()) == (status, not status), done.stderr
    assert ("ended while it was backed up" in done.stderr) == bool(status)


def test_a_clone_says_how_far_it_is() -> None:
    here = "here() { echo 'file copy: 60 of 300 MB, 30 MB/s'; }"

    done = subprocess.run(
        ["bash", "-c", f". {ATTACHMENTS}/mysql_clone.sh; {here}; show_clone"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip

    assert done.stdout == "… file copy: 60 of 300 MB, 30 MB/s\n"
