"""What reaches a person: what stays, once, and that it is over; failovers at once."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from relaunch.databases.alarm import AGAIN_SECONDS, Alarm

LOST = {"replica lost": "db2 is lost"}
Said = tuple[str, str, tuple[str, ...]]


async def told(*looks: tuple[float, dict[str, str]], at_once: str = "") -> list[Said]:
    said: list[Said] = []

    async def tell(*what: object) -> None:
        said.append(what)  # type: ignore[arg-type]

    alarm = Alarm(tell)
    for moment, wrong in looks:
        alarm.look("shop", wrong, moment, stays=20)
    if at_once:
        alarm.at_once("shop", at_once)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(alarm.tell_for_ever(), 0.02)
    return said


async def test_what_stays_is_told_once_and_when_it_is_over():
    said = await told((0, LOST), (21, LOST), (30, LOST), (31, {}), (60, {}))

    assert said == [("shop", "alert", ("db2 is lost",)), ("shop", "over", ("db2 is lost",))]


async def test_what_comes_and_goes_is_not_told():
    assert await told((0, LOST), (15, {}), (16, LOST), (30, LOST)) == []


async def test_what_begins_later_waits_for_itself_and_what_ends_is_over_by_itself():
    more = {**LOST, "divergence": "db3 differs"}

    said = await told((0, LOST), (10, more), (20, more), (29, more), (30, more), (31, {"divergence": "db3 differs"}))

    assert said == [
        ("shop", "alert", ("db2 is lost",)),
        ("shop", "alert", ("db3 differs",)),
        ("shop", "over", ("db2 is lost",)),
    ]


async def test_the_same_thing_in_other_words_is_no_news():
    said = await told((0, {"lag": "12 s"}), (21, {"lag": "13 s"}), (22, {"lag": "14 s"}), (23, {}))

    assert said == [("shop", "alert", ("13 s",)), ("shop", "over", ("14 s",))]


async def test_what_goes_on_for_half_a_day_is_told_again():
    said = await told((0, LOST), (20, LOST), (AGAIN_SECONDS, LOST), (AGAIN_SECONDS + 20, LOST))

    assert [state for _, state, _ in said] == ["alert", "alert"]


async def test_a_failover_is_told_at_once():
    assert await told(at_once="db2 is the primary now") == [("shop", "alert", ("db2 is the primary now",))]


async def test_one_subject_says_nothing_of_another():
    said: list[Said] = []

    async def tell(*what: object) -> None:
        said.append(what)  # type: ignore[arg-type]

    alarm = Alarm(tell)
    alarm.look("shop", LOST, 0, stays=0)
    alarm.look("blog", {}, 1, stays=0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(alarm.tell_for_ever(), 0.02)

    assert said == [("shop", "alert", ("db2 is lost",))]


async def test_one_that_cannot_be_told_keeps_no_later_one_back() -> None:
    said: list[str] = []

    async def tell(subject: str, state: str, reasons: tuple[str, ...]) -> None:
        if not said:
            said.append("failed")
            raise OSError(12, "Cannot allocate memory")
        said.extend(reasons)

    alarm = Alarm(tell)
    alarm.at_once("shop", "db2 is the primary now")
    alarm.at_once("shop", "db3 is the primary now")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(alarm.tell_for_ever(), 0.02)

    assert said == ["failed", "db3 is the primary now"]
