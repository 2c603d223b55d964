#!/usr/bin/env python3
# Written by relaunch: an attachment of scripts for database servers. Change it there.
"""Writes the objects of a backup to standard output, one after the other, and compares each with its hash.

    fetch_objects.py FOLDER <manifest.json >stream

FOLDER is the backup's, as rclone knows it. What is wrong is said a line each, and then the exit status is 1: whoever
reads the stream believes none of it before it knows the status. The next object is asked for while one is read.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys

CHUNK = 1 << 20
SET_PIPE_SIZE = 1031  # which Python 3.9 has no name for


def widen(pipe):
    """To a MiB instead of 64 KiB: its two ends wait for each other less often."""
    with contextlib.suppress(OSError):  # no pipe, or the kernel gives no more
        fcntl.fcntl(pipe, SET_PIPE_SIZE, CHUNK)


def begin(place):
    fetching = subprocess.Popen(["rclone", "cat", place], stdout=subprocess.PIPE)
    widen(fetching.stdout)
    return fetching


def pass_on(source, target):
    """The hash of all that came, and whether all of it was taken."""
    digest, buffer, taken = hashlib.sha256(), bytearray(CHUNK), True
    view = memoryview(buffer)
    while count := os.readv(source, [buffer]):
        digest.update(view[:count])
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
    widen(1)
    fetching = begin(f"{folder}/{objects[0]['name']}")
    for number, each in enumerate(objects):
        current = fetching
        if number + 1 < len(objects) and taken:
            fetching = begin(f"{folder}/{objects[number + 1]['name']}")
        found, taken = pass_on(current.stdout.fileno(), 1)
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
