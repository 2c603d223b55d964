"""Backups of servers with many tables: no program is given a list that Linux does not take as one argument."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3] / "templates/scripts"
MANY = 2500  # as one text more than 131,071 bytes

# What stands in for the client, for the server's answers and for the object store.
STUBS = """
  sql() {
    case $1 in
      *"information_schema.tables t"*) cat "$folder/tables" ;;
      *"VERSION()"* | *relaunch.lineage*) echo 1 ;;
      *) cat "$folder/odd" ;;
    esac
  }
  open_session() { :; }
  ask() { printf '3\\t99\\n'; }
  check_sql() { :; }
  rclone() { case $1 in lsf) cat "$folder/listing" ;; rcat) cat >"$folder/manifest.json" ;; esac; }
  exec {to_db}>/dev/null {from_db}</dev/null
"""
BACKUP = """
  id=1 kind=full parent= lineage=1 server=1 role=primary lag=0 begun=1 ended=1 gtid=1 check_gtid=1 data_bytes=1
  target=there BACKUP_GROUP=1 BACKUP_RECIPIENT=1
"""


def run(folder: Path, script: str) -> str:
    (folder / "work").mkdir(exist_ok=True)
    (folder / "state/last.new").mkdir(parents=True, exist_ok=True)
    for name in ("tables", "odd", "listing"):
        (folder / name).touch()
    sourced = "".join(f". {ROOT}/attachments/{each}.sh\n" for each in ("table_checks", "backup_store", "schema_dump"))
    script = f"folder={folder} work={folder}/work state={folder}/state\n{sourced}{STUBS}{script}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def test_every_table_is_in_the_manifest_however_many_there_are(tmp_path: Path) -> None:
    large = "".join(f"shop\tlarge_{number:04}\t268435456\t0\n" for number in range(MANY))
    (tmp_path / "tables").write_text("".join(f"shop\torders_{number:04}\t1\t1\n" for number in range(MANY)) + large)
    (tmp_path / "odd").write_text("".join(f"shop.old_{number:04} is MyISAM: of no moment\n" for number in range(MANY)))

    run(tmp_path, f"{BACKUP}\nwarn torn\nfind_objects\nsum_tables 600\nend_backup mariadb '{{\"more\": 1}}'")

    found = manifest(tmp_path)
    assert len(found["check"]["tables"]) == len(found["check"]["unchecked"]) == len(found["warnings"]) == MANY
    assert found["check"]["tables"][7] == {
        "schema": "shop", "table": "orders_0007", "method": "all", "rows": 3, "sum": "99",
    }  # fmt: skip
    assert found["check"]["unchecked"][7] == "shop.large_0007"
    assert found["warnings"][7] == "shop.old_0007 is MyISAM: of no moment"
    assert found["more"] == 1


def test_every_object_is_in_the_manifest_however_many_there_are(tmp_path: Path) -> None:
    names = [f"data.tar.zst.age.{number:05}" for number in range(1200)]
    (tmp_path / "listing").write_text("".join(f"512 {name}\n" for name in names))
    (tmp_path / "work").mkdir()
    for name in names:
        (tmp_path / "work" / f"{name}.sha256").write_text("ab" * 32)

    run(tmp_path, f"{BACKUP}\nwarn torn\nfind_objects\nsum_tables 600\nend_backup mariadb '{{}}'")

    found = manifest(tmp_path)
    assert [each["name"] for each in found["objects"]] == names
    assert found["objects"][0] == {"name": names[0], "size_bytes": 512, "sha256": "ab" * 32}
    assert found["stored_bytes"] == 512 * len(names)


def test_an_object_that_is_missing_in_the_store_ends_the_backup(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/data.sha256").write_text("ab" * 32)

    said = run(tmp_path, f"{BACKUP}\n( find_objects ) 2>&1 || echo ended")

    assert "Objects are missing in the store." in said and "ended" in said


def test_a_schema_may_have_as_many_tables(tmp_path: Path) -> None:
    (tmp_path / "tables").write_text("".join(f"shop\torders_{number:04}\t1\t1\n" for number in range(MANY)))
    script = (ROOT / "backup_schema.sh").read_text()
    before = script[script.index("\nbefore=") : script.index("\n# The hash is taken")]
    after = script[script.index("\ngtid=") : script.index('\necho "BACKED-UP')]

    said = run(
        tmp_path,
        f"""{BACKUP}
        position_before() {{ echo 1; }}
        position_of_dump() {{ echo 1; }}
        default_of() {{ echo '{{"collation": "utf8mb4_bin"}}'; }}
        BACKUP_SCHEMA=shop BACKUP_CHECK_SECONDS=600 target=there dialect=mariadb role=replica
        rclone() {{ case $1 in lsf) echo 512 ;; rcat) cat >"$folder/manifest.json" ;; esac; }}
        echo abab >"$work/sha256"
        {before}
        {after}""",
    )

    found = manifest(tmp_path)
    assert len(found["check"]["tables"]) == MANY and found["check"]["unchecked"] == []
    assert found["check"]["tables"][7] == {"table": "orders_0007", "method": "all", "rows": 3, "sum": "99"}
    assert found["default"] == {"collation": "utf8mb4_bin"}
    assert said.strip() == f"shop at 1: 512 bytes, {MANY} tables summed, 0 not"


def test_only_sums_that_are_the_same_before_and_after_a_dump_count(tmp_path: Path) -> None:
    def sums(**tables: int) -> dict[str, Any]:
        return {"tables": [{"table": table, "rows": rows} for table, rows in tables.items()], "unchecked": ["a.large"]}

    (tmp_path / "before").write_text(json.dumps(sums(still=1, moved=1, gone=1)))
    (tmp_path / "after").write_text(json.dumps(sums(still=1, moved=2, new=1)))

    found = json.loads(run(tmp_path, f"sums_of_both {tmp_path}/before {tmp_path}/after"))

    assert found == {"tables": [{"table": "still", "rows": 1}], "unchecked": ["a.large", "gone", "moved", "new"]}


def test_a_name_is_kept_whatever_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "tables").write_text(
        's\tit\'s a `test` \\\\ "x"\t1\t1\ns\ta\\tb\\nc\\\\n\x01\r\t1\t1\ns\tgröß & <e> $(id) %s\t268435456\t0\n'
    )

    run(tmp_path, f"{BACKUP}\nwarn torn\nfind_objects\nsum_tables 600\nend_backup mariadb '{{}}'")

    check = manifest(tmp_path)["check"]
    assert [each["table"] for each in check["tables"]] == ['it\'s a `test` \\ "x"', "a\tb\nc\\n\x01\r"]
    assert check["unchecked"] == ["s.größ & <e> $(id) %s"]


def test_statements_have_no_name_in_them(tmp_path: Path) -> None:
    script = '. "$checks"; ask() { echo 1; }\n'
    script += "check_sql \"it's\" 'a`b\\' all; check_sql \"it's\" 'a`b\\' 'last 10'"

    said = run(tmp_path, f"checks={ROOT}/attachments/table_checks.sh\n{script}")

    assert said.count("PREPARE") == 3
    assert "it's" not in said and "a`b" not in said and "\\" not in said
    assert "_utf8mb4 X'69742773'" in said and "_utf8mb4 X'6160625c'" in said
