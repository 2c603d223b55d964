"""The inputs of a script without metadata, guessed from the environment variables its text uses."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NEVER = re.compile(
    r"ATTACH_DIR|SHELL|TERM|USER|PATH|MAIL|PWD|HOME|RS_.*|INSTANCE_ID|PRIVATE_ID|DATACENTER|EC2_.*|BASH_REMATCH"
)
_SHELL = re.compile(r"\$(?:\{([A-Z][A-Z0-9_]*)(?![A-Za-z0-9_])(?::=([^}]*))?|([A-Z][A-Z0-9_]*)(?![A-Za-z0-9_]))")
_RUBY = re.compile(r"""ENV\[\s*(['"])([A-Z][A-Z0-9_]*)\1\s*\]""")
_PERL = re.compile(r"""\$ENV\{\s*(['"]?)([A-Z][A-Z0-9_]*)\1\s*\}""")
_POWERSHELL = re.compile(r"\$env:([A-Z][A-Z0-9_]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DetectedInput:
    name: str
    line: int
    default: str | None = None  # a value as it is written: text:…


def language(text: str, suffix: str) -> str:
    """shell | ruby | perl | powershell, by the first line, else by the file's ending."""
    first = text.split("\n", 1)[0]
    if first.startswith("#!"):
        for name, pattern in (("ruby", "ruby"), ("perl", "perl"), ("powershell", "pwsh|powershell")):
            if re.search(pattern, first):
                return name
        return "shell"
    return {".rb": "ruby", ".pl": "perl", ".ps1": "powershell"}.get(suffix.lower(), "shell")


def detect_inputs(text: str, suffix: str) -> tuple[DetectedInput, ...]:
    """Each input once, in the order of first use; a later `${NAME:=default}` still gives the default."""
    kind = language(text, suffix)
    found: dict[str, DetectedInput] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        for name, default in _used(kind, line):
            if _NEVER.fullmatch(name):
                continue
            known = found.setdefault(name, DetectedInput(name, number))
            if default and known.default is None:
                found[name] = DetectedInput(name, known.line, f"text:{default}")
    return tuple(found.values())


def _used(kind: str, line: str) -> list[tuple[str, str]]:
    match kind:
        case "ruby":
            return [(match[2], "") for match in _RUBY.finditer(line)]
        case "perl":
            return [(match[2], "") for match in _PERL.finditer(line)]
        case "powershell":
            return [(match[1].upper(), "") for match in _POWERSHELL.finditer(line)]
        case _:
            return [(match[1] or match[3], match[2] or "") for match in _SHELL.finditer(line)]
