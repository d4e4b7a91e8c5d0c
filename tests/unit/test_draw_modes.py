"""The pictures of the modes (scripts/draw_modes.py) against what the matrix expects of each, and the names of rules."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from ai_how.config.terms import DnsMode
from ai_how.probe.actions import Ping, Talk
from ai_how.probe.columns import Column, cell
from ai_how.probe.expectations import Expect, Expectation, Side
from ai_how.probe.matrix import AROUND, Field, document_of
from ai_how.resources.firewall import Denial
from ai_how.spec.resolve import resolve_all

ROOT = Path(__file__).resolve().parents[2]


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_modes", ROOT / "scripts" / "draw_modes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


draw_modes = _script()
PICTURES = {each.mode: each for each in draw_modes.PICTURES}


@pytest.fixture(scope="module")
def field() -> Field:
    return Field({each.name: each for each in resolve_all(document_of(Path("/blank.qcow2")))}, {})


def _pair(field: Field, a: DnsMode, b: DnsMode) -> tuple[Side, Side]:
    row = next(each for each in field.rows() if (each.frm, each.to) == (a.value, b.value))
    return row.a, row.b


def _passes(found: list[Expectation], *kinds: type[object]) -> bool:
    """Of IPv4: it is drawn, and IPv6 never leaves a cluster."""
    asked = [each for each in found if isinstance(each.action, kinds) and each.action.to.version == 4]  # type: ignore[union-attr]
    (verdict,) = {each.expect for each in asked}
    return verdict is Expect.PASS


def test_every_mode_has_its_picture_as_drawn() -> None:
    assert [each.mode for each in draw_modes.PICTURES] == [each.value for each in DnsMode]
    assert draw_modes.differing(draw_modes.PICTURES) == []
    for path in draw_modes.FOLDER.glob("*.svg"):
        ElementTree.parse(path)  # noqa: S314 - our own file


@pytest.mark.parametrize("mode", DnsMode)
@pytest.mark.parametrize("other", DnsMode)
def test_a_picture_shows_who_reaches_whom_as_the_matrix_expects(field: Field, mode: DnsMode, other: DnsMode) -> None:
    a, b = _pair(field, mode, other)
    shown = {each.place: each for each in PICTURES[mode].packets}
    nodes = shown.get(f"nodes of {other} clusters") or shown.get("nodes of other clusters")
    nodes = nodes or shown["nodes of every other cluster"]
    if mode is not other:
        nodes = shown.get("nodes of other clusters") or shown["nodes of every other cluster"]
    for frm, to, way in ((a, b, nodes.out), (b, a, nodes.back)):
        assert _passes(cell(Column.NODES, frm, to, AROUND), Talk, Ping) is way.open
    gateways = shown["their gateways"] if mode is other and "their gateways" in shown else None
    assert _passes(cell(Column.GATEWAY, a, b, AROUND), Ping) is (gateways is not None and gateways.out.open)
    assert _passes(cell(Column.HOST, a, b, AROUND), Talk) is shown["services of the host"].out.open


@pytest.mark.parametrize("mode", DnsMode)
def test_a_picture_shows_the_ways_out_and_in_as_the_matrix_expects(field: Field, mode: DnsMode) -> None:
    a = next(each.a for each in field.rows() if (each.frm, each.to) == (mode.value, "itself"))
    shown = {each.place: each for each in PICTURES[mode].packets}
    assert _passes(cell(Column.GATEWAY, a, a, AROUND), Ping) is shown["its own gateway"].out.open
    assert _passes(cell(Column.INTERNET, a, a, AROUND), Ping, Talk) is shown["internet"].out.open
    assert _passes(cell(Column.LAN, a, a, AROUND), Talk) is shown["machines of the LAN"].back.open


def test_every_rule_that_denies_is_explained() -> None:
    page = (ROOT / "docs" / "network.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `([a-z0-9-]+)` \| [^|]+ \|$", page, re.MULTILINE)
    assert sorted(explained) == sorted(Denial)


@pytest.mark.parametrize("mode", DnsMode)
def test_the_rules_that_a_mode_s_page_names_are_there(mode: DnsMode) -> None:
    page = (ROOT / "docs" / "modes" / f"{mode}.md").read_text(encoding="utf-8")
    table = page[page.index("## What passes") :].split("\n\n|", 2)[1].split("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`([a-z0-9_-]+)`", row.split(" | ")[-1])}
    assert len(named) > 5
    assert named <= {*Denial, "peers", "direct", "allowed_from"}
