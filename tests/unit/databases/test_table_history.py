"""Dumps of system-versioned tables: with what they held before, where that can be told and is understood."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "templates/scripts"
ATTACHMENTS = SCRIPTS / "attachments"
OURS = "('mysql', 'sys', 'information_schema', 'performance_schema')"


def run(script: str) -> subprocess.CompletedProcess[str]:
    script = f"set -euo pipefail\nSCRIPTS={SCRIPTS}\n. {ATTACHMENTS}/table_history.sh\n{script}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    ("there", "here", "words", "warned"),
    [
        ("", "2106", "", ""),
        ("2106", "", "--dump-history", ""),
        ("2038", "", "--dump-history", ""),
        ("2038", "2038", "--dump-history", ""),
        ("2038", "2106", "--dump-history --update-history", ""),
        ("2106", "2038", "", "ends in 2106"),
        ("transactions", "2106", "", "counts transactions"),
    ],
)
def test_history_goes_along_where_the_other_server_understands_it(
    there: str, here: str, words: str, warned: str
) -> None:
    done = run(f"""ask() {{ echo "{there}"; }}; history_words "table_schema = 'shop'" "{here}" ask""")

    assert done.stdout.strip() == words
    assert warned in done.stderr and bool(warned) == bool(done.stderr)


def test_a_server_that_does_not_answer_ends_it() -> None:
    assert "ended" in run("history=$(history_words 1 '' false) || echo ended; echo $history").stdout


def stubbed(folder: Path) -> str:
    for name in ("mariadb", "mariadb-dump", "ionice"):
        (folder / name).write_text(
            '#!/bin/bash\n[ "${0##*/}" != ionice ] || shift 2\necho "${0##*/} $*" | sed "s/ionice nice -n 19//"\n'
        )
        (folder / name).chmod(0o755)
    return f"PATH={folder}:$PATH; "


def test_a_schemas_backup_has_history(tmp_path: Path) -> None:
    done = run(
        f"""{stubbed(tmp_path)} . {ATTACHMENTS}/table_checks.sh; . {ATTACHMENTS}/schema_dump.sh
        sql() {{ [[ $1 == *.events* ]] || echo 2106; }}; dump_schema shop"""
    )

    assert "--dump-history" in done.stdout and "--max-allowed-packet=1G" in done.stdout


def test_a_copy_by_rows_has_history(tmp_path: Path) -> None:
    text = (SCRIPTS / "join_database_group.sh").read_text()
    copy = text[text.index("\ncopy_rows() {") : text.index("\n}\n", text.index("\ncopy_rows() {")) + 3]

    done = run(
        f"""{copy}
        RS_ATTACH_DIR={ATTACHMENTS}; systemctl() {{ :; }}
        mariadb() {{ echo "mariadb $*"; cat; }}
        at_primary() {{
          case "$*" in *schema_name*) echo shop ;; mariadb-dump*) echo "$*" ;; *.events*) ;; *) echo 2106 ;; esac
        }}
        primary=one data= copying={tmp_path}/copying half={tmp_path}/half; copy_rows"""
    )

    dump = next(line for line in done.stdout.splitlines() if line.startswith("mariadb-dump"))
    assert " --dump-history " in dump and " --max-allowed-packet=1G " in dump and dump.endswith("--databases shop")
    assert "mariadb --binary-mode --comments --max-allowed-packet=1G" in done.stdout


def test_a_copy_of_another_server_has_history(tmp_path: Path) -> None:
    done = run(
        f"""{stubbed(tmp_path)} . {ATTACHMENTS}/import_account.sh
        work=/nowhere schemas=(shop) list="'shop'"; . {ATTACHMENTS}/import_source.sh
        sql() {{ echo 2106; }}; there() {{ [[ $1 == *.events* ]] || echo 2038; }}; dump_there"""
    )

    assert "--dump-history --update-history" in done.stdout


def test_what_was_saved_before_mariadb_11_5_is_restored_as_present(tmp_path: Path) -> None:
    text = (SCRIPTS / "restore_schema.sh").read_text()
    function = text[text.index("\nin_this_year() {") : text.index("\nload() {")]
    old, new = "'2038-01-19 03:14:07.999999'", "'2106-02-07 06:28:15.999999'"
    mark = (
        "/*M!101100 SET @old_system_versioning_insert_history=@@x, @@session.system_versioning_insert_history=1 */;\n"
    )
    end = "/*M!101100 SET system_versioning_insert_history=@old_system_versioning_insert_history */;\n"
    rows = f"INSERT INTO `v` VALUES (1,{old},'a',{old}),\n(2,'{chr(92)}{old[:-1]}{chr(92)}')',{old});\n"
    other = f"INSERT INTO `t` VALUES (1,{old});\n"
    (tmp_path / "dump").write_text(mark + rows + end + other)

    def read(version: str, year: int) -> str:
        (tmp_path / "manifest").write_text(f'{{"version": "{version}"}}')
        return run(
            f"{function}\nclient=mariadb secret={tmp_path}; sql() {{ echo {year}; }}; in_this_year <{tmp_path}/dump"
        ).stdout

    assert read("10.11.6-MariaDB-log", 2106) == mark + rows.replace(f"{old})", f"{new})") + end + other
    assert read("11.4.2-MariaDB", 2106) != mark + rows + end + other
    assert read("11.8.6-MariaDB", 2106) == read("10.11.6-MariaDB", 2038) == mark + rows + end + other


@pytest.mark.parametrize(("years", "refused"), [("[]", False), ('["2106"]', False), ('["2038"]', True)])
def test_a_dump_whose_present_rows_would_be_past_here_is_refused(years: str, refused: bool) -> None:
    text = (SCRIPTS / "import_database.sh").read_text()
    begin = text.index('\nif [ "$client" = mariadb ]; then\n  year=')
    check = text[begin : text.index("\nfi\n", begin) + 4]

    done = run(
        f"""fact() {{ jq -r "$1" <<<'{{"last_years": {years}}}'; }}
        client=mariadb; sql() {{ echo 2106; }}; stop_with() {{ echo "$*"; exit 0; }}
        {check}
        echo "goes on" """
    )

    assert ("end in 2038, here in 2106" in done.stdout) == refused and ("goes on" in done.stdout) != refused


def test_no_question_for_tables_forgets_those_with_history() -> None:
    asking = [path for path in SCRIPTS.rglob("*") if path.suffix in (".sh", ".py") and "BASE TABLE" in path.read_text()]

    assert len(asking) > 5
    for path in asking:
        if path.name != "import_snapshot.py":  # which asks MySQL
            assert not re.search(r"table_type = 'BASE TABLE'", path.read_text()), path.name
