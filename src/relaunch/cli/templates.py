"""`template …` and `script check`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relaunch.cli.client import part
from relaunch.cli.here import complete_template, controller
from relaunch.cli.show import Json, print_facts, print_json, print_table, rows_of
from relaunch.errors import BadInput, NotFound

if TYPE_CHECKING:
    from relaunch.servers.checks import Finding

app = typer.Typer(no_args_is_help=True, help="Server templates: image, scripts of each phase, inputs.")
script_app = typer.Typer(no_args_is_help=True, help="Scripts: executables with a metadata comment.")
Files = Annotated[list[Path], typer.Argument(help="One or several files.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """List the templates that deployments can name."""
    rows = rows_of(controller().get("/templates"))
    print_json(rows) if json else print_table(rows, ["name", "image", "description", "path"], empty="no templates")


@app.command()
def show(
    name: Annotated[str, typer.Argument(autocompletion=complete_template)],
    json: Json = False,
) -> None:
    """Show a template: its scripts, inputs and ports."""
    answer = controller().get(f"/templates/{part(name)}")
    print_json(answer) if json else print_facts(answer)


@app.command()
def clone(
    name: Annotated[str, typer.Argument(autocompletion=complete_template)],
    new_name: str,
    json: Json = False,
) -> None:
    """Copy a template and its scripts under a new name, to change them there."""
    answer = controller().post(f"/templates/{part(name)}/clone", {"name": new_name})
    print_json(answer) if json else print(f"template {new_name}: {answer.get('path', 'made')}")


@app.command()
def check(files: Files, json: Json = False) -> None:
    """Check template files and their scripts, without a controller; every fault with its line."""
    from relaunch.servers.checks import check_template

    _report(files, check_template, json=json)


@script_app.command("check")
def check_script_files(files: Files, json: Json = False) -> None:
    """Check scripts' metadata comments, without a controller."""
    from relaunch.servers.checks import check_script

    _report(files, check_script, json=json)


def _report(files: list[Path], checker: Callable[[Path], Sequence[Finding]], *, json: bool) -> None:
    """Every finding with its place; BadInput when one of them is an error."""
    found: list[Finding] = []
    for file in files:
        if not file.is_file():
            raise NotFound(f"{file} does not exist")
        found += checker(file)
    if json:
        print_json([asdict(finding) for finding in found])
    else:
        for finding in found:
            print(finding)
    errors = sum(finding.level == "error" for finding in found)
    if errors:
        raise BadInput(f"{errors} fault{'s' if errors > 1 else ''} in {', '.join(map(str, files))}")
    if not json:
        print(f"✓ {', '.join(map(str, files))}")
