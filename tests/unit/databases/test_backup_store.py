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


def test_a_clone_says_how_far_it_is() -> None:
    here = "here() { echo 'file copy: 60 of 300 MB, 30 MB/s'; }"

    done = subprocess.run(
        ["bash", "-c", f". {ATTACHMENTS}/mysql_clone.sh; {here}; show_clone"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip

    assert done.stdout == "… file copy: 60 of 300 MB, 30 MB/s\n"
