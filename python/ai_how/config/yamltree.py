"""YAML text → plain data that remembers where each value stands.

Scalars stay the text the user wrote: what a value means is decided by its field, not by YAML's guesses. So an unquoted
`52:54:00:12:34:01` is a MAC (YAML 1.1 reads a base-60 number) and a bridge may be called `no`.
The parser is driven event by event, so depth and size are limits here and not the stack's or the memory's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import yaml

from ai_how.errors import ConfigurationError, Path, Problem

try:
    from yaml import CSafeLoader as _Parser
except ImportError:  # PyYAML built without libyaml: slower, same events
    from yaml import SafeLoader as _Parser  # type: ignore[assignment]

#: Nesting of the documented form is 6; what is deeper than this is a mistake or an attack.
MAX_DEPTH = 40
#: Values after every alias is expanded. 10,000 nodes with six fields each are 130,000.
MAX_VALUES = 2_000_000

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_CORE_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq"))


class Mark(Protocol):
    """A place in the text; both count from 0."""

    line: int
    column: int


class Map(dict[str, Any]):
    """A mapping with the places of its keys and values."""

    __slots__ = ("key_marks", "mark", "size", "value_marks")

    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self.mark = mark
        self.key_marks: dict[str, Mark] = {}
        self.value_marks: dict[str, Mark] = {}
        self.size = 1


class Seq(list[Any]):
    """A list with the places of its items."""

    __slots__ = ("mark", "marks", "size")

    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self.mark = mark
        self.marks: list[Mark] = []
        self.size = 1


@dataclass(slots=True)
class _Frame:
    """A container under construction."""

    node: Map | Seq
    anchor: str | None
    key: str | None = None
    key_mark: Mark | None = None
    merges: list[Map] = field(default_factory=list)
    merging: bool = False


class _Builder:
    def __init__(self, file: str | None) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.open_anchors: set[str] = set()
        self.root: Any = None

    def problem(self, mark: Mark, message: str, hint: str = "", *, path: Path | None = None) -> Problem:
        where = self.path() if path is None else path
        return Problem(where, message, hint, file=self.file, line=mark.line + 1, column=mark.column + 1)

    def path(self) -> Path:
        path: list[str | int] = []
        for frame in self.stack:
            if isinstance(frame.node, Seq):
                path.append(len(frame.node))
            elif frame.key is not None:
                path.append(frame.key)
        return tuple(path)

    def refuse(self, mark: Mark, message: str, hint: str = "") -> ConfigurationError:
        return ConfigurationError([*self.problems, self.problem(mark, message, hint)])

    def open(self, event: Any, node: Map | Seq) -> None:
        if event.tag is not None and event.tag not in _CORE_TAGS:
            raise self.refuse(event.start_mark, f"the tag {event.tag} means nothing here", "leave the tag out")
        if len(self.stack) >= MAX_DEPTH:
            raise self.refuse(
                event.start_mark,
                f"nested deeper than {MAX_DEPTH} levels",
                "a configuration needs 6 levels; look for unclosed brackets",
            )
        if event.anchor:
            self.open_anchors.add(event.anchor)
        self.stack.append(_Frame(node, event.anchor))

    def close(self) -> None:
        frame = self.stack.pop()
        node = frame.node
        if isinstance(node, Map) and frame.merges:
            self.merge(node, frame.merges)
        if frame.anchor:
            self.open_anchors.discard(frame.anchor)
            self.anchors[frame.anchor] = (node, node.size)
        self.attach(node, node.mark, node.size)

    def merge(self, node: Map, sources: list[Map]) -> None:
        """YAML merge keys: what stands in the mapping itself wins, then the earlier source."""
        for source in sources:
            node.size += source.size
            if node.size > MAX_VALUES:
                raise self.refuse(node.mark, *_TOO_BIG)
            for key, value in source.items():
                if key not in node:
                    node[key] = value
                    node.key_marks[key] = source.key_marks[key]
                    node.value_marks[key] = source.value_marks[key]

    def attach(self, value: Any, mark: Mark, size: int) -> None:
        if not self.stack:
            self.root = value
            return
        frame = self.stack[-1]
        node = frame.node
        if isinstance(node, Seq):
            node.append(value)
            node.marks.append(mark)
        elif not frame.merging and frame.key is None:
            raise self.refuse(mark, "a key must be a plain word", "write `key: value`")
        elif frame.merging:
            sources = value if isinstance(value, Seq) else [value]
            if not all(isinstance(source, Map) for source in sources):
                raise self.refuse(mark, "`<<` merges mappings only", "write `<<: *anchor` with an anchored mapping")
            frame.merges.extend(sources)
            frame.merging = False
            return
        elif frame.key is not None and frame.key_mark is not None:
            if frame.key in node:
                first = node.key_marks[frame.key].line + 1
                self.problems.append(
                    self.problem(
                        frame.key_mark,
                        f"the key `{frame.key}` stands twice in one mapping, first at line {first}",
                        "keep one of the two",
                    )
                )
            else:
                node[frame.key] = value
                node.key_marks[frame.key] = frame.key_mark
                node.value_marks[frame.key] = mark
            frame.key = None
        node.size += size
        if node.size > MAX_VALUES:
            raise self.refuse(mark, *_TOO_BIG)

    def scalar(self, event: Any) -> None:
        plain = event.implicit[0]
        text: str = event.value
        if event.tag is not None and event.tag not in _CORE_TAGS:
            raise self.refuse(event.start_mark, f"the tag {event.tag} means nothing here", "leave the tag out")
        frame = self.stack[-1] if self.stack else None
        if frame is not None and frame.key is None and not frame.merging and isinstance(frame.node, Map):
            if event.anchor:
                self.anchors[event.anchor] = (text, 1)
            if plain and text == "<<":
                frame.merging = True
            else:
                frame.key = text
                frame.key_mark = event.start_mark
            return
        value = None if plain and text in _NULLS else text
        if event.anchor:
            self.anchors[event.anchor] = (value, 1)
        self.attach(value, event.start_mark, 1)

    def alias(self, event: Any) -> None:
        found = self.anchors.get(event.anchor)
        if found is None:
            message = f"the alias `*{event.anchor}` has no anchor before it"
            hint = f"write `&{event.anchor}` at the value that it stands for"
            if event.anchor in self.open_anchors:
                message = f"the alias `*{event.anchor}` stands inside the value it names, which has no end"
                hint = "take the alias out of the anchored value"
            raise self.refuse(event.start_mark, message, hint)
        value, size = found
        frame = self.stack[-1] if self.stack else None
        if (
            frame is not None
            and isinstance(frame.node, Map)
            and frame.key is None
            and not frame.merging
            and isinstance(value, str)
        ):
            frame.key, frame.key_mark = value, event.start_mark
            return
        mark = event.start_mark if isinstance(value, str | None) else value.mark
        self.attach(value, mark, size)


_TOO_BIG = (
    f"more than {MAX_VALUES:,} values once its aliases are expanded",
    "many nodes alike are written as a group: compute_nodes: {count: N, …}",
)


def parse(text: str, *, file: str | None) -> tuple[Any, list[Problem]]:
    """Read one YAML document: its data (`Map`, `Seq`, str, None) and the duplicate keys in it.

    Raises ConfigurationError where the text is no YAML, or is nested, expanded or tagged beyond what a
    configuration may be.
    """
    builder = _Builder(file)
    documents = 0
    try:
        parser = _Parser(text)
        while True:
            event: Any = parser.get_event()
            kind = type(event)
            if kind is yaml.ScalarEvent:
                builder.scalar(event)
            elif kind is yaml.MappingStartEvent:
                builder.open(event, Map(event.start_mark))
            elif kind is yaml.SequenceStartEvent:
                builder.open(event, Seq(event.start_mark))
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                builder.close()
            elif kind is yaml.AliasEvent:
                builder.alias(event)
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    raise builder.refuse(
                        event.start_mark,
                        "a second YAML document begins here",
                        "one file holds one configuration; put all clusters under one `clusters:`",
                    )
            elif kind is yaml.StreamEndEvent:
                return builder.root, builder.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigurationError([*builder.problems, _syntax(error, mark, text, file)]) from error
    except yaml.YAMLError as error:
        problem = Problem((), f"this is not YAML: {error}", "save the file as UTF-8 text", file=file)
        raise ConfigurationError([*builder.problems, problem]) from error


def _syntax(error: yaml.MarkedYAMLError, mark: Mark | None, text: str, file: str | None) -> Problem:
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (None, None)
    lines = text.splitlines()
    here = lines[line - 1] if line is not None and line <= len(lines) else ""
    hint = "check indentation, colons, quotes and brackets around this line"
    if "\t" in here[: len(here) - len(here.lstrip())]:
        hint = "indent with spaces: YAML does not allow tabs"
    message = f"this is not YAML: {error.problem or error.context}"
    return Problem((), message, hint, file=file, line=line, column=column)


def locate(data: Any, path: Path, *, at_key: bool = False) -> tuple[int, int] | None:
    """Line and column (from 1) of the value at `path`, or of what comes nearest to it; None outside of YAML."""
    mark: Mark | None = data.mark if isinstance(data, Map | Seq) else None
    node = data
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(node, Map) and part in node:
            key = str(part)
            value = node[key]
            # A mapping begins on the line after its key; the key is where a reader looks.
            mark = node.key_marks[key] if (last and at_key) or isinstance(value, Map) else node.value_marks[key]
            node = value
        elif isinstance(node, Seq) and isinstance(part, int) and part < len(node):
            mark = node.marks[part]
            node = node[part]
        else:
            break
    return (mark.line + 1, mark.column + 1) if mark is not None else None
