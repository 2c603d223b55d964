"""A script: a plain executable with a metadata comment, and the parser of that comment.

The format is the one RightScale's `right_st` tool published, read strictly, so that published scripts work unchanged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from relaunch.errors import FormatError
from relaunch.servers import values
from relaunch.servers.script_detection import detect_inputs
from relaunch.servers.strict_yaml import Element, did_you_mean, read_document

# As in the published tool, whose \s is these five characters.
_BLANK = r"[\t\n\f\r ]"
START = re.compile(rf"{_BLANK}*(#|//|--){_BLANK}?({_BLANK}*-{{3}}{_BLANK}*)")
END = re.compile(rf"{_BLANK}*(?:#|//|--){_BLANK}?({_BLANK}*\.{{3}}{_BLANK}*)")
COMMENT = re.compile(rf"{_BLANK}*(?:#|//|--){_BLANK}?(.*)", re.DOTALL)

RESERVED_PREFIXES = ("RS_", "EC2_")
_KEYS = ("RightScript Name", "Description", "Packages", "Inputs", "Attachments")
_INPUT_KEYS = ("Category", "Description", "Input Type", "Required", "Advanced", "Default", "Possible Values")
_WHAT = "RightScript metadata comment"


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

    def input(self, name: str) -> InputDeclaration | None:
        return next((declared for declared in self.inputs if declared.name == name), None)


@dataclass(frozen=True, slots=True)
class MetadataComment:
    """The YAML of the metadata comments of one script; `lines[i]` is the script's line of the YAML's line i."""

    text: str
    lines: tuple[int, ...]
    marker: str  # of the first block: # // --
    first_line: int
    last_line: int  # of the first block's end


def read_script_text(path: Path) -> str:
    """The script as text; bytes that are no UTF-8 come through as surrogates (they matter only inside the comment)."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        raise FormatError("there is no such script", file=str(path)) from None
    except IsADirectoryError:
        raise FormatError("this is a folder, not a script", file=str(path)) from None
    except OSError as error:
        raise FormatError(f"the script cannot be read: {error.strerror}", file=str(path)) from None


def script_lines(text: str) -> list[str]:
    """The lines as the published tool sees them: ended by a line feed, one carriage return before it dropped."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def metadata_comment(text: str, *, file: str) -> MetadataComment | None:
    """The metadata comment of a script, None when it has none; FormatError when it is not ended."""
    yaml_lines: list[str] = []
    numbers: list[int] = []
    marker, opened, first, last = "", 0, 0, 0
    for number, line in enumerate(script_lines(text), start=1):
        taken: str | None = None
        if opened:
            if end := END.fullmatch(line):
                taken, opened = end[1], 0
                last = last or number
            elif comment := COMMENT.fullmatch(line):
                taken = comment[1]
        elif start := START.fullmatch(line):
            taken, opened = start[2], number
            marker, first = marker or start[1], first or number
        if taken is not None:
            yaml_lines.append(taken)
            numbers.append(number)
    if opened:
        raise FormatError(
            "Unterminated RightScript metadata comment",
            file=file,
            line=opened,
            hint=f"the comment that starts in this line must end with a line `{marker} ...`",
        )
    if not first:
        return None
    return MetadataComment("\n".join(yaml_lines) + "\n", tuple(numbers), marker, first, last)


def parse_script(path: Path) -> Script:
    """The script in a file; FormatError carries file and line of the first fault."""
    text = read_script_text(path)
    comment = metadata_comment(text, file=str(path))
    if comment is None:
        inputs = tuple(
            InputDeclaration(name=found.name, line=found.line, default=found.default)
            for found in detect_inputs(text, path.suffix)
        )
        return Script(path=path, name=path.name, inputs=inputs, has_metadata=False)
    root = read_document(comment.text, file=str(path), what=_WHAT, lines=comment.lines, first_only=True)
    keys = root.entries(_KEYS) if root else {}
    for required in ("RightScript Name", "Inputs"):
        if required not in keys or keys[required].is_null:
            hint = "write `Inputs: {}` when there are none" if required == "Inputs" else ""
            line = keys[required].line if required in keys else comment.first_line
            raise FormatError(f"{_WHAT}: {required} is missing", file=str(path), line=line, hint=hint)
    return Script(
        path=path,
        name=keys["RightScript Name"].required_text(),
        description=keys["Description"].text() if "Description" in keys else "",
        packages=tuple(keys["Packages"].text().split()) if "Packages" in keys else (),
        inputs=tuple(_declaration(name, element) for name, element in keys["Inputs"].entries().items()),
        attachments=_attachments(path, keys["Attachments"]) if "Attachments" in keys else (),
    )


def _declaration(name: str, element: Element) -> InputDeclaration:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise element.fault(
            f"input {name!r} cannot be the name of an environment variable", hint="letters, digits and _ only"
        )
    keys = element.entries(_INPUT_KEYS)
    default = keys.get("Default")
    return InputDeclaration(
        name=name,
        line=element.line,
        category=keys["Category"].text() if "Category" in keys else "",
        description=keys["Description"].text() if "Description" in keys else "",
        is_array="Input Type" in keys and _input_type(keys["Input Type"]) == "array",
        required="Required" in keys and keys["Required"].boolean(),
        advanced="Advanced" in keys and keys["Advanced"].boolean(),
        default=value_text(default) if default and not default.is_null else None,
        possible_values=tuple(value_text(item) for item in keys["Possible Values"].items())
        if "Possible Values" in keys
        else (),
    )


def _input_type(element: Element) -> str:
    text = element.text()
    if text not in ("single", "array"):
        hint = did_you_mean(text, ("single", "array"))
        raise element.fault(f"Invalid input type value: {text}", hint=hint)
    return text


def value_text(element: Element) -> str:
    """A value as it is written, well formed as far as the published format looks."""
    text = element.text()
    if fault := values.form_fault(text):
        raise element.fault(f"{element.what}: {fault}", hint="a value is written TYPE:VALUE, for example text:8080")
    return text


def _attachments(path: Path, element: Element) -> tuple[Path, ...]:
    found: dict[str, Path] = {}
    for item in element.items():
        name = item.required_text()
        file = path.absolute().parent / "attachments" / name
        if file.name in found:
            raise item.fault(f"two attachments are called {file.name}", hint="on the server they share one folder")
        if not file.is_file():
            raise item.fault(f"attachment {name} does not exist", hint=f"looked for {file}")
        found[file.name] = file
    return tuple(found.values())
