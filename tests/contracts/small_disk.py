"""A disk that is soon full, and one that hangs."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Callable[[], None]]:
    """That folder is a file system of its own; what is given fills it to the last byte."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}M", "none", folder], check=True, timeout=10)

    def fill() -> None:
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    try:
        yield fill
    finally:
        subprocess.run(["umount", folder], check=True, timeout=10)


@contextlib.contextmanager
def hanging_disk(folder: Path, megabytes: int) -> Iterator[Callable[[bool], None]]:
    """That folder is a file system of its own; what is given makes all that writes to it wait, and lets it go on."""
    folder.mkdir(parents=True)
    device = folder.with_suffix(".btrfs")
    with device.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.btrfs", "--quiet", device], check=True, timeout=30)
    subprocess.run(["mount", "-o", "loop", device, folder], check=True, timeout=10)

    def hang(hangs: bool) -> None:
        subprocess.run(["fsfreeze", "--freeze" if hangs else "--unfreeze", folder], check=True, timeout=10)

    try:
        yield hang
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", folder], check=False, capture_output=True, timeout=10)
        subprocess.run(["umount", folder], check=True, timeout=10)
