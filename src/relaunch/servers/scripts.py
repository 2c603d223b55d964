"""A script: a plain executable with a metadata comment, and the parser of that comment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class InputDeclaration:
    """An input as a script's metadata declares it; `default` still unparsed (`text:8080`), None when there is none."""

    name: str
    line: int
    category: str = ""
    description: str = ""
    is_array: bool = False
    required: bool = False
    advanced: bool = False
    default: str | None = None
    possible_values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A parsed script; `path` is where it was read from, `attachments` are absolute paths of existing files."""

    path: Path
    name: str
    description: str = ""
    packages: tuple[str, ...] = ()
    inputs: tuple[InputDeclaration, ...] = ()
    attachments: tuple[Path, ...] = ()
    has_metadata: bool = True
