"""Reaching a site from this machine: by each of its front ends without asking any DNS, and by its name."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relaunch.errors import Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back from one front end; `status` 0 and `why` when nothing did."""

    address: str
    host: str
    status: int = 0
    seconds: float = 0.0
    why: str = ""

    @property
    def good(self) -> bool:
        return 200 <= self.status < 400


def fetch(address: str, host: str, ca: Path, *, path: str = "/", timeout_seconds: float = 10) -> Answer:
    """One GET over TLS, the certificate checked against our authority and the site's name."""
    began = time.monotonic()
    try:
        context = ssl.create_default_context(cafile=str(ca))
        with (
            socket.create_connection((address, 443), timeout=timeout_seconds) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            connection = http.client.HTTPSConnection(host, context=context, timeout=timeout_seconds)
            connection.sock = secured
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
    except (OSError, http.client.HTTPException) as error:
        return Answer(address=address, host=host, why=str(error) or type(error).__name__)
    return Answer(address=address, host=host, status=response.status, seconds=time.monotonic() - began)


def wait_for_all(addresses: Sequence[str], host: str, ca: Path, *, timeout_seconds: float) -> list[Answer]:
    """The good answers of all front ends; Failed names those that gave none in time."""
    end = time.monotonic() + timeout_seconds
    answers: dict[str, Answer] = {}
    while True:
        for address in addresses:
            if not (address in answers and answers[address].good):
                answers[address] = fetch(address, host, ca)
        if all(answer.good for answer in answers.values()):
            return list(answers.values())
        if time.monotonic() > end:
            bad = "; ".join(f"{a.address}: {a.why or f'status {a.status}'}" for a in answers.values() if not a.good)
            raise Failed(
                f"{host} does not answer from this machine: {bad}",
                hint="./relaunch server list; ./relaunch server log SERVER",
            )
        time.sleep(0.3)


def wait_for_name(host: str, addresses: Sequence[str], server: str, *, timeout_seconds: float, port: int = 53) -> None:
    """Until the DNS `server` answers with each of the addresses; Failed tells what it said last."""
    end = time.monotonic() + timeout_seconds
    while True:
        found, why = _resolve(host, server, port)
        missing = sorted(set(addresses) - set(found))
        if not missing:
            return
        if time.monotonic() > end:
            said = why or f"its addresses are {', '.join(found)}"
            raise Failed(
                f"the name {host} does not lead to {', '.join(missing)}: {said}",
                hint=f"kdig @{server} {host}; the controller's log says what it told the DNS",
            )
        time.sleep(0.1)


def _resolve(host: str, server: str, port: int) -> tuple[list[str], str]:
    """The addresses the server gives, sorted, aliases followed; with none, why."""
    import dns.exception  # here: every other command starts sooner without them
    import dns.resolver

    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [server]
    resolver.port = port
    try:
        answer = resolver.resolve(f"{host}.", "A", lifetime=2)
    except (OSError, dns.exception.DNSException) as error:
        return [], str(error) or type(error).__name__
    return sorted(record.to_text() for record in answer), ""
