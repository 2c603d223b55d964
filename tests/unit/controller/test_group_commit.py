from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from relaunch.controller.group_commit import GroupCommit
from relaunch.errors import Conflict


class Disk:
    def __init__(self) -> None:
        self.commits: list[list[str]] = []

    def write(self, items: Sequence[str]) -> list[int | Exception]:
        self.commits.append(list(items))
        if "full" in items:
            raise OSError("no space left")
        return [Conflict(item) if item == "not mine" else len(item) for item in items]


async def test_what_comes_within_a_moment_is_one_commit_in_order_with_its_own_answers() -> None:
    disk = Disk()
    writes = GroupCommit(disk.write, settle_seconds=0.01)

    answers = await asyncio.gather(writes.put("a"), writes.put("bbb"), writes.put("cc"))
    later = await writes.put("dddd")

    assert disk.commits == [["a", "bbb", "cc"], ["dddd"]]
    assert [*answers, later] == [1, 3, 2, 4]


async def test_one_that_is_refused_harms_no_other() -> None:
    disk = Disk()
    writes = GroupCommit(disk.write, settle_seconds=0.0)

    good, bad = await asyncio.gather(writes.put("good"), writes.put("not mine"), return_exceptions=True)

    assert good == 4
    assert isinstance(bad, Conflict)


async def test_nobody_is_told_that_it_is_stored_when_the_commit_failed() -> None:
    writes = GroupCommit(Disk().write, settle_seconds=0.0)

    told = await asyncio.gather(writes.put("full"), writes.put("good"), return_exceptions=True)

    assert [type(each) for each in told] == [OSError, OSError]


async def test_a_flush_writes_at_once_and_only_once() -> None:
    disk = Disk()
    writes = GroupCommit(disk.write, settle_seconds=60)
    waiting = writes.put("now")

    writes.flush()
    writes.flush()

    assert await waiting == 3
    assert disk.commits == [["now"]]


async def test_who_no_longer_waits_keeps_nobody_from_the_answer() -> None:
    writes = GroupCommit(Disk().write, settle_seconds=0.0)
    impatient, patient = writes.put("a"), writes.put("bb")

    impatient.cancel()

    assert await patient == 2
    with pytest.raises(asyncio.CancelledError):
        await impatient
