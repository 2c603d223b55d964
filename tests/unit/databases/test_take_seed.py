"""take_seed.py and give_seed.py: who may give, and what becomes of what has come."""

from __future__ import annotations

import errno
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[3] / "templates/scripts/attachments/take_seed.py"
MEGABYTE = b"x" * (1 << 20)


@pytest.fixture(scope="module")
def take_seed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("take_seed", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_large_files_are_written_on_while_more_comes(take_seed: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/large.ibd").write_bytes(9 * MEGABYTE)
    (tmp_path / "small.ibd").write_bytes(MEGABYTE)
    synced: set[int] = set()
    seen = threading.Event()

    def sync(file: int) -> None:
        synced.add(os.fstat(file).st_ino)
        seen.set()

    writing = take_seed.WriteOn(str(tmp_path), sync)
    assert seen.wait(5)
    writing.over.set()
    writing.join(5)

    assert synced == {(tmp_path / "shop/large.ibd").stat().st_ino}
    assert writing.error is None


def test_a_disk_that_does_not_take_it_is_an_error_that_is_kept(take_seed: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "large.ibd").write_bytes(9 * MEGABYTE)

    def sync(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    writing = take_seed.WriteOn(str(tmp_path), sync)
    writing.join(5)  # ends by itself

    assert writing.error is not None and writing.error.errno == errno.EIO


FOLLOWS: dict[str, object] = {
    "version": "11.8.6-MariaDB", "bytes": 1, "source": "10.0.0.1", "lag_seconds": 0, "acknowledges": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("told", "order"),
    [({"filtered": False}, ["two", "one"]), ({"filtered": True}, ["one"]), ({}, ["one"])],
    ids=["whole", "filters", "a giver that does not say"],
)
def test_a_replica_that_may_lack_data_gives_none(
    take_seed: ModuleType, told: dict[str, object], order: list[str]
) -> None:
    offers = {"one": {"version": "11.8.6-MariaDB", "bytes": 1, "acknowledgers": 2}, "two": FOLLOWS | told}

    found, said = take_seed.candidates(("one", "10.0.0.1"), [("two", "10.0.0.2")], offers, "11.8.6-MariaDB")

    assert found == order
    assert ("two filters or delays" in said[0]) == (order == ["one"])


@pytest.mark.parametrize(
    ("column", "value", "filtered"),
    [("SQL_Delay", "0", False), ("SQL_Delay", "60", True), ("Replicate_Do_DB", "shop", True),
     ("Replicate_Wild_Ignore_Table", "shop.log%", True), ("Replicate_Ignore_Domain_Ids", "7", True)],
)  # fmt: skip
def test_a_giver_says_whether_it_filters(tmp_path: Path, column: str, value: str, filtered: bool) -> None:
    columns = {"Master_Host": "10.0.0.1", "Slave_IO_Running": "Yes", "Slave_SQL_Running": "Yes", "Replicate_Do_DB": "",
               "Seconds_Behind_Master": "0", "Replicate_Wild_Ignore_Table": "", column: value}  # fmt: skip
    shown = "\n".join(f"{name:>40}: {text}" for name, text in columns.items())
    (tmp_path / "mariadb").write_text(
        f"#!/bin/bash\ncase $* in *SLAVES*) cat <<'ROW'\n{shown}\nROW\n;; *) echo 0 ;; esac\n"
    )
    (tmp_path / "mariadb").chmod(0o755)
    program = f"import sys; sys.path.insert(0, {str(FILE.parent)!r}); import give_seed; print(give_seed.offer())"

    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip

    assert f"'filtered': {filtered}" in done.stdout
