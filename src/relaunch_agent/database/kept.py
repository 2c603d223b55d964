"""What this server was last ordered to be: on the disk before anything is done about it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import threading
from typing import Any, Dict, Optional

from relaunch.bus.messages import TakeRole, decode, encode
from relaunch.errors import BadInput
from relaunch_agent.disk import read_json, write_json
from relaunch_agent.places import Places

ROLES = ("primary", "replica", "revoked", "fenced")
SAFE = ("revoked", "fenced")


class KeptRole:
    def __init__(self, places: Places) -> None:
        self._file = places.database_role
        self._lock = threading.Lock()
        self.order: Optional[TakeRole] = None
        self.done: Optional[TakeRole] = None  # the last one that was carried out wholly
        kept = read_json(self._file)
        if kept is not None:
            self.order, self.done = _order(kept.get("order")), _order(kept.get("done"))

    @property
    def epoch(self) -> int:
        return self.order.epoch if self.order else 0

    def keep(self, order: TakeRole) -> None:
        """Taking writes away needs no disk: with a full one, what is safe is done all the same."""
        plain = dataclasses.replace(order, seconds=1.0, release="", grace=0.0)
        with self._lock:
            if plain == self.order:
                return
            try:
                self._write(plain, self.done, durable=True)
            except OSError as error:
                if order.role not in SAFE:
                    raise
                print(f"the role {order.role} is taken but not kept: {error}", file=sys.stderr, flush=True)
            self.order = plain

    def carried_out(self, order: TakeRole) -> None:
        """From another thread than `keep`, of which neither waits for more than one write of the other."""
        if self.done is order:
            return
        with self._lock:
            self.done = order
            with contextlib.suppress(OSError):  # then it is carried out once more after a restart of ours
                self._write(self.order, order, durable=False)  # a failover waits for it, and the order itself is kept

    def _write(self, order: Optional[TakeRole], done: Optional[TakeRole], *, durable: bool) -> None:
        both = {"order": order and json.loads(encode(order)), "done": done and json.loads(encode(done))}
        write_json(self._file, both, durable=durable)


def _order(kept: Optional[Dict[str, Any]]) -> Optional[TakeRole]:
    if kept is None:
        return None
    order = decode(json.dumps(kept).encode())
    if not isinstance(order, TakeRole):
        raise BadInput(f"{type(order).__name__} is no role")
    return order
