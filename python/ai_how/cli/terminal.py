"""How the command line speaks: answers on stdout, remarks and errors on stderr, colours only on a terminal.

Import this and not rich: rich costs more than most verbs, so only a live progress display loads it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from ai_how.errors import AiHowError, ConfigurationError, Problem, Severity, UsageError

_CODES = {"bold": "1", "dim": "2", "red": "1;31", "green": "32", "yellow": "33", "cyan": "36"}


def colourful(stream: TextIO) -> bool:
    """True where colours are wanted: a terminal that knows them, and neither --no-color nor NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """The text in a colour (bold, dim, red, green, yellow, cyan) where the stream shows colours."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if colourful(stream or sys.stdout) else text


def say(text: str = "") -> None:
    """A line of the answer."""
    sys.stdout.write(f"{text}\n")  # print would let a Ctrl-C come between a line and its end


def note(text: str = "") -> None:
    """A remark that is not part of the answer; that nobody can read it (a closed terminal) stops no work."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def counted(number: int, what: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def print_json(data: Any) -> None:
    """The answer for programs: one JSON document."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "") -> None:
    """Columns as wide as their widest cell; None is shown as a dash."""
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(headings), *cells]) for column in range(len(headings))]

    def aligned(line: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()

    say(indent + paint(aligned([heading.upper() for heading in headings]), "bold"))
    for line in cells:
        say(indent + aligned(line))


def confirm(question: str, *, yes: bool) -> bool:
    """Ask, unless `yes` answers already. Without a terminal nobody can answer: a UsageError that names --yes."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError("this needs a yes", why="the question cannot be asked without a terminal", remedy="add --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def problem_json(problem: Problem) -> dict[str, Any]:
    """A problem as `--json` shows it."""
    return {
        "severity": problem.severity.value,
        "path": problem.dotted,
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "message": problem.message,
        "hint": problem.hint,
    }


def show_problem(problem: Problem, stream: TextIO | None = None) -> None:
    """A problem as compilers write it, so that editors can jump to it: `file:line:column: error: path: message`."""
    stream = stream or sys.stderr
    place = ":".join(str(part) for part in (problem.file, problem.line, problem.column) if part is not None)
    weight = paint(f"{problem.severity}:", "red" if problem.severity is Severity.ERROR else "yellow", stream)
    parts = [f"{place}: " if place else "", f"{weight} ", f"{problem.dotted}: " if problem.path else ""]
    print("".join(parts) + problem.message, file=stream)
    for line in problem.hint.splitlines():
        print(f"    {paint(line, 'cyan', stream)}", file=stream)


def show_error(error: AiHowError, *, as_json: bool) -> None:
    """An error for people on stderr and, with --json, for programs on stdout."""
    if as_json:
        content: dict[str, Any] = {"what": error.what, "why": error.why, "remedy": error.remedy}
        if isinstance(error, ConfigurationError):
            content["problems"] = [problem_json(problem) for problem in error.problems]
        print_json({"error": content})
    if isinstance(error, ConfigurationError):
        for problem in error.problems:
            show_problem(problem)
        return
    what = f"{error.what}: {error.why}" if error.why else error.what
    note(f"{paint('error:', 'red', sys.stderr)} {what}")
    for line in error.remedy.splitlines():
        note(f"    {paint(line, 'cyan', sys.stderr)}")
