"""Every DNS mode against every other, tried with packets in a lab: two clusters of each mode and two that let the LAN
in, brought up by the engine, with endpoints in place of their machines.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ai_how.config.load import Document, load_mapping
from ai_how.engine import cluster as engine
from ai_how.host.libvirt import Libvirt
from ai_how.host.process import output
from ai_how.lab import INTERNET
from ai_how.probe import registry
from ai_how.probe.columns import Column, cell
from ai_how.probe.endpoint import LINK, Endpoint, endpoint
from ai_how.probe.expectations import HOST, LAN, Expectation, Outside, Side
from ai_how.probe.judge import Result, Scenario
from ai_how.probe.place import here, named
from ai_how.probe.private6 import gateway6, node6
from ai_how.probe.responder import Responder, tap
from ai_how.probe.run import Spot, run
from ai_how.probe.standing import ways_in
from ai_how.spec.cluster import Cluster
from ai_how.spec.network import DnsMode
from ai_how.spec.resolve import resolve_all

AROUND = Outside(
    uplink=INTERNET.uplink_address.ip,
    lan=INTERNET.router,
    resolver=INTERNET.resolvers[0],
    web=INTERNET.web,
    name=INTERNET.name,
)

_SHORT = {
    DnsMode.ISOLATED: "isolated",
    DnsMode.SHARED_DNS: "shared",
    DnsMode.ROUTED: "routed",
    DnsMode.SERVICE_DISCOVERY: "discovery",
}
#: The clusters that let the LAN in, and how.
_OPEN = {"isolated-open": "isolated with allow_from", "routed-open": "routed with a route"}

ITSELF = "itself"

_FORWARDING6 = "net/ipv6/conf/all/forwarding"

#: Told what is being done, and how many of how many of it are done.
Told = Callable[[str, int, int], None]


def silent(_what: str, _done: int, _of: int) -> None:
    """For those who do not want to know."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the matrix: what `a` may reach of `b`, which may be itself; `frm` and `to` are words for them."""

    frm: str
    to: str
    a: Side
    b: Side

    @property
    def name(self) -> str:
        """Both words."""
        return f"{self.frm} → {self.to}"


@dataclass(frozen=True, slots=True)
class Field:
    """The clusters as they stand, the places to send from, and what is around them."""

    clusters: Mapping[str, Cluster]
    spots: Mapping[str, Spot]
    around: Outside = AROUND

    @property
    def opened(self) -> Side:
        """The cluster that lets the LAN in."""
        return Side.of(self.clusters["isolated-open"])

    def rows(self) -> list[Row]:
        """Each mode by itself, each mode against each, and the clusters that let the LAN in."""
        modes = [mode for mode in DnsMode if f"{_SHORT[mode]}-a" in self.clusters]
        first = {mode: Side.of(self.clusters[f"{_SHORT[mode]}-a"]) for mode in modes}
        second = {mode: Side.of(self.clusters[f"{_SHORT[mode]}-b"]) for mode in modes}
        found: list[Row] = []
        for mode in modes:
            found.append(Row(mode.value, ITSELF, first[mode], first[mode]))
            found += [Row(mode.value, other.value, first[mode], second[other]) for other in modes]
        for name, what in _OPEN.items():
            side = Side.of(self.clusters[name])
            found.append(Row(what, ITSELF, side, side))
        return found

    def cells(self) -> dict[tuple[str, Column], list[Expectation]]:
        """What is expected in each cell, by the name of its row and its column."""
        return {
            (row.name, column): cell(column, row.a, row.b, self.around, self.opened)
            for row in self.rows()
            for column in Column
        }


@dataclass(frozen=True, slots=True)
class Matrix:
    """What came out: the expectations of each cell, and what became of every one of them and of their controls."""

    rows: Sequence[Row]
    cells: Mapping[tuple[str, Column], list[Expectation]]
    scenarios: Mapping[Expectation, Scenario]

    def of(self, row: str, column: Column) -> list[Scenario]:
        """The scenarios of one cell."""
        return [self.scenarios[each] for each in self.cells[row, column]]

    def result(self, row: str, column: Column) -> Result:
        """`failed` if one of the cell's scenarios did, `skipped` if one could not be tested that a lab can test."""
        found = [(each, self.scenarios[each].result) for each in self.cells[row, column]]
        if any(result is Result.FAILED for _, result in found):
            return Result.FAILED
        untested = any(result is Result.SKIPPED and not each.missing for each, result in found)
        return Result.SKIPPED if untested else Result.PASSED

    @property
    def holds(self) -> bool:
        """Whether everything is as promised: what could not be tested, though a lab can test it, is not."""
        return self.count(Result.FAILED) == 0 and all(self.result(*each) is Result.PASSED for each in self.cells)

    def count(self, result: Result) -> int:
        """How many scenarios ended so."""
        return sum(each.result is result for each in self.scenarios.values())

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        counts = {each.value: self.count(each) for each in Result}
        cells = [
            {
                "row": row,
                "column": column.value,
                "result": self.result(row, column).value,
                "scenarios": [each.name for each in self.of(row, column)],
            }
            for row, column in self.cells
        ]
        return {**counts, "scenarios": [each.to_json() for each in self.scenarios.values()], "cells": cells}


def try_all(field: Field, told: Told = silent) -> Matrix:
    """Every cell, tried now."""
    cells = field.cells()
    wanted = [each for some in cells.values() for each in some]
    return Matrix(field.rows(), cells, run(wanted, field.spots, lambda done, of: told("trying", done, of)))


@contextmanager
def standing(
    libvirt: Libvirt, told: Told = silent, modes: Collection[DnsMode] = tuple(DnsMode), *, remove: bool = True
) -> Iterator[Field]:
    """The clusters of `modes` and those that let the LAN in, with their endpoints, for the length of a `with` block.

    A Consul is run where one is installed.
    Only for a lab with its internet: the host's IPv6 is turned on, and the LAN gets routes into every cluster. Nothing
    of it is left afterwards, but for the clusters where they are not to be removed: the lab ends with them.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ai-how-matrix-")))
        image = folder / "blank.qcow2"
        output(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1M"])
        document = document_of(image, modes)
        site = engine.Site(libvirt, folder / "state.json")
        if registry.installed():
            stack.enter_context(registry.agent(folder))
        clusters = {each.name: each for each in resolve_all(document)}
        for number, (name, each) in enumerate(clusters.items()):
            told("bringing up", number, len(clusters))
            if remove:
                stack.callback(engine.destroy, site, name)
            engine.up(site, document, each.key, start=False, wait=False)
        told("bringing up", len(clusters), len(clusters))
        spots = _spots(stack, list(clusters.values()), told)
        if registry.installed():
            registry.wait_for_nodes(clusters.values(), folder)
        yield Field(clusters, spots, replace(AROUND, consul=registry.installed()))


def document_of(image: Path, modes: Collection[DnsMode] = tuple(DnsMode)) -> Document:
    """The configuration of the clusters."""
    lan = str(INTERNET.uplink_address.network)
    clusters: dict[str, tuple[DnsMode, dict[str, Any]]] = {}
    for mode in modes:
        for letter in "ab":
            clusters[f"{_SHORT[mode]}-{letter}"] = (mode, {})
    clusters["isolated-open"] = (DnsMode.ISOLATED, {"firewall": {"allow_from": [lan]}})
    clusters["routed-open"] = (DnsMode.ROUTED, {"routes": [{"to": lan}]})
    return load_mapping(
        {
            "clusters": {
                name: _cluster(name, number, image, *what) for number, (name, what) in enumerate(clusters.items())
            }
        }
    )


def _cluster(name: str, number: int, image: Path, mode: DnsMode, more: dict[str, Any]) -> dict[str, Any]:
    machine = {"cpu_cores": 1, "memory_gb": 0.125, "disk_gb": 1}
    network: dict[str, Any] = {
        "subnet": f"10.71.{number + 1}.0/24",
        "bridge": f"br-{name}"[:15],
        "dns_mode": mode.value,
        **more,
    }
    if mode is DnsMode.SHARED_DNS:
        network["host_resolver"] = "none"
    if mode is DnsMode.SERVICE_DISCOVERY:
        network["service_discovery"] = {"required": False, "check": {"port": AROUND.node_port, "interval": 1}}
    return {
        "name": name,
        "base_image_path": str(image),
        "network": network,
        "controller": machine,
        "compute_nodes": [machine],
    }


def _spots(stack: ExitStack, clusters: list[Cluster], told: Told) -> dict[str, Spot]:
    spots = {}
    nodes = [(each, node) for each in clusters for node in each.nodes]
    host = stack.enter_context(here(HOST))
    lan = stack.enter_context(named(INTERNET.namespace))
    _prepare_host(stack, clusters)
    # A machine outside that knows the way to every cluster: only rules keep it out.
    stack.enter_context(ways_in([each.network for each in clusters], AROUND))
    with ThreadPoolExecutor(4) as workers:
        entered = workers.map(
            lambda pair: stack.enter_context(endpoint(pair[0].network.bridge, pair[1].mac, name=pair[1].name)), nodes
        )
        for number, ((each, node), there) in enumerate(zip(nodes, entered, strict=True)):
            told("taking leases", number + 1, len(nodes))
            _give_ipv6(there, each)
            spots[node.name] = Spot(there.place, LINK, stack.enter_context(tap(there.place, LINK)), there.lease)
    responder = stack.enter_context(Responder())
    for spot in spots.values():
        responder.listen(spot.place, AROUND.node_port)
    responder.listen(lan, AROUND.lan_port)
    responder.listen(host, AROUND.host_port)
    responder.listen(host, AROUND.uplink_port, AROUND.uplink)
    spots[HOST] = Spot(host)
    spots[LAN] = Spot(lan, INTERNET.uplink, stack.enter_context(tap(lan, INTERNET.uplink)))
    return spots


def _prepare_host(stack: ExitStack, clusters: list[Cluster]) -> None:
    """The worst neighbour: somebody has given our bridges IPv6, and has the host forward it."""
    forwarding = Path("/proc/sys", _FORWARDING6)
    before = forwarding.read_text()
    stack.callback(forwarding.write_text, before)
    forwarding.write_text("1")
    for each in clusters:
        link = each.network.bridge
        # libvirt turns it off. Without duplicate address detection, which would hold addresses back for a second.
        for setting in ("accept_dad", "disable_ipv6"):
            Path(f"/proc/sys/net/ipv6/conf/{link}/{setting}").write_text("0")
        output(["ip", "-6", "addr", "add", str(gateway6(each.network)), "dev", link, "nodad"])


def _give_ipv6(there: Endpoint, cluster: Cluster) -> None:
    there.place.run(
        ["ip", "-6", "-batch", "-"],
        text=f"addr add {node6(cluster.network, there.ip)} dev {LINK} nodad\n"
        f"route add default via {gateway6(cluster.network).ip}\n",
    )
