"""What the servers' settings must allow, whatever else is in them."""

from __future__ import annotations

import re
import subprocess
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


GIVEN = {
    "INNODB_BUFFER_POOL": "128M", "MAX_CONNECTIONS": "200", "SEED_BANDWIDTH": "", "BACKUP_QUEUE_BYTES": "4294967296",
    "DATA_DEVICE": "", "SNAPSHOT_MINUTES": "10", "SNAPSHOTS_KEPT": "6", "RS_ATTACH_DIR": "/nowhere",
}  # fmt: skip


@pytest.mark.parametrize(
    ("script", "name", "good", "wrong"),
    [
        (
            "configure_mariadb.sh",
            "INNODB_BUFFER_POOL",
            ["1g", "134217728"],
            ["1GB", "half", "", "1G\nskip_grant_tables"],
        ),
        ("configure_mysql.sh", "INNODB_BUFFER_POOL", ["1g", "134217728"], ["1GB", "half", "", "1G\nskip_grant_tables"]),
        ("configure_mariadb.sh", "MAX_CONNECTIONS", ["1000"], ["many", "-1", "0"]),
        ("configure_mysql.sh", "MAX_CONNECTIONS", ["1000"], ["many", "-1", "0"]),
        ("configure_seeding.sh", "SEED_BANDWIDTH", ["", "50000000"], ["50M", "fast"]),
        ("configure_backups.sh", "BACKUP_QUEUE_BYTES", ["", "1"], ["4G", "-1"]),
        ("configure_volume.sh", "SNAPSHOT_MINUTES", ["0", "60"], ["10m", ""]),
        ("configure_volume.sh", "SNAPSHOTS_KEPT", ["0", "12"], ["six", ""]),
    ],
)
def test_an_input_that_cannot_be_used_is_named_before_anything_is_done(
    script: str, name: str, good: list[str], wrong: list[str]
) -> None:
    first = "".join(f"{each}() {{ exit 77; }}\n" for each in ("relaunch-local", "install"))

    def run(value: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", f"{first}. {SCRIPTS / script}"], env={"PATH": "/usr/bin:/bin", **GIVEN, name: value},
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        return done.returncode, done.stderr

    assert {value: run(value)[0] for value in good} == dict.fromkeys(good, 77)
    for value in wrong:
        status, said = run(value)
        assert status == 1 and f"{name} must be a " in said and said.rstrip().endswith(f"not {value}".rstrip()), value
