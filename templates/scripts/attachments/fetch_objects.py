#!/usr/bin/env python3
# Written by relaunch: an attachment of scripts for database servers. Change it there.
"""Writes the objects of a backup to standard output, one after the other, and compares each with its hash.

    fetch_objects.py FOLDER DESCRIPTOR <manifest.json >stream

FOLDER is the backup's, as rclone knows it; how far it is comes to DESCRIPTOR, a line at most every 2 s. What is wrong
is said a line each, and then the exit status is 1: whoever reads the stream believes none of it before it knows the
status. The next object is asked for while one is read.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time

CHUNK = 1 << 20
SAY_SECONDS = 2.0
SET_PIPE_SIZE = 1031  # which Python 3.9 has no name for


def widen(pipe):
    """To a MiB instead of 64 KiB: its two ends wait for each other less often."""
    with contextlib.suppress(OSError):  # no pipe, or the kernel gives no more
        fcntl.fcntl(pipe, SET_PIPE_SIZE, CHUNK)


def begin(place):
    fetching = subprocess.Popen(["rclone", "cat", place], stdout=subprocess.PIPE)
    widen(fetching.stdout)
    return fetching


class Progress:
    """Of all objects together, as they are stored."""

    def __init__(self, told, target):
        self.id, self.all_bytes = told["id"], sum(each["size_bytes"] for each in told["objects"])
        self.target = target
        self.done_bytes = 0
        self.began = self.said = time.monotonic()

    def add(self, count):
        self.done_bytes += count
        now = time.monotonic()
        if now - self.said < SAY_SECONDS:
            return
        self.said = now
        rate = self.done_bytes / (now - self.began)
        left = max(0, self.all_bytes - self.done_bytes) / rate
        much = f"{self.done_bytes // 1000000} of {self.all_bytes // 1000000} MB"
        os.write(self.target, f"… {self.id}: {much}, {rate / 1e6:.0f} MB/s, about {left:.0f} s to go\n".encode())


def pass_on(source, target, progress):
    """The hash of all that came, and whether all of it was taken."""
    digest, buffer, taken = hashlib.sha256(), bytearray(CHUNK), True
    view = memoryview(buffer)
    while count := os.readv(source, [buffer]):
        digest.update(view[:count])
        progress.add(count)
        written = 0 if taken else count
        while written < count:
            try:
                written += os.write(target, view[written:count])
            except BrokenPipeError:  # who reads may have found the damage: it is named all the same
                written, taken = count, False
    return digest.hexdigest(), taken


def main():
    folder = sys.argv[1]
    told = json.load(sys.stdin)
    objects, faults, taken = told["objects"], [], True
    progress = Progress(told, int(sys.argv[2]))
    widen(1)
    fetching = begin(f"{folder}/{objects[0]['name']}")
    for number, each in enumerate(objects):
        current = fetching
        if number + 1 < len(objects) and taken:
            fetching = begin(f"{folder}/{objects[number + 1]['name']}")
        found, taken = pass_on(current.stdout.fileno(), 1, progress)
        if current.wait():
            faults.append(f"{each['name']} cannot be read")
        if found != each["sha256"]:
            noted = f"{each['size_bytes']} bytes, sha256 {each['sha256']}"
            faults.append(f"DAMAGED OBJECT: {told['id']}/{each['name']} is not what was stored ({noted})")
        if faults or not taken:
            break
    if fetching is not current:
        fetching.kill()
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
