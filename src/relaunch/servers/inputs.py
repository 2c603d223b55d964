"""Which value each input of a server has, and why: decided once, at launch.

Rank, low to high: script default, template, deployment, server, given at launch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from relaunch.errors import BadInput, NotFound, NotYetKnown
from relaunch.servers.deployments import DeploymentSpec, ServerSpec
from relaunch.servers.scripts import InputDeclaration, Script
from relaunch.servers.strict_yaml import did_you_mean
from relaunch.servers.templates import ServerTemplate
from relaunch.servers.values import (
    Array,
    Blank,
    Cred,
    Env,
    Ignore,
    InputValue,
    Key,
    Text,
    facts_in,
    parse_value,
    secrets_in,
)

APP = "APP"  # the input that says which application a site's servers run: decided by the site's source unless set
# Told to everybody who backs up, and words like any other: masked, they would only make logs unreadable.
OPEN_CREDENTIALS = frozenset({"BACKUP_STORE_ENDPOINT", "BACKUP_STORE_BUCKET", "BACKUP_RECIPIENT"})
LEVELS = ("script", "template", "deployment", "server", "launch")


class Lookup(Protocol):
    """What must be known of the world to tell whether a value can be had; the vault fits."""

    def has_credential(self, name: str) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedInput:
    """`value` is None when nothing decides it; `level` is one of LEVELS, or empty then."""

    name: str
    value: InputValue | None = None
    shown: str = ""  # as it is written; names a credential, never its content
    level: str = ""
    source: str = ""  # file:line, "deployment shop", "site shop.test", "server shop/db1", "launch"
    required: bool = False
    scripts: tuple[str, ...] = ()  # that declare it
    faults: tuple[str, ...] = ()  # why the value cannot be used; harmless while only operational scripts want it

    @property
    def is_secret(self) -> bool:
        return bool(secrets_in(self.value))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedInputs:
    """`problems`: all that must be put right before the launch, each a sentence that names server and input."""

    inputs: tuple[ResolvedInput, ...] = ()
    problems: tuple[str, ...] = ()

    def get(self, name: str) -> ResolvedInput | None:
        return next((resolved for resolved in self.inputs if resolved.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What instances know of themselves, by the names of `env:`: one's own, and other servers' by server name."""

    own: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Choice:
    raw: str
    level: str
    source: str


def resolve_inputs(
    template: ServerTemplate,
    deployment: DeploymentSpec,
    server: ServerSpec,
    given: Mapping[str, str],
    lookup: Lookup,
) -> ResolvedInputs:
    """The value of every input the template's scripts declare, with its source, and all problems at once.

    Inputs of operational scripts only may stay open until such a script is run.
    """
    where = f"server {deployment.name}/{server.name}"
    declared = _declared(template.scripts)
    urgent = {script.path for script in (*template.boot, *template.decommission)}
    problems = [
        f"{where}: no script of template {template.name} has an input {name}{_hinted(did_you_mean(name, declared))}"
        for name in dict.fromkeys([*server.inputs, *given])
        if name not in declared
    ]
    inputs: list[ResolvedInput] = []
    for name, uses in declared.items():
        must = any(script.path in urgent for script, _ in uses)
        choice = _chosen(name, template, deployment, server, given)
        faults: list[str] = []
        if choice is None:
            choice, faults = _default(name, uses)
        value: InputValue | None = None
        unusable: list[str] = []
        if choice:
            value, unusable = _parsed(choice)
            if value is not None:
                unusable = _unfit(value, choice, uses)
                faults = _unavailable(value, choice, deployment, lookup)
            faults = [*unusable, *faults]
        required_by = [script.name for script, use in uses if use.required and script.path in urgent]
        if required_by and not faults and (value is None or isinstance(value, Ignore)):
            lacks = "is required but set to ignore" if value else "has no value"
            faults = [f"{lacks}; {', '.join(required_by)} need{'s' if len(required_by) == 1 else ''} it"]
        if must:
            problems += [f"{where}: input {name} {fault}" for fault in faults]
        inputs.append(
            ResolvedInput(
                name=name,
                value=value,
                shown=choice.raw if choice else "",
                level=choice.level if choice else "",
                source=choice.source if choice else "",
                required=any(use.required for _, use in uses),
                scripts=tuple(script.name for script, _ in uses),
                faults=tuple(unusable),
            )
        )
    return ResolvedInputs(inputs=tuple(inputs), problems=tuple(problems))


def unknown_inputs(deployment: DeploymentSpec, templates: Mapping[str, ServerTemplate]) -> tuple[str, ...]:
    """A sentence for each input the deployment sets that no script of any of its templates declares."""
    declared: set[str] = set()
    for server in deployment.servers:
        if server.template in templates:
            declared |= set(_declared(templates[server.template].scripts))
    return tuple(
        f"deployment {deployment.name}: no script of its templates has an input {name}"
        f"{_hinted(did_you_mean(name, sorted(declared)))}"
        for name in deployment.inputs
        if name not in declared
    )


def values_for_script(
    script: Script, resolved: ResolvedInputs, facts: Facts, credentials: Mapping[str, str]
) -> dict[str, str]:
    """What goes into the script's environment: the inputs it declares, and no others.

    NotYetKnown when another server's fact is missing, NotFound when a credential is, BadInput when a required input
    has no value or the value cannot be used. `credentials` holds keys too.
    """
    values: dict[str, str] = {}
    for declaration in script.inputs:
        found = resolved.get(declaration.name)
        if found is not None and found.faults:
            raise BadInput(f"script {script.name}: input {declaration.name} {'; '.join(found.faults)}")
        value = _value_for(declaration, resolved)
        if value is None or isinstance(value, Ignore):
            if declaration.required:
                raise BadInput(f"script {script.name}: input {declaration.name} has no value")
            continue
        values[declaration.name] = _text(value, facts, credentials)
    return values


def secret_inputs(script: Script, resolved: ResolvedInputs) -> tuple[str, ...]:
    """The names of the script's inputs whose values are masked in its output."""
    return tuple(
        declaration.name
        for declaration in script.inputs
        if set(secrets_in(_value_for(declaration, resolved))) - OPEN_CREDENTIALS
    )


def credentials_needed(scripts: Iterable[Script], resolved: ResolvedInputs) -> tuple[str, ...]:
    """The names of the credentials and keys without which `values_for_script` would fail for these scripts."""
    names = (
        name
        for script in scripts
        for declaration in script.inputs
        for name in secrets_in(_value_for(declaration, resolved))
    )
    return tuple(dict.fromkeys(names))


def _value_for(declaration: InputDeclaration, resolved: ResolvedInputs) -> InputValue | None:
    found = resolved.get(declaration.name)
    if found is not None and found.value is not None:
        return found.value
    # Nothing decided between several scripts' defaults: for one script alone its own stands.
    return parse_value(declaration.default) if declaration.default is not None else None


def _text(value: InputValue, facts: Facts, credentials: Mapping[str, str]) -> str:
    match value:
        case Text(text):
            return text
        case Blank() | Ignore():
            return ""
        case Env(name, None):
            return _fact(facts.own, name, "this server")
        case Env(name, str(server)):
            return _fact(facts.others.get(server, {}), name, server)
        case Cred(name) | Key(name):
            if name not in credentials:
                raise NotFound(f"there is no credential {name}", hint=f"relaunch credential set {name}")
            return credentials[name]
        case Array(items):
            return ",".join(_text(item, facts, credentials) for item in items)
    raise AssertionError(value)


def _fact(known: Mapping[str, str], name: str, server: str) -> str:
    if not known.get(name):
        raise NotYetKnown(f"{name} of {server} is not known yet", server=server, name=name)
    return known[name]


def _declared(scripts: Iterable[Script]) -> dict[str, list[tuple[Script, InputDeclaration]]]:
    declared: dict[str, list[tuple[Script, InputDeclaration]]] = {}
    for script in scripts:
        for declaration in script.inputs:
            declared.setdefault(declaration.name, []).append((script, declaration))
    return declared


def _chosen(
    name: str, template: ServerTemplate, deployment: DeploymentSpec, server: ServerSpec, given: Mapping[str, str]
) -> _Choice | None:
    """What decides above the scripts' defaults, the highest rank first."""
    if name in given:
        return _Choice(given[name], "launch", "launch")
    if name in server.inputs:
        return _Choice(server.inputs[name], "server", f"server {deployment.name}/{server.name}")
    if name in deployment.inputs:
        return _Choice(deployment.inputs[name], "deployment", f"deployment {deployment.name}")
    if name == APP and (sites := [site for site in deployment.sites if site.app]):
        return _Choice(f"text:{sites[0].app}", "deployment", f"site {sites[0].name}")
    if name in template.inputs:
        return _Choice(template.inputs[name], "template", f"{template.path}:{template.input_lines.get(name, 0)}")
    return None


def _default(name: str, uses: list[tuple[Script, InputDeclaration]]) -> tuple[_Choice | None, list[str]]:
    """The scripts' default, or why there is none."""
    places: dict[str, str] = {}
    for script, declaration in uses:
        if declaration.default is not None:
            places.setdefault(declaration.default, f"{script.path}:{declaration.line}")
    if len(places) > 1:
        told = ", ".join(f"{default} ({place})" for default, place in places.items())
        return None, [f"is ambiguous: {told}; set it in the template, the deployment or the server"]
    return next((_Choice(default, "script", place) for default, place in places.items()), None), []


def _parsed(choice: _Choice) -> tuple[InputValue | None, list[str]]:
    try:
        return parse_value(choice.raw), []
    except BadInput as error:
        hint = f" ({error.hint})" if error.hint else ""
        return None, [f"has the wrong form: {error.message}{hint}, from {choice.source}"]


def _unfit(value: InputValue, choice: _Choice, uses: list[tuple[Script, InputDeclaration]]) -> list[str]:
    """Why the value does not fit what the scripts declare."""
    if isinstance(value, Ignore):
        return []
    faults: list[str] = []
    for script, declaration in uses:
        if not isinstance(value, Blank) and isinstance(value, Array) != declaration.is_array:
            wanted = 'array:["text:…"]' if declaration.is_array else "one value, no array"
            faults.append(f"has the wrong form: {choice.raw} ({choice.source}); {script.name} wants {wanted}")
        elif declaration.possible_values and not _possible(value, declaration):
            allowed = ", ".join(declaration.possible_values)
            faults.append(f"cannot be {choice.raw} ({choice.source}); {script.name} allows {allowed}")
    return faults


def _possible(value: InputValue, declaration: InputDeclaration) -> bool:
    allowed: list[InputValue] = []
    for raw in declaration.possible_values:
        parsed, faults = _parsed(_Choice(raw, "script", ""))
        if parsed is not None and not faults:
            allowed.append(parsed)
    if value in allowed:
        return True
    return isinstance(value, Array) and all(item in allowed for item in value.items)


def _unavailable(value: InputValue, choice: _Choice, deployment: DeploymentSpec, lookup: Lookup) -> list[str]:
    """What the value refers to and is not there."""
    faults = [
        f"needs credential {name} ({choice.source}), which does not exist; run `relaunch credential set {name}` or "
        f"write `{name}: generate` under credentials"
        for name in secrets_in(value)
        if name not in deployment.generate_credentials and not lookup.has_credential(name)
    ]
    servers = [server.name for server in deployment.servers]
    faults += [
        f"refers to server {fact.server} ({choice.source}), which does not exist"
        f"{_hinted(did_you_mean(fact.server, servers))}"
        for fact in facts_in(value)
        if fact.server is not None and fact.server not in servers
    ]
    return faults


def _hinted(hint: str) -> str:
    return f"; {hint}" if hint else ""
