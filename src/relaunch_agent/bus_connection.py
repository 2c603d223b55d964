"""One connection to the bus: the part of the NATS client protocol an agent needs, every wait bounded.

The protocol is described at docs.nats.io (reference, client protocol). Importing nats-py takes an agent longer than all
the rest of its start, most of it for JetStream, and it retries for ever by itself; an agent wants neither.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from typing import Any, Awaitable, Callable, Dict, Optional, Tuple

from relaunch.errors import BadInput, NotAllowed, Unavailable

PING_SECONDS = 2.0
PINGS_UNANSWERED = 2
MAX_LINE_BYTES = 64 * 1024
MAX_PAYLOAD_BYTES = 1024 * 1024  # of a bus that does not say
Handler = Callable[[bytes, str], Awaitable[None]]  # payload, reply subject ("" when none is wanted)


class BusConnection:
    """Lives from `connect` until `closed` is set; never reconnects by itself."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, inbox: str, *, max_payload: int
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._max_payload = max_payload
        self._plain: Optional[asyncio.StreamWriter] = None
        self._inbox = f"{inbox}.{random.getrandbits(64):x}"
        self._handlers: Dict[str, Handler] = {}
        self._answers: Dict[str, asyncio.Future[bytes]] = {}
        self._pongs: list[asyncio.Future[None]] = []
        self._number = 0
        self._unanswered = 0
        self.heard_at = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self.closed = asyncio.Event()
        self.why_closed = ""

    @classmethod
    async def connect(
        cls, host: str, port: int, *, tls: ssl.SSLContext, user: str, password: str, inbox: str, timeout: float = 5.0
    ) -> BusConnection:
        """NotAllowed when the bus refuses the credential, Unavailable when it does not answer in time."""
        try:
            return await asyncio.wait_for(cls._connected(host, port, tls, user, password, inbox), timeout)
        except asyncio.TimeoutError:
            raise Unavailable(f"the bus at {host}:{port} did not answer within {timeout:g} s") from None
        except (OSError, EOFError, ValueError) as error:
            raise Unavailable(f"no connection to the bus at {host}:{port}: {error}") from None

    @classmethod
    async def _connected(
        cls, host: str, port: int, tls: ssl.SSLContext, user: str, password: str, inbox: str
    ) -> BusConnection:
        plain_reader, plain = await asyncio.open_connection(host, port, limit=MAX_LINE_BYTES)
        writer = plain
        try:
            greeting = await plain_reader.readline()
            if not greeting.startswith(b"INFO "):
                raise Unavailable(f"{host}:{port} is not a bus: it said {greeting[:40]!r}")
            max_payload = int(json.loads(greeting[5:]).get("max_payload", MAX_PAYLOAD_BYTES))
            reader, writer = await _encrypted(plain, tls, host)
            options = {
                "user": user, "pass": password, "verbose": False, "pedantic": False, "headers": True,
                "no_responders": True, "protocol": 1, "lang": "python3", "version": "1", "name": user, "echo": False,
                "tls_required": True,
            }  # fmt: skip
            writer.write(b"CONNECT " + json.dumps(options).encode() + b"\r\nPING\r\n")
            while True:
                line = await reader.readline()
                if line == b"PONG\r\n":
                    break
                if line.startswith(b"-ERR"):
                    raise NotAllowed(f"the bus refused us: {line[5:].decode('utf-8', 'replace').strip()}")
                if not line:
                    raise Unavailable("the bus closed the connection before it answered")
        except BaseException:
            writer.transport.abort()
            raise
        connection = cls(reader, writer, inbox, max_payload=max_payload)
        # Python closes the transport below TLS when the writer it was opened with is collected.
        connection._plain = plain
        connection._start(connection._read())
        connection._start(connection._ping())
        connection._subscribe(f"{connection._inbox}.*", "1")
        return connection

    def subscribe(self, subject: str, handler: Handler) -> None:
        self._number += 1
        number = str(self._number + 1)
        self._handlers[number] = handler
        self._subscribe(subject, number)

    def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        """BadInput for what is larger than the bus takes: it would end the connection."""
        if len(payload) > self._max_payload:
            raise BadInput(f"a message of {len(payload)} bytes: the bus takes {self._max_payload} at most")
        if self.closed.is_set():
            raise Unavailable(f"the connection to the bus is gone: {self.why_closed}")
        head = f"PUB {subject} {reply + ' ' if reply else ''}{len(payload)}\r\n".encode()
        self._writer.write(head + payload + b"\r\n")

    async def request(self, subject: str, payload: bytes, *, timeout: float = 3.0) -> bytes:
        """The first answer; Unavailable when nobody listens, the time is over or the connection breaks, BadInput when
        it is larger than the bus takes."""
        self._number += 1
        token = f"{self._number:x}"
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[token] = answer
        try:
            self.publish(subject, payload, f"{self._inbox}.{token}")
            return await asyncio.wait_for(answer, timeout)
        except asyncio.TimeoutError:
            raise Unavailable(f"no answer on {subject} within {timeout:g} s") from None
        finally:
            self._answers.pop(token, None)

    async def flush(self, *, timeout: float = 5.0) -> None:
        """Until the server has read all that was published before."""
        if self.closed.is_set():
            raise Unavailable(f"the connection to the bus is gone: {self.why_closed}")
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        self._writer.write(b"PING\r\n")
        try:
            await asyncio.wait_for(asyncio.shield(pong), timeout)
        except asyncio.TimeoutError:
            self.close("no answer to a ping")
            raise Unavailable("the bus does not answer") from None

    def close(self, why: str = "closed by us") -> None:
        if self.closed.is_set():
            return
        self.closed.set()
        self.why_closed = why
        self._writer.transport.abort()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        waiting: list[asyncio.Future[Any]] = [*self._answers.values(), *self._pongs]
        for future in waiting:
            if not future.done():
                future.set_exception(Unavailable(f"the connection to the bus is gone: {why}"))
                future.exception()  # not every one is waited for

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _subscribe(self, subject: str, number: str) -> None:
        self._writer.write(f"SUB {subject} {number}\r\n".encode())

    async def _ping(self) -> None:
        while not self.closed.is_set():
            await asyncio.sleep(PING_SECONDS)
            if self._unanswered >= PINGS_UNANSWERED:
                self.close("the bus does not answer pings")
                return
            self._unanswered += 1
            pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._pongs.append(pong)
            self._writer.write(b"PING\r\n")

    async def _read(self) -> None:
        why = "the bus closed the connection"
        try:
            while True:
                line = await self._reader.readline()
                if not line.endswith(b"\r\n"):
                    break
                self.heard_at = time.monotonic()
                verb, _, rest = line[:-2].partition(b" ")
                if verb == b"MSG":
                    await self._take(rest.decode().split(), has_headers=False)
                elif verb == b"HMSG":
                    await self._take(rest.decode().split(), has_headers=True)
                elif verb == b"PING":
                    self._writer.write(b"PONG\r\n")
                elif verb == b"PONG":
                    self._unanswered = 0
                    if self._pongs:
                        _resolve(self._pongs.pop(0), None)
                elif verb == b"-ERR" and b"Permissions Violation" not in rest:
                    why = rest.decode("utf-8", "replace")
        except (OSError, EOFError, ValueError) as error:
            why = str(error) or type(error).__name__
        self.close(why)

    async def _take(self, words: list[str], *, has_headers: bool) -> None:
        """SUBJECT NUMBER [REPLY] [HEADER_BYTES] TOTAL_BYTES, then the payload."""
        total = int(words[-1])
        data = (await self._reader.readexactly(total + 2))[:-2]
        header_bytes = int(words[-2]) if has_headers else 0
        subject, number, *reply = words[: -2 if has_headers else -1]
        if number == "1":
            answer = self._answers.get(subject.rpartition(".")[2])
            if answer is not None and not answer.done():
                if data[:header_bytes].startswith(b"NATS/1.0 503"):
                    answer.set_exception(Unavailable("nobody listens there: the controller is not running"))
                else:
                    answer.set_result(data[header_bytes:])
        elif number in self._handlers:
            self._start(self._handlers[number](data[header_bytes:], reply[0] if reply else ""))


async def _encrypted(
    plain: asyncio.StreamWriter, tls: ssl.SSLContext, host: str
) -> Tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """StreamWriter.start_tls exists only from Python 3.11 on."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport = await loop.start_tls(plain.transport, protocol, tls, server_hostname=host, ssl_handshake_timeout=5.0)
    if transport is None:
        raise Unavailable("no TLS with the bus")
    reader.set_transport(transport)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def _resolve(future: asyncio.Future[None], value: None) -> None:
    if not future.done():
        future.set_result(value)
