"""Tags and outputs on their way to the controller: on disk until it has stored them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from typing import Dict, List, Sequence

from relaunch.bus.messages import Published
from relaunch.errors import BadInput, RelaunchError
from relaunch_agent.disk import read_json, remove, write_json
from relaunch_agent.link import Link, stored
from relaunch_agent.places import Places

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,99}")
VALUE_BYTES = 64 * 1024


class Publisher:
    def __init__(self, places: Places, link: Link) -> None:
        self._file = places.unpublished
        self._link = link
        kept = read_json(self._file) or {}
        self._tags: Dict[str, str] = kept.get("tags", {})
        self._removed: List[str] = kept.get("removed_tags", [])
        self._outputs: Dict[str, str] = kept.get("outputs", {})
        self._waiting: List[asyncio.Future[None]] = []
        self._news = asyncio.Event()
        if kept:
            self._news.set()

    def tag(self, settings: Sequence[str], removed: Sequence[str]) -> asyncio.Future[None]:
        """Done once the controller has it."""
        tags = {}
        for setting in settings:
            name, sign, value = setting.partition("=")
            if not sign:
                raise BadInput(f"relaunch-local tag {setting}: give NAME=VALUE")
            tags[_name(name)] = _value(value)
        for name in [_name(name) for name in removed]:
            self._tags.pop(name, None)
            self._removed.append(name)
        self._tags.update(tags)
        self._removed = [name for name in dict.fromkeys(self._removed) if name not in self._tags]
        return self._kept()

    def output(self, name: str, value: str) -> asyncio.Future[None]:
        self._outputs[_name(name)] = _value(value)
        return self._kept()

    async def publish_for_ever(self) -> None:
        while True:
            await self._news.wait()
            await self._link.connected.wait()
            self._news.clear()
            message, waiting = Published(dict(self._tags), list(self._removed), dict(self._outputs)), self._waiting
            self._waiting = []
            try:
                stored(await self._link.report(message))
            except RelaunchError as error:
                print(f"tags and outputs are not published yet: {error}", file=sys.stderr, flush=True)
                self._waiting = waiting + self._waiting
                self._news.set()
                await asyncio.sleep(0.5)
                continue
            self._forget(message)
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def _kept(self) -> asyncio.Future[None]:
        self._save()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._news.set()
        return future

    def _forget(self, sent: Published) -> None:
        """What was changed again meanwhile stays."""
        self._tags = {n: v for n, v in self._tags.items() if sent.tags.get(n) != v}
        self._outputs = {n: v for n, v in self._outputs.items() if sent.outputs.get(n) != v}
        self._removed = [n for n in self._removed if n not in sent.removed_tags]
        with contextlib.suppress(OSError):  # a full disk: an agent that is started anew sends it again
            self._save()

    def _save(self) -> None:
        if self._tags or self._removed or self._outputs:
            write_json(self._file, {"tags": self._tags, "removed_tags": self._removed, "outputs": self._outputs})
        else:
            remove(self._file)


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise BadInput(f"relaunch-local: {text!r} is not a name: a letter, then letters, digits and _ . : -")
    return text


def _value(text: str) -> str:
    if len(text.encode("utf-8", "replace")) > VALUE_BYTES:
        raise BadInput("relaunch-local: a value of more than 64 KB")
    return text
