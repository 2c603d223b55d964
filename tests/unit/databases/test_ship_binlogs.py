"""The program that ships the binary log: where it begins, how it cuts, what it does when an answer is lost."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[3] / "templates/scripts/attachments/ship_binlogs.py"


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("ship_binlogs", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.STATE = str(tmp_path / "shipping.json")
    module.sealed = lambda data, recipient: data
    return module


class Store:
    """Remembers what arrived; the answer of every put in `mute` is lost."""

    def __init__(self, ship: Any) -> None:
        self.ship = ship
        self.there: dict[str, bytes] = {}
        self.mute = 0

    def put(self, key: str, body: bytes) -> None:
        self.there[key] = body
        if self.mute:
            self.mute -= 1
            raise self.ship.StoreDown("no answer")


def shipper(ship: Any) -> Any:
    made = ship.Shipper(
        {
            "BACKUP_RECIPIENT": "age1", "BACKUP_ROOT": "store:b/g", "RCLONE_CONFIG_STORE_ENDPOINT": "http://x",
            "RCLONE_CONFIG_STORE_ACCESS_KEY_ID": "a", "RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY": "s",
            "RCLONE_CONFIG_STORE_REGION": "r",
        }
    )  # fmt: skip
    made.store = Store(ship)
    made.write_state(stream="1-2-db1", lineage="20261122T190000Z-00aa11")
    return made


def log_file(folder: Path, gtids: list[tuple[int, int, int]], more: bytes = b"") -> Path:
    def event(kind: int, body: bytes) -> bytes:
        return struct.pack("<IBIIIH", 0x6B034C3B, kind, 1, 19 + len(body), 0, 0) + body

    listed = struct.pack("<I", len(gtids)) + b"".join(struct.pack("<IIQ", *gtid) for gtid in gtids)
    file = folder / "binlog.000001"
    file.write_bytes(b"\xfebin" + event(15, b"format") + event(163, listed) + more)
    return file


def test_a_log_file_tells_when_it_was_made_and_where_it_begins(ship: Any, tmp_path: Path) -> None:
    created, position = ship.file_begins(log_file(tmp_path, [(0, 1, 5), (0, 2, 9), (7, 1, 3)]))

    assert created == 0x6B034C3B
    assert ship.gtid_text(position) == "0-2-9,7-1-3"
    assert ship.starts_before(position, {0: 9, 7: 4})
    assert not ship.starts_before(position, {0: 9})
    assert ship.gtid_numbers("0-2-9, 7-1-3") == {0: 9, 7: 3}


def test_a_large_piece_is_cut_and_the_cuts_say_so(ship: Any, tmp_path: Path) -> None:
    made, file = shipper(ship), log_file(tmp_path, [], b"x" * 100)
    ship.PIECE_BYTES = 64
    made.begin_file(str(file))

    made.ship_file(str(file), file.stat().st_size)

    pieces = {name.rpartition("/")[2]: body for name, body in made.store.there.items() if name.endswith(".age")}
    assert b"".join(pieces[name] for name in sorted(pieces)) == file.read_bytes()
    assert [".part." in name for name in sorted(pieces)] == [True] * (len(pieces) - 1) + [False]


def test_a_piece_whose_answer_was_lost_is_sent_again_as_it_was_though_the_log_has_grown(
    ship: Any, tmp_path: Path
) -> None:
    made, file = shipper(ship), log_file(tmp_path, [])
    made.begin_file(str(file))
    made.store.mute = 1
    with pytest.raises(ship.StoreDown):
        made.ship_file(str(file), file.stat().st_size)
    file.write_bytes(file.read_bytes() + b"more")

    again = shipper(ship)  # as after a restart
    again.store = made.store
    again.ship_file(str(file), file.stat().st_size)

    pieces = sorted(name for name in made.store.there if name.endswith(".age"))
    ends = [tuple(int(word) for word in name.rpartition("/")[2].split(".")[0].split("-")) for name in pieces]
    assert [first for first, _ in ends] == [0, *(last for _, last in ends[:-1])]
    assert b"".join(made.store.there[name] for name in pieces) == file.read_bytes()


class Answers:
    """A database client that answers by what a statement begins with; another `client` is another start of MariaDB."""

    def __init__(self, **rows: list[list[str]]) -> None:
        self.rows, self.client, self.asked = rows, object(), 0

    def ask(self, statement: str) -> list[list[str]] | None:
        self.asked += 1
        return self.rows.get(statement.split(" ")[1].rstrip("("))


def test_the_data_says_which_history_it_is_of_and_is_asked_again_only_after_a_restart(ship: Any) -> None:
    made = shipper(ship)
    made.database = Answers(COUNT=[["1"]], id=[["20261122T190000Z-00aa11"]])
    made.database.rows["COUNT(*)"] = [["1"]]

    first = [made.lineage_of(writable=True) for _ in range(3)]
    asked = made.database.asked
    made.database.client, made.database.rows["id"] = object(), [["20261122T200000Z-00bb22"]]

    assert first == ["20261122T190000Z-00aa11"] * 3 and asked == 2
    assert made.lineage_of(writable=True) == "20261122T200000Z-00bb22"


def test_only_a_server_that_takes_writes_begins_a_history(ship: Any) -> None:
    made = shipper(ship)
    made.database = Answers(DATABASE=[["20261122T190000Z-00aa11"]])
    made.database.rows["COUNT(*)"] = [["0"]]

    assert made.lineage_of(writable=False) == ""
    assert made.lineage_of(writable=True) == "20261122T190000Z-00aa11"
    made.database.rows.clear()
    made.database.client = object()
    assert made.lineage_of(writable=True) is None  # MariaDB does not answer


def test_a_new_history_begins_with_the_oldest_log_and_that_is_no_gap(
    ship: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, file = shipper(ship), log_file(tmp_path, [(0, 1, 500)])
    told: list[str] = []
    made.tell = lambda state, why: told.append(state)
    made.epoch = lambda: 1
    for reached, gap in ((None, []), ({0: 500}, []), ({0: 400}, ["gap"])):
        told.clear()
        made.reached_in_store = lambda reached=reached: reached

        assert made.begin_stream([str(file)], "db1") == str(file)
        assert told == gap
    assert all(key.startswith("20261122T190000Z-00aa11/binlogs/") for key in made.store.there)
