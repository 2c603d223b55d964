"""The clouds the contract suite runs on: the fake, and real instances where the tests run as root."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import pytest_asyncio
from cloud_lab import Lab, LocalLab

from relaunch.clock import SystemClock
from relaunch.clouds.cloud import ImageId
from relaunch.clouds.fake import FakeCloud
from relaunch.clouds.local.cloud import LocalCloud

RECIPES = Path(__file__).parents[2] / "images"
NETWORK = IPv4Network("198.19.0.0/24")
BRIDGE = "rlA0"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def local_cloud() -> AsyncIterator[tuple[LocalCloud, ImageId, Path]]:
    """One cloud for the session; RELAUNCH_TEST_FOLDER keeps its image between sessions."""
    kept = os.environ.get("RELAUNCH_TEST_FOLDER")
    state = Path(kept or tempfile.mkdtemp(prefix="relaunch-contract-"))
    folder = state / "local-cloud"  # as a controller has it
    cloud = LocalCloud(folder, network=NETWORK, bridge=BRIDGE, recipes=RECIPES)
    await cloud.open()
    try:
        image = await cloud.base_image("trixie", lambda line: None)
        yield cloud, image.id, folder
    finally:
        await cloud.down(purge=kept is None)
        if kept is None:
            state.rmdir()


@pytest_asyncio.fixture(loop_scope="session")
async def local(local_cloud: tuple[LocalCloud, ImageId, Path]) -> AsyncIterator[LocalLab]:
    """The local cloud, empty before and after."""
    cloud, image, folder = local_cloud
    lab = LocalLab(cloud=cloud, image=image)
    lab.folder = folder
    await lab.clear()
    yield lab
    await lab.clear()


@pytest.fixture(params=["fake", pytest.param("local", marks=pytest.mark.root)])
def lab(request: pytest.FixtureRequest) -> Lab:
    """Each cloud in turn."""
    if request.param == "local":
        real: Lab = request.getfixturevalue("local")
        return real
    cloud = FakeCloud(SystemClock())
    return Lab(cloud=cloud, image=cloud.base.id)
