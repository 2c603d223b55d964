from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from .world import World

MEMORY = Path("/dev/shm")  # where syncing costs nothing: a killed process loses nothing there either


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="relaunch-test-", dir=MEMORY if MEMORY.is_dir() else None))
    yield made
    shutil.rmtree(made)


@pytest_asyncio.fixture
async def world(folder: Path) -> AsyncIterator[World]:
    made = await World.create(folder)
    try:
        yield made
    finally:
        await made.stop()
