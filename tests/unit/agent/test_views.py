"""Which views an agent takes: the newest, also from a controller whose store was put back from an older copy."""

from __future__ import annotations

from typing import Any

import pytest

from relaunch.bus.messages import Accepted, Refused, SetView
from relaunch_agent.haproxy_process import HAProxy
from relaunch_agent.places import Places
from relaunch_agent.views import Views


@pytest.fixture
def views(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Views:
    places = Places(tmp_path)
    monkeypatch.setattr(HAProxy, "__init__", lambda *_: None)
    found = Views(places, HAProxy(places))
    monkeypatch.setattr(found, "apply", lambda: None)
    return found


def view(epoch: int | None, primary: str = "db1") -> dict[str, Any]:
    if epoch is None:
        return {"database": None}
    return {"database": {"group": "shop", "epoch": epoch, "primary": primary, "initialised": epoch > 1}}


def taken(views: Views, version: int, view: dict[str, Any]) -> bool:
    answer = views.take(SetView(version=version, view=view))
    assert isinstance(answer, (Accepted, Refused))
    return isinstance(answer, Accepted)


def test_a_later_version_is_taken_an_earlier_one_refused(views: Views) -> None:
    assert taken(views, 7, view(3)) and taken(views, 8, view(3, "db2"))
    assert not taken(views, 7, view(3)) and taken(views, 8, view(3, "db2"))
    assert views.view["database"]["primary"] == "db2"


def test_another_view_of_the_same_version_is_taken(views: Views) -> None:
    """A store that was put back gives that version once more."""
    assert taken(views, 8, view(3)) and taken(views, 8, view(3, "db2"))
    assert views.view["database"]["primary"] == "db2"
    assert not taken(views, 8, view(2))


def test_an_older_epochs_view_is_refused_however_new_it_says_it_is(views: Views) -> None:
    """Else the front ends would be sent to a former primary once the versions of the older store have caught up."""
    assert taken(views, 7, view(9, "db2"))

    assert not taken(views, 8, view(5, "db1"))
    assert taken(views, 3, view(10, "db2")), "the group is known again, the versions count from where they were"
    assert (views.version, views.view["database"]["epoch"]) == (3, 10)


def test_without_a_database_before_or_after_the_version_decides(views: Views) -> None:
    assert taken(views, 7, view(9)) and taken(views, 8, view(None)) and taken(views, 9, view(2))
    assert not taken(views, 8, view(None))


def test_a_group_that_begins_anew_is_no_older_one(views: Views) -> None:
    assert taken(views, 7, view(9)) and taken(views, 8, view(1)) and taken(views, 9, view(2))
