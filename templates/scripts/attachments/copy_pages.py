#!/usr/bin/env python3
# Written by relaunch: an attachment of scripts for database servers. Change it there.
"""Copies a folder that stands still as a tar stream; the next time only the pages of it that have changed.

    copy_pages.py save FOLDER --map NEWMAP [--since OLDMAP] [--exclude PATTERN]… > stream
    copy_pages.py load FOLDER < stream

Without --since the stream is the whole folder, as any tar unpacks it. With it, the stream is a tar of these members:

    .copy-pages/wants              the identity of what it is to be laid over
    .copy-pages/stream             a name of its own for this stream
    .copy-pages/gone               names that are no more, each ended by NUL
    .copy-pages/sparse             names of files with holes, each ended by NUL
    NAME                           directories, links; files that are new or small, whole
    .copy-pages/NUMBER.extents     a large file that changed: lines with its name, its bytes, and FIRST COUNT in pages
    .copy-pages/NUMBER.pages       these pages one after the other; mode and owner are the file's
    .copy-pages/id                 the identity of the result; always the last

The identity is a hash of all names and contents. A folder keeps the one it has in .copy-pages/id; that folder is to be
removed before a server is started. A map is the same knowledge page by page: 16 bytes for each.
"""

import argparse
import fnmatch
import functools
import grp
import hashlib
import json
import os
import pwd
import secrets
import shutil
import stat
import sys
import tarfile

PAGE = 16384
DIGEST = 16
LARGE = 16 * PAGE  # a smaller file is sent whole when it changed
CHUNK = 64 * PAGE
BLOCK = 4096  # holes of sparse files are multiples of this
OURS = ".copy-pages"
MAP_BEGINS = "copy-pages map 1"
ZEROS = bytes(BLOCK)
ENCODING = ("utf-8", "surrogateescape")


class Fault(Exception):
    """What happened, to what, and what to do."""


class Entry:
    """One name of a folder: what it is, and for a file the hash of each page."""

    __slots__ = ("hashes", "kind", "link", "mode", "owner", "size")

    def __init__(self, kind, size=0, mode=0, owner=(0, 0), link="", hashes=b""):
        self.kind, self.size, self.mode, self.owner, self.link, self.hashes = kind, size, mode, owner, link, hashes

    def same_content(self, other):
        return (self.kind, self.size, self.link, self.hashes) == (other.kind, other.size, other.link, other.hashes)

    def same_rights(self, other):
        return (self.mode, self.owner) == (other.mode, other.owner)


def digest(page):
    return hashlib.blake2b(page, digest_size=DIGEST).digest()


def page_count(size):
    return -(-size // PAGE)


# Maps


def write_map(path, entries, identity):
    with open(path + ".new", "wb") as out:
        out.write(f"{MAP_BEGINS} {PAGE}\n".encode())
        for name, entry in entries.items():
            line = {"name": name, "kind": entry.kind, "size": entry.size, "mode": entry.mode, "owner": entry.owner}
            out.write(json.dumps({**line, "link": entry.link}).encode() + b"\n" + entry.hashes)
        out.write(json.dumps({"id": identity}).encode() + b"\n")
    os.replace(path + ".new", path)


def read_map(path):
    """The entries by name, and the identity."""
    entries = {}
    try:
        with open(path, "rb") as file:
            if file.readline() != f"{MAP_BEGINS} {PAGE}\n".encode():
                raise Fault(f"{path} is no map of this program and of pages of {PAGE} bytes: make a full copy")
            while line := file.readline():
                told = json.loads(line)
                if "id" in told:
                    return entries, told["id"]
                size = DIGEST * page_count(told["size"]) if told["kind"] == "file" else 0
                hashes = file.read(size)
                if len(hashes) != size:
                    break
                owner = tuple(told["owner"])
                entries[told["name"]] = Entry(told["kind"], told["size"], told["mode"], owner, told["link"], hashes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Fault(f"the map {path} cannot be read: {error}: make a full copy") from None
    raise Fault(f"the map {path} is not whole: make a full copy")


class Identity:
    """The hash of all names and contents, entry by entry in the order of the names."""

    def __init__(self):
        self._hash = hashlib.blake2b(digest_size=DIGEST)

    def add(self, name, entry):
        told = json.dumps([name, entry.kind, entry.size, entry.link]).encode()
        self._hash.update(told + digest(entry.hashes))

    def text(self):
        return self._hash.hexdigest()


# Saving


def look(folder, excluded):
    """(name, what stat says) of all below, a directory before what is in it; sockets and pipes are left out.

    excluded: patterns of names at the top. A folder there is a schema, whatever it is called, unless it begins with #.
    """
    found = []
    waiting = [""]
    while waiting:
        above = waiting.pop()
        with os.scandir(os.path.join(folder, above)) as entries:
            for entry in entries:
                name = f"{above}/{entry.name}" if above else entry.name
                status = entry.stat(follow_symlinks=False)
                may_go = not above and (name.startswith("#") or not stat.S_ISDIR(status.st_mode))
                if name == OURS or (may_go and any(fnmatch.fnmatchcase(name, pattern) for pattern in excluded)):
                    continue
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(name)
                elif not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
                    continue
                found.append((name, status))
    return sorted(found, key=lambda each: each[0].split("/"))


def entry_of(path, status):
    kind = "file" if stat.S_ISREG(status.st_mode) else "link" if stat.S_ISLNK(status.st_mode) else "folder"
    size = status.st_size if kind == "file" else 0
    link = os.readlink(path) if kind == "link" else ""
    return Entry(kind, size, stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid), link)


def read_exactly(file, count):
    data = file.read(count)
    if len(data) != count:
        raise Fault(f"{file.name} became shorter while it was read: a folder that stands still is needed")
    return data


def chunks(path, size):
    """The file's bytes in whole pages."""
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        for at in range(0, size, CHUNK):
            yield read_exactly(file, min(CHUNK, size - at))


def page_hashes(chunk):
    view = memoryview(chunk)
    return b"".join(digest(view[at : at + PAGE]) for at in range(0, len(chunk), PAGE))


class Tar:
    """Members written one after the other, without ever going back."""

    def __init__(self, out):
        self._out = out
        self._written = 0

    def _write(self, data):
        self._out.write(data)
        self._written += len(data)

    def begin(self, name, entry, size, modified=0):
        about = tarfile.TarInfo(name)
        about.size, about.mode, about.mtime = size, entry.mode, modified
        about.uid, about.gid = entry.owner
        about.uname, about.gname = name_of("user", about.uid), name_of("group", about.gid)
        about.type = {"file": tarfile.REGTYPE, "link": tarfile.SYMTYPE, "folder": tarfile.DIRTYPE}[entry.kind]
        about.linkname = entry.link
        self._write(about.tobuf(tarfile.GNU_FORMAT, *ENCODING))

    def data(self, data):
        self._write(data)

    def end_member(self):
        self._write(b"\0" * (-self._written % tarfile.BLOCKSIZE))

    def note(self, name, data):
        self.begin(f"{OURS}/{name}", Entry("file", mode=0o600, owner=(os.geteuid(), os.getegid())), len(data))
        self._write(data)
        self.end_member()

    def end(self):
        self._write(b"\0" * (2 * tarfile.BLOCKSIZE))
        self._write(b"\0" * (-self._written % tarfile.RECORDSIZE))
        self._out.flush()


@functools.cache
def name_of(database, number):
    """The user's or group's name; empty when it has none."""
    try:
        return pwd.getpwuid(number).pw_name if database == "user" else grp.getgrgid(number).gr_name
    except KeyError:
        return ""


@functools.cache
def number_of(database, name, number):
    """What that name has as its number here; the number itself when nobody has the name."""
    try:
        return pwd.getpwnam(name).pw_uid if database == "user" else grp.getgrnam(name).gr_gid
    except KeyError:
        return number


def save(folder, out, *, new_map, old_map=None, excluded=()):
    """Write the stream; the identity of what was saved."""
    before, wants = read_map(old_map) if old_map else ({}, "")
    tar, entries, identity = Tar(out), {}, Identity()
    found = look(folder, excluded)
    for name, status in found:
        entries[name] = entry_of(os.path.join(folder, name), status)
    tar.note("stream", secrets.token_hex(16).encode() + b"\n")
    if old_map:
        tar.note("wants", wants.encode() + b"\n")
        gone = [name for name, entry in before.items() if is_replaced(entry, entries.get(name))]
        tar.note("gone", b"".join(name.encode(*ENCODING) + b"\0" for name in gone))
    sparse = [name for name, status in found if entries[name].size > status.st_blocks * 512]
    tar.note("sparse", b"".join(name.encode(*ENCODING) + b"\0" for name in sparse))
    for number, (name, status) in enumerate(found):
        path, entry, old = os.path.join(folder, name), entries[name], before.get(name)
        if entry.kind != "file":
            if entry.kind == "folder" or old is None or is_replaced(old, entry):
                tar.begin(name, entry, 0, int(status.st_mtime))
        elif old is None or old.kind != "file":
            save_whole(tar, name, path, entry, int(status.st_mtime))
        else:
            save_changes(tar, f"{number:06d}", name, path, entry, old, int(status.st_mtime))
        identity.add(name, entry)
    tar.note("id", identity.text().encode() + b"\n")
    tar.end()
    write_map(new_map, entries, identity.text())
    return identity.text()


def is_replaced(old, new):
    """Whether what was there has to be removed first."""
    return new is None or new.kind != old.kind or (new.kind == "link" and new.link != old.link)


def save_whole(tar, name, path, entry, modified):
    tar.begin(name, entry, entry.size, modified)
    hashes = []
    for chunk in chunks(path, entry.size):
        hashes.append(page_hashes(chunk))
        tar.data(chunk)
    tar.end_member()
    entry.hashes = b"".join(hashes)


def save_changes(tar, number, name, path, entry, old, modified):
    entry.hashes = b"".join(page_hashes(chunk) for chunk in chunks(path, entry.size))
    if entry.same_content(old) and entry.same_rights(old):
        return
    if max(entry.size, old.size) < LARGE or "\n" in name:  # .extents has a line for the name
        save_whole(tar, name, path, entry, modified)
        return
    extents = changed_extents(entry.hashes, old.hashes)
    lines = "".join(f"{first} {count}\n" for first, count in extents)
    tar.note(f"{number}.extents", name.encode(*ENCODING) + f"\n{entry.size}\n{lines}".encode())
    sent = [(first * PAGE, min((first + count) * PAGE, entry.size)) for first, count in extents]
    tar.begin(f"{OURS}/{number}.pages", entry, sum(end - begin for begin, end in sent), modified)
    with open(path, "rb", buffering=0) as file:
        for begin, end in sent:
            file.seek(begin)
            for at in range(begin, end, CHUNK):
                chunk = read_exactly(file, min(CHUNK, end - at))
                first = at // PAGE * DIGEST
                if page_hashes(chunk) != entry.hashes[first : first + page_count(len(chunk)) * DIGEST]:
                    raise Fault(f"{path} changes while it is read: a folder that stands still is needed")
                tar.data(chunk)
    tar.end_member()


def changed_extents(new, old):
    """[(first page, count)] of what differs."""
    found = []
    for at in range(0, len(new), DIGEST):
        if new[at : at + DIGEST] == old[at : at + DIGEST]:
            continue
        page = at // DIGEST
        if found and found[-1][0] + found[-1][1] == page:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((page, 1))
    return found


# Loading


class Folder:
    """What a stream is laid over. `.copy-pages/loading` stands there for as long as it is half done."""

    def __init__(self, path):
        self.path = path
        self._ours = os.path.join(path, OURS)

    def note(self, name):
        """What is noted, "" when nothing is."""
        try:
            with open(os.path.join(self._ours, name)) as file:
                return file.read().strip()
        except FileNotFoundError:
            return ""

    def write_note(self, name, text):
        target = os.path.join(self._ours, name)
        with open(target + ".new", "w") as file:
            file.write(text + "\n")
        os.replace(target + ".new", target)

    def begin(self, stream, wants):
        """Refuse what does not fit; from here on until `end` the folder is half done."""
        half, has = self.note("loading"), self.note("id")
        if half and half != stream and wants is not None:
            raise Fault(f"{self.path} is half way through another stream: load everything into an empty folder")
        if wants is None:
            if not half and has != "" and self.note("stream") != stream:
                raise Fault(f"{self.path} holds a copy already: load everything into an empty folder")
            if not half and not has and os.path.isdir(self.path) and os.listdir(self.path):
                raise Fault(f"{self.path} is not empty, and what is there is no copy of this program's")
            shutil.rmtree(self.path, ignore_errors=True)
        elif stream not in (half, self.note("stream")) and wants != has:
            what = f"a copy with the identity {has}" if has else "no copy of this program's"
            raise Fault(f"{self.path} is {what}, and the stream is to be laid over {wants}: a wrong or missing link")
        os.makedirs(self._ours, mode=0o700, exist_ok=True)
        self.write_note("loading", stream)

    def end(self, identity, stream):
        self.write_note("id", identity)
        self.write_note("stream", stream)
        os.unlink(os.path.join(self._ours, "loading"))

    def place(self, name):
        parts = name.split("/")
        if not name or name.startswith("/") or ".." in parts or parts[0] == OURS:
            raise Fault(f"the stream has a name that it may not have: {name!r}")
        above = self.path
        for part in parts[:-1]:
            above = os.path.join(above, part)
            self._must_be_no_link(above, name)
        return os.path.join(self.path, name)

    @staticmethod
    def _must_be_no_link(path, name):
        """Nothing is written by way of a link, which may lead out of the folder."""
        if os.path.islink(path):
            raise Fault(f"the stream has a name that it may not have: {name!r}, where {path} is a link")

    def remove(self, name):
        target = self.place(name)
        if os.path.isdir(target) and not os.path.islink(target):
            shutil.rmtree(target)
        elif os.path.lexists(target):
            os.unlink(target)

    def put(self, about, data, *, holes):
        target = self.place(about.name)
        if about.isdir():
            self._must_be_no_link(target, about.name)
            os.makedirs(target, exist_ok=True)
            give_rights(target, about)
            return
        fresh = os.path.join(self._ours, "fresh")
        if os.path.lexists(fresh):
            os.unlink(fresh)
        if about.issym():
            os.symlink(about.linkname, fresh)
        else:
            with open(fresh, "xb", buffering=0) as file:
                copy(data, file, about.size, holes=holes)
                file.truncate(about.size)
        give_rights(fresh, about)
        os.replace(fresh, target)

    def patch(self, extents, about, data):
        """Lay the pages over a file; given again, they change nothing."""
        name, size, *lines = extents.split(b"\n")[:-1]
        target = self.place(name.decode(*ENCODING))
        self._must_be_no_link(target, name.decode(*ENCODING))
        with open(target, "r+b", buffering=0) as file:
            file.truncate(int(size))
            for line in lines:
                first, count = map(int, line.split())
                file.seek(first * PAGE)
                copy(data, file, min((first + count) * PAGE, int(size)) - first * PAGE, holes=False)
        give_rights(target, about)


def give_rights(path, about):
    if os.geteuid() == 0:
        user, group = number_of("user", about.uname, about.uid), number_of("group", about.gname, about.gid)
        os.chown(path, user, group, follow_symlinks=False)
    if not about.issym():
        os.chmod(path, about.mode)
        os.utime(path, (about.mtime, about.mtime))


def copy(data, file, size, *, holes):
    while size > 0:
        chunk = data.read(min(CHUNK, size))
        if not chunk:
            raise Fault("the stream ends too early: it is not whole")
        write_all(file, chunk, holes=holes)
        size -= len(chunk)


def write_all(file, chunk, *, holes):
    step = BLOCK if holes else len(chunk)
    for at in range(0, len(chunk), step):
        piece = memoryview(chunk)[at : at + step]
        if holes and bytes(piece) == ZEROS[: len(piece)]:
            file.seek(len(piece), os.SEEK_CUR)
            continue
        while piece:
            piece = piece[file.write(piece) :]


def load(path, stream):
    """Lay the stream over the folder; the identity it then has."""
    folder, told, identity = Folder(path), {}, ""
    try:
        encoding, errors = ENCODING
        with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK, encoding=encoding, errors=errors) as members:
            for about in members:
                data = members.extractfile(about) if about.isreg() else None
                ours, _, note = about.name.partition("/")
                if ours == OURS and not note.endswith(".pages"):
                    take_note(folder, told, note, data.read())
                    identity = told.get("id", "")
                elif "sparse" not in told:
                    raise Fault("this is no stream of this program's")
                elif ours != OURS:
                    folder.put(about, data, holes=about.name in told["sparse"])
                else:
                    folder.patch(told["extents"], about, data)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise Fault(f"the stream cannot be loaded into {path}: {error}") from None
    if not identity:
        raise Fault("the stream ends too early: it is not whole")
    folder.end(identity, told["stream"])
    return identity


def take_note(folder, told, note, data):
    if note.endswith(".extents"):
        told["extents"] = data
    elif note in ("stream", "wants", "id"):
        told[note] = data.decode().strip()
    elif note in ("gone", "sparse"):
        told[note] = [name.decode(*ENCODING) for name in data.split(b"\0")[:-1]]
    else:
        raise Fault(f"the stream has a member {OURS}/{note}, which this program does not know")
    if note == "sparse":  # all that says whether the stream fits has been read
        told["sparse"] = frozenset(told["sparse"])
        folder.begin(told["stream"], told.get("wants"))
        for name in told.get("gone", ()):
            folder.remove(name)


def main():
    parser = argparse.ArgumentParser(description="Copies a folder, then only the pages of it that changed.")
    ways = parser.add_subparsers(dest="way", required=True)
    saving = ways.add_parser("save", help="write the folder, or what changed of it, to standard output")
    saving.add_argument("folder")
    saving.add_argument("--map", required=True, help="where the new map is written")
    saving.add_argument("--since", help="the map of the copy this builds on")
    saving.add_argument("--exclude", action="append", default=[], help="names at the top to leave out, as binlog.*")
    loading = ways.add_parser("load", help="lay what standard input has over the folder")
    loading.add_argument("folder")
    told = parser.parse_args()
    try:
        if told.way == "save":
            with open(sys.stdout.fileno(), "wb", buffering=CHUNK, closefd=False) as out:
                save(told.folder, out, new_map=told.map, old_map=told.since, excluded=told.exclude)
        else:
            load(told.folder, sys.stdin.buffer)
    except (Fault, OSError) as fault:
        sys.exit(f"copy_pages: {fault}")


if __name__ == "__main__":
    main()
