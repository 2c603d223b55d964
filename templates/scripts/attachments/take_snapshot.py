#!/usr/bin/env python3
# Written by relaunch: script configure_volume.sh. Change the script's attachment, not this file.
"""Snapshots of the volume that the database's data lies on: taken beside a running server, kept, dropped, listed.

    take_snapshot.py take [--keep N] [--least-free BYTES] [--wait SECONDS]
    take_snapshot.py trim [--least-free BYTES]     drops the oldest while less than that is free
    take_snapshot.py list | drop ID
    take_snapshot.py lay-out ID|latest FOLDER      its data directory, writable, sharing blocks where that is possible

No statement that runs ahead of us makes commits behind us wait: a lock that is not had within LOCK_SECONDS is given up
by ending our session, and after TRIES a snapshot is taken without any. As data and binary log lie on one volume, that
is what a crash leaves behind, from which the server recovers; only tables without transactions may then be torn.
"""

import argparse
import contextlib
import datetime
import fcntl
import glob
import json
import os
import random
import sys
import threading
import time

from sql_session import IS_MARIADB, Session, SqlError
from volume_kinds import VolumeError, find_volume

LOCK_SECONDS = 0.04  # so long may commits wait for the lock that we want
SNAPSHOT_SECONDS = 2.0  # so long may they wait while we have it
LONG_STATEMENT_SECONDS = 1
TRIES = 3
PAUSES = (1.0, 5.0)
LEAST_FREE = (1 << 29, 0.1)  # bytes, share of the file system
SYSTEM = "('mysql', 'sys', 'performance_schema', 'information_schema')"
FOREIGN = (
    "SELECT CONCAT(table_schema, '.', table_name), engine FROM information_schema.tables"
    f" WHERE table_type = 'BASE TABLE' AND engine <> 'InnoDB' AND table_schema NOT IN {SYSTEM}"
)
LONG = (
    f"SELECT COUNT(*) FROM {'information' if IS_MARIADB else 'performance'}_schema.processlist"
    " WHERE command IN ('Query', 'Execute')"
    " AND id <> CONNECTION_ID() AND user NOT IN ('system user', 'event_scheduler')"
    f" AND time >= {LONG_STATEMENT_SECONDS}"
)
SETTINGS = (
    "innodb_page_size", "innodb_data_file_path", "innodb_undo_tablespaces", "innodb_checksum_algorithm",
    "lower_case_table_names", "innodb_log_file_size", "innodb_redo_log_capacity",
)  # fmt: skip
LOG_STATUS = (
    "SELECT REPLACE(JSON_UNQUOTE(JSON_EXTRACT(local, '$.gtid_executed')), '\\n', '') FROM performance_schema.log_status"
)
PLACES = (
    "datadir", "innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory", "log_bin_basename",
)  # fmt: skip
MARIADB_WAITING = "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_wait_sessions'"
MYSQL_WAITING = "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_source_wait_sessions'"


UTC = datetime.timezone(datetime.timedelta(0))


class NotNow(Exception):
    """The lock could not be had without making commits wait."""


class Watchdog:
    """Ends the locker's session from another one when what it does takes longer than it may."""

    def __init__(self, killer, id, seconds):
        self._killer, self._id = killer, id
        self._timer = threading.Timer(seconds, self._bite)
        self.bit = False

    def __enter__(self):
        self._timer.start()
        return self

    def __exit__(self, *error):
        self._timer.cancel()
        self._timer.join()

    def _bite(self):
        self.bit = True
        with contextlib.suppress(SqlError):
            self._killer.rows(f"KILL {self._id}")


class Locker:
    """One attempt to hold commits still for a moment. `how` names the lock, `position` is of that moment."""

    how = "none"
    exact = False  # whether `position` is just what the snapshot has
    unlock = "DO 0"

    def __init__(self, killer, foreign=False, until=0.0):
        """foreign: there are tables without transactions. until: so long may a quiet moment be waited for."""
        self._killer, self._foreign, self._until = killer, foreign, until
        self._session = Session()
        self._id = self._session.value("SELECT CONNECTION_ID()")
        self.position, self.seconds, self.held = "", 0.0, False

    def within(self, seconds):
        return Watchdog(self._killer, self._id, seconds)

    def ask(self, statement, seconds=LOCK_SECONDS):
        """The statement's rows; NotNow when it took too long, or the server says that it did."""
        dog = self.within(seconds)
        try:
            with dog:
                found = self._session.rows(statement)
        except SqlError as error:
            if not dog.bit:
                raise NotNow(f"{statement}: {error}") from None
        if dog.bit:
            raise NotNow(f"{statement} took longer than {seconds} s")
        return found

    def lock(self):
        raise NotImplementedError

    def around(self, work):
        """Lock, do it, unlock; NotNow before anything was done, unless the lock was lost while it was done."""
        self.lock()
        began = time.monotonic()
        try:
            with self.within(SNAPSHOT_SECONDS) as dog:
                work()
        finally:
            with contextlib.suppress(SqlError):
                self._session.rows(self.unlock)
            self.seconds = time.monotonic() - began
            self.close()
        self.held = not dog.bit

    def wait_for_quiet(self):
        """Whoever writes to a table without transactions would wait behind us, and we behind a long statement."""
        while int(self._session.value(LONG)):
            if time.monotonic() > self._until:
                raise NotNow(f"a statement runs for longer than {LONG_STATEMENT_SECONDS} s")
            time.sleep(0.2)

    def close(self):
        """Ending the session frees whatever it holds."""
        self._session.close()


class Free(Locker):
    """Nothing is held: what a crash would leave. The position is one that the snapshot has reached."""

    def lock(self):
        self.position = mariadb_position(self._session) if IS_MARIADB else mysql_position(self._session)


class Stage(Locker):
    """MariaDB: commits wait, all else goes on. Tables without transactions are flushed and hold still."""

    how, exact, unlock = "BACKUP STAGE BLOCK_COMMIT", True, "BACKUP STAGE END"

    def lock(self):
        self.ask("SET SESSION lock_wait_timeout = 1", 1)
        if self._foreign:
            self.wait_for_quiet()
        self.ask("BACKUP STAGE START", 2)
        self.ask("BACKUP STAGE FLUSH", 2)
        self.ask("BACKUP STAGE BLOCK_DDL", LOCK_SECONDS if self._foreign else 2)
        self.ask("BACKUP STAGE BLOCK_COMMIT")
        self.position = mariadb_position(self._session)


class Instance(Locker):
    """MySQL: only DDL waits. The position is one that the snapshot has reached; it may have more."""

    how, unlock = "LOCK INSTANCE FOR BACKUP", "UNLOCK INSTANCE"

    def lock(self):
        self.ask("SET SESSION lock_wait_timeout = 1", 1)
        self.ask("LOCK INSTANCE FOR BACKUP", 2)
        self.position = self.ask(LOG_STATUS)[0][0]


class Global(Locker):
    """MySQL with tables that have no transactions: every write waits. Never behind a long statement."""

    how, exact, unlock = "FLUSH TABLES WITH READ LOCK", True, "UNLOCK TABLES"

    def lock(self):
        self.ask("SET SESSION lock_wait_timeout = 1", 1)
        self.wait_for_quiet()
        self.ask("FLUSH TABLES WITH READ LOCK")
        self.position = mysql_position(self._session)


def mariadb_position(session):
    """On a replica what it applied, on a primary what it wrote, as its own backups say it."""
    written, applied = session.rows("SELECT @@gtid_binlog_pos, @@gtid_slave_pos")[0]
    return (applied if session.rows("SHOW ALL SLAVES STATUS") else written) or applied


def mysql_position(session):
    return session.value("SELECT REPLACE(@@global.gtid_executed, '\\n', '')")


def now():
    return datetime.datetime.now(tz=UTC)


def warnings_of(foreign):
    return [f"{table} is {engine}: not covered by transactions" for table, engine in foreign]


def commits_wait(session):
    """Whether commits wait for a replica: a lock on commits would wait behind them."""
    found = session.rows(MARIADB_WAITING if IS_MARIADB else MYSQL_WAITING)
    return bool(found) and int(found[0][1]) > 0


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


def take_under_a_lock(lockers, work, say, *, waits=lambda: False, pauses=PAUSES):
    """The locker that did it: `lockers` makes one to try with, TRIES times at most, then (True) one without a lock."""
    for attempt in range(TRIES):
        if waits():
            say("commits wait for a replica to acknowledge: no lock is asked for")
            break
        locker = lockers(False)
        try:
            locker.around(work)
            return locker
        except NotNow as why:
            locker.close()
            say(f"attempt {attempt + 1} of {TRIES}: {why}; it was given up at once")
            if attempt + 1 < TRIES:
                time.sleep(random.uniform(*pauses))
    locker = lockers(True)
    locker.around(work)
    return locker


def lockers_of(session, foreign, until):
    def make(free):
        kind = Free if free else Stage if IS_MARIADB else Global if foreign else Instance
        return kind(session, bool(foreign), until)

    return make


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
            found.append(json.load(file))
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


def take(volume, keep, least_free, wait, say):
    make_room(volume, least_free, say)
    session = Session()
    data = refuse_scattered(session, volume)
    foreign = session.rows(FOREIGN)
    id = now().strftime("%Y%m%dT%H%M%S.%fZ")
    record = about(session, data, volume)
    volume.quiesce()  # what the volume has not written yet is written before anybody waits for it
    lockers = lockers_of(session, foreign, time.monotonic() + wait)
    waiting = commits_wait(session)
    locker = take_under_a_lock(lockers, lambda: volume.take(id), say, waits=lambda: commits_wait(session))
    warnings = warnings_of(foreign)
    if not locker.held or locker.how == "none":
        warnings += ["taken without a lock: it is what a crash would have left"]
        warnings += ["tables without transactions may be torn in it"] if foreign else []
    record.update(
        id=id, waiting=waiting, gtid=locker.position, exact=locker.exact and locker.held, lock=locker.how,
        locked_seconds=round(locker.seconds, 4), warnings=warnings,
    )  # fmt: skip
    with open(record_path(volume, id) + ".new", "w") as file:
        json.dump(record, file)
    os.replace(record_path(volume, id) + ".new", record_path(volume, id))
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
    except (VolumeError, SqlError, OSError) as error:
        sys.exit(f"take_snapshot: {error}")


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
