"""`relaunch`: the command line. One file per noun; every error ends here, as a message and an exit status."""

from __future__ import annotations

import contextlib
import os
import sys

import typer

from relaunch import __version__
from relaunch.cli import (
    controller,
    credentials,
    db,
    demo,
    deployments,
    images,
    servers,
    sites,
    tasks,
    templates,
    tokens,
)
from relaunch.errors import RelaunchError

app = typer.Typer(
    name="relaunch",
    help="Fully redundant web sites from plain scripts: launched, healed and rehearsed on real servers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"relaunch {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


app.command("demo")(demo.demo)
app.command("init")(deployments.init)
app.command("plan")(deployments.plan)
app.command("apply")(deployments.apply)
app.command("audit")(tasks.audit)
app.command("status")(controller.status)
app.add_typer(controller.app, name="controller")
app.add_typer(deployments.app, name="deployment")
app.add_typer(servers.app, name="server")
app.add_typer(templates.app, name="template")
app.add_typer(templates.script_app, name="script")
app.add_typer(images.app, name="image")
app.add_typer(db.app, name="db")
app.add_typer(sites.app, name="site")
app.add_typer(sites.dns_app, name="dns")
app.add_typer(credentials.app, name="credential")
app.add_typer(tokens.app, name="token")
app.add_typer(tasks.app, name="task")


def main() -> None:
    """Run the command line and exit: 0, the error's own status, 130 after Ctrl-C, 141 when nobody reads on."""
    try:
        app(prog_name="relaunch")
    except RelaunchError as error:
        with contextlib.suppress(OSError):
            sys.stdout.flush()  # what was said before comes before, also where both go into one pipe
        print(f"relaunch: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains once more while it closes
        sys.exit(141)


if __name__ == "__main__":
    main()
