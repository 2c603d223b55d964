"""`db backup`, `db backups`, `db prove`, `db restore`, `db backup-key`."""

from __future__ import annotations

from typing import Annotated

import typer

from relaunch.cli.client import part
from relaunch.cli.follow import finish
from relaunch.cli.here import complete_deployment, controller, one_deployment
from relaunch.cli.show import Json, NoWait, Verbose, print_json, print_table
from relaunch.errors import Failed, NeedsConfirmation

app = typer.Typer(no_args_is_help=True)
Name = Annotated[
    str | None, typer.Argument(help="The deployment; not needed when there is one.", autocompletion=complete_deployment)
]


@app.command()
def backup(
    deployment: Name = None,
    kind: Annotated[str, typer.Option(help="full | incremental")] = "full",
    side: Annotated[str | None, typer.Option("--from", help="replica | primary; a replica when there is one.")] = None,
    no_wait: NoWait = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Back up now."""
    client, name = controller(), one_deployment(deployment)
    answer = client.post(f"/databases/{part(name)}/backup", {"kind": kind, "side": side})
    finish(client, answer, json=json, no_wait=no_wait, verbose=verbose)


@app.command()
def backups(deployment: Name = None, json: Json = False) -> None:
    """List backups, and say whether all is well; exit status 1 when it is not."""
    shown = controller().get(f"/databases/{part(one_deployment(deployment))}/backups")
    if json:
        print_json(shown)
    else:
        rows = [
            {
                **each,
                "proven": {True: "yes", False: "NO"}.get(each["proven"], ""),
                "MB": f"{each['stored_bytes'] / 1e6:.1f}",
                "retention": "would go" if each["would_go"] else "",
            }
            for each in shown["backups"]
        ]
        print_table(rows, ["id", "role", "MB", "age=ended", "proven", "retention", "fault"], empty="no backups yet")
        logs = shown["binary_logs"]
        print(f"binary logs: up to {logs['gtid']}, {logs['behind_seconds']} s ago" if logs else "binary logs: none")
        print("green: " + shown["newest_proven"] + " is proven" if shown["green"] else "RED")
    if not shown["green"]:
        raise Failed("\n".join(shown["reasons"]))


@app.command()
def prove(
    deployment: Name = None,
    backup: Annotated[str, typer.Option(help="Which; the newest by default.")] = "latest",
    no_wait: NoWait = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Restore a backup on a throw-away instance, check its tables and compare their rows."""
    client, name = controller(), one_deployment(deployment)
    answer = client.post(f"/databases/{part(name)}/prove", {"backup": backup})
    finish(client, answer, json=json, no_wait=no_wait, verbose=verbose)


@app.command()
def restore(
    deployment: Annotated[str, typer.Argument(autocompletion=complete_deployment)],
    to: Annotated[str, typer.Option(help="newest | backup | gtid:POSITION | time:Y-M-D H:M:S in UTC")] = "newest",
    backup: Annotated[str, typer.Option(help="Which to begin with; the newest that fits by default.")] = "latest",
    confirm: Annotated[str, typer.Option(help="The deployment's name: its data will be replaced.")] = "",
    no_wait: NoWait = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Replace the primary's data by a backup's; what was there is kept beside it. Replicas must be gone first."""
    if confirm != deployment:
        raise NeedsConfirmation(f"the data of {deployment} will be replaced", hint=f"say --confirm {deployment}")
    client = controller()
    answer = client.post(f"/databases/{part(deployment)}/restore", {"to": to, "backup": backup, "confirm": confirm})
    finish(client, answer, json=json, no_wait=no_wait, verbose=verbose)


@app.command("backup-key")
def backup_key(deployment: Name = None, json: Json = False) -> None:
    """Show the private key of the backups, to keep it in a safe: without it and the controller they cannot be read."""
    shown = controller().post(f"/databases/{part(one_deployment(deployment))}/backup-key", {})
    if json:
        print_json(shown)
    else:
        print(f"# opens backups encrypted to {shown['recipient']}\n{shown['identity']}")
