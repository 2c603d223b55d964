from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from relaunch.clouds.local import files
from relaunch.clouds.local.images import image_id, recipe_hash
from relaunch.clouds.local.instances import bound
from relaunch.clouds.local.records import InstanceRecord, Store, Wanted
from relaunch.clouds.local.volumes import check_device
from relaunch.errors import BadInput, Conflict

RECORD = InstanceRecord(
    id="i-0123456789",
    client_token="t",
    name="web1",
    image="img-1",
    layers=("img-1", "img-0"),
    zone="a",
    address="198.18.0.2",
    groups=("web",),
    tags={"role": "web"},
    wanted=Wanted.RUNNING,
    launched=datetime(2026, 1, 1, tzinfo=UTC),
)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path, "instance.json")
    ended = replace(RECORD, id="i-1", wanted=Wanted.TERMINATED, terminated=datetime(2026, 1, 2, tzinfo=UTC))

    store.write(RECORD)
    store.write(ended)

    assert list(store.read(InstanceRecord)) == [RECORD, ended]


def test_a_half_made_folder_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "i-1").mkdir()
    (tmp_path / ".i-2.removed").mkdir()
    (tmp_path / "i-3").mkdir()
    (tmp_path / "i-3/instance.json").write_text("")

    assert list(Store(tmp_path, "instance.json").read(InstanceRecord)) == []


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    files.write_json(tmp_path / "x.json", {"a": 1})
    files.write_json(tmp_path / "x.json", {"b": 2})

    assert files.read_json(tmp_path / "x.json") == {"b": 2}
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_no_space_is_a_conflict_with_numbers(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="MB needed"):
        files.need_space(tmp_path, 1 << 60, "the image")


def test_an_image_s_content_is_its_recipe_without_the_changelog(tmp_path: Path) -> None:
    (tmp_path / "build").write_text("#!/bin/sh\n")
    first = recipe_hash(tmp_path)

    (tmp_path / "CHANGELOG.md").write_text("# 2")
    assert recipe_hash(tmp_path) == first
    (tmp_path / "build").chmod(0o755)
    assert recipe_hash(tmp_path) != first
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_text("x")
    assert len({first, recipe_hash(tmp_path)}) == 2
    assert image_id("a") == image_id("a") != image_id("b")


def test_a_long_console_keeps_its_end(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"x" * (3 << 20) + b"the end")

    bound(log)

    assert log.stat().st_size <= 1 << 20
    assert log.read_bytes().endswith(b"xthe end")


@pytest.mark.parametrize("device", ["srv/data", "/", "/srv/../etc", "/a:b", "/a\nb", ""])
def test_what_is_no_place_for_a_volume_is_refused(device: str) -> None:
    with pytest.raises(BadInput):
        check_device(device)
