#!/usr/bin/env python3
"""Copies another database server's data into a folder: asks who can give it, chooses, and takes it.

    take_seed.py [--empty] FOLDER RESULT PRIMARY=ADDRESS [REPLICA=ADDRESS…]

FOLDER is made anew; RESULT is JSON: {"server", "address", "gtid", "bytes", "seconds"}, gtid null where it is in
the data alone. The other side is give_seed.py, which says what is spoken. Exit status: 1 the primary's port cannot be
reached and nobody else can give it, 2 it must not be taken here, 3 (with --empty: MariaDB runs here and holds nothing)
the primary is so young that following it from the start is as good, and minds no migration running meanwhile, 4 it
could not be given now: later it may. Of what came in vain nothing is left.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

TLS = "/etc/relaunch/tls"
PORT = 4444
ANSWER_SECONDS = 20.0
SILENT_SECONDS = 90.0
MOST_LAG_SECONDS = 5
TRIES = 3
BUSY_SECONDS = 1800.0
PROGRESS_SECONDS = 2.0
SYNC_SECONDS, SYNC_BYTES = 0.5, 8 << 20


class Failed(Exception):
    pass


class Unreached(Failed):
    """Nobody listens there."""


class Refused(Exception):
    """It would be as wrong from any other server."""


class Young(Exception):
    """Nothing needs to be copied."""


def connect(address):
    context = ssl.create_default_context(cafile=TLS + "/ca.crt")
    context.load_cert_chain(TLS + "/server.crt", TLS + "/server.key")
    try:
        plain = socket.create_connection((address, PORT), timeout=ANSWER_SECONDS)
    except OSError as error:
        raise Unreached(str(error)) from None
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    return context.wrap_socket(plain, server_hostname=address)


def answer(stream):
    said = stream.readline(65536)
    if not said:
        raise Failed("it hung up")
    told = json.loads(said)
    if "error" in told:
        raise Failed(told["error"])
    return told


def asked(address):
    """The server's offer, or the error because of which there is none."""
    try:
        with connect(address) as connection:
            connection.sendall(b"offer\n")
            return answer(connection.makefile("rb"))
    except (OSError, ValueError, Failed) as error:
        return error


def series(version):
    return ".".join(version.split(".")[:2])


def candidates(primary, replicas, offers, mine):
    """Names in the order to try, and a line about each: replicas that can be spared, then the primary. Pure."""
    good, said = [], []
    first = offers[primary[0]]
    others = first["acknowledgers"] if isinstance(first, dict) else 0
    for name, address in [*replicas, primary]:
        offer = offers[name]
        if isinstance(offer, Exception):
            said.append(f"{name} gives nothing: {str(offer) or type(offer).__name__}")
        elif series(offer["version"]) != series(mine):
            said.append(f"{name} runs MariaDB {offer['version']}, this server {mine}: its files cannot be used here")
        elif (name, address) == primary:
            said.append(f"{name} is the primary: {'' if not good else 'not needed, '}{offer['bytes'] // 1000000} MB")
            good.append((2, 0, name))
        elif offer["source"] != primary[1] or offer["lag_seconds"] is None:
            said.append(f"{name} does not follow {primary[0]}")
        elif offer.get("filtered", True):  # one whose giver is older does not say
            said.append(f"{name} filters or delays what it applies, or does not say: it may lack data")
        elif offer["lag_seconds"] > MOST_LAG_SECONDS:
            said.append(f"{name} lags {offer['lag_seconds']} s behind")
        elif offer["acknowledges"] and others < 2:
            said.append(f"{name} is the only one that acknowledges {primary[0]}'s writes: it is left in peace")
        else:
            said.append(f"{name} is in step and can be spared: {offer['bytes'] // 1000000} MB")
            good.append((1, offer["lag_seconds"], name))
    return [name for _, _, name in sorted(good)], said


def enough_room(folder, offer):
    needed = offer["bytes"] * 11 // 10 + (64 << 20)
    free = shutil.disk_usage(os.path.dirname(folder)).free
    if needed > free:
        raise Refused(
            f"NOT ENOUGH DISK: {needed // 1000000} MB are needed, {free // 1000000} MB are free. Nothing was copied."
        )


def progress(sent, whole, took):
    rate = sent / took if took else 0
    left = max(0, whole - sent) / rate if rate else 0
    return f"{sent // 1000000} of {whole // 1000000} MB, {rate / 1e6:.0f} MB/s, about {left:.0f} s to go"


def frames(stream):
    """The frames' contents; at the end the giver's last word is the return value."""
    while True:
        head = stream.read(4)
        if len(head) < 4:
            raise Failed("it hung up in the middle")
        (length,) = struct.unpack("!I", head)
        if not length:
            return answer(stream)
        body = stream.read(length)
        if len(body) < length:
            raise Failed("it hung up in the middle")
        yield body


class WriteOn(threading.Thread):
    """What has come goes to the disk while more comes, and not all of it at the end."""

    def __init__(self, folder, sync=os.fdatasync):
        super().__init__(daemon=True)
        self.over, self.error = threading.Event(), None
        self._folder, self._sync = folder, sync
        self.start()

    def run(self):
        while self.error is None and not self.over.wait(SYNC_SECONDS):
            for parent, _, files in os.walk(self._folder):
                for file in files:
                    with contextlib.suppress(FileNotFoundError), open(os.path.join(parent, file), "rb") as opened:
                        self._write(opened.fileno())

    def _write(self, file):
        try:
            if os.fstat(file).st_size >= SYNC_BYTES:
                self._sync(file)
        except OSError as error:
            self.error = error


def take(name, address, folder):
    with connect(address) as connection:
        stream = connection.makefile("rb", buffering=1 << 18)
        connection.sendall(b"seed\n")
        offer = answer(stream)
        if "busy" in offer:
            return None
        shutil.rmtree(folder, ignore_errors=True)  # what came in vain before takes room
        enough_room(folder, offer)
        os.makedirs(folder, mode=0o700)
        connection.settimeout(SILENT_SECONDS)
        connection.sendall(b"go\n")
        began = shown = time.monotonic()
        sent = 0
        unpack = subprocess.Popen(["mbstream", "-x", "-p", "2", "-C", folder], stdin=subprocess.PIPE)
        writing = WriteOn(folder)
        try:
            incoming = frames(stream)
            while True:
                try:
                    body = next(incoming)
                except StopIteration as end:
                    told = end.value
                    break
                unpack.stdin.write(body)
                sent += len(body)
                if time.monotonic() - shown >= PROGRESS_SECONDS:
                    shown = time.monotonic()
                    print(progress(sent, offer["bytes"], shown - began), flush=True)
            unpack.stdin.close()
            if unpack.wait(600):
                raise Failed(f"what came could not be unpacked: mbstream ended with {unpack.returncode}")
        except BrokenPipeError:
            raise Failed("what came could not be unpacked: mbstream ended") from None
        finally:
            writing.over.set()
            if unpack.poll() is None:
                unpack.kill()
                unpack.wait()
        writing.join()
        if writing.error:
            raise Failed(f"what came cannot be written: {writing.error}")
        took = time.monotonic() - began
        print(f"{sent // 1000000} MB copied from {name} in {took:.1f} s, {sent / took / 1e6:.0f} MB/s", flush=True)
        return {"server": name, "address": address, "gtid": told["gtid"], "bytes": sent, "seconds": round(took, 1)}


def taken(folder, servers, empty):
    """The result of taking it from whoever gives it first, in the order of preference asked anew each time."""
    mine = subprocess.run(["mariadbd", "--version"], capture_output=True, text=True, check=True).stdout
    mine = re.search(r"Ver (\S+)", mine)[1]
    failed, deadline, shown = 0, time.monotonic() + BUSY_SECONDS, None
    while True:
        offers = {name: asked(address) for name, address in servers}
        first = offers[servers[0][0]]
        if empty and isinstance(first, dict) and first["young"]:
            raise Young(f"The binary log of {servers[0][0]} is complete and small: it is followed from its start")
        order, said = candidates(servers[0], servers[1:], offers, mine)
        if said != shown:
            print("\n".join(said), flush=True)
            shown = said
        for name in order:
            print(f"Copying the data of {name}, {dict(servers)[name]}", flush=True)
            try:
                result = take(name, dict(servers)[name], folder)
            except (OSError, ValueError, Failed) as error:
                print(f"{name}: {error or type(error).__name__}", flush=True)
                failed += 1
                shutil.rmtree(folder, ignore_errors=True)
                continue
            if result:
                return result
            print(f"{name} is busy with another new replica", flush=True)
        if not order and not failed and isinstance(first, Unreached):
            raise Unreached("Nobody can give the data's files.")
        if not order or failed >= TRIES or time.monotonic() > deadline:
            raise Failed("Nobody could give the data now.")
        time.sleep(2)


def main():
    empty = sys.argv[1] == "--empty"
    folder, result, *words = sys.argv[2 if empty else 1 :]
    servers = [tuple(word.split("=", 1)) for word in words]
    try:
        told = taken(folder, servers, empty)
    except Failed as failed:
        print(failed)
        raise SystemExit(1 if isinstance(failed, Unreached) else 4) from None
    except Refused as refused:
        print(refused)
        raise SystemExit(2) from None
    except Young as young:
        print(young)
        raise SystemExit(3) from None
    with open(result, "w") as file:
        json.dump(told, file)


if __name__ == "__main__":
    main()
