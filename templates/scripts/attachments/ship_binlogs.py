#!/usr/bin/env python3
# Written by relaunch: script configure_backups.sh. Change the script's attachment, not this file.
"""Ships the primary's binary log to the object store, a few seconds behind, in pieces that put together are the files.

    ship-binlogs mariadb|mysql

    GROUP/LINEAGE/binlogs/EPOCH-STARTED-SERVER/state.json                    how far this stream has come
    GROUP/LINEAGE/binlogs/EPOCH-STARTED-SERVER/binlog.000001-CREATED/begins  the GTID position the file begins with
    …/binlog.000001-CREATED/FROM-TO.binlog.zst.age                          its bytes FROM to TO, compressed, encrypted
    …/binlog.000001-CREATED/FROM-TO.part.binlog.zst.age                     the same, ending within a transaction
    …/binlog.000001-CREATED/end-TO                                          the file is complete at TO bytes

LINEAGE names the history of the data: it is a row in the data itself (relaunch.lineage), so it is replicated and
backed up with it, and two histories never come into one folder. Pieces end where the server says that its log ends,
between two transactions, except within a very large one. The log files that the server keeps anyway are the queue while
the store is down: nothing is copied, and nothing is lost until it purges them. Needs no controller: a server ships
while it takes writes. It begins a stream when its agent says that it is the group's primary: a replica may be made to
take writes for a moment, and a restore takes the newest stream for the primary's.
"""

import datetime
import glob
import importlib
import json
import os
import re
import socket
import subprocess
import sys
import time

from binlog_events import is_encrypted
from binlog_server import created
from binlog_store import Store, StoreDown, sealed

LOOK_SECONDS = 0.5
SHIP_SECONDS = 2.0  # pieces at most this often
ROLE_SECONDS = 5.0  # how often an idle server is asked whether it takes writes
NEWEST_SECONDS = 60.0  # how often the store is asked whether our stream is the newest
GAP_SECONDS = 30.0  # how often the store is asked for a backup that makes up for what is missing
PIECE_BYTES = 16 << 20
PIECES_A_FILE = 300  # then the server begins a new file: a restore fetches no more than these in vain
QUEUE_BYTES = 4 << 30  # more than this unshipped is said to be too much, unless BACKUP_QUEUE_BYTES says otherwise
LONGEST_PAUSE_SECONDS = 10.0
STORE_SECONDS = 60  # what lists or reads there may take; rclone itself tries for much longer
NOT_THERE = (3, 4)  # rclone's exit statuses: no such folder, no such object
STATE = "/var/lib/relaunch-backup/shipping.json"
OURS = re.compile(r"[0-9]+-[0-9]+-.+/")  # what else lies among the streams is left alone


def moment(form="%Y-%m-%dT%H:%M:%S.%fZ"):
    return datetime.datetime.now(datetime.UTC).strftime(form)


class DatabaseDown(Exception):
    """It did not answer."""


class Encrypted(Exception):
    """The log can be read by this server only."""


def number(name):
    """Of a log file, or of its folder in the store."""
    return int(name.rpartition(".")[2].partition("-")[0])


class Shipper:
    """`server`: of which dialect, a Server of mariadb_binlogs or mysql_binlogs."""

    def __init__(self, environment, server):
        self.environment = environment
        self.recipient = environment["BACKUP_RECIPIENT"]
        self.store = Store(environment)
        self.server = server
        self.base = ""  # path of the log files without their number
        self.at = self.read_state()
        self.told = {}
        self.queue_bytes = int(environment.get("BACKUP_QUEUE_BYTES") or QUEUE_BYTES)
        self.asked = self.shipped = 0.0
        self.looked_for_backup = self.looked_for_stream = float("-inf")
        self.seen = None
        self.pause = 0.0

    def read_state(self):
        try:
            with open(STATE) as file:
                return json.load(file)
        except (OSError, ValueError):
            return {}

    def write_state(self, **values):
        self.at.update(values)
        with open(STATE + ".new", "w") as file:
            json.dump(self.at, file)
        os.replace(STATE + ".new", STATE)

    def run_forever(self):
        while True:
            try:
                self.look()
                self.pause = 0.0
            except StoreDown as error:
                self.pause = min(max(1.0, self.pause * 2), LONGEST_PAUSE_SECONDS)
                self.tell(error.state, str(error))
            except DatabaseDown as error:
                self.pause = 1.0
                self.tell("no database", str(error))
            except Encrypted as error:
                self.pause = 1.0
                self.tell("encrypted", str(error))
            time.sleep(self.pause or LOOK_SECONDS)

    def look(self):
        """Once: ship when there is something, and it is time."""
        now = time.monotonic()
        size = self.newest_size()
        idle = self.seen is not None and size == self.seen
        if (idle and now - self.asked < ROLE_SECONDS) or now - self.shipped < SHIP_SECONDS:
            return
        self.asked = now
        standing = self.server.standing()
        if standing is None:
            self.tell("no database", f"{self.server.name} does not answer")
            return
        writable, self.base, host, gtid, newest, end = standing
        lineage = self.server.lineage_of(writable=writable)
        if lineage is None:
            self.tell("no database", f"{self.server.name} does not say which history its data is of")
            return
        if lineage != self.at.get("lineage"):
            self.write_state(lineage=lineage, stream=None, folder=None, gtid=None, gap=None)
        if not writable:
            self.write_state(stream=None)
            self.seen = size
            self.tell("not the primary", "")
            return
        if not self.at.get("stream") and not self.leads():
            self.seen, self.shipped = None, time.monotonic()  # asked again soon, as it may just be promoted
            self.tell("not the primary", "")
            return
        self.ship_all(newest, end, host, gtid)
        self.seen = size
        self.shipped = time.monotonic()
        gap = self.gap()
        self.tell(self.at["gap"].get("state", "gap") if gap else "ok", gap)

    def newest_size(self):
        """Name and size of the newest log file: when they have not changed, nothing has happened."""
        files = self.files() if self.base else []
        return (files[-1], os.stat(files[-1]).st_size) if files else None

    def files(self):
        return sorted(path for path in glob.glob(self.base + ".[0-9]*") if path.rpartition(".")[2].isdigit())

    def ship_all(self, newest, end, host, gtid):
        if not os.path.exists(newest):
            self.go_on_without(newest)
            return
        if is_encrypted(newest):
            raise Encrypted(f"{os.path.basename(newest)} can be replayed by no other server: {self.server.plain_again}")
        files = [path for path in self.files() if path <= newest]
        here = [path for path in files if self.folder_of(path) == self.at.get("folder")]
        if not here and self.at.get("folder"):
            plain = [path for path in files if not is_encrypted(path)]
            later = [path for path in plain if number(path) > number(self.at["folder"])]
            if self.is_another_log(plain, later):
                self.begin_history()
            else:
                files = later or files
        if not self.at.get("stream") or not here:
            here = [self.begin_stream(files, host)]
        for path in files[files.index(here[0]) :]:
            if is_encrypted(path):
                continue
            if self.folder_of(path) != self.at["folder"] or not self.at.get("begun"):
                self.begin_file(path)
            closed = path != newest
            self.ship_file(path, os.stat(path).st_size if closed else end)
            if closed:
                self.store.put(f"{self.place()}/end-{self.at['position']:012d}", b"")
        known = {name: self.at[name] for name in ("stream", "folder", "position", "epoch")}
        done = {**known, "server": host, "gtid": gtid, "at": moment()}
        if gtid != self.at.get("gtid") or time.time() - self.at.get("said", 0) > 60:
            self.store.put(f"{self.above()}/{self.at['stream']}/state.json", json.dumps(done).encode())
            self.write_state(gtid=gtid, said=time.time())
        if self.at["pieces"] >= PIECES_A_FILE:
            self.server.begin_new_file()
        later = self.later_stream()  # last: what is to be shipped never waits for a store that does not answer this
        if later:
            self.begin_stream(files, host, later)

    def is_another_log(self, plain, later):
        """Whether the log whose file we shipped is gone, as by RESET MASTER, and not only older files of it: none has a
        later number, or those that have (`later`) begin before what that log has had. One that was reset while another
        server led goes on with that one's numbers: then all of it (`plain`) may begin after that."""
        had = self.at.get("gtid") or ""
        files = later or (plain if had and not self.at.get("stream") else [])
        return not files or not self.server.holds_all_after(had, self.begins(files[0]))

    def begin_history(self):
        """Numbers are given again: in one history with what is in the store a restore would take one for the other."""
        before = self.at["lineage"]
        lineage = self.server.begin_lineage(before)
        if lineage is None:
            raise DatabaseDown(f"the binary log was reset, and {self.server.name} takes no new history yet")
        self.write_state(lineage=lineage, stream=None, folder=None, gtid=None)
        self.miss(f"the binary log was reset, which ends the history {before}: {lineage} has no backup yet", "reset")

    def go_on_without(self, newest):
        """The server goes on writing to a file that was removed: with the next one, unless it has just made that."""
        standing = self.server.standing()
        if standing and standing[4] == newest and not os.path.exists(newest):
            name = os.path.basename(newest)
            self.miss(f"{name} was removed before all of it was in the store")
            self.write_state(folder=f"{name}-removed")
            self.server.begin_new_file()

    def miss(self, what, state="gap"):
        """Something is missing in the store; told as `state`."""
        self.write_state(gap={"what": what, "since": moment("%Y%m%dT%H%M%SZ"), "state": state})

    def folder_of(self, path):
        return f"{os.path.basename(path)}-{created(path):08x}"

    def place(self):
        return f"{self.above()}/{self.at['stream']}/{self.at['folder']}"

    def above(self):
        return f"{self.at['lineage']}/binlogs"

    def begin_stream(self, files, host, later=""):
        """Begin with the file that holds what follows the last thing shipped, by whomever; else with the oldest.

        After a `later` stream than ours, which never was the group's: with all from where that one began."""
        reached = self.gtid_in(f"{later}/began.json") if later else None
        reached = self.reached_in_store() if reached is None else reached
        plain = [path for path in files if not is_encrypted(path)]
        first = plain[0]
        if reached is not None or first != files[0]:  # else this history begins here
            reached = reached or ""
            fitting = (path for path in reversed(plain) if self.server.holds_all_after(self.begins(path), reached))
            first = next(fitting, None)
        if first is None:
            first = plain[0]
            beginning = reached or "the beginning"
            self.miss(f"binary logs between {beginning} and {self.begins(first)} are not in the store")
        epoch = self.epoch()
        started = max(int(time.time()), int(later.split("-")[1]) + 1 if later else 0)
        stream = f"{epoch:010d}-{started}-{host}"
        self.write_state(stream=stream, epoch=epoch, folder=None, said=0)
        began = {"format": 2, "epoch": epoch, "server": host, "gtid": self.begins(first)}
        self.store.put(f"{self.above()}/{stream}/began.json", json.dumps(began).encode())
        self.begin_file(first)
        return first

    def begin_file(self, path):
        """Again until the store has said that it knows where the file begins: no restore finds one without that."""
        begins = self.begins(path)
        if self.folder_of(path) != self.at.get("folder"):
            before = self.at.get("folder")
            if before and number(path) != number(before) + 1:
                self.miss(f"binary logs between the numbers {number(before)} and {number(path)} are not in the store")
            self.write_state(folder=self.folder_of(path), begun=False, position=0, pieces=0, sending=[None])
        self.store.put(f"{self.place()}/begins", begins.encode())
        self.write_state(begun=True)

    def begins(self, path):
        found = self.server.begins(path)
        if found is None:
            raise DatabaseDown(f"{self.server.name} does not say where {os.path.basename(path)} begins")
        return found

    def ship_file(self, path, end):
        with open(path, "rb") as file:
            while self.at["position"] < end:
                start = self.at["position"]
                stop = min(end, start + PIECE_BYTES)
                part = "" if stop == end else ".part"
                if self.at.get("sending", [None])[0] == start:
                    # Its answer may only have been lost: the same piece again replaces it, another would overlap it.
                    stop, part = self.at["sending"][1:]
                else:
                    self.write_state(sending=[start, stop, part])
                file.seek(start)
                data = file.read(stop - start)
                self.store.put(
                    f"{self.place()}/{start:012d}-{stop:012d}{part}.binlog.zst.age", sealed(data, self.recipient)
                )
                self.write_state(position=stop, pieces=self.at["pieces"] + 1, sending=[None])

    def leads(self):
        """Whether the agent says that this server is its group's primary, and has become it."""
        try:
            asked = subprocess.run(["relaunch-local", "role"], capture_output=True, text=True, timeout=20)
            return asked.stdout.strip() == "primary"
        except (OSError, subprocess.TimeoutExpired):
            return False

    def later_stream(self):
        """The newest in the store, when it is after ours though we lead: a restore would go over to that one."""
        if time.monotonic() - self.looked_for_stream < NEWEST_SECONDS:
            return ""
        self.looked_for_stream = time.monotonic()
        try:
            newest = max(self.streams(), default="")
        except StoreDown:
            return ""
        return newest if newest > self.at["stream"] and self.leads() else ""

    def streams(self):
        """Those of this history in the store, the oldest first."""
        listed = self.rclone("lsf", "--dirs-only", f"{self.environment['BACKUP_ROOT']}/{self.above()}/")
        return sorted(name.rstrip("/") for name in listed.splitlines() if OURS.fullmatch(name))

    def gtid_in(self, name):
        """The position that this object of the streams says; None when there is none."""
        said = self.rclone("cat", f"{self.environment['BACKUP_ROOT']}/{self.above()}/{name}")
        try:
            return str(json.loads(said)["gtid"])
        except (ValueError, KeyError):
            return None

    def reached_in_store(self):
        """The position up to which a restore finds all in the streams of this history; None when there is no stream.

        That is where the newest has come to. One that does not say so yet may end anywhere, and a restore takes nothing
        of an older one after where it began: then it is that place."""
        streams, began = self.streams(), None
        for stream in reversed(streams):
            reached = self.gtid_in(f"{stream}/state.json")
            if reached is not None:
                return reached if began is None else began
            said = self.gtid_in(f"{stream}/began.json")
            began = began if said is None else said
        return "" if streams and began is None else began

    def gap(self):
        """What is missing in the store, until there is a backup of later: whatever is restored from that is whole."""
        gap = self.at.get("gap")
        if not gap:
            return ""
        if time.monotonic() - self.looked_for_backup > GAP_SECONDS:
            self.looked_for_backup = time.monotonic()
            if self.newest_backup() > gap["since"]:
                self.write_state(gap=None)
                return ""
        return gap["what"]

    def newest_backup(self):
        """When the newest complete one of this history began, as its name says; "" when there is none."""
        backups = f"{self.environment['BACKUP_ROOT']}/{self.at['lineage']}/backups"
        listed = self.rclone("lsf", "-R", "--files-only", "--include", "/*/manifest.json", backups)
        return max((name.partition("-")[0] for name in listed.splitlines()), default="")

    def rclone(self, *words):
        """What it prints; nothing when there is no such folder or object. StoreDown when the store cannot say."""
        try:
            done = subprocess.run(["rclone", *words], capture_output=True, text=True, timeout=STORE_SECONDS)
        except subprocess.TimeoutExpired:
            raise StoreDown(f"no answer within {STORE_SECONDS} s to rclone {' '.join(words)}") from None
        if done.returncode not in (0, *NOT_THERE):
            raise StoreDown(done.stderr.strip()[-300:])
        return done.stdout

    def epoch(self):
        try:
            asked = subprocess.run(
                ["relaunch-local", "get", "database.epoch"], capture_output=True, text=True, timeout=20
            )
            return int(asked.stdout)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return int(self.at.get("epoch") or 0)

    def unshipped(self):
        """Bytes of log that are not in the store."""
        files = self.files() if self.base else []
        here = [path for path in files if self.folder_of(path) == self.at.get("folder")]
        if not here:
            return 0
        rest = files[files.index(here[0]) :]
        return sum(os.stat(path).st_size for path in rest) - (self.at.get("position") or 0)

    def tell(self, state, why):
        """In the journal, in our state file, and as a tag the controller sees, each time it changes."""
        waiting = self.unshipped() if state.startswith("store") else 0
        if waiting > self.queue_bytes:
            state = "queue too long"
        self.write_state(state=state, why=why, unshipped_bytes=waiting)
        lineage = self.at.get("lineage") or ""
        told = {"state": state, "lineage": lineage}
        if told == self.told:
            return
        self.told = told
        self.write_state(since=moment())
        print(f"{state}{': ' + why if why else ''}", flush=True)
        try:
            if state == "not the primary":
                subprocess.run(["relaunch-local", "tag", "-d", "binlogs"], capture_output=True, timeout=20)
                words = []
            else:
                words = ["binlogs=" + state.replace(" ", "-")]
            words += ["lineage=" + lineage] if lineage else []
            if words:
                subprocess.run(["relaunch-local", "tag", *words], capture_output=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            pass


if __name__ == "__main__":
    socket.setdefaulttimeout(30)
    dialect = importlib.import_module(f"{sys.argv[1]}_binlogs")
    Shipper(dict(os.environ), dialect.Server()).run_forever()
    sys.exit(1)
