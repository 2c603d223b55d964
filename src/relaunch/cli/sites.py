"""`site …` and `dns …`."""

from __future__ import annotations

from typing import Annotated

import typer

from relaunch.cli.client import part
from relaunch.cli.here import complete_site, controller
from relaunch.cli.show import Json, print_facts, print_json, print_table, rows_of
from relaunch.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="Sites: domain names, app and logical database.")
dns_app = typer.Typer(no_args_is_help=True, help="DNS records.")


@app.command("list")
def list_(json: Json = False) -> None:
    """List all sites."""
    rows = rows_of(controller().get("/sites"))
    if json:
        print_json(rows)
    else:
        print_table(rows, ["name", "deployment", "canonical", "aliases", "app", "maintenance"], empty="no sites")


@app.command()
def show(name: Annotated[str, typer.Argument(autocompletion=complete_site)], json: Json = False) -> None:
    """Show a site, and who serves it."""
    answer = controller().get(f"/sites/{part(name)}")
    print_json(answer) if json else print_facts(answer)


@app.command()
def maintenance(
    name: Annotated[str, typer.Argument(autocompletion=complete_site)],
    state: Annotated[str, typer.Argument(help="on | off", autocompletion=lambda: ["on", "off"])],
    allow: Annotated[list[str] | None, typer.Option(help="An address that still reaches the site.")] = None,
    json: Json = False,
) -> None:
    """Show visitors the maintenance page, or the site again: on every front end, those launched later too."""
    if state not in ("on", "off"):
        raise BadInput(f"maintenance {state}?", hint="say on or off")
    if allow and state == "off":
        raise BadInput("--allow goes with maintenance on")
    client, path = controller(), f"/sites/{part(name)}/maintenance"
    site = client.put(path, {"allow": allow or []}) if state == "on" else client.delete(path)
    if json:
        print_json(site)
    elif state == "on":
        print(f"{site['name']}: maintenance page" + (f", except for {', '.join(site['allow'])}" if allow else ""))
    else:
        print(f"{site['name']}: open")


@dns_app.command("list")
def dns_list(json: Json = False) -> None:
    """List the DNS records relaunch keeps."""
    rows = rows_of(controller().get("/dns"))
    if json:
        print_json(rows)
    else:
        print_table(rows, ["name", "type", "ttl=ttl_seconds", "values", "deployment"], empty="no records")
