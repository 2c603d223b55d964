"""`db backup`, `db backups`, `db prove`, `db restore`, `db backup-key`."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Annotated, Any

import typer

from relaunch.cli.client import part
from relaunch.cli.follow import finish
from relaunch.cli.here import complete_deployment, controller, one_deployment
from relaunch.cli.show import Json, NoWait, Verbose, print_json, print_table
from relaunch.durations import shown_duration
from relaunch.errors import Failed, NeedsConfirmation

app = typer.Typer(no_args_is_help=True)
Name = Annotated[
    str | None, typer.Argument(help="The deployment; not needed when there is one.", autocompletion=complete_deployment)
]


@app.command()
def backup(
    deployment: Name = None,
    kind: Annotated[str, typer.Option(help="full | incremental | snapshot, which stays on the primary")] = "full",
    side: Annotated[str | None, typer.Option("--from", help="replica | primary; a replica when there is one.")] = None,
    schema: Annotated[str, typer.Option(help="One schema by itself, as a dump of one moment.")] = "",
    no_wait: NoWait = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Back up now."""
    client, name = controller(), one_deployment(deployment)
    asked = {"kind": "schema" if schema else kind, "side": side, "of": schema}
    answer = client.post(f"/databases/{part(name)}/backup", asked)
    finish(client, answer, json=json, no_wait=no_wait, verbose=verbose)


@app.command()
def backups(deployment: Name = None, json: Json = False) -> None:
    """List backups, and say whether all is well; exit status 1 when it is not."""
    shown = controller().get(f"/databases/{part(one_deployment(deployment))}/backups")
    if json:
        print_json(shown)
    else:
        _print_backups(shown["backups"], empty="no backups yet")
        if shown["schemas"]:
            print("schemas by themselves:")
            _print_backups(shown["schemas"], empty="", second="schema")
        for older in shown["older"]:
            print(f"older history {older['lineage'] or 'without an id'} of data that was called {shown['deployment']}:")
            _print_backups(older["backups"], empty="no complete backup")
        logs = shown["binary_logs"]
        print(f"binary logs: up to {logs['gtid']}, {logs['behind_seconds']} s ago" if logs else "binary logs: none")
        for warning in shown["backups"][0]["warnings"] if shown["backups"] else ():
            print(f"! {warning}")
        print("made every: " + ", ".join(f"{name} {_every(each)}" for name, each in shown["schedule"].items()))
        print("green: " + shown["newest_proven"] + " is proven" if shown["green"] else "RED")
    if not shown["green"]:
        raise Failed("\n".join(shown["reasons"]))


def _every(seconds: float | None) -> str:
    return "never" if seconds is None else shown_duration(timedelta(seconds=seconds))


def _print_backups(backups: list[dict[str, Any]], *, empty: str, second: str = "role") -> None:
    rows = [
        {
            **each,
            "proven": {True: "yes", False: "NO"}.get(each["proven"], ""),
            "MB": f"{each['stored_bytes'] / 1e6:.1f}",
            "retention": "would go" if each["would_go"] else "",
        }
        for each in backups
    ]
    print_table(rows, ["id", second, "MB", "age=ended", "proven", "retention", "fault"], empty=empty)


@app.command()
def prove(
    deployment: Name = None,
    backup: Annotated[str, typer.Option(help="Which; the newest by default.")] = "latest",
    schema: Annotated[str, typer.Option(help="The backup of one schema by itself, of this one.")] = "",
    no_wait: NoWait = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Restore a backup on a throw-away instance, check its tables and compare their rows."""
    client, name = controller(), one_deployment(deployment)
    answer = client.post(f"/databases/{part(name)}/prove", {"backup": backup, "of": schema})
    finish(client, answer, json=json, no_wait=no_wait, verbose=verbose)


@app.command()
def restore(
    deployment: Annotated[str, typer.Argument(autocompletion=complete_deployment)],
    to: Annotated[str, typer.Option(help="newest | backup | gtid:POSITION | time:Y-M-D H:M:S in UTC")] = "newest",
    backup: Annotated[str, typer.Option(help="Which to begin with; the newest that fits by default.")] = "latest",
    source: Annotated[str, typer.Option("--from", help="Whose backups; its own by default.")] = "",
    lineage: Annotated[str, typer.Option(help="Of which history of that data; the present one by default.")] = "",
    snapshot: Annotated[
        str, typer.Option("--from-snapshot", help="Of the primary's own volume: latest, or its id.")
    ] = "",
    confirm: Annotated[str, typer.Option(help="The deployment's name: its data will be replaced.")] = "",
    no_wait: NoWait = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Replace a group's data by a backup's, its own or another's, or by a snapshot's; what was there is kept."""
    if confirm != deployment:
        if not sys.stdin.isatty():
            raise NeedsConfirmation(f"the data of {deployment} will be replaced", hint=f"say --confirm {deployment}")
        confirm = typer.prompt(f"The data of {deployment} will be replaced. Type its name to go on", err=True)
    client = controller()
    asked = {
        "to": to, "backup": backup, "source": source, "lineage": lineage, "snapshot": snapshot, "confirm": confirm,
    }  # fmt: skip
    answer = client.post(f"/databases/{part(deployment)}/restore", asked)
    finish(client, answer, json=json, no_wait=no_wait, verbose=verbose)


@app.command("restore-schema")
def restore_schema(
    deployment: Annotated[str, typer.Argument(autocompletion=complete_deployment)],
    schema: Annotated[str, typer.Argument(help="Which, of those backed up by themselves.")],
    name: Annotated[str, typer.Option("--as", help="What it is to be called; its own name by default.")] = "",
    backup: Annotated[str, typer.Option(help="Which; the newest by default.")] = "latest",
    source: Annotated[str, typer.Option("--from", help="Whose backups; its own by default.")] = "",
    lineage: Annotated[str, typer.Option(help="Of which history of that data; the present one by default.")] = "",
    confirm: Annotated[str, typer.Option(help="The schema's name, when tables that are there may be replaced.")] = "",
    no_wait: NoWait = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Restore one schema alone, under its name or another; what it replaces is backed up first."""
    client = controller()
    asked = {"of": schema, "name": name, "backup": backup, "source": source, "lineage": lineage, "confirm": confirm}
    answer = client.post(f"/databases/{part(deployment)}/restore-schema", asked)
    finish(client, answer, json=json, no_wait=no_wait, verbose=verbose)


@app.command("forget-backups")
def forget_backups(
    deployment: Annotated[str, typer.Argument(autocompletion=complete_deployment)],
    lineage: Annotated[str, typer.Argument(help="An older history, as `db backups` lists them.")],
    confirm: Annotated[str, typer.Option(help="The history's id once more.")] = "",
    no_wait: NoWait = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Remove every backup of an older history of a deployment's data, proven ones too; retention never does that."""
    client = controller()
    answer = client.post(f"/databases/{part(deployment)}/forget-backups", {"lineage": lineage, "confirm": confirm})
    finish(client, answer, json=json, no_wait=no_wait, verbose=verbose)


@app.command("backup-key")
def backup_key(deployment: Name = None, json: Json = False) -> None:
    """Show the private key of the backups, to keep it in a safe: without it and the controller they cannot be read."""
    shown = controller().post(f"/databases/{part(one_deployment(deployment))}/backup-key", {})
    if json:
        print_json(shown)
    else:
        print(f"# opens backups encrypted to {shown['recipient']}\n{shown['identity']}")
