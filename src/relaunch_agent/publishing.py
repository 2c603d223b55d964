"""Tags and outputs on their way to the controller: on disk until it has stored them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from typing import Any, Dict, Iterator, List, Mapping, Sequence

from relaunch.bus.messages import Published
from relaunch.errors import BadInput, RelaunchError
from relaunch_agent.disk import read_json, remove, write_json
from relaunch_agent.link import Link, stored
from relaunch_agent.places import Places

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,99}")
VALUE_BYTES = 64 * 1024
TAGS_BYTES = 64 * 1024  # as JSON, all tags of a server: each server of its deployment is told them
WAITING_BYTES = 4 * 1024 * 1024  # as JSON
PORTION_BYTES = 256 * 1024  # as JSON, or one value: six times VALUE_BYTES at most, below the bus's limit of 1 MB


class Publisher:
    def __init__(self, places: Places, link: Link) -> None:
        self._file = places.unpublished
        self._view = places.view
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
        left_out = [_name(name) for name in removed]
        waiting = {**{n: v for n, v in self._tags.items() if n not in left_out}, **tags}
        gone = [name for name in dict.fromkeys([*self._removed, *left_out]) if name not in waiting]
        if tags and _size({**{n: v for n, v in self._stored_tags().items() if n not in gone}, **waiting}) > TAGS_BYTES:
            raise BadInput(
                "relaunch-local: the tags of this server would be more than 64 KB, which each server of its deployment "
                "is told: remove some with relaunch-local tag -d NAME, or publish an output instead"
            )
        _refuse_too_much(waiting, gone, self._outputs)
        self._tags, self._removed = waiting, gone
        return self._kept()

    def output(self, name: str, value: str) -> asyncio.Future[None]:
        outputs = {**self._outputs, _name(name): _value(value)}
        _refuse_too_much(self._tags, self._removed, outputs)
        self._outputs = outputs
        return self._kept()

    async def publish_for_ever(self) -> None:
        while True:
            await self._news.wait()
            await self._link.connected.wait()
            self._news.clear()
            waiting, self._waiting = self._waiting, []
            try:
                for message in list(_portions(self._tags, self._removed, self._outputs)):
                    stored(await self._link.report(message))
                    self._forget(message)
            except RelaunchError as error:
                print(f"tags and outputs are not published yet: {error}", file=sys.stderr, flush=True)
                self._waiting = waiting + self._waiting
                self._news.set()
                await asyncio.sleep(0.5)
                continue
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def _stored_tags(self) -> Mapping[str, str]:
        """Those of this server in its view."""
        view: Mapping[str, Any] = (read_json(self._view) or {}).get("view") or {}
        own = (view.get("server") or {}).get("name")
        return next((peer.get("tags") or {} for peer in view.get("peers") or () if peer.get("name") == own), {})

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


def _portions(tags: Mapping[str, str], removed: Sequence[str], outputs: Mapping[str, str]) -> Iterator[Published]:
    """All of it, in messages that the bus takes."""
    portion, size = Published(), 0
    for kind, values in (("removed", dict.fromkeys(removed, "")), ("tags", tags), ("outputs", outputs)):
        for name, value in values.items():
            more = _size({name: value})
            if size and size + more > PORTION_BYTES:
                yield portion
                portion, size = Published(), 0
            size += more
            if kind == "removed":
                portion.removed_tags.append(name)
            else:
                (portion.tags if kind == "tags" else portion.outputs)[name] = value
    if size:
        yield portion


def _refuse_too_much(tags: Mapping[str, str], removed: Sequence[str], outputs: Mapping[str, str]) -> None:
    if _size([tags, removed, outputs]) > WAITING_BYTES:
        raise BadInput(
            "relaunch-local: more than 4 MB of tags and outputs would wait for the controller: publish it once the "
            "controller answers, or publish less"
        )


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise BadInput(f"relaunch-local: {text!r} is not a name: a letter, then letters, digits and _ . : -")
    return text


def _value(text: str) -> str:
    if len(text.encode("utf-8", "replace")) > VALUE_BYTES:
        raise BadInput("relaunch-local: a value of more than 64 KB")
    return text
