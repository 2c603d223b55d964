"""What the application may do with the account that is made for it, on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest
from test_whole_schemas import SCRIPTS, Server, function, mariadb, mysql

pytestmark = pytest.mark.root
STUBS = """
relaunch-local() { echo '[{"database": "my_shop"}]'; }
issuer() { echo /CN=ours; }
DB_USER=site DB_PASSWORD="it's plain" REPLICATION_PASSWORD="plain, too" DB_NAME=
"""


@pytest.fixture(scope="module", params=["11.8", "MySQL"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with mysql() if request.param == "MySQL" else mariadb(request.param) as server:
        server.run(*(["SET GLOBAL super_read_only = OFF"] if server.mysql else []), "SET GLOBAL read_only = OFF")
        yield server


def accounts_made(server: Server, folder: Path) -> None:
    """By the very lines of the script that joins the group."""
    text = (SCRIPTS / ("join_mysql_group.sh" if server.mysql else "join_database_group.sh")).read_text()
    shared = (SCRIPTS / "attachments/database_group.sh").read_text()
    parts = [function(shared, "quoted"), function(text, "schemas" if server.mysql else "has_password")]
    client = "mysql" if server.mysql else "mariadb"

    done = server.shell("".join([*parts, function(text, "accounts"), STUBS, f"accounts | {client}"]), folder)

    assert done.returncode == 0, done.stderr


def test_the_application_may_use_its_schema_and_keeps_what_a_person_grants(server: Server, tmp_path: Path) -> None:
    accounts_made(server, tmp_path)
    server.run("GRANT CREATE ROUTINE ON my_shop.* TO site@'%'")

    accounts_made(server, tmp_path)

    server.run("ALTER USER site@'%' REQUIRE NONE")  # over the socket
    site = pymysql.connect(unix_socket=str(server.folder / "sock"), user="site", password="it's plain", autocommit=True)
    with site, site.cursor() as cursor:
        for mine in (
            "CREATE TABLE my_shop.a (id INT PRIMARY KEY)", "INSERT INTO my_shop.a VALUES (1)",
            "CREATE PROCEDURE my_shop.p() SELECT 1",
        ):  # fmt: skip
            cursor.execute(mine)
        for other in ("SELECT * FROM mysql.db", "DROP TABLE mysql.time_zone"):
            with pytest.raises(pymysql.MySQLError, match="denied"):
                cursor.execute(other)


def test_passwords_are_not_in_the_binary_log(server: Server, tmp_path: Path) -> None:
    """Which replicas, backups and reports of what a former primary alone has are made of."""
    server.run("DROP USER IF EXISTS site@'%', seed@'%', replication@'%'", "FLUSH BINARY LOGS")

    accounts_made(server, tmp_path)

    server.run("FLUSH BINARY LOGS")
    logged = b"".join(file.read_bytes() for file in sorted((server.folder / "data").glob("binlog.0*")))
    assert b"replication" in logged and b"plain" not in logged
