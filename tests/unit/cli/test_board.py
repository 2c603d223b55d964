"""The board tells of each server what it does now."""

from __future__ import annotations

from relaunch.cli.board import lines_of

SERVERS = [{"name": "front1", "state": "booting"}, {"name": "db1", "state": "operational"}]


def task(subject: str, state: str = "running", *steps: dict[str, str], **more: object) -> dict[str, object]:
    return {
        "id": subject,
        "subject": subject,
        "state": state,
        "title": f"launch {subject}",
        "steps": list(steps),
    } | more


def test_a_server_shows_the_step_that_runs_and_its_detail() -> None:
    steps = (
        {"name": "launch the instance", "state": "succeeded", "detail": ""},
        {"name": "boot scripts", "state": "running", "detail": "configure_app.sh"},
    )

    lines = lines_of(SERVERS, [task("server:demo/front1", "running", *steps)], "demo")

    assert [(line.name, line.state, line.doing) for line in lines] == [
        ("db1", "operational", ""),
        ("front1", "booting", "boot scripts: configure_app.sh"),
    ]


def test_an_image_being_made_has_a_line_and_the_deployment_has_none() -> None:
    tasks = [
        task("deployment:demo"),
        task(
            "image:0123456789abcdef",
            "running",
            {"name": "base image", "state": "running", "detail": "unpacking apache2"},
            title="bake image front-end-0123",
        ),
    ]

    lines = lines_of([], tasks, "demo")

    assert [(line.name, line.doing) for line in lines] == [("image front-end", "base image: unpacking apache2")]


def test_a_failed_launch_shows_why_in_one_line() -> None:
    lines = lines_of(SERVERS, [task("server:demo/front1", "failed", error="status 3\nmore")], "demo")

    assert next(line.doing for line in lines if line.name == "front1") == "status 3"


def test_a_server_of_another_deployment_is_left_out() -> None:
    assert {line.name for line in lines_of(SERVERS, [task("server:shop/front9")], "demo")} == {"front1", "db1"}
