"""The import's scripts: what fails in an undo stays noted, and a cut-over is none that could not be looked at."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3] / "templates/scripts"

# What stands in for both servers: each statement is written down, and fails when the test says so.
STUBS = """
set -euo pipefail
here=() list="'shop'" schemas=(shop) IMPORT_USER=mover fails="${fails:-nothing}"
quoted() { printf "'%s'" "$1"; }
stop_with() { echo "$*"; exit 1; }
said() { echo "$1: $2" >>"$folder/said"; [[ $2 != *$fails* ]]; }
there() { said there "$1" || return 1; answer "$1"; }
sql() { said here "$1" || return 1; answer "$1"; }
client() { cat >/dev/null; said here "client $*"; }
answer() { :; }
client=client work=$folder
"""


def functions(file: str, *names: str) -> str:
    """As they are in the script."""
    lines = (ROOT / file).read_text().splitlines()
    found = []
    for name in names:
        first = next(number for number, line in enumerate(lines) if line.startswith(f"{name}() {{"))
        last = first
        if not lines[first].rstrip().endswith("}"):
            last = next(number for number in range(first, len(lines)) if lines[number] == "}")
        found += lines[first : last + 1]
    return "\n".join(found) + "\n"


def run(folder: Path, script: str, fails: str = "nothing") -> str:
    """What it prints."""
    done = subprocess.run(
        ["bash", "-c", f"folder={folder} fails={fails!r}\n{STUBS}{script}"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert "command not found" not in done.stderr, done.stderr
    return done.stdout


def said(folder: Path) -> str:
    return (folder / "said").read_text()


UNLOCK = functions("import_from_server.sh", "unlock")
NOTED = """answer() { case $1 in *"SELECT locked"*) printf "%s\\n" "'a'@'%'\\n'b'@'%'" ;; esac; }\n"""


def test_who_cannot_be_unlocked_stays_noted_and_the_others_are_unlocked(tmp_path: Path) -> None:
    shown = run(tmp_path, f"{UNLOCK}{NOTED}unlock || echo failed", fails="USER 'a'")

    assert shown == "Unlocked there: 'b'@'%'\nfailed\n"
    assert "SET locked" not in said(tmp_path)


def test_nobody_is_forgotten_when_the_note_cannot_be_read(tmp_path: Path) -> None:
    assert run(tmp_path, f"{UNLOCK}{NOTED}unlock || echo failed", fails="SELECT locked") == "failed\n"

    assert "SET locked" not in said(tmp_path)


def test_all_unlocked_the_note_is_empty(tmp_path: Path) -> None:
    assert "failed" not in run(tmp_path, f"{UNLOCK}{NOTED}unlock || echo failed")

    assert "SET locked = ''" in said(tmp_path).splitlines()[-1]


LOADER = next(
    line for line in (ROOT / "import_database.sh").read_text().splitlines(keepends=True) if line.startswith("loader=")
)
CLEAN = LOADER + functions("import_database.sh", "clean") + "zstd() { :; }\nrun=import-7 there_are=2\n"
CLEAN += 'warn() { echo "WARNING $*"; }\ntables_in() { echo $there_are; }\n'


@pytest.mark.parametrize(
    "fails", ["client --binary-mode", "DROP DATABASE", "CREATE DATABASE", "SELECT name", "DROP USER"]
)
def test_what_could_not_be_brought_back_stays_noted(tmp_path: Path, fails: str) -> None:
    (tmp_path / "saved").touch()
    noted = "empty" if fails == "CREATE DATABASE" else f"{tmp_path}/saved"
    script = CLEAN + f"answer() {{ case $1 in *'SELECT name'*) printf 'shop\\t1\\t{noted}\\n' ;; esac; }}\n"

    assert "failed" in run(tmp_path, f"{script}clean || echo failed", fails=fails)

    assert ("DELETE FROM" in said(tmp_path)) == (fails == "DROP USER")


def test_what_was_before_comes_back_whatever_its_size(tmp_path: Path) -> None:
    (tmp_path / "saved").touch()
    script = f"""{CLEAN}answer() {{ case $1 in
      *'SELECT name'*) printf 'new\\t1\\t\\nshop\\t1\\t{tmp_path}/saved\\nold\\t1\\tempty\\n' ;; esac; }}\n"""

    assert "failed" not in run(tmp_path, f"{script}clean || echo failed")

    assert "--max-allowed-packet=1G" in said(tmp_path)
    assert said(tmp_path).count("DELETE FROM") == 3 and said(tmp_path).count("CREATE DATABASE") == 1


def cleaned(folder: Path, own: int, saved: str, tables: int) -> str:
    """What it prints and ends with, when one schema is noted."""
    script = f"""{CLEAN}there_are={tables}
      answer() {{ case $1 in *'SELECT name'*) printf 'shop\\t{own}\\t{saved}\\n' ;; esac; }}
      clean 2>&1 || echo failed"""
    return run(folder, script)


@pytest.mark.parametrize("saved", ["", "empty", "{folder}/saved", "/missing"])
def test_what_another_import_left_is_not_touched_while_it_has_tables(tmp_path: Path, saved: str) -> None:
    (tmp_path / "saved").touch()

    shown = cleaned(tmp_path, own=0, saved=saved.format(folder=tmp_path), tables=2)

    assert "run = 'import-7'" in said(tmp_path)
    assert shown.startswith("WARNING an earlier import of shop broke off") and "failed" not in shown
    assert "DATABASE" not in said(tmp_path) and "DELETE" not in said(tmp_path) and "client" not in said(tmp_path)


def test_what_another_import_left_without_tables_comes_back(tmp_path: Path) -> None:
    (tmp_path / "saved").touch()

    cleaned(tmp_path, own=0, saved=f"{tmp_path}/saved", tables=0)

    assert "client --binary-mode" in said(tmp_path) and "DELETE" in said(tmp_path)


def test_without_what_was_saved_nothing_is_dropped(tmp_path: Path) -> None:
    shown = cleaned(tmp_path, own=1, saved="/missing", tables=2)

    assert "shop is half loaded. What was in it before is in /missing" in shown and shown.endswith("failed\n")
    assert "DATABASE" not in said(tmp_path) and "DELETE" not in said(tmp_path)


@pytest.mark.parametrize("own", [0, 1])
def test_that_what_was_saved_is_missing_is_told_once_when_there_are_no_tables(tmp_path: Path, own: int) -> None:
    shown = cleaned(tmp_path, own=own, saved="/missing", tables=0)

    assert shown.startswith("WARNING what was in shop before is in /missing") and "failed" not in shown
    assert "DATABASE" not in said(tmp_path) and "DELETE FROM" in said(tmp_path)


def test_what_is_there_is_counted_after_what_broke_off_came_back() -> None:
    script = (ROOT / "import_database.sh").read_text()

    assert script.index("\nclean\n") < script.index("\nfull=()") < script.index("--confirm $deployment.")


@pytest.mark.parametrize("file", ["restore_schema.sh", "import_from_server.sh"])
def test_a_schema_that_is_filled_in_another_way_is_no_half_of_a_dump_any_more(file: str) -> None:
    script = (ROOT / file).read_text()

    assert script.index("CREATE DATABASE") < script.index('sql "DELETE FROM relaunch.import_loading WHERE name')


def test_a_dump_is_loaded_with_another_account_than_a_server_is_followed_with(tmp_path: Path) -> None:
    script = f"""{LOADER}{functions("attachments/import_account.sh", "import_account")}{CLEAN}
      import_rights=SUPER
      client() {{ cat >>$folder/said; }}
      import_account $loader $folder/options shop && clean"""

    run(tmp_path, script)

    assert "CREATE USER IF NOT EXISTS relaunch_import_dump@localhost" in said(tmp_path)
    assert "user = relaunch_import_dump\n" in (tmp_path / "options").read_text()
    assert "DROP USER IF EXISTS relaunch_import_dump@localhost" in said(tmp_path)
    assert "relaunch_import@localhost" not in said(tmp_path)
    assert "DROP USER IF EXISTS relaunch_import@localhost" in functions("import_from_server.sh", "leave")


@pytest.mark.parametrize("file", ["restore_schema.sh", "import_database.sh"])
def test_a_schema_that_is_filled_in_another_way_is_no_half_of_a_copy_any_more_and_the_others_are(file: str) -> None:
    script = (ROOT / file).read_text()

    taken_out = script.index("UPDATE relaunch.import_source SET wanted = TRIM(REPLACE(CONCAT(' ', wanted, ' '), ' $")
    assert script.index("DELETE FROM relaunch.import_source WHERE stage = 'copying' AND wanted = ''\"") > taken_out


def test_a_dump_that_cannot_be_loaded_leaves_the_note_of_a_copy() -> None:
    script = (ROOT / "import_database.sh").read_text()

    loaded = script.index("DELETE FROM relaunch.import_loading WHERE run")
    assert script.index('"$reader" load') < loaded < script.index("relaunch.import_source")


COPY = functions("import_from_server.sh", "copy", "order_noted", "of_this_order", "part_of_this_order", "drop_schemas")
COPY += "IMPORT_SCHEMAS=shop IMPORT_HOST=db IMPORT_PORT=3306\nneed_primary() { :; }\nnote_table() { :; }\n"


@pytest.mark.parametrize(("wanted", "whence"), [("blog", "db:3306"), ("shop blog", ""), ("shop", "other:3306")])
def test_a_copy_drops_nothing_that_another_order_was_for(tmp_path: Path, wanted: str, whence: str) -> None:
    script = f"""{COPY}answer() {{ case $1 in
      "SELECT stage"*) echo copying ;; *"SELECT wanted, source"*) printf '{wanted}\\t{whence}\\n' ;; esac; }}\n"""

    assert "An earlier copy, of other schemas" in run(tmp_path, f"{script}copy")

    assert "DATABASE" not in said(tmp_path) and "REPLACE" not in said(tmp_path)


@pytest.mark.parametrize("whence", ["db:3306", ""])
def test_a_copy_that_broke_off_is_dropped_and_begun_again(tmp_path: Path, whence: str) -> None:
    script = f"""{COPY}answer() {{ case $1 in "SELECT stage"*) echo copying ;;
      *"SELECT wanted, source"*) printf 'shop\\t{whence}\\n' ;; *"SELECT wanted"*) echo shop ;; esac; }}\n"""

    run(tmp_path, f"{script}copy", fails="REPLACE")

    assert "DROP DATABASE IF EXISTS `shop`" in said(tmp_path) and "REPLACE" in said(tmp_path)


def cancelled(folder: Path, whence: str, fails: str = "nothing", stage: str = "following", order: str = "shop") -> str:
    """What is printed when an import is dropped, with a note of one of shop from there."""
    script = (ROOT / "import_from_server.sh").read_text()
    return run(
        folder,
        f"""{functions("import_from_server.sh", "unlock")}{COPY}
          answer() {{ case $1 in
            *"SELECT wanted, source"*) printf 'shop\\t{whence}\\n' ;;
            *"SELECT wanted"*) echo shop ;;
            "SELECT stage"*) echo {stage} ;;
          esac; }}
          IMPORT_STEP=drop IMPORT_SCHEMAS="{order}"
          {script[script.index("case $IMPORT_STEP in") :]}
          echo done""",
        fails=fails,
    )


def test_a_cancelled_import_is_dropped_with_its_note(tmp_path: Path) -> None:
    assert cancelled(tmp_path, "db:3306").endswith("Dropping what was imported of shop\ndone\n")

    assert "DROP DATABASE" in said(tmp_path) and "DROP TABLE" in said(tmp_path)


def test_of_another_import_the_note_alone_is_dropped(tmp_path: Path) -> None:
    assert "WARNING nothing is dropped but the note" in cancelled(tmp_path, "other:3306")

    assert "DROP DATABASE" not in said(tmp_path) and "DROP TABLE" in said(tmp_path)


@pytest.mark.parametrize(
    ("whence", "stage", "order", "dropped"),
    [
        ("db:3306", "copying", "shop blog", True),
        ("db:3306", "copying", "workshop blog", False),
        ("db:3306", "following", "shop blog", False),
        ("other:3306", "copying", "shop blog", False),
        ("", "copying", "shop blog", False),
    ],
)
def test_what_is_left_of_half_a_copy_is_dropped_and_no_other_import(
    tmp_path: Path, whence: str, stage: str, order: str, dropped: bool
) -> None:
    cancelled(tmp_path, whence, stage=stage, order=order)

    assert ("DROP DATABASE IF EXISTS `shop`" in said(tmp_path)) == dropped


@pytest.mark.parametrize("fails", ["SELECT wanted, source", "SELECT stage", "SELECT wanted FROM"])
def test_a_note_that_cannot_be_read_stays_and_the_cancelling_fails(tmp_path: Path, fails: str) -> None:
    assert cancelled(tmp_path, "db:3306", fails) == ""

    assert "DROP DATABASE" not in said(tmp_path) and "DROP TABLE" not in said(tmp_path)


@pytest.mark.parametrize(
    ("noted", "words"), [("empty utf8mb4_turkish_ci", "COLLATE utf8mb4_turkish_ci"), ("empty", "CHARACTER SET utf8mb4")]
)
def test_an_empty_schema_gets_its_collation_back(tmp_path: Path, noted: str, words: str) -> None:
    cleaned(tmp_path, own=1, saved=noted, tables=2)

    assert f"here: CREATE DATABASE `shop` {words}\n" in said(tmp_path)


@pytest.mark.parametrize(
    ("name", "schemas", "words"),
    [
        ("", ["shop"], "COLLATE latin1_bin"),
        ("new", ["shop"], "COLLATE latin1_bin"),
        ("new", [], "CHARACTER SET utf8mb4"),
    ],
)
def test_a_schema_of_a_dump_is_made_as_the_dump_says_whatever_its_name(
    tmp_path: Path, name: str, schemas: list[str], words: str
) -> None:
    text = (ROOT / "import_database.sh").read_text()
    begin = text.index("  named=")
    making = text[begin : text.index("\ndone\n", begin)]
    facts = json.dumps({"schemas": schemas, "databases": {"shop": "COLLATE latin1_bin"}})

    run(tmp_path, f"""fact() {{ jq -r "$1" <<<'{facts}'; }}\nschema={name or "shop"} IMPORT_SCHEMA={name}\n{making}""")

    assert said(tmp_path) == f"here: CREATE DATABASE IF NOT EXISTS `{name or 'shop'}` {words}\n"


THEIRS = """answer() { case $1 in
  *default_character_set_name*) echo "CHARACTER SET utf8mb4 COLLATE utf8mb4_turkish_ci" ;;
esac; }
need_primary() { :; }; note_table() { :; }; import_account() { exit; }
IMPORT_SCHEMAS=shop
"""


def test_a_schema_that_is_there_already_gets_the_other_servers_collation_for_the_import(tmp_path: Path) -> None:
    run(tmp_path, f"{functions('import_from_server.sh', 'copy')}{THEIRS}copy")

    noted, made = said(tmp_path).partition("here: CREATE DATABASE")[::2]
    assert "CONCAT(schema_name, ':', default_collation_name)" in noted
    assert "ALTER DATABASE `shop` CHARACTER SET utf8mb4 COLLATE utf8mb4_turkish_ci\n" in made


@pytest.mark.parametrize(
    ("before", "made"),
    [
        ("blog:latin1_bin shop:utf8mb4_turkish_ci", ["CREATE DATABASE `shop` COLLATE utf8mb4_turkish_ci"]),
        ("shop", ["CREATE DATABASE `shop` CHARACTER SET utf8mb4"]),
        ("workshop:latin1_bin", []),
    ],
)
def test_cancelled_a_schema_is_empty_with_its_own_collation_or_gone(
    tmp_path: Path, before: str, made: list[str]
) -> None:
    answer = f"answer() {{ case $1 in *'SELECT result'*) echo '{before}' ;; *'SELECT wanted'*) echo shop ;; esac; }}\n"

    run(tmp_path, functions("import_from_server.sh", "drop_schemas") + answer + "drop_schemas")

    changes = [line for line in said(tmp_path).splitlines() if "DATABASE" in line]
    assert changes == ["here: DROP DATABASE IF EXISTS `shop`", *(f"here: {each}" for each in made)]


COMPARE = functions("import_from_server.sh", "sums", "compare")
EQUAL = """answer() { case $1 in
  "SET SESSION"*) printf '%s\\n' "SUM shop.a" "SUM shop.b" ;;
  *'COUNT(*) FROM information_schema.tables'*) echo "${amount:-2}" ;;
  "SUM "*) printf '%s\\t1\\t1\\n' "${1#SUM }" ;;
  *) printf 'TABLES\\tshop\\t2\\n' ;;
esac; }
compare && echo "equal $compared" || echo failed
"""


def test_both_sides_are_equal_when_all_tables_were_compared(tmp_path: Path) -> None:
    assert run(tmp_path, COMPARE + EQUAL) == "equal 2\n"


@pytest.mark.parametrize("fails", ["group_concat_max_len", "SUM shop.a", "shop.b", "ROUTINES"])
def test_what_could_not_be_compared_is_not_equal(tmp_path: Path, fails: str) -> None:
    assert run(tmp_path, COMPARE + EQUAL, fails=fails) == "failed\n"


def test_tables_that_were_not_compared_are_not_equal(tmp_path: Path) -> None:
    assert run(tmp_path, f"amount=3\n{COMPARE}{EQUAL}") == "2 tables were compared, and there are 3\nfailed\n"


def test_what_the_other_server_says_is_no_statement_that_is_run_here(tmp_path: Path) -> None:
    theirs = """there() {
      said there "$1"
      case $1 in "SET SESSION"*) echo "DROP DATABASE shop" ;; *) answer "$1" ;; esac
    }
    """

    assert "failed" in run(tmp_path, theirs + COMPARE + EQUAL)

    ran = said(tmp_path).splitlines()
    assert "there: DROP DATABASE shop" in ran and "here: DROP DATABASE shop" not in ran


def test_how_text_is_kept_there_is_words_and_no_statement(tmp_path: Path) -> None:
    theirs = THEIRS.replace("utf8mb4_turkish_ci", "utf8mb4_turkish_ci; DROP DATABASE shop")

    shown = run(tmp_path, f"{functions('import_from_server.sh', 'copy')}{theirs}copy")

    assert "does not say how text in shop is kept" in shown and "here: CREATE" not in said(tmp_path)


def test_there_is_no_position_when_a_server_does_not_say_it(tmp_path: Path) -> None:
    script = functions("import_from_server.sh", "position_here", "reached")
    script += "reached $(position_here) b.1 4 && echo reached || echo not\n"
    assert run(tmp_path, script, fails="SELECT file") == "not\n"

    script = functions("import_from_server.sh", "stands_there") + "position_there() { return 1; }\n"
    assert "does not say" in run(tmp_path, f"{script}stands_there; echo went on")


TAKE_BACK = functions("import_from_server.sh", "unlock", "take_back", "gone_wrong") + NOTED


@pytest.mark.parametrize(
    "how", ["take_back || echo failed", "mkdir $work/gone; ( work=$work/gone; trap gone_wrong EXIT; exit 1 ) || true"]
)
def test_a_cut_over_is_taken_back_before_anybody_is_unlocked(tmp_path: Path, how: str) -> None:
    run(tmp_path, TAKE_BACK + how)

    first, *others = said(tmp_path).splitlines()
    assert "SET stage = 'following', result = ''" in first and "stage = 'cut'" in first
    assert any("ACCOUNT UNLOCK" in each for each in others)


def test_nobody_is_unlocked_while_it_stays_cut_over(tmp_path: Path) -> None:
    assert run(tmp_path, f"{TAKE_BACK}take_back || echo failed", fails="following") == "failed\n"

    assert "UNLOCK" not in said(tmp_path)


def test_the_step_unlock_takes_back_and_the_cancelling_does_not() -> None:
    script = (ROOT / "import_from_server.sh").read_text()
    cases = script[script.index("case $IMPORT_STEP in") :]

    assert "  unlock) take_back ;;" in cases
    assert "take_back" not in cases[cases.index("  drop)") :]


LOCK = "everyone='' others=''\n" + functions("import_from_server.sh", "lock")
SERVER = """
may="GRANT SELECT, PROCESS, CREATE USER, CONNECTION ADMIN ON *.* TO x"
answer() { case $1 in
  "SHOW GRANTS") echo "$may" ;;
  *CURRENT_USER*) echo "'mover'@'%'" ;;
  *"SELECT locked"*) echo "${earlier:-}" ;;
esac; }
writers_there() { printf '%s\\n' "'app'@'%'" "'mover'@'%'" "'it'@'%'"; }
others_there() { :; }
sessions_there() { [ -e "$folder/ended" ] || { touch "$folder/ended"; echo 7; }; }
sleep() { :; }
"""


def locked(folder: Path, more: str = "", fails: str = "nothing") -> str:
    return run(folder, f'{LOCK}{SERVER}{more}\nlock\necho "everyone=$everyone others=$others"', fails=fails)


def test_whoever_may_write_is_locked_but_for_ourselves(tmp_path: Path) -> None:
    assert locked(tmp_path) == "Locked there: 'app'@'%' 'it'@'%'\neveryone=1 others=\n"

    assert "KILL CONNECTION 7" in said(tmp_path) and "USER 'mover'" not in said(tmp_path)
    assert said(tmp_path).index("SET locked") < said(tmp_path).index("ACCOUNT LOCK")


# The owner has locked app, whose pool (41 and 42) lives on: a lock ends no session.
LOCKED_BEFORE = """
open_ones="'it'@'%'"
writers_there() {
  [ "${1:-}" != all ] || printf '%s\\n' "'app'@'%'" "'mover'@'%'"
  [ -z "$open_ones" ] || echo "$open_ones"
}
sessions_there() { case " $* " in *" app "*) [ -e "$folder/ended" ] || { touch "$folder/ended"; echo 41 42; } ;; esac; }
"""


@pytest.mark.parametrize(("open_ones", "shown"), [("'it'@'%'", "Locked there: 'it'@'%'\n"), ("", "")])
def test_sessions_of_who_was_locked_already_are_ended_and_its_lock_stays(
    tmp_path: Path, open_ones: str, shown: str
) -> None:
    more = f'{LOCKED_BEFORE}open_ones="{open_ones}"\n'

    assert locked(tmp_path, more) == f"{shown}everyone=1 others=\n"

    assert "KILL CONNECTION 41" in said(tmp_path) and "KILL CONNECTION 42" in said(tmp_path)
    assert "'app'" not in said(tmp_path) and ("SET locked" in said(tmp_path)) == (open_ones != "")


def test_who_was_locked_already_and_cannot_be_asked_for_is_unknown(tmp_path: Path) -> None:
    more = """writers_there() { [ "${1:-}" != all ] && echo "'app'@'%'"; }"""

    assert locked(tmp_path, more) == "Locked there: 'app'@'%'\neveryone= others=somebody unknown\n"


def test_a_session_that_was_open_before_the_lock_and_stays_is_told(tmp_path: Path) -> None:
    more = f"{LOCKED_BEFORE}sessions_there() {{ case \" $* \" in *' app '*) echo 41 ;; esac; }}\nopen_ones=\n"

    assert locked(tmp_path, more).endswith("everyone= others=a session that could not be ended\n")


def test_our_own_sessions_are_not_ended_with_those_of_another_account_of_our_name(tmp_path: Path) -> None:
    more = """writers_there() { printf '%s\n' "'app'@'%'" "'mover'@'10.%'"; }
      sessions_there() { printf '%s\n' "$@" >"$folder/asked"; }"""

    locked(tmp_path, more)

    assert (tmp_path / "asked").read_text() == "app\n"


def test_what_was_noted_earlier_stays_noted(tmp_path: Path) -> None:
    assert "'old'@'%'" in locked(tmp_path, "earlier=\"'old'@'%'\"")


@pytest.mark.parametrize(
    ("more", "who"),
    [
        ("others_there() { echo 'role writer'; }", "role writer"),
        ("others_there() { return 1; }", "somebody unknown"),
        ("sessions_there() { echo 7; }", "a session that could not be ended"),
        ('may="GRANT SELECT, CREATE USER ON *.* TO x"', "sessions that we may not see"),
        ("writers_there() { return 1; }", ""),
        ('may="GRANT SELECT ON *.* TO x"', ""),
    ],
)
def test_unless_all_are_locked_out_the_application_is_to_be_stopped(tmp_path: Path, more: str, who: str) -> None:
    assert locked(tmp_path, more).endswith(f"everyone= others={who}\n")


def test_who_may_not_be_locked_is_named_and_not_noted(tmp_path: Path) -> None:
    refusing = """there() {
      said there "$1" || true
      case $1 in *"'it'@'%' ACCOUNT"*) echo "ERROR 1227 (42000) at line 1: denied" >&2; return 1 ;; esac
      answer "$1"
    }"""

    assert locked(tmp_path, refusing) == "Locked there: 'app'@'%'\neveryone= others='it'@'%'\n"

    notes = [each for each in said(tmp_path).splitlines() if "SET locked" in each]
    assert "SET locked = ''app'@'%''" in notes[-1]


def test_a_lock_that_may_have_happened_ends_the_cut_over(tmp_path: Path) -> None:
    assert locked(tmp_path, fails="ACCOUNT LOCK") == ""


@pytest.mark.parametrize("client", ["mariadb", "mysql"])
def test_rights_by_patterns_on_tables_and_through_roles_are_asked_for(tmp_path: Path, client: str) -> None:
    given = (ROOT / "attachments/import_source.sh").read_text()
    script = f"""{given}
      client={client}
      there() {{ said there "$1"; case $1 in *"'role_edges'"*) echo 1 ;; esac; }}
      writers_there; others_there
    """
    run(tmp_path, script)

    asked = said(tmp_path)
    (tmp_path / "said").unlink()
    run(tmp_path, script.replace("writers_there; others_there", "writers_there all"))
    assert "'shop' LIKE db" in said(tmp_path) and "account_locked" not in said(tmp_path)
    assert "'shop' LIKE db" in asked
    assert all(f"FROM mysql.{table} WHERE db IN ('shop')" in asked for table in ("tables_priv", "columns_priv"))
    assert ("is_role = 'Y'" in asked) == (client == "mariadb")
    assert ("mysql.role_edges e" in asked) == (client == "mysql")
    # Who was locked already is not ours to unlock.
    assert ("JSON_VALUE(p.priv, '$.account_locked') = 1" in asked) == (client == "mariadb")
    assert ("u.account_locked = 'N'" in asked) == (client == "mysql")


PURGE = "1\tsystem user\t\tNULL\tDaemon\tNULL\tInnoDB purge worker\tNULL\t0.000\n"
APPLIERS = {
    "mariadb": "5\tsystem user\t\tNULL\tSlave_SQL\t9\tSlave has read all relay log\tNULL\t0.000\n",
    "mysql": "5\tsystem user\tconnecting host\tNULL\tQuery\t9\tReplica has read all relay log\tNULL\n",
}


@pytest.mark.parametrize("client", ["mariadb", "mysql"])
@pytest.mark.parametrize("follows", [True, False])
def test_one_that_follows_another_server_is_written_to_whoever_is_locked(
    tmp_path: Path, client: str, *, follows: bool
) -> None:
    (tmp_path / "processes").write_text(PURGE + (APPLIERS[client] if follows else ""))
    script = f"""{(ROOT / "attachments/import_source.sh").read_text()}
      client={client}
      there() {{ case $1 in "SHOW PROCESSLIST") cat "$folder/processes" ;; *"'role_edges'"*) echo 1 ;; esac; }}
      others_there
    """

    assert run(tmp_path, script) == ("whoever writes to the server that it follows\n" if follows else "")
