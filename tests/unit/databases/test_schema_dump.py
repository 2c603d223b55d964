"""The server that schemas are loaded into for trial: what is said when it does not start."""

from __future__ import annotations

import subprocess
from pathlib import Path

ATTACHMENT = Path(__file__).parents[3] / "templates/scripts/attachments/schema_dump.sh"

# Like MariaDB and MySQL: a log's name that has no ending is given one.
SERVER = """#!/bin/bash
for word; do case $word in --log-error=*) log=${word#*=}; [[ ${log##*/} == *.* ]] || log=$log.err; esac; done
echo "no room for the redo log" >"$log"
exit 1
"""


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "server").write_text(SERVER)
    (tmp_path / "server").chmod(0o755)
    script = f"""
      install() {{ mkdir -p "${{@: -3}}"; }}
      . {ATTACHMENT}
      make_scratch() {{ :; }}
      server=({tmp_path}/server) client=false
      start_scratch {tmp_path}/scratch
    """

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 1
    assert "no room for the redo log" in done.stderr
