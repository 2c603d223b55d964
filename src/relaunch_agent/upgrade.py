"""A new agent in place of this one: checked before, undone when it does not reach the controller."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
from pathlib import Path

from relaunch.bus.messages import Accepted, Blob
from relaunch.errors import Conflict
from relaunch_agent.blobs import BlobStore
from relaunch_agent.disk import read_json, remove, write_json, write_whole
from relaunch_agent.link import Link
from relaunch_agent.places import Places

HELLO_SECONDS = 30.0
AT_ONCE_SECONDS = 10.0  # where the controller is there, the previous program reaches it sooner
CHECK_SECONDS = 20.0


def own_sha256(places: Places) -> str:
    """Of the program as installed; empty when the agent runs from its sources."""
    return hashlib.sha256(places.program.read_bytes()).hexdigest() if places.program.exists() else ""


async def upgrade(blob: Blob, places: Places, blobs: BlobStore, sha256: str) -> Accepted:
    """Put the new program in place; the caller ends this process, systemd starts the new one."""
    if blob.sha256 == sha256:
        return Accepted()
    if blob.sha256 == (read_json(places.upgrade_failed) or {}).get("sha256"):
        raise Conflict(
            f"this version was tried here, did not work and was undone. Remove {places.upgrade_failed} on the server "
            "and restart relaunch-agent there to have it tried once more"
        )
    file = await blobs.file(blob)
    fresh = places.program.with_name("relaunch-agent.new.pyz")
    write_whole(fresh, file.read_bytes(), durable=True)
    check = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(fresh), "--version",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(check.communicate(), CHECK_SECONDS)
    if check.returncode != 0:
        remove(fresh)
        raise Conflict(f"the new agent does not start: {said.decode('utf-8', 'replace').strip()[-500:]}")
    if places.program.exists():
        shutil.copy2(places.program, places.previous_program)
    remove(places.upgrade_starts)
    write_json(places.upgrade, {"sha256": blob.sha256})
    fresh.replace(places.program)
    return Accepted()


async def undo_unless_connected(places: Places, link: Link, sha256: str) -> bool:
    """Whether the previous program was put back because this new one did not reach the controller in time."""
    pending = read_json(places.upgrade) or {}
    if pending.get("sha256") != sha256:
        remove(places.upgrade, places.upgrade_starts)
        await _judge_the_undone(places, link)
        return False
    try:
        await asyncio.wait_for(link.ever_connected.wait(), HELLO_SECONDS)
    except asyncio.TimeoutError:
        if put_back(places):
            return True
    remove(places.upgrade, places.upgrade_starts)
    return False


def put_back(places: Places) -> bool:
    if not places.previous_program.exists():
        return False
    write_json(places.upgrade_failed, {"sha256": own_sha256(places), "unanswered": True})
    os.replace(places.previous_program, places.program)  # noqa: PTH105
    remove(places.upgrade, places.upgrade_starts)
    return True


async def _judge_the_undone(places: Places, link: Link) -> None:
    """A new program that reached nobody has failed if we, put back, do at once; else nobody may have been there."""
    failed = read_json(places.upgrade_failed) or {}
    if not failed.get("unanswered"):
        return
    try:
        await asyncio.wait_for(link.ever_connected.wait(), AT_ONCE_SECONDS)
    except asyncio.TimeoutError:
        remove(places.upgrade_failed)
        return
    write_json(places.upgrade_failed, {"sha256": failed["sha256"]})


def forget_old_libraries(places: Places, keep: Path) -> None:
    """Unpacked copies of agents that no longer run."""
    for folder in places.libraries.glob("*"):
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)
