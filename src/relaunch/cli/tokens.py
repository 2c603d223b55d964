"""`token …`: who may talk to the controller."""

from __future__ import annotations

from typing import Annotated

import typer

from relaunch.cli.client import part
from relaunch.cli.here import complete_token, controller
from relaunch.cli.show import Json, print_json, print_table, rows_of

app = typer.Typer(no_args_is_help=True, help="API tokens; a token's name appears in the audit trail.")


@app.command("list")
def list_(json: Json = False) -> None:
    """List the tokens' names."""
    rows = rows_of(controller().get("/tokens"))
    columns = ["name", "age=created", "used=last_used", "revoked"]
    print_json(rows) if json else print_table(rows, columns, empty="no tokens")


@app.command()
def create(name: str, json: Json = False) -> None:
    """Make a token; it is shown this once."""
    client = controller()
    answer = client.post("/tokens", {"name": name})
    if json:
        print_json(answer)
        return
    print(answer["token"])
    print(f"# use it: export RELAUNCH_URL={client.where.url} RELAUNCH_TOKEN=… RELAUNCH_CA={client.where.ca or ''}")


@app.command()
def revoke(name: Annotated[str, typer.Argument(autocompletion=complete_token)], json: Json = False) -> None:
    """Make a token worthless at once."""
    answer = controller().delete(f"/tokens/{part(name)}")
    print_json(answer) if json else print(f"token {name} is revoked")
