from __future__ import annotations

from typing import Any

import pytest

from relaunch.dashboard.activity import ACTIONS, Activity, activity, possible_actions, roles
from relaunch.servers.lifecycle import State

RUN: dict[str, Any] = {
    "phase": "boot",
    "state": "running",
    "created": "2026-11-22T16:00:00.000000+00:00",
    "order": {"scripts": [{"name": "one"}, {"name": "two"}]},
    "results": [{"index": 0, "state": "succeeded", "exit_status": 0}, {"index": 1, "state": "running"}],
}
FAILED = RUN | {
    "state": "failed",
    "results": [{"index": 0, "state": "failed", "exit_status": 7}, {"index": 1, "state": "waiting"}],
}


def test_a_running_script_is_told_with_its_place() -> None:
    seen = activity("booting", run=RUN, step=("run the boot scripts", "x"), stranded_why=None)

    assert seen == Activity(text="boot script 2/2: two", done=1, total=2, since=RUN["created"])


def test_a_run_not_yet_reported_is_at_its_first_script() -> None:
    seen = activity("booting", run=RUN | {"results": []}, step=None, stranded_why=None)

    assert seen.text == "boot script 1/2: one"


def test_a_stranded_server_tells_the_script_and_why() -> None:
    assert activity("stranded", run=FAILED, step=None, stranded_why=None).text == "boot script 1/2: one — exit status 7"
    told = activity("stranded", run=FAILED, step=None, stranded_why="timed out after 10 s")
    assert told.text == "boot script 1/2: one — timed out after 10 s" and told.bad
    assert activity("stranded", run=None, step=None, stranded_why=None).text == "a boot script failed"


def test_without_a_script_the_step_of_its_task_is_told() -> None:
    assert activity("pending", run=None, step=("bake the image", "then"), stranded_why=None).text == "bake the image"
    assert activity("pending", run=None, step=None, stranded_why=None).text == "waiting for the cloud"
    assert activity("operational", run=FAILED, step=None, stranded_why=None) == Activity()


@pytest.mark.parametrize(
    ("state", "locked", "names"),
    [
        ("inactive", False, []),
        ("pending", False, ["relaunch", "set-aside", "terminate"]),
        ("booting", False, ["relaunch", "reboot", "set-aside", "terminate"]),
        ("operational", False, ["relaunch", "reboot", "set-aside", "terminate"]),
        ("operational", True, ["set-aside"]),
        ("stranded", False, ["retry", "relaunch", "reboot", "set-aside", "terminate"]),
        ("stranded", True, ["retry", "set-aside"]),
        ("set_aside", False, ["relaunch", "terminate"]),
        ("decommissioning", False, []),
        ("terminated", False, []),
    ],
)
def test_only_what_state_and_lock_allow_is_offered(state: str, locked: bool, names: list[str]) -> None:
    assert [action.name for action in possible_actions(state, locked=locked)] == names


def test_every_action_is_offered_in_some_state() -> None:
    offered = {action.name for state in State for action in possible_actions(state, locked=False)}

    assert offered == set(ACTIONS)


@pytest.mark.parametrize(
    ("name", "template", "tags", "primary", "expected"),
    [
        ("db1", "mysql", {}, None, ("primary to be",)),
        ("db1", "mysql", {}, "s-db1", ("primary",)),
        ("db1", "mysql", {}, "s-db2", ("replica",)),
        ("db2", "mysql", {}, "s-db2", ("primary",)),
        ("db2", "mysql", {}, None, ("replica",)),
        ("front1", "front-end", {"app": "8000"}, None, ("front end", "app")),
        ("box", "base", {}, None, ()),
    ],
)
def test_roles_follow_what_is_stored(
    name: str, template: str, tags: dict[str, str], primary: str | None, expected: tuple[str, ...]
) -> None:
    spec = {"database": {"primary": "db1", "replicas": ["db2"]}}

    assert roles(server_id=f"s-{name}", name=name, template=template, tags=tags, spec=spec, primary=primary) == expected
