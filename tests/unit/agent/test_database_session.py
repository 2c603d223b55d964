import socket
import time
from pathlib import Path

import pytest

from relaunch.errors import Unavailable
from relaunch_agent.database.session import LENIENT, LocalSession, is_silent

TRIES, MOST_SECONDS_A_TRY = 20, 0.01  # of the processor; it was 0.035 with the system's certificates read each time


def test_trying_to_reach_a_server_that_is_down_costs_next_to_nothing(tmp_path: Path) -> None:
    began = time.process_time()

    for _ in range(TRIES):
        with pytest.raises(Unavailable):
            LocalSession(str(tmp_path / "no.sock"))

    assert (time.process_time() - began) / TRIES < MOST_SECONDS_A_TRY


def test_what_the_server_has_cut_within_a_letter_is_read_and_what_we_send_is_utf8() -> None:
    assert "ПРИ".encode()[:5].decode(LENIENT) == "ПР\ufffd"
    assert "Я🙂".encode(LENIENT) == "Я🙂".encode()
    with pytest.raises(UnicodeEncodeError):
        "\ud800".encode(LENIENT)


def test_a_connection_that_the_server_has_ended_is_told_without_asking_the_server() -> None:
    ours, server = socket.socketpair()
    with ours, server:
        ours.settimeout(60.0)  # as the client's library sets it
        began = time.monotonic()
        assert is_silent(ours)
        assert time.monotonic() - began < 5.0
        server.sendall(b"killed")
        assert not is_silent(ours)
        assert ours.recv(6) == b"killed", "nothing of it is taken away"
        assert is_silent(ours)
        server.close()
        assert not is_silent(ours)
    assert not is_silent(ours), "nor when we have closed it ourselves"
