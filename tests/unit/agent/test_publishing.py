"""Tags and outputs that wait for the controller."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from relaunch.bus.messages import Published, Stored, encode
from relaunch.errors import BadInput, Unavailable
from relaunch_agent.link import Link
from relaunch_agent.places import Places
from relaunch_agent.publishing import PORTION_BYTES, VALUE_BYTES, Publisher

MOST_BYTES = 1024 * 1024  # what the bus takes


class Controller:
    """Keeps what it is told, as the store does. Away until `connected`; `failing`: which messages it does not take."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.failing: set[int] = set()
        self.failed = asyncio.Event()
        self.sizes: list[int] = []
        self.tags: dict[str, str] = {}
        self.outputs: dict[str, str] = {}

    async def report(self, message: Published) -> Stored:
        self.sizes.append(len(encode(message)))
        if len(self.sizes) in self.failing:
            self.failed.set()
            raise Unavailable("no answer")
        await asyncio.sleep(0)
        self.tags = {name: value for name, value in self.tags.items() if name not in message.removed_tags}
        self.tags |= message.tags
        self.outputs |= message.outputs
        return Stored()


@pytest.fixture
async def controller() -> Controller:
    return Controller()


@pytest.fixture
async def publisher(tmp_path: Path, controller: Controller) -> AsyncIterator[Publisher]:
    publisher = Publisher(Places(tmp_path), cast(Link, controller))
    publishing = asyncio.ensure_future(publisher.publish_for_ever())
    yield publisher
    assert not publishing.done()
    publishing.cancel()


@pytest.mark.parametrize("character", ["x", "\n", "\x01"])
async def test_however_much_waits_each_message_is_one_that_the_bus_takes(
    controller: Controller, publisher: Publisher, tmp_path: Path, character: str
) -> None:
    values = {f"report{number}": f"{number}:".ljust(VALUE_BYTES, character) for number in range(9)}
    stored = [publisher.output(name, value) for name, value in values.items()]
    stored.append(publisher.tag(["app=8000"], ["database"]))
    controller.tags["database"] = "replica"
    controller.connected.set()
    await asyncio.wait_for(asyncio.gather(*stored), 5)

    assert controller.outputs == values and controller.tags == {"app": "8000"}
    assert max(controller.sizes) < PORTION_BYTES + 1000 or character == "\x01"
    assert max(controller.sizes) < MOST_BYTES
    assert not Places(tmp_path).unpublished.exists()


async def test_a_message_that_is_not_answered_is_sent_again_with_what_came_meanwhile(
    controller: Controller, publisher: Publisher
) -> None:
    stored = [publisher.output(f"report{number}", "x" * VALUE_BYTES) for number in range(9)]
    controller.failing = {2}
    controller.connected.set()
    await asyncio.wait_for(controller.failed.wait(), 5)
    assert len(controller.outputs) == 3 and not any(future.done() for future in stored)
    stored.append(publisher.output("report8", "newer"))
    await asyncio.wait_for(asyncio.gather(*stored), 5)

    assert len(controller.outputs) == 9 and controller.outputs["report8"] == "newer"
    assert sum(controller.sizes[2:]) < 7 * VALUE_BYTES


async def test_more_than_is_kept_for_the_controller_is_refused_and_leaves_what_waits(
    controller: Controller, publisher: Publisher
) -> None:
    stored = [publisher.output(f"report{number}", "x" * VALUE_BYTES) for number in range(63)]
    with pytest.raises(BadInput, match="more than 4 MB"):
        publisher.output("report63", "x" * VALUE_BYTES)
    controller.connected.set()
    await asyncio.wait_for(asyncio.gather(*stored), 5)

    assert len(controller.outputs) == 63
    await asyncio.wait_for(publisher.output("report63", "x" * VALUE_BYTES), 5)


async def test_the_tags_of_a_server_are_bounded_together_with_those_the_controller_has(
    controller: Controller, publisher: Publisher, tmp_path: Path
) -> None:
    view = {
        "server": {"name": "db1"},
        "peers": [
            {"name": "db2", "tags": {"notes": "x" * 60_000}},
            {"name": "db1", "tags": {"old": "x" * 40_000, "database": "primary"}},
        ],
    }
    places = Places(tmp_path)
    places.view.parent.mkdir(parents=True, exist_ok=True)
    places.view.write_text(json.dumps({"version": 1, "view": view}))
    publisher.tag(["app=8000"], [])
    with pytest.raises(BadInput, match="relaunch-local tag -d NAME"):
        publisher.tag(["new=" + "x" * 30_000], [])
    publisher.tag(["old=" + "x" * 30_000, "new=" + "x" * 30_000], [])
    publisher.tag([], ["old"])
    publisher.tag(["newer=" + "x" * 30_000], [])
    with pytest.raises(BadInput):
        publisher.tag(["old=" + "x" * 30_000], [])
    controller.connected.set()
    await asyncio.wait_for(publisher.output("last", ""), 5)

    assert {name: len(value) for name, value in controller.tags.items()} == {"app": 4, "new": 30_000, "newer": 30_000}
