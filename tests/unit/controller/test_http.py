"""The API's frame: tokens, errors of one shape, versions, audit; and no secret anywhere but sealed."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from sqlalchemy import event, insert, update

from relaunch import __version__
from relaunch.bus.messages import Blob as BusBlob
from relaunch.bus.messages import Output, RunScripts, ScriptToRun
from relaunch.clock import SetClock, SystemClock
from relaunch.controller import admin_api, agent_api, tasks_api
from relaunch.controller.activity import Activity
from relaunch.controller.enrolments import EnrolmentDesk
from relaunch.controller.foundation import Foundation, lay_foundation
from relaunch.controller.http import Guards, create_app
from relaunch.controller.log import Secrets, start_logging
from relaunch.controller.refusals import OTHERS, SINGLE, WINDOW, Refusals
from relaunch.controller.settings import Settings
from relaunch.databases.backup_key import PRIVATE, PUBLIC, ensure_backup_key, new_identity
from relaunch.errors import Unavailable
from relaunch.records.schema import instances, task_steps, tasks

VALUE = "s3cret-value-that-is-nowhere"
NOW = "2026-01-01T00:00:00.000000+00:00"


@dataclass
class Api:
    state: Path
    base: Foundation
    app: FastAPI
    client: httpx.AsyncClient
    activity: Activity
    clock: SetClock
    refusals: Refusals


broken = APIRouter()


@broken.get("/broken")
async def _broken() -> None:
    raise RuntimeError(f"a fault with {VALUE} in it")


@broken.get("/unavailable")
async def _unavailable() -> None:
    raise Unavailable("the cloud did not answer", hint="try again")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    settings = Settings(
        state=tmp_path, network=IPv4Network("127.66.0.0/24"), bridge="none", api_port=1, bus_port=2,
        dns_zones=("test",), template_folders=(),
    )  # fmt: skip
    secrets, root, clock = Secrets(), logging.getLogger(), SetClock(SystemClock().now())
    handlers = list(root.handlers)
    start_logging(settings.log_folder, secrets)
    base = lay_foundation(settings, secrets, SystemClock())
    activity = Activity()
    base.output.subscribe(activity.changed)
    file = tmp_path / "agent.pyz"
    file.write_bytes(b"program")
    desk = EnrolmentDesk(
        base.database, base.clock, base.authority, user_data=lambda token: token, bus_url="tls://b:1",
        ssh_public_key="ssh-ed25519 AAAA",
    )  # fmt: skip
    state: dict[str, Any] = {name: getattr(base, name) for name in Foundation.__slots__}
    state |= {
        "hub": SimpleNamespace(connected_count=lambda: 0), "children": {}, "desk": desk, "activity": activity,
        "agent_records": base.records, "agent_program": base.blobs.put(file),
    }  # fmt: skip
    app = create_app(
        Guards(tokens=base.tokens, audit=base.audit, refusals=(refusals := Refusals(base.audit, clock))),
        routers=(admin_api.router, tasks_api.router, agent_api.router, broken),
        state=state,
    )
    token = settings.admin_token_file.read_text().strip()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="https://c/api/v1", headers={"Authorization": f"Bearer {token}"}
    ) as client:
        yield Api(tmp_path, base, app, client, activity, clock, refusals)
    base.database.dispose()
    root.handlers[:] = handlers


async def test_without_a_right_token_nothing_is_told_and_the_try_is_written_down(api: Api) -> None:
    for header in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic YTpi"}):
        answer = await api.client.post("/tokens", json={"name": "x"}, headers=header)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "not_allowed"

    entries = api.base.audit.entries()
    assert [(entry.result, entry.subject) for entry in entries] == [("refused", "/tokens")] * 3
    assert entries[0].who.startswith("unknown at")


async def test_a_stranger_who_hammers_is_counted_and_cannot_fill_the_disk(api: Api) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    log_file = api.state / "logs" / "controller.log"

    async def hammer(times: int, address: str = "9.9.9.9") -> None:
        transport = httpx.ASGITransport(api.app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="https://c/api/v1") as stranger:
            for _ in range(times):
                assert (await stranger.post("/tokens/" + "x" * 9000, json={}, headers=wrong)).status_code == 401

    await hammer(300)
    for number in range(40):
        await hammer(1, f"9.9.1.{number}")
    size = log_file.stat().st_size
    await hammer(100)

    singles = api.base.audit.entries(limit=1000)
    assert len(singles) == SINGLE
    assert max(len(entry.subject) for entry in singles) <= 200
    assert log_file.stat().st_size == size, "nothing more is written while they are counted"
    api.clock.move(WINDOW)
    await hammer(1)
    after, summary, *_ = api.base.audit.entries(limit=1000)
    assert (after.who, summary.who, summary.result) == ("unknown at 9.9.9.9", "unknown", "refused")
    assert summary.detail["count"] == 300 - SINGLE + 40 + 100
    assert summary.detail["by"]["9.9.9.9"] == 300 - SINGLE + 100
    assert (len(summary.detail["by"]), summary.detail["by"][OTHERS]) == (21, 21)

    await hammer(SINGLE + 4)
    api.refusals.summarise()  # as at the controller's end
    api.refusals.summarise()
    assert api.base.audit.entries()[0].detail["count"] == 5
    assert (await api.client.post("/tokens", json={"name": "ann"})).status_code < 300
    assert api.base.audit.entries()[0].who == "admin", "who is known is always written down"


async def test_healthz_and_the_description_need_no_token(api: Api) -> None:
    anonymous = {"Authorization": ""}
    health = await api.client.get("https://c/healthz", headers=anonymous)
    description = await api.client.get("/openapi.json", headers=anonymous)

    assert health.json() == {"status": "ok", "version": __version__}
    assert "/api/v1/tasks/{id}/events" in description.json()["paths"]


async def test_every_error_has_one_shape(api: Api) -> None:
    answers = {
        "not_found": await api.client.get("/nothing/here"),
        "bad_input": await api.client.get("/audit?limit=many"),
        "unavailable": await api.client.get("/unavailable"),
        "failed": await api.client.get("/broken"),
    }

    for code, answer in answers.items():
        assert answer.json().keys() == {"error"}
        assert answer.json()["error"].keys() == {"code", "message", "hint"}
        assert answer.json()["error"]["code"] == code
        assert answer.headers["relaunch-version"] == __version__
        assert answer.headers["relaunch-request"]
    assert [answer.status_code for answer in answers.values()] == [404, 400, 503, 500]
    assert answers["failed"].headers["relaunch-request"] in answers["failed"].json()["error"]["hint"]


@pytest.mark.parametrize(
    "version, status, hint", [("9.0.0", 409, "controller"), ("0.0.9", 409, "command"), (__version__, 200, "")]
)
async def test_a_command_of_another_version_is_told_what_to_upgrade(
    api: Api, version: str, status: int, hint: str
) -> None:
    answer = await api.client.get("/status", headers={"Relaunch-Version": version})

    assert answer.status_code == status
    if status == 409:
        assert answer.json()["error"]["code"] == "version_mismatch"
        assert hint in answer.json()["error"]["hint"]


async def test_a_token_is_shown_once_works_and_ends_when_revoked(api: Api) -> None:
    made = (await api.client.post("/tokens", json={"name": "ci"})).json()
    header = {"Authorization": f"Bearer {made['token']}"}

    assert (await api.client.get("/status", headers=header)).status_code == 200
    assert made["token"] not in (await api.client.get("/tokens")).text
    assert (await api.client.delete("/tokens/ci")).status_code == 200
    assert (await api.client.get("/status", headers=header)).status_code == 401
    assert (await api.client.delete("/tokens/admin")).json()["error"]["code"] == "conflict"


async def test_nobody_is_named_as_the_controller_itself(api: Api) -> None:
    """What it does by itself is told by that name: a reboot that somebody has ordered holds a failover up."""
    refused = await api.client.post("/tokens", json={"name": "relaunch"})

    assert refused.json()["error"]["code"] == "bad_input"
    assert "relaunch" not in [each["name"] for each in (await api.client.get("/tokens")).json()["tokens"]]


async def test_with_a_store_that_takes_no_writes_it_still_answers_and_changes_nothing(api: Api) -> None:
    def read_only(connection: Any, *_: object) -> None:
        connection.execute("PRAGMA query_only = ON")

    event.listen(api.base.database, "checkout", read_only)
    try:
        assert (await api.client.get("/status")).status_code == 200
        refused = await api.client.post("/tokens", json={"name": "ci"})
    finally:
        event.remove(api.base.database, "checkout", read_only)

    assert refused.status_code == 503
    assert "database cannot be used" in refused.json()["error"]["message"]
    assert "Make room" in refused.json()["error"]["hint"]


async def test_a_credentials_value_is_nowhere_but_sealed(api: Api) -> None:
    assert (await api.client.put("/credentials/DB", json={"value": VALUE})).status_code == 200
    assert api.base.vault.credential("DB") == VALUE
    await api.client.put("/credentials/DB", json={"value": VALUE, "generate": True})
    await api.client.put("/credentials/DB", json={"value": VALUE, "surplus": VALUE})
    await api.client.get("/broken")
    api.base.audit.record("admin", "try", "x", "done", {"deep": [{"said": f"-p{VALUE}"}]})

    assert VALUE not in (await api.client.get("/credentials")).text
    assert VALUE not in (await api.client.get("/audit")).text
    assert "-p•••" in (await api.client.get("/audit")).text
    assert "•••" in (api.state / "logs" / "controller.log").read_text()
    for file in api.state.rglob("*"):
        if file.is_file():
            assert VALUE.encode() not in file.read_bytes(), file


async def test_the_buckets_name_is_no_secret(api: Api) -> None:
    api.base.vault.set_credential("BACKUP_STORE_BUCKET", "backups")
    api.base.vault.credential("BACKUP_STORE_BUCKET")

    api.base.audit.record("admin", "backups are red", "x", "failed", {})

    assert "backups are red" in (await api.client.get("/audit")).text


async def test_another_backup_key_brings_its_recipient_and_the_former_one_still_opens(api: Api) -> None:
    vault = api.base.vault
    ensure_backup_key(vault)
    former, (saved, recipient) = vault.credential(PRIVATE), new_identity()

    answer = await api.client.put(f"/credentials/{PRIVATE}", json={"value": saved})

    assert answer.status_code == 200
    assert f"encrypted to {recipient} from now on" in answer.json()["note"]
    assert "until they are relaunched" in answer.json()["note"]
    assert vault.credential(PUBLIC) == recipient
    assert vault.credential(PRIVATE).splitlines() == [saved, former]
    again = await api.client.put(f"/credentials/{PRIVATE}", json={"value": saved})
    assert again.json()["note"] == ""
    assert vault.credential(PRIVATE).splitlines() == [saved, former]
    logging.getLogger("relaunch").info("%s and %s", saved, former)
    assert not {saved, former} & set((api.state / "logs/controller.log").read_text().split())


async def test_the_halves_of_the_backup_key_are_not_parted(api: Api) -> None:
    vault = api.base.vault
    ensure_backup_key(vault)
    before = {name: vault.credential(name) for name in (PRIVATE, PUBLIC)}

    for name in (PRIVATE, PUBLIC):
        refused = await api.client.delete(f"/credentials/{name}")
        assert refused.status_code == 409
        assert f"relaunch credential set {PRIVATE}" in refused.json()["error"]["hint"]
    assert (await api.client.put(f"/credentials/{PUBLIC}", json={"value": new_identity()[1]})).status_code == 409
    no_key = await api.client.put(f"/credentials/{PRIVATE}", json={"value": VALUE})
    assert no_key.status_code == 400 and VALUE not in no_key.text

    assert {name: vault.credential(name) for name in (PRIVATE, PUBLIC)} == before


async def test_generate_keeps_what_exists(api: Api) -> None:
    await api.client.put("/credentials/DB", json={"generate": True})
    first = api.base.vault.credential("DB")
    second = await api.client.put("/credentials/DB", json={"generate": True})

    assert second.json() == {"name": "DB", "generated": False}
    assert api.base.vault.credential("DB") == first
    assert len(first) == 32 and first.isalnum()


async def test_an_enrolment_token_is_for_one_agent_who_may_ask_again(api: Api) -> None:
    add_instance(api, "i1")
    token = api.app.state.desk.user_data("i1")
    spare = api.app.state.desk.user_data("i1")
    asked = {"token": token, "nonce": "nonce-of-one", "boot_id": "b", "facts": {"python": "3.11"}}
    anonymous = {"Authorization": ""}

    first = await api.client.post("/agent/enrol", json=asked, headers=anonymous)
    again = await api.client.post("/agent/enrol", json=asked, headers=anonymous)
    other = await api.client.post("/agent/enrol", json=asked | {"nonce": "another-one"}, headers=anonymous)
    spare_used = await api.client.post(
        "/agent/enrol", json=asked | {"token": spare, "nonce": "another-one"}, headers=anonymous
    )

    assert (first.status_code, again.status_code) == (200, 200)
    assert (other.status_code, spare_used.status_code) == (401, 401)
    assert first.json().keys() == {"agent", "secret", "bus_url", "ca", "certificate", "key", "ssh_public_key"}
    assert api.base.records.may_connect("i1", again.json()["secret"])
    assert not api.base.records.may_connect("i1", first.json()["secret"])
    assert {entry.who for entry in api.base.audit.entries()} >= {"agent:i1"}
    with api.base.database.begin() as db:
        db.execute(update(instances).values(state="terminated"))
    assert (await api.client.post("/agent/enrol", json=asked, headers=anonymous)).status_code == 401
    assert not api.base.records.may_connect("i1", again.json()["secret"])


async def test_blobs_are_for_enrolled_agents_and_the_program_for_everyone(api: Api) -> None:
    add_instance(api, "i1")
    token = api.app.state.desk.user_data("i1")
    asked = {"token": token, "nonce": "nonce-of-one", "boot_id": "b"}
    secret = (await api.client.post("/agent/enrol", json=asked)).json()["secret"]
    blob = api.app.state.agent_program
    address = f"/agent/blobs/{blob.sha256}"

    assert (await api.client.get(address, auth=("i1", secret))).content == b"program"
    assert (await api.client.get(address, auth=("i1", "wrong"))).status_code == 401
    assert (await api.client.get(address)).status_code == 401
    assert (await api.client.get("/agent/blobs/..%2fmaster.key", auth=("i1", secret))).status_code == 404
    program = await api.client.get("/agent/relaunch-agent.pyz", headers={"Authorization": ""})
    assert program.headers["etag"] == f'"{blob.sha256}"'
    unchanged = await api.client.get("/agent/relaunch-agent.pyz", headers={"If-None-Match": program.headers["etag"]})
    assert unchanged.status_code == 304


async def test_a_task_is_followed_from_its_beginning_to_its_end_with_its_childrens_output(api: Api) -> None:
    add_instance(api, "i1")
    script = ScriptToRun("hello.sh", BusBlob("hello.sh", "0" * 64, 1))
    with api.base.database.begin() as db:
        for id, parent in (("t1", None), ("t2", "t1")):
            db.execute(
                insert(tasks).values(
                    id=id, kind="launch", title=id, subject="server:shop/db1", parent_id=parent, state="running",
                    who="admin", created=NOW,
                )
            )  # fmt: skip
        db.execute(insert(task_steps).values(task_id="t2", number=1, name="boot", state="running", started=NOW))
    api.base.records.begin_run("i1", RunScripts("r1", "boot", [script]), task="t2")
    api.base.output.append(Output("r1", 0, 0, "kept "))

    async def go_on() -> None:
        await asyncio.sleep(0.2)
        api.base.output.append(Output("r1", 0, 5, "live"))
        with api.base.database.begin() as db:
            db.execute(update(task_steps).values(state="succeeded", seconds=0.2))
            db.execute(update(tasks).values(state="succeeded", finished=NOW))
        api.activity.changed()

    going_on = asyncio.create_task(go_on())
    answer = await asyncio.wait_for(api.client.get("/tasks/t1/events"), 5)
    await going_on

    events = [
        (block.split("\n")[0].removeprefix("event: "), json.loads(block.split("\n")[1].removeprefix("data: ")))
        for block in answer.text.strip().split("\n\n")
        if block.startswith("event: ")
    ]
    assert "".join(data["text"] for name, data in events if name == "output") == "kept live"
    assert [data["state"] for name, data in events if name == "step"] == ["running", "succeeded"]
    assert [data["state"] for name, data in events if name == "child"] == ["running", "succeeded"]
    assert events[-1][0] == "task" and events[-1][1]["state"] == "succeeded"
    output = (await api.client.get("/runs/r1/output?index=0&offset=5")).json()
    assert (output["text"], output["next_offset"]) == ("live", 9)
    assert (await api.client.get("/tasks/none/events")).status_code == 404


def add_instance(api: Api, id: str) -> None:
    with api.base.database.begin() as db:
        db.execute(
            insert(instances).values(
                id=id, purpose="serve", state="pending", zone="a", run_list={}, tags={}, outputs={}, launched=NOW
            )
        )


def test_what_is_shown_of_a_token_has_no_secret(api: Api) -> None:
    assert asdict(api.base.tokens.list_tokens()[0]).keys() == {"name", "created", "last_used"}
