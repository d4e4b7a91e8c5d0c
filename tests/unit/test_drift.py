"""What counts as drift of a cluster, of what a host has: without libvirt, without a configuration."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import PurePosixPath
from typing import Any

import pytest

from ai_how.engine.drift import HostWide, find_drift
from ai_how.engine.observe import Observed
from ai_how.host.links import Bridge, read_bridges
from ai_how.plan.plan import make_plan
from ai_how.resources.base import Resource
from ai_how.resources.domain import Domain
from ai_how.resources.firewall import FirewallTable
from ai_how.resources.network import Forward, VirtualNetwork
from ai_how.resources.pool import Pool
from ai_how.resources.route import HostRoute
from ai_how.resources.servers import Servers
from ai_how.resources.sysctl import FORWARDING, Sysctl
from ai_how.resources.volume import Volume
from ai_how.spec.node import Role
from ai_how.spec.policy import Firewall, Policy, Route

PLACE = PurePosixPath("/var/lib/libvirt/images/ai-how-lab")
NETWORK = VirtualNetwork(
    name="lab-network",
    cluster="lab",
    dns_mode="isolated",
    forward=Forward.ROUTE,
    bridge="br-lab",
    mac="52:54:00:00:00:01",
    mtu=None,
    domain="lab.internal",
    subnet=IPv4Network("10.44.0.0/24"),
    gateway=IPv4Address("10.44.0.1"),
    dhcp_ranges=(),
    reservations=(),
    dns_hosts=(),
    forwarders=(),
    dnsmasq_options=(),
    active=True,
    autostart=True,
)
MACHINE = Domain(
    name="lab-controller",
    cluster="lab",
    role=Role.CONTROLLER,
    kvm=False,
    vcpus=1,
    memory_kib=1024,
    disk=PLACE / "lab-controller.qcow2",
    seed=None,
    network="lab-network",
    mac="52:54:00:00:00:02",
    graphics=False,
    running=True,
)
POOL = Pool("ai-how-lab", PLACE, active=True)
DISK = Volume("ai-how-lab", "lab-controller.qcow2", 1, PurePosixPath("/base.qcow2"))
WHOLE: tuple[Resource, ...] = (NETWORK, POOL, DISK, MACHINE)


def drift(*resources: Resource, host: HostWide | None = None) -> list[str]:
    observed = Observed(resources, tuple(each for each in resources if isinstance(each, VirtualNetwork)))
    return [f"{each.kind} {each.key}" for each in find_drift(observed, host or HostWide())]


def test_a_cluster_that_is_as_it_was_made_has_no_drift_up_or_down() -> None:
    assert drift(*WHOLE) == []
    assert drift(replace(NETWORK, active=False, autostart=False), POOL, DISK, replace(MACHINE, running=False)) == []
    assert drift() == []


@pytest.mark.parametrize(
    "changed", [{"saved": False}, {"intact": False}, {"bridged": False}, {"autostart": False}], ids=str
)
def test_a_network_at_work_that_is_not_as_it_was_made_is_named_once(changed: dict[str, Any]) -> None:
    assert drift(replace(NETWORK, **changed), *WHOLE[1:]) == ["network lab-network"]


def test_what_machines_stand_on_is_missed() -> None:
    assert drift(POOL, DISK, MACHINE) == ["network lab-network"]
    assert drift(NETWORK, POOL, MACHINE) == ["volume ai-how-lab/lab-controller.qcow2"]
    assert drift(NETWORK, MACHINE) == ["pool ai-how-lab"]
    assert drift(NETWORK, replace(POOL, active=False), MACHINE) == ["pool ai-how-lab"]
    for changed in (replace(MACHINE, linked=False), replace(MACHINE, saved=False)):
        assert drift(NETWORK, POOL, DISK, changed) == ["domain lab-controller"]
    seeded = replace(MACHINE, seed=PLACE / "lab-controller-0.iso")
    assert drift(NETWORK, POOL, DISK, seeded) == ["seed ai-how-lab/lab-controller-0.iso"]


def test_of_the_host_each_cluster_is_told_what_concerns_it_and_nothing_that_is_only_left_over() -> None:
    need = (
        Sysctl(FORWARDING, "1"),
        FirewallTable((), (), intact=True),
        Servers("lab-network", ("server=8.8.8.8",)),
        Servers("other-network", ("server=8.8.8.8",)),
        HostRoute(IPv4Network("10.98.0.0/24"), IPv4Address("203.0.113.1"), ""),
        HostRoute(IPv4Network("10.99.0.0/24"), IPv4Address("203.0.113.1"), ""),
    )
    have = (Sysctl(FORWARDING, "0"), FirewallTable((), (), intact=False), Servers("gone-network", ()))
    host = HostWide(make_plan(need, have))
    network = replace(NETWORK, policy=Policy(routes=(Route(IPv4Network("10.99.0.0/24"), IPv4Address("203.0.113.1")),)))
    assert sorted(drift(network, *WHOLE[1:], host=host)) == [
        "firewall ai_how",
        "route 10.99.0.0/24",
        "servers lab-network",
        f"sysctl {FORWARDING}",
    ]
    unguarded = replace(NETWORK, policy=Policy(firewall=Firewall(enabled=False)))
    assert drift(unguarded, *WHOLE[1:], host=host) == []


def test_bridges_are_read_with_their_state_and_addresses() -> None:
    # From iproute2 6.1, cut: libvirt's bridge without a machine, up but without carrier, and one that was set down.
    text = json.dumps(
        [
            {
                "ifname": "br-lab",
                "flags": ["NO-CARRIER", "BROADCAST", "MULTICAST", "UP"],
                "operstate": "DOWN",
                "addr_info": [
                    {"family": "inet", "local": "10.44.0.1", "prefixlen": 24, "broadcast": "10.44.0.255"},
                    {"family": "inet6", "local": "fe80::1", "prefixlen": 64},
                ],
            },
            {"ifname": "br-down", "flags": ["BROADCAST", "MULTICAST"], "operstate": "DOWN", "addr_info": []},
            {},
        ]
    )
    assert read_bridges(text) == {
        "br-lab": Bridge(up=True, addresses=frozenset({IPv4Address("10.44.0.1")})),
        "br-down": Bridge(up=False, addresses=frozenset()),
    }
    assert read_bridges("") == {}
