"""Where a piece that differs begins and ends is told as a text, whatever the key holds."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

ATTACHMENTS = Path(__file__).parents[3] / "templates/scripts/attachments"
COLUMNS = [["id", "binary(16)", "binary"], ["at", "varbinary(9)", "varbinary"], ["said", "varchar(9)", "varchar"]]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ATTACHMENTS))
    spec = importlib.util.spec_from_file_location("checksum_database", ATTACHMENTS / "checksum_database.py")
    assert spec is not None and spec.loader is not None
    made: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


class Session:
    """A server with one table; answers each question for a bound by the same text."""

    def __init__(self, bound: str) -> None:
        self.bound = bound
        self.asked = ""

    def rows(self, statement: str) -> list[list[str]]:
        if "information_schema.columns" in statement:
            return COLUMNS
        return [[name] for name, _, _ in COLUMNS] if "statistics" in statement else []

    def value(self, statement: str) -> str:
        self.asked = statement
        return self.bound


def bound(module: Any, session: Session) -> Any:
    table = module.Table("shop", "t", 10, 100)
    table.read_structure(session)
    return module.Comparison("c1", session, {}, chunk_seconds=0.2, wait_seconds=1.0).upper_bound(table, "")


def test_bytes_are_told_in_hexadecimal_and_texts_as_they_are(module: Any) -> None:
    session = Session("0x9FFF01, 0x, 'now'")

    assert bound(module, session) == "0x9FFF01, 0x, 'now'"

    said = re.search(r"CONCAT_WS\(', ', (.*)\) FROM DUAL", session.asked)
    assert said is not None and said[1] == "CONCAT('0x', HEX(@u0)), CONCAT('0x', HEX(@u1)), QUOTE(@u2)"


def test_bytes_that_come_all_the_same_are_told_as_a_text(module: Any) -> None:
    raw = b"'\x9f\xff\x01'".decode("utf-8", "surrogateescape")

    assert bound(module, Session(raw)).encode() == b"'\\udc9f\\udcff\x01'"
