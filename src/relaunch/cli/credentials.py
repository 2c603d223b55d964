"""`credential …`: named secrets that inputs refer to as `cred:NAME`; they go in and never come out."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from relaunch.cli.client import part
from relaunch.cli.here import complete_credential, controller
from relaunch.cli.show import Json, Yes, confirm, print_json, print_table, rows_of
from relaunch.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="Credentials: named secrets; encrypted, never shown.")
Name = Annotated[str, typer.Argument(autocompletion=complete_credential)]


@app.command("list")
def list_(json: Json = False) -> None:
    """List the credentials' names."""
    rows = rows_of(controller().get("/credentials"))
    print_json(rows) if json else print_table(rows, ["name", "description", "age=changed"], empty="no credentials")


@app.command("set")
def set_(name: Name, json: Json = False) -> None:
    """Set a credential to what is typed, or comes by standard input."""
    value = typer.prompt("value", hide_input=True) if sys.stdin.isatty() else sys.stdin.read().removesuffix("\n")
    if not value:
        raise BadInput(f"no value for {name}", hint=f"printf %s VALUE | relaunch credential set {name}")
    _put(name, {"value": value}, json=json)


@app.command()
def generate(name: Name, json: Json = False) -> None:
    """Make a credential with a random value."""
    _put(name, {"generate": True}, json=json)


@app.command()
def delete(name: Name, yes: Yes = False, json: Json = False) -> None:
    """Delete a credential."""
    confirm(f"Credential {name} will be gone; servers that need it can no longer be launched.", yes=yes)
    answer = controller().delete(f"/credentials/{part(name)}")
    print_json(answer) if json else print(f"credential {name} is deleted")


def _put(name: str, body: dict[str, object], *, json: bool) -> None:
    answer = controller().put(f"/credentials/{part(name)}", body)
    if json:
        print_json(answer)
        return
    print(f"credential {name} is set; use it as cred:{name}")
    if answer.get("note"):
        print(answer["note"])
