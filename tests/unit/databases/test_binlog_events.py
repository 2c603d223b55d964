"""What is read from binary log files before they are replayed: whether they go on from where a backup is."""

from __future__ import annotations

import importlib
import struct
from pathlib import Path
from typing import Any

import pytest

ATTACHMENTS = Path(__file__).parents[3] / "templates/scripts/attachments"
NOON = 1795867200  # 2026-11-28 12:00:00 UTC


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ATTACHMENTS))
    return importlib.import_module("binlog_events")


def event(kind: int, body: bytes, server: int = 1, time: int = NOON) -> bytes:
    return struct.pack("<IBIIIH", time, kind, server, 19 + len(body), 0, 0) + body


def file_of(folder: Path, begins: str, *gtids: str, name: str = "binlog.000001", time: int = NOON) -> str:
    known = [tuple(int(word) for word in each.split("-")) for each in begins.split(",") if each]
    data = event(15, b"format") + event(163, struct.pack("<I", len(known)))
    if known:
        listed = struct.pack("<I", len(known)) + b"".join(struct.pack("<IIQ", *each) for each in known)
        data = event(15, b"format") + event(163, listed)
    for each in gtids:
        domain, server, number = (int(word) for word in each.split("-"))
        data += event(162, struct.pack("<QIB", number, domain, 0) + bytes(6), server, time) + event(
            2, b"x", server, time
        )
    (folder / name).write_bytes(b"\xfebin" + data)
    return str(folder / name)


@pytest.mark.parametrize(
    ("data", "encrypted"),
    [
        (b"\xfebin" + event(15, b"format") + event(164, bytes(17)) + b"random", True),
        (b"\xfebin" + event(15, b"format") + event(163, bytes(4)) + event(164, b""), False),
        (b"\xfdbin" + bytes(508), True),  # MySQL's
        (b"\xfebin", False),
        (b"", False),
    ],
)
def test_a_log_file_says_that_it_is_encrypted(logs: Any, tmp_path: Path, data: bytes, encrypted: bool) -> None:
    (tmp_path / "binlog.000001").write_bytes(data)

    assert logs.is_encrypted(str(tmp_path / "binlog.000001")) == encrypted


@pytest.mark.parametrize(
    ("position", "begins", "gtids", "why"),
    [
        ("0-1-5", "0-1-3", ["0-1-4", "0-1-5", "0-1-6"], ""),
        ("0-1-5", "0-1-5", ["0-2-6"], ""),
        ("0-1-5", "", ["0-1-6"], ""),  # the first file of one that was seeded
        ("0-1-5", "", [], ""),
        ("", "", ["0-1-1"], ""),
        ("0-1-5,7-1-2", "", ["0-1-6", "7-1-3"], ""),
        ("0-1-5", "", ["0-1-7"], "MISSING LINK: after 0-1-5 they go on with 0-1-7"),
        ("0-1-5,7-1-2", "", ["0-1-6", "7-1-4"], "MISSING LINK: after 7-1-2"),
        ("0-1-5", "0-1-3", ["0-1-4", "0-2-5", "0-2-6"], "ANOTHER HISTORY: they have 0-2-5 where the backup has 0-1-5"),
        ("0-1-5", "0-1-3,0-2-5", ["0-2-6"], "ANOTHER HISTORY"),
    ],
)
def test_logs_go_on_from_a_position(
    logs: Any, tmp_path: Path, position: str, begins: str, gtids: list[str], why: str
) -> None:
    found = logs.why_it_does_not_go_on(position, [file_of(tmp_path, begins, *gtids)])

    assert found.startswith(why) and bool(found) == bool(why)


def test_a_hole_between_two_files_is_found_only_where_the_position_lies(logs: Any, tmp_path: Path) -> None:
    first = file_of(tmp_path, "", "0-1-4", "0-1-5")
    second = file_of(tmp_path, "0-1-5", "0-1-6", name="binlog.000002")

    assert logs.why_it_does_not_go_on("0-1-5", [first, second]) == ""
    assert "after 0-1-5" in logs.why_it_does_not_go_on(
        "0-1-5", [first, file_of(tmp_path, "0-1-8", "0-1-9", name="binlog.000002")]
    )


def test_logs_come_to_a_moment_when_they_have_anything_from_then_on(logs: Any, tmp_path: Path) -> None:
    path = file_of(tmp_path, "", "0-1-1", time=NOON + 60)

    for moment, status in (("2026-11-28 12:01:00", 0), ("2026-11-28 12:01:01", 1)):
        with pytest.raises(SystemExit) as ended:
            logs.main("comes-to", moment, path)
        assert ended.value.code == status


def test_a_file_that_ends_within_an_event_and_an_empty_one_are_read_as_far_as_they_go(
    logs: Any, tmp_path: Path
) -> None:
    path = Path(file_of(tmp_path, "", "0-1-1", "0-1-2"))
    path.write_bytes(path.read_bytes()[:-40])
    (tmp_path / "empty").touch()

    assert logs.first_of(str(path), 0) == (1, 1)
    assert logs.why_it_does_not_go_on("0-1-1", [str(tmp_path / "empty"), str(path)]) == ""
