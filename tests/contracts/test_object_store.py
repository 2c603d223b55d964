"""What every object store does: the one in memory, and a real `rclone serve s3` through rclone."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from relaunch.clock import SystemClock
from relaunch.errors import NotAllowed, NotFound, Unavailable
from relaunch.shell import Secret
from relaunch.storage.memory import MemoryStore
from relaunch.storage.objects import ObjectStore, StorePlace
from relaunch.storage.rclone import RcloneStore, rclone, remote_environment

ATTACHMENTS = Path(__file__).parents[2] / "templates/scripts/attachments"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorePlace]:
    folder, port = tmp_path_factory.mktemp("store"), free_port()
    (folder / "bucket").mkdir()
    server = subprocess.Popen(
        [rclone(), "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}", "--config", "/nonexistent/rclone.conf"],
        env={**os.environ, "RCLONE_AUTH_KEY": '"access,secret"'},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 10
    while socket.socket().connect_ex(("127.0.0.1", port)):
        assert time.monotonic() < deadline, "rclone serve s3 does not listen"
        time.sleep(0.05)
    yield StorePlace(
        endpoint=f"http://127.0.0.1:{port}", bucket="bucket", access_key="access", secret_key=Secret("secret")
    )
    server.terminate()
    server.wait()


@pytest.fixture(params=["memory", "rclone"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    if request.param == "memory":
        return MemoryStore(SystemClock())
    return RcloneStore(request.getfixturevalue("place"))


async def test_what_was_put_is_got_and_put_again_replaces_it(store: ObjectStore) -> None:
    await store.put("put/a/one.json", "first")
    await store.put("put/a/one.json", "second äöü\n")

    assert await store.get("put/a/one.json") == "second äöü\n"


async def test_a_list_is_sorted_whole_and_of_this_folder_only(store: ObjectStore) -> None:
    for key in ("list/b/2", "list/a/1", "listed/3"):
        await store.put(key, "xyz")

    found = await store.list("list")

    assert [(each.key, each.size_bytes) for each in found] == [("list/a/1", 3), ("list/b/2", 3)]
    assert abs((found[0].changed - SystemClock().now()).total_seconds()) < 60
    assert await store.list("nothing/here") == []


async def test_the_folders_right_in_one_are_told(store: ObjectStore) -> None:
    for key in ("in/b/2", "in/a/1/x", "in/3", "inside/c/4"):
        await store.put(key, "xyz")

    assert await store.folders("in") == ["a", "b"]
    assert await store.folders("nowhere/here") == []


async def test_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    await store.put("there/one", "x")

    for key in ("there/two", "nowhere/one"):
        with pytest.raises(NotFound, match=key):
            await store.get(key)


async def test_of_many_those_that_are_there_are_got_at_once(store: ObjectStore) -> None:
    keys = [f"many/{number}/manifest.json" for number in range(40)]
    for key in keys[:30]:
        await store.put(key, f"{key} äöü\n")

    assert await store.texts(keys) == {key: f"{key} äöü\n" for key in keys[:30]}
    assert await store.texts(keys[30:]) == await store.texts(["nowhere/one"]) == await store.texts([]) == {}


async def test_deleted_is_gone_the_rest_stays_and_twice_is_fine(store: ObjectStore) -> None:
    for key in ("del/1", "del/2", "del/3"):
        await store.put(key, "x")

    await store.delete(["del/1", "del/3"])
    await store.delete(["del/1", "del/never"])
    await store.delete([])

    assert [each.key for each in await store.list("del")] == ["del/2"]


async def test_a_wrong_key_is_told_from_a_store_that_is_away(place: StorePlace) -> None:
    with pytest.raises(NotAllowed, match="refuses our key"):
        await RcloneStore(replace(place, secret_key=Secret("wrong"))).put("x", "x")
    with pytest.raises(NotAllowed, match="refuses our key"):
        await RcloneStore(replace(place, access_key="expired")).get("x")
    with pytest.raises(NotAllowed, match="refuses our key"):
        await RcloneStore(replace(place, access_key="expired")).texts(["x"])
    with pytest.raises(Unavailable, match="does not answer"):
        await RcloneStore(replace(place, endpoint=f"http://127.0.0.1:{free_port()}")).list("x")
    with pytest.raises(Unavailable, match="does not answer"):
        await RcloneStore(replace(place, endpoint=f"http://127.0.0.1:{free_port()}")).texts(["x"])


async def test_keys_are_never_arguments_nor_in_errors(place: StorePlace) -> None:
    with pytest.raises(NotAllowed) as refused:
        await RcloneStore(replace(place, secret_key=Secret("very-secret-word"))).get("x")

    assert "very-secret-word" not in str(refused.value) + repr(place)


def test_a_restore_does_not_list_each_backup_by_itself(place: StorePlace, tmp_path: Path) -> None:
    """Within a year there are thousands, and each list is a request that is waited for."""
    store = RcloneStore(place)
    for number in range(12):
        told = {"id": f"id-{number:02}", "parent": None, "ended": f"2026-11-{number + 1:02}T00:00:00Z", "gtid": "7"}
        for name in ("manifest.json", "data.00000"):
            asyncio.run(store.put(f"listed-once/backups/id-{number:02}/{name}", json.dumps(told)))
    requests, secret = tmp_path / "requests", tmp_path / "secret"
    secret.mkdir()
    (tmp_path / "rclone").write_text(f'#!/bin/sh\nexec {rclone()} --log-file {requests} -vv --dump headers "$@"\n')
    (tmp_path / "rclone").chmod(0o755)
    given = {"RESTORE_BACKUP": "latest", "RESTORE_TO": "newest", "BACKUP_GROUP": "my", "secret": str(secret)}

    chosen = subprocess.run(
        ["bash", "-c", f". {ATTACHMENTS}/restore_store.sh; choose_chain; echo $RESTORE_BACKUP"],
        env={
            **os.environ, **remote_environment(place), **given, "BACKUP_ROOT": f"store:{place.bucket}/listed-once",
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
        },
        capture_output=True, text=True,
    )  # fmt: skip

    assert chosen.stdout.splitlines()[-1] == "id-11", chosen.stderr
    asked = re.findall(r"GET (\S+) HTTP", requests.read_text())
    lists = [each for each in asked if "manifest.json" not in each]
    assert len(asked) - len(lists) == 12 and 0 < len(lists) < 6, asked
