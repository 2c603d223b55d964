"""A dump of one schema, loaded under another name: what of its own name is taken out of it, and what stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "templates/scripts"
SCRIPT = SCRIPTS / "attachments/schema_names.py"
BEGIN = "/*!50003 CREATE*/ /*!50017 DEFINER=`app`@`%`*/ /*!50003 "
DEFAULT = "ALTER DATABASE `{}` CHARACTER SET latin1 COLLATE latin1_swedish_ci ;\n"
BODY = "FOR EACH ROW INSERT INTO workshop.log VALUES (NEW.id, 'https://shop.example.com/', 'noreply@shop.de')"


def loaded(text: str) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "new"], input=text.encode(), capture_output=True, timeout=30, check=True
    )
    return done.stdout.decode()


def trigger(text: str) -> str:
    """As it is dumped."""
    return f"DELIMITER ;;\n{BEGIN}{text} \n*/;;\nDELIMITER ;\n"


def by_itself(text: str) -> str:
    """As it is loaded."""
    return f"DELIMITER ;;\nCREATE DEFINER=`app`@`%` {text}\n;;\nDELIMITER ;\n"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("TRIGGER `t1` AFTER INSERT ON `orders` ", "TRIGGER `t1` AFTER INSERT ON `orders` "),
        ("TRIGGER `shop`.`t2` AFTER INSERT ON `shop`.`orders` ", "TRIGGER `t2` AFTER INSERT ON `orders` "),
        ("TRIGGER shop.t2 BEFORE DELETE ON orders ", "TRIGGER t2 BEFORE DELETE ON orders "),
        ("TRIGGER t2 BEFORE DELETE ON shop.orders ", "TRIGGER t2 BEFORE DELETE ON orders "),
        (
            "trigger if not exists `shop` . `a.b`\n before update\n on shop.orders\n ",
            "trigger if not exists `a.b`\n before update\n on orders\n ",
        ),
        ('TRIGGER "shop"."t2" AFTER INSERT ON "shop"."orders" ', 'TRIGGER "t2" AFTER INSERT ON "orders" '),
        (
            "trigger /* a */ shop.t2 /* b. */ before insert on shop.o /* FOR EACH ROW\n */ ",
            "trigger /* a */ t2 /* b. */ before insert on o /* FOR EACH ROW\n */ ",
        ),
        (
            "trigger -- it's\n shop . t2 -- y\n before # z\n update on --\n shop.o /* ; FOR EACH ROW */ ",
            "trigger -- it's\n t2 -- y\n before # z\n update on --\n o /* ; FOR EACH ROW */ ",
        ),
        (
            "trigger/*a*/`shop`./*b*/`t2`/*c*/before/*d*/insert/*e*/on/*f*/`shop`./**/`o`/* h **/",
            "trigger/*a*/`t2`/*c*/before/*d*/insert/*e*/on/*f*/`o`/* h **/",
        ),
        ("TRIGGER`shop`.`t2`BEFORE INSERT ON`shop`.`o`", "TRIGGER`t2`BEFORE INSERT ON`o`"),
        (
            "TRIGGER /* IF */ IF /* x */ NOT EXISTS shop.t$2 BEFORE INSERT ON shop.ö ",
            "TRIGGER /* IF */ IF /* x */ NOT EXISTS t$2 BEFORE INSERT ON ö ",
        ),
    ],
)
def test_the_schema_is_taken_out_of_a_triggers_head_alone(head: str, expected: str) -> None:
    assert loaded(trigger(head + BODY)) == by_itself(expected + BODY)


def test_what_a_trigger_does_stays_as_it_is_on_every_line() -> None:
    body = (
        "FOR EACH ROW\nBEGIN\n INSERT INTO shop.log VALUES ('TRIGGER shop.t AFTER INSERT ON shop.t FOR EACH ROW');\nEND"
    )

    assert loaded(trigger("TRIGGER t AFTER INSERT ON shop.o " + body)) == by_itself(
        "TRIGGER t AFTER INSERT ON o " + body
    )


def test_a_schemas_default_is_changed_of_the_schema_that_it_is_loaded_into() -> None:
    event = "DELIMITER ;;\n" + DEFAULT.replace(" ;\n", " ;;\n") + "DELIMITER ;\n"

    assert loaded(DEFAULT.format("a``b") + event.format("shop")) == DEFAULT.format("new") + event.format("new")


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO `t` VALUES (1,'TRIGGER shop.t AFTER INSERT ON shop.t FOR EACH ROW'),\n(2,'shop.x');\n",
        "DELIMITER ;;\nCREATE DEFINER=`app`@`%` PROCEDURE `p`()\nBEGIN\nDELETE FROM shop.log;\nEND ;;\nDELIMITER ;\n",
        "DELIMITER ;;\nCREATE PROCEDURE `p`()\nBEGIN\n" + DEFAULT.format("shop") + "END ;;\nDELIMITER ;\n",
        "/*!50106 CREATE*/ /*!50106 EVENT `e` ON SCHEDULE EVERY 1 DAY DO DELETE FROM shop.log */ ;;\n",
        f"{BEGIN}TRIGGER t /* x */ AFTER INSERT ON t {BODY} # TRIGGER a.b AFTER INSERT ON a.c FOR EACH ROW;;\n",
        f"DELIMITER ;;\n{BEGIN}TRIGGER shop.t -- it\n BEFORE DELETE",
    ],
    ids=["rows", "procedure", "procedure that changes it", "event", "a head with a comment", "broken off"],
)
def test_all_else_stays_as_it_is(text: str) -> None:
    assert loaded(text) == text


HEADER = "-- Host: localhost    Database: the-shop\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "  `id` int(11) NOT NULL DEFAULT nextval(`the-shop`.`s`) COMMENT 'of nextval(`the-shop`.`s`), it''s',\n",
            "  `id` int(11) NOT NULL DEFAULT nextval(`new`.`s`) COMMENT 'of nextval(`the-shop`.`s`), it''s',\n",
        ),
        (
            "/*!50001 VIEW `v` AS select `the-shop`.`id` AS `id`,'\\' from `the-shop`.`t`',"
            "`the-shop`.`f`(`the-shop`.`a`)"
            " from ((`the-shop`.`the-shop` join `the-shop`.`b` `x` on(`the-shop`.`id` = 1)) join `other`.`t`) */;\n",
            "/*!50001 VIEW `v` AS select `the-shop`.`id` AS `id`,'\\' from `the-shop`.`t`',"
            "`new`.`f`(`the-shop`.`a`)"
            " from ((`new`.`the-shop` join `new`.`b` `x` on(`the-shop`.`id` = 1)) join `other`.`t`) */;\n",
        ),
        ("INSERT INTO `t` VALUES\n(' from `the-shop`.`t`');\n", "INSERT INTO `t` VALUES\n(' from `the-shop`.`t`');\n"),
    ],
    ids=["a sequence", "a view, of which an alias is called so, too", "rows"],
)
def test_what_names_its_own_schema_names_the_new_one(text: str, expected: str) -> None:
    assert loaded(HEADER + text) == HEADER + expected


def test_a_dump_with_the_ends_of_lines_of_windows_names_the_new_one_too() -> None:
    view = "/*!50001 VIEW `v` AS select 1 AS `a` from (`{0}`.`t` straight_join `{0}`.`u`) */;\r\n"

    assert loaded(HEADER.replace("\n", "\r\n") + view.format("the-shop")).endswith(view.format("new"))


def test_a_view_gets_its_check_option_once_all_views_are_there() -> None:
    view = "/*!50001 SET @saved_cs_client          = @@character_set_client */;\n"
    view += "/*!50001 CREATE {}ALGORITHM=UNDEFINED */\n/*!50013 DEFINER=`a`@`%` SQL SECURITY INVOKER */\n"
    view += "/*!50001 VIEW `{}` AS select 1 AS `one` */{};\n"
    view += "/*!50001 SET collation_connection      = @saved_col_connection */;\n"
    check = "\n/*!50002 WITH CASCADED CHECK OPTION */"
    end = "-- Dump completed on 2026-11-29\n"

    assert loaded(view.format("", "a", check) + view.format("", "b", "") + end) == (
        view.format("", "a", "") + view.format("", "b", "") + view.format("OR REPLACE ", "a", check) + end
    )


def test_no_table_is_locked_and_dates_that_do_not_exist_stay() -> None:
    mode = "/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO{}' */;\n"
    rows = "INSERT INTO `t` VALUES\n('LOCK TABLES `t` WRITE;');\n"

    assert loaded(mode.format("") + "LOCK TABLES `t` WRITE;\n" + rows + "UNLOCK TABLES;\n") == (
        mode.format(",ALLOW_INVALID_DATES") + rows
    )


@pytest.mark.parametrize("end", [" */;;\n", "\n*/;;\n", " */ ;;\n"])
def test_code_that_ends_in_a_comment_ends_after_it(end: str) -> None:
    text = "EVENT `e` ON SCHEDULE EVERY 1 DAY DO SET @a = '*/;;' -- it's"

    assert loaded(f"DELIMITER ;;\n{BEGIN}{text}{end}/*!50003 SET time_zone = @saved_time_zone */ ;;\n") == (
        f"DELIMITER ;;\nCREATE DEFINER=`app`@`%` {text}\n;;\n/*!50003 SET time_zone = @saved_time_zone */ ;;\n"
    )


def test_code_of_another_program_ends_where_its_delimiter_is() -> None:
    text = "DELIMITER $$\n/*!50106 CREATE EVENT {0}1 */$$\n\n/*!50106 CREATE EVENT {0}2 */$$\n\nDELIMITER ;\n"
    event = "`e` ON SCHEDULE EVERY 1 DAY DO SET @a = "

    assert loaded(text.format(event) + "LOCK TABLES `t` WRITE;\n") == (
        f"DELIMITER $$\nCREATE EVENT {event}1\n$$\n\nCREATE EVENT {event}2\n$$\n\nDELIMITER ;\n"
    )


def test_code_ends_where_plain_code_follows_under_the_same_delimiter() -> None:
    does = "TRIGGER t BEFORE INSERT ON a FOR EACH ROW SET @b = 1\n"
    trigger = f"/*!50003 CREATE*/ /*!50017 DEFINER=`a`@`b`*/ /*!50003 {does}*/;;\n"
    plain = "CREATE DEFINER=`a`@`b` FUNCTION f() RETURNS int\nRETURN 1\n;;\n"
    expected = f"CREATE DEFINER=`a`@`b` {does};;\n"

    text = f"DELIMITER ;;\n{trigger}{plain}{trigger}DELIMITER ;\n"

    assert loaded(text) == f"DELIMITER ;;\n{expected}{plain}{expected}DELIMITER ;\n"


def test_a_restore_loads_it_so(tmp_path: Path) -> None:
    text = (SCRIPTS / "restore_schema.sh").read_text()
    load = text[text.index("\nload() {") : text.index("\n}\n", text.index("\nload() {")) + 3]
    (tmp_path / "dump").write_text(DEFAULT.format("shop") + trigger("TRIGGER shop.t AFTER INSERT ON shop.o " + BODY))
    script = f"""RS_ATTACH_DIR={SCRIPT.parent} here=(client)
      plain() {{ cat {tmp_path}/dump; }}; in_this_year() {{ cat; }}; client() {{ cat; }}
      {load}
      load relaunch_trial "SET sql_log_bin = 0;" """

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=True)

    assert done.stdout == "SET sql_log_bin = 0;\n" + DEFAULT.format("relaunch_trial") + by_itself(
        "TRIGGER t AFTER INSERT ON o " + BODY
    )
