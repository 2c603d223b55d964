#!/usr/bin/env python3
# Written by relaunch: script configure_volume.sh. Change the script's attachment, not this file.
"""Snapshots of the volume that the database's data lies on: taken beside a running server, kept, dropped, listed.

    take_snapshot.py take [--keep N] [--least-free BYTES] [--wait SECONDS]
    take_snapshot.py trim [--least-free BYTES]     drops the oldest while less than that is free
    take_snapshot.py list | drop ID
    take_snapshot.py lay-out ID|latest FOLDER      its data directory, writable, sharing blocks where that is possible

No statement that runs ahead of us makes commits behind us wait; what is locked for that is in snapshot_locks.py.
"""

import argparse
import contextlib
import datetime
import fcntl
import glob
import json
import os
import subprocess
import sys
import time

from snapshot_locks import commits_wait, lockers_of, take_under_a_lock
from sql_session import IS_MARIADB, Session, SqlError
from volume_kinds import VolumeError, find_volume

LEAST_FREE = (1 << 29, 0.1)  # bytes, share of the file system
SYSTEM = "('mysql', 'sys', 'performance_schema', 'information_schema')"
FOREIGN = (
    "SELECT CONCAT(table_schema, '.', table_name), engine FROM information_schema.tables"
    f" WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') AND engine <> 'InnoDB' AND table_schema NOT IN {SYSTEM}"
)
SETTINGS = (
    "innodb_page_size", "innodb_data_file_path", "innodb_undo_tablespaces", "innodb_checksum_algorithm",
    "lower_case_table_names", "innodb_log_file_size", "innodb_redo_log_capacity",
)  # fmt: skip
PLACES = (
    "datadir", "innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory", "log_bin_basename",
)  # fmt: skip
FAILING = "/var/lib/relaunch-snapshots-failing"  # survives a reboot, as the tag does
ID = "%Y%m%dT%H%M%S.%fZ"
UTC = datetime.timezone(datetime.timedelta(0))


def now():
    return datetime.datetime.now(tz=UTC)


def warnings_of(foreign):
    return [f"{table} is {engine}: not covered by transactions" for table, engine in foreign]


def refuse_scattered(session, volume):
    """A snapshot is of one moment only when everything lies on this one volume."""
    listed = ", ".join(f"'{name}'" for name in PLACES)
    data = os.path.realpath(session.value("SELECT @@datadir"))
    for name, value in session.rows(f"SHOW GLOBAL VARIABLES WHERE variable_name IN ({listed})"):
        place = os.path.realpath(os.path.join(data, value or "."))
        if os.path.commonpath((place, volume.root)) != volume.root:
            raise VolumeError(f"{name} is {place}, which is not on the volume {volume.root}: no snapshot has it all")
    elsewhere = glob.glob(os.path.join(glob.escape(data), "*", "*.isl"))
    if elsewhere:
        raise VolumeError(f"{elsewhere[0]} says that a table lies elsewhere (DATA DIRECTORY): no snapshot has it all")
    return data


def make_room(volume, least_free, say):
    """Drop the oldest while too little is free; VolumeError when that is not enough."""
    total, free = volume.space()
    least = least_free or max(LEAST_FREE[0], int(total * LEAST_FREE[1]))
    records = kept(volume)
    while free < least and records:
        oldest = records.pop(0)
        volume.drop(oldest["id"])
        forget(volume, oldest["id"])
        say(f"{oldest['id']} goes: only {free // 1000000} MB were free, and {least // 1000000} MB are to stay so")
        volume.settle()
        total, free = volume.space()
    if free < least:
        raise VolumeError(
            f"only {free // 1000000} MB of {volume.root} are free, less than {least // 1000000} MB:"
            " a snapshot could fill it and stop the database; none is taken"
        )


def record_path(volume, id):
    return os.path.join(volume.records, f"{id}.json")


def kept(volume):
    """What is known of each, the oldest first. What a kill left without a record is dropped."""
    found = []
    for path in sorted(glob.glob(os.path.join(glob.escape(volume.records), "*.json"))):
        with open(path) as file:
            text = file.read()
        try:
            found.append(json.loads(text))
        except ValueError:  # a power failure cut it off
            os.unlink(path)
    known = {each["id"] for each in found}
    there = set(volume.names())
    for id in there - known:
        volume.drop(id)
    for id in known - there:
        forget(volume, id)
    return [each for each in found if each["id"] in there]


def forget(volume, id):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(record_path(volume, id))


def write_record(volume, record):
    """It survives a power failure, as the snapshot does."""
    path = record_path(volume, record["id"])
    with open(path + ".new", "w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)
    folder = os.open(volume.records, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def next_id(volume):
    """The present moment, and later than all that are kept, whatever became of the clock: the newest sorts last."""
    moment = now()
    for each in kept(volume):
        before = datetime.datetime.strptime(each["id"], ID).replace(tzinfo=UTC)
        moment = max(moment, before + datetime.timedelta(microseconds=1))
    return moment.strftime(ID)


def take(volume, keep, least_free, wait, say):
    make_room(volume, least_free, say)
    session = Session()
    data = refuse_scattered(session, volume)
    foreign = session.rows(FOREIGN)
    id = next_id(volume)
    record = about(session, data, volume)
    volume.quiesce()  # what the volume has not written yet is written before anybody waits for it
    lockers = lockers_of(session, foreign, time.monotonic() + wait)
    waiting = commits_wait(session)
    locker = take_under_a_lock(lockers, lambda: volume.take(id), say, waits=lambda: commits_wait(session))
    if locker.how == "none":
        waiting = waiting or commits_wait(session)  # they may have begun to since
    warnings = warnings_of(foreign)
    if not locker.held or locker.how == "none":
        warnings += ["taken without a lock: it is what a crash would have left"]
        warnings += ["tables without transactions may be torn in it"] if foreign else []
    record.update(
        id=id, waiting=waiting, gtid=locker.position, exact=locker.exact and locker.held, lock=locker.how,
        locked_seconds=round(locker.seconds, 4), warnings=warnings,
    )  # fmt: skip
    write_record(volume, record)
    session.close()
    for old in kept(volume)[:-keep]:
        volume.drop(old["id"])
        forget(volume, old["id"])
        say(f"{old['id']} is dropped: {keep} are kept")
    return record


def about(session, data, volume):
    """What a restore has to know of the server that the data was of."""
    settings = ", ".join(f"'{name}'" for name in SETTINGS)
    return {
        "at": now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data": os.path.relpath(data, volume.root),
        "dialect": "mariadb" if IS_MARIADB else "mysql",
        "version": session.value("SELECT VERSION()"),
        "lineage": lineage_of(session),
        "settings": dict(session.rows(f"SHOW GLOBAL VARIABLES WHERE variable_name IN ({settings})")),
    }


def lineage_of(session):
    try:
        return session.value("SELECT id FROM relaunch.lineage") or ""
    except SqlError:
        return ""


def lay_out(volume, id, folder):
    """Ready to be started by a server of the same version; what is of the running one only is left out."""
    found = kept(volume)
    record = next((each for each in reversed(found) if id in ("latest", each["id"])), None)
    if record is None:
        there = ", ".join(each["id"] for each in found) or "none"
        raise VolumeError(f"there is no snapshot {id} on {volume.root}, but: {there}")
    volume.lay_out(record["id"], record["data"], folder)
    with open(os.path.join(folder, "backup-my.cnf"), "w") as file:
        file.write("[mysqld]\n" + "".join(f"{name} = {value}\n" for name, value in record["settings"].items()))
    for name in ("relaunch-group", "relaunch-group.accounts"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))
    return record


def main():
    parser = argparse.ArgumentParser(description="Snapshots of the volume that the database's data lies on.")
    ways = parser.add_subparsers(dest="way", required=True)
    taking, trimming = ways.add_parser("take"), ways.add_parser("trim")
    taking.add_argument("--keep", type=int, default=6)
    taking.add_argument("--wait", type=float, default=30.0, help="seconds for a quiet moment, where one is needed")
    for each in (taking, trimming):
        each.add_argument("--least-free", type=int, default=0, help="bytes that stay free; 0: a tenth of the volume")
    ways.add_parser("list")
    ways.add_parser("drop").add_argument("id")
    laying = ways.add_parser("lay-out")
    laying.add_argument("id")
    laying.add_argument("folder")
    told = parser.parse_args()
    try:
        volume = find_volume("/var/lib/mysql")
        with open(os.path.join(volume.records, "lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            act(volume, told)
        with contextlib.suppress(OSError):  # a full disk of the system's: it is told later
            tell(told.way, failing=False)
    except (VolumeError, SqlError, OSError) as error:
        with contextlib.suppress(OSError):
            tell(told.way, failing=True)
        sys.exit(f"take_snapshot: {error}")


def tell(way, *, failing, folder=FAILING):
    """As a tag the controller sees: nobody watches what a timer starts.

    `folder` has a file for each way that fails, and `told` while the tag is set; what could not be said is said later.
    """
    if way not in ("take", "trim"):
        return
    os.makedirs(folder, exist_ok=True)
    mark, told = os.path.join(folder, way), os.path.join(folder, "told")
    if failing:
        touch(mark)
    elif os.path.exists(mark):
        os.unlink(mark)
    wrong = bool(set(os.listdir(folder)) - {"told"})
    if wrong == os.path.exists(told):
        return
    words = ["snapshots=failing"] if wrong else ["-d", "snapshots"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(["relaunch-local", "tag", *words], capture_output=True, timeout=20, check=True)
        if wrong:
            touch(told)
        else:
            os.unlink(told)


def touch(path):
    with open(path, "w"):
        pass


def act(volume, told):
    def say(text):
        print(text, file=sys.stderr, flush=True)

    if told.way == "take":
        record = take(volume, max(told.keep, 1), told.least_free, told.wait, say)
        print(json.dumps({**record, "path": volume.path(record["id"])}))
    elif told.way == "trim":
        with contextlib.suppress(VolumeError):  # then there is none left to drop
            make_room(volume, told.least_free, say)
    elif told.way == "list":
        for record in kept(volume):
            print(json.dumps({**record, "path": volume.path(record["id"])}))
    elif told.way == "lay-out":
        print(json.dumps(lay_out(volume, told.id, told.folder)))
    else:
        volume.drop(told.id)
        forget(volume, told.id)


if __name__ == "__main__":
    main()
