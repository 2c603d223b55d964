"""Programs of Debian that the tests' host need not have: each in a root of its own, made once."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def root_with(name: str, suite: str, program: str, *packages: str) -> Path | None:
    """The root in which that program is, as /usr/sbin/…; None where none can be made."""
    cache = Path(os.environ.get("RELAUNCH_TEST_STATE", "/var/tmp/relaunch-test") + "-cache")
    root = cache / f"{suite}-{name}"
    if (root / program.lstrip("/")).exists():
        return root
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        return None
    cache.mkdir(parents=True, exist_ok=True)
    fresh = root.with_name(f"{root.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    # sid's signatures are short-lived, and a mirror that stands still is still good for a test.
    words = (
        *("mmdebstrap", "--variant=minbase", '--aptopt=Acquire::Check-Valid-Until "false"'),
        *(f"--include={','.join(packages)}", suite, str(fresh)),
    )
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=600)
    fresh.rename(root)
    return root


def inside(root: Path, folder: Path) -> list[str]:
    """In front of a command: it runs in the root, and sees the folder where the host does; /proc and /dev too."""
    (root / str(folder).lstrip("/")).mkdir(parents=True, exist_ok=True)
    mounts = " && ".join(f'mount --rbind "{each}" "$0{each}"' for each in (folder, "/proc", "/dev"))
    return ["unshare", "--mount", "sh", "-c", f'{mounts} && exec chroot "$0" "$@"', str(root)]
