from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import delete, insert, update

from relaunch.clock import SetClock
from relaunch.dashboard import sessions
from relaunch.dashboard.sessions import COOKIE
from relaunch.records import schema

from .conftest import csrf_on
from .filled import NOW, TOKEN, Asked, app_of, filled
from .test_pages import PAGES


def test_a_stranger_is_sent_to_the_login_page(stranger: TestClient) -> None:
    for path in PAGES:
        answer = stranger.get(path)

        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/login?next=/")
        assert answer.content == b""


def test_a_stranger_hears_no_events_and_a_live_page_is_told(stranger: TestClient) -> None:
    assert stranger.get("/events").status_code == 303
    assert stranger.get("/", headers={"X-Live": "1"}).status_code == 401


def test_after_login_one_is_where_one_wanted_to_be(stranger: TestClient) -> None:
    asked_for = stranger.get("/audit?subject=db1").headers["location"]
    assert 'value="/audit?subject=db1"' in stranger.get(asked_for).text

    answer = stranger.post("/login", data={"token": f" {TOKEN}\n", "next": "/audit?subject=db1"})

    assert answer.headers["location"] == "/audit?subject=db1"
    cookie = answer.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Secure", "Path=/"))
    assert TOKEN not in cookie


@pytest.mark.parametrize(
    "next", ["https://evil.test/", "//evil.test", "/\\evil.test", "javascript:alert(1)", "/\r\nX: y"]
)
def test_login_leads_to_no_other_site(stranger: TestClient, next: str) -> None:
    answer = stranger.post("/login", data={"token": TOKEN, "next": next})

    assert answer.headers["location"] == "/"


def test_a_wrong_token_is_told_and_gives_no_cookie(stranger: TestClient) -> None:
    answer = stranger.post("/login", data={"token": "wrong"})

    assert answer.status_code == 401
    assert "unknown or revoked" in answer.text
    assert "set-cookie" not in answer.headers


def test_after_five_wrong_tries_even_the_right_token_waits(tmp_path: Path) -> None:
    clock = SetClock(NOW)
    app, _ = app_of(filled(tmp_path / "controller.db"), clock)
    client = TestClient(app, base_url="https://relaunch.test", follow_redirects=False)
    for _ in range(sessions.TRIES):
        assert client.post("/login", data={"token": "wrong"}).status_code == 401

    refused = client.post("/login", data={"token": TOKEN})
    clock.move(sessions.TRIES_WITHIN)
    taken = client.post("/login", data={"token": TOKEN})

    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
    assert taken.status_code == 303


@pytest.mark.parametrize("csrf", [None, "", "0" * 64, "é"])
def test_a_form_without_our_csrf_token_does_nothing(browser: TestClient, asked: Asked, csrf: str | None) -> None:
    fields = {} if csrf is None else {"csrf": csrf}

    assert browser.post("/servers/shop/front2/actions/retry", data=fields).status_code == 401
    assert browser.post("/logout", data=fields).status_code == 401
    assert asked.actions == []
    assert browser.get("/").status_code == 200


def test_a_csrf_token_is_of_one_session(browser: TestClient, shop: tuple[FastAPI, Asked]) -> None:
    other = TestClient(shop[0], base_url="https://relaunch.test", follow_redirects=False)
    other.post("/login", data={"token": TOKEN})

    answer = browser.post("/servers/shop/front2/actions/retry", data={"csrf": csrf_on(other)})

    assert answer.status_code == 401


def test_a_form_from_another_site_is_refused(browser: TestClient, asked: Asked) -> None:
    fields = {"csrf": csrf_on(browser)}
    there = {"Origin": "https://evil.test"}

    assert browser.post("/servers/shop/front2/actions/retry", data=fields, headers=there).status_code == 401
    assert browser.post("/login", data={"token": TOKEN}, headers=there).status_code == 401
    assert asked.actions == []
    here = {"Origin": "https://relaunch.test"}
    assert browser.post("/servers/shop/front2/actions/retry", data=fields, headers=here).status_code == 303


def test_a_form_too_long_is_refused(stranger: TestClient) -> None:
    assert stranger.post("/login", data={"token": "x" * 20_000}).status_code == 400


def test_logging_out_ends_the_session_even_for_a_kept_cookie(browser: TestClient) -> None:
    kept = browser.cookies[COOKIE]

    answer = browser.post("/logout", data={"csrf": csrf_on(browser)})

    assert answer.headers["location"] == "/login"
    browser.cookies.clear()
    assert browser.get("/", headers={"Cookie": f"{COOKIE}={kept}"}).status_code == 303


@pytest.mark.parametrize("case", ["revoked", "deleted", "made again"])
def test_a_session_ends_with_its_token(tmp_path: Path, case: str) -> None:
    engine = filled(tmp_path / "controller.db")
    client = TestClient(app_of(engine)[0], base_url="https://relaunch.test", follow_redirects=False)
    client.post("/login", data={"token": TOKEN})
    assert client.get("/").status_code == 200

    with engine.begin() as db:
        if case == "revoked":
            db.execute(update(schema.tokens).values(revoked=NOW.isoformat()))
        else:
            db.execute(delete(schema.tokens))
        if case == "made again":
            later = (NOW + timedelta(seconds=1)).isoformat()
            db.execute(insert(schema.tokens).values(id="t2", name="admin", sha256="1", created=later))

    assert client.get("/").status_code == 303


def test_a_cookie_changed_or_too_old_or_of_another_key_opens_nothing() -> None:
    key, session = b"k" * 32, sessions.opened("admin", NOW)
    cookie = sessions.sealed(session, key)
    body, signature = cookie.split(".")

    assert sessions.unsealed(cookie, key, NOW) == session
    forged = sessions.sealed(sessions.opened("root", NOW), key).split(".")[0]
    for wrong in ("", ".", "a.b", body, f"{forged}.{signature}", f"{body}.{signature[:-4]}", f"{cookie}.x", "é.é"):
        assert sessions.unsealed(wrong, key, NOW) is None
    assert sessions.unsealed(cookie, b"o" * 32, NOW) is None
    assert sessions.unsealed(cookie, key, NOW + sessions.LIFETIME) is None


def test_failed_tries_are_forgotten_in_time() -> None:
    tries = sessions.LoginTries()
    for number in range(50):
        tries.note_failure(f"198.51.100.{number}", NOW)

    tries.note_failure("203.0.113.1", NOW + sessions.TRIES_WITHIN)

    assert list(tries.failed) == ["203.0.113.1"]
