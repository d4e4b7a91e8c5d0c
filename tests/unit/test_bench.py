"""The bench's own arithmetic, and its parts that need no lab."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ai_how.config.load import load_file
from ai_how.spec.resolve import resolve_all

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of the bench by name."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"bench.{name}")


@pytest.mark.parametrize("form", ["group", "list"])
def test_configurations_have_a_controller_and_as_many_nodes_as_asked_for(
    bench: Callable[[str], ModuleType], tmp_path: Path, form: str
) -> None:
    configuration = bench("configuration")
    file = configuration.write(tmp_path / "bench.yaml", 300, form=configuration.Form(form))
    [cluster] = resolve_all(load_file(file))
    assert len(cluster.nodes) == 301


def test_validation_is_measured_in_both_forms_with_its_growth(bench: Callable[[str], ModuleType]) -> None:
    report = bench("report").Report()
    bench("validate").measure(report, sizes=(2, 4), rounds=1)
    for form in ("group", "list"):
        for size in (2, 4):
            work = [row.by for row in report.rows if row.work == f"{size} nodes as a {form}"]
            assert work == ["floor: libyaml reads the file", "ai-how validate", "config and spec, in process"]
    assert [note.split(" costs ")[0] for note in report.notes] == [
        "as a group, a node of 4",
        "as a list, a node of 4",
    ]


def test_hundred_clusters_have_a_hundred_nodes_each_and_every_kind_of_rule(bench: Callable[[str], ModuleType]) -> None:
    clusters = bench("clusters")
    table = clusters.table(clusters.networks(clusters.SIZE, clusters.NODES))
    assert [len(each.macs) for each in table.clusters] == [100] * 100
    assert len({each.subnet for each in table.clusters}) == 100
    assert all(each.block_networks and each.allow_host_ports for each in table.clusters)
    assert sum(bool(each.expose) for each in table.clusters) == 50
    assert sum(bool(each.allow_from) for each in table.clusters) == 50
    assert {len(each.peers) for each in table.clusters} == {0, 25, 23}


def test_packets_pass_both_kinds_of_nat_and_two_peers(bench: Callable[[str], ModuleType]) -> None:
    clusters = bench("clusters")
    there = clusters.there(2)
    assert {name: str(each.forward) for name, each in there.items()} == {
        clusters.PLAIN: "nat",
        clusters.LETS_IN: "route",
        clusters.PEER: "route",
        clusters.OTHER_PEER: "route",
    }
    rules = {each.cluster: each for each in clusters.table(list(there.values())).clusters}
    assert rules[clusters.LETS_IN].masquerade
    assert rules[clusters.PEER].peers == (there[clusters.OTHER_PEER].bridge,)


def test_microseconds_are_not_shown_as_no_time_at_all(bench: Callable[[str], ModuleType]) -> None:
    report, taken = bench("report"), bench("measure").Taken
    row = report.Row("traffic", "round trip", "no table", (taken(0.0000214, 0.0000113),))
    assert "21.4 µs" in report.Report([row]).table()


def test_targets_hold_for_the_median_and_the_ratio_is_to_the_floor(bench: Callable[[str], ModuleType]) -> None:
    report, taken = bench("report"), bench("measure").Taken
    runs = (taken(1.0, 0.1), taken(2.0, 0.2), taken(9.0, 0.3))
    slow = report.Row("up", "up", "ai-how", runs, floor=1.6, target=report.Target(times_floor=1.15))
    assert (slow.wall, slow.cpu, slow.ratio, slow.met) == (2.0, 0.2, 1.25, False)
    assert report.Row("up", "up", "ai-how", runs, floor=1.8, target=report.Target(times_floor=1.15)).met is True
    assert report.Row("start", "start", "ai-how", runs, target=report.Target(seconds=1.9)).met is False
    assert report.Row("start", "start", "ai-how", runs, target=report.Target(seconds=2.0)).met is True
    assert report.Row("start", "start", "ai-how", runs).met is None
    shown = report.Report([slow], ["a note"]).table()
    assert "1.25  ≤ 1.15 × floor  MISSED" in shown
    assert shown.endswith("a note")


def test_ratio_beside_the_floor_is_taken_round_by_round(bench: Callable[[str], ModuleType]) -> None:
    report, taken = bench("report"), bench("measure").Taken
    floors = (taken(1.0, 0.1), taken(2.0, 0.1), taken(2.0, 0.1))
    runs = (taken(1.1, 0.1), taken(2.2, 0.1), taken(1.0, 0.1))
    row = report.Row("traffic", "round trip", "ours", runs, 2.0, report.Target(times_floor=1.05), floors)
    assert row.ratios == (1.1, 1.1, 0.5)
    assert (row.ratio, row.met) == (1.1, False)
    assert report.Row("up", "up", "ours", runs, 2.0).ratio == 0.55


def test_runs_take_turns_and_change_their_order(bench: Callable[[str], ModuleType]) -> None:
    order: list[str] = []

    def run(name: str) -> int:
        order.append(name)
        return len(order)

    results = bench("measure").in_turns({"a": lambda: run("a"), "b": lambda: run("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert results == {"a": (1, 4, 5), "b": (2, 3, 6)}


def test_a_failing_process_is_not_a_measurement(bench: Callable[[str], ModuleType]) -> None:
    with pytest.raises(RuntimeError, match="ended with 3: no such luck"):
        bench("measure").process([sys.executable, "-c", "import sys; print('no such luck'); sys.exit(3)"])
