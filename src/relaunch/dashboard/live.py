"""The stream of server-sent events that tells a page to look again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

BEAT_SECONDS = 15.0  # below the idle time-outs of usual proxies
REST_SECONDS = 0.5  # between two events: a burst of changes is one look


async def stream(
    changes: AsyncIterator[None], *, beat_seconds: float = BEAT_SECONDS, rest_seconds: float = REST_SECONDS
) -> AsyncIterator[str]:
    """An event `changed` after each change, a comment when it is quiet; ends when `changes` does."""
    yield "retry: 2000\n\n"
    following: asyncio.Future[None] | None = None
    try:
        while True:
            # The next change is awaited in its own task: cancelling it for a beat would end the iterator.
            following = following or asyncio.ensure_future(anext(changes))
            done, _ = await asyncio.wait((following,), timeout=beat_seconds)
            if not done:
                yield ": still here\n\n"
                continue
            try:
                following.result()
            except StopAsyncIteration:
                return
            following = None
            yield "event: changed\ndata: \n\n"
            await asyncio.sleep(rest_seconds)
    finally:
        if following is not None and not following.done():
            following.cancel()
            await asyncio.wait((following,))
        if hasattr(changes, "aclose"):
            await changes.aclose()
