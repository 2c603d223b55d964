"""The controller a command talks to, the names there, and how a command line becomes full names."""

from __future__ import annotations

from functools import lru_cache

from relaunch.cli.client import Client, find_controller
from relaunch.cli.show import rows_of
from relaunch.errors import BadInput, NotFound, RelaunchError

COMPLETION_PATIENCE_SECONDS = 1.5


@lru_cache(maxsize=1)
def controller() -> Client:
    return Client(find_controller())


def full_name(server: str) -> tuple[str, str]:
    """(deployment, server) of `shop/front1`, or of `front1` when only one deployment has it."""
    deployment, slash, name = server.partition("/")
    if slash:
        if not (deployment and name) or "/" in name:
            raise BadInput(f"{server} is no server's name", hint="write deployment/server, like shop/front1")
        return deployment, name
    everyone = rows_of(controller().get("/servers"))
    holding = sorted({str(row.get("deployment")) for row in everyone if _short(row) == server})
    if not holding:
        known = ", ".join(sorted(f"{row.get('deployment')}/{_short(row)}" for row in everyone)) or "none yet"
        raise NotFound(f"no server is called {server}", hint=f"servers: {known}")
    if len(holding) > 1:
        choices = " or ".join(f"{deployment}/{server}" for deployment in holding)
        raise BadInput(f"{server} is in several deployments", hint=f"write {choices}")
    return holding[0], server


def one_deployment(given: str | None) -> str:
    """The deployment's name; the only one there is when none was given."""
    if given:
        return given
    names = [str(row.get("name")) for row in rows_of(controller().get("/deployments"))]
    if len(names) == 1:
        return names[0]
    if not names:
        raise NotFound("there is no deployment yet", hint="relaunch init redundant > site.yml; relaunch apply site.yml")
    raise BadInput("which deployment?", hint=f"one of {', '.join(names)}")


def complete_server(incomplete: str) -> list[str]:
    names = []
    for row in _listed("/servers"):
        names += [f"{row.get('deployment')}/{_short(row)}", _short(row)]
    return sorted({name for name in names if name.startswith(incomplete)})


def complete_deployment(incomplete: str) -> list[str]:
    return _named("/deployments", incomplete)


def complete_template(incomplete: str) -> list[str]:
    return _named("/templates", incomplete)


def complete_site(incomplete: str) -> list[str]:
    return _named("/sites", incomplete)


def complete_credential(incomplete: str) -> list[str]:
    return _named("/credentials", incomplete)


def complete_token(incomplete: str) -> list[str]:
    return _named("/tokens", incomplete)


def complete_task(incomplete: str) -> list[str]:
    return sorted(str(r.get("id")) for r in _listed("/tasks") if str(r.get("id")).startswith(incomplete))


def _named(path: str, incomplete: str) -> list[str]:
    return sorted(str(row.get("name")) for row in _listed(path) if str(row.get("name")).startswith(incomplete))


def _listed(path: str) -> list[dict[str, object]]:
    """For the Tab key: what cannot be had at once is left out silently."""
    try:
        return rows_of(Client(find_controller(), timeout_seconds=COMPLETION_PATIENCE_SECONDS).get(path))
    except RelaunchError:
        return []


def _short(row: dict[str, object]) -> str:
    return str(row.get("name", "")).rpartition("/")[2]
