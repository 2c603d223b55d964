"""The lasting link to the controller over connections that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import sys
import time
from typing import Any, Awaitable, Callable, Optional
from urllib.parse import urlsplit

from relaunch.bus import subjects
from relaunch.bus.messages import Hello, Refused, Stored, Welcome, decode, encode
from relaunch.errors import BadInput, Conflict, NotAllowed, RelaunchError, Unavailable
from relaunch_agent import facts
from relaunch_agent.bus_connection import BusConnection
from relaunch_agent.enrolment import Credential

LONGEST_PAUSE_SECONDS = 2.0
LONGEST_REFUSED_PAUSE_SECONDS = 30.0  # not at once: a bus whose controller is just starting refuses everybody
HELLO_TRIES = 3


class Link:
    """`connected` is set between a `Welcome` and the loss of that connection."""

    def __init__(
        self,
        credential: Credential,
        tls: ssl.SSLContext,
        *,
        hello: Callable[[], Hello],
        obey: Callable[[Any], Awaitable[Any]],
    ) -> None:
        self._credential = credential
        self._tls = tls
        self._hello = hello
        self._obey = obey
        self._connection: Optional[BusConnection] = None
        self._beat_seconds = 1.0
        self._heard_at = 0.0
        self.connected = asyncio.Event()
        self.ever_connected = asyncio.Event()

    async def keep(self) -> None:
        """Connect, prove it, beat; when it breaks, again, for ever."""
        pause = 0.1
        said = ""
        while True:
            began, longest = time.monotonic(), LONGEST_PAUSE_SECONDS
            try:
                await self._one_connection()
                trouble = "the connection to the bus ended"
            except RelaunchError as error:
                trouble = str(error)
                if isinstance(error, NotAllowed):
                    longest = LONGEST_REFUSED_PAUSE_SECONDS
            finally:
                self.connected.clear()
            if trouble != said:
                print(f"bus: {trouble}", file=sys.stderr, flush=True)
                said = trouble
            if time.monotonic() - began > 10:
                pause, said = 0.1, ""
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, longest)

    async def report(self, message: Any, *, timeout: float = 3.0) -> Any:
        """Ask the controller; the answer, Unavailable without one, Conflict when it refuses, BadInput when `message` is
        larger than the bus takes."""
        connection = self._connection
        if connection is None or not self.connected.is_set():
            raise Unavailable("not connected to the controller")
        answer = decode(
            await connection.request(subjects.report(self._credential.agent), encode(message), timeout=timeout)
        )
        if isinstance(answer, Refused):
            raise Conflict(f"the controller refused {type(message).__name__}: {answer.reason}")
        return answer

    async def send(self, message: Any) -> None:
        """Publish a piece of output, of at most streaming.PIECE_BYTES; returns when the bus has it."""
        connection = self._connection
        if connection is None:
            raise Unavailable("not connected to the controller")
        connection.publish(subjects.output(self._credential.agent), encode(message))
        await connection.flush()

    def tell(self, message: Any) -> bool:
        """Say how things are, without waiting for anybody; False when that cannot be said now."""
        connection = self._connection
        if connection is None or not self.connected.is_set() or connection.closed.is_set():
            return False
        try:
            connection.publish(subjects.alive(self._credential.agent), encode(message))
        except BadInput as error:
            print(f"{type(message).__name__} is not told: {error}", file=sys.stderr, flush=True)
            return False
        return True

    @property
    def heard_at(self) -> float:
        """When anything came from the bus, on the monotonic clock; 0 when nothing has yet."""
        if self._connection is not None and self.connected.is_set():
            self._heard_at = max(self._heard_at, self._connection.heard_at)
        return self._heard_at

    async def _one_connection(self) -> None:
        address = urlsplit(self._credential.bus_url)
        agent = self._credential.agent
        connection = await BusConnection.connect(
            address.hostname or "", address.port or 4222, tls=self._tls, user=agent, password=self._credential.secret,
            inbox=subjects.inbox_prefix(agent),
        )  # fmt: skip
        self._connection = connection
        try:
            connection.subscribe(subjects.order(agent), self._take_order)
            self._beat_seconds = (await self._welcome(connection)).heartbeat_seconds
            self.connected.set()
            self.ever_connected.set()
            while not connection.closed.is_set():
                connection.publish(subjects.alive(agent), encode(facts.alive()))
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(connection.closed.wait(), self._beat_seconds)
            raise Unavailable(f"the connection to the bus ended: {connection.why_closed}")
        finally:
            self._connection = None
            connection.close()

    async def _welcome(self, connection: BusConnection) -> Welcome:
        """A bus may say `connected` before it has asked anyone who we are: only an answer proves the link."""
        subject = subjects.report(self._credential.agent)
        for attempt in range(HELLO_TRIES):
            try:
                answer = decode(await connection.request(subject, encode(self._hello()), timeout=2.0))
            except Unavailable:
                if attempt == HELLO_TRIES - 1 or connection.closed.is_set():
                    raise
                await asyncio.sleep(0.1)
                continue
            if isinstance(answer, Welcome):
                return answer
            if isinstance(answer, Refused):
                raise NotAllowed(f"the controller refused our hello: {answer.reason}")
            raise BadInput(f"the controller answered our hello with {type(answer).__name__}")
        raise AssertionError("unreachable")

    async def _take_order(self, payload: bytes, reply: str) -> None:
        try:
            answer = await self._obey(decode(payload))
        except RelaunchError as error:
            answer = Refused(str(error))
        except OSError as error:
            answer = Refused(f"the server could not do it: {error}")
        connection = self._connection
        if reply and connection is not None:
            with contextlib.suppress(Unavailable):
                try:
                    connection.publish(reply, encode(answer))
                except BadInput as error:
                    connection.publish(reply, encode(Refused(str(error))))


def stored(answer: Any) -> None:
    if not isinstance(answer, Stored):
        raise BadInput(f"the controller answered with {type(answer).__name__}")
