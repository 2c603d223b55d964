"""A new agent is undone when it reaches nobody, and refused from then on only when it was its own fault."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import cast

import pytest

from relaunch.bus.messages import Accepted, Blob
from relaunch.errors import Conflict
from relaunch_agent import upgrade
from relaunch_agent.blobs import BlobStore
from relaunch_agent.link import Link
from relaunch_agent.places import Places

OLD, NEW = b"print('1')\n", b"print('2')\n"
ORDERED = Blob("relaunch-agent.pyz", hashlib.sha256(NEW).hexdigest(), len(NEW))


class Blobs:
    def __init__(self, file: Path) -> None:
        self._file = file
        file.write_bytes(NEW)

    async def file(self, blob: Blob) -> Path:
        return self._file


class Server:
    """Where one agent after the other starts; each is there as long as `undo_unless_connected` takes."""

    def __init__(self, root: Path) -> None:
        self.places = Places(root)
        self.places.program.parent.mkdir(parents=True)
        self.places.program.write_bytes(OLD)
        self._blobs = cast(BlobStore, Blobs(root / "blob"))

    async def order(self) -> Accepted:
        return await upgrade.upgrade(ORDERED, self.places, self._blobs, upgrade.own_sha256(self.places))

    async def start(self, *, connects: bool) -> bool:
        """Whether it was undone."""
        link = cast(Link, type("Link", (), {"ever_connected": asyncio.Event()}))
        if connects:
            link.ever_connected.set()
        return await upgrade.undo_unless_connected(self.places, link, upgrade.own_sha256(self.places))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(upgrade, "HELLO_SECONDS", 0.1)
    monkeypatch.setattr(upgrade, "AT_ONCE_SECONDS", 0.05, raising=False)
    return Server(tmp_path)


async def test_a_program_that_reaches_the_controller_stays(server: Server) -> None:
    await server.order()

    assert not await server.start(connects=True)
    assert server.places.program.read_bytes() == NEW
    assert not server.places.upgrade.exists()


async def test_one_that_found_the_controller_away_is_undone_and_taken_at_the_next_order(server: Server) -> None:
    await server.order()
    assert await server.start(connects=False)
    assert server.places.program.read_bytes() == OLD
    assert not await server.start(connects=False)  # the old one: it does no better

    assert await server.order() == Accepted()
    assert server.places.program.read_bytes() == NEW
    assert not await server.start(connects=True)


async def test_one_that_does_worse_than_the_old_one_is_undone_and_refused_from_then_on(server: Server) -> None:
    await server.order()
    assert await server.start(connects=False)
    assert not await server.start(connects=True)

    for connects in (False, True):  # also when the controller is away later
        with pytest.raises(Conflict, match="tried here"):
            await server.order()
        assert not await server.start(connects=connects)
        assert server.places.program.read_bytes() == OLD
    with pytest.raises(Conflict, match="tried here"):
        await server.order()


async def test_one_that_never_got_so_far_is_refused_from_then_on(server: Server) -> None:
    """As before-agent.sh of the bootstrap leaves it after three starts."""
    await server.order()
    server.places.upgrade.rename(server.places.upgrade_failed)
    server.places.previous_program.rename(server.places.program)
    assert not await server.start(connects=False)

    with pytest.raises(Conflict, match="tried here"):
        await server.order()
