"""YAML read strictly: every fault names the file and the line, nothing is guessed, nothing is silently dropped.

Works on PyYAML's nodes rather than on loaded values, so that duplicate keys are seen, `1.10` stays `1.10`, and the
line is known. What type a value must have is said by the one who asks for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from relaunch.errors import FormatError

_YAML = "tag:yaml.org,2002:"
_SCALARS = {_YAML + kind for kind in ("str", "int", "float", "bool", "null", "timestamp", "value")}
_KINDS = {ScalarNode: "a single value", SequenceNode: "a list", MappingNode: "a map"}


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that looks most like it, or nothing."""
    folded = {candidate.casefold(): candidate for candidate in sorted(known, reverse=True)}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    return folded[close[0]] if close else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The hint for an unknown name."""
    known = list(known)
    close = nearest(name, known)
    if close:
        return f"did you mean {close}?"
    return f"known here: {', '.join(known)}" if known else ""


@dataclass(frozen=True, slots=True)
class Source:
    """The text a document was composed from; `lines[i]` is the line of the file that line i of the text came from."""

    file: str
    text: str
    lines: Sequence[int] | None = None

    def line(self, index: int) -> int:
        """The line, from 1, of the character at `index`; counted in line feeds, as editors do."""
        number = self.text.count("\n", 0, index)
        if self.lines is None:
            return number + 1
        return self.lines[min(number, len(self.lines) - 1)] if self.lines else 1


@dataclass(frozen=True, slots=True)
class Element:
    """A value of a document together with where it stands; `what` names it in messages."""

    node: Node
    source: Source
    what: str
    key: Node | None = None

    @property
    def line(self) -> int:
        """Where it starts; for an entry of a map, its key."""
        return self.source.line((self.key or self.node).start_mark.index)

    @property
    def is_null(self) -> bool:
        return isinstance(self.node, ScalarNode) and self.node.tag == _YAML + "null"

    @property
    def is_map(self) -> bool:
        return isinstance(self.node, MappingNode)

    @property
    def is_scalar(self) -> bool:
        return isinstance(self.node, ScalarNode)

    def fault(self, message: str, *, hint: str = "") -> FormatError:
        return FormatError(message, file=self.source.file, line=self.line, hint=hint)

    def text(self) -> str:
        """The scalar as it is written, without turning it into another type; nothing (null) is the empty string."""
        if not isinstance(self.node, ScalarNode):
            raise self._wrong("text")
        if self.node.tag not in _SCALARS:
            raise self.fault(f"{self.what}: tag {self.node.tag} has no meaning here")
        return "" if self.is_null else str(self.node.value)

    def required_text(self) -> str:
        text = self.text()
        if not text.strip():
            raise self.fault(f"{self.what} is empty")
        return text

    def boolean(self) -> bool:
        """true/false, yes/no, on/off, unquoted; nothing is false."""
        if self.is_null:
            return False
        if not isinstance(self.node, ScalarNode) or self.node.tag != _YAML + "bool":
            raise self._wrong("true or false", hint="without quotes")
        return str(self.node.value).lower() in ("true", "yes", "on")

    def integer(self, *, at_least: int, at_most: int) -> int:
        text = self.text()
        if not text.isascii() or not text.lstrip("-").isdigit() or not at_least <= int(text) <= at_most:
            raise self.fault(f"{self.what} must be a whole number from {at_least} to {at_most}, not {text!r}")
        return int(text)

    def one_of(self, allowed: Sequence[str]) -> str:
        text = self.text()
        if text not in allowed:
            raise self.fault(f"{self.what} must be {' or '.join(allowed)}, not {text!r}", hint=_close(text, allowed))
        return text

    def items(self) -> tuple[Element, ...]:
        """The elements of a list; nothing (null) is an empty list."""
        if self.is_null:
            return ()
        if not isinstance(self.node, SequenceNode):
            raise self._wrong("a list")
        return tuple(Element(child, self.source, f"item of {self.what}") for child in self.node.value)

    def entries(self, known: Collection[str] | None = None) -> Mapping[str, Element]:
        """The entries of a map in their order; nothing (null) is an empty map. `known`: no other key is allowed."""
        if self.is_null:
            return {}
        if not isinstance(self.node, MappingNode):
            raise self._wrong("a map")
        found: dict[str, Element] = {}
        merged: dict[str, Element] = {}
        for key_node, value_node in self.node.value:
            key = Element(key_node, self.source, f"key in {self.what}")
            if key_node.tag == _YAML + "merge":
                merged |= self._merged(value_node)
                continue
            name = key.text()
            if name in found:
                raise key.fault(f"{self.what}: {name!r} is there twice", hint=f"first in line {found[name].line}")
            if known is not None and name not in known:
                raise key.fault(f"{self.what}: unknown key {name!r}", hint=did_you_mean(name, known))
            found[name] = Element(value_node, self.source, name, key_node)
        for name in merged:
            if known is not None and name not in known:
                raise merged[name].fault(f"{self.what}: unknown key {name!r}", hint=did_you_mean(name, known))
        return {**merged, **found} if merged else found

    def _merged(self, node: Node) -> dict[str, Element]:
        maps = node.value if isinstance(node, SequenceNode) else [node]
        merged: dict[str, Element] = {}
        for part in maps:
            if part is self.node:
                raise self.fault(f"{self.what} is merged into itself")
            merged = {**Element(part, self.source, f"merge into {self.what}").entries(), **merged}
        return merged

    def _wrong(self, wanted: str, *, hint: str = "") -> FormatError:
        kind = "nothing" if self.is_null else _KINDS[type(self.node)]
        if isinstance(self.node, ScalarNode) and not self.is_null:
            kind = repr(self.node.value)
        return self.fault(f"{self.what} must be {wanted}, not {kind}", hint=hint)


def _close(text: str, allowed: Iterable[str]) -> str:
    close = nearest(text, allowed)
    return f"did you mean {close}?" if close else ""


def read_document(
    text: str, *, file: str, what: str, lines: Sequence[int] | None = None, first_only: bool = False
) -> Element | None:
    """The one document in `text`, None when there is none; FormatError for what is not YAML.

    `lines` gives the file's line for each line of the text; `first_only` ignores further documents.
    """
    source = Source(file, text, lines)
    loader = yaml.SafeLoader("")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_node() if loader.check_node() else None
        if node is not None and not first_only and loader.check_node():
            second = loader.get_node()
            line = source.line(second.start_mark.index) if second else None
            raise FormatError(f"{what}: a second YAML document", file=file, line=line)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise FormatError(
            f"{what} is not valid YAML: {error.problem or error.context}",
            file=file,
            line=source.line(mark.index) if mark else None,
        ) from None
    except yaml.reader.ReaderError as error:
        raise FormatError(
            f"{what}: the character {error.character!r} is not allowed in YAML",
            file=file,
            line=source.line(error.position),
        ) from None
    except RecursionError:
        raise FormatError(f"{what} is nested too deeply", file=file) from None
    finally:
        loader.dispose()
    return None if node is None else Element(node, source, what)
