"""The page's commands that put the binary logs together and replay them, on a folder as the store."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs/do/restore-by-hand.md"
OLD, NEW = "0000000001-1700000000-db1", "0000000002-1710000000-db2"
# Nothing is encrypted or compressed. A log file is the numbers of its transactions, a line each; a server is at the
# last it was given. As the real ones, what decodes logs fails for a file that is not there or empty.
PROGRAMS = {
    "age": 'cat "${@: -1}"',
    "zstd": "cat",
    "binlog": 'for file; do [[ $file == --* ]] || { [ -s "$file" ] && cat "$file"; } || exit 1; done',
    "client": """at=$(cat "$AT")
case $* in
  *binary-mode*) tee -a "$AT.replayed" | tail -n 1 >"$AT.new"; [ ! -s "$AT.new" ] || mv "$AT.new" "$AT" ;;
  *gtid_binlog_pos*) echo "0-1-$at" ;;
  *GTID_SUBSET*) limit=${2#*:1-}; [ "${limit%%\\'*}" -le "$at" ] && echo 1 || echo 0 ;;
esac""",
    "check": "",
}
NAMES = {
    "mariadb": {"binlog": "mariadb-binlog", "client": "mariadb", "check": "mariadb-check"},
    "mysql": {"binlog": "mysqlbinlog", "client": "mysql", "check": "mysqlcheck"},
}


def commands(dialect: str) -> str:
    """Those from the binary logs on, without those that put the data in place and start the server."""
    text = PAGE.read_text()
    *_, logs, start, _ = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    if dialect == "mysql":
        *_, start = re.findall(r"```bash mysql\n(.*?)```", text, re.DOTALL)
    replay = start[start.index("number()" if dialect == "mariadb" else "for stream in") :]
    return f"set -e -o pipefail\nmkdir -p $WORK\n{logs}{replay}"


@dataclass
class Stand:
    folder: Path
    dialect: str

    def position(self, number: int) -> str:
        return f"0-1-{number}" if self.dialect == "mariadb" else f"3e11fa47-71ca-11e1-9e33-c80aa9429562:1-{number}"

    def stream(self, name: str, *, began: int) -> Path:
        made = self.folder / "store/binlogs" / name
        made.mkdir(parents=True)
        (made / "began.json").write_text(f'{{"gtid": "{self.position(began)}"}}')
        return made

    def restored(self, at: int) -> tuple[int, list[int], str]:
        """(exit status, the transactions replayed, what was said) from a backup at this position on."""
        programs = self.folder / "bin"
        programs.mkdir()
        for name, does in PROGRAMS.items():
            program = programs / NAMES[self.dialect].get(name, name)
            program.write_text(f"#!/bin/bash\n{does}\n")
            program.chmod(0o755)
        (self.folder / "at").write_text(f"{at}\n")
        environment = {
            **os.environ, "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RCLONE_CONFIG": "/nonexistent", "ROOT": str(self.folder / "store"), "WORK": str(self.folder / "work"),
            "KEY": "key", "AT": str(self.folder / "at"),
        }  # fmt: skip
        ended = subprocess.run(
            ["bash", "-e", "-s"], input=commands(self.dialect), env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
        )  # fmt: skip
        replayed = self.folder / "at.replayed"
        numbers = [int(word) for word in replayed.read_text().split()] if replayed.exists() else []
        return ended.returncode, numbers, ended.stdout


@pytest.fixture(params=["mariadb", "mysql"])
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Stand:
    return Stand(tmp_path, request.param)


def ship(stream: Path, number: int, *pieces: str) -> None:
    """A log file of these pieces; one that ends with a full stop ends within a transaction."""
    folder = stream / f"binlog.{number:06}-65000000"
    folder.mkdir()
    (folder / "begins").touch()
    start = 0
    for piece in pieces:
        part, data = (".part" if piece.endswith(".") else ""), piece.rstrip(".")
        (folder / f"{start:012}-{start + len(data):012}{part}.binlog.zst.age").write_text(data)
        start += len(data)


def test_each_stream_is_replayed(stand: Stand) -> None:
    ship(stand.stream(OLD, began=1), 1, "2\n3\n", "4\n")
    ship(stand.stream(NEW, began=4), 7, "5\n")

    status, replayed, said = stand.restored(at=1)

    assert (status, replayed) == (0, [2, 3, 4, 5]), said


def test_an_older_stream_whose_files_were_removed_is_not_needed_after_a_later_backup(stand: Stand) -> None:
    stand.stream(OLD, began=1)
    ship(stand.stream(NEW, began=10), 7, "11\n12\n13\n")

    status, replayed, said = stand.restored(at=12)

    assert (status, replayed[-1]) == (0, 13), said


def test_an_older_stream_whose_files_were_removed_too_early_is_missed(stand: Stand) -> None:
    stand.stream(OLD, began=1)
    ship(stand.stream(NEW, began=10), 7, "11\n")

    status, replayed, said = stand.restored(at=5)

    assert (status, replayed) == (1, []) and "missing" in said, said


@pytest.mark.parametrize(
    ("pieces", "expected"), [((), [2, 3]), (("4.",), [2, 3]), (("4\n", "5."), [2, 3, 4]), (("4.", "\n"), [2, 3, 4])]
)
def test_what_follows_the_last_whole_transaction_is_left_out(
    stand: Stand, pieces: tuple[str, ...], expected: list[int]
) -> None:
    stream = stand.stream(OLD, began=1)
    ship(stream, 1, "2\n3\n")
    ship(stream, 2, *pieces)

    status, replayed, said = stand.restored(at=1)

    assert (status, replayed) == (0, expected), said


@pytest.mark.parametrize("pieces", [(), ("4.",)])
def test_a_newest_stream_that_has_no_whole_transaction_yet_has_nothing(stand: Stand, pieces: tuple[str, ...]) -> None:
    ship(stand.stream(OLD, began=1), 1, "2\n3\n")
    ship(stand.stream(NEW, began=3), 7, *pieces)

    status, replayed, said = stand.restored(at=1)

    assert (status, replayed) == (0, [2, 3]), said
