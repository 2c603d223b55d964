from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import create_engine

from .filled import EVIL, TOKEN, Asked, app_of, filled


@pytest.fixture(scope="session")
def shop_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filled database: to be copied by whoever changes it."""
    file = tmp_path_factory.mktemp("shop") / "controller.db"
    filled(file).dispose()
    return file


@pytest.fixture
def shop(shop_file: Path, tmp_path: Path) -> tuple[FastAPI, Asked]:
    copy = shutil.copy(shop_file, tmp_path / "controller.db")
    return app_of(create_engine(f"sqlite:///{copy}"))


@pytest.fixture(scope="session")
def reader(shop_file: Path) -> Iterator[TestClient]:
    """A browser that is logged in and only reads; one for all tests."""
    app, asked = app_of(create_engine(f"sqlite:///{shop_file}"))
    asked.outputs[("run-front2", 1)] = f"before\n{EVIL}\nafter"
    with TestClient(app, base_url="https://relaunch.test", follow_redirects=False) as client:
        assert client.post("/login", data={"token": TOKEN}).status_code == 303
        yield client


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
