"""Alerts of a server template: parsed strictly and kept; nothing acts upon them yet."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from relaunch.errors import BadInput, FormatError
from relaunch.servers.strict_yaml import Element, read_document

OPERATORS = (">", ">=", "<", "<=", "==", "!=")
ACTIONS = ("escalate", "grow", "shrink")
STATES = ("pending", "booting", "operational", "stranded", "decommission", "terminated")
_FORM = "If <Metric>.<Variable> <Op> <Threshold> for <Minutes> minutes Then <Action> <Value>"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertClause:
    metric: str
    variable: str
    operator: str
    threshold: str
    minutes: int
    action: str  # escalate | grow | shrink
    value: str  # an escalation's name, or a voting tag


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSpec:
    name: str
    clause: AlertClause
    description: str = ""
    file: str = ""
    line: int = 0


def parse_clause(text: str) -> AlertClause:
    """The clause; BadInput says which of its ten words is wrong."""
    words = text.split(" ", 9)
    if len(words) != 10:
        raise BadInput(f"alert clause has {len(words)} words, not 10, parted by single blanks", hint=_FORM)
    for index, keyword in ((0, "if"), (4, "for"), (7, "then")):
        if words[index].lower() != keyword:
            raise BadInput(f"alert clause: {keyword!r} is expected, not {words[index]!r}", hint=_FORM)
    if words[6].lower().strip(",") != "minutes":
        raise BadInput(f"alert clause: 'minutes' is expected, not {words[6]!r}", hint=_FORM)
    metric, dot, variable = words[1].rpartition(".")
    if not (metric and dot and variable):
        raise BadInput(f"alert clause: {words[1]!r} is no metric", hint="for example cpu-0/cpu-idle.value")
    if words[2] not in OPERATORS:
        raise BadInput(f"alert clause: {words[2]!r} is no comparison", hint=f"one of {' '.join(OPERATORS)}")
    if not re.fullmatch(r"\+?[0-9]+", words[5]) or int(words[5]) < 1:
        raise BadInput(f"alert clause: {words[5]!r} is no number of minutes of at least 1", hint=_FORM)
    if words[8].lower() not in ACTIONS:
        raise BadInput(f"alert clause: {words[8]!r} is no action", hint=f"one of {' '.join(ACTIONS)}")
    return AlertClause(
        metric=metric,
        variable=variable,
        operator=words[2],
        threshold=words[3],
        minutes=int(words[5]),
        action=words[8].lower(),
        value=words[9],
    )


def threshold_fault(clause: AlertClause) -> str:
    """What is odd about the threshold, which the published format does not check; empty when nothing is."""
    if clause.metric.startswith("RS/"):
        known = clause.threshold.lower() in STATES
    else:
        known = clause.threshold == "NaN" or bool(
            re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", clause.threshold)
        )
    return "" if known else f"threshold {clause.threshold!r} is neither a number, NaN, nor a state of an RS/ metric"


def read_alerts(element: Element) -> tuple[AlertSpec, ...]:
    """The alerts of a list, those of the files it names in their place; a file named twice counts once."""
    return tuple(_alerts(element, Path(element.source.file).parent, set()))


def _alerts(element: Element, folder: Path, seen: set[str]) -> list[AlertSpec]:
    found: list[AlertSpec] = []
    for item in element.items():
        if not item.is_scalar:
            found.append(_alert(item))
            continue
        name = item.required_text()
        if name not in seen:
            seen.add(name)
            found += _alerts_of_file(item, folder / name, folder, seen)
    return found


def _alerts_of_file(item: Element, file: Path, folder: Path, seen: set[str]) -> list[AlertSpec]:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise item.fault(f"alerts file {item.text()} cannot be read", hint=f"looked for {file}") from None
    root = read_document(text, file=str(file), what="alerts file")
    keys = root.entries(("Alerts",)) if root else {}
    if "Alerts" not in keys or not keys["Alerts"].items():
        raise FormatError("alerts file does not contain any alerts", file=str(file))
    return _alerts(keys["Alerts"], folder, seen)


def _alert(element: Element) -> AlertSpec:
    keys = element.entries(("Name", "Description", "Clause"))
    if "Name" not in keys or "Clause" not in keys:
        raise element.fault("an alert needs Name and Clause")
    try:
        clause = parse_clause(keys["Clause"].text())
    except BadInput as error:
        raise keys["Clause"].fault(error.message, hint=error.hint) from None
    alert = AlertSpec(
        name=keys["Name"].required_text(), clause=clause, file=element.source.file, line=keys["Clause"].line
    )
    return replace(alert, description=keys["Description"].text()) if "Description" in keys else alert
