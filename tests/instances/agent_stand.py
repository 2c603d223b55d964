"""A stand-in of the controller for tests of the agent: a real bus over TLS, real HTTPS, no controller code."""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from relaunch.bus import subjects
from relaunch.bus.messages import (
    Alive,
    Blob,
    DatabaseReport,
    Hello,
    Output,
    Published,
    RunProgress,
    RunScripts,
    RunState,
    ScriptToRun,
    Stored,
    Welcome,
    Witnessed,
    decode,
    encode,
)

AGENT, SECRET, TOKEN = "i-test", "sssh-it-is-secret", "one-time-token"
SOURCES = Path(__file__).parents[2] / "src"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def certificates(folder: Path) -> None:
    """ca.crt, server.crt, server.key for 127.0.0.1, as strict as Python 3.13 wants them."""
    now = datetime.datetime.now(datetime.UTC)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def start(subject: str, public: Any) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name("test CA")).public_key(public)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
            now + datetime.timedelta(days=1)
        )

    def usage(*, ca: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False,
        )  # fmt: skip

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ski = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    ca = (
        start("test CA", ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .add_extension(usage(ca=True), True)
        .add_extension(ski, False)
        .sign(ca_key, hashes.SHA256())
    )
    addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    certificate = (
        start("test", key.public_key())
        .add_extension(x509.SubjectAlternativeName(addresses), False)
        .add_extension(usage(ca=False), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski), False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(ca.public_bytes(pem))
    (folder / "server.crt").write_bytes(certificate.public_bytes(pem))
    (folder / "server.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


BUS_CONFIG = """
listen: 127.0.0.1:{port}
tls {{ cert_file: "{folder}/server.crt", key_file: "{folder}/server.key" }}
authorization {{ users: [
  {{ user: controller, password: controller }}
  {{ user: "{agent}", password: "{secret}", permissions: {{
      publish: ["{report}", "{output}", "{alive}"], subscribe: ["{order}", "{inbox}.>"], allow_responses: true }} }}
] }}
"""


class Stand:
    """What a controller is to one agent. `root` is the agent's file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.http_port, self.bus_port = free_port(), free_port()
        self.blobs: dict[str, bytes] = {}
        self.enrolments: list[dict[str, Any]] = []
        self.lose_first_answer = False
        self.program = b""  # what is served as relaunch-agent.pyz
        self.hellos: list[Hello] = []
        self.outputs: list[Output] = []
        self.progress: list[RunProgress] = []
        self.published: list[Published] = []
        self.alive: list[Alive] = []
        self.reports: list[tuple[float, DatabaseReport]] = []  # when it came, on the monotonic clock
        self.witnessed: list[Witnessed] = []
        self.deaf = False
        self._agents: list[subprocess.Popen[bytes]] = []
        self._bus: subprocess.Popen[bytes] | None = None
        self._runs = 0

    async def open(self) -> Stand:
        if not (self.folder / "ca.crt").exists():
            certificates(self.folder)
        (self.folder / "bus.conf").write_text(
            BUS_CONFIG.format(
                port=self.bus_port, folder=self.folder, agent=AGENT, secret=SECRET,
                report=subjects.report(AGENT), output=subjects.output(AGENT), alive=subjects.alive(AGENT),
                order=subjects.order(AGENT), inbox=subjects.inbox_prefix(AGENT),
            )
        )  # fmt: skip
        config = self.root / "etc/relaunch/agent.json"
        config.parent.mkdir(parents=True)
        url = f"https://127.0.0.1:{self.http_port}"
        config.write_text(json.dumps({"controller_url": url, "token": TOKEN, "ca_file": str(self.folder / "ca.crt")}))
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")
        self._tls = tls
        await self.start_http()
        await self.start_bus()
        return self

    async def start_http(self) -> None:
        self._http = await asyncio.start_server(self._serve, "127.0.0.1", self.http_port, ssl=self._tls)

    def stop_http(self) -> None:
        self._http.close()

    async def start_bus(self) -> None:
        program = Path(sys.executable).with_name("nats-server")
        self._bus = subprocess.Popen(  # noqa: ASYNC220
            [program, "-c", self.folder / "bus.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        client_tls = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        await until(lambda: listens(self.bus_port), "the bus listens")
        self.bus = await nats.connect(
            f"tls://127.0.0.1:{self.bus_port}", user="controller", password="controller", tls=client_tls,
            allow_reconnect=False, connect_timeout=2,
        )  # fmt: skip
        await self.bus.subscribe(subjects.ALL_REPORTS, cb=self._report)
        await self.bus.subscribe(subjects.ALL_OUTPUT, cb=self._output)
        await self.bus.subscribe(subjects.ALL_ALIVE, cb=self._alive)
        await self.bus.flush()

    async def stop_bus(self) -> None:
        assert self._bus is not None
        self._bus.kill()
        self._bus.wait()

    async def close(self) -> None:
        for agent in self._agents:
            agent.kill()
            agent.wait()
        await self.bus.close()
        await self.stop_bus()
        self.stop_http()

    def start_agent(self, *command: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        # Another Python than the tests' own shows that the agent runs on every version it promises.
        words = command or (os.environ.get("AGENT_PYTHON", sys.executable), "-m", "relaunch_agent")
        with (self.folder / "agent.err").open("ab") as log:
            agent = subprocess.Popen(
                [*words, "--root", str(self.root)], stderr=log, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(SOURCES), **(environment or {})},
            )  # fmt: skip
        self._agents.append(agent)
        return agent

    @property
    def log(self) -> str:
        file = self.folder / "agent.err"
        return file.read_text() if file.exists() else ""

    def blob(self, name: str, content: str | bytes) -> Blob:
        data = content.encode() if isinstance(content, str) else content
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return Blob(name, digest, len(data))

    def script(self, text: str, **how: Any) -> ScriptToRun:
        return ScriptToRun(how.pop("name", "a script.sh"), self.blob("script", text), **how)

    async def order(self, message: object, timeout: float = 5.0) -> Any:
        return decode((await self.bus.request(subjects.order(AGENT), encode(message), timeout=timeout)).data)

    async def begin(self, *scripts: ScriptToRun, **how: Any) -> str:
        self._runs += 1
        run_id = how.pop("run_id", f"run-{self._runs}")
        await self.order(RunScripts(run_id, how.pop("phase", "operational"), list(scripts), **how))
        return run_id

    async def ended(self, run_id: str, timeout: float = 20.0) -> RunState:
        await until(lambda: self.state(run_id) in ("succeeded", "failed", "cancelled"), f"{run_id} ended", timeout)
        return next(p.run for p in reversed(self.progress) if p.run.run_id == run_id)

    async def run(self, *scripts: ScriptToRun, timeout: float = 20.0, **how: Any) -> RunState:
        return await self.ended(await self.begin(*scripts, **how), timeout)

    def state(self, run_id: str) -> str:
        return next((p.run.state for p in reversed(self.progress) if p.run.run_id == run_id), "unknown")

    def text(self, run_id: str, index: int = 0) -> str:
        """As a controller puts it together: a piece that comes again says by its offset that it is known."""
        whole, at = b"", 0
        for piece in [o for o in self.outputs if o.run_id == run_id and o.index == index]:
            data = piece.text.encode()
            whole += data[max(0, at - piece.offset) :]
            at = max(at, piece.offset + len(data))
        return whole.decode()

    async def connected(self, count: int = 1, timeout: float = 15.0) -> None:
        await until(lambda: len(self.hellos) >= count, f"{count} hellos; agent said: {self.log}", timeout)

    async def local(self, *words: str) -> tuple[int, str, str]:
        source = (SOURCES / "relaunch_agent/local_command.py").read_text()
        text = source.replace("/run/relaunch/agent.sock", str(self.root / "run/relaunch/agent.sock"))
        process = await asyncio.create_subprocess_exec(
            "/usr/bin/python3", "-ISc", text, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    async def _report(self, message: Any) -> None:
        said = decode(message.data)
        answer: object = Stored()
        if self.deaf:
            return
        if isinstance(said, Hello):
            self.hellos.append(said)
            answer = Welcome("0.1.0", 0.2)
        elif isinstance(said, RunProgress):
            self.progress.append(said)
        elif isinstance(said, Published):
            self.published.append(said)
        await message.respond(encode(answer))

    async def _output(self, message: Any) -> None:
        self.outputs.append(decode(message.data))

    async def _alive(self, message: Any) -> None:
        said = decode(message.data)
        if isinstance(said, DatabaseReport):
            self.reports.append((time.monotonic(), said))
        elif isinstance(said, Witnessed):
            self.witnessed.append(said)
        else:
            self.alive.append(said)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        status, answer = 404, b""
        if (method, path) == ("POST", "/api/v1/agent/enrol"):
            status, answer = self._enrol(json.loads(body))
            if self.lose_first_answer and len(self.enrolments) == 1:
                writer.transport.abort()
                return
        elif path == "/api/v1/agent/relaunch-agent.pyz":
            status, answer = 200, self.program
        elif path.startswith("/api/v1/agent/blobs/"):
            # The header's value keeps its case on the wire; compare what was sent.
            credential = base64.b64encode(f"{AGENT}:{SECRET}".encode()).decode()
            known = self.blobs.get(path.rpartition("/")[2])
            status, answer = (200, known) if known is not None else (404, b"")
            if f"Basic {credential}" not in head:
                status, answer = 401, b""
        writer.write(f"HTTP/1.0 {status} x\r\nContent-Length: {len(answer)}\r\n\r\n".encode() + answer)
        await writer.drain()
        writer.close()

    def _enrol(self, asked: dict[str, Any]) -> tuple[int, bytes]:
        self.enrolments.append(asked)
        if asked["token"] != TOKEN or asked["nonce"] != self.enrolments[0]["nonce"]:
            return 401, b"{}"
        given = {
            "agent": AGENT, "secret": SECRET, "bus_url": f"tls://127.0.0.1:{self.bus_port}",
            "ca": (self.folder / "ca.crt").read_text(), "certificate": (self.folder / "server.crt").read_text(),
            "key": (self.folder / "server.key").read_text(), "ssh_public_key": "ssh-ed25519 AAAA test",
        }  # fmt: skip
        return 200, json.dumps(given).encode()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def until(is_so: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
    end = time.monotonic() + timeout
    while not is_so():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        await asyncio.sleep(0.02)
