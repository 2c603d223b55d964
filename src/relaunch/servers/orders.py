"""What people order: checked whole before anything is done, refused with all problems at once, then made a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from relaunch.errors import BadInput, Conflict, NeedsConfirmation, NotFound, RelaunchError
from relaunch.servers import (  # noqa: F401  the workflows register themselves when imported
    apply,
    bake,
    launch,
    power,
    reboot,
    relaunch,
    run_scripts,
    terminate,
)
from relaunch.servers.deployments import DeploymentSpec, read_deployment
from relaunch.servers.exclusion import refuse_beside
from relaunch.servers.inputs import resolve_inputs, unknown_inputs
from relaunch.servers.lifecycle import State
from relaunch.servers.plan import Plan, ServerNow, destruction, plan
from relaunch.servers.ports import Ports
from relaunch.servers.server_orders import ACTIONS, prepared_run
from relaunch.servers.store import Args, ServerRow, Store, new_id
from relaunch.servers.templates import ServerTemplate, find_template, template_hash
from relaunch.workflows.durable import Workflows
from relaunch.workflows.tasks import Asked

Remarks = Callable[[DeploymentSpec], Sequence[str]]


def _no_remarks(spec: DeploymentSpec) -> Sequence[str]:
    return ()


def _no_databases(spec: DeploymentSpec, templates: Mapping[str, ServerTemplate]) -> list[str]:
    """A group would wait for ever for such a member."""
    members = [server for server in spec.servers if spec.database and server.name in spec.database.members]
    return [
        f"server {spec.name}/{server.name} is in the database group, but its template {server.template} offers no"
        " database: give it the template mysql or mysql9, or take it out of `database`"
        for server in members
        if server.template in templates and not templates[server.template].is_database
    ]


class Orders:
    """`remarks`: what else is worth saying about a deployment, by those who know its sites."""

    def __init__(self, ports: Ports, workflows: Workflows, *, remarks: Remarks = _no_remarks) -> None:
        self.ports = ports
        self.workflows = workflows
        self.store = Store(ports.database, ports.clock)
        self._remarks = remarks

    # deployments

    def plan(self, source: str, given: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What applying this file would change, all its inputs with their sources, and all problems; plain."""
        spec = read_deployment(source)
        templates, problems = self._templates(spec)
        changes = self._changes(spec, templates)
        inputs, more = self._inputs(spec, templates, given or {})
        problems = [*problems, *_no_databases(spec, templates)]
        problems = [*problems, *changes.problems, *more, *self._world_problems(spec, changes)]
        return {
            "deployment": spec.name,
            "actions": [
                {
                    "action": str(action.kind),
                    "subject": action.subject,
                    "why": action.why,
                    "destroys": action.destroys,
                    "done_by_apply": action.done_by_apply,
                }
                for action in changes.actions
            ],
            "inputs": inputs,
            "problems": problems,
            "remarks": list(self._remarks(spec)),
        }

    async def apply(self, source: str, *, who: str, yes: bool = False, given: Mapping[str, str] | None = None) -> str:
        """The task. BadInput with all problems; NeedsConfirmation when something would be destroyed."""
        planned = self.plan(source, given)
        if planned["problems"]:
            raise BadInput("\n".join(planned["problems"]))
        spec = read_deployment(source)
        destroyed = [each for each in planned["actions"] if each["destroys"]]
        if destroyed and not yes:
            told = "\n".join(f"{each['subject']}: {each['why']}" for each in destroyed)
            raise NeedsConfirmation(f"applying this would destroy:\n{told}", hint="say --yes if that is meant")
        now = {server.name: server for server in self.store.servers(spec.name)}
        kept = {server.name for server in spec.servers}
        removes = [server for name, server in now.items() if name not in kept]
        self._refuse_locked(removes)
        wanted = [s.name for s in spec.servers if s.name not in now or now[s.name].instance_id is None]
        args = {
            "spec": asdict(spec),
            "deployment_id": new_id(),
            "server_ids": {server.name: new_id() for server in spec.servers},
            "launches": {name: new_id() for name in wanted},
            "inputs": dict(given or {}),
            "removes": [self._removed(server) for server in removes],
        }
        self._refuse_busy("apply", spec.name, self._touched(spec, wanted, removes), spec=spec)
        return await self._start("apply", f"apply {spec.name}", f"deployment:{spec.name}", who, args)

    async def destroy(self, name: str, *, who: str, yes: bool = False) -> str:
        """The task; NeedsConfirmation tells what would go."""
        spec = self._deployment(name)
        servers = self.store.servers(name)
        if not yes:
            gone = destruction(spec, self._servers_now(name))
            told = "\n".join(f"{action.subject}: {action.why}" for action in gone.actions)
            raise NeedsConfirmation(f"this would destroy deployment {name}:\n{told}", hint="say --yes if that is meant")
        self._refuse_locked(servers)
        args = {
            "deployment": name,
            "removes": [self._removed(server) for server in servers],
            "templates": sorted({server.template for server in servers}),
        }
        self._refuse_busy("destroy", name, {server.name for server in servers})
        return await self._start("destroy", f"destroy {name}", f"deployment:{name}", who, args)

    def inputs(self, name: str) -> list[dict[str, Any]]:
        """Every input of its servers as a launch would resolve it now, with its level and source."""
        spec = self._deployment(name)
        templates, _ = self._templates(spec)
        return self._inputs(spec, templates, {})[0]

    # one server

    async def act(self, full_name: str, action: str, *, who: str, body: Mapping[str, Any] | None = None) -> str:
        """The task of an action on one server; Conflict says why its state forbids it."""
        if action not in ACTIONS:
            raise NotFound(f"no action {action!r} on a server", hint=f"there are: {', '.join(sorted(ACTIONS))}")
        server = self.store.server(full_name)
        prepared = ACTIONS[action](self, server, dict(body or {}))
        if prepared.at_once is not None:
            return self._done_at_once(action, server, who, prepared.at_once)
        self._refuse_busy(action, server.deployment, {server.name})
        return await self._start(action, f"{action} {full_name}", server.subject, who, prepared.args)

    def _done_at_once(self, action: str, server: ServerRow, who: str, act: Callable[[], None]) -> str:
        task = f"{action}-{new_id()}"
        asked = Asked(kind=action, title=f"{action} {server.full_name}", subject=server.subject, who=who)
        self.workflows.tasks.begin(task, asked)
        act()
        self.workflows.tasks.end(task, asked, "succeeded")
        self.workflows.changed()
        return task

    # scripts

    async def run(self, servers: Sequence[str], script: Any, inputs: Mapping[str, str], *, who: str) -> str:
        """The task that runs a script on all these servers; BadInput or Conflict names all that cannot."""
        args = prepared_run(self, servers, script, inputs)
        subject = f"server:{servers[0]}" if len(servers) == 1 else f"servers:{','.join(servers)}"
        where = servers[0] if len(servers) == 1 else f"{len(servers)} servers"
        return await self._start("run", f"run {args['script']['name']} on {where}", subject, who, args)

    # checks

    async def _start(self, kind: str, title: str, subject: str, who: str, args: Args) -> str:
        task = f"{kind}-{new_id()}"
        await self.workflows.start_workflow(Asked(kind=kind, title=title, subject=subject, who=who), task, args)
        return task

    def _deployment(self, name: str) -> DeploymentSpec:
        spec = self.store.applied_spec(name)
        if spec is None:
            raise NotFound(f"no deployment {name}", hint="`relaunch deployment list` shows what there is")
        return spec

    def _templates(self, spec: DeploymentSpec) -> tuple[dict[str, ServerTemplate], list[str]]:
        found: dict[str, ServerTemplate] = {}
        problems = []
        for server in spec.servers:
            if server.template in found:
                continue
            try:
                found[server.template] = find_template(server.template, self.ports.template_folders)
            except RelaunchError as error:
                problems.append(f"server {spec.name}/{server.name}: {error.message} {error.hint}".rstrip())
        return found, problems

    def _servers_now(self, name: str) -> dict[str, ServerNow]:
        servers = self.store.servers(name)
        rows = self.store.instances([server.instance_id for server in servers if server.instance_id])
        group = self.store.group(servers[0].deployment_id) if servers else None
        leader = group["primary_server_id"] if group is not None and group["initialised"] else None
        return {
            server.name: ServerNow(
                state=State(rows[server.instance_id]["state"]) if server.instance_id else State.INACTIVE,
                has_instance=server.instance_id is not None,
                template_hash=rows[server.instance_id]["run_list"].get("template_hash") if server.instance_id else None,
                leads=server.id == leader,
            )
            for server in servers
        }

    def _changes(self, spec: DeploymentSpec, templates: Mapping[str, ServerTemplate]) -> Plan:
        hashes = {name: template_hash(template) for name, template in templates.items()}
        return plan(self.store.applied_spec(spec.name), spec, self._servers_now(spec.name), hashes)

    def _inputs(
        self, spec: DeploymentSpec, templates: Mapping[str, ServerTemplate], given: Mapping[str, str]
    ) -> tuple[list[dict[str, Any]], list[str]]:
        shown: list[dict[str, Any]] = []
        problems = list(unknown_inputs(spec, templates))
        for server in spec.servers:
            if server.template not in templates:
                continue
            resolved = resolve_inputs(templates[server.template], spec, server, given, self.ports.vault)
            problems += resolved.problems
            shown += [
                {"server": server.name, "name": each.name, "shown": each.shown, "level": each.level,
                 "source": each.source, "required": each.required}
                for each in resolved.inputs
            ]  # fmt: skip
        return shown, problems

    def _world_problems(self, spec: DeploymentSpec, changes: Plan) -> list[str]:
        """What is wrong with the file as things stand here."""
        zones = self.ports.cloud.zones
        problems = [
            f"server {spec.name}/{server.name}: no zone {server.zone!r}; the cloud has {', '.join(zones)}"
            for server in spec.servers
            if server.zone not in zones
        ]
        elsewhere = {
            host: other.name
            for row in self.store.deployments()
            if (other := self.store.applied_spec(row["name"])) is not None and other.name != spec.name
            for site in other.sites
            for host in (site.name, *site.hosts)
        }
        problems += [
            f"site {site.name}: {host} is served by deployment {elsewhere[host]} already"
            for site in spec.sites
            for host in dict.fromkeys((site.name, *site.hosts))
            if host in elsewhere
        ]
        gone = [name for name, now in self._servers_now(spec.name).items() if now.leads and spec.server(name) is None]
        if spec.database is not None:
            problems += [
                f"server {spec.name}/{name} is not in the file, and is the primary now: it has the newest data."
                f" First: relaunch db switchover {spec.name} --to ANOTHER; or write it into the file"
                for name in gone
            ]
        for server in self.store.servers(spec.name):
            if server.instance_id is None and spec.server(server.name) is not None:
                try:
                    launch.refuse_empty_primary(self.store, server)
                except Conflict as error:
                    problems.append(f"{error.message}; {error.hint}")
        return problems

    def _refuse_locked(self, servers: Sequence[ServerRow]) -> None:
        locked = [server.full_name for server in servers if server.locked]
        if locked:
            raise Conflict(f"locked: {', '.join(locked)}", hint="unlock first: relaunch server unlock NAME")

    def _refuse_busy(
        self, kind: str, deployment: str, servers: Iterable[str], spec: DeploymentSpec | None = None
    ) -> None:
        refuse_beside(self.store, self.workflows.tasks, deployment, kind, servers=servers, spec=spec)

    def _touched(self, spec: DeploymentSpec, launched: Iterable[str], removed: Iterable[ServerRow]) -> set[str]:
        """The servers that come, that go, and that join or leave the group."""
        before = self.store.applied_spec(spec.name)
        was, will_be = (
            set(each.database.members) if each is not None and each.database is not None else set()
            for each in (before, spec)
        )
        return {*launched, *(server.name for server in removed), *(was ^ will_be)}

    def _removed(self, server: ServerRow) -> dict[str, Any]:
        """`asides`: earlier incarnations that are kept for inspection; they go with the server."""
        asides = self.store.asides(server.id)
        return {
            "server": server.name,
            "server_id": server.id,
            "instance": server.instance_id,
            "asides": [each for each in asides if each != server.instance_id],
        }
