"""The internal authority's certificates hold in a real TLS handshake, strict checks included."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from relaunch.clock import SetClock, SystemClock
from relaunch.controller.certificates import AUTHORITY_LIFE, RENEW_AUTHORITY_BEFORE, RENEW_BEFORE, Authority
from relaunch.servers.lifecycle import CERTIFICATE_LIFE

VERIFY_X509_STRICT = 0x20  # on by default from Python 3.13


def handshake(folder: Path, authority: Authority, host: str) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    client = ssl.create_default_context(cadata=authority.pem)
    client.verify_flags |= VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except (ssl.SSLError, OSError):
            theirs.close()

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        client.wrap_socket(ours, server_hostname=host).close()
    finally:
        serving.join(5)
        ours.close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "198.18.0.1", "www.shop.test"])
def test_a_certificate_holds_for_its_names_and_addresses(tmp_path: Path, host: str) -> None:
    authority = Authority.open(tmp_path, SystemClock())
    authority.keep_issued(tmp_path, "server", names=("localhost", "*.shop.test"), addresses=("127.0.0.1", "198.18.0.1"))

    handshake(tmp_path, authority, host)


def test_a_certificate_does_not_hold_for_another_name_nor_under_another_authority(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path, SystemClock())
    other = Authority.open(tmp_path / "other", SystemClock())
    authority.keep_issued(tmp_path, "server", names=("localhost",), addresses=())

    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, authority, "example.test")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, other, "localhost")


def test_the_authority_is_made_once_and_its_keys_are_private(tmp_path: Path) -> None:
    first = Authority.open(tmp_path, SystemClock())
    first.keep_issued(tmp_path, "server", names=("localhost",), addresses=())

    assert Authority.open(tmp_path, SystemClock()).pem == first.pem
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_kept_certificate_is_made_anew_near_its_end_or_for_other_names_only(tmp_path: Path) -> None:
    clock = SetClock()
    authority = Authority.open(tmp_path, clock)

    def kept(*names: str) -> str:
        authority.keep_issued(tmp_path, "server", names=names, addresses=("127.0.0.1",))
        return (tmp_path / "server.crt").read_text()

    first = kept("localhost")
    assert kept("localhost") == first
    assert kept("localhost", "here.test") != first
    second = kept("localhost")
    clock.move(CERTIFICATE_LIFE - RENEW_BEFORE + timedelta(days=1))
    assert kept("localhost") != second


def test_a_start_in_the_second_year_renews_the_controllers_certificate_long_before_its_end(tmp_path: Path) -> None:
    clock = SetClock()
    Authority.open(tmp_path, clock).keep_issued(tmp_path, "server", names=("localhost",), addresses=())
    first = (tmp_path / "server.crt").read_text()

    clock.move(timedelta(days=500))
    Authority.open(tmp_path, clock).keep_issued(tmp_path, "server", names=("localhost",), addresses=())

    assert (tmp_path / "server.crt").read_text() != first


def test_a_start_near_the_authoritys_end_makes_it_anew_and_what_it_signed_holds_by_either(tmp_path: Path) -> None:
    now = SystemClock().now()
    authority = Authority.open(tmp_path, SetClock(now - AUTHORITY_LIFE + RENEW_AUTHORITY_BEFORE))
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
    Authority.open(tmp_path, SetClock(now - timedelta(days=2))).keep_issued(
        old, "server", names=("localhost",), addresses=()
    )

    renewed = Authority.open(tmp_path, SetClock(now))
    renewed.keep_issued(new, "server", names=("localhost",), addresses=())

    assert renewed.ends == (now + AUTHORITY_LIFE).replace(microsecond=0)
    for folder in (old, new):
        for trusted in (authority, renewed):
            handshake(folder, trusted, "localhost")
    assert Authority.open(tmp_path, SetClock(now)).pem == renewed.pem
    assert stat.S_IMODE((tmp_path / "ca.crt").stat().st_mode) == 0o644


def test_a_start_with_a_clock_that_is_years_ahead_spoils_nothing_for_good(tmp_path: Path) -> None:
    now = SystemClock().now()
    first = Authority.open(tmp_path, SetClock(now))
    for clock in (SetClock(now + timedelta(days=3000)), SetClock(now)):
        last = Authority.open(tmp_path, clock)
        last.keep_issued(tmp_path, "server", names=("localhost",), addresses=())

    for trusted in (first, last):
        handshake(tmp_path, trusted, "localhost")
    assert (tmp_path / "ca-before.crt").read_text() == first.pem, "which the servers know"
