"""At a cut-over both sides are compared, whatever their tables and columns are called."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from test_accounts import server
from test_whole_schemas import SCRIPTS, Server, function, q

__all__ = ["server"]
pytestmark = pytest.mark.root
ODD = ("it's", "a`b", "back\\slash", 'said "so"', "two\nlines", "a.b")


def compared(server: Server, folder: Path) -> subprocess.CompletedProcess[str]:
    """By the script's own lines; the server with itself."""
    text = (SCRIPTS / "import_from_server.sh").read_text()
    client = "mysql" if server.mysql else "mariadb"
    given = f"""
      work={folder} list="'odd'"
      sql() {{ {client} -N -B -e "$1"; }}
      there() {{ sql "$1"; }}
      compare && echo "equal $compared"
    """
    return server.shell("".join([function(text, "sums"), function(text, "compare"), given]), folder)


def test_tables_and_columns_of_any_name_are_compared(server: Server, tmp_path: Path) -> None:
    server.run("CREATE DATABASE odd")
    for name in ODD:
        server.run(f"CREATE TABLE odd.{q(name)} ({q(name)} VARCHAR(20), id INT PRIMARY KEY)")
        server.run(f"INSERT INTO odd.{q(name)} VALUES ('x', 1), (NULL, 2)")

    done = compared(server, tmp_path)

    assert (done.stdout, done.returncode) == (f"equal {len(ODD)}\n", 0), done.stderr
