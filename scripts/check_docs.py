"""What the documents promise exists: links lead somewhere, and commands are ones that this version understands.

Reads every Markdown file of the repository. A link to a file, or to a heading of a file, must have its target. In
code blocks for a shell, each `ai-how …` is parsed by the command line's own parser, and each script must be there.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "python"))

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^\s*(`{3,}|~{3,})\s*(\w*)")
SHELLS = ("bash", "sh", "shell", "console")
OPERATORS = ("|", "||", "&&", ";", "&", ">", ">>", "<", "2>", "2>&1")


class Fault(NamedTuple):
    """Something in a document that is not so; `line` counts from 1."""

    file: Path
    line: int
    message: str


def main() -> int:
    """Check all documents and print the faults; the exit code."""
    faults = [fault for document in documents() for fault in check(document)]
    for fault in faults:
        print(f"{fault.file.relative_to(ROOT)}:{fault.line}: error: {fault.message}")
    return 1 if faults else 0


def documents() -> list[Path]:
    """The Markdown files that git knows or would know."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / name for name in sorted(set(listed.stdout.splitlines())) if (ROOT / name).is_file()]


def check(document: Path) -> Iterator[Fault]:
    """The faults of one document."""
    text = document.read_text(encoding="utf-8")
    for number, line in prose(text):
        for match in LINK.finditer(line):
            if fault := link_fault(document, match[1] or match[2]):
                yield Fault(document, number, fault)
    for number, command in commands(text):
        if fault := command_fault(command):
            yield Fault(document, number, f"{shlex.join(command)}: {fault}")


def prose(text: str) -> Iterator[tuple[int, str]]:
    """The numbered lines outside of code blocks, without inline code."""
    for number, line, language in _lines(text):
        if language is None:
            yield number, re.sub(r"`[^`]*`", "", line)


def commands(text: str) -> Iterator[tuple[int, list[str]]]:
    """The commands in a document's shell blocks, as words, with their line: split at pipes and the like."""
    begun, first = "", 0
    for number, line, language in _lines(text):
        if language not in SHELLS:
            begun = ""
            continue
        line = line.strip()
        if language == "console" and not begun:
            if not line.startswith(("$ ", "# ")):
                continue  # what the command printed
            line = line[2:]
        begun, first = begun + line, first if begun else number
        if begun.endswith("\\"):
            begun = begun[:-1]
            continue
        yield from ((first, command) for command in _split(begun))
        begun = ""


def _lines(text: str) -> Iterator[tuple[int, str, str | None]]:
    """Each line with the language of the code block that it is in; None outside."""
    fence, language = "", ""
    for number, line in enumerate(text.splitlines(), start=1):
        match = FENCE.match(line)
        if fence and match and match[1].startswith(fence) and not match[2]:
            fence = ""
        elif not fence and match:
            fence, language = match[1], match[2]
        else:
            yield number, line, language if fence else None


def _split(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word in OPERATORS:
            while words and (words[0] == "sudo" or re.fullmatch(r"[A-Z_]+=.*", words[0])):
                words.pop(0)
            if words:
                yield words
            words = []
        else:
            words.append(word)


def link_fault(document: Path, target: str) -> str | None:
    """What is wrong with a link, None for a good one. Links to other hosts are not followed."""
    if re.match(r"[a-z]+:", target):
        return None
    name, _, anchor = target.partition("#")
    file = (document.parent / name).resolve() if name else document
    if not file.exists():
        return f"the link leads nowhere: {target}"
    if anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8")):
        return f"no such heading: {target}"
    return None


def anchors(text: str) -> set[str]:
    """The names by which a document's headings are linked, made as GitHub makes them."""
    found: set[str] = set()
    for _, line, language in _lines(text):
        if language is None and (heading := re.match(r"#+\s+(.*?)\s*$", line)):
            plain = re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-")
            count = 0
            name = plain
            while name in found:
                count += 1
                name = f"{plain}-{count}"
            found.add(name)
    return found


def command_fault(words: list[str]) -> str | None:
    """What is wrong with a command, None for a good one and for programs that are not ours."""
    program = words[0]
    if program in ("python", "python3") and len(words) > 1 and words[1].endswith(".py"):
        program = words[1]
    if program == "ai-how":
        from ai_how.cli import app

        return app.parse_fault(words[1:])
    if program.startswith(("scripts/", "./scripts/", "bench/", ".ci/", "python/")) and not (ROOT / program).is_file():
        return "there is no such file"
    return None


if __name__ == "__main__":
    sys.exit(main())
