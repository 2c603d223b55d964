"""A connection to the database server on this machine, as root over its local socket; each call bounded in time."""

from __future__ import annotations

import codecs
import contextlib
import select
import socket
import struct
import time
from typing import Any, Dict, List, Optional, Tuple

import pymysql
from pymysql.constants import CLIENT
from pymysql.cursors import DictCursor

from relaunch.errors import Failed, Unavailable

CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 5.0
KEPT_SECONDS = 31536000  # the server does not end a connection that is silent for less
SLOW_SECONDS = 0.01
SLOW_KEPT, SLOW_LETTERS = 8, 60
TOO_MANY = 1040
ENDING = (1053, 1927, 3169, 4031)  # shutting down; killed (MariaDB, MySQL); silent for too long
LENIENT = "relaunch_lenient_utf8"  # servers cut texts in bytes, also within a letter: then U+FFFD is read


class Refusal(Failed):
    """The server answered with an error; `number` is its own."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class LocalSession:
    """Implements `dialect.Session`. Not for two threads at once."""

    def __init__(self, path: str, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        """Unavailable when nothing answers there, Refusal when it does not let us in."""
        try:
            connection: Any = pymysql.connect(
                unix_socket=path, user="root", autocommit=True, cursorclass=DictCursor, charset="utf8mb4",
                connect_timeout=CONNECT_SECONDS, read_timeout=answer_seconds, write_timeout=answer_seconds,
                client_flag=CLIENT.INTERACTIVE, defer_connect=False,
                # Over a socket of this machine; else each try, many a second while it starts, reads all authorities.
                ssl_disabled=True,
            )  # fmt: skip
        except pymysql.err.MySQLError as error:
            raise _ours(error) from None
        except OSError as error:
            raise Unavailable(f"{path}: {error}") from None
        connection.encoding = LENIENT
        self._connection = connection
        self.slow: List[Tuple[str, float]] = []  # the newest statements that took long, without their values; seconds
        self.pid = _peer(connection._sock)
        self.run(f"SET SESSION wait_timeout = {KEPT_SECONDS}, interactive_timeout = {KEPT_SECONDS}")

    @property
    def socket(self) -> Optional[socket.socket]:
        found: Optional[socket.socket] = self._connection._sock
        return found

    @property
    def is_open(self) -> bool:
        """As far as the kernel knows; the server is not asked, and may not be answering."""
        found = self.socket
        return found is not None and is_silent(found)

    @property
    def thread_id(self) -> int:
        return int(self._connection.thread_id())

    def rows(self, statement: str, *values: Any) -> List[Dict[str, Any]]:
        began = time.monotonic()
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement, values or None)
                return list(cursor.fetchall())
        except pymysql.err.MySQLError as error:
            raise self._broken(error) from None
        except (OSError, struct.error, AttributeError) as error:
            self.close()
            raise Unavailable(f"the database server's answer broke off: {error}") from None
        finally:
            took = time.monotonic() - began
            if took >= SLOW_SECONDS:
                self.slow = [*self.slow[1 - SLOW_KEPT :], (" ".join(statement.split())[:SLOW_LETTERS], took)]

    def run(self, statement: str, *values: Any) -> None:
        self.rows(statement, *values)

    def close(self) -> None:
        """At once, without a word to the server: it may not be listening."""
        with contextlib.suppress(Exception):
            self._connection._force_close()

    def _broken(self, error: Any) -> Exception:
        ours = _ours(error)
        if isinstance(ours, Unavailable):
            self.close()
        return ours


def is_silent(connection: socket.socket) -> bool:
    """Whether the other side has neither closed it nor said something unasked: a server's last words. It waits for
    nothing, as recv() of a socket with a timeout would."""
    if connection.fileno() < 0:
        return False
    look = select.poll()
    look.register(connection, select.POLLIN)
    return not look.poll(0)


def _codec(name: str) -> Optional[codecs.CodecInfo]:
    if name != LENIENT:
        return None
    return codecs.CodecInfo(codecs.utf_8_encode, _decode, name=name)


def _decode(data: Any, errors: str = "") -> Tuple[str, int]:
    return codecs.utf_8_decode(data, "replace", True)


codecs.register(_codec)


def _peer(connection: Any) -> int:
    """Process id of the one who listens: it says which process is our server, whatever pid files tell."""
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def _ours(error: Any) -> Exception:
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1] if len(error.args) > 1 else error)
    # 2000 to 2999 are the client's own: no connection, or it broke off; above are the server's again.
    if 2000 <= number < 3000 or number in (0, *ENDING) or isinstance(error, pymysql.err.InterfaceError):
        return Unavailable(f"the database server does not answer: {text}")
    return Refusal(f"{text} ({number})", number)
