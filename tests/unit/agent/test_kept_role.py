"""What a database server was last ordered to be, kept by two threads."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from relaunch.bus.messages import TakeRole
from relaunch_agent.database import kept
from relaunch_agent.database.kept import KeptRole
from relaunch_agent.places import Places

FOLLOWS = TakeRole(epoch=7, role="replica", source="10.0.0.1", acknowledge=True)
REVOKED = TakeRole(epoch=8, role="revoked")


def test_an_order_that_comes_while_the_one_before_is_carried_out_stays_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = KeptRole(Places(tmp_path))
    role.keep(FOLLOWS)
    before, writes = role.order, threading.Event()
    assert before is not None
    real = kept.write_json

    def slow(file: Path, value: Any, *, durable: bool = False) -> None:
        writes.set()
        time.sleep(0.2)
        real(file, value, durable=durable)

    monkeypatch.setattr(kept, "write_json", slow)

    def carry_out() -> None:
        assert writes.wait(10)
        role.carried_out(before)

    thread = threading.Thread(target=carry_out)
    thread.start()
    role.keep(REVOKED)
    thread.join(10)

    again = KeptRole(Places(tmp_path))
    assert (again.epoch, again.order, again.done) == (8, role.order, before)
