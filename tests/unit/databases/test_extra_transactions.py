"""Which transactions of an old primary nobody else has, by what the present primary says it has."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType

import pytest

UUID, OTHER = "c0bf9a02-cc0e-11f0-9c1a-0242ac110002", "d0bf9a02-cc0e-11f0-9c1a-0242ac110002"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    file = Path(__file__).parents[3] / "templates/scripts/attachments/extra_transactions.py"
    spec = importlib.util.spec_from_file_location("extra_transactions", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("said", "transaction", "has"),
    [
        # Server 1 was the primary up to 105; server 2 took over and has written five of its own.
        ("7-1-105,7-2-110/7-1-105", (7, 1, 105), True),
        ("7-1-105,7-2-110/7-1-105", (7, 1, 106), False),
        ("7-1-105,7-2-110/7-1-105", (7, 1, 109), False),
        # Copied at 105, so that its own log has nothing of server 1.
        ("7-2-110/7-1-105", (7, 1, 105), True),
        ("7-2-110/7-1-105", (7, 1, 106), False),
        # Server 1 had taken over from server 3 and written nothing that arrived.
        ("7-2-110/7-3-100", (7, 1, 101), False),
        ("7-2-110/7-3-100", (7, 3, 100), True),
        ("7-2-110/7-3-100", (8, 1, 1), False),
        ("/", (7, 1, 1), False),
        # MySQL says all that it has, and what it asked for itself has a tag.
        (f"{UUID}:1-5:9:ask:1-2", f"{UUID}:5", True),
        (f"{UUID}:1-5:9:ask:1-2", f"{UUID}:6", False),
        (f"{UUID}:1-5:9:ask:1-2", f"{UUID}:9", True),
        (f"{UUID}:1-5:9:ask:1-2", f"{UUID}:ask:2", True),
        (f"{UUID}:1-5:9:ask:1-2", f"{UUID}:ask:3", False),
        (f"{OTHER}:1-5,\n{UUID}:1-2", f"{UUID}:3", False),
        (f"{OTHER}:1-5,\n{UUID}:1-2", f"{UUID.upper()}:2", True),
    ],
)
def test_what_the_primary_has(
    script: ModuleType, said: str, transaction: tuple[int, int, int] | str, has: bool
) -> None:
    gtid = transaction if isinstance(transaction, str) else "-".join(map(str, transaction))
    assert script.known_to_primary(said).has(gtid) is has


def test_only_rows_of_our_own_schema_are_ours(script: ModuleType) -> None:
    beat = "#261122 server id 1 Table_map: `relaunch`.`heartbeat` mapped to number 19\n"
    order = "#261122 server id 1 Table_map: `shop`.`orders` mapped to number 20\n"

    assert script.is_ours("7-1-1", [beat])
    assert not script.is_ours("7-1-1", [beat, order])
    assert not script.is_ours("7-1-1", ["DROP TABLE shop.orders\n"])
    assert script.is_ours(f"{UUID}:relaunch_prompt:7", ["BEGIN\n"])


HEAD = "# at {at}\n#261129  9:00:00 server id 1  end_log_pos 197 CRC32 0x1f \t"
FILES = {
    "mariadb-binlog": {
        "head": f"{HEAD.format(at=256)}Gtid list [{{}}]\n",
        "transaction": "# at 400\n#261129  9:00:00 server id 1  end_log_pos 442 \tGTID {} trans\n",
        "known": "7-1-100,7-2-110/7-1-100",
        "behind": [("", ["7-1-100", "7-1-101"]), ("7-1-101", ["7-2-109"]), ("7-1-101,\n# 7-2-109", ["7-2-110"])],
        "none": [("", ["7-1-100"]), ("7-1-100", ["7-2-109"]), ("7-1-100,\n# 7-2-109", ["7-2-110"])],
        "extra": "7-1-101",
    },
    "mysqlbinlog": {
        "head": f"{HEAD.format(at=126)}Previous-GTIDs\n# {{}}\n",
        "transaction": f"{HEAD.format(at=400)}GTID\nSET @@SESSION.GTID_NEXT= '{{}}'/*!*/;\n",
        "known": f"{UUID}:1-100,{OTHER}:1-10",
        "behind": [
            ("[empty]", [f"{UUID}:100", f"{UUID}:101"]),
            (f"{UUID}:1-101", [f"{OTHER}:9"]),
            (f"{UUID}:1-101,\n# {OTHER}:1-9", [f"{OTHER}:10"]),
        ],
        "none": [("[empty]", [f"{UUID}:100"]), (f"{UUID}:1-100:relaunch_prompt:1-2", [f"{OTHER}:9"])],
        "extra": f"{UUID}:101",
    },
}  # fmt: skip


@pytest.mark.parametrize("program", FILES)
@pytest.mark.parametrize("logs", ["behind", "none"])
def test_one_in_an_older_file_is_found_behind_newer_ones_that_the_primary_has(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str,
    logs: str,
) -> None:
    """It has followed the present primary on after a start, which begins a file."""
    of = FILES[program]
    client = tmp_path / "bin" / program
    client.parent.mkdir()
    client.write_text('#!/bin/sh\nfor file; do :; done\ncat "$file"\necho "$file" >>"$0.read"\n')
    client.chmod(0o755)
    for number, (before, transactions) in enumerate(of[logs], start=1):
        text = of["head"].format(before) + "".join(of["transaction"].format(each) for each in transactions)
        (tmp_path / f"binlog.00000{number}").write_text(text)
    monkeypatch.setenv("PATH", f"{client.parent}:/usr/bin:/bin")
    monkeypatch.setattr(script.shutil, "which", lambda name: str(client) if name == program else None)
    monkeypatch.setenv("KNOWN_POSITIONS", of["known"])
    monkeypatch.setattr(script, "FOLDER", str(tmp_path))
    monkeypatch.setattr(script, "KEPT", str(tmp_path / "kept"))

    script.main()

    answer = json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix("EXTRA "))
    assert answer["first"] == ([of["extra"]] if logs == "behind" else [])
    assert len((client.parent / f"{program}.read").read_text().splitlines()) == (3 if logs == "behind" else 1)


CLIENT = """#!/bin/sh
for file; do :; done
cat "$file"
case $file in *.000002) {ends} ;; esac
"""
DAMAGED = "echo 'first' >&2; echo 'ERROR: Could not read entry at offset 4: read error' >&2; exit 1"


@pytest.mark.parametrize(
    ("ends", "unread"),
    [
        (DAMAGED, "binlog.000002: ERROR: Could not read entry at offset 4: read error"),
        ("exit 3", "binlog.000002: exit status 3"),
        ("echo 'a warning' >&2", ""),
    ],
)
def test_a_log_that_cannot_be_read_to_its_end_is_told(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ends: str,
    unread: str,
) -> None:
    client = tmp_path / "bin" / "mariadb-binlog"
    client.parent.mkdir()
    client.write_text(CLIENT.format(ends=ends))
    client.chmod(0o755)
    for number, gtid in ((1, "7-1-50"), (2, "7-1-100")):
        (tmp_path / f"binlog.00000{number}").write_text(f"# at 256\n#26 server id 1 GTID {gtid} trans\n")
    monkeypatch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("KNOWN_POSITIONS", "7-1-100/")
    monkeypatch.setattr(script, "FOLDER", str(tmp_path))
    monkeypatch.setattr(script, "KEPT", str(tmp_path / "kept"))

    script.main()

    answer = json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix("EXTRA "))
    assert (answer["count"], answer["unread"]) == (0, unread)
