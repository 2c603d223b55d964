"""What may be imported from where."""

from __future__ import annotations

from typing import Any

import pytest

from relaunch.databases.imports import Source, judge, missing_grants, read_source, shown_status
from relaunch.errors import BadInput

SOURCE = Source(host="db.example", port=3306, user="mover", schemas=("shop",))
MODES = "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION"


def facts(**changed: Any) -> dict[str, Any]:
    """Of a server that can be followed, but for what is changed; `there_…` and `here_…` are of one side."""
    sides: dict[str, dict[str, Any]] = {
        "there": {
            "version": "10.11.6-MariaDB", "server_id": 1, "log_bin": 1, "binlog_format": "ROW",
            "binlog_row_image": "FULL", "gtid_domain_id": 0, "sql_mode": MODES, "lower_case_table_names": 0,
        },
        "here": {"version": "11.8.6-MariaDB", "server_id": 5124, "sql_mode": MODES, "lower_case_table_names": 0},
    }  # fmt: skip
    plain: dict[str, Any] = {
        **sides, "schemas": ["shop"], "bytes": 10**9, "free": 10**10, "odd": [], "keyless": [], "events": [],
        "unknown": [], "grants": ["GRANT ALL PRIVILEGES ON *.* TO `mover`@`%`"], "full": [], "replicas": [],
        "position": "binlog.000004 1234", "cipher": "TLS_AES_256_GCM_SHA384", "stage": "", "wanted": "", "source": "",
    }  # fmt: skip
    for name, value in changed.items():
        side, _, key = name.partition("_")
        if side in sides:
            plain[side][key] = value
        else:
            plain[name] = value
    return plain


def test_a_server_as_it_should_be_has_neither_problems_nor_warnings() -> None:
    verdict = judge(facts(), SOURCE)

    assert verdict.problems == () and verdict.warnings == ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"there_log_bin": 0}, "its binary log is off"),
        ({"there_binlog_format": "MIXED"}, "binlog_format is MIXED"),
        ({"there_binlog_row_image": "MINIMAL"}, "binlog_row_image is MINIMAL"),
        ({"there_lower_case_table_names": 1}, "lower_case_table_names differs"),
        ({"schemas": []}, "there is no schema shop"),
        ({"position": ""}, "does not say where its binary log stands"),
        ({"unknown": ["utf8mb4_0900_ai_ci"]}, "utf8mb4_0900_ai_ci"),
        ({"free": 10**9}, "1000 MB of our disk are free"),
        ({"full": ["shop"]}, "there are tables in our shop"),
        ({"stage": "following"}, "--cut-over or --cancel"),
        ({"stage": "cut"}, "--cut-over or --cancel"),
        ({"versioned": ["shop.prices"]}, "before and since MariaDB 11.5"),
        ({"versioned": ["shop.prices"], "there_version": "12.0-MariaDB", "here_version": "11.4-MariaDB"}, "by a dump"),
        ({"replicas": ["4000005124"]}, "as server 4000005124"),
        ({"grants": ["GRANT USAGE ON *.* TO `mover`@`%`"]}, "lacks SELECT, SHOW VIEW"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_its_name(changed: dict[str, Any], said: str) -> None:
    problems = judge(facts(**changed), SOURCE).problems

    assert len(problems) == 1 and said in problems[0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"odd": ["shop.log (MyISAM)"]}, "shop.log (MyISAM)"),
        ({"keyless": ["shop.log"]}, "without a primary key"),
        ({"events": ["shop.nightly"]}, "shop.nightly"),
        ({"there_sql_mode": "NO_ENGINE_SUBSTITUTION"}, "STRICT_TRANS_TABLES"),
        ({"there_server_id": 5124}, "its server_id is ours"),
        ({"cipher": ""}, "not encrypted"),
    ],
)
def test_what_a_person_should_know_is_a_warning(changed: dict[str, Any], said: str) -> None:
    verdict = judge(facts(**changed), SOURCE)

    assert verdict.problems == ()
    assert len(verdict.warnings) == 1 and said in verdict.warnings[0]


def test_tables_with_history_are_followed_between_servers_that_end_their_rows_alike() -> None:
    assert judge(facts(versioned=["shop.prices"], there_version="11.8.2-MariaDB"), SOURCE).problems == ()
    older = facts(versioned=["shop.prices"], here_version="11.4.2-MariaDB")
    assert judge(older, SOURCE).problems == ()


@pytest.mark.parametrize("whence", ["db.example:3306", ""])
def test_an_earlier_copy_that_broke_off_is_begun_again(whence: str) -> None:
    assert judge(facts(full=["shop"], stage="copying", wanted="shop", source=whence), SOURCE).problems == ()


@pytest.mark.parametrize(("wanted", "whence"), [("blog", "db.example:3306"), ("blog", ""), ("shop", "other:3306")])
def test_an_earlier_copy_of_something_else_excuses_no_schema_that_is_taken(wanted: str, whence: str) -> None:
    broken, taken = judge(facts(full=["shop"], stage="copying", wanted=wanted, source=whence), SOURCE).problems

    assert f"a copy of {wanted} broke off" in broken and "--cancel" in broken
    assert "there are tables in our shop" in taken


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        ("8.4.3 MySQL Community Server", "11.8.6-MariaDB", "mysqldump --single-transaction"),
        ("11.8.6-MariaDB mariadb.org", "9.7.0", "mariadb-dump --single-transaction"),
        ("5.6.51 MySQL Community Server", "9.7.0", "too old"),
        ("9.8.0 MySQL Community Server", "9.7.0", "newer than ours, 9.7.0"),
    ],
)
def test_who_cannot_be_followed_is_told_to_come_by_dump(theirs: str, ours: str, said: str) -> None:
    problems = judge({"there": {"version": theirs}, "here": {"version": ours}}, SOURCE).problems

    assert len(problems) == 1
    assert said in problems[0] and "--from-dump" in problems[0] and theirs.split()[0] in problems[0]


MYSQL_RIGHTS = "SELECT, LOCK TABLES, SHOW VIEW, TRIGGER, EVENT, REPLICATION SLAVE, REPLICATION CLIENT"


def mysql_facts(**changed: Any) -> dict[str, Any]:
    """Of MySQL servers, whose settings come as texts."""
    found = facts(grants=[f"GRANT {MYSQL_RIGHTS} ON *.* TO `mover`@`%`", "GRANT CREATE USER ON *.* TO `mover`@`%`"])
    found["there"] = {
        "version": "8.0.36", "server_id": "1", "log_bin": "1", "binlog_format": "ROW", "binlog_row_image": "FULL",
        "binlog_transaction_compression": "0", "sql_mode": MODES, "lower_case_table_names": "0",
    }  # fmt: skip
    found["here"] = {"version": "9.7.0", "server_id": "5124", "sql_mode": MODES, "lower_case_table_names": "0"}
    found["there"].update(changed)
    return found


def test_a_mysql_server_as_it_should_be_has_neither_problems_nor_warnings() -> None:
    verdict = judge(mysql_facts(), SOURCE)

    assert verdict.problems == () and verdict.warnings == ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"log_bin": "0"}, "its binary log is off"),
        ({"binlog_transaction_compression": "1"}, "SET GLOBAL binlog_transaction_compression = OFF"),
        ({"lower_case_table_names": "1"}, "lower_case_table_names differs"),
    ],
)
def test_what_of_a_mysql_server_cannot_be_followed_is_refused_by_its_name(changed: dict[str, Any], said: str) -> None:
    problems = judge(mysql_facts(**changed), SOURCE).problems

    assert len(problems) == 1 and said in problems[0]


def test_a_mysql_account_needs_rights_to_hold_up_writes_for_a_moment() -> None:
    found = mysql_facts() | {
        "grants": ["GRANT SELECT ON *.* TO `mover`@`%`", "GRANT CREATE USER ON *.* TO `mover`@`%`"]
    }

    problems = judge(found, SOURCE).problems

    assert "lacks SHOW VIEW, TRIGGER, EVENT, LOCK TABLES, REPLICATION SLAVE, REPLICATION CLIENT" in problems[0]


def test_a_server_that_does_not_let_us_in_says_why() -> None:
    problems = judge({"there": None, "error": "ERROR 1045 (28000): Access denied"}, SOURCE).problems

    assert problems == ("db.example:3306 does not let us in: ERROR 1045 (28000): Access denied",)


def test_grants_on_the_schema_itself_do_for_its_tables_but_not_for_the_binary_log() -> None:
    rows = "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON `my\\_shop`.* TO `mover`@`%`"
    server = "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `mover`@`%`"

    assert missing_grants([rows, server], ["my_shop"]) == []
    assert missing_grants([rows, server], ["my_shop", "other"]) == ["SELECT", "SHOW VIEW", "TRIGGER", "EVENT"]
    assert missing_grants([rows], ["my_shop"]) == ["REPLICATION SLAVE", "BINLOG MONITOR"]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("db.example", "db.example", 3306),
        ("10.0.0.5:3307", "10.0.0.5", 3307),
        ("[2001:db8::1]:3308", "2001:db8::1", 3308),
    ],
)
def test_a_server_is_read(text: str, host: str, port: int) -> None:
    found = read_source(text, "mover", ["shop"])

    assert (found.host, found.port) == (host, port)


@pytest.mark.parametrize(
    ("server", "user", "schemas"),
    [
        ("db example", "mover", ["shop"]), ("-oProxy", "mover", ["shop"]), ("db:x", "mover", ["shop"]),
        ("db:0", "mover", ["shop"]), ("db:70000", "mover", ["shop"]), ("db", "", ["shop"]), ("db", "a\nb", ["shop"]),
        ("db", "mover", []), ("db", "mover", ["shop", "shop"]), ("db", "mover", ["mysql"]),
        ("db", "mover", ["relaunch"]), ("db", "mover", ["a`b"]), ("db", "mover", ["a b"]),
    ],
)  # fmt: skip
def test_what_cannot_be_a_source_is_refused(server: str, user: str, schemas: list[str]) -> None:
    with pytest.raises(BadInput):
        read_source(server, user, schemas)


def test_lag_is_nothing_once_everything_has_arrived() -> None:
    row = {
        "stage": "following", "schemas": "shop", "file": "b.1", "position": 10, "foreign_time": 100, "changed": 101.0,
        "locked": "", "result": "", "now": 160.0,
    }  # fmt: skip
    follower = {"state": "follows", "error": ""}

    arrived = shown_status({"import": row, "follower": follower, "there": "b.1 10", "error": ""})
    late = shown_status({"import": row, "follower": follower, "there": "b.1 99", "error": ""})
    broken = shown_status(
        {"import": row, "follower": {"state": "broken", "error": "ERROR 1062"}, "there": "", "error": ""}
    )

    assert (arrived["lag_seconds"], late["lag_seconds"]) == (0.0, 60.0)
    assert not broken["follows"] and broken["why"] == "ERROR 1062"
    assert shown_status({"import": None, "follower": None, "there": "", "error": ""})["stage"] == "none"
