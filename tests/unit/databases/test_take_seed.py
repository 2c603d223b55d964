"""take_seed.py: what has come goes to the disk while more comes, and a disk that does not take it ends the copy."""

from __future__ import annotations

import errno
import importlib.util
import os
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
