#!/usr/bin/env python3
# Written by relaunch: script configure_seeding.sh. Change the script's attachment, not this file.
"""Gives this server's data to a new replica: one connection, which systemd hands over as standard input.

TLS both ways: the taker shows a certificate of the deployment's authority that holds for the very address it comes
from, and that address must be a member's of this server's database group. Then, in lines and frames:

    taker   offer | seed
    giver   one line of JSON: what is here (role, version, bytes…), or {"error": …} or {"busy": …}
    taker   go                                                             after `seed` only
    giver   frames: four bytes of length, then so many bytes of mbstream; a frame of no length, one line of JSON

mariadb-backup holds commits up at its end, in BACKUP STAGE BLOCK_COMMIT. Waiting for that lock and holding it may take
LOCK_SECONDS together, then the seed is given up instead: writers do not wait for a new replica.
SEED_BANDWIDTH in the environment: bytes a second at most.
"""

import contextlib
import fcntl
import glob
import json
import os
import re
import selectors
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

TLS = "/etc/relaunch/tls"
DATA = "/var/lib/mysql"
LOCK = "/run/relaunch-give-seed.lock"
LOCK_SECONDS = 3.0
SILENT_SECONDS = 60.0  # a taker that takes nothing for so long is gone
FRAME = 1 << 20
YOUNG_BYTES = 2 << 20  # of binary log, some 6,000 small transactions: applied one by one in the time of a copy
FILTERS = (  # what they leave out counts as applied, so that positions do not tell that it is missing
    *("Replicate_Do_DB", "Replicate_Ignore_DB", "Replicate_Do_Table", "Replicate_Ignore_Table"),
    *("Replicate_Wild_Do_Table", "Replicate_Wild_Ignore_Table", "Replicate_Do_Domain_Ids"),
    *("Replicate_Ignore_Domain_Ids", "Replicate_Ignore_Server_Ids", "Replicate_Rewrite_DB"),
)


def sql(statement):
    asked = subprocess.run(["mariadb", "-N", "-B", "-e", statement], capture_output=True, text=True, timeout=20)
    if asked.returncode:
        raise OSError("MariaDB does not answer: " + asked.stderr.strip())
    return asked.stdout.strip()


def status():
    """Rows of SHOW ALL SLAVES STATUS\\G as a dict; empty when nobody is followed."""
    asked = subprocess.run(["mariadb", "-e", "SHOW ALL SLAVES STATUS\\G"], capture_output=True, text=True, timeout=20)
    return {
        name.strip(): value
        for name, found, value in (line.partition(": ") for line in asked.stdout.splitlines())
        if found
    }


def data_bytes():
    total = 0
    for folder, _, files in os.walk(DATA):
        for name in files:
            if not re.match(r"(binlog|relay)[.-]|ibtmp|ib_logfile", name):
                try:
                    total += os.path.getsize(os.path.join(folder, name))
                except FileNotFoundError:
                    continue
    return total


def young():
    """Whether the binary log tells the whole history of the group, and is small: its first event has the number 1.

    Read from the files: while commits wait for a replica, MariaDB answers no question about its binary log.
    """
    size = sum(os.path.getsize(file) for file in glob.glob(DATA + "/binlog.0*"))
    if size > YOUNG_BYTES or not os.path.exists(DATA + "/binlog.000001"):
        return False
    command = f"timeout 10 mariadb-binlog {DATA}/binlog.000001 | grep -m 1 -oE '\\bGTID [0-9]+-[0-9]+-[0-9]+'"
    first = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=20)
    return first.stdout.strip().endswith("-1")


def offer():
    """What this server can give, and how it stands in its group."""
    follows = status()
    works = follows.get("Slave_IO_Running") == "Yes" and follows.get("Slave_SQL_Running") == "Yes"
    acknowledges = sql("SELECT @@rpl_semi_sync_slave_enabled") == "1"
    waits = sql("SELECT @@rpl_semi_sync_master_enabled") == "1"
    clients = int(sql("SHOW STATUS LIKE 'Rpl_semi_sync_master_clients'").split()[-1])
    return {
        "server": socket.gethostname(),
        "role": "replica" if follows else "primary",
        "version": sql("SELECT VERSION()"),
        "bytes": data_bytes(),
        "read_only": sql("SELECT @@read_only") == "1",
        "source": follows.get("Master_Host", ""),
        "lag_seconds": int(follows["Seconds_Behind_Master"])
        if works and follows["Seconds_Behind_Master"].isdigit()
        else None,
        "filtered": int(follows.get("SQL_Delay") or 0) > 0 or any(follows.get(name) for name in FILTERS),
        "acknowledges": acknowledges and works,
        "acknowledgers": clients,
        "young": not follows and young(),
        "commits_hang": waits and clients == 0,
    }


class Refused(Exception):
    pass


def checked(connection):
    """The taker's address, once its certificate and this server's view of the group say that it may have the data."""
    address = connection.getpeername()[0]
    names = [value for kind, value in connection.getpeercert().get("subjectAltName", ()) if kind == "IP Address"]
    if address not in names:
        raise Refused(f"the certificate of {address} is not for that address")
    for _ in range(20):  # a member that is as new as this one may be told to us a moment later
        view = subprocess.run(["relaunch-local", "get", "database"], capture_output=True, text=True, timeout=20)
        members = [member["address"] for member in json.loads(view.stdout or "{}").get("members", ())]
        if address in members:
            return address
        time.sleep(0.5)
    raise Refused(f"{address} is not a member of this server's database group")


def line_of(connection):
    said = b""
    while not said.endswith(b"\n") and len(said) < 100:
        byte = connection.recv(1)
        if not byte:
            break
        said += byte
    return said.decode().strip()


def tell(connection, what):
    connection.sendall(json.dumps(what).encode() + b"\n")


class Backup:
    """One run of mariadb-backup to standard output, its log read on the way."""

    def __init__(self, here, scratch):
        self.log, self.failure = [], ""
        self._held_since = None
        options = [
            "--backup",
            "--stream=mbstream",
            "--parallel=2",
            "--log-copy-interval=100",
            "--target-dir=" + scratch,
        ]
        if here["role"] == "replica":
            options.append("--slave-info")
        if here["commits_hang"]:
            # A commit that waits for a replica holds the very lock: without it, the position comes from InnoDB.
            options += ["--no-lock", "--binlog-info=off"]
        self.process = subprocess.Popen(
            ["ionice", "-c", "2", "-n", "7", "nice", "-n", "10", "mariadb-backup", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        with contextlib.suppress(OSError):  # more than it may have
            fcntl.fcntl(self.process.stdout, 1031, FRAME)  # F_SETPIPE_SZ
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        watch = selectors.DefaultSelector()
        watch.register(self.process.stderr, selectors.EVENT_READ)
        rest = b""
        while True:
            if watch.select(0.2):
                chunk = os.read(self.process.stderr.fileno(), 65536)
                if not chunk:
                    return
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._note(line.decode(errors="replace"))
            if self._held_since is not None and time.monotonic() - self._held_since > LOCK_SECONDS:
                self.stop(f"commits would have waited for it longer than {LOCK_SECONDS:g} s: given up")

    def _note(self, line):
        if "BACKUP STAGE BLOCK_COMMIT" in line and self._held_since is None:
            self._held_since = time.monotonic()
        if "BACKUP STAGE END" in line:
            self._held_since = None
        self.log.append(line)
        del self.log[:-400]

    def stop(self, why):
        self.failure = self.failure or why
        self._held_since = None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self):
        """What to tell the taker last."""
        code = self.process.wait()
        self._reader.join(5)
        said = "\n".join(self.log)
        if self.failure or code or "completed OK!" not in said:
            why = self.failure or "mariadb-backup failed: " + " / ".join(self.log[-4:])
            return {"error": why}
        found = re.findall(r"gtid_slave_pos = '([^']*)'", said) or re.findall(
            r"GTID of the last change '([^']*)'", said
        )
        return {"gtid": found[-1] if found else None}


def seed(connection, here):
    limit = float(os.environ.get("SEED_BANDWIDTH") or 0)
    sent, began = 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="relaunch-seed.", dir="/run") as scratch:
        backup = Backup(here, scratch)
        try:
            while True:
                chunk = backup.process.stdout.read(FRAME)
                if not chunk:
                    break
                connection.sendall(struct.pack("!I", len(chunk)) + chunk)
                sent += len(chunk)
                if limit:
                    time.sleep(max(0.0, sent / limit - (time.monotonic() - began)))
            ended = backup.end()
        finally:
            backup.stop("the taker has gone")
    connection.sendall(struct.pack("!I", 0))
    tell(connection, ended)
    took = time.monotonic() - began
    print(f"{sent} bytes in {took:.1f} s: {ended.get('error') or ended['gtid']}", file=sys.stderr)


def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=TLS + "/ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(TLS + "/server.crt", TLS + "/server.key")
    plain = socket.socket(fileno=os.dup(0))
    plain.settimeout(SILENT_SECONDS)
    with context.wrap_socket(plain, server_side=True) as connection:
        try:
            taker = checked(connection)
            wanted = line_of(connection)
            with open(LOCK, "w") as lock:
                if wanted == "seed":
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        tell(connection, {"busy": "another new replica is taking this server's data"})
                        return
                try:
                    here = offer()
                except (OSError, subprocess.SubprocessError) as error:
                    raise Refused(f"not now: {error}") from None
                tell(connection, here)
                if wanted == "seed" and line_of(connection) == "go":
                    print(f"giving {here['bytes']} bytes to {taker}", file=sys.stderr)
                    seed(connection, here)
        except Refused as refused:
            print(f"refused: {refused}", file=sys.stderr)
            tell(connection, {"error": str(refused)})


if __name__ == "__main__":
    main()
