"""How a restore fetches a backup and stops the server it replaces; MySQL's takes no more than was asked for."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "templates/scripts"
ATTACHMENT = SCRIPTS / "attachments/restore_store.sh"
U, V = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"


def test_a_backup_that_is_fetched_says_how_far_it_is_and_how_long_it_takes(tmp_path: Path) -> None:
    id, content = "20261128T073541Z-full-db2", os.urandom(3_000_000)
    slow = "head -c 2000000 $2; sleep 2.2; tail -c 1000000 $2"
    for name, does in {"rclone": slow, "age": "exec cat", "zstd": "exec cat"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    stored, secret = tmp_path / "backups" / id, tmp_path / "secret"
    stored.mkdir(parents=True)
    (stored / "data.00000").write_bytes(content)
    (secret / "manifests" / id).mkdir(parents=True)
    each = {"name": "data.00000", "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (secret / "manifests" / id / "manifest.json").write_text(json.dumps({"id": id, "objects": [each]}))

    done = subprocess.run(
        ["bash", "-c", f"secret={secret}; . {ATTACHMENT}; fetch {id} dd of={tmp_path}/got status=none"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "BACKUP_ROOT": str(tmp_path),
             "RS_ATTACH_DIR": str(ATTACHMENT.parent)},
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip

    assert (tmp_path / "got").read_bytes() == content
    assert done.stderr == ""
    far, end = done.stdout.splitlines()
    assert re.fullmatch(rf"… {id}: [23] of 3 MB, \d MB/s, about \d+ s to go", far)
    assert end == f"… {id} is fetched"


@pytest.mark.parametrize(
    "answer, killed",
    [
        pytest.param("echo 0", True, id="all its tables have transactions"),
        pytest.param("echo 1", False, id="one has none and would be torn"),
        pytest.param("exit 1", False, id="it does not answer"),
    ],
)
def test_a_server_is_only_killed_when_its_data_recovers_from_that(tmp_path: Path, answer: str, killed: bool) -> None:
    for name, does in {"mysql": answer, "systemctl": f'echo "$*" >>{tmp_path}/said'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)

    subprocess.run(
        ["bash", "-c", f"unit=mysql; . {ATTACHMENT}; stop_for_good"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True, timeout=30,
    )  # fmt: skip

    said = (tmp_path / "said").read_text().splitlines()
    assert [each for each in said if not each.startswith("kill")] == ["stop mysql", "reset-failed mysql"]
    assert ("kill --signal=KILL mysql" in said) is killed
    assert not killed or said[0].startswith("kill")


@pytest.mark.parametrize(
    ("backup", "after_replay", "refused"),
    [
        (f"{U}:1-100", f"{U}:1-100", f"the backup full-1 has more than {U}:1-50: {U}:1-100"),
        (f"{U}:1-50,{V}:1", f"{U}:1-50,{V}:1", f"the backup full-1 has more than {U}:1-50"),
        (f"{U}:1-40", f"{U}:1-51", f"what is restored has more than {U}:1-50: {U}:1-51"),
        (f"{U}:1-40", f"{U}:1-50", ""),
        (f"{U}:1-50", f"{U}:1-50", ""),
    ],
    ids=["a later backup", "one with another server's", "a replay too far", "replayed to it", "just that backup"],
)
def test_a_restore_of_mysql_to_a_set_of_gtids_has_no_more(backup: str, after_replay: str, refused: str) -> None:
    """Two parts of the script as they stand there: what follows the choice of the backup, and the replay."""
    script = (SCRIPTS / "restore_mysql.sh").read_text()
    chosen = script.partition("\nchoose_chain\n")[2].partition("series()")[0]
    replayed = script.partition("check_gtid=$(")[2].partition("\ncheck_tables_once")[0]
    given = f"""RS_ATTACH_DIR={SCRIPTS}/attachments RESTORE_TO=gtid:{U}:1-50 RESTORE_BACKUP=full-1 gtid={backup}
        . {ATTACHMENT}
        jq() {{ :; }}; copy_position() {{ echo {after_replay}; }}; replay() {{ :; }}; last=
        reaches() {{ python3 $RS_ATTACH_DIR/gtid_sets.py holds "$1" "$2"; }}
        must_reach() {{ reaches "$(copy_position)" "$1" || stop_with less; }}
        {chosen}
        check_gtid=$({replayed}
        echo put in place"""

    ended = subprocess.run(
        ["bash", "-c", given], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30
    )

    if refused:
        assert ended.returncode == 1 and f"NO SUCH POSITION: {refused}" in ended.stdout, ended.stdout
    else:
        assert (ended.returncode, ended.stdout) == (0, "put in place\n")
