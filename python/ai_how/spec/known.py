"""What a host remembers about clusters: the part of the world that the spec takes into account, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from ai_how.config.terms import MacAddress


@dataclass(frozen=True, slots=True)
class Known:
    """`addresses` and `macs` are what the host reserves for nodes, by node name (of any cluster).

    `subnet` is the one a cluster has already, which `subnet: auto` keeps. `taken` are subnets that others use on the
    host, each with its owner's name for messages; the cluster's own is not among them.
    """

    addresses: Mapping[str, IPv4Address] = field(default_factory=dict)
    macs: Mapping[str, MacAddress] = field(default_factory=dict)
    subnet: IPv4Network | None = None
    taken: tuple[tuple[IPv4Network, str], ...] = ()


NOTHING_KNOWN = Known()
