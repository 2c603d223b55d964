"""The program that ships the binary log: where it begins, how it cuts, what it does when an answer is lost."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ATTACHMENTS = Path(__file__).parents[3] / "templates/scripts/attachments"
PARTS = (
    "ship_binlogs", "binlog_store", "binlog_server", "binlog_events", "mariadb_binlogs", "mysql_binlogs", "gtid_sets",
)  # fmt: skip


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ATTACHMENTS))
    for name in PARTS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module: Any = importlib.import_module("ship_binlogs")
    module.mariadb = importlib.import_module("mariadb_binlogs")
    module.mysql = importlib.import_module("mysql_binlogs")
    module.STATE = str(tmp_path / "shipping.json")
    module.sealed = lambda data, recipient: data
    return module


class Store:
    """Remembers what arrived; the answers of `mute` puts are lost, and no name that ends in `refused` is taken."""

    def __init__(self, ship: Any) -> None:
        self.ship = ship
        self.there: dict[str, bytes] = {}
        self.mute = 0
        self.refused: tuple[str, ...] = ()

    def put(self, key: str, body: bytes) -> None:
        if key.endswith(self.refused):
            raise self.ship.StoreDown("answers 503")
        self.there[key] = body
        if self.mute:
            self.mute -= 1
            raise self.ship.StoreDown("no answer")


def shipper(ship: Any, *, stream: str = "1-2-db1") -> Any:
    made = ship.Shipper(
        {
            "BACKUP_RECIPIENT": "age1", "BACKUP_ROOT": "store:b/g", "RCLONE_CONFIG_STORE_ENDPOINT": "http://x",
            "RCLONE_CONFIG_STORE_ACCESS_KEY_ID": "a", "RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY": "s",
            "RCLONE_CONFIG_STORE_REGION": "r",
        },
        ship.mariadb.Server(),
    )  # fmt: skip
    made.store = Store(ship)
    made.server.ask = lambda statement: [["", "0"]]  # never seeded
    made.write_state(stream=stream, lineage="20261122T190000Z-00aa11")
    return made


def event(kind: int, body: bytes, server: int = 1) -> bytes:
    return struct.pack("<IBIIIH", 0x6B034C3B, kind, server, 19 + len(body), 0, 0) + body


def transaction(domain: int, server: int, number: int) -> bytes:
    return event(162, struct.pack("<QIB", number, domain, 0) + bytes(6), server) + event(2, b"INSERT", server)


def log_file(folder: Path, gtids: list[tuple[int, int, int]], more: bytes = b"", name: str = "binlog.000001") -> Path:
    listed = struct.pack("<I", len(gtids)) + b"".join(struct.pack("<IIQ", *gtid) for gtid in gtids)
    file = folder / name
    file.write_bytes(b"\xfebin" + event(15, b"format") + event(163, listed) + more)
    return file


def test_a_log_file_tells_when_it_was_made_and_where_it_begins(ship: Any, tmp_path: Path) -> None:
    path, server = str(log_file(tmp_path, [(0, 1, 5), (0, 2, 9), (7, 1, 3)])), ship.mariadb.Server()
    server.ask = lambda statement: [["", "0"]]

    begins = server.begins(path)

    assert ship.created(path) == 0x6B034C3B
    assert begins == "0-2-9,7-1-3"
    assert server.holds_all_after(begins, "0-2-9, 7-1-4")
    assert not server.holds_all_after(begins, "0-2-9")


@pytest.mark.parametrize(
    ("seeded", "more", "begins"),
    [
        ("", b"", ""),  # a new group's
        ("", transaction(0, 1, 1), ""),
        ("0-1-1000", b"", "0-1-1000"),  # seeded, and has written nothing yet
        ("0-1-1000", transaction(0, 1, 1001) + transaction(0, 1, 1002), "0-1-1000"),
        ("0-1-1002", transaction(0, 1, 1001) + transaction(0, 1, 1002), "0-1-1000"),  # has followed since
        ("0-1-1000,7-3-4", transaction(0, 1, 1001), "0-1-1000"),  # of 7 nothing needs to come any more
        ("7-3-4", transaction(0, 1, 1), ""),  # restored from another group's data
        ("7-3-4", b"", ""),
    ],
)
def test_the_first_log_file_of_a_seeded_server_begins_where_that_was(
    ship: Any, tmp_path: Path, seeded: str, more: bytes, begins: str
) -> None:
    server = ship.mariadb.Server()
    server.ask = lambda statement: [[seeded, "0"]]

    assert server.begins(str(log_file(tmp_path, [], more))) == begins
    assert server.holds_all_after(begins, "0-1-1000")
    assert server.holds_all_after(begins, "0-1-999") == (not begins)


def test_an_empty_log_file_of_a_seeded_server_begins_where_the_one_after_it_does(ship: Any, tmp_path: Path) -> None:
    server = ship.mariadb.Server()
    server.ask = lambda statement: [["0-1-1005", "0"]]
    second = log_file(tmp_path, [], transaction(0, 1, 1001)).rename(tmp_path / "binlog.000002")
    empty = log_file(tmp_path, [])

    assert [server.begins(str(each)) for each in (empty, second)] == ["0-1-1000", "0-1-1000"]


def test_a_server_that_does_not_answer_begins_nothing(ship: Any, tmp_path: Path) -> None:
    made = shipper(ship)
    made.server.ask = lambda statement: None

    with pytest.raises(ship.DatabaseDown):
        made.begin_file(str(log_file(tmp_path, [])))


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


@pytest.mark.parametrize("restarted", [False, True])
def test_no_piece_of_a_file_is_sent_before_the_store_knows_where_it_begins(
    ship: Any, tmp_path: Path, restarted: bool
) -> None:
    made, file = shipper(ship), log_file(tmp_path, [(0, 1, 500)])
    made.base = str(tmp_path / "binlog")
    made.epoch, made.streams = lambda: 1, list
    store = made.store
    store.refused = ("/begins",)
    for _ in range(2):
        with pytest.raises(ship.StoreDown):
            made.ship_all(str(file), file.stat().st_size, "db1", "0-1-500")
    assert [key.rpartition("/")[2] for key in store.there] == ["began.json"]

    store.refused = ()
    if restarted:
        made = shipper(ship, stream=made.at["stream"])
        made.base, made.store, made.streams = str(tmp_path / "binlog"), store, list
    made.ship_all(str(file), file.stat().st_size, "db1", "0-1-500")

    began, begins, piece, state = (key.rpartition("/")[2] for key in store.there)
    assert (began, begins, state) == ("began.json", "begins", "state.json") and piece.endswith(".age")


def test_a_file_of_which_an_older_program_has_noted_nothing_is_said_to_begin_again(ship: Any, tmp_path: Path) -> None:
    made, file = shipper(ship), log_file(tmp_path, [(0, 1, 500)])
    made.base, made.streams, size = str(tmp_path / "binlog"), list, file.stat().st_size
    made.write_state(folder=made.folder_of(str(file)), position=size, pieces=7, epoch=1)

    made.ship_all(str(file), size, "db1", "0-1-500")

    assert [key.rpartition("/")[2] for key in made.store.there] == ["begins", "state.json"]
    assert (made.at["position"], made.at["pieces"]) == (size, 7)


def answering(ship: Any, **rows: Any) -> Any:
    """A server that answers by what a statement begins with; another `client` is another start of it."""
    server = ship.mariadb.Server()
    server.rows, server.client, server.asked = rows, object(), 0

    def ask(statement: str) -> Any:
        server.asked += 1
        return server.rows.get(statement.split(" ")[1].rstrip("("))

    server.ask = ask
    return server


def test_the_data_says_which_history_it_is_of_and_is_asked_again_only_after_a_restart(ship: Any) -> None:
    server = answering(ship, id=[["20261122T190000Z-00aa11"]], **{"COUNT(*)": [["1"]]})

    first = [server.lineage_of(writable=True) for _ in range(3)]
    asked = server.asked
    server.client, server.rows["id"] = object(), [["20261122T200000Z-00bb22"]]

    assert first == ["20261122T190000Z-00aa11"] * 3 and asked == 2
    assert server.lineage_of(writable=True) == "20261122T200000Z-00bb22"


def test_a_server_that_is_promoted_is_asked_which_history_its_data_is_of_by_now(ship: Any) -> None:
    """The primary it followed had begun another one, which came by replication."""
    server = answering(ship, id=[["20261122T190000Z-00aa11"]], **{"COUNT(*)": [["1"]]})
    assert server.lineage_of(writable=False) == "20261122T190000Z-00aa11"

    server.rows["id"] = [["20261122T200000Z-00bb22"]]

    assert server.lineage_of(writable=True) == "20261122T200000Z-00bb22"


def test_only_a_server_that_takes_writes_begins_a_history(ship: Any) -> None:
    server = answering(ship, DATABASE=[["20261122T190000Z-00aa11"]], **{"COUNT(*)": [["0"]]})

    assert server.lineage_of(writable=False) == ""
    assert server.lineage_of(writable=True) == "20261122T190000Z-00aa11"
    server.rows.clear()
    server.client = object()
    assert server.lineage_of(writable=True) is None  # it does not answer


def test_a_new_history_begins_with_the_oldest_log_and_that_is_no_gap(
    ship: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, file = shipper(ship), log_file(tmp_path, [(0, 1, 500)])
    made.epoch = lambda: 1
    for reached, is_gap in ((None, False), ("0-1-500", False), ("0-1-400", True)):
        made.reached_in_store = lambda reached=reached: reached

        assert made.begin_stream([str(file)], "db1") == str(file)
        assert bool(made.at.get("gap")) == is_gap
    assert all(key.startswith("20261122T190000Z-00aa11/binlogs/") for key in made.store.there)


def test_a_gap_is_told_until_there_is_a_newer_backup(
    ship: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, file = shipper(ship), log_file(tmp_path, [(0, 1, 500)])
    listed = {"backups": "20261101T000000Z-full-db2/manifest.json\n"}
    made.epoch, made.reached_in_store, made.newest_size = lambda: 1, lambda: "0-1-400", lambda: None
    made.server.standing = lambda: (True, str(tmp_path / "binlog"), "db1", "0-1-500", str(file), file.stat().st_size)
    made.server.lineage_of = lambda writable: made.at["lineage"]
    ran = subprocess.CompletedProcess

    def run(words: list[str], **_: Any) -> Any:
        says = "primary" if "role" in words else listed["backups"] if words[-1].endswith("/backups") else ""
        return ran(words, 0, stdout=says, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(ship, "SHIP_SECONDS", 0.0)
    monkeypatch.setattr(ship, "GAP_SECONDS", 0.0)
    made.write_state(stream=None)

    for _ in range(2):
        made.look()
        assert (made.at["state"], made.at["why"]) == (
            "gap", "binary logs between 0-1-400 and 0-1-500 are not in the store",
        )  # fmt: skip
    listed["backups"] += "29991231T000000Z-incremental-db2/manifest.json\n"
    made.look()

    assert made.at["state"] == "ok"


class FolderStore:
    """The store as a folder, which rclone reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, key: str, body: bytes) -> None:
        (self.folder / key).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / key).write_bytes(body)

    def streams(self) -> list[str]:
        return sorted(each.name for each in self.folder.glob("*/binlogs/*"))

    def said(self, stream: str, name: str) -> str:
        (file,) = self.folder.glob(f"*/binlogs/{stream}/{name}")
        return str(json.loads(file.read_text())["gtid"])


@pytest.fixture
def member(ship: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A shipper on a server that takes writes; what its agent says is in the file `role`, the store is a folder."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "relaunch-local").write_text(
        f"#!/bin/sh\ncase $1 in role) cat {tmp_path}/role ;; get) echo 7 ;; esac\n"
    )
    (programs / "relaunch-local").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("RCLONE_CONFIG", "/nonexistent")
    made, file = shipper(ship, stream=""), log_file(tmp_path, [(0, 1, 500)])
    made.environment = {**made.environment, "BACKUP_ROOT": str(tmp_path / "store")}
    made.store = FolderStore(tmp_path / "store")
    made.server.standing = lambda: (True, str(tmp_path / "binlog"), "db1", "0-1-500", str(file), file.stat().st_size)
    made.server.lineage_of = lambda writable: made.at["lineage"]
    monkeypatch.setattr(ship, "SHIP_SECONDS", 0.0)
    return made


def test_a_replica_that_takes_writes_for_a_moment_begins_no_stream(member: Any, tmp_path: Path) -> None:
    for says in ("replica", ""):
        (tmp_path / "role").write_text(says)
        member.look()
        assert (member.at["state"], member.store.streams()) == ("not the primary", [])
    (tmp_path / "role").unlink()  # no answer
    member.look()
    assert member.store.streams() == []

    (tmp_path / "role").write_text("primary\n")  # it was being promoted
    member.look()

    (stream,) = member.store.streams()
    assert stream.startswith("0000000007-") and member.at["state"] == "ok"


def test_a_stream_that_was_begun_goes_on_without_an_agent(member: Any, tmp_path: Path) -> None:
    (tmp_path / "role").write_text("primary\n")
    member.look()
    (tmp_path / "bin/relaunch-local").unlink()
    file = log_file(tmp_path, [(0, 1, 500)], transaction(0, 1, 501))
    member.seen = None

    member.look()

    (stream,) = member.store.streams()
    assert member.at["stream"] == stream and member.at["position"] == file.stat().st_size


def test_shipping_goes_on_while_the_streams_cannot_be_listed(member: Any, tmp_path: Path) -> None:
    (tmp_path / "role").write_text("primary\n")
    member.look()
    (tmp_path / "bin/rclone").write_text("#!/bin/sh\necho timeout >&2; exit 1\n")
    (tmp_path / "bin/rclone").chmod(0o755)
    file = log_file(tmp_path, [(0, 1, 500)], transaction(0, 1, 501))
    member.looked_for_stream, member.seen = float("-inf"), None

    member.look()

    assert (member.at["state"], member.at["position"]) == ("ok", file.stat().st_size)


@pytest.mark.parametrize("rclone", ["sleep 5", "echo connection refused >&2; exit 1"], ids=["silent", "refused"])
@pytest.mark.parametrize("which", ["lsf", "cat"])
def test_a_store_that_is_away_when_a_server_begins_to_lead_is_told_and_waited_for(
    member: Any, tmp_path: Path, ship: Any, monkeypatch: pytest.MonkeyPatch, rclone: str, which: str
) -> None:
    """rclone tries again for many minutes, and says nothing meanwhile."""
    monkeypatch.setattr(ship, "STORE_SECONDS", 0.2)
    (tmp_path / "role").write_text("primary\n")
    history = member.at["lineage"]
    member.store.put(f"{history}/binlogs/0000000003-9-db2/state.json", b'{"gtid": "0-1-500"}')
    real = shutil.which("rclone")
    away = tmp_path / "bin/rclone"
    away.write_text(f'#!/bin/sh\nif [ $1 = {which} ]; then {rclone}; else exec {real} "$@"; fi\n')
    away.chmod(0o755)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise Looked

    monkeypatch.setattr(ship, "time", SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=sleep))
    with pytest.raises(Looked):
        member.run_forever()

    assert (member.at["state"], pauses) == ("store down", [1.0, 2.0, 4.0])
    assert ("refused" if "refused" in rclone else "no answer within 0.2 s to rclone") in member.at["why"]
    away.unlink()
    member.look()
    assert member.at["state"] == "ok" and len(member.store.streams()) == 2


def test_a_primary_begins_anew_after_a_later_stream_that_is_not_its_own(member: Any, tmp_path: Path, ship: Any) -> None:
    """With all from where that one began: then a restore needs nothing of it."""
    (tmp_path / "role").write_text("primary\n")
    member.look()
    (own,) = member.store.streams()
    above, epoch, started = f"{member.at['lineage']}/binlogs", *own.split("-")[:2]
    other = f"{epoch}-{int(started) + 1000}-db3"
    for name, gtid in (("began.json", "0-1-500"), ("state.json", "0-3-900")):
        member.store.put(f"{above}/{other}/{name}", json.dumps({"gtid": gtid}).encode())
    log_file(tmp_path, [(0, 1, 800)]).rename(tmp_path / "binlog.000002")
    first = log_file(tmp_path, [(0, 1, 500)])
    newest = tmp_path / "binlog.000002"
    member.server.standing = lambda: (
        True, str(tmp_path / "binlog"), "db1", "0-1-950", str(newest), newest.stat().st_size,
    )  # fmt: skip

    def looked() -> list[str]:
        member.looked_for_stream = float("-inf")
        for _ in range(2):  # one finds it, one ships anew
            member.seen = None
            member.look()
        return list(member.store.streams())

    (tmp_path / "role").write_text("replica\n")
    assert looked() == [own, other], "whoever does not lead stands back"
    (tmp_path / "role").write_text("primary\n")
    _, _, anew = looked()

    assert anew.endswith("-db1") and anew == member.at["stream"]
    assert (member.store.said(anew, "began.json"), member.store.said(anew, "state.json")) == ("0-1-500", "0-1-950")
    assert not member.at.get("gap")
    assert (tmp_path / "store" / above / anew / member.folder_of(str(first)) / "begins").read_text() == "0-1-500"
    assert looked() == [own, other, anew]


def test_what_else_lies_among_the_streams_is_no_later_one(member: Any, tmp_path: Path) -> None:
    (tmp_path / "role").write_text("primary\n")
    member.look()
    (own,) = member.store.streams()
    member.store.put(f"{member.at['lineage']}/binlogs/notes/readme", b"")
    file = log_file(tmp_path, [(0, 1, 500)], transaction(0, 1, 501))
    member.looked_for_stream, member.seen = float("-inf"), None

    member.look()

    assert (member.at["stream"], member.at["state"]) == (own, "ok")
    assert member.at["position"] == file.stat().st_size


@pytest.mark.parametrize(("began", "older"), [("0-1-100", True), ("0-1-100", False), ("", True)])
def test_after_a_primary_that_led_only_briefly_the_next_ships_all_from_where_that_one_began(
    member: Any, tmp_path: Path, began: str, older: bool
) -> None:
    """A restore takes nothing of the older stream after that."""
    (tmp_path / "role").write_text("primary\n")
    above = f"{member.at['lineage']}/binlogs"
    there = {"0000000002-1700000200-db2/began.json": began}
    if older:
        there |= {"0000000001-1700000100-db1/began.json": "0-1-50", "0000000001-1700000100-db1/state.json": "0-1-200"}
    for name, gtid in there.items():
        member.store.put(f"{above}/{name}", json.dumps({"gtid": gtid}).encode())
    log_file(tmp_path, [(0, 1, 150)]).rename(tmp_path / "binlog.000002")
    log_file(tmp_path, [(0, 1, 80)] if began else [])
    newest = tmp_path / "binlog.000002"
    member.server.standing = lambda: (
        True, str(tmp_path / "binlog"), "db1", "0-1-300", str(newest), newest.stat().st_size,
    )  # fmt: skip

    member.look()

    assert member.store.said(member.at["stream"], "began.json") == ("0-1-80" if began else "")
    assert not member.at.get("gap")


U, V = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"
SAID = f"""# at 127
#261128  4:05:49 server id 1  end_log_pos 198 CRC32 0x12345678 	Previous-GTIDs
# {U}:1-5:prompt:1-2,
# {V}:1-3
# at 198
"""


def test_a_log_file_of_mysql_begins_after_what_was_purged_and_what_its_tool_says_came_before(
    ship: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ship.mysql.Server()
    server.ask = lambda statement: [[f"{U}:1-7"]]
    for said, begins in (
        (SAID, f"{U}:1-7:prompt:1-2,{V}:1-3"),
        ("Previous-GTIDs\n# [empty]\n# at 158\n", f"{U}:1-7"),  # a clone's first file
        ("ERROR: not a log", None),
    ):
        previous = ship.mysql.said_before(said)
        monkeypatch.setattr(ship.mysql, "previous_gtids", lambda path, previous=previous: previous)
        assert server.begins("binlog.000001") == begins
    assert server.holds_all_after(f"{U}:1-5", f"{U}:1-9")
    assert not server.holds_all_after(f"{U}:1-5,{V}:1", f"{U}:1-9")


@dataclass
class Primary:
    """A server that takes writes, as its log files and what it answers, and the program that ships them."""

    ship: Any
    member: Any
    folder: Path
    lineage: str = "20261122T190000Z-00aa11"
    newest: Path = Path()
    gtid: str = ""
    made: int = 0

    def __post_init__(self) -> None:
        (self.folder / "role").write_text("primary\n")
        (self.folder / "binlog.000001").unlink()
        server = self.member.server
        server.standing = lambda: (
            True, str(self.folder / "binlog"), "db1", self.gtid, str(self.newest),
            self.newest.stat().st_size if self.newest.exists() else 0,
        )  # fmt: skip
        server.lineage_of = lambda writable: self.lineage
        server.begin_lineage = self.begin_lineage
        server.begin_new_file = lambda: self.begin(int(self.newest.suffix[1:]) + 1)

    def begin_lineage(self, known: str) -> str:
        assert known == self.lineage
        self.lineage = "20261129T090000Z-00bb22"
        return self.lineage

    def begin(self, number: int, *, encrypted: bool = False) -> None:
        """A new log file; it says what came before."""
        known: list[Any] = [tuple(map(int, each.split("-"))) for each in self.gtid.split(",") if each]
        self.newest = log_file(self.folder, known, name=f"binlog.{number:06}")
        self.made += 1
        data = self.newest.read_bytes()
        if encrypted:
            data = data[:4] + event(15, b"format") + event(164, b"\1\1\0\0\0" + bytes(12)) + bytes(range(100, 200))
        self.newest.write_bytes(data[:4] + struct.pack("<I", 1_790_000_000 + self.made) + data[8:])

    def commit(self, *numbers: int) -> None:
        with self.newest.open("ab") as file:
            for number in numbers:
                file.write(transaction(0, 1, number))
                self.gtid = f"0-1-{number}"

    def remove(self, *numbers: int) -> None:
        for number in numbers:
            (self.folder / f"binlog.{number:06}").unlink()

    def reset(self, number: int = 1) -> None:
        """As RESET MASTER TO number."""
        self.remove(*(int(each.suffix[1:]) for each in self.folder.glob("binlog.0*")))
        self.gtid = ""
        self.begin(number)

    def shipped(self) -> str:
        """What the program says after it has looked once."""
        self.member.seen = None
        self.member.looked_for_backup = float("-inf")
        with pytest.raises(Looked):
            self.member.run_forever()
        return str(self.member.at["state"])

    def backed_up(self) -> None:
        name = f"{self.lineage}/backups/29991231T000000Z-full-db1/manifest.json"
        self.member.store.put(name, b"{}")

    def histories(self) -> dict[str, list[str]]:
        """In the store: where each stream of each begins."""
        found = {each.name: sorted(each.glob("binlogs/*/began.json")) for each in self.folder.glob("store/*")}
        return {name: [json.loads(each.read_text())["gtid"] for each in began] for name, began in found.items()}


class Looked(Exception):
    pass


@pytest.fixture
def primary(ship: Any, member: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Primary:
    """Its log is at number 7, with three transactions, all in the store."""

    def sleep(seconds: float) -> None:
        raise Looked

    seconds = itertools.count(time.time())
    monkeypatch.setattr(ship, "time", SimpleNamespace(time=seconds.__next__, monotonic=time.monotonic, sleep=sleep))
    made = Primary(ship, member, tmp_path)
    made.begin(7)
    made.commit(1, 2, 3)
    assert made.shipped() == "ok"
    return made


@pytest.mark.parametrize("number", [1, 7, 8])
@pytest.mark.parametrize("written", [0, 2, 9])
def test_a_log_that_was_reset_begins_a_history_of_its_own_and_that_is_told(
    primary: Primary, number: int, written: int
) -> None:
    """In one with what is in the store a restore would take its numbers for the others."""
    before = primary.lineage
    primary.reset(number)
    primary.commit(*range(1, written + 1))

    for _ in range(2):
        assert primary.shipped() == "reset"
        assert primary.member.at["why"].endswith(f"ends the history {before}: {primary.lineage} has no backup yet")
        assert primary.histories() == {before: [""], primary.lineage: [""]}
        assert primary.member.at["position"] == primary.newest.stat().st_size

    primary.backed_up()
    assert primary.shipped() == "ok"


@pytest.mark.parametrize("number", [1, 7, 8])
def test_a_log_that_was_reset_while_another_server_led_ends_no_history(primary: Primary, number: int) -> None:
    """Its numbers go on from where that server had come to: it begins with all of what was shipped from here."""
    primary.member.at["stream"] = None  # as of a replica
    primary.reset(number)
    primary.gtid = "0-1-5"
    primary.begin(number)
    primary.commit(6)
    (newest,) = primary.folder.glob("store/*/binlogs/*")
    other = newest.with_name("0000000008-1-db2")
    other.mkdir()
    for name in ("began.json", "state.json"):
        (other / name).write_text('{"gtid": "0-1-5"}')

    assert primary.shipped() == "ok"
    assert primary.histories() == {primary.lineage: ["", "0-1-5", "0-1-5"]}


@pytest.mark.parametrize("away", ["store", "program"])
def test_a_reset_is_seen_though_the_store_or_the_program_was_away(primary: Primary, ship: Any, away: str) -> None:
    store, before = primary.member.store, primary.lineage
    if away == "store":
        primary.member.store = Store(ship)
        primary.member.store.refused = ("",)
        primary.commit(4)
        assert primary.shipped() == "store down"
    primary.reset()
    primary.commit(1)
    if away == "store":
        assert primary.shipped() == "store down"
    primary.begin(2)
    primary.commit(*range(2, 9))
    primary.member.at["stream"] = None  # as after a restart

    primary.member.store = store

    assert primary.shipped() == "reset"
    assert primary.histories() == {before: [""], primary.lineage: [""]}


def test_log_files_that_are_purged_once_they_are_in_the_store_are_not_missed(primary: Primary) -> None:
    primary.begin(8)
    primary.commit(4)
    assert primary.shipped() == "ok"
    primary.remove(7)
    primary.begin(9)
    assert primary.shipped() == "ok"

    primary.begin(10)
    primary.remove(8, 9)

    assert primary.shipped() == "ok"
    assert list(primary.histories()) == [primary.lineage]


@pytest.mark.parametrize(
    ("removed", "why"),
    [
        ([7, 8], "binary logs between 0-1-3 and 0-1-5 are not in the store"),
        ([8], "binary logs between the numbers 7 and 9 are not in the store"),
    ],
)
def test_a_log_file_that_goes_before_it_is_in_the_store_is_missed_until_the_next_backup(
    primary: Primary, removed: list[int], why: str
) -> None:
    primary.begin(8)
    primary.commit(4, 5)
    primary.begin(9)
    primary.commit(6)
    primary.remove(*removed)

    for _ in range(2):
        assert (primary.shipped(), primary.member.at["why"]) == ("gap", why)
    assert primary.member.at["position"] == primary.newest.stat().st_size
    primary.backed_up()
    assert primary.shipped() == "ok"
    assert list(primary.histories()) == [primary.lineage]


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("number", [8, 9])
def test_a_log_file_that_is_removed_while_it_is_written_is_missed_and_the_next_one_is_shipped(
    primary: Primary, begun: bool, number: int
) -> None:
    """A server that finds a number free takes it again: then only a history of its own is told apart."""
    before = primary.lineage
    primary.begin(8)
    if begun:
        assert primary.shipped() == "ok"
    primary.commit(4, 5)
    primary.remove(8)
    primary.member.server.begin_new_file = lambda: primary.begin(number)

    assert primary.shipped() == "gap"
    assert primary.member.at["why"] == "binlog.000008 was removed before all of it was in the store"
    primary.commit(6)

    assert primary.shipped() == ("reset" if number == 8 else "gap")
    assert primary.histories() == (
        {before: [""], primary.lineage: [""]} if number == 8 else {before: ["", "0-1-5"]}
    )  # fmt: skip
    assert primary.member.at["position"] == primary.newest.stat().st_size


def test_a_log_that_is_reset_while_it_is_looked_at_is_not_gone_on_without(primary: Primary) -> None:
    before, asked = str(primary.newest), []

    def standing() -> Any:
        asked.append(before)
        name = before if len(asked) == 1 else str(primary.newest)
        return True, str(primary.folder / "binlog"), "db1", "0-1-3", name, primary.newest.stat().st_size

    primary.member.server.standing = standing
    primary.reset()

    assert primary.shipped() == "ok"
    assert (primary.shipped(), primary.newest.name) == ("reset", "binlog.000001")


@pytest.mark.parametrize("restarted", [True, False])
def test_an_encrypted_log_is_refused_and_what_it_held_is_missed(primary: Primary, restarted: bool) -> None:
    primary.commit(4)
    primary.begin(8, encrypted=True)
    before = sorted(primary.folder.glob("store/**/*"))
    for _ in range(2):
        if restarted:
            primary.member.at["stream"] = None
        assert primary.shipped() == "encrypted"
    assert primary.member.at["why"] == (
        "binlog.000008 can be replayed by no other server: set encrypt_binlog = OFF in its configuration, and start"
        " MariaDB again"
    )
    assert sorted(primary.folder.glob("store/**/*")) == before

    primary.gtid = "0-1-9"
    primary.begin(9)
    primary.commit(10)
    if restarted:
        primary.member.at["stream"] = None

    assert primary.shipped() == "gap"
    assert primary.member.at["why"] == "binary logs between the numbers 7 and 9 are not in the store"
    assert not list(primary.folder.glob("store/**/binlog.000008*"))
    primary.backed_up()
    assert primary.shipped() == "ok"
    assert list(primary.histories()) == [primary.lineage]


def test_a_history_whose_first_log_files_are_encrypted_lacks_them(member: Any, ship: Any, tmp_path: Path) -> None:
    primary = Primary(ship, member, tmp_path)
    primary.begin(2, encrypted=True)
    primary.gtid = "0-1-9"
    primary.begin(3)

    member.look()

    assert (member.at["state"], member.at["why"]) == (
        "gap", "binary logs between the beginning and 0-1-9 are not in the store",
    )  # fmt: skip
    assert primary.histories() == {primary.lineage: ["0-1-9"]}
