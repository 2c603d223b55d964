"""What the servers' settings must allow, whatever else is in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "templates/scripts"


@pytest.mark.parametrize(
    ("script", "section"), [("configure_mariadb.sh", "mariadbd"), ("configure_mysql.sh", "mysqld")]
)
def test_a_row_that_fits_into_a_table_fits_into_a_statement_of_its_dump(script: str, section: str) -> None:
    text = (SCRIPTS / script).read_text()
    settings = text[text.index("<<FILE\n") : text.index("\nFILE\n")]

    assert re.findall(r"^\[(.*)\]$", settings, re.M) == [section]
    assert re.findall(r"^max_allowed_packet = (.*)$", settings, re.M) == ["1G"]


def test_a_replica_expires_its_binary_logs() -> None:
    """MariaDB 11.4 and later; 10.11 does not know the setting, and must start with it. Tried in test_dialects.py."""
    text = (SCRIPTS / "configure_mariadb.sh").read_text()

    assert re.findall(r"^(.*slave_connections_needed_for_purge) = (.*)$", text, re.M) == [
        ("loose_slave_connections_needed_for_purge", "0")
    ]
    assert re.findall(r"^expire_logs_days = (.*)$", text, re.M) == ["7"]


def test_who_dumps_and_who_loads_takes_such_a_statement() -> None:
    for script, words in (
        (
            "join_database_group.sh",
            ("mariadb --binary-mode --comments --max-allowed-packet=1G", "--max-allowed-packet=1G --add-drop-database"),
        ),
        ("restore_schema.sh", ('"${here[@]}" --binary-mode --comments --max-allowed-packet=1G "$1"',)),
        ("import_database.sh", ('--max-allowed-packet=1G --databases "$schema"',)),
        ("attachments/schema_dump.sh", ("--hex-blob --skip-add-locks --max-allowed-packet=1G)",)),
    ):
        text = (SCRIPTS / script).read_text()
        assert all(each in text for each in words), script
