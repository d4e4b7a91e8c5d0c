"""The matrix as data and as a table, where nothing could be sent: the places are missing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ai_how.cli.matrix import show
from ai_how.config.terms import DnsMode
from ai_how.probe.columns import Column
from ai_how.probe.judge import Result
from ai_how.probe.matrix import Field, Matrix, document_of, try_all
from ai_how.spec.resolve import resolve_all


@pytest.fixture(scope="module")
def nowhere() -> Matrix:
    return try_all(Field({each.name: each for each in resolve_all(document_of(Path("/blank.qcow2")))}, {}))


def test_every_mode_is_tried_by_itself_and_against_every_mode(nowhere: Matrix) -> None:
    pairs = Counter((row.frm, row.to) for row in nowhere.rows)
    modes = [mode.value for mode in DnsMode]
    assert all(pairs[one, other] == 1 for one in modes for other in [*modes, "itself"])
    assert set(nowhere.cells) == {(row.name, column) for row in nowhere.rows for column in Column}


def test_a_mode_meets_another_cluster_of_its_own(nowhere: Matrix) -> None:
    for row in nowhere.rows:
        assert (row.a.name == row.b.name) == (row.to == "itself")


def test_what_could_not_be_tried_does_not_hold(nowhere: Matrix) -> None:
    assert {each.result for each in nowhere.scenarios.values()} == {Result.SKIPPED}
    assert {nowhere.result(*cell) for cell in nowhere.cells} == {Result.SKIPPED}
    assert not nowhere.holds


def test_programs_get_every_scenario_and_every_cell(nowhere: Matrix) -> None:
    data = nowhere.to_json()
    assert (data["passed"], data["failed"], data["skipped"]) == (0, 0, len(data["scenarios"]))
    names = [each["name"] for each in data["scenarios"]]
    assert len(names) == len(set(names))
    assert {name for each in data["cells"] for name in each["scenarios"]} <= set(names)
    assert set(data["scenarios"][0]) == {"name", "from", "to", "expect", "result", "detail", "ms"}


def test_the_table_shows_what_is_open_and_what_is_shut(nowhere: Matrix, capsys: pytest.CaptureFixture[str]) -> None:
    show(nowhere)
    lines = capsys.readouterr().out.splitlines()
    heading = next(number for number, line in enumerate(lines) if line.split()[:2] == ["from", "to"])
    table = [line.split() for line in lines[heading + 2 :] if line.split()]
    marks = {"–", "✓", "✗"}
    shown = {tuple(word for word in line if word not in marks) for line in table}
    assert ("isolated", "itself", "open", "open", "shut", "open", "shut", "open", "open") in shown
    assert ("shared_dns", "open", "open", "shut", "open", "shut", "open", "open") in shown
    assert ("routed", "shut", "shut", "shut", "open", "shut", "shut", "shut") in shown
    assert f"0 of 0 scenarios as promised, {len(nowhere.scenarios)} could not be tried" in lines
