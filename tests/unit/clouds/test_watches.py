"""The limit of inotify instances, raised while a local cloud is up."""

from __future__ import annotations

from pathlib import Path

import pytest

from relaunch.clouds.local.watches import ENOUGH, give_back, raise_limit


@pytest.fixture
def setting(tmp_path: Path) -> Path:
    file = tmp_path / "max_user_instances"
    file.write_text("128\n")
    return file


def test_the_last_cloud_gives_back_what_the_first_one_found(setting: Path, tmp_path: Path) -> None:
    notes = tmp_path / "run" / "inotify"
    raise_limit("one", notes=notes, setting=setting)
    raise_limit("two", notes=notes, setting=setting)
    raise_limit("one", notes=notes, setting=setting)
    assert int(setting.read_text()) == ENOUGH

    give_back("one", notes=notes, setting=setting)
    assert int(setting.read_text()) == ENOUGH
    give_back("two", notes=notes, setting=setting)

    assert setting.read_text() == "128\n"
    assert not notes.parent.exists()


def test_a_limit_that_is_high_enough_is_left_alone(setting: Path, tmp_path: Path) -> None:
    notes = tmp_path / "run" / "inotify"
    setting.write_text(f"{ENOUGH * 2}\n")

    raise_limit("one", notes=notes, setting=setting)
    assert not notes.exists()
    give_back("one", notes=notes, setting=setting)

    assert int(setting.read_text()) == ENOUGH * 2


def test_what_somebody_set_meanwhile_stays(setting: Path, tmp_path: Path) -> None:
    notes = tmp_path / "run" / "inotify"
    raise_limit("one", notes=notes, setting=setting)
    setting.write_text("20000\n")

    give_back("one", notes=notes, setting=setting)

    assert setting.read_text() == "20000\n"
