#!/usr/bin/env python3
# Written by relaunch: script configure_volume.sh. Change the script's attachment, not this file.
"""The volume that a path lies on, as btrfs or LVM: what each calls a snapshot, and where it is to be seen, read-only.

LVM: a thin pool, its volume mounted with ext4 or xfs. No machine of ours has had one: these lines have not been run.
"""

import os
import subprocess

SUBVOLUME = 256  # the number of the first inode of every btrfs subvolume


class VolumeError(Exception):
    """What is wrong, and with what."""


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise VolumeError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


def find_volume(path):
    """VolumeError when no snapshot can be taken of what it lies on."""
    place = os.path.realpath(path)
    root = run("findmnt", "-n", "-o", "TARGET", "-T", place)
    kind, source = run("findmnt", "-n", "-v", "-o", "FSTYPE,SOURCE", "-T", place).split(None, 1)
    if root == "/":
        raise VolumeError(f"{path} lies on the server's own disk: give the server a volume (`volume: 20G`)")
    if kind == "btrfs":
        if os.stat(root).st_ino != SUBVOLUME:
            raise VolumeError(f"{root} is no subvolume of btrfs, so no snapshot can be taken of it")
        return Btrfs(root)
    if source.startswith("/dev/") and run("lsblk", "-n", "-d", "-o", "TYPE", source) == "lvm":
        return Lvm(root, source, kind)
    raise VolumeError(f"{path} lies on {source} ({kind}): neither btrfs nor LVM, so no snapshot can be taken of it")


class Kind:
    """`root` is where the volume is mounted, `records` a folder on it for notes of ours."""

    def __init__(self, root):
        self.root = root
        self.records = os.path.join(root, "snapshots")
        os.makedirs(self.records, mode=0o700, exist_ok=True)

    def quiesce(self):
        """Write what has not been written, so that little is left for the moment of the snapshot."""
        run("sync", "-f", self.root)

    def settle(self):
        """Wait until what was dropped is free."""

    def space(self):
        """Bytes in all, bytes that are free."""
        about = os.statvfs(self.root)
        return about.f_blocks * about.f_frsize, about.f_bavail * about.f_frsize


class Btrfs(Kind):
    """A snapshot is a read-only subvolume beside the data; those inside are empty folders in it."""

    def path(self, id):
        return os.path.join(self.records, id)

    def names(self):
        return [each.name for each in os.scandir(self.records) if each.is_dir() and each.stat().st_ino == SUBVOLUME]

    def take(self, id):
        run("btrfs", "subvolume", "snapshot", "-r", self.root, self.path(id))

    def drop(self, id):
        if os.path.isdir(self.path(id)):
            run("btrfs", "subvolume", "delete", self.path(id))

    def settle(self):
        run("timeout", "120", "btrfs", "subvolume", "sync", self.root)

    def lay_out(self, id, data, target):
        """A writable copy of the snapshot's folder `data` that shares all blocks with it."""
        run("cp", "-a", "--reflink=always", os.path.join(self.path(id), data), target)


class Lvm(Kind):
    """A snapshot is a thin volume of the same pool, mounted while it is kept. The file system's journal is played back
    once, writable, as in a crash; then it is read-only."""

    def __init__(self, root, device, file_system):
        super().__init__(root)
        self._file_system = file_system
        self._group, self._name, self._pool = run(
            "lvs", "--noheadings", "--separator", " ", "-o", "vg_name,lv_name,pool_lv", device
        ).split()

    def _snapshot(self, id):
        return "snapshot-" + id.replace(".", "-")

    def path(self, id):
        return os.path.join("/run/relaunch-snapshots", id)

    def names(self):
        listed = run("lvs", "--noheadings", "-o", "lv_tags", "-S", f"origin={self._name}", self._group).split()
        return [tag.partition("=")[2] for tag in listed if tag.startswith("relaunch=")]

    def take(self, id):
        name = self._snapshot(id)
        run("lvcreate", "--snapshot", "--setactivationskip", "n", "--addtag", f"relaunch={id}", "--name", name,
            f"{self._group}/{self._name}")  # fmt: skip
        self._mount(id)

    def _mount(self, id):
        os.makedirs(self.path(id), exist_ok=True)
        device = f"/dev/{self._group}/{self._snapshot(id)}"
        options = "nouuid" if self._file_system == "xfs" else "defaults"
        run("mount", "-o", options, device, self.path(id))
        run("mount", "-o", "remount,ro", self.path(id))

    def drop(self, id):
        if os.path.ismount(self.path(id)):
            run("umount", self.path(id))
        run("lvremove", "--yes", f"{self._group}/{self._snapshot(id)}")

    def space(self):
        """Of the pool: a full one stops the volume itself."""
        size, used = run(
            "lvs", "--noheadings", "--nosuffix", "--units", "b", "--separator", " ", "-o", "lv_size,data_percent",
            f"{self._group}/{self._pool}",
        ).split()  # fmt: skip
        free = int(int(size) * (100 - float(used)) / 100)
        return int(size), min(free, super().space()[1])

    def lay_out(self, id, data, target):
        """A plain copy: the snapshot is a file system of its own."""
        if not os.path.ismount(self.path(id)):
            self._mount(id)
        source = os.path.join(self.path(id), data)
        needed, free = int(run("du", "-s", "--block-size=1", source).split()[0]), self.space()[1]
        if free < needed * 11 // 10:
            raise VolumeError(f"{needed // 1000000} MB are needed for a copy, {free // 1000000} MB are free")
        run("cp", "-a", source, target)
