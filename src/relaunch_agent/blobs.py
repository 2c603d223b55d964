"""Files fetched by their hash, kept so that an image carries them."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from relaunch.bus.messages import Blob
from relaunch.errors import Failed, NotFound, Unavailable
from relaunch_agent.disk import remove, write_whole
from relaunch_agent.enrolment import Config, Credential
from relaunch_agent.https import request, trusting

TRIES = 6


class BlobStore:
    def __init__(self, folder: Path, config: Config, credential: Credential) -> None:
        self._folder = folder
        self._config = config
        self._credential = credential

    async def file(self, blob: Blob) -> Path:
        """Where it is; fetched and verified when it was not here. A damaged copy is fetched anew."""
        if len(blob.sha256) != 64 or set(blob.sha256) - set("0123456789abcdef"):
            raise Failed(f"{blob.name}: {blob.sha256!r} is no SHA-256")
        kept = self._folder / blob.sha256
        if kept.exists():
            if hashlib.sha256(kept.read_bytes()).hexdigest() == blob.sha256:
                return kept
            remove(kept)
        pause = 0.2
        for attempt in range(TRIES):
            try:
                write_whole(kept, await self._fetched(blob), mode=0o600)
                return kept
            except Unavailable:
                if attempt == TRIES - 1:
                    raise
            await asyncio.sleep(pause)
            pause *= 2
        raise AssertionError("unreachable")

    async def _fetched(self, blob: Blob) -> bytes:
        answer = await request(
            "GET",
            f"{self._config.controller_url}/api/v1/agent/blobs/{blob.sha256}",
            tls=trusting(self._config.ca_file),
            credential=(self._credential.agent, self._credential.secret),
            timeout=60.0 + blob.size_bytes / 1_000_000,
        )
        if answer.status == 404:
            raise NotFound(f"the controller has no file {blob.name} ({blob.sha256[:12]}…)")
        if answer.status != 200:
            raise Unavailable(f"{blob.name}: the controller answered {answer.status}")
        if hashlib.sha256(answer.body).hexdigest() != blob.sha256:
            raise Unavailable(f"{blob.name} arrived damaged")
        return answer.body
