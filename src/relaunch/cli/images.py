"""`image …`."""

from __future__ import annotations

from typing import Annotated

import typer

from relaunch.cli.here import controller
from relaunch.cli.show import Json, print_facts, print_json, print_table, rows_of
from relaunch.errors import NotFound

app = typer.Typer(no_args_is_help=True, help="Images: root file systems named by the hash of all that went in.")


@app.command("list")
def list_(json: Json = False) -> None:
    """List the images and what became of their making."""
    rows = rows_of(controller().get("/images"))
    if json:
        print_json(rows)
    else:
        short = [row | {"key": str(row.get("key"))[:12]} for row in rows]
        print_table(short, ["key", "name", "state", "age=created", "detail"], empty="no images yet")


@app.command()
def changelog(
    key: Annotated[str, typer.Argument(help="The key, or its beginning, or a name.")], json: Json = False
) -> None:
    """Show what went into an image: its base, packages, scripts with their hashes."""
    rows = rows_of(controller().get("/images"))
    found = [
        {part: row.get(part) for part in ("name", "key", "changelog")}
        for row in rows
        if str(row.get("key")).startswith(key) or row.get("name") == key
    ]
    if not found:
        raise NotFound(f"no image {key}", hint="relaunch image list")
    if json:
        print_json(found)
        return
    for row in found:
        print_facts(row)
