"""Changing a deployment file's text in one place and nowhere else: a replica more, or one less.

Pure. The parser says where things stand; what comes out is read again and must say just what was wanted.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import yaml

from relaunch.errors import BadInput
from relaunch.servers.deployments import DeploymentSpec, ServerSpec, read_deployment

Edit = tuple[int, int, str]  # from, to, instead


def with_replica(text: str, server: ServerSpec) -> str:
    """One more server at the end of `servers`, and of the group's replicas."""
    spec, root = read_deployment(text), _root(text)
    assert spec.database is not None
    database = _value(root, "database")
    edits = [_added(text, _value(root, "servers"), f"{server.name}: {_written(server)}")]
    replicas = _value(database, "replicas")
    if replicas is None:
        edits.append(_added(text, database, f"replicas: [{server.name}]"))
    elif isinstance(replicas, yaml.ScalarNode):  # null, or nothing behind the colon
        begin, end = replicas.start_mark.index, replicas.end_mark.index
        edits.append((begin, end, f"[{server.name}]" if replicas.value else f" [{server.name}]"))
    else:
        edits.append(_added(text, replicas, server.name if replicas.flow_style else f"- {server.name}"))
    group = replace(spec.database, replicas=(*spec.database.replicas, server.name))
    return _checked(_edited(text, edits), replace(spec, servers=(*spec.servers, server), database=group))


def without_replica(text: str, name: str) -> str:
    """The server and its place among the replicas, and among those that never lead, are gone."""
    spec = read_deployment(text)
    assert spec.database is not None
    group = replace(
        spec.database,
        replicas=tuple(each for each in spec.database.replicas if each != name),
        never_primary=tuple(each for each in spec.database.never_primary if each != name),
    )
    wanted = replace(spec, servers=tuple(each for each in spec.servers if each.name != name), database=group)
    servers = _value(_root(text), "servers")
    text = _edited(text, [_removed(text, servers, _pair(servers, name))])
    for key in ("replicas", "never_primary"):
        text = _without_name(text, key, name)
    return _checked(text, wanted)


def with_memory(text: str, names: Collection[str], memory_bytes: int) -> str:
    """These servers have that much memory."""
    spec, root = read_deployment(text), _root(text)
    said, edits = shown_bytes(memory_bytes), []
    for key, value in _value(root, "servers").value:
        server = spec.server(key.value)
        if key.value not in names or server is None or server.memory_bytes == memory_bytes:
            continue
        known = _value(value, "memory")
        if known is None:
            edits.append(_added(text, value, f"memory: {said}"))
        else:
            edits.append((known.start_mark.index, known.end_mark.index, said))
    servers = [replace(each, memory_bytes=memory_bytes) if each.name in names else each for each in spec.servers]
    return _checked(_edited(text, edits), replace(spec, servers=tuple(servers)))


def shown_bytes(count: int) -> str:
    for unit, size in (("G", 1 << 30), ("M", 1 << 20)):
        if count % size == 0:
            return f"{count // size}{unit}"
    raise BadInput(f"{count} bytes are no whole number of megabytes", hint="for example 2G or 1536M")


def _written(server: ServerSpec) -> str:
    said = [f"template: {server.template}", f"zone: {server.zone}"]
    if server.memory_bytes is not None:
        said.append(f"memory: {shown_bytes(server.memory_bytes)}")
    if server.volume_bytes is not None:
        said.append(f"volume: {shown_bytes(server.volume_bytes)}")
    if server.inputs:
        pairs = yaml.safe_dump(server.inputs, default_flow_style=True, width=10_000).strip()
        said.append(f"inputs: {pairs}")
    return "{" + ", ".join(said) + "}"


def _added(text: str, node: Any, line: str) -> Edit:
    """At the end of a list or mapping, in the style it has."""
    if node.flow_style:
        at = node.end_mark.index - 1
        return at, at, f", {line}" if node.value else line
    last = node.value[-1]
    at = text.find("\n", _end(text, last[1] if isinstance(last, tuple) else last))
    at = len(text) if at < 0 else at  # behind a comment on that line
    return at, at, "\n" + " " * node.start_mark.column + line


def _without_name(text: str, key: str, name: str) -> str:
    """Out of that list of the database's; the list goes with its last name."""
    database = _value(_root(text), "database")
    names = _value(database, key)
    if not isinstance(names, yaml.SequenceNode):
        return text
    entry = next((each for each in names.value if each.value == name), None)
    if entry is None:
        return text
    alone = len(names.value) == 1
    edit = _removed(text, database, _pair(database, key)) if alone else _removed(text, names, (entry, entry))
    return _edited(text, [edit])


def _removed(text: str, node: Any, entry: tuple[Any, Any]) -> Edit:
    begin, end = entry[0].start_mark.index, _end(text, entry[1])
    if not node.flow_style:
        begin = text.rindex("\n", 0, begin)  # with its indentation, its dash and what is behind it on its line
        line_end = text.find("\n", end)
        return begin, len(text) if line_end < 0 else line_end, ""
    if text[end:].lstrip().startswith(","):
        rest = text[text.index(",", end) + 1 :]
        return begin, len(text) - len(rest.lstrip(" ")), ""
    before = text[:begin].rstrip()
    return len(before) - 1 if before.endswith(",") else begin, end, ""


def _end(text: str, node: Any) -> int:
    """Where its last word ends: a block's mark is at the next word, beyond blanks and comments."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _root(text: str) -> Any:
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _pair(mapping: Any, key: str) -> Any:
    return next((name, value) for name, value in mapping.value if name.value == key)


def _value(mapping: Any, key: str) -> Any:
    return next((value for name, value in mapping.value if name.value == key), None)


def _edited(text: str, edits: list[Edit]) -> str:
    for begin, end, instead in sorted(edits, reverse=True):
        text = text[:begin] + instead + text[end:]
    return text


def _checked(text: str, wanted: DeploymentSpec) -> str:
    if replace(read_deployment(text), source="") != replace(wanted, source=""):
        raise BadInput("the file is written in a way that cannot be changed here", hint="change it by hand and apply")
    return text
