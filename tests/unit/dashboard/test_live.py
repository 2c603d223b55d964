from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi.testclient import TestClient

from relaunch.dashboard.live import stream

from .filled import Asked


def test_the_page_hears_of_each_change_until_the_controller_ends(browser: TestClient, asked: Asked) -> None:
    asked.changed = 2

    answer = browser.get("/events")

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.count("event: changed\n") == 2


async def test_while_nothing_changes_it_says_it_is_there_and_loses_no_change() -> None:
    happened = asyncio.Event()

    async def changes() -> AsyncIterator[None]:
        await happened.wait()
        yield

    heard = stream(changes(), beat_seconds=0.02, rest_seconds=0)
    first = [await anext(heard) for _ in range(4)]
    happened.set()
    rest = [piece async for piece in heard]

    assert first[1:] == [": still here\n\n"] * 3
    assert [piece for piece in rest if piece[0] != ":"] == ["event: changed\ndata: \n\n"]


async def test_a_page_that_goes_away_lets_the_changes_go() -> None:
    let_go = asyncio.Event()

    async def changes() -> AsyncIterator[None]:
        try:
            await asyncio.Event().wait()
            yield
        finally:
            let_go.set()

    heard = stream(changes(), beat_seconds=0.02)
    await anext(heard)
    await anext(heard)
    await heard.aclose()

    assert let_go.is_set()
