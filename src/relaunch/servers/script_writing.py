"""The metadata comment written in its canonical form, and a script rewritten with it."""

from __future__ import annotations

from typing import Any

import yaml

from relaunch.servers.scripts import END, InputDeclaration, Script, metadata_comment, script_lines


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, where nothing in them would be lost or mistaken."""


class _QuotingDumper(yaml.SafeDumper):
    """Writes each text on one line."""


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if "\n" in text and _is_plain(text.replace("\n", "")):
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
    return _quoted(dumper, text)


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Other line breaks than ours come back as ours, unless they are written as escapes.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if _is_plain(text) else '"')


def _is_plain(text: str) -> bool:
    return all(character.isprintable() for character in text)


_Dumper.add_representer(str, _block)
_QuotingDumper.add_representer(str, _quoted)


def canonical_metadata(script: Script, marker: str = "#") -> str:
    """The metadata comment, each line ended: Name, Description, Packages, Inputs, Attachments, unset keys left out."""
    lines = _commented(script, marker, _Dumper)
    if any(END.fullmatch(line) for line in lines[:-1]):
        # A description with a line of three dots would end the comment.
        lines = _commented(script, marker, _QuotingDumper)
    return "".join(line + "\n" for line in lines)


def with_metadata(text: str, script: Script) -> str:
    """The script's text with the canonical comment in the place of its first one, or after the `#!` line."""
    comment = metadata_comment(text, file=str(script.path))
    lines = script_lines(text)
    if comment is None:
        at = 1 if lines[0].startswith("#!") else 0
        return "\n".join([*lines[:at], *canonical_metadata(script).splitlines(), *lines[at:]])
    new = canonical_metadata(script, comment.marker).split("\n")[:-1]
    return "\n".join([*lines[: comment.first_line - 1], *new, *lines[comment.last_line :]])


def _commented(script: Script, marker: str, dumper: type[yaml.SafeDumper]) -> list[str]:
    text = yaml.dump(_plain(script), Dumper=dumper, sort_keys=False, allow_unicode=True, width=1_000_000)
    return [f"{marker} {line}" if line else marker for line in ("---\n" + text + "...").split("\n")]


def _plain(script: Script) -> dict[str, Any]:
    attachments = script.path.absolute().parent / "attachments"
    plain: dict[str, Any] = {
        "RightScript Name": script.name,
        "Description": script.description,
        "Packages": " ".join(script.packages),
        "Inputs": {declared.name: _plain_input(declared) for declared in script.inputs},
        "Attachments": [
            str(file.relative_to(attachments) if file.is_relative_to(attachments) else file)
            for file in script.attachments
        ],
    }
    return {key: value for key, value in plain.items() if value or key in ("RightScript Name", "Inputs")}


def _plain_input(declared: InputDeclaration) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "Category": declared.category,
        "Description": declared.description,
        "Input Type": "array" if declared.is_array else "single",
        "Required": declared.required,
        "Advanced": declared.advanced,
        "Default": declared.default,
        "Possible Values": list(declared.possible_values),
    }
    kept = {key: value for key, value in plain.items() if value not in ("", None, [], False)}
    if not declared.is_array:
        del kept["Input Type"]
    return kept
