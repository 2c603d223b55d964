"""`db checksum`, and what else people order about a database group besides failover and backups."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from relaunch.cli.client import Client, part
from relaunch.cli.follow import finish
from relaunch.cli.here import complete_deployment, controller, one_deployment
from relaunch.cli.show import Json, NoWait, Verbose, Yes, print_json, print_table
from relaunch.cli.show import confirm as ask
from relaunch.errors import Failed, RelaunchError

app = typer.Typer(no_args_is_help=True)
Name = Annotated[
    str | None, typer.Argument(help="The deployment; not needed when there is one.", autocompletion=complete_deployment)
]


@app.command()
def checksum(
    deployment: Name = None,
    repair: Annotated[bool, typer.Option("--repair", help="Replace a replica that differs by a fresh one.")] = False,
    no_wait: NoWait = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Compare the primary with its replicas, table by table at the same position; exit status 1 when one differs."""
    client, name = controller(), one_deployment(deployment)
    answer = client.post(f"/databases/{part(name)}/checksum", {"repair": repair})
    ended = finish(client, answer, json=json, no_wait=no_wait, verbose=verbose)
    found = ended.get("result")
    if no_wait or not isinstance(found, Mapping):
        return
    if not json:
        _show_checksum(found)
    if found["differences"] and not found["repaired"]:
        replicas = ", ".join(sorted({each["replica"] for each in found["differences"]}))
        hint = f"replaced by a fresh one: relaunch db checksum {name} --repair"
        raise Failed(f"{replicas} not the same as the primary", hint=hint)


@app.command("rotate-passwords")
def rotate_passwords(
    deployment: Name = None, no_wait: NoWait = False, verbose: Verbose = False, json: Json = False
) -> None:
    """Change the passwords of the app, of replication and of seeding while everybody goes on working."""
    client, name = controller(), one_deployment(deployment)
    answer = client.post(f"/databases/{part(name)}/rotate-passwords", {})
    finish(client, answer, json=json, no_wait=no_wait, verbose=verbose)


@app.command("extra-transactions")
def extra_transactions(
    deployment: Name = None,
    again: Annotated[bool, typer.Option("--again", help="Read now what could not be read before.")] = False,
    report: Annotated[bool, typer.Option(help="Print the transactions themselves.")] = True,
    no_wait: NoWait = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Show what old primaries that were set aside have and nobody else has; nothing of it is applied."""
    client, name = controller(), one_deployment(deployment)
    path = f"/databases/{part(name)}/extra-transactions"
    failed: list[RelaunchError] = []
    for each in client.get(path)["readings"] if again else ():
        if each["state"] != "succeeded":
            try:
                answer = client.post(path, {"instance": each["instance"]})
                finish(client, answer, json=json, no_wait=no_wait, verbose=verbose)
            except RelaunchError as error:  # the others may be readable
                failed.append(error)
    found = client.get(path)["readings"]
    if json:
        print_json(found)
    else:
        _show_readings(client, found, report=report)
    for another in failed[1:]:
        print(f"relaunch: {another}", file=sys.stderr)
    if failed:
        raise failed[0]


@app.command("add-replica")
def add_replica(
    deployment: Name = None,
    zone: Annotated[str | None, typer.Option(help="Where; by default where the fewest of the group are.")] = None,
    memory: Annotated[str, typer.Option(help="Its memory, 2G for example; by default the primary's.")] = "",
    no_wait: NoWait = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Launch one more replica like the primary; says what your deployment file lacks then."""
    client, name = controller(), one_deployment(deployment)
    asked = {"zone": zone, "memory_bytes": _bytes(memory) if memory else None}
    _change(client, client.post(f"/databases/{part(name)}/add-replica", asked), json, no_wait, verbose)


@app.command()
def resize(
    memory: Annotated[str, typer.Option(help="Of each of its servers: 2G, or 1536M.")],
    deployment: Name = None,
    yes: Yes = False,
    no_wait: NoWait = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Bring the group to servers of another size while it serves: fresh replicas one by one, then a switchover."""
    client, name = controller(), one_deployment(deployment)
    ask(f"Every database server of {name} will be replaced by a fresh one, one after the other.", yes=yes)
    answer = client.post(f"/databases/{part(name)}/resize", {"memory_bytes": _bytes(memory)})
    _change(client, answer, json, no_wait, verbose)


@app.command("remove-replica")
def remove_replica(
    server: Annotated[str, typer.Argument(help="Which: db3, say.")],
    deployment: Annotated[str | None, typer.Option(autocompletion=complete_deployment)] = None,
    confirm: Annotated[str, typer.Option(help="Its name once more, when no other replica is in step.")] = "",
    yes: Yes = False,
    no_wait: NoWait = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Terminate a replica with its data; says what your deployment file must not have then."""
    client, name = controller(), one_deployment(deployment)
    ask(f"{name}/{server} and its disk will be destroyed.", yes=yes or confirm == server)
    answer = client.post(f"/databases/{part(name)}/remove-replica", {"server": server, "confirm": confirm})
    _change(client, answer, json, no_wait, verbose)


def _change(client: Client, answer: Mapping[str, Any], json: bool, no_wait: bool, verbose: bool) -> None:
    if not json and answer["changes"]:
        print(f"Write this into your deployment file too, or its next apply undoes it:\n{answer['changes']}")
    finish(client, answer, json=json, no_wait=no_wait, verbose=verbose)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([0-9]+)([MG])", text)
    if found is None:
        raise typer.BadParameter(f"{text!r}: a number and M or G is expected, 1536M or 2G for example")
    return int(found[1]) << {"M": 20, "G": 30}[found[2]]


def _show_readings(client: Client, found: list[dict[str, Any]], *, report: bool) -> None:
    print_table(found, ["server", "instance", "transactions=count", "state", "error", "until"], empty="none set aside")
    for each in found:
        if each.get("unread"):
            print(f"! what was {each['server']} could not be read to its end: {each['unread']}")
    for each in found:
        if report and each.get("count"):
            print(f"\n# {each['count']} transactions of what was {each['server']}, instance {each['instance']}")
            _print_output(client, each["run"])


def _print_output(client: Client, run: str) -> None:
    offset = -1
    following = 0
    while following != offset:
        offset = following
        piece = client.get(f"/runs/{part(run)}/output", index=0, offset=offset)
        print(piece["text"], end="")
        following = piece["next_offset"]


def _show_checksum(found: Mapping[str, Any]) -> None:
    rows = [{**each, "differs on": ", ".join(each["differs_on"]) or "-"} for each in found["tables"]]
    print_table(rows, ["table", "rows", "pieces", "differs on"], empty="no tables")
    for each in found["differences"]:
        keys = " from after " + each["from"] if each["from"] else ""
        keys += " up to " + each["to"] if each["to"] else " to the end" if keys else ""
        print(f"! {each['table']} on {each['replica']}{',' + keys if keys else ''}: {each['why']}")
    for each in found["unchecked"]:
        print(f"not compared: {each['table']}: {each['why']}")
    for name in found["repaired"]:
        print(f"replaced: {name}")
