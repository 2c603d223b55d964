"""take_seed.py and give_seed.py: who may give, and what becomes of what has come."""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from relaunch.databases.mariadb import FILTERS

FILE = Path(__file__).parents[3] / "templates/scripts/attachments/take_seed.py"
MEGABYTE = b"x" * (1 << 20)


@pytest.fixture(scope="module")
def take_seed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("take_seed", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_may_not_lead_for_its_filters_may_not_give_its_files_either() -> None:
    spec = importlib.util.spec_from_file_location("give_seed", FILE.with_name("give_seed.py"))
    assert spec and spec.loader
    give_seed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(give_seed)

    assert sorted(give_seed.FILTERS) == sorted(FILTERS)


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


def test_what_came_in_vain_is_not_left(take_seed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The primary gives up at its lock each time: later it may not."""
    offer = {"version": "11.8.6-MariaDB", "bytes": 1, "acknowledgers": 0, "young": False}
    folder, begun = tmp_path / "copying", []

    def gives_up(name: str, address: str, into: str) -> None:
        begun.append(name)
        Path(into).mkdir()
        (Path(into) / "ibdata1").write_bytes(b"x")
        raise take_seed.Failed("commits would have waited for it longer than 3 s: given up")

    status = ended(take_seed, monkeypatch, folder, {"one": offer}, gives_up)

    assert status == 4 and begun == ["one"] * take_seed.TRIES
    assert not folder.exists()


def test_what_a_run_before_left_is_no_lack_of_room(
    take_seed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = tmp_path / "copying", []
    folder.mkdir()

    class Connection:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def makefile(self, *_: object, **__: object) -> None:
            pass

        def sendall(self, _: bytes) -> None:
            pass

    def enough_room(into: str, _: object) -> None:
        seen.append(Path(into).exists())
        raise take_seed.Refused("that is all that this test wants to see")

    monkeypatch.setattr(take_seed, "connect", lambda _: Connection())
    monkeypatch.setattr(take_seed, "answer", lambda _: {"bytes": 1})
    monkeypatch.setattr(take_seed, "enough_room", enough_room)

    with pytest.raises(take_seed.Refused):
        take_seed.take("one", "10.0.0.1", str(folder))

    assert seen == [False]


@pytest.mark.parametrize(
    ("reached", "replica", "status"),
    [(False, False, 1), (False, True, 0), (True, False, 4)],
    ids=["nobody listens", "a replica gives", "the primary does not give now"],
)
def test_rows_are_for_those_whose_port_was_never_opened(
    take_seed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reached: bool, replica: bool, status: int
) -> None:
    error = take_seed.Failed("not now") if reached else take_seed.Unreached("Connection refused")
    two = FOLLOWS | {"filtered": False, "acknowledges": False} if replica else take_seed.Unreached("timed out")

    given = ended(
        take_seed, monkeypatch, tmp_path / "copying", {"one": error, "two": two}, lambda *_: {"gtid": "1-1-1"}
    )

    assert given == status


def ended(
    take_seed: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    offers: dict[str, Any],
    take: Callable[..., Any],
) -> int:
    """The exit status; servers answer by their names, the first one is the primary, at 10.0.0.1."""
    addresses = {f"10.0.0.{number}": name for number, name in enumerate(offers, 1)}
    monkeypatch.setattr(take_seed, "asked", lambda address: offers[addresses[address]])
    monkeypatch.setattr(take_seed, "take", take)
    monkeypatch.setattr(take_seed.time, "sleep", lambda seconds: None)
    said = subprocess.CompletedProcess([], 0, "mariadbd  Ver 11.8.6-MariaDB for Linux", "")
    monkeypatch.setattr(take_seed.subprocess, "run", lambda *_, **__: said)
    words = [f"{name}={address}" for address, name in addresses.items()]
    monkeypatch.setattr(sys, "argv", ["take_seed.py", str(folder), str(folder.parent / "seed.json"), *words])
    try:
        take_seed.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_connection_that_nobody_takes_is_told_from_an_answer(
    take_seed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(take_seed, "PORT", server.getsockname()[1])
        monkeypatch.setattr(take_seed.ssl, "create_default_context", lambda **_: Anything())
        assert type(take_seed.asked("127.0.0.1")) is ValueError
    assert type(take_seed.asked("127.0.0.1")) is take_seed.Unreached


class Anything:
    """A TLS context that hands no connection out."""

    def load_cert_chain(self, *_: str) -> None:
        pass

    def wrap_socket(self, plain: socket.socket, **_: str) -> None:
        plain.close()
        raise ValueError
