"""Every part of the bench, at its smallest, in a lab: it measures what it says, and leaves nothing."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ai_how.images import build_micro_image
from ai_how.lab.internet import Internet

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of the bench by name."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"bench.{name}")


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_micro_image(tmp_path_factory.mktemp("image") / "micro.qcow2").path


@pytest.fixture
def empty_host() -> Iterator[None]:
    """Fail the test unless it ends, as it began, with a host that has no network, machine, pool or disk."""
    assert things() == []
    yield
    assert things() == []


def things() -> list[str]:
    lists = (["net-list", "--all"], ["list", "--all"], ["pool-list", "--all"])
    found = [subprocess.run(["virsh", *each, "--name"], check=True, capture_output=True, text=True) for each in lists]
    files = [str(path) for path in Path("/var/lib/libvirt/images").glob("*")]
    return [name for each in found for name in each.stdout.split()] + files


def rows(report: Any) -> list[tuple[str, str]]:
    return [(row.work, row.by.split(":")[0]) for row in report.rows]


@pytest.mark.usefixtures("empty_host")
def test_up_and_destroy_are_measured_beside_the_floor_and_leave_nothing(
    bench: Callable[[str], ModuleType], image: Path
) -> None:
    report = bench("report").Report()
    bench("up").measure(report, image, sizes=(1,), leased=1, rounds=1)
    sides = {"ai-how", "its engine, in process", "floor"}
    for verb in ("up", "destroy"):
        assert {by for work, by in rows(report) if work == f"{verb} of 1 + 1"} == sides
    assert {by for work, by in rows(report) if work == "up of 1 + 1 to the last lease"} == {"ai-how", "floor"}
    assert all(row.ratio > 0 for row in report.rows if not row.by.startswith("floor"))
    to_running, to_lease = (
        next(row.wall for row in report.rows if row.by == "ai-how" and row.work == work)
        for work in ("up of 1 + 1", "up of 1 + 1 to the last lease")
    )
    assert to_running < to_lease


@pytest.mark.usefixtures("empty_host")
def test_up_is_skipped_with_its_reason_where_memory_is_short(
    bench: Callable[[str], ModuleType], image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    up, report = bench("up"), bench("report").Report()
    monkeypatch.setattr(up, "MEMORY_MIB", 10**9)
    up.measure(report, image, sizes=(1,), rounds=1)
    assert report.rows == []
    assert "1 + 1 nodes were skipped: they need" in report.notes[0]


@pytest.mark.usefixtures("empty_host")
def test_nothing_to_do_is_measured_on_defined_nodes_and_leaves_nothing(
    bench: Callable[[str], ModuleType], image: Path
) -> None:
    report = bench("report").Report()
    bench("idle").measure(report, image, size=3, rounds=2)
    assert rows(report) == [
        *((f"{what} 3 nodes", by) for what in ("defining", "destroying") for by in ("floor", "floor", "ai-how")),
        *(
            ("3 defined nodes, nothing to do", by)
            for by in ("floor", "floor", "ai-how's engine, plan", "ai-how plan --no-start", "ai-how up --no-start")
        ),
    ]
    assert {len(row.taken) for row in report.rows if "nothing" in row.work} == {2}
    assert all(row.ratio > 0 for row in report.rows if row.by.startswith("ai-how"))


@pytest.mark.usefixtures("empty_host")
def test_doctor_is_measured_on_clusters_that_run_and_are_well(bench: Callable[[str], ModuleType], image: Path) -> None:
    report = bench("report").Report()
    bench("doctor").measure(report, image, nodes=1, rounds=1)
    everything = "3 clusters of 1 nodes, all well"
    names = ("floor", "ai-how doctor", "ai-how doctor network NAME")
    assert rows(report) == [(everything, by) for by in names]
    floor, *others = report.rows
    assert all(row.ratio > 0 and row.cpu > floor.cpu for row in others)


@pytest.mark.usefixtures("empty_host")
def test_plan_is_measured_beside_the_floor_and_leaves_nothing(bench: Callable[[str], ModuleType], image: Path) -> None:
    report = bench("report").Report()
    bench("plan").measure(report, image, sizes=(2, 4), rounds=2)
    assert rows(report) == [(f"{n} nodes, all new", by) for n in (2, 4) for by in ("floor", "ai-how plan --json")]
    for floor, plan in zip(report.rows[::2], report.rows[1::2], strict=True):
        assert plan.ratio > 0
        assert plan.cpu > floor.cpu
    assert "a node of 4 costs" in report.notes[0]


@pytest.mark.usefixtures("empty_host")
def test_firewall_is_measured_beside_nft_alone_and_leaves_no_table(bench: Callable[[str], ModuleType]) -> None:
    report = bench("report").Report()
    bench("firewall").measure(report, size=5, nodes=3, rounds=2)
    for kind in ("in all modes", "all peers"):
        found = {row.by: row for row in report.rows if row.work == f"table of 5 × 3, {kind}"}
        assert all(len(row.taken) == 2 and row.wall > 0 for row in found.values())
        assert [by for by, row in found.items() if row.ratio is not None] == ["loading it", "replacing it"]
        assert {"computing it", "writing its JSON", "looking whether it is in force", "removing it"} < set(found)
    assert tables() == ""


@pytest.mark.usefixtures("empty_host")
def test_adding_nodes_is_measured_beside_libvirts_own_ways_and_leaves_nothing(
    bench: Callable[[str], ModuleType],
) -> None:
    report = bench("report").Report()
    bench("add").measure(report, size=4, more=2, rounds=1)
    [floor, *others] = report.rows
    assert (floor.by, {row.work for row in report.rows}) == (
        "floor: networkDefineXML",
        {"adding 2 nodes to a running network of 4"},
    )
    one_by_one, ours, with_looks = others
    assert one_by_one.by == "net-update for each, extrapolated from 2"
    assert (ours.by, ours.target.seconds) == ("ai-how", 1.0)
    assert min(ours.wall, with_looks.wall) > 0


@pytest.mark.usefixtures("empty_host")
def test_traffic_is_measured_with_and_without_tables_on_three_paths_and_leaves_nothing(
    bench: Callable[[str], ModuleType], internet: Internet
) -> None:
    report, traffic = bench("report").Report(), bench("traffic")
    before = threads()
    load = traffic.Load(rounds=2, round_trips=20, connections=5, pieces=2)
    traffic.measure(report, size=5, nodes=3, load=load)
    whats = ("round trip, median", "round trip, 90th percentile", "new connection", "4 MiB of a stream")
    for path, floor in (
        ("libvirt's NAT", "floor: no table"),
        ("our masquerade", "floor: libvirt's NAT, no table"),
        ("to a peer", "floor: no table"),
    ):
        for what in whats:
            found = [row for row in report.rows if row.work == f"{path}: {what}"]
            assert [row.by for row in found] == [floor, "table of 4 clusters", "table of 5 clusters"]
            assert all(row.ratio > 0 for row in found[1:])
    assert tables() == ""
    assert threads() == before


@pytest.mark.usefixtures("empty_host")
def test_traffic_without_a_masquerade_is_no_measurement(
    bench: Callable[[str], ModuleType], internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, traffic, near = bench("report").Report(), bench("traffic"), bench("near")
    monkeypatch.setattr(near, "_PATIENCE", 0.2)
    monkeypatch.setattr(traffic, "render", lambda _: '{"nftables": []}')
    with pytest.raises(TimeoutError):
        traffic.measure(report, size=5, nodes=3, load=traffic.Load(1, 20, 5, 2))
    assert report.rows == []


def tables() -> str:
    """Our tables, as nft lists them."""
    listed = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout
    return "".join(line for line in listed.splitlines() if line.endswith(" ai_how"))


def threads() -> tuple[set[int], int]:
    """Where this thread may run, and how nice it is."""
    return os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)


def test_command_writes_the_table_and_the_same_as_json(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    argv = [sys.executable, "-m", "bench", "--quick", "--only", "start", "--json", str(numbers)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    report = json.loads(numbers.read_text())
    assert [row["by"] for row in report["rows"]] == ["floor: python -c pass", "ai-how version", "ai-how --help"]
    for row in report["rows"]:
        assert row["by"] in done.stdout
        assert 0 < min(run["wall"] for run in row["runs"]) <= row["wall"]
    assert report["machine"]["cpus"] > 0
