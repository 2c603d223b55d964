"""Files fetched by their hash, kept so that an image carries them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path

from relaunch.bus.messages import Blob
from relaunch.errors import Failed, NotFound, Unavailable
from relaunch_agent.disk import remove, write_whole
from relaunch_agent.enrolment import Config, Credential
from relaunch_agent.https import Answer, request, trusting

TRIES = 6  # of answers that are no use
PATIENCE_SECONDS = 6.0  # with a controller that does not answer


class BlobStore:
    def __init__(self, folder: Path, config: Config, credential: Credential) -> None:
        self._folder = folder
        self._config = config
        self._credential = credential

    async def file(self, blob: Blob, *, patience_seconds: float = PATIENCE_SECONDS) -> Path:
        """Where it is; fetched and verified when it was not here. A damaged copy is fetched anew."""
        if len(blob.sha256) != 64 or set(blob.sha256) - set("0123456789abcdef"):
            raise Failed(f"{blob.name}: {blob.sha256!r} is no SHA-256")
        kept = self._folder / blob.sha256
        if kept.exists():
            if hashlib.sha256(kept.read_bytes()).hexdigest() == blob.sha256:
                return kept
            remove(kept)
        end, useless, pause = time.monotonic() + patience_seconds, 0, 0.2
        while True:
            try:
                answer = await self._answer(blob)
            except Unavailable:
                if time.monotonic() > end:
                    raise
            else:
                try:
                    write_whole(kept, _content(blob, answer), mode=0o600)
                    return kept
                except Unavailable:
                    useless += 1
                    if useless == TRIES:
                        raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)

    async def _answer(self, blob: Blob) -> Answer:
        return await request(
            "GET",
            f"{self._config.controller_url}/api/v1/agent/blobs/{blob.sha256}",
            tls=trusting(self._config.ca_file),
            credential=(self._credential.agent, self._credential.secret),
            timeout=60.0 + blob.size_bytes / 1_000_000,
        )


def _content(blob: Blob, answer: Answer) -> bytes:
    if answer.status == 404:
        raise NotFound(f"the controller has no file {blob.name} ({blob.sha256[:12]}…)")
    if answer.status != 200:
        raise Unavailable(f"{blob.name}: the controller answered {answer.status}")
    if hashlib.sha256(answer.body).hexdigest() != blob.sha256:
        raise Unavailable(f"{blob.name} arrived damaged")
    return answer.body
