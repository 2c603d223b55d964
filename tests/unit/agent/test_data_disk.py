"""On which disk the database's data lies, and what is known of that."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from relaunch_agent.database.data_disk import mount_of, room, statistics_of, written_bytes

MOUNTS = """\
24 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw,discard
61 24 0:45 / /var/lib/mysql-volume rw,noatime - btrfs /dev/nvme1n1 rw,space_cache=v2
62 24 0:46 / /srv/with\\040space rw - overlay overlay rw,lowerdir=/a
63 61 0:47 / /var/lib/mysql-volume rw,noatime - tmpfs none rw
"""


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/var/lib/mysql", ("259:1", "/dev/nvme0n1p1")),
        ("/var/lib/mysql-volume/data", ("0:47", "none")),  # what was mounted later hides what was there
        ("/var/lib/mysql-volume2", ("259:1", "/dev/nvme0n1p1")),
        ("/srv/with space/data", ("0:46", "overlay")),
    ],
)
def test_the_mount_that_a_path_lies_on(path: str, mount: tuple[str, str]) -> None:
    assert mount_of(MOUNTS, path) == mount


def test_what_is_no_disk_and_what_is_not_known_has_no_statistics() -> None:
    assert statistics_of("/proc") == ""
    assert statistics_of("") == ""
    assert written_bytes("") is None


def test_statistics_count_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "stat"
    file.write_text("   11   12    13   14   15   16    17   18   19   20   21 0 0 0 0 0 0\n")

    assert written_bytes(str(file)) == 17 * 512


def test_room_is_told_and_of_what_is_not_there_nothing(tmp_path: Path) -> None:
    found, said = room(str(tmp_path)), shutil.disk_usage(tmp_path)

    assert found is not None
    assert 0 < found.free_bytes <= found.size_bytes <= said.total
    assert not found.read_only
    assert abs(found.free_bytes - said.free) < 100e6  # others write meanwhile
    assert room(str(tmp_path / "none")) is None
