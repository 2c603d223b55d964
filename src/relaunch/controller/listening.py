"""Taking our ports, and saying who has them when they are taken."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from relaunch.errors import Conflict, Failed

BACKLOG = 256
IP_FREEBIND = 15  # of ip(7); Python has no name for it before 3.14


def listen(address: str, port: int, *, purpose: str) -> socket.socket:
    """A listening socket, also on an address that no interface has yet; Conflict names who has the port."""
    # asyncio sets TCP_NODELAY only where the protocol is named; without it an answer's body waits 40 ms for an
    # acknowledgement of its head.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    try:
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise taken(address, port, purpose) from None
        raise Failed(f"{purpose} cannot listen at {address} port {port}: {error.strerror}") from None
    sock.setblocking(False)
    return sock


def refuse_taken(address: str, port: int, *, purpose: str) -> None:
    """Conflict when somebody listens there already."""
    listen(address, port, purpose=purpose).close()


def taken(address: str, port: int, purpose: str) -> Conflict:
    owner = owner_of(port)
    by = f" by {owner}" if owner else ""
    return Conflict(
        f"port {port} at {address}, needed for {purpose}, is taken{by}",
        hint="end that program, or set another port in <state>/controller.toml",
    )


def owner_of(port: int) -> str:
    """'name (process 123)' of who listens on this TCP port, "" when that cannot be found out."""
    inodes = _listening_inodes(port)
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()) in inodes:
                    return f"{(process / 'comm').read_text().strip()} (process {process.name})"
        except OSError:
            continue
    return ""


def _listening_inodes(port: int) -> set[str]:
    """As /proc/net/tcp has them: local address in column 2, state 0A is LISTEN, inode in column 10."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for words in map(str.split, lines):
            if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{words[9]}]")
    return found
