"""Clusters of which only the networks and rules matter: up to a hundred, with a hundred nodes each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from ipaddress import IPv4Network
from typing import Any

from ai_how.compile.cluster import compile_network
from ai_how.compile.host import Surroundings, compile_host
from ai_how.config.load import load_mapping
from ai_how.lab.internet import INTERNET
from ai_how.resources.firewall import FirewallTable
from ai_how.resources.network import Forward, VirtualNetwork
from ai_how.spec.network import DnsMode
from ai_how.spec.resolve import resolve_all

SIZE = 100
NODES = 100

#: Some sixteen million addresses in networks of 254 for nodes.
_SUBNETS = IPv4Network("10.0.0.0/8")

#: Those whose bridges packets pass in `traffic`; all others have the same rules and no bridge.
PLAIN, LETS_IN, PEER, OTHER_PEER = "nat", "lets-in", "peer", "other-peer"

_THERE = {
    PLAIN: DnsMode.ISOLATED,
    LETS_IN: DnsMode.ISOLATED,
    PEER: DnsMode.SHARED_DNS,
    OTHER_PEER: DnsMode.SHARED_DNS,
}


@cache
def networks(clusters: int, nodes: int, modes: Sequence[DnsMode] = tuple(DnsMode)) -> tuple[VirtualNetwork, ...]:
    """The networks of so many clusters, four at least: first those that packets pass, the others in `modes` by turns.

    Each blocks two networks and opens two ports of the host; every other one also exposes two ports of nodes and lets
    two networks in.
    """
    more = {f"other-{number:02}": modes[number % len(modes)] for number in range(clusters - len(_THERE))}
    written = {
        name: _cluster(name, mode, number, nodes, lets_in=number % 2 == 1)
        for number, (name, mode) in enumerate((_THERE | more).items())
    }
    found = {each.name: compile_network(each, active=True) for each in resolve_all(load_mapping({"clusters": written}))}
    return tuple(found[name] for name in written)


def there(nodes: int) -> dict[str, VirtualNetwork]:
    """The networks that packets pass, by cluster; one of them as without a firewall, which is the floor of the rest."""
    found = {each.cluster: each for each in networks(len(_THERE), nodes)}
    return found | {PLAIN: replace(found[PLAIN], forward=Forward.NAT)}


def table(those: Sequence[VirtualNetwork]) -> FirewallTable:
    """What a host in a lab with the pretend internet must have for `those`."""
    wanted = compile_host(those, Surroundings(uplinks=(INTERNET.uplink,)))
    return next(each for each in wanted if isinstance(each, FirewallTable))


def _cluster(name: str, mode: DnsMode, number: int, nodes: int, *, lets_in: bool) -> dict[str, Any]:
    node = {"cpu_cores": 1, "memory_gb": 1, "disk_gb": 1}
    firewall: dict[str, Any] = {
        "allow_host_ports": ["2049/tcp", "123/udp"],
        "block_networks": ["192.168.0.0/16", f"172.16.{number}.0/24"],
    }
    if lets_in:
        firewall["expose"] = [f"{20_000 + 2 * number}:{name}-controller:22", f"{20_001 + 2 * number}:{name}-compute-01"]
        firewall["allow_from"] = [str(INTERNET.uplink_address.network), f"198.18.{number}.0/24"]
    return {
        "name": name,
        "base_image_path": "/images/base.qcow2",
        "network": {
            "subnet": str(IPv4Network((int(_SUBNETS[0]) + (number << 8), 24))),
            "bridge": f"br-b{number}",
            "dns_mode": mode.value,
            "firewall": firewall,
        },
        "controller": node,
        "compute_nodes": {"count": nodes - 1, **node},
    }
