"""Commands against an API of a few lines: what is asked, what is printed, with which exit status it ends."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relaunch.cli import follow

from .conftest import Api, Ran, refusal, stream

Relaunch = Callable[..., Ran]
TASK = {
    "id": "t1",
    "kind": "apply",
    "title": "apply shop",
    "subject": "deployment:shop",
    "state": "succeeded",
    "error": "",
}
SERVERS = {
    "servers": [
        {"deployment": "shop", "name": "front1", "state": "operational", "template": "front-end", "zone": "a",
         "address": "198.18.0.11"},
        {"deployment": "shop", "name": "db1", "state": "stranded", "template": "mysql", "zone": "a", "address": None},
        {"deployment": "blog", "name": "db1", "state": "booting", "template": "mysql", "zone": "b", "address": None},
    ]
}  # fmt: skip


def a_task_that(api: Api, state: str, *, error: str = "", steps: tuple[tuple[str, dict[str, Any]], ...] = ()) -> None:
    task = TASK | {"state": state, "error": error, "steps": []}
    api.answers["GET /tasks/t1"] = (200, task)
    api.answers["GET /tasks/t1/events"] = (200, stream(*steps, ("task", task)))


def test_servers_are_listed_with_their_states(api: Api, relaunch: Relaunch) -> None:
    api.answers["GET /servers"] = (200, SERVERS)

    ran = relaunch("server", "list")

    assert ran.status == 0
    assert [line.split()[:3] for line in ran.out.splitlines()[1:]] == [
        ["shop", "front1", "operational"],
        ["shop", "db1", "stranded"],
        ["blog", "db1", "booting"],
    ]


def test_json_is_what_the_api_said(api: Api, relaunch: Relaunch) -> None:
    api.answers["GET /servers"] = (200, SERVERS)

    assert relaunch("server", "list", "--json").json == SERVERS["servers"]


def test_a_short_name_finds_its_only_server(api: Api, relaunch: Relaunch) -> None:
    api.answers["GET /servers"] = (200, SERVERS)
    api.answers["GET /servers/shop/front1"] = (200, SERVERS["servers"][0])

    assert "198.18.0.11" in relaunch("server", "show", "front1").out


def test_a_short_name_of_two_servers_asks_which(api: Api, relaunch: Relaunch) -> None:
    api.answers["GET /servers"] = (200, SERVERS)

    ran = relaunch("server", "show", "db1")

    assert ran.status == 2
    assert "blog/db1 or shop/db1" in ran.err


def test_an_unknown_short_name_is_not_found_and_names_what_there_is(api: Api, relaunch: Relaunch) -> None:
    api.answers["GET /servers"] = (200, SERVERS)

    ran = relaunch("server", "show", "front9")

    assert ran.status == 3
    assert "shop/front1" in ran.err


def test_an_action_shows_its_steps_and_ends_well(api: Api, relaunch: Relaunch) -> None:
    api.answers["POST /servers/shop/front1/reboot"] = (202, {"task": TASK})
    step = {"task_id": "t1", "number": 1, "name": "boot scripts", "server": "shop/front1", "detail": ""}
    a_task_that(
        api,
        "succeeded",
        steps=(("step", step | {"state": "running"}), ("step", step | {"state": "succeeded", "seconds": 1.25})),
    )

    ran = relaunch("server", "reboot", "shop/front1")

    assert ran.status == 0
    assert ran.out == "  … shop/front1: boot scripts\n  ✓ shop/front1: boot scripts  1.2 s\napply shop: done\n"


def far(step: dict[str, Any], *details: str) -> tuple[tuple[str, dict[str, Any]], ...]:
    return tuple(("step", step | {"state": "running", "detail": detail}) for detail in details)


def test_how_far_a_running_step_is_stands_on_lines_now_and_then(
    api: Api, relaunch: Relaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = {"task_id": "t1", "number": 1, "name": "compare", "server": "shop/db1"}
    ended = ("step", step | {"state": "succeeded", "seconds": 9.0, "detail": ""})
    a_task_that(api, "succeeded", steps=(*far(step, "", "1 of 3 tables", "2 of 3 tables"), ended))
    first, last = "  … shop/db1: compare\n  … shop/db1: compare: 1 of 3 tables\n", "  ✓ shop/db1: compare  9.0 s\n"

    rarely = relaunch("task", "follow", "t1")
    monkeypatch.setattr(follow, "DETAIL_SECONDS", 0.0)
    each = relaunch("task", "follow", "t1")

    assert rarely.out == first + last + "apply shop: done\n"
    assert each.out == first + "  … shop/db1: compare: 2 of 3 tables\n" + last + "apply shop: done\n"


def test_how_far_a_running_step_is_is_rewritten_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    printed = follow.Printed(quiet=False, verbose=True)
    step = {"task_id": "t1", "number": 1, "name": "compare", "server": "shop/db1"}

    for name, data in far(step, "", "1 of 3", "2 of 3 tables, 5 s to go"):
        printed.event(name, data)
    printed.event("output", {"server": "shop/db1", "script": "sum", "text": "half"})
    printed.event("step", step | {"state": "succeeded"})

    assert capsys.readouterr().out == (
        "  … shop/db1: compare\n\r  … shop/db1: compare: 1 of 3\x1b[K\r  … shop/db1: compare: 2 of 3\x1b[K"
        "\r\x1b[K── shop/db1 · sum\nhalf\n  ✓ shop/db1: compare\n"
    )


def test_output_is_shown_only_when_asked_for(api: Api, relaunch: Relaunch) -> None:
    api.answers["POST /servers/shop/front1/reboot"] = (202, {"task": TASK})
    a_task_that(api, "succeeded", steps=(("output", {"server": "shop/front1", "text": "hello\n"}),))

    assert "hello" not in relaunch("server", "reboot", "shop/front1").out
    assert "hello\n" in relaunch("server", "reboot", "shop/front1", "--verbose").out


def test_a_failed_task_is_this_commands_failure(api: Api, relaunch: Relaunch) -> None:
    api.answers["POST /servers/shop/front1/reboot"] = (202, {"task": TASK})
    a_task_that(api, "failed", error="install_base.sh ended with status 3")

    ran = relaunch("server", "reboot", "shop/front1")

    assert ran.status == 1
    assert "install_base.sh ended with status 3" in ran.err
    assert "relaunch task show t1" in ran.err


def test_no_wait_returns_while_the_task_goes_on(api: Api, relaunch: Relaunch) -> None:
    api.answers["POST /servers/shop/front1/reboot"] = (202, {"task": TASK})
    api.answers["GET /tasks/t1"] = (200, TASK | {"state": "running"})

    ran = relaunch("server", "reboot", "shop/front1", "--no-wait")

    assert ran.status == 0
    assert "relaunch task follow t1" in ran.out
    assert not api.bodies("GET /tasks/t1/events")


@pytest.mark.parametrize(
    ("words", "route"),
    [
        (("server", "terminate", "shop/front1"), "POST /servers/shop/front1/terminate"),
        (("server", "relaunch", "shop/front1"), "POST /servers/shop/front1/relaunch"),
        (("deployment", "destroy", "shop"), "DELETE /deployments/shop?yes=true"),
        (("credential", "delete", "DB"), "DELETE /credentials/DB"),
    ],
)
def test_what_destroys_is_done_only_with_yes(api: Api, relaunch: Relaunch, words: tuple[str, ...], route: str) -> None:
    api.answers["GET /deployments/shop"] = (200, {"name": "shop"})
    api.answers[route] = (202, {"task": TASK})
    a_task_that(api, "succeeded")

    refused = relaunch(*words)
    asked_before = api.bodies(route)
    done = relaunch(*words, "--yes")

    assert (refused.status, asked_before) == (5, [])
    assert "--yes" in refused.err
    assert done.status == 0
    assert len(api.bodies(route)) == 1


def test_what_follows_from_another_backup_key_is_printed(
    api: Api, relaunch: Relaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"name": "BACKUP_KEY", "generated": False, "note": "relaunch the database servers"}
    api.answers["PUT /credentials/BACKUP_KEY"] = (200, answer)
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))

    ran = relaunch("credential", "set", "BACKUP_KEY")

    assert api.bodies("PUT /credentials/BACKUP_KEY") == [{"value": "one\ntwo"}]
    assert "relaunch the database servers" in ran.out


def test_apply_sends_the_file_and_follows(api: Api, relaunch: Relaunch, tmp_path: Path) -> None:
    (tmp_path / "shop.yml").write_text("deployment: shop\n")
    api.answers["POST /deployments"] = (202, {"task": TASK})
    a_task_that(api, "succeeded")

    assert relaunch("apply", str(tmp_path / "shop.yml")).status == 0
    assert api.bodies("POST /deployments") == [{"source": "deployment: shop\n", "yes": False}]


def test_apply_that_would_destroy_shows_the_plan_and_stops(api: Api, relaunch: Relaunch, tmp_path: Path) -> None:
    (tmp_path / "shop.yml").write_text("deployment: shop\n")
    api.answers["POST /deployments"] = (409, refusal("needs_confirmation", "front2 would be destroyed"))
    action = {"action": "destroy", "subject": "server:shop/front2", "why": "not in the file", "destroys": True}
    api.answers["POST /plans"] = (200, {"deployment": "shop", "actions": [action], "inputs": [], "problems": []})

    ran = relaunch("apply", str(tmp_path / "shop.yml"))

    assert ran.status == 5
    assert "- destroy server:shop/front2   (not in the file)" in ran.out
    assert len(api.bodies("POST /deployments")) == 1


def test_a_plan_with_problems_is_bad_input(api: Api, relaunch: Relaunch, tmp_path: Path) -> None:
    (tmp_path / "shop.yml").write_text("deployment: shop\n")
    api.answers["POST /plans"] = (200, {"deployment": "shop", "actions": [], "problems": ["no template front-edn"]})

    ran = relaunch("plan", str(tmp_path / "shop.yml"))

    assert ran.status == 2
    assert "no template front-edn" in ran.out


def test_a_missing_file_says_how_to_write_one(api: Api, relaunch: Relaunch) -> None:
    ran = relaunch("apply", "nowhere.yml")

    assert ran.status == 3
    assert "relaunch init" in ran.err


def test_a_script_file_is_sent_with_its_text_and_inputs(api: Api, relaunch: Relaunch, tmp_path: Path) -> None:
    script = tmp_path / "hello.sh"
    script.write_text("#!/bin/sh\necho hello\n")
    api.answers["POST /runs"] = (202, {"task": TASK})
    a_task_that(api, "succeeded")

    ran = relaunch("server", "run", "shop/front1", "shop/db1", "-s", str(script), "-i", "NAME=text:a=b")

    assert ran.status == 0
    assert api.bodies("POST /runs") == [
        {
            "servers": ["shop/front1", "shop/db1"],
            "script": {"name": "hello.sh", "text": script.read_text()},
            "inputs": {"NAME": "text:a=b"},
        }
    ]


def test_the_log_is_read_piece_by_piece(api: Api, relaunch: Relaunch) -> None:
    run = {"id": "r1", "phase": "boot", "state": "failed", "created": "2026-01-01T00:00:00.000000+00:00",
           "results": [{"index": 0, "name": "install_base.sh"}]}  # fmt: skip
    api.answers["GET /servers/shop/front1/runs"] = (200, {"runs": [run]})
    first = "GET /runs/r1/output?index=0&offset=0"
    api.answers[first] = (200, {"text": "one\n", "offset": 0, "next_offset": 4})
    api.answers["GET /runs/r1/output?index=0&offset=4"] = (200, {"text": "two\n", "offset": 4, "next_offset": 8})
    api.answers["GET /runs/r1/output?index=0&offset=8"] = (200, {"text": "", "offset": 8, "next_offset": 8})

    ran = relaunch("server", "log", "shop/front1")

    assert "── install_base.sh\none\ntwo\n" in ran.out


def test_a_token_is_printed_on_a_line_of_its_own(api: Api, relaunch: Relaunch) -> None:
    api.answers["POST /tokens"] = (201, {"name": "ci", "token": "secret-once"})

    assert relaunch("token", "create", "ci").out.splitlines()[0] == "secret-once"


def test_names_are_completed_from_the_controller(api: Api) -> None:
    from relaunch.cli.here import complete_server

    api.answers["GET /servers"] = (200, SERVERS)

    assert complete_server("shop/") == ["shop/db1", "shop/front1"]
    assert complete_server("fr") == ["front1"]


def test_completion_is_silent_without_a_controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from relaunch.cli.here import complete_server

    monkeypatch.setenv("RELAUNCH_STATE", str(tmp_path))

    assert complete_server("") == []


def test_a_file_of_init_is_never_overwritten(relaunch: Relaunch, tmp_path: Path) -> None:
    file = tmp_path / "site.yml"

    assert relaunch("init", "redundant", "-o", str(file)).status == 0
    before = file.read_text()
    ran = relaunch("init", "all-in-one", "-o", str(file))

    assert ran.status == 4
    assert file.read_text() == before


def test_json_errors_are_words_on_standard_error(api: Api, relaunch: Relaunch) -> None:
    api.answers["GET /tasks/t9"] = (404, refusal("not_found", "no task t9", "relaunch task list"))

    ran = relaunch("task", "show", "t9", "--json")

    assert (ran.status, ran.out) == (3, "")
    assert ran.err == "relaunch: no task t9\n  relaunch task list\n"


GROUP = {
    "deployment": "shop", "group": "shop", "primary": "db1", "mode": "sync", "epoch": 4, "durability": "strict",
    "members": [
        {"name": "db1", "role": "primary", "state": "takes writes", "in_sync_set": False, "lag_seconds": None},
        {"name": "db2", "role": "replica", "state": "follows", "in_sync_set": True, "lag_seconds": 0.0},
    ],
    "pages": [{"rule": "replica lost", "text": "db3 is lost"}],
    "set_aside": [{"id": "i-9", "server": "shop/db3", "until": "2026-11-23T00:00:00", "address": "198.18.0.9"}],
}  # fmt: skip


def test_database_status_tells_roles_and_states(api: Api, relaunch: Relaunch) -> None:
    api.answers["GET /deployments"] = (200, {"deployments": [{"name": "shop"}]})
    api.answers["GET /databases/shop"] = (200, GROUP)

    members = relaunch("db", "status", "--json").json["members"]
    said = relaunch("db", "status").out

    assert [(m["name"], m["role"], m["state"]) for m in members] == [
        ("db1", "primary", "takes writes"),
        ("db2", "replica", "follows"),
    ]
    shell = "relaunch server ssh --aside i-9 shop/db3"
    for told in ("takes writes", "strict", "! replica lost: db3 is lost", "kept until 2026-11-23", shell):
        assert told in said


def test_a_shell_is_of_what_the_server_is_or_of_what_it_was(
    api: Api, relaunch: Relaunch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    api.answers["GET /servers/shop/db3"] = (200, {"name": "db3", "address": "198.18.0.20"})
    api.answers["GET /databases/shop"] = (200, GROUP)
    key = tmp_path / "state/ssh/id_ed25519"
    key.parent.mkdir(parents=True)
    key.touch()
    became: list[str] = []

    def becomes(program: str, words: list[str]) -> None:
        became.append(" ".join(words[words.index("ConnectTimeout=10") + 1 :]))
        raise SystemExit(0)

    monkeypatch.setattr("os.execv", becomes)
    relaunch("server", "ssh", "shop/db3")
    relaunch("server", "ssh", "--aside", "i-9", "shop/db3", "mariadb-binlog", "--aside")
    unknown = relaunch("server", "ssh", "--aside", "i-8", "shop/db3")

    assert became == ["root@198.18.0.20", "root@198.18.0.9 mariadb-binlog --aside"]
    assert unknown.status == 3 and "i-8" in unknown.err and "relaunch db status shop" in unknown.err


def test_failover_with_loss_wants_a_reason(api: Api, relaunch: Relaunch) -> None:
    api.answers["POST /databases/shop/failover"] = (200, GROUP)

    assert relaunch("db", "failover", "shop").status == 2
    assert relaunch("db", "failover", "shop", "--allow-data-loss", "the disk is gone").status == 0


def test_backups_show_what_is_wrong_the_schemas_and_how_often_each_is_made(api: Api, relaunch: Relaunch) -> None:
    dump = {"id": "20261122T180000Z-schema-db2", "schema": "redmine", "stored_bytes": 2_000_000, "ended": None,
            "proven": False, "fault": "", "would_go": False}  # fmt: skip
    api.answers["GET /databases/shop/backups"] = (200, {
        "deployment": "shop", "green": False, "reasons": ["schema redmine: the proof failed"], "newest_proven": "b1",
        "schedule": {"incremental": 600.0, "full": 604800.0, "schemas": None}, "backups": [], "schemas": [dump],
        "older": [], "binary_logs": None,
    })  # fmt: skip

    ran = relaunch("db", "backups", "shop")

    assert ran.status == 1 and "schema redmine: the proof failed" in ran.err
    assert "made every: incremental 10 min, full 7 d, schemas never" in ran.out
    assert "20261122T180000Z-schema-db2" in ran.out and "redmine" in ran.out and "NO" in ran.out


def test_promotion_says_what_it_is_asked(api: Api, relaunch: Relaunch) -> None:
    api.answers["POST /databases/shop/promote"] = (409, refusal("needs_confirmation", "db2 lags 900 s"))

    ran = relaunch("db", "promote", "db2", "--deployment", "shop")
    assert ran.status == 5 and "db2 lags 900 s" in ran.err
    assert api.bodies("POST /databases/shop/promote") == [{"to": "db2", "force": "", "reason": ""}]


def test_a_replica_is_removed_unasked_only_when_it_is_named_twice(api: Api, relaunch: Relaunch) -> None:
    api.answers["POST /databases/shop/remove-replica"] = (202, {"task": TASK, "server": "shop/db2", "changes": ""})

    ran = relaunch("db", "remove-replica", "db2", "--deployment", "shop", "--confirm", "db3")
    assert ran.status == 5 and "shop/db2 and its disk will be destroyed" in ran.err
    assert api.bodies("POST /databases/shop/remove-replica") == []

    relaunch("db", "remove-replica", "db2", "--deployment", "shop", "--confirm", "db2", "--no-wait")
    assert api.bodies("POST /databases/shop/remove-replica") == [{"server": "db2", "confirm": "db2"}]


def test_old_primaries_are_read_again_but_for_those_that_were_and_one_that_fails_stops_no_other(
    api: Api, relaunch: Relaunch
) -> None:
    path = "/databases/shop/extra-transactions"
    states = {"i1": "failed", "i2": "succeeded", "i3": "not read"}
    read = [
        {"server": "shop/db1", "instance": each, "until": None, "state": state, "error": "", "unread": "binlog.2"}
        for each, state in states.items()
    ]
    api.answers[f"GET {path}"] = (200, {"readings": read})
    api.answers[f"POST {path}"] = (202, {"task": TASK})
    a_task_that(api, "failed", error="it does not start")

    ran = relaunch("db", "extra-transactions", "shop", "--again", "--no-report")

    assert api.bodies(f"POST {path}") == [{"instance": "i1"}, {"instance": "i3"}]
    assert ran.status == 1 and ran.err.count("it does not start") == 2
    assert "not read" in ran.out


def test_every_error_ends_with_its_own_status(api: Api, relaunch: Relaunch) -> None:
    cases = {"bad_input": (400, 2), "not_found": (404, 3), "conflict": (409, 4), "needs_confirmation": (409, 5),
             "not_allowed": (401, 6), "unavailable": (503, 7), "failed": (500, 1)}  # fmt: skip

    for code, (http_status, status) in cases.items():
        api.answers["GET /audit"] = (http_status, refusal(code, f"because {code}"))
        ran = relaunch("audit")
        assert (ran.status, ran.err.strip()) == (status, ran.err.strip()), code
        assert f"because {code}" in ran.err


def test_an_answer_that_is_no_json_is_still_an_error_with_its_address(api: Api, relaunch: Relaunch) -> None:
    api.answers["GET /audit"] = (502, json.dumps("proxy says no"))

    ran = relaunch("audit")

    assert ran.status == 1
    assert "502" in ran.err
    assert api.url in ran.err
