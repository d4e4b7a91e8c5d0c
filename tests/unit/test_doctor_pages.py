"""The doctor's pages and its catalogue are one: a page for each cause, of one shape, and an index of all."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from ai_how.diagnose.catalogue import CATALOGUE

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "doctor"
INDEX = PAGES / "README.md"

EXPLAINS = "What it explains"
SECTIONS = ("What it is", "How it shows", EXPLAINS, "Repair", "Prevent")

#: Where what the doctor says is written: its own words, and those of libvirt's doors and of drift that it passes on.
SOURCES = ("diagnose", "host/libvirt.py", "host/machine.py", "engine/drift.py")

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)

each_cause = pytest.mark.parametrize("identifier", CATALOGUE)


def page(identifier: str) -> str:
    return (PAGES / f"{identifier}.md").read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """What stands under each heading, fenced blocks included."""
    marks = [*re.finditer(r"^## (.+)\n", FENCE.sub(lambda found: "`" * len(found[0]), text), re.MULTILINE)]
    ends = [*(each.start() for each in marks[1:]), len(text)]
    return {mark[1]: text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)}


def links(text: str) -> list[str]:
    return LINK.findall(FENCE.sub("", text))


def quoted(identifier: str) -> list[str]:
    """The summaries that a page shows as the doctor's lines."""
    begin = re.compile(rf"^{re.escape(identifier)} of [^:]+: (.+)$", re.MULTILINE)
    return begin.findall(sections(page(identifier))["How it shows"])


@cache
def said() -> tuple[re.Pattern[str], ...]:
    """The texts of the sources that are long enough to be known again, `.+` for what is put into them."""
    found = (
        re.escape("".join(parts)).replace("\0", ".+")
        for parts in _texts()
        if len("".join(parts).replace("\0", "")) >= 10
    )
    return tuple(map(re.compile, sorted(set(found))))


def _texts() -> Iterator[list[str]]:
    for name in SOURCES:
        place = ROOT / "python" / "ai_how" / name
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                match node:
                    case ast.JoinedStr(values=values):
                        yield [str(each.value) if isinstance(each, ast.Constant) else "\0" for each in values]
                    case ast.Constant(value=str(text)):
                        yield [text.strip()]


def test_every_cause_has_a_page_and_every_page_a_cause() -> None:
    assert {file.stem for file in PAGES.iterdir()} == {*CATALOGUE, INDEX.stem}


@each_cause
def test_page_is_called_as_its_cause(identifier: str) -> None:
    assert page(identifier).startswith(f"# {identifier}\n\n## ")


@each_cause
def test_page_has_its_sections_in_order_and_none_is_empty(identifier: str) -> None:
    wanted = [each for each in SECTIONS if each != EXPLAINS or CATALOGUE[identifier].explains]
    found = sections(page(identifier))
    assert list(found) == wanted
    assert all(found.values())


@each_cause
def test_page_explains_what_the_catalogue_says_in_its_order(identifier: str) -> None:
    told = [target.removesuffix(".md") for target in links(sections(page(identifier)).get(EXPLAINS, ""))]
    explained = {each.partition(":")[0] for each in CATALOGUE[identifier].explains}  # `:kind` is of the same page
    explained.discard(identifier)  # others of its kind: that goes without saying
    assert told == [each for each in CATALOGUE if each in explained]


@each_cause
def test_page_shows_what_the_doctor_says(identifier: str) -> None:
    lines = quoted(identifier)
    assert lines
    assert [line for line in lines if not any(each.search(line) for each in said())] == []


def test_what_the_doctor_does_not_say_is_no_line_of_its() -> None:
    strange = "the moon is full, and packets of the third kind are late"
    assert [each.pattern for each in said() if each.search(strange)] == []


@each_cause
def test_page_says_what_fix_does(identifier: str) -> None:
    assert "`--fix`" in sections(page(identifier))["Repair"]


@pytest.mark.parametrize("file", [ROOT / "docs" / "doctor.md", *sorted(PAGES.glob("*.md"))], ids=lambda file: file.name)
def test_links_of_pages_resolve(file: Path) -> None:
    targets = [target.partition("#")[0] for target in links(file.read_text(encoding="utf-8"))]
    assert [each for each in targets if each and ":" not in each and not (file.parent / each).is_file()] == []


def test_index_lists_every_cause_with_its_place_and_title_in_the_order_of_the_chain() -> None:
    rows = re.findall(
        r"^\| \[`([^`]+)`\]\(([^)]+)\) \| (\w+) \| (.+) \|$", INDEX.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert rows == [
        (identifier, f"{identifier}.md", known.layer.name.lower(), known.title)
        for identifier, known in CATALOGUE.items()
    ]
    assert all(one.layer <= next_.layer for one, next_ in pairwise(CATALOGUE.values()))


def test_documents_lead_to_the_doctor_and_it_to_the_index() -> None:
    assert "doctor.md" in links((ROOT / "docs" / "README.md").read_text(encoding="utf-8"))
    assert "doctor/README.md" in links((ROOT / "docs" / "doctor.md").read_text(encoding="utf-8"))
