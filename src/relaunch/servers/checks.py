"""What `relaunch template check` and `relaunch script check` say: all faults, and what works but looks wrong."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from relaunch.errors import BadInput, FormatError, RelaunchError
from relaunch.servers.alerts import threshold_fault
from relaunch.servers.scripts import RESERVED_PREFIXES, InputDeclaration, Script, parse_script, read_script_text
from relaunch.servers.strict_yaml import did_you_mean
from relaunch.servers.templates import ServerTemplate, read_template
from relaunch.servers.values import Array, Blank, Ignore, parse_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An error keeps the file from being used, a warning does not. `line` is None when it is about the whole file."""

    level: Literal["error", "warning"]
    file: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.level}: {self.message}"


def check_script(path: Path) -> list[Finding]:
    """All findings about a script."""
    try:
        script = parse_script(path)
    except FormatError as error:
        return [_error(error)]
    return _script_warnings(script)


def check_template(path: Path) -> list[Finding]:
    """All findings about a template, the file of ours beside it, and its scripts."""
    try:
        template = read_template(path)
    except FormatError as error:
        return [_error(error)]
    findings = [finding for script in template.scripts for finding in _script_warnings(script)]
    findings += _input_warnings(template)
    findings += [
        _warning(alert.file, alert.line, f"alert {alert.name}: {fault}")
        for alert in template.alerts
        if (fault := threshold_fault(alert.clause))
    ]
    return findings


def _error(error: RelaunchError) -> Finding:
    """The message without its place, which the finding carries itself."""
    file, line = (error.file, error.line) if isinstance(error, FormatError) else ("", None)
    prefix = f"{file}:{line}: " if line else f"{file}: "
    message = error.message.removeprefix(prefix)
    return Finding(level="error", file=file, line=line, message=f"{message} ({error.hint})" if error.hint else message)


def _warning(file: str | Path, line: int | None, message: str) -> Finding:
    return Finding(level="warning", file=str(file), line=line, message=message)


def _script_warnings(script: Script) -> list[Finding]:
    findings: list[Finding] = []
    if not script.has_metadata:
        findings.append(_warning(script.path, None, "no metadata comment; its inputs are guessed from the text"))
    if not read_script_text(script.path).startswith("#!"):
        findings.append(_warning(script.path, 1, "no #! line: it cannot be executed"))
    elif not os.access(script.path, os.X_OK):
        findings.append(_warning(script.path, None, "the file is not executable; relaunch makes it so on the server"))
    for declared in script.inputs:
        findings += [_warning(script.path, declared.line, message) for message in _declaration_warnings(declared)]
    return findings


def _declaration_warnings(declared: InputDeclaration) -> list[str]:
    name = declared.name
    warnings: list[str] = []
    if name.startswith(RESERVED_PREFIXES):
        warnings.append(f"input {name}: names starting with {' or '.join(RESERVED_PREFIXES)} are reserved")
    written = [("Default", declared.default)] if declared.default is not None else []
    written += [("Possible Values", value) for value in declared.possible_values]
    for key, text in written:
        try:
            value = parse_value(text)
        except BadInput as error:
            warnings.append(f"input {name}: {key}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
            continue
        simple = isinstance(value, Blank | Ignore)
        if key == "Default" and not simple and isinstance(value, Array) != declared.is_array:
            kind = "array" if declared.is_array else "single"
            warnings.append(f"input {name}: {key}: {text} does not fit its Input Type, {kind}")
    outside = declared.default is not None and declared.possible_values and not declared.is_array
    if outside and declared.default not in (*declared.possible_values, "ignore"):
        warnings.append(f"input {name}: Default {declared.default} is not among its Possible Values")
    return warnings


def _input_warnings(template: ServerTemplate) -> list[Finding]:
    declared = {declaration.name for script in template.scripts for declaration in script.inputs}
    findings: list[Finding] = []
    for name, text in template.inputs.items():
        line = template.input_lines.get(name)
        if name not in declared:
            hint = did_you_mean(name, sorted(declared))
            findings.append(
                _warning(template.path, line, f"no script has an input {name}" + (f"; {hint}" if hint else ""))
            )
        try:
            parse_value(text)
        except BadInput as error:
            findings.append(_warning(template.path, line, f"input {name}: {error.message}"))
    return findings
