"""The agent as one file to hand out: a zipapp, the same bytes from the same sources."""

from __future__ import annotations

import hashlib
import importlib.metadata
import zipfile
from dataclasses import dataclass
from pathlib import Path

import relaunch
import relaunch_agent
from relaunch.errors import NotFound

MAIN = '''\
"""relaunch-agent: unpacks itself once per version, so that Python keeps its compiled files, and runs."""
import sys

if sys.version_info < (3, 9):  # noqa: UP036
    sys.exit("relaunch-agent needs Python 3.9 or newer, this is " + sys.version.split()[0])


def unpacked(archive):
    """The folder of this very archive's files; the archive itself where nothing can be written."""
    import os
    import tempfile
    import zipfile

    folder = os.path.join(os.path.dirname(os.path.abspath(archive)), "lib", "@CONTENT@")
    if not os.path.isdir(folder):
        try:
            os.makedirs(os.path.dirname(folder), exist_ok=True)
            beside = tempfile.mkdtemp(dir=os.path.dirname(folder))
            with zipfile.ZipFile(archive) as files:
                files.extractall(beside)
            os.chmod(beside, 0o755)
            os.rename(beside, folder)
        except OSError:
            return folder if os.path.isdir(folder) else archive
    return folder


def unpack_again():
    """After a power loss the unpacked files may be empty."""
    import os
    import shutil

    folder, archive = sys.path[0], os.path.abspath(sys.argv[0])
    if folder == archive or os.environ.get("RELAUNCH_UNPACKED_AGAIN"):
        raise
    shutil.rmtree(folder)
    os.environ["RELAUNCH_UNPACKED_AGAIN"] = "1"
    os.execv(sys.executable, [sys.executable, "-IS", archive, *sys.argv[1:]])


if "--version" not in sys.argv:
    sys.path[0] = unpacked(sys.path[0])
try:
    from relaunch_agent.main import main
except Exception:
    unpack_again()

sys.exit(main(sys.argv[1:]))
'''
FROM_RELAUNCH = (
    "__init__.py", "errors.py", "bus/__init__.py", "bus/messages.py", "bus/subjects.py", "databases/__init__.py",
    "databases/dialect.py", "databases/mariadb.py", "databases/mysql.py", "databases/mysql_clients.py",
    "databases/mysql_gtids.py", "databases/transactions.py",
)  # fmt: skip
EPOCH = (2026, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentArchive:
    path: Path
    sha256: str
    version: str


def build(to: Path) -> AgentArchive:
    """Write the zipapp to the file `to`."""
    files = _sources()
    content = hashlib.sha256()
    for name in sorted(files):
        content.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    files["__main__.py"] = MAIN.replace("@CONTENT@", content.hexdigest()[:16]).encode()
    to.parent.mkdir(parents=True, exist_ok=True)
    fresh = to.with_name(f".{to.name}.new")
    with fresh.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name in sorted(files):
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o100644 << 16
                archive.writestr(entry, files[name])
    fresh.chmod(0o755)
    fresh.replace(to)
    return AgentArchive(path=to, sha256=hashlib.sha256(to.read_bytes()).hexdigest(), version=relaunch_agent.__version__)


def _sources() -> dict[str, bytes]:
    ours = Path(relaunch.__file__).parent
    agent = Path(relaunch_agent.__file__).parent
    files = {f"relaunch/{name}": (ours / name).read_bytes() for name in FROM_RELAUNCH}
    files |= {f"relaunch_agent/{file.relative_to(agent)}": file.read_bytes() for file in agent.rglob("*.py")}
    return files | _client_library()


def _client_library() -> dict[str, bytes]:
    """PyMySQL as it is installed here, with its licence: pure Python, and as old a Python as the agent's will do."""
    installed = importlib.metadata.files("pymysql")
    if not installed:
        raise NotFound("PyMySQL is not installed in the controller's environment", hint="install requirements.lock")
    found = {}
    for file in installed:
        if file.suffix == ".py" and file.parts[0] == "pymysql":
            found[str(file)] = file.read_binary()
        elif file.name == "LICENSE":
            found["pymysql/LICENSE"] = file.read_binary()
    return found
