"""Snapshots of a volume: which are kept, what room they leave, and how long anybody is made to wait for one."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ATTACHMENTS = Path(__file__).parents[3] / "templates/scripts/attachments"
AT_ONCE = (0.0, 0.0)


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ATTACHMENTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


loaded("sql_session")
kinds = loaded("volume_kinds")
locks = loaded("snapshot_locks")
script = loaded("take_snapshot")


class Volume:
    """1,000 bytes, of which each snapshot holds 100."""

    def __init__(self, folder: Path, *, used: int) -> None:
        self.root, self.records = str(folder), str(folder / "snapshots")
        (folder / "snapshots").mkdir()
        self.there: list[str] = []
        self._used = used

    def space(self) -> tuple[int, int]:
        return 1000, 1000 - self._used - 100 * len(self.there)

    def names(self) -> list[str]:
        return list(self.there)

    def drop(self, id: str) -> None:
        self.there.remove(id)

    def settle(self) -> None:
        pass

    def lay_out(self, id: str, data: str, folder: str) -> None:
        Path(folder).mkdir()
        (Path(folder) / "relaunch-group").write_text("shop\n")

    def with_snapshots(self, *ids: str) -> Volume:
        for id in ids:
            record = {"id": id, "data": "data", "settings": {"innodb_page_size": "16384"}}
            (Path(self.records) / f"{id}.json").write_text(json.dumps(record))
        self.there += ids
        return self


def ids(volume: Volume) -> list[str]:
    return [each["id"] for each in script.kept(volume)]


def test_the_oldest_goes_while_too_little_is_free(tmp_path: Path) -> None:
    volume, said = Volume(tmp_path, used=500).with_snapshots("1", "2", "3"), []

    script.make_room(volume, 350, said.append)

    assert ids(volume) == ["3"]
    assert [line.split()[0] for line in said] == ["1", "2"]


def test_where_room_is_left_nothing_goes(tmp_path: Path) -> None:
    volume = Volume(tmp_path, used=100).with_snapshots("1", "2")

    script.make_room(volume, 350, print)

    assert ids(volume) == ["1", "2"]


def test_a_volume_that_is_full_of_data_gets_no_snapshot(tmp_path: Path) -> None:
    volume = Volume(tmp_path, used=900).with_snapshots("1")

    with pytest.raises(kinds.VolumeError, match="could fill it and stop the database"):
        script.make_room(volume, 350, print)


def test_what_a_kill_left_half_done_is_cleared_away(tmp_path: Path) -> None:
    volume = Volume(tmp_path, used=0).with_snapshots("1", "2")
    volume.there.append("3")  # taken, and not written down
    volume.there.remove("1")  # written down, and dropped

    assert ids(volume) == ["2"]
    assert volume.there == ["2"]
    assert not (tmp_path / "snapshots/1.json").exists()


def test_a_record_that_a_power_failure_emptied_counts_for_nothing(tmp_path: Path) -> None:
    volume = Volume(tmp_path, used=700).with_snapshots("1", "2", "3")
    (tmp_path / "snapshots/2.json").write_bytes(b"")

    script.make_room(volume, 200, print)

    assert ids(volume) == ["3"]
    assert volume.there == ["3"]
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == ["3.json"]


def test_a_clock_that_was_set_back_does_not_make_the_newest_the_first_to_go(tmp_path: Path) -> None:
    volume = Volume(tmp_path, used=0).with_snapshots("20990101T000000.999999Z", "20200101T000000.000000Z")

    assert script.next_id(volume) == "20990101T000001.000000Z"


def test_a_record_is_whole_before_it_has_its_name(tmp_path: Path) -> None:
    volume = Volume(tmp_path, used=0)

    script.write_record(volume, {"id": "1", "data": "data"})

    volume.there.append("1")
    assert script.kept(volume) == [{"id": "1", "data": "data"}]


def test_what_fails_is_told_once_and_until_each_way_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = tmp_path / "bin/relaunch-local"
    local.parent.mkdir()
    local.write_text(f'#!/bin/sh\n[ ! -e {tmp_path}/away ] || exit 7\necho "$@" >>{tmp_path}/said\n')
    local.chmod(0o755)
    monkeypatch.setenv("PATH", str(local.parent), prepend=":")

    def told(*ways: tuple[str, bool]) -> list[str]:
        (tmp_path / "said").write_text("")
        for way, failing in ways:
            script.tell(way, failing=failing, folder=str(tmp_path / "failing"))
        return (tmp_path / "said").read_text().splitlines()

    assert told(("take", False), ("trim", False), ("list", True)) == []
    assert told(("take", True), ("take", True), ("trim", True)) == ["tag snapshots=failing"]
    assert told(("trim", False), ("trim", False)) == []
    assert told(("take", False), ("take", False)) == ["tag -d snapshots"]
    (tmp_path / "away").touch()
    assert told(("trim", True)) == []
    (tmp_path / "away").unlink()
    assert told(("trim", True), ("take", False)) == ["tag snapshots=failing"]  # with the next look, whatever it finds
    assert not script.FAILING.startswith("/run"), "the tag outlives a reboot"


def test_what_is_laid_out_names_no_group_and_knows_its_settings(tmp_path: Path) -> None:
    volume = Volume(tmp_path, used=0).with_snapshots("1")

    assert script.lay_out(volume, "latest", str(tmp_path / "copy"))["id"] == "1"
    with pytest.raises(kinds.VolumeError, match=r"no snapshot 2 on .*, but: 1"):
        script.lay_out(volume, "2", str(tmp_path / "copy"))

    assert (tmp_path / "copy/backup-my.cnf").read_text() == "[mysqld]\ninnodb_page_size = 16384\n"
    assert not (tmp_path / "copy/relaunch-group").exists()


class Attempt:
    """A locker whose lock cannot be had, or can."""

    def __init__(self, had: bool, closed: list[bool]) -> None:
        self._had, self._closed = had, closed

    def around(self, work: Callable[[], None]) -> None:
        if not self._had:
            raise locks.NotNow("somebody else is there")
        work()

    def close(self) -> None:
        self._closed.append(True)


def attempts(*, succeeds_at: int) -> tuple[Callable[[bool], Any], list[bool], list[bool]]:
    made: list[bool] = []
    closed: list[bool] = []

    def make(free: bool) -> Attempt:
        made.append(free)
        return Attempt(free or len(made) == succeeds_at, closed)

    return make, made, closed


@pytest.mark.parametrize(
    "succeeds_at, made_wanted",
    [(1, [False]), (3, [False, False, False]), (9, [False, False, False, True])],
)
def test_a_lock_is_tried_for_three_times_then_done_without(succeeds_at: int, made_wanted: list[bool]) -> None:
    make, made, closed = attempts(succeeds_at=succeeds_at)
    done: list[str] = []

    locks.take_under_a_lock(make, lambda: done.append("taken"), print, pauses=AT_ONCE)

    assert made == made_wanted
    assert done == ["taken"]
    assert len(closed) == min(succeeds_at, 4) - 1  # each that failed lets go of what it has


def test_while_commits_wait_for_a_replica_no_lock_is_asked_for() -> None:
    make, made, _ = attempts(succeeds_at=1)
    done: list[str] = []

    locks.take_under_a_lock(make, lambda: done.append("taken"), print, waits=lambda: True)

    assert (made, done) == ([True], ["taken"])


class Primary:
    """How many of its commits wait, and how many were acknowledged, at each look; the last goes on."""

    def __init__(self, *looks: tuple[int, int]) -> None:
        self._looks = list(looks)

    def rows(self, statement: str) -> list[list[str]]:
        waiting, acknowledged = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        return [[locks.WAITING, str(waiting)], [locks.ACKNOWLEDGED, str(acknowledged)]]


@pytest.mark.parametrize(
    "looks, waits",
    [
        pytest.param([(0, 5)], False, id="none waits"),
        pytest.param([(3, 5), (3, 9)], False, id="there are always some, and they are acknowledged"),
        pytest.param([(3, 5), (0, 8)], False, id="they waited for a moment"),
        pytest.param([(3, 5)], True, id="nothing is acknowledged"),
    ],
)
def test_commits_wait_when_none_is_acknowledged(looks: list[tuple[int, int]], waits: bool) -> None:
    assert locks.commits_wait(Primary(*looks), seconds=0.05) is waits


def test_without_semi_synchronous_replication_no_commit_waits() -> None:
    assert not locks.commits_wait(Killer(), seconds=0.05)


class Killer:
    def __init__(self) -> None:
        self.said: list[str] = []

    def rows(self, statement: str) -> list[list[str]]:
        self.said.append(statement)
        return []


def test_who_takes_too_long_is_killed_and_who_does_not_is_left() -> None:
    killer = Killer()

    with locks.Watchdog(killer, 7, 5) as quick:
        pass
    with locks.Watchdog(killer, 8, 0.01) as slow:
        while not killer.said:
            pass

    assert (quick.bit, slow.bit, killer.said) == (False, True, ["KILL 8"])


CLIENT = """#!/bin/sh
while read -r line; do
  case $line in
    UNLOCK*) if [ -e %s ]; then echo "ERROR 2013 (HY000) at line 9: Lost connection to MySQL server during query"; fi ;;
    *'END'*) echo 'END' ;;
    SELECT*) echo 0 ;;
  esac
done
"""


@pytest.mark.parametrize("ended", [False, True])
def test_a_lock_that_somebody_else_has_ended_was_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """As a new primary does whose applier waits for it: then more is in the snapshot than its position says."""
    killed = tmp_path / "killed"
    for name in ("mariadb", "mysql"):
        (tmp_path / name).write_text(CLIENT.replace("END", sys.modules["sql_session"].END) % killed)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    locker = locks.Global(Killer())

    locker.around(lambda: killed.touch() if ended else None)

    assert locker.held is not ended
