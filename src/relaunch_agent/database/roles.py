"""Takes the roles it is ordered to take, and keeps them: all but the primary's, which needs a fresh order each time."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Callable, Optional

from relaunch.bus.messages import TakeRole
from relaunch.databases.dialect import Source
from relaunch.databases.transactions import let_end
from relaunch.errors import BadInput, Conflict, RelaunchError, Unavailable
from relaunch_agent.database.kept import ROLES, KeptRole
from relaunch_agent.database.local_server import AnyDialect, LocalServer, dialect_of
from relaunch_agent.database.session import SLOW_SECONDS, LocalSession
from relaunch_agent.database.severing import mend, severed

KEEP_SECONDS = 0.5  # how often a role is brought back
FOLLOW_AGAIN_SECONDS = 5.0  # a receiver that stopped with an error is started again after this
# Sooner at first, as a new primary that has not applied all yet sends it away: from the first up to the second, for so
# long after an order.
FOLLOW_SOON_SECONDS, FOLLOW_LATER_SECONDS, YOUNG_SECONDS = 0.05, 0.5, 30.0
SLICE_SECONDS = 0.2
PATIENT_SECONDS = 1.0  # a new primary that has not applied all by then ends what its applier waits for


class Roles:
    """One thread of its own does all that blocks. `changed` is called, from that thread, after each attempt."""

    def __init__(self, server: LocalServer, kept: KeptRole, changed: Callable[[], None]) -> None:
        self._server = server
        self._kept = kept
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._news = threading.Condition()
        self._wanted: Optional[TakeRole] = kept.order
        self._fresh = False  # `_wanted` has not been tried yet
        self._promoting: Optional[TakeRole] = None  # a fresh order to be the primary that is not fulfilled yet
        self._release = ""  # what a replica has although its acknowledgement was lost
        self._asked, self._kept_seconds = 0.0, 0.0  # when for `_wanted`, and how long it took to be on the disk
        self._grace = 0.0  # of the next attempt to be fenced
        self._deadline = 0.0
        self._tried: Optional[asyncio.Future[None]] = None
        self._fenced_because = ""  # by ourselves, until the next order
        self._session: Optional[LocalSession] = None
        self._dialect: Optional[AnyDialect] = None
        self._said = ""
        self._followed = 0.0
        self._follow_again = FOLLOW_SOON_SECONDS
        self._ordered = 0.0
        self.trouble = ""  # why the role is not what it should be

    def start(self) -> None:
        threading.Thread(target=self._work, name="database role", daemon=True).start()

    async def take(self, order: TakeRole) -> None:
        """Keep it, then do it: returns when it is done or its seconds are over. Conflict for an older epoch."""
        if order.role not in ROLES:
            raise BadInput(f"{order.role!r} is no role of a database server")
        if order.epoch < self._kept.epoch:
            raise Conflict(f"epoch {order.epoch} is over: this server has obeyed epoch {self._kept.epoch}")
        again, asked = self._kept.order, time.monotonic()
        self._kept.keep(order)
        if again is self._kept.order and order.role != "primary" and not self._fenced_because:
            return  # in hand already, and kept
        tried: asyncio.Future[None] = self._loop.create_future()
        with self._news:
            before, self._tried = self._tried, tried
            self._wanted, self._fresh = self._kept.order, True
            is_done = bool(order.release) and self._kept.done is self._kept.order
            self._promoting = self._wanted if order.role == "primary" and not is_done else None
            self._release, self._grace = order.release, order.grace
            self._asked, self._kept_seconds = asked, time.monotonic() - asked
            self._deadline = time.monotonic() + order.seconds
            self._fenced_because = ""
            self._news.notify()
        _resolve(before)
        try:
            await asyncio.wait_for(asyncio.shield(tried), order.seconds)
        except asyncio.TimeoutError:
            return

    def fence(self, why: str) -> None:
        """Take no more writes until the next order, whatever the last one was."""
        with self._news:
            if not self._fenced_because:
                print(f"database: takes no more writes: {why}", file=sys.stderr, flush=True)
                self._fenced_because, self._promoting, self._fresh = why, None, True
                self._news.notify()

    # the thread

    def _work(self) -> None:
        mend()
        while True:
            with self._news:
                follows = self._wanted is not None and self._wanted.role == "replica"
                pause = min(KEEP_SECONDS, self._follow_again) if follows else KEEP_SECONDS
                self._news.wait_for(lambda: self._fresh, timeout=pause)
                order, fresh, tried = self._wanted, self._fresh, self._tried
                self._fresh = False
            if order is None or not self._server.joined:
                self._answer(tried if fresh else None)
                continue
            self._attempt(order, fresh)
            self._answer(tried if fresh else None)

    def _attempt(self, order: TakeRole, fresh: bool) -> None:
        try:
            session = self._open(until=self._deadline if fresh else 0.0)
            session.slow, was_done = [], self._kept.done is order
            self._become(session, order, fresh)
            self._say("")
            if not was_done and self._kept.done is order:
                self._say_how_long(order, session)
        except Unavailable as error:
            # Never by ourselves again: whoever restarted, the controller has to look first.
            self._promoting = None
            self._drop()
            self._say(error.message)
        except RelaunchError as error:
            self._say(error.message)
        except Exception as error:  # outermost frame of this thread: it must go on whatever happens
            self._promoting = None
            self._drop()
            self._say(repr(error))

    def _become(self, session: LocalSession, order: TakeRole, fresh: bool) -> None:
        dialect = self._dialect
        if dialect is None:
            dialect = self._dialect = dialect_of(session)
        release, self._release = self._release, ""
        if release and order.role == "primary" and not self._fenced_because:
            dialect.release(session, release)
        grace, self._grace = self._grace, 0.0
        if self._fenced_because or order.role == "fenced":
            if grace and fresh and not self._fenced_because:
                let_end(session, grace)
            dialect.fence(session)
            self._stop_receiving(session, dialect)
        elif order.role == "revoked":
            self._stop_receiving(session, dialect)
        elif order.role == "replica":
            if fresh:
                self._ordered, self._follow_again = time.monotonic(), FOLLOW_SOON_SECONDS
            if fresh or time.monotonic() - self._followed >= self._follow_again:
                self._follow(session, dialect, order, fresh)
        elif self._promoting is not order:
            return
        else:
            began = time.monotonic()
            while order.position and not dialect.wait_applied(session, order.position, seconds=SLICE_SECONDS):
                if self._is_over(order):
                    return
                if time.monotonic() - began >= PATIENT_SECONDS:
                    dialect.free_applier(session)
            if self._is_over(order):
                return
            dialect.promote(session, required=order.required, position=order.position)
            with self._news:
                self._promoting = None if self._promoting is order else self._promoting
        if not self._fenced_because:
            self._kept.carried_out(order)

    def _follow(self, session: LocalSession, dialect: AnyDialect, order: TakeRole, fresh: bool) -> None:
        source, state = self._source(order), dialect.state(session)
        if (state.receiving and not fresh) or time.monotonic() - self._ordered > YOUNG_SECONDS:
            self._follow_again = FOLLOW_AGAIN_SECONDS
        else:
            self._follow_again = min(self._follow_again * 2, FOLLOW_LATER_SECONDS)
        if not (state.receiving or state.applying or dialect.covers(state.executed, state.received)):
            self._server.replication_starts()
        dialect.follow(session, source, acknowledge=order.acknowledge)
        self._followed = time.monotonic()

    def _stop_receiving(self, session: LocalSession, dialect: AnyDialect) -> None:
        login = self._server.login()
        with severed(dialect.state(session).source, login[3] if login else 3306):
            dialect.stop_receiving(session)

    def _is_over(self, order: TakeRole) -> bool:
        return self._promoting is not order

    def _source(self, order: TakeRole) -> Source:
        login = self._server.login()
        if login is None:
            raise Conflict("there is no login for following another server: the join script writes it")
        user, password, ca, port = login
        return Source(address=order.source, port=port, user=user, password=password, ca=ca)

    def _open(self, until: float) -> LocalSession:
        """The session kept, or a new one; a fresh order gives a server that just starts some time."""
        while True:
            try:
                if self._session is None:
                    self._session, self._dialect, self._followed = self._server.open(), None, 0.0
                elif until:
                    self._session.rows("SELECT 1")
                elif not self._session.is_open:
                    raise Unavailable("the database server has closed the connection")
                return self._session
            except Unavailable:
                self._drop()
                if time.monotonic() + 0.05 >= until:
                    raise
                time.sleep(0.05)

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None

    def _say(self, trouble: str) -> None:
        if trouble:
            self._followed = 0.0
        self.trouble = trouble
        if trouble != self._said:
            print(f"database: {trouble or 'role taken'}", file=sys.stderr, flush=True)
            self._said = trouble

    def _say_how_long(self, order: TakeRole, session: LocalSession) -> None:
        """For whoever asks later where the time of a failover went."""
        if not self._asked:  # kept from before our start
            return
        parts = [("keeping it", self._kept_seconds), *session.slow]
        long = "; ".join(f"{what} {took:.3f}" for what, took in parts if took >= SLOW_SECONDS)
        print(
            f"database: {order.role} of epoch {order.epoch} in {time.monotonic() - self._asked:.3f} s"
            f"{f' ({long})' if long else ''}",
            file=sys.stderr, flush=True,
        )  # fmt: skip

    def _answer(self, tried: Optional[asyncio.Future[None]]) -> None:
        if tried is not None:
            self._changed()
            self._loop.call_soon_threadsafe(_resolve, tried)


def _resolve(future: Optional[asyncio.Future[None]]) -> None:
    if future is not None and not future.done():
        future.set_result(None)
