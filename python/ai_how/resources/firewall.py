"""The firewall of all clusters of a host: one nftables table for each family it needs, replaced as a whole (nft(8))."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Any, ClassVar

from ai_how.errors import some
from ai_how.resources.base import Impact, Kind, Plain, managed
from ai_how.resources.policy import read_exposure, read_networks, read_port
from ai_how.spec.policy import Egress, Exposure, Port

#: The name of our tables, of every family.
TABLE = "ai_how"

#: How they are called for the moment in which new ones take over (resources/ruleset.py).
NEXT = f"{TABLE}_next"
OUR_NAMES = (TABLE, NEXT)

#: How the tables are called that follow a packet for a moment (probe/tracer.py), before the number of their process.
TRACES = f"{TABLE}_trace_"


class Denial(StrEnum):
    """Why a packet is denied: the comment of each rule that denies, beside its counter. The words never change."""

    #: A node sends from an address outside its cluster's subnet, or somebody outside from one inside.
    SPOOFED_SOURCE = "spoofed-source"
    #: A node to a network of `block_networks`.
    BLOCKED_NETWORK = "blocked-network"
    #: A node to another cluster.
    OTHER_CLUSTER = "other-cluster"
    #: A node or the host to a cluster whose bridge is not there: it would leave by the uplink.
    CLUSTER_AWAY = "cluster-away"
    #: A node to what `egress: deny` leaves out.
    EGRESS = "egress"
    #: A node to what else lives on this host's bridges: containers, networks of others.
    HOST_NETWORK = "host-network"
    #: A node to a port or address of the host that it may not use.
    HOST_SERVICE = "host-service"
    #: IPv6 that leaves its bridge, in either direction.
    IPV6 = "ipv6"
    #: Something outside to a node.
    INTO_CLUSTER = "into-cluster"
    #: Something outside to a gateway's address.
    GATEWAY_FROM_OUTSIDE = "gateway-from-outside"
    #: ARP on a bridge that is about an address of another network.
    FOREIGN_ARP = "foreign-arp"
    #: A node says by ARP that it has the gateway's address.
    FALSE_GATEWAY = "false-gateway"
    #: A node says by IPv6 that it is a router, or answers DHCPv6.
    ROGUE_ROUTER = "rogue-router"
    #: A frame with a tag of VLAN 0 before another tag.
    HIDDEN_FRAME = "hidden-frame"
    #: A node answers DHCP.
    ROGUE_DHCP = "rogue-dhcp"


@dataclass(frozen=True, slots=True)
class ClusterRules:
    """What the table holds of one cluster. Every tuple is sorted.

    `macs` are its nodes'. `masquerade`: what leaves has the host's address; libvirt sees to that in forward mode `nat`
    only, and no longer when somebody flushed its rules. `direct`: networks outside that packets go to and come from
    unmasqueraded. `peers`: bridges of the clusters it may talk to, both ways; of these it may also ping the gateway and
    ask it for names. `allow_from` includes `direct`. `behind`: networks that a node of the cluster is the router of.
    """

    cluster: str
    bridge: str
    subnet: IPv4Network
    gateway: IPv4Address
    macs: tuple[str, ...] = ()
    masquerade: bool = False
    direct: tuple[IPv4Network, ...] = ()
    peers: tuple[str, ...] = ()
    allow_host_ports: tuple[Port, ...] = ()
    block_networks: tuple[IPv4Network, ...] = ()
    egress: Egress = Egress.ALLOW
    allow_networks: tuple[IPv4Network, ...] = ()
    expose: tuple[Exposure, ...] = ()
    allow_from: tuple[IPv4Network, ...] = ()
    behind: tuple[IPv4Network, ...] = ()


@dataclass(frozen=True, slots=True)
class FirewallTable(Plain):
    """The rules of all clusters, sorted by cluster.

    `uplinks` are the links that lead outside by a default route, or to a declared one; other physical links do, too,
    bridges and the like of other programs do not.

    `intact` is False where the kernel does not hold what was loaded: somebody flushed or edited it.
    """

    kind: ClassVar[Kind] = Kind.FIREWALL

    clusters: tuple[ClusterRules, ...] = managed(Impact.LIVE)
    uplinks: tuple[str, ...] = managed(Impact.LIVE)
    intact: bool = managed(Impact.LIVE)

    def __str__(self) -> str:
        rules = f" with the rules of {some([each.cluster for each in self.clusters])}" if self.clusters else ""
        return f"nftables table {TABLE}{rules}"

    @property
    def key(self) -> str:
        return TABLE


def write_table(table: FirewallTable) -> dict[str, Any]:
    """The table as data for JSON."""
    data: dict[str, Any] = json.loads(json.dumps(asdict(table), default=str))
    return data


def read_table(data: Mapping[str, Any], *, intact: bool) -> FirewallTable:
    """What `write_table` wrote, now seen to be `intact` or not.

    Raises ValueError, TypeError, KeyError or AttributeError where it is something else.
    """
    clusters = tuple(_rules(each) for each in data["clusters"])
    return FirewallTable(clusters, tuple(str(each) for each in data["uplinks"]), intact=intact)


def _rules(data: Mapping[str, Any]) -> ClusterRules:
    return ClusterRules(
        cluster=str(data["cluster"]),
        bridge=str(data["bridge"]),
        subnet=IPv4Network(data["subnet"]),
        gateway=IPv4Address(data["gateway"]),
        macs=tuple(str(each) for each in data["macs"]),
        masquerade=bool(data["masquerade"]),
        direct=read_networks(data["direct"]),
        peers=tuple(str(each) for each in data["peers"]),
        allow_host_ports=tuple(read_port(each) for each in data["allow_host_ports"]),
        block_networks=read_networks(data["block_networks"]),
        egress=Egress(data["egress"]),
        allow_networks=read_networks(data["allow_networks"]),
        expose=tuple(read_exposure(each) for each in data["expose"]),
        allow_from=read_networks(data["allow_from"]),
        behind=read_networks(data["behind"]),
    )
