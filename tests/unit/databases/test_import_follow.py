"""Following a foreign binary log: which of it is applied, and that position and rows go together."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "templates/scripts/attachments/import_follow.py"
START = "/*!50530 SET @@SESSION.PSEUDO_SLAVE_MODE=1*/;\nDELIMITER /*!*/;\n"
FILE = "#700101  0:00:00 server id 1  end_log_pos 0 \tRotate to b.000001  pos: 4\n"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("import_follow", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Stand:
    def __init__(self, script: ModuleType, own_gtids: bytes = b"") -> None:
        self.sent = ""
        self.follower = script.Follower(
            ["shop"], "`app`@`%`", "b.000001", 4, self._take, now=lambda: 5.0, own_gtids=own_gtids
        )
        self.read(START + FILE)
        self.sent = ""

    def _take(self, text: bytes) -> None:
        self.sent += text.decode()

    def read(self, text: str) -> str:
        """What is sent because of it, by the time there is no more."""
        before = len(self.sent)
        for line in text.splitlines(keepends=True):
            self.follower.line(line.encode())
        self.follower.commit()
        return self.sent[before:]


@pytest.fixture
def stand(script: ModuleType) -> Stand:
    return Stand(script)


def event(end: int, what: str) -> str:
    return f"#261122 22:10:06 server id 1  end_log_pos {end} CRC32 0xabc \t{what}\n"


def transaction(end: int, *tables: str) -> str:
    maps = "".join(event(end - 50, f"Table_map: {table} mapped to number 18") for table in tables)
    return (
        event(end - 100, "GTID 0-1-6 trans") + "/*M!100001 SET @@session.gtid_seq_no=6*//*!*/;\n"
        "START TRANSACTION\n/*!*/;\n" + maps + "\nBINLOG '\nAAAA\n'/*!*/;\n" + event(end, "Xid = 10") + "COMMIT/*!*/;\n"
    )


def query(end: int, text: str, use: str = "") -> str:
    named = f"use `{use}`/*!*/;\n" if use else ""
    return event(end, "Query\tthread_id=5") + named + f"SET TIMESTAMP=1795385406/*!*/;\n{text}\n/*!*/;\n"


def test_rows_of_the_schema_and_their_position_are_one_transaction(stand: Stand) -> None:
    sent = stand.read(transaction(500, "`shop`.`t`"))

    begin, rows = sent.index("START TRANSACTION"), sent.index("BINLOG")
    position, commit = sent.index("UPDATE relaunch.import_source"), sent.index("COMMIT")
    assert begin < rows < position < commit
    assert "IF(file = 'b.000001' AND position = 4, 500," in sent and "changed = 5.000" in sent


def test_the_other_servers_history_is_not_taken_over(stand: Stand) -> None:
    sent = stand.read(
        "/*M!100001 SET @@session.gtid_domain_id=0*//*!*/;\n/*M!100001 SET @@session.server_id=1*//*!*/;\n"
        "SET @@session.sql_mode=1411383296/*!*/;\n" + transaction(500, "`shop`.`t`")
    )

    assert "gtid" not in sent and "server_id" not in sent and "sql_mode=1411383296" in sent


def test_rows_of_other_schemas_are_left_out_and_the_position_goes_on(stand: Stand) -> None:
    sent = stand.read(transaction(500, "`other`.`t`"))

    assert "BINLOG" not in sent and "position = 4, 500," in sent and "changed" not in sent


def test_transactions_that_come_at_once_are_one_here(stand: Stand) -> None:
    sent = stand.read(transaction(500, "`shop`.`t`") + transaction(900, "`shop`.`t`"))

    assert sent.count("BINLOG") == 2 and sent.count("START TRANSACTION") == 1 and sent.count("COMMIT") == 1
    assert "position = 4, 900," in sent


def test_each_position_follows_from_the_one_before(stand: Stand) -> None:
    assert "position = 4, 500," in stand.read(transaction(500, "`shop`.`t`"))
    assert "position = 500, 900," in stand.read(transaction(900, "`shop`.`t`"))


def test_a_new_file_begins_at_its_beginning(stand: Stand) -> None:
    sent = stand.read(
        event(600, "Rotate to b.000002  pos: 4") + event(256, "Start: binlog v 4") + transaction(700, "`shop`.`t`")
    )

    assert "IF(file = 'b.000001' AND position = 4, 700," in sent and "file = 'b.000002'" in sent


def test_what_a_new_file_begins_with_is_passed_without_a_transaction(stand: Stand) -> None:
    begin = event(600, "Rotate to b.000002  pos: 4") + event(256, "Start: binlog v 4") + event(299, "Gtid list [0-1-1]")

    assert "position = 4, 299," in stand.read(begin)


def test_half_a_transaction_is_never_committed(stand: Stand) -> None:
    whole = transaction(500, "`shop`.`t`")
    half, _, rest = whole.partition("#261122 22:10:06 server id 1  end_log_pos 500")

    assert "COMMIT" not in stand.read(half)
    assert "position = 4, 500," in stand.read("#261122 22:10:06 server id 1  end_log_pos 500" + rest)


def test_begun_again_behind_its_first_event_a_transaction_still_moves_the_position(stand: Stand) -> None:
    rest = transaction(500, "`shop`.`t`").partition("START TRANSACTION\n/*!*/;\n")[2]

    sent = stand.read(rest)

    assert "START TRANSACTION" in sent and "position = 4, 500," in sent


def test_a_statement_over_the_border_stops_it(stand: Stand, script: ModuleType) -> None:
    with pytest.raises(script.Stop, match=r"other\.u, shop\.t"):
        stand.read(transaction(500, "`shop`.`t`", "`other`.`u`"))


@pytest.mark.parametrize(
    ("text", "use", "is_ours"),
    [
        ("CREATE TABLE t (i INT)", "shop", True),
        ("ALTER TABLE shop.t ADD x INT", "other", True),
        ("alter table `shop` . `t` add x int", "other", True),
        ("CREATE TABLE t (i INT)", "other", False),
        ("CREATE TABLE workshop.t (i INT)", "other", False),
        ("GRANT ALL ON shop.* TO x", "shop", False),
        ("CREATE USER shop.x", "shop", False),
        ("FLUSH TABLES", "shop", False),
        ("CREATE DATABASE shop", "", False),
    ],
)
def test_which_statements_are_ours(stand: Stand, text: str, use: str, is_ours: bool) -> None:
    sent = stand.read(query(500, text, use))

    assert (text in sent) == is_ours
    assert "position = 4, 500," in sent and ("changed" in sent) == is_ours


def test_a_definition_gets_our_definer(stand: Stand) -> None:
    sent = stand.read(
        query(500, "CREATE DEFINER=`root`@`localhost` TRIGGER x BEFORE INSERT ON t\nFOR EACH ROW SET @a=1", "shop")
    )

    assert "CREATE DEFINER=`app`@`%` TRIGGER x BEFORE INSERT ON t\nFOR EACH ROW SET @a=1" in sent


def test_a_value_that_looks_like_a_definer_stays(stand: Stand) -> None:
    text = "CREATE TABLE t (a VARCHAR(40) DEFAULT 'DEFINER=`a`@`b`')"

    assert text in stand.read(query(500, text, "shop"))


@pytest.mark.parametrize("text", ["DROP DATABASE shop", "XA START 'x'"])
def test_what_cannot_be_followed_stops_it(stand: Stand, script: ModuleType, text: str) -> None:
    with pytest.raises(script.Stop):
        stand.read(query(500, text, "shop"))


# As mysqlbinlog 9.7 tells it, shortened.
OF_MYSQL = """#700101  0:00:00 server id 1  end_log_pos 0 CRC32 0x0 \tRotate to theirs.000003  pos: 4
# at 4
#251128  4:25:54 server id 1  end_log_pos 128 CRC32 0x0 \tStart: binlog v 4, server v 9.7.4-2 created 251128  4:25:54
BINLOG '
Rlp4aQ8=
'/*!*/;
# at 128
#251128  4:25:54 server id 1  end_log_pos 199 CRC32 0x0 \tPrevious-GTIDs
# 7c0380de-eae3-11f1-b132-72b636aed763:1-7
# at 199
#251128  4:25:55 server id 1  end_log_pos 278 CRC32 0x0 \tGTID\tlast_committed=0\tsequence_number=1\trbr_only=yes
# original_commit_timestamp=1795839955356460 (2026-11-28 04:25:55.356460 UTC)
/*!80014 SET @@session.original_server_version=90704*//*!*/;
SET @@SESSION.GTID_NEXT= '7c0380de-eae3-11f1-b132-72b636aed763:8'/*!*/;
# at 278
#251128  4:25:55 server id 1  end_log_pos 349 CRC32 0x0 \tQuery\tthread_id=300\texec_time=0\terror_code=0
SET TIMESTAMP=1795839955/*!*/;
BEGIN
/*!*/;
# at 349
#251128  4:25:55 server id 1  end_log_pos 404 CRC32 0x0 \tTable_map: `shop`.`t` mapped to number 107
# has_generated_invisible_primary_key=0
# at 404
#251128  4:25:55 server id 1  end_log_pos 449 CRC32 0x0 \tWrite_rows: table id 107 flags: STMT_END_F

BINLOG '
AAAA
'/*!*/;
# at 449
#251128  4:25:55 server id 1  end_log_pos 480 CRC32 0x0 \tXid = 3756
COMMIT/*!*/;
"""


def test_what_mysql_writes_is_followed_without_its_gtids(script: ModuleType) -> None:
    stand = Stand(script, own_gtids=b"ours\n")

    sent = stand.read(OF_MYSQL)

    assert "7c0380de" not in sent
    assert sent.index("Rlp4aQ8=") < sent.index("ours\n") < sent.index("START TRANSACTION") < sent.index("AAAA")
    assert "position = 128, 480," in sent and "file = 'theirs.000003'" in sent


def test_a_new_file_of_mysql_is_described_between_transactions(script: ModuleType) -> None:
    stand = Stand(script, own_gtids=b"ours\n")

    sent = stand.read(transaction(400, "`shop`.`t`") + OF_MYSQL)

    assert sent.index("COMMIT") < sent.index("Rlp4aQ8=") < sent.index("ours\n") < sent.rindex("START TRANSACTION")
    assert sent.count("COMMIT") == 2


def test_read_from_its_middle_a_log_is_described_first_and_the_position_stays(script: ModuleType) -> None:
    stand = Stand(script)
    stand.read(transaction(900, "`shop`.`t`"))

    sent = stand.read(event(126, "Start: binlog v 4") + "BINLOG '\nAAAA\n'/*!*/;\n" + transaction(1300, "`shop`.`t`"))

    assert "126" not in sent and "position = 900, 1300," in sent


def test_compressed_transactions_stop_it_as_their_positions_mean_nothing(stand: Stand, script: ModuleType) -> None:
    with pytest.raises(script.Stop, match="binlog_transaction_compression"):
        stand.read(event(480, "Transaction_payload") + "# Start of compressed events!\n")


def test_a_table_created_with_its_rows_is_created_and_then_filled(stand: Stand) -> None:
    create = query(400, "CREATE TABLE `copy_of` (`id` int) START TRANSACTION", "shop")
    rest = transaction(700, "`shop`.`copy_of`").partition("START TRANSACTION\n/*!*/;\n")[2]

    sent = stand.read("BEGIN\n/*!*/;\n" + create + rest)

    assert "CREATE TABLE `copy_of` (`id` int)\n/*!*/;" in sent and sent.index("CREATE TABLE") < sent.index("BINLOG")
    assert "position = 4, 700," in sent


CHECKS = "@@session.foreign_key_checks=1, @@session.sql_auto_is_null=0, @@session.unique_checks=1"


@pytest.mark.parametrize(
    ("setting", "sent"),
    [
        (f"SET {CHECKS}, @@session.autocommit=1/*!*/;\n", f"SET {CHECKS}/*!*/;\n"),
        (f"SET @@session.autocommit=0, {CHECKS}/*!*/;\n", f"SET {CHECKS}/*!*/;\n"),
        (
            f"SET {CHECKS}, @@session.autocommit=1, @@session.check_constraint_checks=1/*!*/;\n",
            f"SET {CHECKS}, @@session.check_constraint_checks=1/*!*/;\n",
        ),
        ("SET @@session.autocommit=1/*!*/;\n", ""),
        ("SET @@session.autocommit=0/*!*/;\n", ""),
        (f"SET {CHECKS}/*!*/;\n", f"SET {CHECKS}/*!*/;\n"),
    ],
)
def test_autocommit_there_does_not_commit_rows_here_before_their_position(
    stand: Stand, setting: str, sent: str
) -> None:
    stand.read(setting + transaction(500, "`shop`.`t`") + setting)

    assert "autocommit" not in stand.sent
    assert stand.sent.startswith(sent + "START TRANSACTION")
    assert stand.sent.count("SET @@") == (2 if sent else 0)


def test_settings_of_the_program_itself_are_not_sent(script: ModuleType) -> None:
    sent: list[Any] = []
    follower = script.Follower(["shop"], "`app`@`%`", "b.000001", 4, sent.append)

    for line in (START + FILE).splitlines(keepends=True):
        follower.line(line.encode())

    assert sent == [b"DELIMITER /*!*/;\n"]


def programs(folder: Path, after: str) -> tuple[str, str]:
    """What reads the other server, which does so afterwards; a client here whose changes of structure take a second."""
    source, client = folder / "source", folder / "client"
    (folder / "log").write_text(START + FILE + query(500, "ALTER TABLE t ADD x INT", "shop"))
    source.write_text(f"#!/bin/bash\ncat {folder}/log\n{after}\n")
    client.write_text(f"""#!/bin/bash
      while IFS= read -r line; do
        case $line in ALTER*) touch {folder}/altering; sleep 1 ;; esac
        printf '%s\\n' "$line" >>{folder}/applied
      done
    """)
    for program in (source, client):
        program.chmod(0o755)
    return str(source), str(client)


SETTINGS = {"schemas": ["shop"], "definer": "`app`@`%`", "server_id": 7}


def applied_with_its_position(folder: Path) -> bool:
    applied = (folder / "applied").read_text()
    return "position = 4, 500," in applied.partition("ALTER TABLE t ADD x INT")[2] and applied.endswith(
        "COMMIT\n/*!*/;\n"
    )


def test_a_change_of_structure_reaches_its_position_though_the_other_server_is_gone(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, client = programs(tmp_path, "exit 1")
    monkeypatch.setattr(script, "reader", lambda number: [source])
    monkeypatch.setattr(script, "CLIENT", client)

    script.follow(SETTINGS, "b.000001", 4)

    assert applied_with_its_position(tmp_path)


def test_a_change_of_structure_reaches_its_position_before_the_service_stops(tmp_path: Path) -> None:
    source, client = programs(tmp_path, "exec sleep 60")
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    service = f"""if True:
        import sys
        sys.path.insert(0, {str(SCRIPT.parent)!r})
        import import_follow
        import_follow.FOLDER, import_follow.STATE = {str(tmp_path)!r}, {str(tmp_path / "state")!r}
        import_follow.CLIENT, import_follow.reader = {client!r}, lambda number: [{source!r}]
        import_follow.where_to_begin = lambda: (("b.000001", 4), "")
        import_follow.main()
    """
    process = subprocess.Popen([sys.executable, "-c", service], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "altering").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)

        assert process.wait(20) == 0
        assert applied_with_its_position(tmp_path)
    finally:
        process.kill()
        process.wait()
