"""Shows a folder of the host at a path inside a running container: `bind_into.py SOURCE PID TARGET`, or `bind_into.py
- PID TARGET` takes it away again.

A program of its own because a process enters another mount namespace only while it has one thread. The target is
resolved inside the container, so that no symbolic link of the guest leads out of it. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

# From the kernel's uapi: the same numbers on every architecture.
SYS_OPEN_TREE, SYS_MOVE_MOUNT = 428, 429
AT_FDCWD, OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = -100, 1, 4
CLONE_NEWNS = 0x00020000

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def main() -> int:
    source, pid, target = sys.argv[1:]
    tree = -1
    if source != "-":
        tree = checked(libc.syscall(SYS_OPEN_TREE, AT_FDCWD, source.encode(), OPEN_TREE_CLONE), source)
    root = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY)
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    checked(libc.setns(namespace, CLONE_NEWNS), "entering the container")
    os.fchdir(root)
    os.chroot(".")
    if source == "-":
        if not os.path.ismount(target):
            return 0
        checked(libc.umount2(target.encode(), 0), target)
        return 0
    Path(target).mkdir(parents=True, exist_ok=True)
    if os.path.ismount(target):
        return 0
    checked(libc.syscall(SYS_MOVE_MOUNT, tree, b"", AT_FDCWD, target.encode(), MOVE_MOUNT_F_EMPTY_PATH), target)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2 if error.errno == 16 else 1)
