"""Part (g), `add`: 100 nodes' reservations and names into a network of 1,000 that runs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from ai_how.compile.cluster import compile_network
from ai_how.compile.host import Surroundings, compile_host
from ai_how.config.load import load_mapping
from ai_how.host.libvirt import Libvirt
from ai_how.providers import network as networks
from ai_how.providers import servers
from ai_how.resources import xml
from ai_how.resources.network import VirtualNetwork, read_network
from ai_how.resources.servers import Servers
from ai_how.spec.resolve import resolve
from bench.configuration import CLUSTER, SUBNET
from bench.measure import Taken, in_turns, timed
from bench.report import Report, Row, Target

SIZE, MORE = 1_000, 100

#: How many nodes are added one by one: each takes most of a second, so the rest is extrapolated.
ONE_BY_ONE = 5

TARGET = Target(seconds=1.0)

_OURS, _WITH_LOOKS, _DEFINE = "ai-how", "ai-how, looking before and after", "floor: networkDefineXML"


def measure(report: Report, *, size: int = SIZE, more: int = MORE, rounds: int) -> None:
    """What the provider of networks takes beside libvirt's own ways: to define it all at once, which changes nothing
    that runs, and to update what runs for one node at a time.

    Runs in a lab, as root. Raises RuntimeError where libvirt's definition is not the truth afterwards.
    """
    few, many = _network(size), _network(size + more)
    with Libvirt() as libvirt:
        [files] = [each for each in compile_host([few], Surroundings()) if isinstance(each, Servers)]
        servers.create(libvirt, files)
        networks.create(libvirt, few)
        try:
            runs = {
                _OURS: partial(_change, libvirt, few, many),
                _WITH_LOOKS: partial(_look_and_change, libvirt, few, many),
                _DEFINE: partial(_define, libvirt, few, many),
                _one_by_one(more): partial(_update, libvirt, few, many),
            }
            taken = in_turns(runs, rounds)
        finally:
            networks.remove(libvirt, few)
            servers.remove(libvirt, files)
    work = f"adding {more:,} nodes to a running network of {size:,}"
    floor = Row("add", work, _DEFINE, taken[_DEFINE])
    report.rows += [
        floor,
        Row("add", work, _one_by_one(more), taken[_one_by_one(more)], floor.wall),
        Row("add", work, _OURS, taken[_OURS], floor.wall, TARGET),
        Row("add", work, _WITH_LOOKS, taken[_WITH_LOOKS], floor.wall),
    ]


def _one_by_one(more: int) -> str:
    return f"net-update for each, extrapolated from {min(ONE_BY_ONE, more)}"


def _network(nodes: int) -> VirtualNetwork:
    machine = {"cpu_cores": 1, "memory_gb": 1, "disk_gb": 1}
    cluster = {
        "name": CLUSTER,
        "base_image_path": "/images/base.qcow2",
        # Room for all of them from the beginning: a range that grows takes dnsmasq a start.
        "network": {"subnet": SUBNET, "bridge": f"br-{CLUSTER}", "dhcp_end": "10.66.31.254"},
        "controller": machine,
        "compute_nodes": {"count": nodes - 1, **machine},
    }
    return compile_network(resolve(load_mapping({"clusters": {"hpc": cluster}}), "hpc"), active=True)


def _change(libvirt: Libvirt, few: VirtualNetwork, many: VirtualNetwork) -> Taken:
    taken = timed(lambda: networks.change(libvirt, few, many))
    text = libvirt.connection.networkLookupByName(many.name).XMLDesc(libvirt.api.VIR_NETWORK_XML_INACTIVE)
    if read_network(text, active=True, autostart=True) != many or networks.observe(libvirt, CLUSTER) != [many]:
        raise RuntimeError("the network is not as it shall be")
    networks.change(libvirt, many, few)
    return taken


def _look_and_change(libvirt: Libvirt, few: VirtualNetwork, many: VirtualNetwork) -> Taken:
    def work() -> None:
        [have] = networks.observe(libvirt, CLUSTER)
        networks.change(libvirt, have, many)
        if networks.observe(libvirt, CLUSTER) != [many]:
            raise RuntimeError("the network is not as it shall be")

    taken = timed(work)
    networks.change(libvirt, many, few)
    return taken


def _define(libvirt: Libvirt, few: VirtualNetwork, many: VirtualNetwork) -> Taken:
    text = many.to_xml()
    taken = timed(lambda: libvirt.connection.networkDefineXML(text))
    libvirt.connection.networkDefineXML(few.to_xml())
    return taken


def _update(libvirt: Libvirt, few: VirtualNetwork, many: VirtualNetwork) -> Taken:
    """Some of the nodes by bare libvirt, times as many as there are more."""
    api, handle = libvirt.api, libvirt.connection.networkLookupByName(few.name)
    flags = api.VIR_NETWORK_UPDATE_AFFECT_LIVE | api.VIR_NETWORK_UPDATE_AFFECT_CONFIG
    both = (
        (api.VIR_NETWORK_SECTION_IP_DHCP_HOST, _new(few.reservations, many.reservations)),
        (api.VIR_NETWORK_SECTION_DNS_HOST, _new(few.dns_hosts, many.dns_hosts)),
    )

    def update(command: int) -> None:
        for section, entries in both:
            for each in entries[:ONE_BY_ONE]:
                handle.update(command, section, -1, xml.render(each.to_element()), flags)

    taken = timed(lambda: update(api.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST))
    update(api.VIR_NETWORK_UPDATE_COMMAND_DELETE)
    times = len(both[0][1]) / len(both[0][1][:ONE_BY_ONE])
    return replace(taken, wall=taken.wall * times, cpu=taken.cpu * times)


def _new(few: tuple[Any, ...], many: tuple[Any, ...]) -> list[Any]:
    known = frozenset(few)
    return [each for each in many if each not in known]
