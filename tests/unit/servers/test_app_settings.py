"""An app that systemd starts again while its settings are written anew finds them whole: without them it stays down.
One that comes back before its database waits for that."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "templates/scripts/configure_app.sh"
# While a file is written, what is there then is kept for a look.
STUBS = """
set -euo pipefail
install() {
  : >"${@: -1}"
  cp -r . "$(mktemp -d ../seen/XXXXXX)"
  cat >"${@: -1}"
}
header='# new' name=front1 DB_HOST=db DB_NAME=shop DB_USER=app DB_PASSWORD=secret DB_CA=ca.crt SECRET_KEY_BASE=new
PUMA_THREADS=4
"""


def functions(script: str) -> str:
    return script[script.index("\nquoted() {") : script.index("\nsettings() {")]


@pytest.mark.parametrize(
    ("app", "files"),
    [
        ("rack", ["app/environment"]),
        ("redmine", ["app/environment", "redmine/default/database.yml", "redmine/default/secret_key.txt"]),
    ],
)
def test_an_apps_settings_are_the_old_ones_or_the_new_ones_at_every_moment(
    tmp_path: Path, app: str, files: list[str]
) -> None:
    etc, seen = tmp_path / "etc", tmp_path / "seen"
    seen.mkdir()
    for file in files:
        (etc / file).parent.mkdir(parents=True, exist_ok=True)
        (etc / file).write_text("old\n")
    source = f"{STUBS}{functions(SCRIPT.read_text()).replace('/etc/', '')}\nconfigure_{app}"

    subprocess.run(["bash", "-c", source], cwd=etc, timeout=30, check=True)

    for file in files:
        assert (etc / file).read_text() not in ("old\n", "")
        there = {(moment / file).read_text() for moment in seen.iterdir()}
        assert "old\n" in there and there <= {"old\n", (etc / file).read_text()}
    assert {str(each.relative_to(etc)) for each in etc.rglob("*") if each.is_file()} == set(files)


@pytest.mark.parametrize(("reboot", "goes_on"), [("true", True), ("false", False)])
def test_an_app_that_has_come_back_before_its_database_waits_for_it(tmp_path: Path, reboot: str, goes_on: bool) -> None:
    """It was stranded after two minutes, and out of service when the database was there again."""
    script = SCRIPT.read_text()
    waits = script[script.index('\necho "Waiting for the database') : script.index('\n"migrate_$app"')]
    stubs = """
      set -euo pipefail
      relaunch-local() { :; }
      database() { echo >>asked; [ "$(wc -l <asked)" -ge 3 ]; }
      DB_NAME=shop DB_HOST=db
    """
    source = f"{stubs}{waits.replace('/usr/local/lib/relaunch/', '')}\necho goes on"

    done = subprocess.run(
        ["bash", "-c", source], cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "RS_REBOOT": reboot}, timeout=30,
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert ("goes on" in done.stdout, done.returncode == 0) == (goes_on, goes_on), done.stderr
