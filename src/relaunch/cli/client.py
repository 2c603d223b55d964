"""The controller's HTTPS API as the commands see it.

On http.client, because that is imported in 30 ms where httpx takes 300, and the Tab key waits for it.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import ssl
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urlsplit

from relaunch import __version__
from relaunch.errors import Conflict, Failed, NotAllowed, RelaunchError, Unavailable

PREFIX = "/api/v1"
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A controller's address and what it takes to talk to it. `ca`: None trusts the system's authorities."""

    url: str
    token: str
    ca: Path | None


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """RELAUNCH_STATE, or /var/lib/relaunch: as controller/settings.py has it, without its slow imports."""
    return Path(environment.get("RELAUNCH_STATE") or "/var/lib/relaunch")


def find_controller(environment: Mapping[str, str] = os.environ) -> Where:
    """From RELAUNCH_URL, RELAUNCH_TOKEN and RELAUNCH_CA; what is not given, from the state folder's files."""
    state = state_folder(environment)
    url, token, ca = (environment.get(f"RELAUNCH_{name}", "") for name in ("URL", "TOKEN", "CA"))
    if url and token:
        return Where(url=url.rstrip("/"), token=token, ca=Path(ca) if ca else None)
    try:
        file = state / "controller.toml"
        port = tomllib.loads(file.read_text()).get("api_port", 7443) if file.exists() else 7443
        token = token or (state / "admin-token").read_text().strip()
    except PermissionError as error:
        raise NotAllowed(
            f"{error.filename} may be read by root only",
            hint="use sudo, or set RELAUNCH_URL, RELAUNCH_TOKEN (from `token create`) and RELAUNCH_CA",
        ) from None
    except FileNotFoundError:
        raise Unavailable(
            f"no controller has run with the state folder {state}",
            hint="start one: sudo ./relaunch controller start (or sudo ./demo). Another folder: RELAUNCH_STATE",
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise Failed(f"{file}: {error}", hint="correct the file") from None
    return Where(
        url=url.rstrip("/") or f"https://127.0.0.1:{port}", token=token, ca=Path(ca) if ca else state / "ca" / "ca.crt"
    )


@dataclass(frozen=True, slots=True)
class Upload:
    file: BinaryIO
    size_bytes: int


class Client:
    """One connection, opened when first needed. Errors are those of relaunch.errors, made again from the answer."""

    def __init__(self, where: Where, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self.where = where
        self._timeout = timeout_seconds
        self._connection: http.client.HTTPConnection | None = None

    def get(self, path: str, **query: object) -> Any:
        given = {key: str(value) for key, value in query.items() if value not in (None, "")}
        return self._ask("GET", path + ("?" + urlencode(given) if given else ""))

    def post(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        return self._ask("POST", path, body or {})

    def put(self, path: str, body: Mapping[str, object]) -> Any:
        return self._ask("PUT", path, body)

    def upload(self, path: str, file: BinaryIO, size_bytes: int) -> Any:
        """A file as the body of a PUT, read while it is sent."""
        response = self._send("PUT", PREFIX + path, Upload(file, size_bytes))
        return self._read(response)

    def delete(self, path: str) -> Any:
        return self._ask("DELETE", path)

    def healthy(self) -> bool:
        """Whether the controller answers at all; needs no right token."""
        try:
            response = self._send("GET", "/healthz", None)
            response.read()
        except Unavailable:
            return False
        return response.status == 200

    def events(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Server-sent events, (name, data), until the controller ends the stream or is gone (Unavailable)."""
        response = self._send("GET", PREFIX + path, None, accept="text/event-stream")
        if response.status != 200:
            raise _error(response, response.read(), self.where)
        name, data = "message", ""
        try:
            for raw in response:
                line = raw.decode().rstrip("\r\n")
                if line.startswith("event:"):
                    name = line[6:].strip()
                elif line.startswith("data:"):
                    data += line[5:].lstrip()
                elif not line and data:
                    yield name, json.loads(data)
                    name, data = "message", ""
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error, sent=True) from None
        finally:
            self.close()

    def close(self) -> None:
        if self._connection:
            self._connection.close()
        self._connection = None

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        return self._read(self._send(method, PREFIX + path, body))

    def _read(self, response: http.client.HTTPResponse) -> Any:
        try:
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error, sent=True) from None
        if response.status >= 400:
            raise _error(response, content, self.where)
        if "json" not in (response.headers.get_content_type() or ""):
            return content.decode(errors="replace")
        return json.loads(content) if content else {}

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | Upload | None,
        *,
        accept: str = "application/json",
    ) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {self.where.token}", "Accept": accept, "Relaunch-Version": __version__}
        content: str | BinaryIO | None = None
        if isinstance(body, Upload):
            headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(body.size_bytes)}
            content = body.file
        elif body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body)
        for attempt in (1, 2):
            if self._connection is not None and _ended(self._connection):
                self.close()
            fresh = self._connection is None
            connection = self._connection = self._connection or self._connect()
            sent = False
            try:
                connection.request(method, path, content, headers)
                sent = True
                return connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                self.close()
                # A kept connection the controller has closed meanwhile says nothing; only reads are safe to send again.
                if fresh or attempt == 2 or method != "GET":
                    raise self._unreachable(error, sent=sent) from None
        raise AssertionError("not reached")

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.where.url)
        if not parts.hostname or parts.scheme not in ("http", "https"):
            raise Failed(f"RELAUNCH_URL {self.where.url} is no address", hint="like https://controller.example:7443")
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=self._timeout)
        try:
            context = ssl.create_default_context(cafile=str(self.where.ca) if self.where.ca else None)
        except FileNotFoundError:
            raise Unavailable(
                f"{self.where.ca} is not there", hint="start the controller, or set RELAUNCH_CA"
            ) from None
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=self._timeout, context=context)

    def _unreachable(self, error: BaseException, *, sent: bool) -> RelaunchError:
        """`sent`: the whole request was, so the controller may do what it says."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return NotAllowed(
                f"{self.where.url} shows a certificate that {self.where.ca or 'no known authority'} did not sign",
                hint="set RELAUNCH_CA to the file ca/ca.crt of that controller",
            )
        if sent and isinstance(error, TimeoutError):
            return Unavailable(
                f"the controller at {self.where.url} has not answered for {self._timeout:.0f} s",
                hint="what was asked may be under way: relaunch task list, relaunch audit",
            )
        why = str(error) or type(error).__name__
        return Unavailable(
            f"no controller answers at {self.where.url}: {why}",
            hint="is it running? sudo ./relaunch controller status; start it: sudo ./relaunch controller start",
        )


def _ended(connection: http.client.HTTPConnection) -> bool:
    """Whether the controller has closed a connection on which no answer is due: nothing but its end can be read."""
    return connection.sock is not None and bool(select.select([connection.sock], [], [], 0)[0])


def part(text: str) -> str:
    """One segment of a path."""
    return quote(text, safe="")


def _error(response: http.client.HTTPResponse, content: bytes, where: Where) -> RelaunchError:
    theirs = response.headers.get("Relaunch-Version", __version__)
    if theirs.split(".")[:2] != __version__.split(".")[:2]:
        return Conflict(
            f"the controller at {where.url} is version {theirs}, this command is {__version__}",
            hint="use the same version: sudo ./relaunch controller stop, then sudo ./relaunch controller start",
        )
    try:
        told = json.loads(content)["error"]
        code, message, hint = told.get("code", ""), told.get("message", ""), told.get("hint", "")
    except (ValueError, KeyError, TypeError, AttributeError):
        code, message, hint = "", f"{response.status} {response.reason} from {where.url}", ""
    if response.status == 401:
        hint = hint or "check RELAUNCH_TOKEN, or the file admin-token in the controller's state folder"
    found = next((kind for kind in _kinds(RelaunchError) if kind.code == code), None)
    found = found or next((k for k in _kinds(RelaunchError) if k.http_status == response.status), Failed)
    error = found.__new__(found)
    RelaunchError.__init__(error, message, hint=hint)
    return error


def _kinds(kind: type[RelaunchError]) -> Iterator[type[RelaunchError]]:
    for sub in kind.__subclasses__():
        yield sub
        yield from _kinds(sub)
