"""`site …`, `db …` and `dns …`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from relaunch.cli.client import part
from relaunch.cli.here import complete_deployment, complete_site, controller, one_deployment
from relaunch.cli.servers import flat
from relaunch.cli.show import Json, print_facts, print_json, print_table, rows_of
from relaunch.errors import BadInput, NotFound

app = typer.Typer(no_args_is_help=True, help="Sites: domain names, app and logical database.")
database_app = typer.Typer(no_args_is_help=True, help="Database groups: a primary and its replicas.")
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


@database_app.command()
def status(
    deployment: Annotated[str | None, typer.Argument(autocompletion=complete_deployment)] = None, json: Json = False
) -> None:
    """Show who is the primary, who follows it, and in which states they are."""
    client = controller()
    name = one_deployment(deployment)
    found = client.get(f"/deployments/{part(name)}")
    group = found.get("database") or (found.get("spec") or {}).get("database")
    if not group:
        raise NotFound(f"deployment {name} has no database group")
    servers = {row["name"]: row for row in map(flat, rows_of(client.get("/servers", deployment=name)))}
    answer = {**group, "members": _members(group, servers)}
    if json:
        print_json(answer)
        return
    print_facts(answer, leave_out=("members", "primary", "replicas"))
    print_table(answer["members"], ["name", "role", "state", "zone", "address"], empty="no members")


def _members(group: dict[str, Any], servers: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    def member(given: object, role: str) -> dict[str, Any]:
        name = str(given.get("name") if isinstance(given, dict) else given)
        known = servers.get(name.rpartition("/")[2], {})
        return {"name": name, "role": role, **{key: known.get(key, "") for key in ("state", "zone", "address")}}

    primary = [member(group["primary"], "primary")] if group.get("primary") else []
    return primary + [member(replica, "replica") for replica in group.get("replicas") or []]


@dns_app.command("list")
def dns_list(json: Json = False) -> None:
    """List the DNS records relaunch keeps."""
    rows = rows_of(controller().get("/dns"))
    if json:
        print_json(rows)
    else:
        print_table(rows, ["name", "type", "ttl=ttl_seconds", "values", "deployment"], empty="no records")
