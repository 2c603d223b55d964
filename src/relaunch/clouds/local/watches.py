"""How many inotify instances root may have on this host: every guest's systemd takes about six of them.

The kernel's default of 128 is full with some twenty guests; the next one's systemd then ends in its first second: "Too
many open files". The limit is root's as a whole: raised while any local cloud is up, and given back by the last.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOTES = Path("/run/relaunch/inotify")  # `before`, and `for-BRIDGE` of each cloud; lost with a reboot, as the setting is
SETTING = Path("/proc/sys/fs/inotify/max_user_instances")
ENOUGH = 8192  # a thousand guests


def raise_limit(bridge: str, *, notes: Path = NOTES, setting: Path = SETTING) -> None:
    """Room for the guests of this cloud; idempotent. A limit that is high enough is left alone."""
    with _alone(notes):
        before = int(setting.read_text())
        if before < ENOUGH:
            (notes / "before").write_text(f"{before}\n")
            setting.write_text(f"{ENOUGH}\n")
        if (notes / "before").exists():
            (notes / f"for-{bridge}").touch()


def give_back(bridge: str, *, notes: Path = NOTES, setting: Path = SETTING) -> None:
    """This cloud needs it no more; the last one restores what was, unless somebody else has set it since."""
    if not notes.exists():
        return
    with _alone(notes):
        (notes / f"for-{bridge}").unlink(missing_ok=True)
        if any(notes.glob("for-*")):
            return
        before = notes / "before"
        if before.exists() and int(setting.read_text()) == ENOUGH:
            setting.write_text(before.read_text())
        before.unlink(missing_ok=True)


@contextmanager
def _alone(notes: Path) -> Iterator[None]:
    """The notes' folder, held against other clouds of this host, and gone afterwards when it is empty."""
    notes.mkdir(parents=True, exist_ok=True)
    lock = notes.with_name(f"{notes.name}.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
        with contextlib.suppress(OSError):  # another cloud has its note there
            notes.rmdir()
            lock.unlink()
            notes.parent.rmdir()
