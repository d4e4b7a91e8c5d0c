"""The firewall of all clusters of a host: one nftables table for each family it needs, loaded as a whole (nft(8))."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import ClassVar

from ai_how.errors import some
from ai_how.resources.base import Impact, Kind, ResourceId, managed
from ai_how.spec.policy import Egress, Exposure, Port

#: The name of our tables, of every family.
TABLE = "ai_how"


@dataclass(frozen=True, slots=True)
class ClusterRules:
    """What the table holds of one cluster. Every tuple is sorted.

    `macs` are its nodes'. `masquerade`: we do it, because libvirt does not in its forward mode. `direct`: networks
    outside that packets go to and come from unmasqueraded. `peers`: bridges of the clusters it may talk to, both ways;
    of these it may also ping the gateway and ask it for names. `allow_from` includes `direct`.
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


@dataclass(frozen=True, slots=True)
class FirewallTable:
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
        return f"nftables table {TABLE} with the rules of {some([each.cluster for each in self.clusters])}"

    @property
    def key(self) -> str:
        return TABLE

    @property
    def up(self) -> bool:
        return True

    @property
    def needs(self) -> tuple[ResourceId, ...]:
        return ()
