"""How a replica comes to the group's data: what it does when that does not come at once, or the primary changes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from test_join_logins import SCRIPTS, function

MARIADB = (SCRIPTS / "join_database_group.sh").read_text()
MYSQL = (SCRIPTS / "join_mysql_group.sh").read_text() + (SCRIPTS / "attachments/database_group.sh").read_text()
DIALECTS = pytest.mark.parametrize("script", [MARIADB, MYSQL], ids=["mariadb", "mysql"])


def run(folder: Path, stubs: str, *names: str, end: str, script: str = MARIADB) -> subprocess.CompletedProcess[str]:
    """`end` with these functions of the script; `stubs` come after them."""
    source = "".join(["set -euo pipefail\n", *(function(script, name) for name in names), stubs, "\n", end])
    return subprocess.run(
        ["bash", "-c", source], cwd=folder, env={"PATH": "/usr/bin:/bin", "REPLICATION_PASSWORD": "secret"},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def test_an_unfinished_copy_of_files_is_gone_before_rows_come(tmp_path: Path) -> None:
    (tmp_path / "copying").mkdir()
    (tmp_path / "copying/ibdata1").write_bytes(b"x")
    stubs = """
      copying=copying half=half data= primary=one RS_ATTACH_DIR=/nowhere
      systemctl() { :; }
      history_words() { :; }
      refuse_endless() { :; }
      python3() { cat; }
      at_primary() { case "$*" in *mariadb-dump*) ls; exit 3 ;; esac; }
      mariadb() { cat; }
    """

    done = run(tmp_path, stubs, "copy_rows", end="copy_rows")

    assert done.returncode == 3
    assert "half" in done.stdout.splitlines() and "copying" not in done.stdout.splitlines()
    assert (tmp_path / "half").exists()  # of which the next try knows that this server is not empty


@pytest.mark.parametrize(
    ("ends", "turns", "status"),
    [("0", 1, 0), ("1 0", 2, 0), ("2 1 2 1 2 0", 5, 1), ("64 0", 1, 1)],
    ids=["at once", "the second time", "never, whatever a client ends with", "refused"],
)
def test_what_could_not_be_copied_now_is_tried_again(tmp_path: Path, ends: str, turns: int, status: int) -> None:
    stubs = f"""
      joined=joined seeded=seeded IN_VAIN=64
      log_in() {{ :; }}
      wait_for_primary() {{ echo "waits"; }}
      refuse_another_version() {{ :; }}
      sleep() {{ :; }}
      ends=({ends})
      copy_data() {{ local turn=$(cat turn 2>/dev/null || echo 0); echo $((turn + 1)) >turn; (exit ${{ends[$turn]}}); }}
    """

    done = run(tmp_path, stubs, "seed", end="seed; echo goes on")

    assert done.returncode == status, done.stderr
    assert done.stdout.count("waits") == turns and ("goes on" in done.stdout) == (status == 0)


@pytest.mark.parametrize("runs", [False, True])
def test_files_that_were_put_in_place_and_do_not_start_make_room_for_the_next_try(tmp_path: Path, runs: bool) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/seeded").touch()
    (tmp_path / "data/ibdata1").write_bytes(b"x")
    stubs = f"""
      joined=data/joined data=data seeded=data/seeded IN_VAIN=64
      log_in() {{ :; }}
      wait_for_primary() {{ :; }}
      refuse_another_version() {{ :; }}
      systemctl() {{ {"true" if runs else "false"}; }}
      copy_data() {{ ls data; }}
    """

    done = run(tmp_path, stubs, "seed", end="seed")

    assert done.stdout.split() == (["ibdata1", "seeded"] if runs else []), done.stderr


# db1 dies at the second look, and db2 leads; each is asked by its address, and what is said of this server is `here`.
FAILS_OVER = """
  relaunch-local() {
    echo look >>looks
    local leads=1
    [ "$(wc -l <looks)" -lt 2 ] || leads=2
    jq -n --arg n "$leads" '{group: "shop", primary: {name: ("db" + $n), address: ("10.0.0." + $n)}}'
  }
  there() {  # ADDRESS: nobody answers at the old one after a while
    echo "$1" >>asked
    [ "$1" = 10.0.0.2 ] || [ "$(wc -l <looks)" -lt "$dies" ] || return 1
  }
  at() { there "$1" && answer "$2"; }
  at_primary() { there "$primary_address" && answer "$*"; }
  mariadb() { waits "$*"; }
  here() { waits "$*"; }
  mysql() { :; }
  sleep() { :; }
  primary_position() { at "$primary_address" position; }
"""


@DIALECTS
def test_the_one_that_leads_by_then_is_waited_for(tmp_path: Path, script: str) -> None:
    answer = "dies=1; answer() { echo 0; }\n"

    done = run(tmp_path, FAILS_OVER + answer, "look_again", "wait_for_primary", end="wait_for_primary", script=script)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").read_text().split() == ["10.0.0.1", "10.0.0.2"]
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["db1", "db2"]


@DIALECTS
def test_what_only_a_former_primary_had_is_not_waited_for(tmp_path: Path, script: str) -> None:
    """db1's last position never comes here; db2's does."""
    (tmp_path / "seed.cnf").touch()
    answer = """
      dies=2
      answer() { [ "$(wc -l <looks)" -lt 2 ] && echo lost || echo kept; }
      waits() { case "$1" in *"'kept'"*) echo 0 ;; *) echo 1 ;; esac; }
    """

    done = run(
        tmp_path, FAILS_OVER + answer, "look_again", "wait_until_caught_up", end="wait_until_caught_up", script=script
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Follows db2 (10.0.0.2), caught up with kept"


@DIALECTS
@pytest.mark.parametrize(("reboot", "status"), [("true", 0), ("false", 1)])
def test_one_that_comes_back_with_its_data_before_its_primary_is_not_stranded(
    tmp_path: Path, script: str, reboot: str, status: int
) -> None:
    """All have lost their power, and the primary is up again much later. A fresh replica has to have all."""
    (tmp_path / "joined").touch()
    stubs = f"""
      joined=joined RS_REBOOT={reboot}
      log_in() {{ touch seed.cnf; }}
      sleep() {{ SECONDS=$((SECONDS + 60)); }}
      at() {{ return 1; }}
      at_primary() {{ return 1; }}
      mysql() {{ :; }}
      mariadb() {{ :; }}
    """
    names = ("look_again", "wait_for_primary", "seed", "wait_until_caught_up", "primary_position")

    done = run(
        tmp_path, FAILS_OVER + stubs, *(name for name in names if f"\n{name}() {{" in script),
        end="look_again; seed; wait_until_caught_up; echo goes on", script=script,
    )  # fmt: skip

    assert done.returncode == status, done.stdout + done.stderr
    assert ("goes on\n" in done.stdout) is (status == 0)
    assert "takes writes" not in done.stdout + done.stderr


def test_a_clone_that_broke_off_is_made_anew_of_whoever_leads_by_then(tmp_path: Path) -> None:
    stubs = """
      data=. copy=copy clone_bytes= primary=db1 primary_address=10.0.0.1
      at() { echo 1; }
      need_disk() { [ ! -e copy ] || { echo "NOT ENOUGH DISK"; exit 1; }; }
      sleep() { :; }
      wait_for_primary() { primary=db2 primary_address=10.0.0.2; }
      refuse_rows_of_other_engines() { :; }
      choose_source() { echo "$primary $primary_address"; }
      clone_from() { echo "clone of $1 $2"; [ "$1" = db2 ]; }
    """
    (tmp_path / "copy").mkdir()  # of a run that was killed

    done = run(tmp_path, stubs, "clone_anew", end="clone_anew; echo goes on", script=MYSQL)

    assert [line for line in done.stdout.splitlines() if "Once more" not in line] == [
        "clone of db1 10.0.0.1",
        "clone of db2 10.0.0.2",
        "goes on",
    ]


@DIALECTS
@pytest.mark.parametrize(
    ("user", "schema", "names"),
    [
        ("app", "", ""),
        ("root", "a_b-c$d", ""),
        ("", "", "DB_USER"),
        ("seed", "", "DB_USER"),
        ("replication", "", "DB_USER"),
        ("relaunch_probe", "", "DB_USER"),
        ("app", "mysql", "DB_NAME"),
        ("app", "relaunch", "DB_NAME"),
        ("app", "my_ql", "DB_NAME"),
        ("app", "my_qls", ""),
        ("app", "a`b", "DB_NAME"),
        ("app", "fine it's büro.1", ""),
    ],
)
def test_no_account_or_schema_of_the_servers_own_or_ours_is_given_away(
    tmp_path: Path, script: str, user: str, schema: str, names: str
) -> None:
    end = f'DB_USER="{user}" DB_NAME="{schema}"\n'.replace("`", "\\`").replace("$", "\\$")

    names_of = (SCRIPTS / "attachments/group_names.sh").read_text()
    done = run(tmp_path, "", "refuse_names", end=f"{end}refuse_names", script=names_of)

    assert done.returncode == (1 if names else 0)
    assert done.stderr.startswith(f"{names} must not be " if names else "")
    assert script.index("\nrefuse_names\n") < script.index("then refuse_to_start_empty")
