#!/usr/bin/env python3
# Written by relaunch: script configure_volume.sh. Change the script's attachment, not this file.
"""What is locked while a snapshot is taken, for how long at most, and what is done when the lock cannot be had.

No statement that runs ahead of us makes commits behind us wait: a lock that is not had within LOCK_SECONDS is given up
by ending our session, and after TRIES a snapshot is taken without any. As data and binary log lie on one volume, that
is what a crash leaves behind, from which the server recovers; only tables without transactions may then be torn.
"""

import contextlib
import random
import threading
import time

from sql_session import IS_MARIADB, Session, SqlError

LOCK_SECONDS = 0.04  # so long may commits wait for the lock that we want
SNAPSHOT_SECONDS = 2.0  # so long may they wait while we have it
LONG_STATEMENT_SECONDS = 1
TRIES = 3
PAUSES = (1.0, 5.0)
LONG = (
    f"SELECT COUNT(*) FROM {'information' if IS_MARIADB else 'performance'}_schema.processlist"
    " WHERE command IN ('Query', 'Execute')"
    " AND id <> CONNECTION_ID() AND user NOT IN ('system user', 'event_scheduler')"
    f" AND time >= {LONG_STATEMENT_SECONDS}"
)
LOG_STATUS = (
    "SELECT REPLACE(JSON_UNQUOTE(JSON_EXTRACT(local, '$.gtid_executed')), '\\n', '') FROM performance_schema.log_status"
)
SIDE = "master" if IS_MARIADB else "source"
WAITING, ACKNOWLEDGED = f"Rpl_semi_sync_{SIDE}_wait_sessions", f"Rpl_semi_sync_{SIDE}_yes_tx"
ACKNOWLEDGED_WITHIN = 0.3  # an acknowledgement takes milliseconds


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
        began, unlocked = time.monotonic(), False
        try:
            with self.within(SNAPSHOT_SECONDS) as dog:
                work()
        finally:
            with contextlib.suppress(SqlError):
                self._session.rows(self.unlock)
                unlocked = True  # nobody has ended the session: not the dog, nor a new primary whose applier waits
            self.seconds = time.monotonic() - began
            self.close()
        self.held = unlocked and not dog.bit

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


def commits_wait(session, seconds=ACKNOWLEDGED_WITHIN):
    """Whether commits wait for a replica that acknowledges none: a lock on commits would wait behind them."""
    until, first = time.monotonic() + seconds, None
    while True:
        found = dict(session.rows(f"SHOW GLOBAL STATUS WHERE variable_name IN ('{WAITING}', '{ACKNOWLEDGED}')"))
        first = first or found.get(ACKNOWLEDGED)
        if int(found.get(WAITING, 0)) == 0 or found[ACKNOWLEDGED] != first:
            return False
        if time.monotonic() > until:
            return True
        time.sleep(0.02)


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
