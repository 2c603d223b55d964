"""Which binary logs a restore takes from the store, and what it refuses to go on without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ATTACHMENTS = Path(__file__).parents[3] / "templates/scripts/attachments"
STREAM = "0000000001-1764000000-db1"
# Positions are plain numbers here, and nothing is encrypted or compressed.
SCRIPT = f"""set -euo pipefail
RS_ATTACH_DIR={ATTACHMENTS}
. {ATTACHMENTS}/restore_store.sh
reaches() {{ [ "$1" -ge "$2" ]; }}
copy_position() {{ echo "$POSITION"; }}
age() {{ cat "${{@: -1}}"; }}
zstd() {{ cat; }}
"""


@dataclass
class Stand:
    """A folder as the store, read by the real rclone; log file N holds the bytes `log N` and is of second 10 N."""

    folder: Path

    _path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    @property
    def binlogs(self) -> Path:
        return self.folder / "store/binlogs"

    def ship(self, number: int, *, begins: int | None, closed: bool = True, stream: str = STREAM) -> Path:
        made = self.binlogs / stream / f"binlog.{number:06}-{number * 10:08x}"
        made.mkdir(parents=True)
        data = f"log {number}".encode()
        (made / f"{0:012}-{len(data):012}.binlog.zst.age").write_bytes(data)
        if begins is not None:
            (made / "begins").write_text(str(begins))
        if closed:
            (made / f"end-{len(data):012}").touch()
        return made

    def run(self, commands: str, **given: str) -> tuple[int, str]:
        """(exit status, what is said) of the restore's functions."""
        for name in ("secret", "work"):
            (self.folder / name).mkdir(exist_ok=True)
        environment = {
            **os.environ, "PATH": f"{self.folder}:{self._path}",
            "RCLONE_CONFIG": "/nonexistent", "BACKUP_ROOT": str(self.folder / "store"), "RESTORE_TO": "newest",
            "secret": str(self.folder / "secret"), "work": str(self.folder / "work"), **given,
        }  # fmt: skip
        ended = subprocess.run(
            ["bash", "-c", SCRIPT + commands],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
        )  # fmt: skip
        return ended.returncode, ended.stdout

    def fails(self, words: str, says: str = "") -> None:
        """From now on rclone called with just these, after it has said so much."""
        program = self.folder / "rclone"
        program.write_text(
            f'#!/bin/sh\nif [ "$*" = "{words}" ]; then echo "{says}"; echo timeout >&2; exit 1; fi\n'
            f'exec {Path(sys.executable).parent}/rclone "$@"\n'
        )
        program.chmod(0o755)

    def counts(self, program: str) -> Path:
        """From now on: a line for each time that it is started."""
        said, real = self.folder / f"{program}.said", shutil.which(program, path=self._path)
        (self.folder / program).write_text(f'#!/bin/sh\necho "$*" >>{said}\nexec {real} "$@"\n')
        (self.folder / program).chmod(0o755)
        return said

    def fetched(self, position: int, **given: str) -> list[str]:
        status, said = self.run(f"find_logs; fetch_logs {STREAM} {position}", **given)
        assert status == 0, said
        return [file.read_text() for file in sorted(self.folder.glob("work/logs/*"))]

    def refused(self, position: int, before: str = "") -> str:
        status, said = self.run(f"{before}\nfind_logs; fetch_logs {STREAM} {position}")
        assert status == 1, said
        return said


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def test_the_files_from_the_position_on_are_put_together(stand: Stand) -> None:
    for number in (8, 9, 10):
        stand.ship(number, begins=number * 10, closed=number < 10)

    assert stand.fetched(95) == ["log 9", "log 10"]


def test_a_file_that_does_not_say_where_it_begins_is_not_left_out(stand: Stand) -> None:
    for number, begins in ((1, 10), (2, None), (3, 30), (4, None)):
        stand.ship(number, begins=begins, closed=number < 4)

    assert stand.fetched(15) == ["log 1", "log 2", "log 3", "log 4"]
    assert stand.fetched(35) == ["log 3", "log 4"]


def test_logs_of_which_none_says_where_it_begins_are_no_empty_stream(stand: Stand) -> None:
    stand.ship(1, begins=None, closed=False)

    assert "MISSING LINK: the binary logs of" in stand.refused(15)


def test_a_file_that_is_not_in_the_store_is_missed_by_its_number(stand: Stand) -> None:
    for number in (1, 2, 4):
        stand.ship(number, begins=number * 10, closed=number < 4)

    assert "no binary logs between the numbers 2 and 4" in stand.refused(15)
    assert stand.fetched(45) == ["log 4"]


RUN = "PATH[$(cd${IFS}$secret;touch${IFS}ran)]"  # as a name, which cannot have a slash or a blank


@pytest.mark.parametrize("to", ["newest", "time:1970-01-01 00:00:25"])
@pytest.mark.parametrize("name", [f"binlog.000003+{RUN}-0000000a", f"binlog.000003-0+{RUN}"])
def test_a_folder_that_is_none_of_ours_is_not_taken_for_a_log_file_nor_run(stand: Stand, name: str, to: str) -> None:
    stand.ship(1, begins=10)
    stand.ship(2, begins=20)
    (stand.binlogs / STREAM / name).mkdir()
    (stand.binlogs / STREAM / name / "begins").write_text("30")

    status, said = stand.run(f"find_logs; fetch_logs {STREAM} 15", RESTORE_TO=to)

    assert not (stand.folder / "secret/ran").exists()
    assert status == 0, said
    assert [file.read_text() for file in sorted(stand.folder.glob("work/logs/*"))] == ["log 1", "log 2"]


@pytest.mark.parametrize("name", [f"0+{RUN}-{5:012}.binlog.zst.age", f"{5:012}-0+{RUN}.part.binlog.zst.age"])
def test_an_object_that_is_none_of_ours_is_not_taken_for_a_piece_nor_run(stand: Stand, name: str) -> None:
    (stand.ship(1, begins=10, closed=False) / name).write_bytes(b"theirs")

    status, said = stand.run(f"find_logs; fetch_logs {STREAM} 15")

    assert not (stand.folder / "secret/ran").exists()
    assert status == 0, said
    assert [file.read_text() for file in stand.folder.glob("work/logs/*")] == ["log 1"]


def test_an_open_file_whose_first_pieces_are_gone_is_refused(stand: Stand) -> None:
    stand.ship(1, begins=10)
    emptied = stand.ship(2, begins=None, closed=False)
    (piece,) = emptied.glob("*.age")
    piece.rename(emptied / f"{100:012}-{105:012}.binlog.zst.age")

    assert "lacks the bytes 0 to 100" in stand.refused(15)


@pytest.mark.parametrize("left", [8, 5, 1, 0])
@pytest.mark.parametrize("closed", [True, False])
def test_pieces_are_read_while_large_ones_take_the_place_of_small_ones(stand: Stand, left: int, closed: bool) -> None:
    """Small ones are of one byte each here, the large ones of five: those that are left overlap."""
    made = stand.ship(1, begins=10)
    for piece in made.glob("*.age"):
        piece.unlink()
    (made / "end-000000000005").unlink()
    (made / "end-000000000008").touch()
    data = b"abcdefgh"
    for at in range(8):
        if at % 8 >= 8 - left:
            (made / f"{at:012}-{at + 1:012}.binlog.zst.age").write_bytes(data[at : at + 1])
    (made / f"{0:012}-{5:012}.part.binlog.zst.age").write_bytes(data[:5])
    (made / f"{5:012}-{8:012}.binlog.zst.age").write_bytes(data[5:])
    if closed:
        stand.ship(2, begins=20, closed=False)

    assert stand.fetched(15) == ["abcdefgh", *(["log 2"] if closed else [])]


@pytest.mark.parametrize("has", ["a part", "nothing"])
def test_a_newest_file_that_has_no_whole_transaction_yet_is_left_out(stand: Stand, has: str) -> None:
    stand.ship(8, begins=80)
    newest = stand.ship(9, begins=90, closed=False)
    (piece,) = newest.glob("*.age")
    if has == "nothing":
        piece.unlink()
    else:
        piece.rename(newest / f"{0:012}-{5:012}.part.binlog.zst.age")

    assert stand.fetched(85) == ["log 8"]
    assert stand.fetched(95) == []
    assert not (stand.folder / "work/logs").exists(), "as a stream that has nothing"


@pytest.mark.parametrize("folder", ["binlogs", f"binlogs/{STREAM}"])
def test_a_listing_that_fails_is_not_taken_for_there_being_no_binary_log(stand: Stand, folder: str) -> None:
    stand.ship(1, begins=10, closed=False)
    stand.fails(f"lsf --dirs-only {stand.folder}/store/{folder}")

    assert "cannot be read" in stand.refused(15)


def test_a_chain_that_builds_on_itself_is_refused(stand: Stand) -> None:
    for id, parent in (("one", "two"), ("two", "one")):
        manifest = stand.folder / f"store/backups/{id}/manifest.json"
        manifest.parent.mkdir(parents=True)
        manifest.write_text(f'{{"id": "{id}", "parent": "{parent}", "gtid": "", "ended": ""}}')

    status, said = stand.run("choose_chain", RESTORE_BACKUP="one")

    assert status == 1 and "builds on itself" in said


def test_what_came_with_the_data_is_not_written_to_as_our_mark(stand: Stand) -> None:
    (stand.folder / "work/data").mkdir(parents=True)
    (stand.folder / "secret").mkdir()
    theirs = stand.folder / "theirs"
    theirs.write_text("theirs")
    (stand.folder / "work/data/relaunch-group").symlink_to(theirs)
    stubs = """
      install() { [ "$1 $2 $3 $4" = "-o mysql -g mysql" ]; shift 4; command install "$@"; }
      chown() { command chown 1:1 "${@:2}"; }
      in_place() { :; }
      chain=() RESTORE_BACKUP=b RESTORE_NEW_LINEAGE=n RESTORE_LINEAGE=o RESTORE_PHASE=all
      end_restore 15 1.0
    """

    status, said = stand.run(stubs, BACKUP_GROUP="shop")

    assert status == 0, said
    assert theirs.read_text() == "theirs" and theirs.stat().st_uid == stand.folder.stat().st_uid
    assert (stand.folder / "work/data/relaunch-group").read_text() == "shop\n"
    assert not (stand.folder / "work/data/relaunch-group").is_symlink()


@pytest.mark.parametrize("held", [b"log 1 and more", b"log"])
def test_a_piece_that_unpacks_to_other_than_it_says_is_damaged(stand: Stand, held: bytes) -> None:
    made = stand.ship(1, begins=10, closed=False)
    next(made.glob("*.age")).write_bytes(held)

    assert "DAMAGED OBJECT" in stand.refused(15)
    assert sum(file.stat().st_size for file in stand.folder.glob("work/logs/*")) <= len("log 1") + 1


@pytest.mark.parametrize("script", ["restore_database.sh", "restore_mysql.sh", "restore_schema.sh"])
def test_the_private_key_is_in_a_file_and_in_no_other_programs_environment(tmp_path: Path, script: str) -> None:
    text = (ATTACHMENTS.parent / script).read_text()
    begin = text.index("printf '%s\\n' \"$BACKUP_KEY\"")
    given = text[begin : text.index("\n\n", begin)]
    environment = {"PATH": "/usr/bin:/bin", "BACKUP_KEY": "AGE-SECRET-KEY-1X", "secret": str(tmp_path)}

    done = subprocess.run(
        ["bash", "-c", f"set -u; {given}\nenv"], env=environment, capture_output=True, text=True, timeout=30, check=True
    )

    assert (tmp_path / "key").read_text() == "AGE-SECRET-KEY-1X\n"
    assert "secret=" in done.stdout and "AGE-SECRET-KEY" not in done.stdout


@pytest.mark.parametrize("script", ["restore_database.sh", "restore_mysql.sh"])
def test_the_server_on_the_copy_owns_its_data_and_not_where_root_goes_on_to_write(tmp_path: Path, script: str) -> None:
    text = (ATTACHMENTS.parent / script).read_text()
    given = text.partition("prepared=$(seconds)\n")[2].partition("\ninstall -d -o mysql")[0]
    stubs = f'work={tmp_path} secret={tmp_path}; chown() {{ echo "${{@: -1}}"; }}\n'

    done = subprocess.run(["bash", "-c", f"{stubs}{given}"], capture_output=True, text=True, timeout=30, check=True)

    assert done.stdout == f"{tmp_path}/data\n"


def test_a_listing_of_histories_that_breaks_off_names_none_as_the_newest(stand: Stand) -> None:
    for lineage in ("20261101T000000Z-aaaaaa", "20261120T000000Z-bbbbbb"):
        (stand.folder / "store/my" / lineage).mkdir(parents=True)
    given = {"BACKUP_GROUP": "my", "RESTORE_LINEAGE": "newest", "BACKUP_ROOT": f"{stand.folder}/store/my"}
    whole = stand.run("choose_history; echo $RESTORE_LINEAGE", **given)
    stand.fails(f"lsf --dirs-only {stand.folder}/store/my", says="20261101T000000Z-aaaaaa/")

    status, said = stand.run("choose_history; echo $RESTORE_LINEAGE", **given)

    assert whole[0] == 0 and "20261120T000000Z-bbbbbb" in whole[1]
    assert status == 1 and "or the object store cannot be read" in said


@pytest.mark.parametrize(
    ("to", "files"),
    [
        ("time:1970-01-01 00:00:25", [1, 2, 3]),
        ("time:1970-01-01 00:00:30", [1, 2, 3]),
        ("time:1970-01-01 00:00:31", [1, 2, 3, 4]),
        ("gtid:25", [1, 2, 3]),
        ("gtid:30", [1, 2, 3]),
        ("gtid:31", [1, 2, 3, 4]),
        ("gtid:105", list(range(1, 11))),
        ("newest", list(range(1, 11))),
    ],
)
def test_nothing_is_fetched_of_after_what_is_asked_for(stand: Stand, to: str, files: list[int]) -> None:
    """The last one of a moment says that the logs before it come to that."""
    for number in range(1, 11):
        stand.ship(number, begins=number * 10, closed=number < 10)

    assert stand.fetched(15, RESTORE_TO=to) == [f"log {number}" for number in files]


def test_logs_for_which_there_is_no_room_are_refused_before_they_fill_the_disk(stand: Stand) -> None:
    for number in (1, 2, 3):
        stand.ship(number, begins=number * 10, closed=number < 3)

    said = stand.refused(15, before="df() { printf 'Avail\\n12\\n'; }")

    assert "NOT ENOUGH DISK" in said
    assert [file.name for file in stand.folder.glob("work/logs/*")] == ["binlog.000001"]


def test_a_full_disk_is_not_called_a_damaged_object(stand: Stand) -> None:
    stand.ship(1, begins=10, closed=False)

    assert "DAMAGED OBJECT" in stand.refused(15, before="zstd() { echo 'zstd: not in zstd format' >&2; return 1; }")
    full = "tail: error writing 'standard output': No space left on device"
    said = stand.refused(15, before=f'zstd() {{ cat >/dev/null; echo "{full}" >&2; return 1; }}')
    assert "NOT ENOUGH DISK" in said and "DAMAGED" not in said


def test_what_was_put_together_is_gone_before_the_data_is_put_in_place(stand: Stand) -> None:
    stand.ship(1, begins=10, closed=False)

    status, said = stand.run(f"write_on; find_logs; fetch_logs {STREAM} 15; ls $work/logs; write_rest")

    assert status == 0 and "binlog.000001" in said, said
    assert not list(stand.folder.glob("work/*")) and not list(stand.folder.glob("secret/logs"))


def test_of_a_year_of_binary_logs_only_the_newest_are_asked_where_they_begin(stand: Stand) -> None:
    """A stream has 144 files a day, as the heartbeat goes on all night: for MySQL each cost a process."""
    for number in range(1, 401):
        stand.ship(number, begins=number * 10, closed=number < 400)
    asked = 'reaches() { echo x >>$secret/asked; [ "$1" -ge "$2" ]; }\n'

    status, said = stand.run(
        f"{asked}find_logs; fetch_logs {STREAM} 3985; find $secret/begins -type f -name begins | wc -l"
    )

    assert status == 0, said
    assert [file.read_text() for file in sorted(stand.folder.glob("work/logs/*"))] == ["log 398", "log 399", "log 400"]
    assert len((stand.folder / "secret/asked").read_text().splitlines()) == 3
    assert int(said.splitlines()[-1]) == 64


def test_a_restore_of_long_ago_finds_its_place_in_a_long_stream(stand: Stand) -> None:
    for number in range(1, 201):
        stand.ship(number, begins=None if number in (3, 150) else number * 10, closed=number < 200)

    assert stand.fetched(35, RESTORE_TO="gtid:50") == ["log 2", "log 3", "log 4", "log 5"]


def test_the_newest_of_thousands_of_backups_is_found_by_few_processes(stand: Stand) -> None:
    for number in range(600):
        made = stand.folder / f"store/backups/id-{number:03}"
        made.mkdir(parents=True)
        ended = f"2026-11-{1 + number // 24:02}T{number % 24:02}:00:00Z"
        told = {"id": made.name, "parent": None, "ended": ended, "gtid": str(number), "check": {"tables": [1] * 99}}
        (made / "manifest.json").write_text(json.dumps(told, indent=2))
    (stand.folder / "store/backups/id-599/manifest.json").write_text('{"id": "id-599", "en')
    processes = stand.counts("jq")

    status, said = stand.run("choose_chain; echo $RESTORE_BACKUP", RESTORE_BACKUP="latest", BACKUP_GROUP="my")
    assert status == 0 and said.splitlines()[-1] == "id-598", said
    assert "id-599: its manifest cannot be read" in said
    assert len(processes.read_text().splitlines()) < 10

    moment = {"RESTORE_BACKUP": "latest", "RESTORE_TO": "time:2026-11-02 00:30:00"}
    shutil.rmtree(stand.folder / "secret")
    status, said = stand.run("choose_chain; echo $RESTORE_BACKUP", **moment)
    assert status == 0 and said.splitlines()[-1] == "id-024", said
