"""What is expected: a thing to try, who tries it towards whom, and whether it shall pass; and the clusters and the
surroundings that it is derived from. Pure.

A denial is worth something only beside its controls (controls.py): the same packet, sent by somebody who may, arrives
in the same run, and so does another packet of the same sender.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, ip_address

from ai_how.config.terms import Egress
from ai_how.probe.actions import Action
from ai_how.spec.cluster import Cluster
from ai_how.spec.neighbours import SOCIAL
from ai_how.spec.network import Network
from ai_how.spec.node import Node

#: Places that are no nodes.
HOST, LAN = "host", "lan"


class Expect(StrEnum):
    """What the configuration promises."""

    PASS = "pass"  # noqa: S105 - the word of the report
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Expectation:
    """`action`, done at place `frm` towards `to` (words for people), shall pass or be denied, because of `why`.

    `controls` must pass in the same run for a denial to count. So must what it `needs`, also for a failure to count:
    what the host itself cannot reach is nobody's fault here. At place `watched` the packet shall arrive, or not.
    `missing` says why it cannot be tested here.
    """

    frm: str
    to: str
    action: Action
    expect: Expect
    why: str
    controls: tuple[Expectation, ...] = ()
    watched: str | None = None
    missing: str = ""
    needs: tuple[Expectation, ...] = ()

    @property
    def name(self) -> str:
        """Unique in a run."""
        return f"{self.frm} → {self.to}: {self.action}"


@dataclass(frozen=True, slots=True)
class Outside:
    """What is around the clusters of a run: addresses, and the ports at which responders answer.

    `uplink` is the host's address outside, None where it has none; `lan` another machine's there. `host_port` is
    answered on every address of the host, `uplink_port` on `uplink` alone, `node_port` by every node, `lan_port` by
    that machine. What leaves the host by its uplink is seen at the place `watch`; so would be packets to the addresses
    `by_uplink`. `host_dns` is the host's own resolver.

    In a lab all of it is known. Elsewhere the host may not reach `resolver` itself (`connected`), nodes may not talk to
    the stand-in for that machine (`lan_answers`), nobody gives our bridges IPv6 (`ipv6`), and `name` has whatever
    addresses it has (`exact`).
    """

    uplink: IPv4Address | None
    lan: IPv4Address
    resolver: IPv4Address
    web: IPv4Address | None
    name: str
    node_port: int = 7000
    lan_port: int = 7001
    host_port: int = 7777
    uplink_port: int = 7778
    consul: bool = False
    watch: str = LAN
    by_uplink: frozenset[IPv4Address] = frozenset()
    host_dns: IPv4Address | None = None
    lan_answers: bool = True
    connected: bool = True
    ipv6: bool = True
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Side:
    """A cluster as packets are sent from it and to it. `nodes` are those that have a place to send from, with their
    addresses, two at least; `named` are those whose names and addresses are known to be reserved."""

    cluster: Cluster
    nodes: tuple[Node, ...]

    @staticmethod
    def of(cluster: Cluster) -> Side:
        """The cluster with a place for each of its nodes."""
        return Side(cluster, cluster.nodes)

    @property
    def name(self) -> str:
        """That of the cluster."""
        return self.cluster.name

    @property
    def network(self) -> Network:
        """That of the cluster."""
        return self.cluster.network

    @property
    def first(self) -> Node:
        """The node that sends for all of them, and that others send to."""
        return self.nodes[0]

    @property
    def gateway_words(self) -> str:
        """Its gateway, for people."""
        return f"gateway of {self.name}"

    @property
    def named(self) -> tuple[Node, ...]:
        """The nodes whose names are known to lead to their addresses."""
        return tuple(each for each in self.cluster.nodes if each.ip is not None)


def peers(a: Side, b: Side) -> bool:
    """Whether the clusters are one with each other: two of the same social mode."""
    return a.name != b.name and a.network.dns_mode is b.network.dns_mode and a.network.dns_mode in SOCIAL


def leaves(a: Side, address: IPv4Address) -> bool:
    """Whether nodes may reach `address` outside."""
    firewall = a.network.policy.firewall
    if any(address in each for each in firewall.block_networks):
        return False
    return firewall.egress is Egress.ALLOW or any(address in each for each in firewall.allow_networks)


def address_of(node: Node) -> IPv4Address:
    if node.ip is None:
        raise ValueError(f"{node.name} has no fixed address")
    return node.ip


def forwards(network: Network) -> bool:
    """Whether its gateway asks others for names that it does not know."""
    return network.gateway_answers_dns and bool(network.forwarders)


def told_servers(network: Network) -> tuple[IPv4Address, ...]:
    """The DNS servers that DHCP tells nodes."""
    if network.gateway_answers_dns:
        return (network.gateway,)
    return tuple(each for each in map(ip_address, map(str, network.dns_servers)) if isinstance(each, IPv4Address))
