"""`db import`: an existing database, by a dump or from a server that is not ours."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from relaunch.cli.client import Client, part
from relaunch.cli.follow import finish
from relaunch.cli.here import complete_deployment, controller, one_deployment
from relaunch.cli.show import Json, NoWait, print_facts, print_json
from relaunch.errors import BadInput

app = typer.Typer(no_args_is_help=True)


@app.command("import")
def import_(
    deployment: Annotated[
        str | None,
        typer.Argument(help="The deployment; not needed when there is one.", autocompletion=complete_deployment),
    ] = None,
    from_dump: Annotated[Path | None, typer.Option(help="A dump: plain, .gz or .zst.")] = None,
    from_server: Annotated[
        str | None, typer.Option(help="HOST or HOST:PORT of a MariaDB or MySQL server that is not ours.")
    ] = None,
    user: Annotated[str, typer.Option(help="The login there.")] = "",
    password_file: Annotated[Path | None, typer.Option(help="Its password; else it is asked for.")] = None,
    schema: Annotated[
        list[str] | None, typer.Option(help="From a server: each to bring. Of a dump: the name it is to have.")
    ] = None,
    confirm: Annotated[str, typer.Option(help="The deployment's name, to replace schemas that have tables.")] = "",
    status: Annotated[bool, typer.Option("--status", help="How far an import from a server is.")] = False,
    cut_over: Annotated[bool, typer.Option("--cut-over", help="End writes there, compare, go on here.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Undo an import that is not cut over.")] = False,
    quiet: Annotated[float, typer.Option(help="Cut over once nothing was written there for so many seconds.")] = 3.0,
    wait: Annotated[int, typer.Option(help="Wait so many seconds for that.")] = 120,
    no_wait: NoWait = False,
    json: Json = False,
) -> None:
    """Bring an existing database: a dump, or a running server with seconds of downtime."""
    asked = [from_dump is not None, from_server is not None, status, cut_over, cancel]
    if sum(asked) != 1:
        raise BadInput("say one of --from-dump, --from-server, --status, --cut-over, --cancel")
    client, path = controller(), f"/databases/{part(one_deployment(deployment))}/import"
    schemas = schema or []
    if status:
        _show(client.get(path), json)
        return
    if from_dump is not None:
        answer = _dump(client, path, from_dump, schemas, confirm)
    elif from_server is not None:
        body = {"server": from_server, "user": user, "password": _password(password_file, user), "schemas": schemas}
        answer = client.post(f"{path}/server", body)
    elif cut_over:
        answer = client.post(f"{path}/cut-over", {"quiet_seconds": quiet, "wait_seconds": wait})
    else:
        answer = client.post(f"{path}/cancel")
    ended = finish(client, answer, json=json, no_wait=no_wait, verbose=not json)
    if not (json or no_wait):
        _tell(ended.get("result") or {}, cut_over=cut_over, deployment=one_deployment(deployment))


def _dump(client: Client, path: str, file: Path, schemas: list[str], confirm: str) -> Any:
    if len(schemas) > 1:
        raise BadInput("a dump can be given one name only", hint="leave --schema out: it knows its schemas")
    try:
        opened = file.open("rb")
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from None
    with opened:
        about = file.stat()
        if not stat.S_ISREG(about.st_mode) or not about.st_size:
            raise BadInput(f"{file} is no file with something in it")
        print(f"sending {file}, {about.st_size / 1e6:.1f} MB", file=sys.stderr)
        sent = client.upload(f"{path}/dump", opened, about.st_size)
    body = {"sha256": sent["sha256"], "schema": schemas[0] if schemas else None, "confirm": confirm}
    return client.post(f"{path}/dump", body)


def _password(file: Path | None, user: str) -> str:
    if file is not None:
        try:
            found = file.read_text().removesuffix("\n")
        except OSError as error:
            raise BadInput(f"{file} cannot be read: {error.strerror}") from None
    elif sys.stdin.isatty():
        found = str(typer.prompt(f"password of {user}", hide_input=True))
    else:
        found = sys.stdin.readline().removesuffix("\n")
    if not found:
        raise BadInput("no password", hint="type it, or --password-file FILE")
    return found


def _show(answer: dict[str, Any], json: bool) -> None:
    if json:
        print_json(answer)
    else:
        print_facts({name: value for name, value in answer.items() if value not in (None, "", [])})


def _tell(result: dict[str, Any], *, cut_over: bool, deployment: str) -> None:
    for each in result.get("warnings") or []:
        print(f"! {each}")
    if "lag_seconds" in result:
        print(f"It follows. When you are ready: relaunch db import {deployment} --cut-over")
    if "schemas" in result:
        print(f"{result['tables']} tables in {', '.join(result['schemas'])}. Now: relaunch db backup {deployment}")
    if cut_over and "downtime_seconds" in result:
        print(
            f"Downtime {result['downtime_seconds']} s, {result['tables_compared']} tables equal on both sides.\n"
            "Point the application to db-primary.SITE (on the deployment's own servers), or to the primary that\n"
            f"`relaunch db status {deployment}` names. Now: relaunch db backup {deployment}"
        )
