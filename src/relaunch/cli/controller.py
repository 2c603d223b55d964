"""`controller …`: the process on this host; and `status`, what it says of itself."""

from __future__ import annotations

import time
from pathlib import Path

import typer

import relaunch
from relaunch.cli.client import Client, find_controller, state_folder
from relaunch.cli.here import controller
from relaunch.cli.process import ControllerProcess
from relaunch.cli.show import Json, print_facts, print_json
from relaunch.errors import RelaunchError, Unavailable

app = typer.Typer(no_args_is_help=True, help="The controller on this host.")
PROGRAM_TEMPLATES = Path(relaunch.__file__).parents[2] / "templates"


@app.command()
def run() -> None:
    """Run the controller in the foreground, until Ctrl-C or SIGTERM."""
    process = ControllerProcess(state=state_folder())
    held = process.hold()

    from relaunch.controller.main import run as run_controller
    from relaunch.controller.settings import read_settings

    run_controller(read_settings(process.state, program_templates=PROGRAM_TEMPLATES))
    del held


@app.command()
def start(json: Json = False) -> None:
    """Start it in the background and wait until it answers."""
    began = time.monotonic()
    started = start_controller()
    told = controller().get("/status")
    if json:
        print_json({"started": started, **told})
    else:
        took = f" in {time.monotonic() - began:.1f} s" if started else " already"
        print(f"the controller runs{took}: {controller().where.url}")


@app.command()
def stop(json: Json = False) -> None:
    """Stop it; instances and sites live on."""
    stopped = ControllerProcess(state=state_folder()).stop()
    if json:
        print_json({"stopped": stopped})
    else:
        print("the controller is stopped; instances and sites live on" if stopped else "no controller runs")


def status(json: Json = False) -> None:
    """Show whether the controller answers, its version, and how many servers it looks after."""
    process = ControllerProcess(state=state_folder())
    try:
        told = controller().get("/status")
    except Unavailable as error:
        raise Unavailable(error.message, hint=process.log_end(lines=5) or error.hint) from None
    answer = {"url": controller().where.url, **told}
    print_json(answer) if json else print_facts(answer)


app.command("status")(status)


def start_controller() -> bool:
    """False when it ran already."""
    return ControllerProcess(state=state_folder()).start(_healthy)


def _healthy() -> bool:
    try:
        return Client(find_controller(), timeout_seconds=5).healthy()
    except RelaunchError:
        return False
