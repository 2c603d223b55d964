"""The agent's zipapp holds all that it imports: tried with nothing else in reach."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

from relaunch.servers.agent_archive import build

IMPORT_ALL = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def test_every_module_is_imported_by_a_bare_python(tmp_path: Path) -> None:
    archive = build(tmp_path / "agent.pyz").path
    files = [name for name in zipfile.ZipFile(archive).namelist() if name.endswith(".py") and "__main__" not in name]
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in files]
    modules.remove("relaunch_agent.local_command")

    done = subprocess.run(
        ["/usr/bin/python3", "-IS", "-c", IMPORT_ALL, str(archive), *modules], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert "pymysql.connections" in modules and "relaunch_agent.database.work" in modules


def test_the_client_librarys_licence_goes_with_it(tmp_path: Path) -> None:
    licence = zipfile.ZipFile(build(tmp_path / "agent.pyz").path).read("pymysql/LICENSE").decode()

    assert "Permission is hereby granted" in licence
