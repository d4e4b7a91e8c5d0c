"""What clusters on one host must not do to each other, whether they come from one file or from several.

Overlapping subnets, equal names and shared bridges are elsewhere (spec/rules.py, spec/known.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from ai_how.config.terms import DnsMode
from ai_how.errors import Path, Problem
from ai_how.spec.cluster import Cluster
from ai_how.spec.policy import Port

#: The modes whose clusters are one with the others of the same mode on this host.
SOCIAL = frozenset({DnsMode.SHARED_DNS, DnsMode.ROUTED})

_EVERYTHING = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What others must know of a cluster. `host_ports` are the exposed ones, `routes` the networks
    declared, `vias` their routers in the same order."""

    cluster: str
    mode: DnsMode
    domain: str
    subnet: IPv4Network
    gateway: IPv4Address
    host_ports: tuple[Port, ...] = ()
    routes: tuple[IPv4Network, ...] = ()
    vias: tuple[IPv4Address | None, ...] = ()
    allow_from: tuple[IPv4Network, ...] = ()
    dns_servers: tuple[IPv4Address | IPv6Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Clash:
    """Something that two clusters cannot both have. `at` is a path inside the first one's `network`."""

    at: Path
    message: str
    hint: str


def neighbour(cluster: Cluster) -> Neighbour:
    """What others must know of `cluster`."""
    network, policy = cluster.network, cluster.network.policy
    return Neighbour(
        cluster=cluster.name,
        mode=network.dns_mode,
        domain=network.domain,
        subnet=network.subnet,
        gateway=network.gateway,
        host_ports=tuple(each.host for each in policy.firewall.expose),
        routes=tuple(each.to for each in policy.routes),
        vias=tuple(each.via for each in policy.routes),
        allow_from=policy.firewall.allow_from,
        dns_servers=network.dns_servers,
    )


def problems_with(cluster: Cluster, others: Iterable[Neighbour]) -> list[Problem]:
    """Why `cluster` cannot be beside `others`, which the host has already. The cluster itself is left out of them."""
    one = neighbour(cluster)
    known = [other for other in others if other.cluster != cluster.name]
    found = [
        *clashes(one, known),
        *shared_clashes(one, known),
        *(clash for other in known for clash in _led(one, other)),
    ]
    root: Path = ("clusters", cluster.key, "network")
    # An index would be that of the sorted spec, not of the configuration.
    paths = [(*root, *(part for part in clash.at if not isinstance(part, int))) for clash in found]
    return [Problem(path, clash.message, clash.hint) for path, clash in zip(paths, found, strict=True)]


def clashes(one: Neighbour, others: Iterable[Neighbour]) -> Iterator[Clash]:
    """What `one` takes from others: a route or an entrance over their subnets, their gateways as DNS servers."""
    for other in others:
        for i, route in enumerate(one.routes):
            if route.overlaps(other.subnet) and route != _EVERYTHING:
                message = f"the route to {route} overlaps {other.subnet} of the cluster {other.cluster}"
                if {one.mode, other.mode} == {DnsMode.ROUTED}:
                    hint = "leave it out: clusters in mode routed reach each other without"
                else:
                    hint = f"write a route that leaves {other.subnet} out"
                yield Clash(("routes", i), message, hint)
        for i, network in enumerate(one.allow_from):
            if network.overlaps(other.subnet) and network != _EVERYTHING:
                message = f"allow_from {network} overlaps {other.subnet} of the cluster {other.cluster}"
                hint = f"write networks outside that leave {other.subnet} out; who meets whom is up to dns_mode"
                yield Clash(("firewall", "allow_from", i), message, hint)
        for i, server in enumerate(one.dns_servers):
            if server == other.gateway != one.gateway:
                message = f"the DNS server {server} is the gateway of the cluster {other.cluster}"
                hint = "leave it out: clusters in the same mode, shared_dns or routed, know each other's names by that"
                yield Clash(("dns_servers", i), message, hint)


def shared_clashes(one: Neighbour, others: Iterable[Neighbour]) -> Iterator[Clash]:
    """What both have and only one can: a port of the host, the way to a network, a zone."""
    for other in others:
        ways = dict(zip(other.routes, other.vias, strict=False)) if one.vias else {}
        taken = set(other.host_ports) if one.host_ports else set()
        for i, (route, via) in enumerate(zip(one.routes, one.vias, strict=False)):
            way = ways.get(route)
            if via is not None and way is not None and via != way:
                message = f"the cluster {other.cluster} routes {route} via {way}, and a host has one way"
                yield Clash(("routes", i), message, "write the same router in both")
        for i, port in enumerate(one.host_ports):
            if port in taken:
                message = f"port {port.number}/{port.protocol} of the host is exposed by the cluster {other.cluster}"
                yield Clash(("firewall", "expose", i), message, "write another host_port")
        if one.mode in SOCIAL and one.mode is other.mode:
            yield from _same_zone(one, other)


def _same_zone(one: Neighbour, other: Neighbour) -> Iterator[Clash]:
    if one.domain == other.domain:
        message = f"the domain {one.domain} is that of the cluster {other.cluster}: peers cannot tell them apart"
    elif one.domain.endswith(f".{other.domain}") or other.domain.endswith(f".{one.domain}"):
        message = (
            f"of the domains {one.domain} and {other.domain} (cluster {other.cluster}) one hides names of the other"
        )
    else:
        return
    usual = f"{one.cluster}.internal"
    inside = other.domain in ("internal", usual) or other.domain.endswith(f".{usual}")
    better = f"{one.cluster}.test" if inside else usual
    yield Clash(("domain",), message, f"write for example domain: {better}")


def _led(one: Neighbour, other: Neighbour) -> Iterator[Clash]:
    for route in other.routes:
        if route.overlaps(one.subnet):
            message = f"{one.subnet} overlaps {route}, to which the cluster {other.cluster} declares a route"
            yield Clash(
                ("subnet",), message, "write a subnet outside it, or take the route away from that cluster first"
            )
