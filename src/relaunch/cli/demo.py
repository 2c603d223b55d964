"""`demo`: a whole site on this machine, and how to reach it; or everything put away again."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relaunch.cli import starters
from relaunch.cli.board import watch
from relaunch.cli.client import Client, part, state_folder
from relaunch.cli.controller import PROGRAM_TEMPLATES, start_controller
from relaunch.cli.deployments import print_plan
from relaunch.cli.follow import task_id
from relaunch.cli.here import controller
from relaunch.cli.process import need_root
from relaunch.cli.put_away import put_away
from relaunch.cli.reach import Answer, wait_for_all, wait_for_name
from relaunch.cli.servers import flat
from relaunch.cli.show import Json, Yes, confirm, print_json, rows_of
from relaunch.errors import BadInput, Conflict, Failed, NeedsConfirmation, RelaunchError

if TYPE_CHECKING:
    from relaunch.controller.settings import Settings

NAME = "demo"
FRONT_ENDS = ("front-end", "all-in-one")
SILENT_SECONDS = 8.0  # an agent that boots is heard of by then
AGAIN_SECONDS = 90.0  # for servers that boot again after a stop, and for the app behind them


def demo(
    architecture: Annotated[str, typer.Option(help=f"One of {', '.join(starters.ARCHITECTURES)}.")] = "redundant",
    app: Annotated[str, typer.Option(help=f"One of {', '.join(starters.APPS)}.")] = "redmine",
    stop: Annotated[bool, typer.Option("--stop", help="Stop controller and servers; disks are kept.")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="With --stop: remove every file, too.")] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Bring up a site on servers of the local cloud (called by ./demo, which installs what that needs)."""
    need_root("the demo")
    if stop:
        settings = _settings(state_folder())
        put_away(settings.state, settings.network, settings.bridge, purge=purge)
        return
    if purge:
        raise BadInput("--purge goes with --stop", hint="sudo ./demo --stop --purge")
    began = time.monotonic()
    state = state_folder()
    try:
        if start_controller():
            print(f"· the controller is started ({time.monotonic() - began:.1f} s)")
        client = controller()
        _bring_up(client, starters.starter(architecture, name=NAME, app=app), state, yes=yes)
        answers = _fetch_sites(client, state)
    except RelaunchError as error:
        if not isinstance(error, NeedsConfirmation):
            print(f"\nThe demo did not come up. Logs: {state}/logs; again: sudo ./demo; away: sudo ./demo --stop")
        raise
    if json:
        print_json([asdict(answer) for answer in answers])
        return
    print(summary(client.where.url, state, rows_of(client.get("/sites")), answers, _settings(state).host_address))
    print(f"ready in {time.monotonic() - began:.1f} s")


def _bring_up(client: Client, source: str, state: Path, *, yes: bool) -> None:
    """Apply the deployment if there is anything to do; else wait for servers that boot again."""
    file = state / "demo.yml"
    if not file.exists() or file.read_text() != source:
        file.write_text(source)
    # Whatever an earlier run began comes to its end first: a plan made in its midst would be about half a change.
    for task in rows_of(client.get("/tasks", subject=f"deployment:{NAME}")):
        if task.get("finished") is None:
            watch(client, str(task["id"]), NAME)
    plan = client.post("/plans", {"source": source})
    if plan.get("problems"):
        print_plan(plan)
        raise BadInput(f"{file} cannot be applied: see the problems above")
    if plan.get("actions"):
        if any(action.get("destroys") for action in plan["actions"]):
            print_plan(plan)
            confirm(f"This replaces what deployment {NAME} is now.", yes=yes)
        watch(client, task_id(client.post("/deployments", {"source": source, "yes": True})), NAME)
    _wait_operational(client)


def _wait_operational(client: Client) -> None:
    """Until every server is operational and its agent says so now: after a stop the record alone is of yesterday."""
    began = time.monotonic()
    end = began + AGAIN_SECONDS
    started = False
    while True:
        servers = _servers(client)
        waiting = [row for row in servers if row.get("state") != "operational" or not row.get("connected")]
        going_on = [t for t in rows_of(client.get("/tasks", state="running")) if f":{NAME}/" in str(t.get("subject"))]
        if servers and not waiting and not going_on:
            return
        if waiting and not started and time.monotonic() - began > SILENT_SECONDS:
            started = True
            _start(client, waiting)
        stuck = [row for row in waiting if row.get("state") in ("stranded", "set_aside")]
        if stuck or time.monotonic() > end:
            names = ", ".join(f"{row['name']} ({_how(row)})" for row in stuck or waiting)
            names = names or ", ".join(str(task.get("title")) for task in going_on) or "no servers"
            hint = "./relaunch server log NAME shows why; ./relaunch server retry NAME, or server relaunch NAME"
            raise Failed(f"not operational: {names}", hint=hint)
        time.sleep(0.5)


def _start(client: Client, silent: list[dict[str, Any]]) -> None:
    """Those somebody has powered off; to start what runs already changes nothing."""
    for row in silent:
        if str(row.get("state")).startswith("operational"):  # also "operational, lost"
            with contextlib.suppress(Conflict):
                client.post(f"/servers/{NAME}/{part(str(row['name']))}/start")
                print(f"· {row['name']} is started")


def _how(row: dict[str, Any]) -> str:
    state = str(row.get("state")).replace("_", " ")
    return state if row.get("connected") else f"{state}, its agent is not connected"


def _fetch_sites(client: Client, state: Path) -> list[Answer]:
    """Every site really fetched through every front end, and its name asked for where we serve it."""
    from relaunch.sites.names import zone_of

    settings = _settings(state)
    addresses = [str(row["address"]) for row in _servers(client) if row.get("template") in FRONT_ENDS]
    answers: list[Answer] = []
    for site in rows_of(client.get("/sites")):
        host = str(site.get("canonical") or site["name"])
        answers += wait_for_all(addresses, host, state / "ca" / "ca.crt", timeout_seconds=AGAIN_SECONDS)
        if zone_of(host, settings.dns_zones):
            wait_for_name(host, addresses, settings.host_address, timeout_seconds=AGAIN_SECONDS)
    return answers


def _servers(client: Client) -> list[dict[str, Any]]:
    return [flat(row) for row in rows_of(client.get("/servers", deployment=NAME))]


def _settings(state: Path) -> Settings:
    from relaunch.controller.settings import read_settings

    return read_settings(state, program_templates=PROGRAM_TEMPLATES)


def summary(url: str, state: Path, sites: list[dict[str, Any]], answers: list[Answer], host_address: str) -> str:
    """What a person can do now: pure text of what was fetched."""
    lines = ["", "The site answers from this machine, through each front end:"]
    for answer in answers:
        lines.append(
            f"  https://{answer.host}/  by {answer.address}   {answer.status} in {answer.seconds * 1000:.0f} ms"
        )
    if answers:
        first = answers[0]
        ca = state / "ca" / "ca.crt"
        lines += [
            f"  try it   curl --cacert {ca} --resolve {first.host}:443:{first.address} https://{first.host}/",
            f"  browser  https://{first.address}/ (the certificate is by the internal authority {ca});",
            f"           by name: echo '{first.address} {first.host}' >> /etc/hosts, then https://{first.host}/",
            f"  DNS      kdig @{host_address} {first.host}",
        ]
    if any("redmine" in str(site.get("name")) for site in sites):
        lines.append("  log in   admin / admin (Redmine asks for a new password at once)")
    lines += [
        "",
        f"The controller: {url}/ (pages; API under /api/v1)   token: sudo cat {state}/admin-token",
        "",
        "Next:",
        "  sudo ./relaunch server list                      what is there",
        "  sudo ./relaunch server ssh front1                a shell on a server",
        "  sudo ./relaunch server ssh front1 systemctl kill -s KILL app     kill an app: the other serves",
        "  sudo ./relaunch server power-off front2          pull a plug; `server start front2` puts it back",
        "  sudo ./relaunch server relaunch front2           a fresh instance for the same server",
        "  sudo ./relaunch server log front1                what its boot scripts said",
        "  sudo ./demo --stop                               put it all away; disks are kept",
    ]
    if not os.environ.get("RELAUNCH_STATE") or str(state) == "/var/lib/relaunch":
        return "\n".join(lines)
    return "\n".join(lines).replace("sudo ./", f"sudo RELAUNCH_STATE={state} ./")
