"""Routes of the host to declared networks: set with our mark, removed by it, those of others left alone."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network

import pytest

from ai_how.errors import HostError, NotOurs
from ai_how.host import memory
from ai_how.host.libvirt import Libvirt
from ai_how.host.routes import find_way, list_routes, read_uplinks
from ai_how.lab import Internet
from ai_how.providers import route as provider
from ai_how.resources.route import HostRoute

TO = IPv4Network("10.77.0.0/16")

INNER = """
<network><name>inner</name><bridge name='inner' stp='off' delay='0'/>
  <ip address='10.250.0.1' netmask='255.255.255.0'/></network>
"""


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def libvirt(libvirt_uri: str) -> Iterator[Libvirt]:
    with Libvirt(libvirt_uri) as opened:
        yield opened
        for left in provider.observe(opened, ""):
            provider.remove(opened, left)


@pytest.fixture
def wanted(internet: Internet) -> HostRoute:
    return HostRoute(TO, internet.router, "")


@pytest.mark.usefixtures("clean_host")
def test_route_is_there_with_our_mark_and_gone_after(libvirt: Libvirt, wanted: HostRoute) -> None:
    assert provider.observe(libvirt, "") == []
    for _ in range(2):
        provider.create(libvirt, wanted)
    assert provider.observe(libvirt, "") == [wanted]
    assert ip("route", "show", str(TO)).split() == f"{TO} via {wanted.via} dev uplink proto 97".split()
    for _ in range(2):
        provider.remove(libvirt, wanted)
    assert (provider.observe(libvirt, ""), ip("route", "show", str(TO))) == ([], "")


@pytest.mark.usefixtures("clean_host")
def test_route_takes_another_router_and_goes_back(libvirt: Libvirt, wanted: HostRoute) -> None:
    other = HostRoute(TO, IPv4Address("203.0.113.9"), "")
    provider.create(libvirt, wanted)
    provider.change(libvirt, wanted, other)
    assert provider.observe(libvirt, "") == [other]
    provider.change(libvirt, other, wanted)
    assert provider.observe(libvirt, "") == [wanted]
    assert len(ip("route", "show", str(TO)).splitlines()) == 1
    provider.remove(libvirt, wanted)


@pytest.mark.usefixtures("clean_host")
def test_route_that_the_kernel_lost_is_seen_and_set_again(libvirt: Libvirt, wanted: HostRoute) -> None:
    provider.create(libvirt, wanted)
    ip("route", "del", str(TO))
    lost = HostRoute(TO, wanted.via, "", present=False)
    assert provider.observe(libvirt, "") == [lost]
    provider.change(libvirt, lost, wanted)
    assert provider.observe(libvirt, "") == [wanted]
    ip("route", "del", str(TO))
    provider.remove(libvirt, lost)
    assert provider.observe(libvirt, "") == []


@pytest.mark.usefixtures("clean_host")
def test_route_by_a_node_waits_for_its_network(libvirt: Libvirt) -> None:
    by_node = HostRoute(TO, IPv4Address("10.250.0.9"), "inner")
    network = libvirt.connection.networkCreateXML(INNER)
    try:
        provider.create(libvirt, by_node)
        assert provider.observe(libvirt, "") == [by_node]
        network.destroy()
        assert ip("route", "show", str(TO)) == ""
        assert provider.observe(libvirt, "") == [by_node]
        network = libvirt.connection.networkCreateXML(INNER)
        assert provider.observe(libvirt, "") == [replace(by_node, present=False)]
        provider.remove(libvirt, by_node)
    finally:
        network.destroy()


@pytest.mark.usefixtures("clean_host")
def test_route_that_nobody_remembers_is_seen_and_remembered_again(libvirt: Libvirt, wanted: HostRoute) -> None:
    provider.create(libvirt, wanted)
    for path in memory.DIRECTORY.glob("routes*"):
        path.unlink()
    assert provider.observe(libvirt, "") == [replace(wanted, present=False)]
    provider.change(libvirt, replace(wanted, present=False), wanted)
    assert provider.observe(libvirt, "") == [wanted]
    provider.remove(libvirt, wanted)


@pytest.mark.usefixtures("clean_host")
@pytest.mark.parametrize(
    ("name", "text"), [("routes.batch", ""), ("routes.json", "[1, 2]"), ("routes.json", '{"a": 1}')]
)
def test_route_that_would_not_come_back_with_its_link_differs(
    libvirt: Libvirt, wanted: HostRoute, name: str, text: str
) -> None:
    provider.create(libvirt, wanted)
    (memory.DIRECTORY / name).write_text(text)
    lost = replace(wanted, present=False)
    assert provider.observe(libvirt, "") == [lost]
    provider.change(libvirt, lost, wanted)
    assert provider.observe(libvirt, "") == [wanted]
    provider.remove(libvirt, wanted)


@pytest.mark.usefixtures("clean_host")
def test_routes_set_side_by_side_are_all_remembered(libvirt: Libvirt, internet: Internet) -> None:
    wanted = [HostRoute(IPv4Network(f"10.78.{each}.0/24"), internet.router, "") for each in range(20)]
    with ThreadPoolExecutor(len(wanted)) as workers:
        for work in (provider.create, provider.remove):
            list(workers.map(partial(work, libvirt), wanted))
            left = wanted if work is provider.create else []
            assert provider.observe(libvirt, "") == left
            assert len(memory.recall("routes.json") or {}) == len(left)


@pytest.mark.usefixtures("clean_host")
def test_batch_for_the_hook_sets_the_same_routes(libvirt: Libvirt, wanted: HostRoute) -> None:
    provider.create(libvirt, wanted)
    ip("route", "del", str(TO))
    ip("-batch", str(memory.DIRECTORY / "routes.batch"))
    assert provider.observe(libvirt, "") == [wanted]
    provider.remove(libvirt, wanted)


@pytest.mark.usefixtures("clean_host")
def test_route_of_somebody_else_is_named_and_stays(libvirt: Libvirt, wanted: HostRoute) -> None:
    ip("route", "add", str(TO), "via", "203.0.113.9")
    try:
        theirs = ip("route", "show", str(TO))
        owner = "a route by 203.0.113.9 on uplink that ai-how did not set"
        assert provider.foreign(libvirt, [str(TO), "10.78.0.0/16"]) == {str(TO): owner}
        with pytest.raises(NotOurs, match=owner):
            provider.create(libvirt, wanted)
        provider.remove(libvirt, wanted)
        assert ip("route", "show", str(TO)) == theirs
    finally:
        ip("route", "del", str(TO))


@pytest.mark.usefixtures("clean_host")
def test_router_that_is_not_on_a_link_is_named_with_the_reason(libvirt: Libvirt) -> None:
    with pytest.raises(HostError, match=r"no route to 10\.77\.0\.0/16 by 10\.250\.0\.1: .*invalid gateway"):
        provider.create(libvirt, HostRoute(TO, IPv4Address("10.250.0.1"), ""))
    assert provider.observe(libvirt, "") == []
    assert list(memory.DIRECTORY.glob("routes*")) == []


def test_uplinks_and_ways_of_this_host_are_found(internet: Internet) -> None:
    assert read_uplinks(list_routes()) == (internet.uplink,)
    for target in (internet.router, internet.web, TO):
        way = find_way(target)
        assert way is not None
        assert (way.link, way.source) == (internet.uplink, internet.uplink_address.ip)
    assert find_way(internet.uplink_address.ip) is None


def test_address_without_a_way_has_none() -> None:
    ip("route", "add", "unreachable", "10.99.0.0/16")
    try:
        assert find_way(IPv4Address("10.99.0.1")) is None
    finally:
        ip("route", "del", "unreachable", "10.99.0.0/16")
