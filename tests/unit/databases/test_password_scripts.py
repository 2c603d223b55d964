"""A replica logs in anew only once all is applied that it has received: what is not, MariaDB discards."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from test_import_scripts import functions

# The agent starts the receiver while it is waited for the applier, as often as $restarts says; then more has come.
STUBS = """
set -euo pipefail
NEXT_REPLICATION_LOGIN=next position=5 applied=5 restarts={restarts}
quoted() {{ printf "'%s'" "$1"; }}
replica_says() {{ cat $folder/received; }}
sql() {{
  echo "$1" >>$folder/said
  case $1 in
    *"MASTER_GTID_WAIT('0-1-5', 30)"*) [ $restarts = 0 ] || echo 0-1-9 >$folder/received; echo 0 ;;
    *"MASTER_GTID_WAIT('0-1-9', 30)"*) echo 0 ;;
    *"MASTER_GTID_WAIT('0-1-9', 0)"*) if grep -q "0-1-9', 30" $folder/said; then echo 0; else echo -1; fi ;;
    *MASTER_GTID_WAIT*) echo 0 ;;
  esac
}}
echo 0-1-5 >$folder/received
"""


@pytest.mark.parametrize(("restarts", "tries"), [(0, 1), (1, 2)])
def test_what_came_in_between_is_applied_before_the_login_is_changed(tmp_path: Path, restarts: int, tries: int) -> None:
    script = functions("change_passwords.sh", "log_in_again")
    again = "for n in 1 2 3; do if log_in_again; then echo $n; break; fi; done"

    done = subprocess.run(
        ["bash", "-c", f"folder={tmp_path}\n{STUBS.format(restarts=restarts)}{script}{again}"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert (done.stdout, done.stderr) == (f"{tries}\n", "")
    said = (tmp_path / "said").read_text().splitlines()
    assert ["CHANGE MASTER" in each for each in said] == [*[False] * (len(said) - 1), True]
    # Both threads stand only for the change: what was received is discarded when both start from a standstill.
    assert [each for each in said[:-1] if "STOP SLAVE" in each or "START SLAVE" in each] == [
        each for each in said[:-1] if "IO_THREAD" in each
    ]
