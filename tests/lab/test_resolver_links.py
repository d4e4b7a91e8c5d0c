"""What is particular to systemd-resolved: it forgets a link with the bridge, and others have a say in it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.lab.naming import Up, cluster, up
from tests.lab.resolvers import LOST, Host, resolving_by, succeeds, told
from tests.waiting import COMES_WITHIN, until

from ai_how.host import memory
from ai_how.host import resolver as host
from ai_how.providers import network as networks
from ai_how.providers import resolver as routes
from ai_how.resources.resolver import write_links

NAME, ADDRESS = "link-a-controller.link-a.internal", "10.84.0.2"


@pytest.fixture(params=["systemd_resolved"])
def resolving(request: pytest.FixtureRequest, libvirt_uri: str) -> Iterator[Host]:
    with resolving_by(request.param) as made:
        yield made


@pytest.fixture
def pair(resolving: Host) -> Iterator[Up]:
    with up(cluster("link-a", "10.84.0.0/24"), cluster("link-b", "10.85.0.0/24")) as made:
        yield made


def recreate(pair: Up, name: str) -> None:
    """The bridge goes and comes back; the machine is put on it again."""
    networks.remove(pair.libvirt, pair.networks[name])
    networks.create(pair.libvirt, pair.networks[name])
    subprocess.run(["ip", "link", "set", f"of-{name}", "master", f"br-{name}"], check=True)


def test_a_route_that_was_lost_with_its_bridge_is_a_difference_and_is_made_again(resolving: Host, pair: Up) -> None:
    with told(pair, resolving.manager) as want:
        until(lambda: resolving.asks(NAME)[1] == [ADDRESS], "it knows the name", passing=LOST)
        recreate(pair, "link-a")
        seen = routes.observe(pair.libvirt, "")
        assert seen == [replace(want[0], zones=()), want[1]]
        until(lambda: resolving.asks(NAME) == resolving.unknown, "it has forgotten it", passing=LOST)
        routes.change(pair.libvirt, seen[0], want[0])
        assert routes.observe(pair.libvirt, "") == want
        until(lambda: resolving.asks(NAME)[1] == [ADDRESS], "it knows it again", passing=LOST)


def test_a_network_that_is_stopped_is_no_difference_for_it_comes_back_by_the_hook(resolving: Host, pair: Up) -> None:
    with told(pair, resolving.manager) as want:
        networks.change(
            pair.libvirt, pair.networks["link-a"], replace(pair.networks["link-a"], active=False, autostart=False)
        )
        assert routes.observe(pair.libvirt, "") == want
        routes.create(pair.libvirt, want[0])  # nothing to tell it yet


def test_the_hook_finds_in_our_memory_what_to_say_again(resolving: Host, pair: Up) -> None:
    links = memory.DIRECTORY / "resolver.links"
    with told(pair, resolving.manager) as want:
        assert links.read_text() == write_links(want)
        links.unlink()
        lost = [replace(each, zones=()) for each in want]
        assert routes.observe(pair.libvirt, "") == lost
        routes.change(pair.libvirt, lost[0], want[0])
        assert routes.observe(pair.libvirt, "") == want
        routes.remove(pair.libvirt, want[0])
        assert links.read_text() == write_links(want[1:])
    assert not links.exists()


def test_what_somebody_else_told_it_is_a_difference(resolving: Host, pair: Up) -> None:
    with told(pair, resolving.manager) as want:
        for words in (
            ("domain", "br-link-a", "~other.example"),
            ("dns", "br-link-a", "192.0.2.1"),
            ("revert", "br-link-a"),
        ):
            assert succeeds("resolvectl", *words)
            seen = routes.observe(pair.libvirt, "")
            assert seen[0] != want[0]
            assert seen[1] == want[1]
            routes.change(pair.libvirt, seen[0], want[0])
            assert routes.observe(pair.libvirt, "") == want


def test_who_may_not_ask_is_told_what_was_applied_last(
    resolving: Host, pair: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    with told(pair, resolving.manager) as want:
        monkeypatch.setenv("PATH", "/nonexistent")
        assert {each.zones for each in routes.observe(pair.libvirt, "")} == {()}  # root sees that it is not so
        os.seteuid(65534)
        try:
            assert routes.observe(pair.libvirt, "") == want
        finally:
            os.seteuid(0)
        for each in want:  # and it can be taken back though nobody is there to be told
            routes.remove(pair.libvirt, each)
        monkeypatch.undo()
        assert routes.observe(pair.libvirt, "") == []


@pytest.mark.parametrize("resolving", ["resolved_beside_networkmanager"], indirect=True)
def test_networkmanager_beside_it_leaves_alone_what_it_was_told_of_our_bridges(resolving: Host, pair: Up) -> None:
    """NetworkManager tells systemd-resolved of its own connections, and takes that back; our bridge is connected for
    it, too, but by somebody else."""
    made = "type ethernet ifname vpn-a con-name vpn ipv4.method manual ipv4.addresses 192.0.2.5/24 ipv4.dns 192.0.2.1"
    subprocess.run(["ip", "link", "add", "vpn-a", "type", "veth", "peer", "name", "vpn-b"], check=True)
    subprocess.run(["ip", "link", "set", "vpn-b", "up"], check=True)
    try:
        until(lambda: succeeds("nmcli", "device", "show", "vpn-a"), "it knows the link")
        until(lambda: "br-link-a:bridge:connected" in said("nmcli", "--terse", "device"), "it has seen the bridge")
        said("nmcli", "connection", "add", *made.split())
        with told(pair, resolving.manager) as want:
            for what, servers in (("up", ("192.0.2.1",)), ("down", ())):
                said("nmcli", "--wait", f"{COMES_WITHIN:.0f}", "connection", what, "vpn")
                until(lambda: host.links()["vpn-a"].servers == servers, "systemd-resolved was told")  # noqa: B023
                assert routes.observe(pair.libvirt, "") == want
                said("ip", "link", "set", "of-link-b", "nomaster")  # a machine stops
            until(lambda: resolving.asks(NAME)[1] == [ADDRESS], "it knows the name", passing=LOST)
    finally:
        subprocess.run(["ip", "link", "del", "vpn-a"], check=True)


def said(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=2 * COMES_WITHIN).stdout
