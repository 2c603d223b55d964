from __future__ import annotations

import json
from typing import Any

import pytest

from relaunch.errors import BadInput
from relaunch_agent.queries import answer, parse

VIEW: dict[str, Any] = {
    "server": {"name": "front1", "address": "198.18.0.11"},
    "peers": [
        {"name": "db1", "address": "198.18.0.13", "tags": {"database": "primary"}},
        {"name": "front1", "address": "198.18.0.11", "tags": {"app": "8000"}},
    ],
    "database": {
        "group": "shop",
        "epoch": 3,
        "initialised": True,
        "primary": {"name": "db1", "address": "198.18.0.13"},
        "replicas": [{"name": "db2", "address": "198.18.0.14"}],
    },
    "sites": [{"name": "redmine.test"}],
    "hosts": {"db-primary.redmine.test": "127.0.1.1"},
}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("me", "front1"),
        ("primary", "198.18.0.13"),
        ("replicas", "198.18.0.14"),
        ("database", "shop"),
        ("peers", "db1 198.18.0.13\nfront1 198.18.0.11"),
        ("peers --tag app", "front1 198.18.0.11"),
        ("peers --tag database=primary", "db1 198.18.0.13"),
        ("peers --tag database=replica", None),
        ("site", "redmine.test"),
        ("get database.epoch", "3"),
        ("get database.initialised", "true"),
        ("get peers.1.name", "front1"),
        ("get peers.9.name", None),
        ("get hosts.db-primary.redmine.test", "127.0.1.1"),
        ("get nothing.here", None),
    ],
)
def test_answers(words: str, text: str | None) -> None:
    assert answer(parse(words.split()), VIEW) == text


def test_json_is_the_whole_object() -> None:
    assert json.loads(answer(parse(["primary", "--json"]), VIEW) or "") == VIEW["database"]["primary"]


def test_no_database_is_no_answer() -> None:
    assert answer(parse(["primary"]), {"database": None}) is None


@pytest.mark.parametrize(
    "words",
    [
        "",
        "what",
        "get",
        "me too",
        "peers --tag",
        "me --tag a=b",
        "primary --wait soon",
        "primary --wait -1",
        "tag",
        "output A",
    ],
)
def test_what_is_not_understood_is_refused(words: str) -> None:
    with pytest.raises(BadInput, match="relaunch-local"):
        parse(words.split())
