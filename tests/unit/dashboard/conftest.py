from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from .filled import TOKEN, Asked, app_of, filled


@pytest.fixture
def shop(tmp_path: Path) -> tuple[FastAPI, Asked]:
    return app_of(filled(tmp_path / "controller.db"))


@pytest.fixture
def asked(shop: tuple[FastAPI, Asked]) -> Asked:
    return shop[1]


@pytest.fixture
def stranger(shop: tuple[FastAPI, Asked]) -> Iterator[TestClient]:
    """A browser that is not logged in; it does not follow redirects."""
    with TestClient(shop[0], base_url="https://relaunch.test", follow_redirects=False) as client:
        yield client


@pytest.fixture
def browser(stranger: TestClient) -> TestClient:
    """A browser that is logged in."""
    assert stranger.post("/login", data={"token": TOKEN}).status_code == 303
    return stranger


def csrf_on(client: TestClient, path: str = "/") -> str:
    """The CSRF token in the forms of that page."""
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', client.get(path).text)
    assert found, f"no form on {path}"
    return found[1]
