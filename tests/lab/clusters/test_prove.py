"""`ai-how test` on clusters that are as configured: every mode beside every other, and what else a network can be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.clusters.proof import Scene, cluster, scene
from tests.lab.consul_agent import agent

from ai_how.cli.test import try_clusters
from ai_how.probe.judge import Result
from ai_how.probe.report import Report

#: Seconds that the whole of it may take for two clusters of three nodes, and the quick part; this machine may be busy.
WHOLE, QUICK, BUSY = 10.0, 3.0, 3.0

LAN = "203.0.113.0/24"
DISCOVERY: dict[str, Any] = {
    "dns_mode": "service_discovery",
    "service_discovery": {"check": {"port": 7000, "interval": 1}},
}

#: Two clusters of each mode: one as bare as can be, one with what the configuration offers.
MODES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "isolated": ({}, {"mtu": 1400, "firewall": {"allow_from": [LAN], "allow_host_ports": ["9000/tcp", "9000/udp"]}}),
    "shared": (
        {"dns_mode": "shared_dns", "host_resolver": "none"},
        {
            "dns_mode": "shared_dns",
            "host_resolver": "none",
            "firewall": {"expose": ["8001:shared-b-compute-01:80"], "block_networks": ["198.51.100.0/24"]},
        },
    ),
    "routed": ({"dns_mode": "routed"}, {"dns_mode": "routed", "routes": [{"to": LAN}], "nat": False}),
    "discovery": (DISCOVERY, {**DISCOVERY, "firewall": {"egress": "deny", "allow_networks": ["8.8.8.8"]}}),
}
#: Each beside an isolated one.
OTHERS: dict[str, dict[str, Any]] = {
    "direct": {"dns_servers": ["8.8.8.8"]},
    "alone": {"dns_servers": ["10.44.12.1"]},
    "sealed": {"firewall": {"egress": "deny"}},
    "bare": {"firewall": {"enabled": False}},
}
PAIRS = [
    *((f"{mode}-a", f"{mode}-b") for mode in MODES),
    *((f"{one}-a", f"{other}-b") for one, other in itertools.combinations(MODES, 2)),
    *(("isolated-a", other) for other in (*OTHERS, "dynamic")),
]


@pytest.fixture(scope="module")
def clusters(
    libvirt_uri: str, machine_room: None, blank_image: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("modes")
    networks = {
        f"{mode}-{letter}": each for mode, both in MODES.items() for letter, each in zip("ab", both, strict=True)
    }
    made = [
        cluster(blank_image, name, number, **each)
        for number, (name, each) in enumerate({**networks, **OTHERS}.items(), 3)
    ]
    dynamic = cluster(blank_image, "dynamic", 20)
    for each in dynamic["compute_nodes"]:
        each["ip"] = "DHCP"
    with agent(folder / "consul"), scene(folder, *made, dynamic) as found:
        yield found


def tried(scene: Scene, *keys: str, quick: bool = False) -> Report:
    return try_clusters(scene.libvirt, scene.document, keys, as_json=True, quick=quick)


def unpassed(report: Report, result: Result) -> list[str]:
    return [f"{each.name}: {each.detail}" for _, each in report.of(result)]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: " and ".join(pair))
def test_everything_that_two_clusters_promise_is_so(clusters: Scene, pair: tuple[str, str]) -> None:
    report = tried(clusters, *pair)
    assert unpassed(report, Result.FAILED) == []
    assert {each.detail for _, each in report.of(Result.SKIPPED)} <= {"nothing resolves names for the host here"}
    assert report.holds
    kinds = {type(each.action).__name__ for each in report.scenarios}
    assert {"Leased", "Sized", "Owner", "Ping", "Question"} <= kinds
    print(f"{' and '.join(pair)}: {len(report.scenarios)} scenarios in {report.seconds:.1f} s")
    assert report.seconds < WHOLE * BUSY
