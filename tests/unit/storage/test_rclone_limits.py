"""How long rclone is given."""

from __future__ import annotations

from typing import Any

import pytest

from relaunch.shell import Completed, Secret
from relaunch.storage import rclone
from relaunch.storage.objects import StorePlace
from relaunch.storage.rclone import ANSWER_SECONDS, RcloneStore

PLACE = StorePlace(endpoint="http://127.0.0.1:1", bucket="b", access_key="a", secret_key=Secret("s"))


async def test_deleting_many_objects_has_time_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    async def run(*words: Any, timeout_seconds: float, **_: Any) -> Completed:
        given.append(timeout_seconds)
        return Completed(status=0, stdout="", stderr="")

    monkeypatch.setattr(rclone, "run", run)
    store = RcloneStore(PLACE)

    await store.folders("shop")
    await store.delete(["one"])
    await store.delete([str(number) for number in range(10_000)])

    assert given[0] == ANSWER_SECONDS
    assert given[1] < 2 * ANSWER_SECONDS
    assert given[2] > 1000
