"""Dumps: what is found in them, and what of them is loaded."""

from __future__ import annotations

import gzip
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "templates/scripts/attachments/import_dump.py"
HEAD = "-- MariaDB dump 10.19  Distrib 10.11.6-MariaDB, for linux (x86_64)\n-- Server version\t10.11.6-MariaDB\n"
TABLE = """CREATE TABLE `orders` (
  `id` int(11) NOT NULL,
  `note` varchar(99) COLLATE utf8mb4_unicode_ci DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;
INSERT INTO `orders` VALUES
(1,'GRANT ALL; DEFINER=`a`@`b` ENGINE=MyISAM'),
(2,'x');
"""
END = "-- Dump completed on 2026-11-22 10:00:00\n"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("import_dump", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        spec.loader.exec_module(module)
    return module


def look(script: ModuleType, folder: Path, text: str) -> dict[str, Any]:
    file = folder / "dump.sql"
    file.write_text(text)
    return dict(script.look(str(file)))


def loaded(script: ModuleType, text: str, *, rename: str = "", stood: list[Any] | None = None) -> str:
    lines = [line + b"\n" for line in text.encode().split(b"\n")[:-1]]
    return b"".join(script.for_us(lines, b"`app`@`%`", rename, [] if stood is None else stood)).decode()


def test_an_ordinary_dump_is_loaded_as_it_is(script: ModuleType, tmp_path: Path) -> None:
    found = look(script, tmp_path, HEAD + TABLE + END)

    assert found["complete"] and found["unnamed"] and found["tables"] == 1
    assert found["engines"] == {"InnoDB": ["orders"]} and found["without_primary_key"] == []
    assert found["definers"] == {} and found["dropped"] == {}
    assert found["collations"] == ["utf8mb4_unicode_ci"]
    assert loaded(script, HEAD + TABLE + END) == HEAD + TABLE + END


MADE_WITH = """/*M!100616 SET @OLD_NOTE_VERBOSITY=@@NOTE_VERBOSITY, NOTE_VERBOSITY=0 */;
/*!50003 SET sql_mode              = 'STRICT_TRANS_TABLES,NO_AUTO_CREATE_USER' */ ;
/*!50003 SET collation_connection  = utf8mb4_uca1400_as_ci */ ;
"""


@pytest.mark.parametrize(
    ("client", "found", "expected"),
    [
        ("mariadb", ["utf8mb4_uca1400_as_ci"], MADE_WITH),
        (
            "mysql",
            ["utf8mb4_0900_as_ci"],
            "/*!50003 SET sql_mode              = 'STRICT_TRANS_TABLES' */ ;\n"
            "/*!50003 SET collation_connection  = utf8mb4_0900_as_ci */ ;\n",
        ),
    ],
)
def test_what_mariadb_alone_knows_is_translated_for_mysql(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str, found: list[str], expected: str
) -> None:
    monkeypatch.setattr(script, "CLIENT", client)

    assert look(script, tmp_path, HEAD + MADE_WITH + END)["collations"] == found
    assert loaded(script, MADE_WITH) == expected


def test_a_columns_collation_and_a_value_stay_as_they_are(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "CLIENT", "mysql")
    text = (
        "CREATE TABLE `t` (\n  `a` varchar(9) COLLATE utf8mb4_uca1400_ai_ci\n) ENGINE=InnoDB;\n"
        "INSERT INTO `t` VALUES\n('SET sql_mode = NO_AUTO_CREATE_USER, utf8mb4_uca1400_ai_ci');\n"
    )

    assert loaded(script, text) == text


# As mariadb-dump 10.11 tells it with --dump-history, shortened.
WITH_HISTORY = """CREATE TABLE `v` (
  `id` int(11) NOT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 WITH SYSTEM VERSIONING;
/*M!101100 SET @old_system_versioning_insert_history=@@session.system_versioning_insert_history, @@session.system_versioning_insert_history=1 */;
LOCK TABLES `v` WRITE;
INSERT INTO `v` (`id`, row_start, row_end) VALUES (1,'2026-11-28 19:34:36.033837','2026-11-28 19:34:36.034460'),
(1,'2026-11-28 19:34:36.034799','2038-01-19 03:14:07.999999');
UNLOCK TABLES;
/*M!101100 SET system_versioning_insert_history=@old_system_versioning_insert_history */;
"""  # noqa: E501


def test_history_is_loaded_and_said_in_which_year_its_present_rows_end(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "CLIENT", "mariadb")
    other = "INSERT INTO `t` VALUES (1,'2106-02-07 06:28:15.999999');\n"
    found = look(script, tmp_path, HEAD + WITH_HISTORY + other + END)

    assert found["last_years"] == ["2038"] and found["tables"] == 1 and found["dropped"] == {}
    unlocked = WITH_HISTORY.replace("LOCK TABLES `v` WRITE;\n", "").replace("UNLOCK TABLES;\n", "")
    assert loaded(script, HEAD + WITH_HISTORY + END) == HEAD + unlocked + END
    newer = WITH_HISTORY.replace("2038-01-19 03:14:07", "2106-02-07 07:28:15")  # made without --tz-utc
    assert look(script, tmp_path, HEAD + newer + END)["last_years"] == ["2106"]
    assert look(script, tmp_path, HEAD + TABLE + other + END)["last_years"] == []


def test_what_breaks_off_is_seen(script: ModuleType, tmp_path: Path) -> None:
    assert not look(script, tmp_path, HEAD + TABLE)["complete"]
    assert not look(script, tmp_path, HEAD + TABLE[:200])["complete"]


def test_a_damaged_archive_is_said(script: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "dump.sql.gz"
    file.write_bytes(gzip.compress((HEAD + TABLE * 200 + END).encode())[:-30])

    with pytest.raises(SystemExit, match="damaged"):
        script.look(str(file))


def test_what_is_odd_is_named_with_its_schema(script: ModuleType, tmp_path: Path) -> None:
    text = (
        "CREATE DATABASE /*!32312 IF NOT EXISTS*/ `shop` /*!40100 DEFAULT CHARACTER SET latin1 */;\nUSE `shop`;\n"
        "CREATE TABLE `log` (\n  `a` int\n) ENGINE=MyISAM DEFAULT CHARSET=latin1;\n"
        "DELIMITER ;;\n"
        "/*!50003 CREATE*/ /*!50017 DEFINER=`boss`@`10.%`*/ /*!50003 TRIGGER `t` AFTER INSERT ON `log` FOR EACH ROW\n"
        "USE_nothing */;;\nDELIMITER ;\n"
        "/*!50013 DEFINER=`boss`@`10.%` SQL SECURITY DEFINER */\n/*!50001 VIEW `v` AS select 1 */;\n"
    )
    found = look(script, tmp_path, HEAD + text + END)

    assert found["schemas"] == ["shop"] and not found["unnamed"]
    assert found["databases"] == {"shop": "CHARACTER SET latin1"}
    assert found["engines"] == {"MyISAM": ["shop.log"]} and found["without_primary_key"] == ["shop.log"]
    assert found["definers"] == {"`boss`@`10.%`": 2}
    assert found["code"] == {"TRIGGER": ["shop.t"], "VIEW": ["shop.v"]}


def test_a_schemas_own_collation_is_one_that_the_server_must_know(script: ModuleType, tmp_path: Path) -> None:
    create = "CREATE DATABASE `{}` /*!40100 DEFAULT CHARACTER SET utf8mb4 COLLATE {} */;\nUSE `{}`;\n"
    text = create.format("mysql", "utf8mb4_0900_ai_ci", "mysql") + create.format("shop", "utf8mb4_bin", "shop")

    found = look(script, tmp_path, HEAD + text + END)

    assert found["databases"]["shop"] == "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    assert found["collations"] == ["utf8mb4_bin"]


def test_what_belongs_to_another_server_is_left_out(script: ModuleType) -> None:
    text = (
        "SET @MYSQLDUMP_TEMP_LOG_BIN = @@SESSION.SQL_LOG_BIN;\nSET @@SESSION.SQL_LOG_BIN= 0;\n"
        "SET @@GLOBAL.GTID_PURGED=/*!80000 '+'*/ 'a:1-5,\nb:1-3';\n"
        "CHANGE MASTER TO MASTER_LOG_FILE='b.1', MASTER_LOG_POS=4;\n"
        "CREATE USER `x`@`%` IDENTIFIED BY 'y';\nGRANT ALL ON *.* TO `x`@`%`;\nFLUSH PRIVILEGES;\n"
        "SET ROLE mariadb_dump_import_role;\n/*M!100005 SET ROLE NONE*/;\n"
        "CREATE DATABASE `mysql`;\nUSE `mysql`;\nINSERT INTO `user` VALUES (1);\n"
        "CREATE DATABASE `shop`;\nUSE `shop`;\n"
        "SET @@SESSION.SQL_LOG_BIN = @MYSQLDUMP_TEMP_LOG_BIN;\n"
    )

    assert loaded(script, text + TABLE) == "USE `shop`;\n" + TABLE


def test_text_inside_of_a_routine_is_not_taken_for_statements(script: ModuleType) -> None:
    routine = "DELIMITER ;;\nCREATE PROCEDURE `p`()\nBEGIN\nUSE mysql;\nGRANT ALL ON a.* TO b;\nEND ;;\nDELIMITER ;\n"

    assert loaded(script, "USE `shop`;\n" + routine) == "USE `shop`;\n" + routine


@pytest.mark.parametrize(
    "note",
    [
        "/* Triggers of `orders`, by a; tool */",
        "--",
        "/*M!999999\\- enable the sandbox mode */ ",
        "/*\n it's\nDELIMITER ;;\n*/",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_comment_in_front_of_a_statement_hides_it_not(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: str, end: str
) -> None:
    monkeypatch.setattr(script, "CLIENT", "mariadb")
    dump = (
        f"{note}\nCREATE DATABASE `shop`;\n{note}\nUSE `shop`;\n{note}\nDELIMITER $$\n{note}\n"
        "CREATE DEFINER = {}PROCEDURE `p`()\nBEGIN\nDO 1;\nFLUSH TABLES;\nEND $$\nDELIMITER ;\n"
    ).replace("\n", end)

    assert look(script, tmp_path, dump.format("'a'@'%' "))["definers"] == {"'a'@'%'": 1}
    assert loaded(script, dump.format("'a'@'%' ")) == dump.replace(f"CREATE DATABASE `shop`;{end}", "").replace(
        "DEFINER = {}", "DEFINER=`app`@`%` "
    )


@pytest.mark.parametrize("note", ["-- of `a`", "# of `a`", "/* of `a` */"])
def test_a_comment_behind_a_statement_does_not_make_it_longer(script: ModuleType, note: str) -> None:
    routine = f"DELIMITER //\nCREATE PROCEDURE `p`()\nBEGIN\nDO 1;\nEND // {note}\nDELIMITER ;\n"

    assert loaded(script, routine + "CREATE DATABASE `shop`;\nUSE `shop`;\n") == routine + "USE `shop`;\n"


def test_rows_over_several_lines_are_not_taken_for_statements(script: ModuleType) -> None:
    text = "INSERT INTO `t` VALUES\n(1,'a'),\nGRANT_is_no_row,\n(3,'c');\n"

    assert loaded(script, text) == text


def test_definers_become_ours_and_the_schema_gets_its_new_name(script: ModuleType) -> None:
    text = "USE `shop`;\n/*!50003 CREATE*/ /*!50017 DEFINER=`a``b`@`%`*/ /*!50003 TRIGGER `t` */;\n"

    assert loaded(script, text, rename="new") == (
        "USE `new`;\n/*!50003 CREATE*/ /*!50017 DEFINER=`app`@`%`*/ /*!50003 TRIGGER `t` */;\n"
    )


def test_a_schema_renamed_is_the_one_whose_default_is_changed_and_whose_triggers_are_made(script: ModuleType) -> None:
    text = (
        "USE `{0}`;\nALTER DATABASE `{0}` CHARACTER SET latin1 COLLATE latin1_swedish_ci ;\nDELIMITER ;;\n"
        "{2}TRIGGER {1}t AFTER INSERT\n ON {1}o FOR EACH ROW\nINSERT INTO shop.log VALUES (1){3};;\nDELIMITER ;\n"
    )
    dumped = text.format("shop", "shop.", "/*!50003 CREATE*/ /*!50017 DEFINER=`app`@`%`*/ /*!50003 ", " */")

    assert loaded(script, dumped, rename="new") == text.format("new", "", "CREATE DEFINER=`app`@`%` ", "\n")
    assert loaded(script, dumped) == text.format("shop", "shop.", "CREATE DEFINER=`app`@`%` ", "\n")


def test_where_the_source_stood_is_read_from_the_comment(script: ModuleType) -> None:
    stood: list[Any] = []

    loaded(script, "-- CHANGE MASTER TO MASTER_LOG_FILE='theirs.000007', MASTER_LOG_POS=1234;\n", stood=stood)

    assert stood == ["theirs.000007", 1234]
