"""A command that cannot talk to a controller says why, and what to do."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from relaunch.cli import here
from relaunch.cli.client import Client, Where, find_controller
from relaunch.errors import Unavailable

from .conftest import Api, Ran

Relaunch = Callable[..., Ran]


def test_the_state_folders_files_are_used(tmp_path: Path) -> None:
    (tmp_path / "admin-token").write_text("secret\n")
    (tmp_path / "controller.toml").write_text("api_port = 17443\n")

    where = find_controller({"RELAUNCH_STATE": str(tmp_path)})

    assert (where.url, where.token) == ("https://127.0.0.1:17443", "secret")
    assert where.ca == tmp_path / "ca" / "ca.crt"


def test_the_environment_wins(tmp_path: Path) -> None:
    where = find_controller(
        {"RELAUNCH_URL": "https://far.example:1/", "RELAUNCH_TOKEN": "t", "RELAUNCH_CA": "/ca", "RELAUNCH_STATE": "/no"}
    )

    assert (where.url, where.token, where.ca) == ("https://far.example:1", "t", Path("/ca"))


def test_where_no_controller_ever_ran_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as refused:
        find_controller({"RELAUNCH_STATE": str(tmp_path / "never")})

    assert "controller start" in refused.value.hint


def test_a_controller_that_does_not_run_is_unavailable(
    api: Api, relaunch: Relaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RELAUNCH_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        ran = relaunch("server", "list")

    assert ran.status == 7
    assert "controller start" in ran.err


def test_an_order_that_is_not_answered_in_time_may_be_under_way(
    api: Api, relaunch: Relaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = "POST /databases/shop/restore"
    api.late.add(route)
    monkeypatch.setattr(here, "Client", partial(Client, timeout_seconds=0.3))

    ran = relaunch("db", "restore", "shop", "--confirm", "shop")

    assert ran.status == 7
    assert len(api.bodies(route)) == 1
    assert "has not answered" in ran.err and "relaunch task list" in ran.err
    assert "no controller answers" not in ran.err and "start it" not in ran.err


def test_a_wrong_token_is_not_allowed(api: Api, relaunch: Relaunch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAUNCH_TOKEN", "wrong")

    ran = relaunch("server", "list")

    assert ran.status == 6
    assert "RELAUNCH_TOKEN" in ran.err


def test_a_controller_of_another_version_is_named(api: Api, relaunch: Relaunch) -> None:
    api.version = "0.9.0"
    api.answers["GET /servers"] = (409, {"error": {"code": "version_mismatch", "message": "no", "hint": ""}})

    ran = relaunch("server", "list")

    assert ran.status == 4
    assert "0.9.0" in ran.err
    assert "0.1.0" in ran.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_is_not_root_is_told_to_use_sudo(tmp_path: Path) -> None:
    token = tmp_path / "admin-token"
    token.write_text("secret")
    token.chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    program = (
        "import os\n"
        "from relaunch.cli.client import find_controller\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "find_controller()"
    )

    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "RELAUNCH_STATE": str(tmp_path)},
    )

    assert "NotAllowed" in ran.stderr
    assert "use sudo" in ran.stderr


def test_an_order_after_a_long_pause_goes_over_a_new_connection() -> None:
    """The controller closes a connection on which nothing was said for a while."""
    asked = []

    class OneAnswerEach(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            self.close_connection = True  # without having said so

    with ThreadingHTTPServer(("127.0.0.1", 0), OneAnswerEach) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = Client(Where(url=f"http://127.0.0.1:{server.server_port}", token="t", ca=None))
        client.post("/one", {})
        assert client._connection and client._connection.sock
        select.select([client._connection.sock], [], [], 5)  # until its end is here
        client.post("/two", {})
        client.close()
        server.shutdown()

    assert len(asked) == 2
