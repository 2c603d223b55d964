"""A controller's API of a few lines on a loopback port, and the command line run against it in this process."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from relaunch.cli import here
from relaunch.cli.main import main

TOKEN = "right-token"


@dataclass
class Api:
    """`answers["GET /servers"]` is (status, body); a str body is sent as an event stream. `late`: routes whose answer
    waits for `released`."""

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    late: set[str] = field(default_factory=set)
    released: threading.Event = field(default_factory=threading.Event)
    version: str = "0.1.0"
    url: str = ""

    def bodies(self, route: str) -> list[Any]:
        return [body for asked, body in self.asked if asked == route]


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def _handler(api: Api) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            route = f"{self.command} {self.path.removeprefix('/api/v1')}"
            api.asked.append((route, body))
            if route in api.late:
                api.released.wait(10)
            status, told = (
                api.answers.get(route) or api.answers.get(route.partition("?")[0]) or (404, refusal("not_found"))
            )
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                status, told = 401, refusal("not_allowed", "this token is unknown")
            content = told.encode() if isinstance(told, str) else json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/event-stream" if isinstance(told, str) else "application/json")
            self.send_header("Relaunch-Version", api.version)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *args: object) -> None:
            pass

    return Handler


def refusal(code: str, message: str = "no such thing", hint: str = "") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "hint": hint}}


def stream(*events: tuple[str, dict[str, Any]]) -> str:
    return ": hello\n\n" + "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Api]:
    api = Api()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(api))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    api.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("RELAUNCH_URL", api.url)
    monkeypatch.setenv("RELAUNCH_TOKEN", TOKEN)
    monkeypatch.setenv("RELAUNCH_STATE", str(tmp_path / "state"))
    yield api
    api.released.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def relaunch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`relaunch("server", "list")` as typed; its status and what it printed."""

    def run(*words: str) -> Ran:
        here.controller.cache_clear()
        monkeypatch.setattr(sys, "argv", ["relaunch", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Ran(int(ended.value.code or 0), printed.out, printed.err)

    return run
