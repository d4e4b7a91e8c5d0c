"""The matrix of the DNS modes, cell by cell, under both of libvirt's firewall backends; and that it sees a broken rule.

It is run once for each libvirt by the command that anyone can run, in a lab of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.lab.clusters.breakages import load_rules
from tests.lab.consul_agent import program

from ai_how.config.terms import DnsMode
from ai_how.host.libvirt import Libvirt
from ai_how.probe.columns import Column
from ai_how.probe.judge import Result
from ai_how.probe.matrix import AROUND, Field, Matrix, document_of, standing, try_all
from ai_how.probe.run import with_controls
from ai_how.spec.resolve import resolve_all

Ran = subprocess.CompletedProcess[str]

CLUSTERS = {each.name: each for each in resolve_all(document_of(Path("/blank.qcow2")))}
EXPECTED = Field(CLUSTERS, {}, replace(AROUND, consul=True))
CELLS = EXPECTED.cells()

#: What stands in this lab, so that something can be broken.
MODES = (DnsMode.ISOLATED, DnsMode.SHARED_DNS)


@pytest.fixture(scope="session", params=["iptables", "nftables"])
def matrix(request: pytest.FixtureRequest, ai_how: Callable[..., Ran]) -> dict[str, Any]:
    """What `ai-how lab matrix --json` prints, under the system's libvirt (iptables) and a newer one (nftables), with
    Consul on the path."""
    words: list[object] = ["lab", "matrix", "--json"]
    if request.param == "nftables":
        words += ["--libvirt-root", request.getfixturevalue("new_libvirt")]
    path = f"{Path(program()).parent}:{os.environ['PATH']}"
    ran = ai_how(*words, PATH=path)
    assert ran.returncode in (0, 1), ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    assert (ran.returncode == 0) == all(each["result"] == "passed" for each in found["cells"])
    return found


@pytest.mark.parametrize(
    ("row", "column"), [pytest.param(row, column, id=f"{row}: {column}".replace("→", "to")) for row, column in CELLS]
)
def test_the_cell_is_as_promised(matrix: dict[str, Any], row: str, column: Column) -> None:
    scenarios = {each["name"]: each for each in matrix["scenarios"]}
    cell = next(each for each in matrix["cells"] if (each["row"], each["column"]) == (row, column))
    expected = CELLS[row, column]
    assert cell["scenarios"] == [each.name for each in expected]
    for each in expected:
        found = scenarios[each.name]
        assert found["expect"] == each.expect
        if each.missing:
            assert (found["result"], found["detail"]) == ("skipped", each.missing)
            continue
        assert found["result"] == "passed", found
        for control in with_controls(each.controls):
            assert scenarios[control.name]["expect"] == "pass"
            assert scenarios[control.name]["result"] == "passed", scenarios[control.name]
    assert cell["result"] == "passed"


@pytest.fixture(scope="module")
def field(libvirt_uri: str, machine_room: None) -> Iterator[Field]:
    with Libvirt() as libvirt, standing(libvirt, modes=MODES) as found:
        yield found


@pytest.fixture
def mended() -> Iterator[None]:
    """After the test the rules are loaded again, as the network hook does it."""
    yield
    load_rules()


def cells(found: Matrix, result: Result) -> set[tuple[str, Column]]:
    return {cell for cell in found.cells if found.result(*cell) is result}


def column(field: Field, *columns: Column, frm: str = "", other: bool = False) -> set[tuple[str, Column]]:
    """The cells in these columns: of every row or those from `frm`; with `other` of pairs alone."""
    rows = [row for row in field.rows() if row.frm.startswith(frm) and not (other and row.a is row.b)]
    return {(row.name, each) for row in rows for each in columns}


def nft(line: str) -> None:
    subprocess.run(["nft", *line.split()], check=True, capture_output=True)


def test_unbroken_nothing_fails_and_every_denial_has_its_control(field: Field) -> None:
    found = try_all(field)
    assert cells(found, Result.PASSED) == set(found.cells)
    missing = {each.missing for some in found.cells.values() for each in some if each.missing}
    assert {each.detail for each in found.scenarios.values() if each.result is Result.SKIPPED} == missing


@pytest.mark.parametrize(
    ("broken", "dependent"),
    [
        pytest.param(
            "insert rule inet ai_how to_host meta l4proto tcp tcp dport 7777 accept",
            lambda field: column(field, Column.HOST),
            id="a port of the host is opened",
        ),
        pytest.param(
            "delete element inet ai_how peers { br-shared-a . br-shared-b }",
            lambda field: {("shared_dns → shared_dns", Column.NODES)},
            id="two peers are parted",
        ),
        pytest.param(
            "add element inet ai_how allowed_from { br-shared-a . 203.0.113.0/24 }",
            lambda field: column(field, Column.LAN, frm="shared_dns"),
            id="the LAN is let in",
        ),
        pytest.param(
            "flush chain inet ai_how postrouting",
            lambda field: {each for mode in MODES for each in column(field, Column.INTERNET, frm=mode)},
            id="nothing is masqueraded",
        ),
        pytest.param(
            "delete table arp ai_how",
            lambda field: column(field, Column.GATEWAY, other=True),
            id="the host answers for gateways of other links",
        ),
    ],
)
def test_exactly_the_cells_that_depend_on_a_broken_rule_fail(
    field: Field, mended: None, broken: str, dependent: Callable[[Field], set[tuple[str, Column]]]
) -> None:
    nft(broken)
    found = try_all(field)
    assert cells(found, Result.FAILED) == dependent(field)
    assert cells(found, Result.PASSED) == set(found.cells) - dependent(field)


def test_where_a_server_is_dead_denials_of_its_names_are_not_called_passed(field: Field) -> None:
    """A question to it that is not answered proves nothing about who may ask."""
    process = int(Path("/run/libvirt/network/isolated-b-network.pid").read_text())
    os.kill(process, signal.SIGSTOP)
    try:
        found = try_all(field)
    finally:
        os.kill(process, signal.SIGCONT)
    towards = {row.name for row in field.rows() if row.b.name == "isolated-b"}
    assert cells(found, Result.SKIPPED) == {
        (row, column) for row in towards for column in (Column.GATEWAY, Column.NAMES, Column.REVERSE)
    }
    assert cells(found, Result.FAILED) == set()
    assert found.count(Result.FAILED) > 0  # the controls
