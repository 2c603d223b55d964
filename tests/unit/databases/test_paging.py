"""Whom a page reaches: a person once, when it stays; failovers at once."""

from __future__ import annotations

import asyncio

from relaunch.databases.group import Page
from relaunch.databases.paging import STAYS_SECONDS, Paging

LOST = Page(rule="replica lost", text="db2 is lost")
Said = tuple[str, str, tuple[str, ...]]


async def told(*looks: tuple[float, tuple[Page, ...]], at_once: str = "") -> list[Said]:
    said: list[Said] = []

    async def tell(*what: object) -> None:
        said.append(what)  # type: ignore[arg-type]

    paging = Paging(tell)
    for moment, pages in looks:
        paging.look("shop", pages, moment)
    if at_once:
        paging.at_once("shop", at_once)
    task = asyncio.create_task(paging.tell_for_ever())
    await asyncio.sleep(0.01)
    task.cancel()
    return said


async def test_a_page_that_stays_is_told_once_and_when_it_is_over():
    later = STAYS_SECONDS + 1

    said = await told((0, (LOST,)), (later, (LOST,)), (later + 9, (LOST,)), (later + 10, ()))

    assert said == [
        ("database of shop", "alert", ("db2 is lost",)),
        ("database of shop", "over", ("replica lost",)),
    ]


async def test_a_page_that_comes_and_goes_is_not_told():
    assert await told((0, (LOST,)), (15, ()), (16, (LOST,)), (30, (LOST,))) == []


async def test_a_failover_is_told_at_once():
    assert await told(at_once="failover: db2 is the primary now") == [
        ("database of shop", "alert", ("failover: db2 is the primary now",))
    ]
