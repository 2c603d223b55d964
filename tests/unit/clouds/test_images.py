"""The images' folder, without building any."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from relaunch.clouds.local.images import Images
from relaunch.clouds.local.records import ImageRecord, Store
from relaunch.errors import NotFound


async def test_nobody_waits_for_a_large_image_that_is_removed_and_nobody_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = ImageRecord(id="img-1", name="web-1", parent=None, created=datetime.now(UTC))
    Store(tmp_path, "image.json").write(record)
    (tmp_path / "img-1/tree/etc").mkdir(parents=True)
    images, go_on = Images(tmp_path), threading.Event()
    images.open()
    remove = images._store.remove

    def slowly(id: str) -> None:
        assert go_on.wait(10)
        remove(id)

    monkeypatch.setattr(images._store, "remove", slowly)
    removal = asyncio.create_task(images.delete("img-1"))
    await asyncio.sleep(0.05)

    assert not removal.done()
    with pytest.raises(NotFound):
        images.get("img-1")
    go_on.set()
    await removal
    assert list(tmp_path.iterdir()) == []
    await images.delete("img-1")
