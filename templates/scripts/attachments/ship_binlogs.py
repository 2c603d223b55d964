#!/usr/bin/env python3
# Written by relaunch: script configure_backups.sh. Change the script's attachment, not this file.
"""Ships the primary's binary log to the object store, a few seconds behind, in pieces that put together are the files.

    GROUP/LINEAGE/binlogs/EPOCH-STARTED-SERVER/state.json                    how far this stream has come
    GROUP/LINEAGE/binlogs/EPOCH-STARTED-SERVER/binlog.000001-CREATED/begins  the GTID position the file begins with
    …/binlog.000001-CREATED/FROM-TO.binlog.zst.age                          its bytes FROM to TO, compressed, encrypted
    …/binlog.000001-CREATED/FROM-TO.part.binlog.zst.age                     the same, ending within a transaction
    …/binlog.000001-CREATED/end-TO                                          the file is complete at TO bytes

LINEAGE names the history of the data: it is a row in the data itself (relaunch.lineage), so it is replicated and
backed up with it, and two histories never come into one folder. Pieces end where MariaDB says that its log ends,
between two transactions, except within a very large one. The log files that MariaDB keeps anyway are the queue while
the store is down: nothing is copied, and nothing is lost until MariaDB purges them (expire_logs_days). Needs no
controller: only a server that takes writes ships.
"""

import datetime
import glob
import hashlib
import hmac
import http.client
import json
import os
import secrets
import select
import socket
import ssl
import struct
import subprocess
import sys
import time
import urllib.parse

LOOK_SECONDS = 0.5
SHIP_SECONDS = 2.0  # pieces at most this often
ROLE_SECONDS = 5.0  # how often an idle server is asked whether it takes writes
ANSWER_SECONDS = 10.0  # of MariaDB
PIECE_BYTES = 16 << 20
PIECES_A_FILE = 300  # then MariaDB begins a new file: a restore fetches no more than these in vain
QUEUE_BYTES = 4 << 30  # more than this unshipped is said to be too much, unless BACKUP_QUEUE_BYTES says otherwise
LONGEST_PAUSE_SECONDS = 10.0
LINEAGE_KNOWN = (
    "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'relaunch' AND table_name = 'lineage'"
)
LINEAGE_MADE = (
    "CREATE DATABASE IF NOT EXISTS relaunch CHARACTER SET utf8mb4; "
    "CREATE TABLE IF NOT EXISTS relaunch.lineage (one TINYINT PRIMARY KEY, id VARCHAR(40) NOT NULL) ENGINE = InnoDB; "
    "INSERT IGNORE INTO relaunch.lineage VALUES (1, '{id}'); SELECT id FROM relaunch.lineage"
)
STATE = "/var/lib/relaunch-backup/shipping.json"
GTID_LIST, MAGIC = 163, b"\xfebin"


class StoreDown(Exception):
    """`state`: what is told of it."""

    def __init__(self, why, state="store down"):
        super().__init__(why)
        self.state = state


def sign(method, host, path, body, access, secret, region, now):
    """The headers of a request to S3 (AWS Signature Version 4)."""
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    digest = hashlib.sha256(body).hexdigest()
    signed = "host;x-amz-content-sha256;x-amz-date"
    canonical = "\n".join(
        (method, path, "", f"host:{host}", f"x-amz-content-sha256:{digest}", f"x-amz-date:{stamp}", "", signed, digest)
    )
    scope = f"{day}/{region}/s3/aws4_request"
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = ("AWS4" + secret).encode()
    for word in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return {
        "Host": host,
        "x-amz-date": stamp,
        "x-amz-content-sha256": digest,
        "Authorization": f"AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={signed}, Signature={signature}",
    }


class Store:
    """One connection to the bucket, kept open."""

    def __init__(self, environment):
        self.url = urllib.parse.urlsplit(environment["RCLONE_CONFIG_STORE_ENDPOINT"])
        self.root = environment["BACKUP_ROOT"].split(":", 1)[1]
        self.keys = (
            environment["RCLONE_CONFIG_STORE_ACCESS_KEY_ID"],
            environment["RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY"],
            environment["RCLONE_CONFIG_STORE_REGION"],
        )
        self.context = None
        if self.url.scheme == "https":
            self.context = ssl.create_default_context(cafile=environment.get("RCLONE_CA_CERT"))
        self.connection = None

    def put(self, key, body):
        path = urllib.parse.quote(f"/{self.root}/{key}", safe="/-_.~")
        for again in (False, True):
            kept = self.connection is not None
            try:
                self._put(path, body)
                return
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if again or not kept:  # a connection it closed while we were idle is no fault
                    raise StoreDown(f"{self.url.geturl()}: {error or type(error).__name__}") from None

    def _put(self, path, body):
        if self.connection is None:
            kind = http.client.HTTPSConnection if self.context else http.client.HTTPConnection
            more = {"context": self.context} if self.context else {}
            self.connection = kind(self.url.netloc, timeout=30, **more)
        now = datetime.datetime.now(datetime.UTC)
        self.connection.request("PUT", path, body, sign("PUT", self.url.netloc, path, body, *self.keys, now))
        answer = self.connection.getresponse()
        told = answer.read(2000)
        if answer.status >= 300:
            self.close()
            why = f"{self.url.geturl()} answers {answer.status}: {told.decode(errors='replace')[:300]}"
            full = answer.status == 507 or any(
                word in why for word in ("QuotaExceeded", "StorageFull", "no space left")
            )
            state = "store full" if full else "store refuses" if answer.status in (401, 403) else "store down"
            raise StoreDown(why, state)

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Database:
    """A `mariadb` client kept running: asking costs no process."""

    def __init__(self):
        self.client = None
        self.session = ""  # its number in the server
        self.stuck = ""  # of one that was given up, and may wait there still

    def ask(self, statements):
        """Rows as lists of texts; None when the server does not answer in time."""
        if self.client is None or self.client.poll() is not None:
            self.client = subprocess.Popen(
                ["mariadb", "-N", "-B", "--unbuffered", "--skip-reconnect"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            self.session = ""
            rows = self.answer("SELECT CONNECTION_ID()")
            if rows is None:
                return None
            self.session = rows[0][0]
        return self.answer(statements)

    def ask_where_it_writes(self, statements):
        """As `ask`, for what waits while commits wait for an acknowledgement: one session at a time, as one that waits
        there cannot be ended, and each that is given up would take one of the server's connections."""
        if self.stuck:
            # Its number may be another's in a server that was started again: that one is not at what hangs.
            rows = self.ask(
                f"SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE ID = {self.stuck}"
                " AND (INFO LIKE 'SHOW MASTER STATUS%' OR INFO LIKE 'FLUSH LOCAL BINARY LOGS%')"
            )
            if not rows or rows[0][0] != "0":
                return None
            self.stuck = ""
        return self.ask(statements)

    def answer(self, statements):
        try:
            self.client.stdin.write(f"{statements}; SELECT '#end';\n".encode())
            self.client.stdin.flush()
            text, deadline = b"", time.monotonic() + ANSWER_SECONDS
            while not text.endswith(b"#end\n"):
                ready, _, _ = select.select([self.client.stdout], [], [], max(0, deadline - time.monotonic()))
                self.stuck = self.stuck if ready else self.session
                more = os.read(self.client.stdout.fileno(), 65536) if ready else b""
                if not more:
                    raise OSError
                text += more
        except OSError:
            self.client.kill()
            self.client.wait()
            self.client = None
            return None
        return [line.split("\t") for line in text.decode().splitlines()[:-1]]


def file_begins(path):
    """(when it was created, the GTID position it begins with: {domain: (server, number)}), from its first events."""
    with open(path, "rb") as file:
        head = file.read(65536)
    at, created, position = 4, 0, {}
    while head[:4] == MAGIC and at + 19 <= len(head):
        stamp, kind, _, length = struct.unpack_from("<IBII", head, at)
        created = created or stamp
        if kind == GTID_LIST:
            (count,) = struct.unpack_from("<I", head, at + 19)
            for each in range(count & 0x0FFFFFFF):
                domain, server, number = struct.unpack_from("<IIQ", head, at + 23 + 16 * each)
                position[domain] = (server, number)  # the last of a domain is its newest
            break
        at += max(length, 19)
    return created, position


def moment():
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def gtid_text(position):
    return ",".join(f"{domain}-{server}-{number}" for domain, (server, number) in sorted(position.items()))


def gtid_numbers(text):
    """{domain: number} of a position's text."""
    parts = [each.strip().split("-") for each in text.split(",") if each.strip()]
    return {int(domain): int(number) for domain, _, number in parts}


def starts_before(position, reached):
    """Whether a file that begins with this position holds everything after `reached`."""
    return all(number <= reached.get(domain, 0) for domain, (_, number) in position.items())


def sealed(data, recipient):
    """Compressed and encrypted."""
    packed = subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return subprocess.run(["age", "-r", recipient], input=packed, stdout=subprocess.PIPE, check=True).stdout


class Shipper:
    def __init__(self, environment):
        self.environment = environment
        self.recipient = environment["BACKUP_RECIPIENT"]
        self.store = Store(environment)
        self.database = Database()
        self.base = ""  # path of the log files without their number
        self.at = self.read_state()
        self.told = {}
        self.queue_bytes = int(environment.get("BACKUP_QUEUE_BYTES") or QUEUE_BYTES)
        self.lineage = (None, "")  # as the client of the database that is kept open has read it: (client, id)
        self.asked = self.shipped = 0.0
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
            time.sleep(self.pause or LOOK_SECONDS)

    def look(self):
        """Once: ship when there is something, and it is time."""
        now = time.monotonic()
        size = self.newest_size()
        idle = self.seen is not None and size == self.seen
        if (idle and now - self.asked < ROLE_SECONDS) or now - self.shipped < SHIP_SECONDS:
            return
        self.asked = now
        # The position is read after the GTID: everything up to this GTID is before that position.
        rows = self.database.ask_where_it_writes(
            "SELECT @@read_only, @@log_bin_basename, @@hostname, @@gtid_binlog_pos; SHOW MASTER STATUS"
        )
        if not rows or len(rows) < 2:
            self.tell("no database", "MariaDB does not answer")
            return
        read_only, self.base, host, gtid = rows[0]
        lineage = self.lineage_of(writable=read_only == "0")
        if lineage is None:
            self.tell("no database", "MariaDB does not say which history its data is of")
            return
        if lineage != self.at.get("lineage"):
            self.write_state(lineage=lineage, stream=None)
        if read_only != "0":
            self.write_state(stream=None)
            self.seen = size
            self.tell("not the primary", "")
            return
        newest, end = os.path.join(os.path.dirname(self.base), rows[1][0]), int(rows[1][1])
        self.ship_all(newest, end, host, gtid)
        self.seen = size
        self.shipped = time.monotonic()
        self.tell("ok", "")

    def lineage_of(self, *, writable):
        """The id of the data's history; "" while nobody has given it one; None when MariaDB does not answer.

        Data is replaced only while MariaDB is stopped, which ends the client: until then the id stays what it is.
        """
        client, known = self.lineage
        if known and client is self.database.client:
            return known
        there = self.database.ask(LINEAGE_KNOWN)
        if not there:
            return None
        found = []
        if there[0][0] == "1":
            found = self.database.ask("SELECT id FROM relaunch.lineage")
        if found == [] and writable:
            stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
            found = self.database.ask(LINEAGE_MADE.format(id=f"{stamp}-{secrets.token_hex(3)}"))
        if found is None:
            return None
        self.lineage = (self.database.client, found[0][0] if found else "")
        return self.lineage[1]

    def newest_size(self):
        """Name and size of the newest log file: when they have not changed, nothing has happened."""
        files = self.files() if self.base else []
        return (files[-1], os.stat(files[-1]).st_size) if files else None

    def files(self):
        return sorted(path for path in glob.glob(self.base + ".[0-9]*") if path.rpartition(".")[2].isdigit())

    def ship_all(self, newest, end, host, gtid):
        files = [path for path in self.files() if path <= newest]
        here = [path for path in files if self.folder_of(path) == self.at.get("folder")]
        if not self.at.get("stream") or not here:
            here = [self.begin_stream(files, host)]
        for path in files[files.index(here[0]) :]:
            if self.folder_of(path) != self.at["folder"]:
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
            self.database.ask_where_it_writes("FLUSH LOCAL BINARY LOGS")

    def folder_of(self, path):
        return f"{os.path.basename(path)}-{file_begins(path)[0]:08x}"

    def place(self):
        return f"{self.above()}/{self.at['stream']}/{self.at['folder']}"

    def above(self):
        return f"{self.at['lineage']}/binlogs"

    def begin_stream(self, files, host):
        """Begin with the file that holds what follows the last thing shipped, by whomever; else with the oldest."""
        reached = self.reached_in_store()
        known = [(path, file_begins(path)[1]) for path in files]
        first = files[0]
        if reached is not None:  # else this history begins here
            first = next((path for path, position in reversed(known) if starts_before(position, reached)), None)
        if first is None:
            first = files[0]
            self.tell(
                "gap",
                f"binary logs between {reached} and {gtid_text(known[0][1])} were purged before they were shipped",
            )
        epoch = self.epoch()
        stream = f"{epoch:010d}-{int(time.time())}-{host}"
        self.write_state(stream=stream, epoch=epoch, folder=None, gtid=None)
        self.store.put(
            f"{self.above()}/{stream}/began.json",
            json.dumps({"epoch": epoch, "server": host, "gtid": gtid_text(file_begins(first)[1])}).encode(),
        )
        self.begin_file(first)
        return first

    def begin_file(self, path):
        self.write_state(folder=self.folder_of(path), position=0, pieces=0, sending=[None])
        self.store.put(f"{self.place()}/begins", gtid_text(file_begins(path)[1]).encode())

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

    def reached_in_store(self):
        """{domain: number} of the newest stream of this history; None when it has none."""
        root = f"{self.environment['BACKUP_ROOT']}/{self.at['lineage']}"
        listed = subprocess.run(
            ["rclone", "lsf", "--dirs-only", f"{root}/binlogs/"], capture_output=True, text=True, timeout=60
        )
        if listed.returncode not in (0, 3):
            raise StoreDown(listed.stderr.strip()[-300:])
        for stream in sorted(listed.stdout.split(), reverse=True):
            state = subprocess.run(
                ["rclone", "cat", f"{root}/binlogs/{stream}state.json"], capture_output=True, text=True, timeout=60
            )
            try:
                return gtid_numbers(json.loads(state.stdout)["gtid"])
            except (ValueError, KeyError):
                continue
        return {} if listed.stdout.split() else None

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
    Shipper(dict(os.environ)).run_forever()
    sys.exit(1)
