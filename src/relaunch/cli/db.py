"""`db …`: database groups, who is their primary, and what an operator may say about failover."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from relaunch.cli import db_backups, db_buttons, db_import
from relaunch.cli.client import Client, part
from relaunch.cli.follow import finish
from relaunch.cli.here import complete_deployment, controller, one_deployment
from relaunch.cli.servers import shell_aside
from relaunch.cli.show import Json, print_facts, print_json, print_table, rows_of

app = typer.Typer(no_args_is_help=True, help="Database groups: a primary and its replicas.")
app.add_typer(db_backups.app)
app.add_typer(db_buttons.app)
app.add_typer(db_import.app)

Deployment = Annotated[str | None, typer.Argument(autocompletion=complete_deployment)]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait for the task.")]
FACTS = (
    "deployment", "primary", "mode", "reason", "epoch", "durability", "sync_set", "change", "paused", "loss_allowed",
    "loss_allowed_until", "failovers_last_day", "rule", "why",
)  # fmt: skip
COLUMNS = ["name", "role", "state", "sync=in_sync_set", "lag=lag_seconds", "zone", "address", "version", "error"]


@app.command("list")
def list_(json: Json = False) -> None:
    """List all database groups."""
    rows = rows_of(controller().get("/databases"))
    if json:
        print_json(rows)
    else:
        print_table(
            rows, ["deployment", "primary", "mode", "durability", "epoch", "change"], empty="no database groups"
        )


@app.command()
def status(deployment: Deployment = None, json: Json = False) -> None:
    """Show who is the primary, who follows it and how well, and what a person should know."""
    client, path = _group(deployment)
    _show(client.get(path), json)


@app.command()
def switchover(
    deployment: Deployment = None,
    to: Annotated[str | None, typer.Option(help="The server that is to be the primary.")] = None,
    no_wait: NoWait = False,
    json: Json = False,
) -> None:
    """Make another server the primary, as planned: writes wait for a moment, nothing is lost."""
    client, path = _group(deployment)
    finish(client, client.post(f"{path}/switchover", {"to": to}), json=json, no_wait=no_wait, verbose=False)


@app.command()
def promote(
    server: Annotated[str, typer.Argument(help="The server that is to be the primary.")],
    deployment: Annotated[str | None, typer.Option(autocompletion=complete_deployment)] = None,
    force: Annotated[str, typer.Option(help="Its name again: it leads, and what only others have is lost.")] = "",
    reason: Annotated[str, typer.Option(help="Why that may be lost; kept with your name.")] = "",
    no_wait: NoWait = False,
    json: Json = False,
) -> None:
    """Make this server the primary: by a switchover if nothing is lost by it, else only when forced by its name."""
    client, path = _group(deployment)
    answer = client.post(f"{path}/promote", {"to": server, "force": force, "reason": reason})
    finish(client, answer, json=json, no_wait=no_wait, verbose=False)


@app.command()
def failover(
    deployment: Deployment = None,
    allow_data_loss: Annotated[str | None, typer.Option(help="Why writes that no replica has may be lost.")] = None,
    minutes: Annotated[int, typer.Option(min=1, max=1440, help="For how long that is allowed.")] = 10,
    json: Json = False,
) -> None:
    """Allow a failover that is refused because it would lose writes; it needs a reason, and your name is kept."""
    if not allow_data_loss:
        raise typer.BadParameter(
            "a failover that loses nothing happens by itself; --allow-data-loss 'WHY' allows one that may lose writes"
        )
    client, path = _group(deployment)
    _show(client.post(f"{path}/failover", {"reason": allow_data_loss, "minutes": minutes}), json)


@app.command()
def adopt(
    reason: Annotated[str, typer.Argument(help="Why: it is kept with your name.")],
    primary: Annotated[str, typer.Option(help="The server that has the newest data, and is to lead.")],
    deployment: Annotated[str | None, typer.Option(autocompletion=complete_deployment)] = None,
    allow_data_loss: Annotated[bool, typer.Option(help="Though others know of orders that it has missed.")] = False,
    json: Json = False,
) -> None:
    """Say who leads, when the controller's store is an older copy than what the servers have obeyed."""
    client, path = _group(deployment)
    asked = {"primary": primary, "reason": reason, "loss_allowed": allow_data_loss}
    _show(client.post(f"{path}/adopt", asked), json)


@app.command()
def pause(
    reason: Annotated[str, typer.Argument(help="Why: it is shown to everybody.")],
    deployment: Annotated[str | None, typer.Option(autocompletion=complete_deployment)] = None,
    json: Json = False,
) -> None:
    """Stop automatic failover: somebody works on the servers."""
    client, path = _group(deployment)
    _show(client.post(f"{path}/pause", {"reason": reason}), json)


@app.command()
def resume(deployment: Deployment = None, json: Json = False) -> None:
    """Allow automatic failover again, with a fresh budget per hour and day."""
    client, path = _group(deployment)
    _show(client.post(f"{path}/resume", {}), json)


def _group(deployment: str | None) -> tuple[Client, str]:
    return controller(), f"/databases/{part(one_deployment(deployment))}"


def _show(answer: dict[str, Any], json: bool) -> None:
    if json:
        print_json(answer)
        return
    print_facts({name: answer[name] for name in FACTS if answer.get(name) not in (None, "", [], 0)})
    print_table(answer["members"], COLUMNS, empty="no members")
    for page in answer["pages"]:
        print(f"! {page['rule']}: {page['text']}")
    for aside in answer["set_aside"]:
        print(f"set aside: {aside['server']}, kept until {aside['until']}: {shell_aside(aside['id'], aside['server'])}")
