"""From whom a new MySQL replica is cloned."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from test_join_logins import SCRIPTS, function

STUBS = """
  set -euo pipefail
  relaunch-local() { echo '[{"name": "db3", "address": "10.0.0.3"}, {"name": "db2", "address": "10.0.0.2"}]'; }
  mysql() {
    case "$* $(cat)" in
      *WAIT_FOR_EXECUTED*) echo 0 ;;
      *REPLICA*) printf '%40s: %s\\n' Source_Host 10.0.0.1 Replicate_Do_DB '' Replicate_Do_Table "$filter"; $answers ;;
      *) echo "" ;;
    esac
  }
  me=db3 primary=db1 primary_address=10.0.0.1
"""


@pytest.mark.parametrize(
    ("filtered", "answers", "source"),
    [("", "true", "db2 10.0.0.2"), ("shop.log", "true", "db1 10.0.0.1"), ("", "false", "db1 10.0.0.1")],
    ids=["whole", "filters", "does not say"],
)
def test_a_replica_that_may_lack_data_is_not_cloned(tmp_path: Path, filtered: str, answers: str, source: str) -> None:
    text = (SCRIPTS / "join_mysql_group.sh").read_text()
    at = next(line for line in text.splitlines() if line.startswith("at() "))
    position = next(line for line in text.splitlines() if line.startswith("primary_position() "))
    parts = [function(text, name) for name in ("has_filters", "choose_source") if f"\n{name}() {{" in text]

    done = subprocess.run(
        ["bash", "-c", "\n".join([STUBS, at, position, *parts, "choose_source"])],
        cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "filter": filtered, "answers": answers},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip

    assert done.stdout.strip() == source
    assert ("filters what it applies" in done.stderr) == source.startswith("db1")


@pytest.mark.parametrize(
    ("answers", "short"),
    [
        pytest.param('case "$2" in *LOGS*) echo "binlog.000001 300" ;; *) echo ;; esac', True, id="short"),
        pytest.param('case "$2" in *LOGS*) echo "binlog.000001 30000000" ;; *) echo ;; esac', False, id="long"),
        pytest.param("return 1", False, id="cannot be told"),
    ],
)
def test_a_primary_that_does_not_answer_has_no_short_history(answers: str, short: bool) -> None:
    stubs = f"primary_address=10.0.0.1\nhere() {{ echo; }}\nat() {{ {answers}; }}\n"
    body = function((SCRIPTS / "join_mysql_group.sh").read_text(), "history_is_short")
    source = f"set -euo pipefail\n{body}{stubs}if history_is_short; then echo yes; fi"

    done = subprocess.run(["bash", "-c", source], capture_output=True, text=True, timeout=30, check=False)

    assert (done.stdout, done.returncode) == ("yes\n" if short else "", 0), done.stderr


PLACES = """
  set -euo pipefail
  data=$PWD/data copy=$PWD/copy
  said() { echo "$*, $(ls "$data" | tr '\\n' ' ')" >>said; }
  systemctl() { said "$1"; }
  sync() { said "sync $*"; }
  wait_for_server() { :; }
  here() { :; }
"""


def test_a_clone_is_on_the_disk_before_a_server_runs_on_it(tmp_path: Path) -> None:
    for file in ("data/of_the_image", "copy/complete", "copy/data/ibdata1"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    body = function((SCRIPTS / "join_mysql_group.sh").read_text(), "put_in_place")

    subprocess.run(["bash", "-c", f"{PLACES}{body}put_in_place"], cwd=tmp_path, timeout=30, check=True)

    assert (tmp_path / "said").read_text().splitlines() == [
        "stop, of_the_image ", f"sync -f {tmp_path}/data, ibdata1 ", "start, ibdata1 ",
    ]  # fmt: skip


CLONING = """
  set -euo pipefail
  primary=db1 primary_address=10.0.0.1 CLONE_MIB_PER_SECOND=0 REPLICATION_PASSWORD=secret
  clone_bytes=bytes copy=$PWD/copy data=$PWD
  at() {
    case "$*" in
      "10.0.0.1 "*engine*)
        echo asked >>asked
        [ "$(wc -l <asked)" != "$found_at" ] || echo "SELECT of shop.old"
        [ "$(wc -l <asked)" -lt "${gone_at:-9}" ] ;;
      "10.0.0.1 "*"SELECT of shop.old") echo "shop.old (MyISAM)" ;;
      *" SET "* | *engine*) ;;
      *) echo 1 ;;
    esac
  }
  need_disk() { :; }
  wait_for_primary() { :; }
  here() { :; }
  install() { mkdir -p "$copy"; }
  quoted() { echo "$1"; }
  choose_source() { echo db2 10.0.0.2; }
  clone_into() { echo "cloned"; mkdir -p "$1"; }
"""


@pytest.mark.parametrize(
    ("found_at", "cloned"), [(0, True), (1, False), (2, False)], ids=["InnoDB alone", "rows before", "rows since"]
)
def test_a_server_with_rows_that_no_clone_has_is_not_cloned(tmp_path: Path, found_at: int, cloned: bool) -> None:
    text = (SCRIPTS / "join_mysql_group.sh").read_text()
    names = ("refuse_rows_of_other_engines", "clone_from", "clone_anew")
    parts = [function(text, name) for name in names if f"\n{name}() {{" in text]

    done = subprocess.run(
        ["bash", "-c", "".join([CLONING, *parts, "\nclone_anew\n"])],
        cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "found_at": str(found_at)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    said = done.stdout + done.stderr
    assert (done.returncode == 0) is cloned is ("shop.old (MyISAM)" not in said), said
    assert ("cloned" in said) is (found_at != 1)
    assert (tmp_path / "copy").exists() is (tmp_path / "copy/complete").exists() is cloned


def test_a_clone_that_is_whole_outlives_the_primary(tmp_path: Path) -> None:
    """Whoever leads by then says whether it lacks rows."""
    text = (SCRIPTS / "join_mysql_group.sh").read_text()
    parts = [function(text, name) for name in ("refuse_rows_of_other_engines", "clone_from", "clone_anew")]
    leads = (
        "look_again() { primary=db2 primary_address=10.0.0.2; }\nwait_for_primary() { look_again; }\nsleep() { :; }\n"
    )

    done = subprocess.run(
        ["bash", "-c", "".join([CLONING, leads, *parts, "\nclone_anew\n"])],
        cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "found_at": "0", "gone_at": "2"},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert done.returncode == 0 and done.stdout.splitlines().count("cloned") == 1, done.stdout + done.stderr
    assert (tmp_path / "copy/complete").exists()
