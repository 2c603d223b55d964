"""`init`, `plan`, `apply` and `deployment …`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from relaunch.cli import starters
from relaunch.cli.client import part
from relaunch.cli.follow import finish
from relaunch.cli.here import complete_deployment, controller, one_deployment
from relaunch.cli.show import Json, NoWait, Verbose, Yes, confirm, print_facts, print_json, print_table, rows_of
from relaunch.errors import BadInput, Conflict, NeedsConfirmation, NotFound

app = typer.Typer(no_args_is_help=True, help="Servers, database and sites that belong together.")
File = Annotated[str, typer.Argument(help="The deployment file; `-` reads standard input.")]
Name = Annotated[
    str | None, typer.Argument(help="The deployment; not needed when there is one.", autocompletion=complete_deployment)
]


def init(
    architecture: Annotated[
        str,
        typer.Argument(help=f"One of {', '.join(starters.ARCHITECTURES)}.", autocompletion=starters.complete),
    ],
    name: Annotated[str, typer.Option(help="The deployment's name.")] = "shop",
    app_name: Annotated[str, typer.Option("--app", help=f"One of {', '.join(starters.APPS)}.")] = "redmine",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file, if it is new.")] = None,
    json: Json = False,
) -> None:
    """Write a deployment file to start from."""
    text = starters.starter(architecture, name=name, app=app_name)
    if output:
        try:
            with output.open("x") as file:
                file.write(text)
        except FileExistsError:
            raise Conflict(f"{output} exists already", hint="it was not touched; choose another name") from None
    if json:
        print_json({"architecture": architecture, "file": str(output) if output else None, "source": text})
    elif output:
        print(f"{output} is written. Next: relaunch plan {output}; relaunch apply {output}")
    else:
        print(text, end="")


def plan(file: File, json: Json = False) -> None:
    """Show what `apply` would change; nothing is done."""
    answer = controller().post("/plans", {"source": read(file)})
    print_json(answer) if json else print_plan(answer)
    if answer.get("problems"):
        raise BadInput(f"{file} cannot be applied yet: see the problems above")


def apply(file: File, yes: Yes = False, no_wait: NoWait = False, verbose: Verbose = False, json: Json = False) -> None:
    """Make it so: launch, change and remove servers until they are as the file says."""
    source = read(file)
    client = controller()
    try:
        answer = client.post("/deployments", {"source": source, "yes": yes})
    except NeedsConfirmation as error:
        if not json:
            print_plan(client.post("/plans", {"source": source}))
        confirm(error.message, yes=False)
        answer = client.post("/deployments", {"source": source, "yes": True})
    finish(client, answer, json=json, no_wait=no_wait, verbose=verbose)


@app.command("list")
def list_(json: Json = False) -> None:
    """List all deployments."""
    rows = rows_of(controller().get("/deployments"))
    if json:
        print_json(rows)
    else:
        print_table(rows, ["name", "servers", "operational", "sites", "age=created"], empty="no deployment yet")


@app.command()
def show(name: Name = None, json: Json = False) -> None:
    """Show one deployment."""
    answer = controller().get(f"/deployments/{part(one_deployment(name))}")
    print_json(answer) if json else print_facts(answer, leave_out=("source",))


@app.command()
def inputs(name: Name = None, json: Json = False) -> None:
    """Show every input's value (secrets hidden) and where it comes from."""
    rows = rows_of(controller().get(f"/deployments/{part(one_deployment(name))}/inputs"))
    if json:
        print_json(rows)
    else:
        print_table(rows, ["server", "input=name", "value=shown", "level", "source"], empty="no inputs")


@app.command()
def destroy(
    name: Annotated[str, typer.Argument(autocompletion=complete_deployment)],
    yes: Yes = False,
    no_wait: NoWait = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Terminate all servers of a deployment and remove it, its data and its DNS records."""
    client = controller()
    client.get(f"/deployments/{part(name)}")
    confirm(f"All servers and all data of deployment {name} will be destroyed.", yes=yes)
    answer = client.delete(f"/deployments/{part(name)}?yes=true")
    finish(client, answer, json=json, no_wait=no_wait, verbose=verbose)


def read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text()
    except FileNotFoundError:
        hint = f"write one to start from: relaunch init redundant -o {file}"
        raise NotFound(f"{file} does not exist", hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} cannot be read: {error}") from None


def print_plan(plan: dict[str, Any]) -> None:
    """Actions, inputs with their sources, problems."""
    actions = plan.get("actions") or []
    print(f"deployment {plan.get('deployment')}: {len(actions) or 'no'} change{'' if len(actions) == 1 else 's'}")
    for action in actions:
        mark = "-" if action.get("destroys") else "+" if action.get("action") in ("launch", "create") else "~"
        why = f"   ({action['why']})" if action.get("why") else ""
        print(f"  {mark} {action.get('action')} {action.get('subject')}{why}")
    if inputs := plan.get("inputs"):
        print()
        print_table(inputs, ["server", "input=name", "value=shown", "level", "source"], empty="")
    for problem in plan.get("problems") or []:
        print(f"  ✗ {problem.get('message', problem) if isinstance(problem, dict) else problem}")
