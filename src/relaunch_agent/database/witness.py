"""Looks at the group's database servers from here: a connection to each, kept open. Who decides whether the primary is
dead wants to know four times a second whether it answers; of the others once a second does."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import errno
import socket
import ssl
import threading
import time
from typing import Any, Callable, Dict, Optional, Sequence

import pymysql

from relaunch.bus.messages import Probe, Witnessed
from relaunch_agent.database.lagging import Beat
from relaunch_agent.places import Places

PORT = 3306
PROBE_SECONDS, OTHERS_SECONDS = 0.25, 1.0  # between two probes of the primary, and of a replica
ANSWER_SECONDS = 0.75
SAY_SECONDS = 1.0
STOOD_SECONDS = 15.0  # a probe takes less, with the pause before it: else this machine stood still, or we did
BEAT_SECONDS, BEAT_REFUSED_SECONDS, BEAT_AGAIN_SECONDS = 0.9, 5.0, 60.0
BEAT = "SELECT at FROM relaunch.heartbeat ORDER BY epoch DESC, at DESC LIMIT 1"
DENIED_BEAT = (1142, 1146)  # accounts of before it was granted; no such table
USER = "relaunch_probe"  # may read the heartbeat, and nothing else; who it is, our certificate says
TOO_MANY = 1040
DENIED = (1044, 1045, 1130, 1698, 3032, 3118, 4151)  # 3032: MySQL, closed to clients by a fence
GONE = (ConnectionRefusedError, ConnectionResetError, BrokenPipeError, EOFError)
SILENT = (socket.timeout, TimeoutError)
UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT)


class Watched:
    """One server and the thread that probes it."""

    def __init__(self, address: str, places: Places, changed: Callable[[], None], port: int) -> None:
        self._address = address
        self._places = places
        self._changed = changed
        self._port = port
        self._over = False
        self._wake = threading.Event()
        self._pause = OTHERS_SECONDS
        self._connection: Any = None
        self._outcome = ""
        self._since = self._looked_at = time.monotonic()
        self._ok_at: Optional[float] = None
        self._read_only: Optional[bool] = None
        self._ask_beat_at = 0.0
        self.beat: Optional[Beat] = None
        threading.Thread(target=self._probe_for_ever, name=f"probe {address}", daemon=True).start()

    def stop(self) -> None:
        self._over = True
        self._wake.set()

    def probe_every(self, seconds: float) -> None:
        """At once, if it is more often than until now."""
        sooner, self._pause = seconds < self._pause, seconds
        if sooner:
            self._wake.set()

    def probe(self) -> Optional[Probe]:
        """None until something was seen."""
        if not self._outcome:
            return None
        now = time.monotonic()
        since = now if self._stood_still(now) else self._since
        return Probe(
            outcome=self._outcome, seconds=round(now - since, 3),
            ok_seconds=None if self._ok_at is None else round(now - self._ok_at, 3), read_only=self._read_only,
        )  # fmt: skip

    def _probe_for_ever(self) -> None:
        while not self._over:
            self._wake.clear()
            asked = time.monotonic()
            kept = self._connection is not None
            outcome = self._look()
            if outcome in ("refused", "error") and kept:
                outcome = self._look()  # a broken connection alone says little: is there a new one?
            now = time.monotonic()
            if outcome == "ok":
                self._ok_at = now
            if outcome != self._outcome or self._stood_still(now):
                self._outcome, self._since = outcome, now if self._stood_still(now) else asked
                self._changed()
            self._looked_at = now
            self._wake.wait(max(0.05, self._pause - (time.monotonic() - asked)))
        self._close()

    def _stood_still(self, now: float) -> bool:
        """Nobody has looked for so long: what was seen before does not say how it was meanwhile."""
        return now - self._looked_at > STOOD_SECONDS

    def _look(self) -> str:
        try:
            if self._connection is None:
                self._connection = pymysql.connect(
                    host=self._address, port=self._port, user=USER, password="", autocommit=True,
                    connect_timeout=ANSWER_SECONDS, read_timeout=ANSWER_SECONDS, write_timeout=ANSWER_SECONDS,
                    ssl=_tls(self._places), init_command="SET SESSION wait_timeout = 60",
                )  # fmt: skip
            with self._connection.cursor() as cursor:
                cursor.execute("SELECT @@global.read_only")
                said = cursor.fetchone()[0]
            self._read_only = str(said).upper() not in ("0", "OFF")
            self._ask_beat()
            return "ok"
        except (pymysql.err.MySQLError, OSError, ValueError, TypeError, AttributeError) as error:
            self._close()
            return outcome_of(error)

    def _ask_beat(self) -> None:
        """Beside the probe: a server that answers is alive, whatever becomes of this."""
        now = time.monotonic()
        if now < self._ask_beat_at:
            return
        self._ask_beat_at = now + BEAT_AGAIN_SECONDS  # not soon again, when it hangs
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(BEAT)
                row = cursor.fetchone()
            # Without a row it has applied nothing since there is a primary.
            at = 0.0 if row is None else (row[0] - datetime.datetime(1970, 1, 1)).total_seconds()
            self.beat = Beat(at, now)
            self._ask_beat_at = now + BEAT_SECONDS
        except (OSError, TypeError):
            self._close()
        except pymysql.err.MySQLError as error:
            if isinstance(error, pymysql.err.ProgrammingError) or (error.args or (0,))[0] in DENIED_BEAT:
                self._ask_beat_at = now + BEAT_REFUSED_SECONDS  # the account comes to a fresh replica before the table
            else:
                self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection._force_close()


def outcome_of(error: BaseException) -> str:
    """What a failed probe says about the server. PyMySQL keeps the operating system's error as its cause."""
    cause = error.__cause__ or getattr(error, "original_exception", None) or error.__context__ or error
    number = error.args[0] if isinstance(error, pymysql.err.MySQLError) and error.args else 0
    if number == TOO_MANY:
        return "full of connections"
    if number in DENIED or isinstance(cause, ssl.SSLCertVerificationError):
        return "denied"
    if isinstance(cause, SILENT) or "timed out" in str(error):
        return "timeout"
    if isinstance(cause, GONE) or number in (2006, 2013):
        return "refused"
    if isinstance(cause, OSError) and cause.errno in UNREACHABLE:
        return "timeout"
    return "error"


class Witness:
    def __init__(self, places: Places, tell: Callable[[Witnessed], object], *, port: int = PORT) -> None:
        self._places = places
        self._tell = tell
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._watched: Dict[str, Watched] = {}
        self._epoch = 0

    def watch(self, addresses: Sequence[str], epoch: int, *, primary: str) -> None:
        """These from now on, and no others, as the view of this epoch says. `primary`: "" while it names none."""
        self._epoch = epoch
        for gone in set(self._watched) - set(addresses):
            self._watched.pop(gone).stop()
        for address in set(addresses) - set(self._watched):
            self._watched[address] = Watched(address, self._places, self._wake, self._port)
        for address, each in self._watched.items():
            each.probe_every(PROBE_SECONDS if primary in ("", address) else OTHERS_SECONDS)

    def beats(self) -> Dict[str, Beat]:
        """Of those who have told, by address."""
        return {address: beat for address, each in self._watched.items() if (beat := each.beat) is not None}

    async def say_for_ever(self) -> None:
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), SAY_SECONDS)
            self._changed.clear()
            probes = {address: probe for address, each in self._watched.items() if (probe := each.probe())}
            if probes:
                self._tell(Witnessed(probes=probes, epoch=self._epoch))

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and so do we
            self._loop.call_soon_threadsafe(self._changed.set)


def _tls(places: Places) -> ssl.SSLContext:
    """Ours and theirs are certificates of the same authority; the server's is for its address. One for all probes, as
    long as our certificate is the same: a new one for each attempt would cost more than all the rest."""
    files = [places.tls / name for name in ("ca.crt", "server.crt", "server.key")]
    stamp = tuple((file, file.stat().st_mtime_ns) for file in files)
    if _made.get("stamp") != stamp:
        context = ssl.create_default_context(cafile=str(files[0]))
        context.load_cert_chain(str(files[1]), str(files[2]))
        _made.update(stamp=stamp, context=context)
    made: ssl.SSLContext = _made["context"]
    return made


_made: Dict[str, Any] = {}
