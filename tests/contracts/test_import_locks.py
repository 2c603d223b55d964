"""Who may write on a server that is imported from, as it says itself, whoever is locked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from mariadb_lab import MariaDBServer, until
from test_dialects import Group, dialect, group

__all__ = ["group"]
ATTACHMENTS = Path(__file__).parents[2] / "templates/scripts/attachments"
pytestmark = pytest.mark.root
OTHERS = """
  set -euo pipefail
  client=mariadb schemas=(t) list="'t'" work={work}
  quoted() {{ printf "'%s'" "$1"; }}
  . {attachments}/import_source.sh
  there() {{ {client} -N -B -e "$1"; }}
  others_there
"""


def others(server: MariaDBServer, folder: Path) -> str:
    client = f"chroot {server.root} mariadb --no-defaults --socket={server.inside}/sock"
    script = OTHERS.format(client=client, work=folder, attachments=ATTACHMENTS)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_who_writes_to_the_server_that_it_follows_is_named(group: Group, tmp_path: Path) -> None:
    group.form(1, required=False)
    follows = "whoever writes to the server that it follows\n"

    assert (others(group.servers[0], tmp_path), others(group.servers[1], tmp_path)) == ("", follows)

    dialect.follow_nobody(group.sessions[1])
    until("it follows nobody", lambda: not group.state(1).source)
    assert others(group.servers[1], tmp_path) == ""


def test_an_event_that_runs_whoever_is_locked_is_named(group: Group, tmp_path: Path) -> None:
    group.form(required=False)
    session = group.sessions[0]
    session.run(
        "CREATE DEFINER = app@'%' EVENT t.writes ON SCHEDULE EVERY 1 SECOND DO INSERT INTO t.a (s) VALUES ('e')"
    )
    assert others(group.servers[0], tmp_path) == ""

    session.run("ALTER USER app@'%' ACCOUNT LOCK")
    session.run("SET GLOBAL event_scheduler = ON")
    before = len(group.rows(0))
    until("it runs though its account is locked", lambda: len(group.rows(0)) > before)

    assert others(group.servers[0], tmp_path) == "event t.writes\n"
