"""What a look at a MariaDB server asks, and what it does not ask every time."""

from __future__ import annotations

from typing import Any

from relaunch.databases.mariadb import MariaDB

FOLLOWS = {"Connection_name": "", "Master_Host": "@s1"}


class Asked:
    """A session whose server follows somebody, or nobody."""

    def __init__(self, *channels: dict[str, Any]) -> None:
        self.channels, self.times = list(channels), 0

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        assert statement == "SHOW ALL SLAVES STATUS"
        self.times += 1
        return self.channels


def test_one_that_takes_writes_and_follows_nobody_is_not_asked_every_time() -> None:
    dialect, primary, other = MariaDB(), Asked(), Asked(FOLLOWS)

    assert [dialect._replica_if_any(primary, writable=True) for _ in range(3)] == [{}, {}, {}]
    assert primary.times == 1
    assert dialect._replica_if_any(other, writable=True) == FOLLOWS, "of another server nothing is known by that"

    primary.channels.append(FOLLOWS)
    assert dialect._replica_if_any(primary, writable=False) == FOLLOWS, "asked each time it takes no writes"


def test_one_that_takes_writes_and_follows_somebody_is_asked_every_time() -> None:
    dialect, odd = MariaDB(), Asked(FOLLOWS)

    assert [dialect._replica_if_any(odd, writable=True) for _ in range(2)] == [FOLLOWS, FOLLOWS]
    assert odd.times == 2
