"""`task …` and `audit`."""

from __future__ import annotations

from typing import Annotated

import typer

from relaunch.cli.client import part
from relaunch.cli.follow import finish
from relaunch.cli.here import complete_task, controller
from relaunch.cli.show import Json, Verbose, print_facts, print_json, print_table, rows_of

app = typer.Typer(no_args_is_help=True, help="Tasks: anything long, with its steps.")
Task = Annotated[str, typer.Argument(autocompletion=complete_task)]


@app.command("list")
def list_(
    state: Annotated[str, typer.Option(help="waiting, running, succeeded, failed or cancelled.")] = "",
    subject: Annotated[str, typer.Option(help="Like server:shop/front1 or deployment:shop.")] = "",
    json: Json = False,
) -> None:
    """List tasks."""
    rows = rows_of(controller().get("/tasks", state=state, subject=subject))
    if json:
        print_json(rows)
    else:
        print_table(rows, ["id", "state", "title", "subject", "who", "age=created"], empty="no such task")


@app.command()
def show(task: Task, json: Json = False) -> None:
    """Show a task and its steps."""
    answer = controller().get(f"/tasks/{part(task)}")
    if json:
        print_json(answer)
        return
    print_facts(answer, leave_out=("steps",))
    print_table(answer.get("steps") or [], ["number", "name", "state", "seconds", "detail"], empty="no steps")


@app.command()
def follow(task: Task, verbose: Verbose = False, json: Json = False) -> None:
    """Show a task's steps as they come; ends as the task does."""
    finish(controller(), {"task": task}, json=json, no_wait=False, verbose=verbose)


@app.command()
def cancel(task: Task, json: Json = False) -> None:
    """Stop a task; what it began is undone."""
    answer = controller().post(f"/tasks/{part(task)}/cancel")
    print_json(answer) if json else print(f"task {task} is being cancelled: relaunch task follow {task}")


def audit(
    subject: Annotated[str, typer.Option(help="Like server:shop/front1.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1)] = 50,
    json: Json = False,
) -> None:
    """Show who did what, when, to what, with which result."""
    rows = rows_of(controller().get("/audit", subject=subject, limit=limit))
    columns = ["at", "who", "action", "subject", "result", "detail"]
    print_json(rows) if json else print_table(rows, columns, empty="nothing yet")
