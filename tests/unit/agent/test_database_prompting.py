"""When a lost acknowledgement is asked for again, and which errors of a server count as its silence."""

from __future__ import annotations

import dataclasses

import pymysql
import pytest

from relaunch.databases.dialect import ServerState
from relaunch.databases.mariadb import MariaDB
from relaunch.databases.mysql import MySQL
from relaunch.errors import Unavailable
from relaunch_agent.database.prompting import is_lost
from relaunch_agent.database.session import Refusal, _ours

STUCK = ServerState(
    version="9.7.4", server_id=1, read_only=False, executed="", received="", required=True,
    acknowledgers=("198.18.0.12",), waiting_commits=2,
)  # fmt: skip


def test_commits_that_wait_beside_a_replica_that_acknowledges_wait_for_a_lost_acknowledgement() -> None:
    assert is_lost(MySQL(), STUCK)


@pytest.mark.parametrize(
    "but", [{"waiting_commits": 0}, {"acknowledgers": ()}, {"required": False}, {"read_only": True}]
)
def test_without_any_of_it_nothing_is_lost(but: dict[str, object]) -> None:
    assert not is_lost(MySQL(), dataclasses.replace(STUCK, **but))  # type: ignore[arg-type]


def test_mariadb_is_not_prompted() -> None:
    assert not is_lost(MariaDB(), STUCK)


@pytest.mark.parametrize("number", [1205, 3021, 3032, 4092])
def test_what_a_server_says_is_an_answer(number: int) -> None:
    assert isinstance(_ours(pymysql.err.OperationalError(number, "said")), Refusal)


@pytest.mark.parametrize("number", [0, 1053, 1927, 2003, 2013, 3169, 4031])
def test_a_connection_that_ends_is_silence(number: int) -> None:
    assert isinstance(_ours(pymysql.err.OperationalError(number, "said")), Unavailable)
