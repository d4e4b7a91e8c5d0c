"""What the documents show is so: their commands and programs are run, and what they print is compared.

A document is one session in a lab of its own, in a folder with the YAML files that the README and the document itself
show. In a `console` block, the lines after a command are what it prints, with `…` for anything; `# exits with N` names
an exit code other than 0. A `python` block is a program that has to end well.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ai_how.images import build_micro_image
from ai_how.images.micro import default_cache
from ai_how.lab import Lab

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 900  # seconds for one command; the longest waits for the leases of emulated machines
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: Commands that a lab cannot run, by how they begin, and where they are run instead.
ELSEWHERE = {
    "sudo scripts/demo": "tests/lab/test_demo.py",
    "sudo scripts/test": ".ci/run",
    "sudo bench/run": "tests/lab/test_bench.py, part by part at its smallest",
    ". .venv/bin/activate": "scripts/environment makes it, for every script",
    "pip install": "a package index is needed: .ci/run installs the wheel",
    "for name in libvirt0": "a package mirror is needed",
    "for package in libvirt": "as above",
    "sudo ai-how lab run --libvirt-root newer": "as above",
}
#: What is typed into commands that ask, once they have said something.
TYPED = {"ai-how console": ("Escape character", "\x1d"), "ai-how destroy my.yaml": ("[y/N]", "y\n")}


@dataclass(frozen=True, slots=True)
class Block:
    """A code block: its language, its text, and the line of its first line."""

    language: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Command:
    """A command as shown: what it prints (None where nothing is shown) and its exit code."""

    words: str
    shown: str | None
    code: int
    line: int


def blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    return [Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1) for found in FENCE.finditer(text)]


def commands(block: Block) -> Iterator[Command]:
    for found in re.finditer(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE):
        code = re.search(r"# exits with (\d+)", found[1])
        line = block.line + block.text.count("\n", 0, found.start())
        yield Command(found[1], found[2] or None, int(code[1]) if code else 0, line)


def files(document: Path) -> dict[str, str]:
    """The YAML files that a document shows: their first line is their name, as a comment."""
    named = (
        (re.match(r"# (\S+\.yaml)\n", block.text), block) for block in blocks(document) if block.language == "yaml"
    )
    return {found[1]: block.text for found, block in named if found}


def documents() -> list[Path]:
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in found if any(block.language in ("console", "python") for block in blocks(path))]


def as_pattern(shown: str) -> str:
    anything = "[^\n]*"
    return "".join(
        f"(?:{anything}\n)*" if line == "…" else re.escape(line).replace("…", anything) + "\n"
        for line in shown.splitlines()
    )


def fits(shown: str, said: str) -> bool:
    """Whether this is what was said; `…` stands for anything in a line, or alone for any number of lines."""
    return re.fullmatch(as_pattern(shown), "".join(f"{line}\n" for line in said.splitlines())) is not None


@dataclass(frozen=True, slots=True)
class Session:
    """A lab and a folder in it."""

    lab: Lab
    folder: Path

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        home = {"HOME": str(self.folder), "XDG_CACHE_HOME": str(default_cache().parents[1])}
        return {**self.lab.environment, **home, "PATH": path}

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        # A second command keeps bash there: completion asks which shell has called it.
        argv = self.lab.enter(["bash", "-c", f"{command}\nexit $?"], cwd=self.folder)
        return subprocess.run(
            argv,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )

    def run_typing(self, command: str, wait_for: str, keys: str) -> subprocess.CompletedProcess[str]:
        """Run it at a terminal and type `keys` once it has said `wait_for`; both its outputs are in stdout."""
        ours, theirs = pty.openpty()
        argv = self.lab.enter(["bash", "-c", command], cwd=self.folder)
        said, typed = "", False
        deadline = time.monotonic() + DEADLINE
        with subprocess.Popen(
            argv, env=self.environment(), stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as running:
            assert running.stdout is not None
            while True:
                if select.select([running.stdout], [], [], 1.0)[0]:
                    part = os.read(running.stdout.fileno(), 4096).decode(errors="replace")
                    if not part:
                        break
                    said += part
                    if typed or wait_for not in said:
                        continue
                elif time.monotonic() > deadline:
                    running.kill()
                    raise AssertionError(f"{command} does not end: {said}")
                if wait_for in said:
                    # Again where nothing comes of it: what is typed before virsh has made the terminal raw is lost.
                    os.write(ours, keys.encode())
                    typed = True
        for descriptor in (ours, theirs):
            os.close(descriptor)
        assert typed, f"{command} never said {wait_for!r}: {said}"
        return subprocess.CompletedProcess(command, running.returncode, said, "")


@pytest.fixture
def session(tmp_path: Path, nested_lab: Callable[..., Lab]) -> Session:
    folder = tmp_path / "my folder"
    (folder / "bin").mkdir(parents=True)
    # The lab's user is root already.
    (folder / "bin" / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    (folder / "bin" / "sudo").chmod(0o755)
    for name in ("python", "examples"):
        (folder / name).symlink_to(ROOT / name)
    image = build_micro_image(tmp_path / "micro.qcow2").path
    lab = nested_lab(internet=True)
    lab.run(["cp", str(image), "/var/lib/libvirt/images/"], check=True)
    return Session(lab, folder)


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_shows_is_so(document: Path, session: Session) -> None:
    for name, text in {**files(ROOT / "README.md"), **files(document)}.items():
        (session.folder / name).write_text(text)
    for block in blocks(document):
        if block.language == "console":
            for command in commands(block):
                if not command.words.startswith(tuple(ELSEWHERE)):
                    check(document, command, session)
        elif block.language == "python":
            program = Command(f"python -c {shlex.quote(block.text)}", None, 0, block.line)
            check(document, program, session)


def check(document: Path, command: Command, session: Session) -> None:
    asked = next((TYPED[begin] for begin in TYPED if command.words == begin or f"{begin} " in command.words), None)
    typed = None if "--yes" in command.words else asked
    ran = session.run_typing(command.words, *typed) if typed else session.run(command.words)
    where = f"{document.relative_to(ROOT)}:{command.line}: {command.words}"
    assert ran.returncode == command.code, f"{where}\n{ran.stdout}{ran.stderr}"
    if command.shown is not None:
        # What fails speaks on stderr; what is asked at a terminal has its remarks before its answer.
        said = ran.stdout + (ran.stderr if command.code else "")
        assert fits(f"…\n{command.shown}" if typed else command.shown, said), f"{where}\n{said}"


def test_no_command_stands_in_a_block_that_is_only_parsed() -> None:
    """As `bash` or `sh` it would not be run here."""
    languages = {path.name: {block.language for block in blocks(path)} for path in (ROOT / "docs").rglob("*.md")}
    assert {name: found for name, found in languages.items() if not found <= {"console", "python", "yaml", ""}} == {}


def test_every_exception_is_still_shown_somewhere() -> None:
    shown = [
        command.words
        for path in documents()
        for block in blocks(path)
        if block.language == "console"
        for command in commands(block)
    ]
    assert [begin for begin in ELSEWHERE if not any(words.startswith(begin) for words in shown)] == []


@pytest.mark.parametrize(
    ("shown", "said", "so"),
    [
        ("one\n", "one", True),
        ("one\n", "one\ntwo", False),
        ("two\n", "one\ntwo", False),
        ("one …\n", "one or two", True),
        ("one …\n", "one or two\nthree", False),
        ("one\n…\nfour\n", "one\ntwo\nthree\nfour", True),
        ("one\n…\nfour\n", "one\nfour", True),
        ("one\n…\n", "one\ntwo\nthree", True),
        ("…\n", "", True),
        ("1.5\n", "1x5", False),
    ],
)
def test_only_dots_stand_for_anything(shown: str, said: str, so: bool) -> None:
    assert fits(shown, said) is so
