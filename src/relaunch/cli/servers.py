"""`server …`: what can be done to one server, or to several at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from relaunch.cli.client import Client, part, state_folder
from relaunch.cli.follow import finish
from relaunch.cli.here import complete_deployment, complete_server, controller, full_name
from relaunch.cli.show import Json, NoWait, Verbose, Yes, confirm, print_facts, print_json, print_table, rows_of
from relaunch.errors import BadInput, Conflict, Failed, NotAllowed, NotFound

app = typer.Typer(no_args_is_help=True, help="Servers: the lasting definitions, and the instances that stand for them.")
Server = Annotated[
    str, typer.Argument(help="deployment/server, or just server when unambiguous.", autocompletion=complete_server)
]


@app.command("list")
def list_(
    deployment: Annotated[str | None, typer.Option("--deployment", "-d", autocompletion=complete_deployment)] = None,
    json: Json = False,
) -> None:
    """List all servers and their states."""
    rows = rows_of(controller().get("/servers", deployment=deployment))
    if json:
        print_json(rows)
        return
    columns = ["deployment", "name", "state", "template", "zone", "address", "age=launched", "tags"]
    print_table([flat(row) for row in rows], columns, empty="no servers")


@app.command()
def show(server: Server, json: Json = False) -> None:
    """Show one server, its instance and what it is doing."""
    answer = controller().get(_path(server))
    print_json(answer) if json else print_facts(answer)


def _action(name: str, sentence: str, *, destroys: str = "") -> None:
    """One command per action: they differ in name and in what must be confirmed."""

    def plain(
        server: Server, no_wait: NoWait = False, verbose: Verbose = False, json: Json = False, yes: bool = True
    ) -> None:
        client = controller()
        path = _path(server)
        confirm(destroys.format(server=path.removeprefix("/servers/")), yes=yes)
        answer = client.post(f"{path}/{name}")
        finish(client, answer, json=json, no_wait=no_wait, verbose=verbose)

    def asking(
        server: Server, yes: Yes = False, no_wait: NoWait = False, verbose: Verbose = False, json: Json = False
    ) -> None:
        plain(server, no_wait, verbose, json, yes)

    def unasking(server: Server, no_wait: NoWait = False, verbose: Verbose = False, json: Json = False) -> None:
        plain(server, no_wait, verbose, json)

    command: Callable[..., None] = asking if destroys else unasking
    command.__doc__ = sentence
    app.command(name)(command)


_action("launch", "Launch an instance for a server that has none.")
_action(
    "relaunch",
    "Replace the instance by a fresh one; the server keeps its name and place.",
    destroys="The instance of {server} and its disk will be replaced.",
)
_action("reboot", "Run the decommission scripts, reboot, run the boot scripts again.")
_action(
    "terminate",
    "Run the decommission scripts and end the instance, with its disk.",
    destroys="The instance of {server} and its disk will be gone.",
)
_action("set-aside", "Fence the instance off, but keep it running for inspection.")
_action("retry", "Go on with the boot scripts of a stranded server, from the one that failed.")
_action("force-operational", "Call a stranded server operational, at your own risk.")
_action("cut-off", "Drop all its traffic, as if the cable were pulled.")
_action("reconnect", "Let the traffic of a cut-off server through again.")
_action("power-off", "Stop it as if the plug were pulled; the disk is kept.")
_action("start", "Start a powered-off server again.")
_action("lock", "Refuse terminate, relaunch and reboot by hand from now on.")
_action("unlock", "Allow them again.")


@app.command()
def run(
    server: Annotated[list[str], typer.Argument(help="One or several servers.", autocompletion=complete_server)],
    script: Annotated[str, typer.Option("--script", "-s", help="A file here, or the name of an operational script.")],
    input: Annotated[list[str] | None, typer.Option("--input", "-i", help="NAME=text:VALUE, cred:NAME, …")] = None,
    no_wait: NoWait = False,
    json: Json = False,
) -> None:
    """Run a script on one or several servers at once, and show what it says."""
    client = controller()
    names = ["/".join(full_name(one)) for one in server]
    body = {"servers": names, "script": _script(script), "inputs": dict(_input(given) for given in input or [])}
    finish(client, client.post("/runs", body), json=json, no_wait=no_wait, verbose=True)


@app.command()
def console(server: Server, json: Json = False) -> None:
    """Print the end of the instance's console: what it said while it booted."""
    answer = controller().get(f"{_path(server)}/console")
    text = answer if isinstance(answer, str) else str(answer.get("console", answer.get("output", "")))
    print_json({"console": text}) if json else print(text, end="" if text.endswith("\n") else "\n")


@app.command()
def log(
    server: Server,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many runs, newest last.")] = 1,
    json: Json = False,
) -> None:
    """Print what the scripts of the server's latest runs said."""
    client = controller()
    runs = rows_of(client.get(f"{_path(server)}/runs"))
    runs = sorted(runs, key=lambda row: str(row.get("created")))[-last:]
    if json:
        print_json([run | {"output": _output(client, run)} for run in runs])
        return
    if not runs:
        print("nothing has run there yet")
    for one in runs:
        print(f"── {one.get('phase')} · {one.get('state')} · {str(one.get('created'))[:19].replace('T', ' ')}")
        for script, text in _output(client, one):
            print(f"── {script}\n{text}", end="" if text.endswith("\n") else "\n")


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def ssh(
    server: Server,
    command: Annotated[list[str] | None, typer.Argument(help="Run this instead of a shell.")] = None,
    aside: Annotated[
        str, typer.Option(help="Of what this database server was: an instance that `db status` lists.")
    ] = "",
) -> None:
    """Open a shell on the server, as root, with the controller's key."""
    address = _address_aside(server, aside) if aside else flat(controller().get(_path(server)))["address"]
    if not address:
        raise Conflict(f"{server} has no instance to log in to", hint=f"relaunch server launch {server}")
    key = state_folder() / "ssh" / "id_ed25519"
    if not os.access(key, os.R_OK):
        raise NotAllowed(f"{key} cannot be read", hint="run this on the controller's host, as root (sudo)")
    program = shutil.which("ssh")
    if not program:
        raise Failed("there is no ssh here", hint="apt-get install openssh-client")
    os.execv(program, ssh_command(address, key, command or [], alias="-".join(full_name(server))))


def shell_aside(instance: str, server: str) -> str:
    """The command for a shell on an instance that was set aside."""
    return f"relaunch server ssh --aside {instance} {server}"


def _address_aside(server: str, instance: str) -> str:
    deployment, name = full_name(server)
    for each in controller().get(f"/databases/{part(deployment)}")["set_aside"]:
        if (each["id"], each["server"]) == (instance, f"{deployment}/{name}"):
            return str(each["address"])
    raise NotFound(
        f"{instance} is nothing that was {server}", hint=f"relaunch db status {deployment} lists what is kept"
    )


def ssh_command(address: str, key: Path, command: list[str], *, alias: str = "") -> list[str]:
    """Addresses are used again by later instances, so host keys are remembered nowhere: the key's secrecy is enough."""
    options = {
        "IdentitiesOnly": "yes", "StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null", "LogLevel": "ERROR",
        "HostKeyAlias": alias or address, "ConnectTimeout": "10",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return ["ssh", "-i", str(key), *words, f"root@{address}", *command]


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A server with its instance's facts beside its own, whichever way the answer nests them."""
    instance = row.get("instance") if isinstance(row.get("instance"), dict) else {}
    merged = {**(instance or {}), **{k: v for k, v in row.items() if v is not None}}
    merged["address"] = merged.get("address") or merged.get("private_address") or ""
    if merged.get("lost"):
        merged["state"] = f"{merged['state']}, lost"
    merged["name"] = str(row.get("name", "")).rpartition("/")[2]
    return merged


def _path(server: str) -> str:
    deployment, name = full_name(server)
    return f"/servers/{part(deployment)}/{part(name)}"


def _script(given: str) -> object:
    file = Path(given)
    if "/" in given or file.is_file():
        try:
            return {"name": file.name, "text": file.read_text()}
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{given} cannot be read: {error}") from None
    return given


def _input(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals or not name:
        raise BadInput(f"{given} is no input", hint="write NAME=text:VALUE, like -i PORT=text:8080")
    return name, value


def _output(client: Client, run: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    for index, result in enumerate(run.get("results") or []):
        text, offset = "", 0
        while True:
            answer = client.get(f"/runs/{part(str(run['id']))}/output", index=index, offset=offset)
            piece = answer if isinstance(answer, str) else str(answer.get("text", answer.get("output", "")))
            following = len(piece.encode()) + offset if isinstance(answer, str) else int(answer.get("next_offset") or 0)
            text += piece
            if not piece or following <= offset:
                break
            offset = following
        name = result.get("name") or result.get("script") if isinstance(result, dict) else str(result)
        found.append((str(name), text))
    return found
