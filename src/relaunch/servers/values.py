"""The value of an input, as it is written (`text:8080`, `cred:DB_PASSWORD`) and as a closed set of types."""

from __future__ import annotations

import json
from dataclasses import dataclass

from relaunch.errors import BadInput
from relaunch.servers.strict_yaml import did_you_mean

ENVIRONMENT_NAMES = (
    "PUBLIC_IP",
    "PRIVATE_IP",
    "INSTANCE_ID",
    "DATACENTER",
    "RS_INSTANCE_UUID",
    "RS_SERVER_NAME",
    "RS_DEPLOYMENT_NAME",
    "RS_SERVER_TEMPLATE_NAME",
)
TYPES = ("text", "blank", "ignore", "env", "cred", "key", "array")


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Blank:
    """The empty string."""


@dataclass(frozen=True, slots=True)
class Ignore:
    """Not handed to the script at all."""


@dataclass(frozen=True, slots=True)
class Env:
    """A fact of the instance, or of another server's."""

    name: str
    server: str | None = None


@dataclass(frozen=True, slots=True)
class Cred:
    name: str


@dataclass(frozen=True, slots=True)
class Key:
    name: str


Element = Text | Blank | Env | Cred | Key


@dataclass(frozen=True, slots=True)
class Array:
    """Reaches the script as one string, joined with commas."""

    items: tuple[Element, ...]


InputValue = Text | Blank | Ignore | Env | Cred | Key | Array


def form_fault(text: str) -> str:
    """What the published format refuses about a value as it is written; empty when it is well formed.

    The published format knows neither which types exist nor what is in an array: `parse_value` does.
    """
    kind, colon, rest = text.partition(":")
    if kind in ("blank", "ignore"):
        return ""
    if not colon:
        if kind == "inherit":
            return "Invalid input value: inherit (it has no meaning here: leave the input out)"
        return f"Invalid input value: {text}"
    if kind == "inherit":
        return f"Invalid input value: {text} (inherit has no meaning here: leave the input out)"
    if not rest and kind == "text":
        return "Invalid input value: text: with nothing after it: use 'blank' or 'ignore'"
    return ""


def parse_value(text: str) -> InputValue:
    """The value that `text` writes; BadInput says what is wrong with it."""
    if fault := form_fault(text):
        raise BadInput(fault, hint="a value is written TYPE:VALUE, for example text:8080")
    kind, _, rest = text.partition(":")
    match kind:
        case "text":
            return Text(rest)
        case "blank":
            return Blank()
        case "ignore":
            return Ignore()
        case "env":
            return _env(rest)
        case "cred":
            return Cred(_named(rest, text))
        case "key":
            return Key(_named(rest, text))
        case "array":
            return _array(rest)
    raise BadInput(f"Invalid input value: {text}: no type {kind!r}", hint=did_you_mean(kind, TYPES))


def written(value: InputValue) -> str:
    """The text `parse_value` reads back."""
    match value:
        case Text(text):
            return f"text:{text}"
        case Blank():
            return "blank"
        case Ignore():
            return "ignore"
        case Env(name, None):
            return f"env:{name}"
        case Env(name, server):
            return f"env:{server}:{name}"
        case Cred(name):
            return f"cred:{name}"
        case Key(name):
            return f"key:{name}"
        case Array(items):
            return "array:" + json.dumps([written(item) for item in items], ensure_ascii=False, separators=(",", ":"))


def secrets_in(value: InputValue | None) -> tuple[str, ...]:
    """The names of the credentials and keys that a value needs."""
    match value:
        case Cred(name) | Key(name):
            return (name,)
        case Array(items):
            return tuple(name for item in items for name in secrets_in(item))
        case _:
            return ()


def facts_in(value: InputValue | None) -> tuple[Env, ...]:
    """The facts of instances that a value needs."""
    match value:
        case Env():
            return (value,)
        case Array(items):
            return tuple(fact for item in items for fact in facts_in(item))
        case _:
            return ()


def _named(name: str, text: str) -> str:
    if not name.strip():
        raise BadInput(f"Invalid input value: {text}: a name is missing after the colon")
    return name


def _env(rest: str) -> Env:
    server, colon, name = rest.rpartition(":")
    if name not in ENVIRONMENT_NAMES:
        raise BadInput(f"Invalid input value: env:{rest}: no fact {name!r}", hint=did_you_mean(name, ENVIRONMENT_NAMES))
    if colon and not server:
        raise BadInput(f"Invalid input value: env:{rest}: the server's name is missing")
    return Env(name, server or None)


def _array(rest: str) -> Array:
    try:
        raw = json.loads(rest)
    except ValueError as error:
        raise BadInput(
            f"Invalid input value: array:{rest}: not JSON ({error})", hint='for example array:["text:a","text:b"]'
        ) from None
    if not isinstance(raw, list) or not all(isinstance(item, str) for item in raw):
        raise BadInput(f"Invalid input value: array:{rest}: must be a list of texts", hint='array:["text:a","text:b"]')
    items: list[Element] = []
    for item in raw:
        value = parse_value(item)
        if isinstance(value, Array | Ignore):
            raise BadInput(f"Invalid input value: array:{rest}: {item!r} cannot stand in an array")
        items.append(value)
    return Array(tuple(items))
