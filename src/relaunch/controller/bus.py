"""The bus: nats-server as a child, and the judge who says which agent may connect and which subjects are its own."""

from __future__ import annotations

import base64
import json
import logging
import os
import secrets
import socket
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import nats
import nkeys
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from relaunch.bus import subjects
from relaunch.controller.children import Child, Program
from relaunch.errors import Unavailable

log = logging.getLogger("relaunch.bus")

ACCOUNT = "RELAUNCH"
SYSTEM_ACCOUNT = "SYS"
MAX_PAYLOAD_BYTES = 1_048_576
PING_SECONDS = 5
PINGS_UNANSWERED = 2
ANSWER_WITHIN_SECONDS = 900  # an order may be answered this late; making an image ready takes longest

Judge = Callable[[str, str], bool]  # (agent's id, its secret) → may it connect?


@dataclass(frozen=True, slots=True, kw_only=True)
class BusPlace:
    """Where the bus listens and where its files are."""

    folder: Path
    log_folder: Path
    host: str
    port: int
    ca_file: Path
    certificate_file: Path
    key_file: Path

    @property
    def url(self) -> str:
        return f"tls://{self.host}:{self.port}"


class Presence(Protocol):
    """Called when agents come and go; `connection` is the number the bus gave to that connection."""

    def agent_admitted(self, agent: str, connection: int) -> None: ...
    def agent_gone(self, agent: str, connection: int) -> None: ...
    def bus_lost(self) -> None: ...


class Bus:
    """Started once; `connection` is the controller's own, with every right in the agents' account."""

    def __init__(self, place: BusPlace, judge: Judge) -> None:
        self._place = place
        self._judge = judge
        self._presence: Presence | None = None
        # All keys live as long as this process: every start writes a new configuration.
        self._issuer = _key_pair(nkeys.PREFIX_BYTE_ACCOUNT)
        self._controller_seed, self._controller_key = _user_key()
        self._watcher_seed, self._watcher_key = _user_key()
        self._child = Child(self._program())
        self._connection: Client | None = None
        self._system: Client | None = None
        self._server_id = ""

    @property
    def connection(self) -> Client:
        if self._connection is None:
            raise Unavailable("the bus is not started")
        return self._connection

    @property
    def pid(self) -> int | None:
        return self._child.pid

    def watch(self, presence: Presence) -> None:
        self._presence = presence

    async def start(self) -> None:
        self._write_configuration()
        await self._child.start()
        self._connection = await self._connect(self._controller_seed, "controller")
        self._system = await self._connect(self._watcher_seed, "watcher")
        await self._connection.subscribe("$SYS.REQ.USER.AUTH", cb=self._on_auth)
        await self._system.subscribe(f"$SYS.ACCOUNT.{ACCOUNT}.DISCONNECT", cb=self._on_disconnect)
        await self._connection.flush()
        await self._system.flush()

    async def stop(self) -> None:
        for connection in (self._connection, self._system):
            if connection is not None:
                await connection.close()
        await self._child.stop()

    async def disconnect(self, connection: int) -> None:
        """Close one agent's connection; it has to ask for admission again."""
        if self._system is not None and self._server_id:
            body = json.dumps({"cid": connection}).encode()
            try:
                await self._system.request(f"$SYS.REQ.SERVER.{self._server_id}.KICK", body, timeout=2.0)
            except NatsError as error:
                log.warning("connection %d of the bus could not be closed: %s", connection, error)

    async def _connect(self, seed: str, name: str) -> Client:
        context = ssl.create_default_context(cafile=str(self._place.ca_file))
        return await nats.connect(
            self._place.url,
            name=name,
            tls=context,
            nkeys_seed_str=seed,
            connect_timeout=2,
            reconnect_time_wait=0.2,
            max_reconnect_attempts=-1,
            ping_interval=PING_SECONDS,
            max_outstanding_pings=PINGS_UNANSWERED,
            no_echo=True,  # we listen to all subjects of agents, but not to our own orders
            error_cb=_on_error,
            disconnected_cb=self._on_lost,
        )

    def _program(self) -> Program:
        place = self._place
        place.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.log_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Program(
            name="nats-server",
            command=(nats_server(), "--config", str(place.folder / "nats.conf")),
            pid_file=place.folder / "nats.pid",
            log_file=place.log_folder / "nats.log",
            ready=self._listens,
        )

    async def _listens(self) -> bool:
        try:
            socket.create_connection((self._place.host, self._place.port), timeout=0.2).close()
        except OSError:
            return False
        return True

    def _write_configuration(self) -> None:
        text = CONFIGURATION.format(
            place=self._place,
            max_payload=MAX_PAYLOAD_BYTES,
            ping=PING_SECONDS,
            pings=PINGS_UNANSWERED,
            account=ACCOUNT,
            system=SYSTEM_ACCOUNT,
            controller=self._controller_key,
            watcher=self._watcher_key,
            issuer=self._issuer.public_key.decode(),
        )
        file = self._place.folder / "nats.conf"
        file.write_text(text)
        file.chmod(0o600)

    async def _on_auth(self, message: Msg) -> None:
        request = _claims(message.data)["nats"]
        options, client = request.get("connect_opts", {}), request["client_info"]
        agent, secret = options.get("user", ""), options.get("pass", "")
        self._server_id = request["server_id"]["id"]
        admitted = _is_token(agent) and self._judge(agent, secret)
        answer: dict[str, Any] = {"type": "authorization_response", "version": 2}
        if admitted:
            answer["jwt"] = self._jwt(request["user_nkey"], ACCOUNT, _permissions(agent), name=agent)
            if self._presence:
                self._presence.agent_admitted(agent, client["id"])
        else:
            answer["error"] = "not admitted"
            log.warning("refused a connection to the bus from %s as %r", client.get("host", "?"), agent[:64])
        await message.respond(self._jwt(request["user_nkey"], self._server_id, answer).encode())

    async def _on_disconnect(self, message: Msg) -> None:
        client = json.loads(message.data).get("client", {})
        agent = client.get("user", "")
        if self._presence and _is_token(agent):
            self._presence.agent_gone(agent, client.get("id", 0))

    async def _on_lost(self) -> None:
        if self._presence:
            self._presence.bus_lost()

    def _jwt(self, subject: str, audience: str, body: dict[str, Any], *, name: str = "") -> str:
        claims = {
            "iss": self._issuer.public_key.decode(),
            "sub": subject,
            "aud": audience,
            "iat": int(time.time()),
            "jti": secrets.token_hex(16),
            "nats": body,
        }
        if name:
            claims["name"] = name
        signed = f"{_base64({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_base64(claims)}"
        return f"{signed}.{_unpadded(self._issuer.sign(signed.encode()))}"


CONFIGURATION = """\
# Generated by relaunch (controller/bus.py) at each start of the controller. Changes made here are lost.
host: "{place.host}"
port: {place.port}
server_name: relaunch
max_payload: {max_payload}
ping_interval: "{ping}s"
ping_max: {pings}
write_deadline: "5s"
tls {{
  cert_file: "{place.certificate_file}"
  key_file: "{place.key_file}"
  ca_file: "{place.ca_file}"
  timeout: 5
}}
accounts {{
  {account}: {{ users: [ {{ nkey: {controller} }} ] }}
  {system}: {{ users: [ {{ nkey: {watcher} }} ] }}
}}
system_account: {system}
authorization {{
  # Longer than an agent waits: one that comes before the judge is there tries again instead of being refused.
  timeout: 7
  # Everyone else is judged by the controller, connection by connection.
  auth_callout {{ issuer: {issuer}, account: {account}, auth_users: [ {controller}, {watcher} ] }}
}}
"""


def nats_server() -> str:
    """The binary that came with the virtual environment this runs in."""
    return str(Path(sys.executable).parent / "nats-server")


def _permissions(agent: str) -> dict[str, Any]:
    """Exactly this agent's subjects, and one answer to each order it was given."""
    return {
        "type": "user",
        "version": 2,
        "pub": {"allow": [subjects.report(agent), subjects.output(agent), subjects.alive(agent)]},
        "sub": {"allow": [subjects.order(agent), f"{subjects.inbox_prefix(agent)}.>"]},
        "resp": {"max": 1, "ttl": ANSWER_WITHIN_SECONDS * 1_000_000_000},
        "subs": 32,
        "data": -1,
        "payload": -1,
    }


def _is_token(agent: str) -> bool:
    """One word of a subject: no wildcard or dot that would widen the permissions."""
    return bool(agent) and len(agent) <= 64 and agent.replace("-", "").replace("_", "").isalnum() and agent.isascii()


def _key_pair(prefix: int) -> nkeys.KeyPair:
    return nkeys.from_seed(bytearray(nkeys.encode_seed(os.urandom(32), prefix)))


def _user_key() -> tuple[str, str]:
    seed = bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    return seed.decode(), nkeys.from_seed(bytearray(seed)).public_key.decode()


def _claims(jwt: bytes) -> Any:
    body = jwt.split(b".")[1]
    return json.loads(base64.urlsafe_b64decode(body + b"=" * (-len(body) % 4)))


def _base64(value: dict[str, Any]) -> str:
    return _unpadded(json.dumps(value, separators=(",", ":")).encode())


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def _on_error(error: Exception) -> None:
    log.warning("bus: %s", error or type(error).__name__)
