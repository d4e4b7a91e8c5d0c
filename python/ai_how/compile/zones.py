"""The reverse zones of a subnet (RFC 1035, 3.5)."""

from __future__ import annotations

from ipaddress import IPv4Network

_OCTET = 8


def reverse_zones(subnet: IPv4Network) -> tuple[str, ...]:
    """The zones that hold the PTR records of `subnet`, without a dot at the end, and nothing of other subnets.

    Zones end at whole octets: a /20 has sixteen; a /26, sixty-four of a single address each.
    """
    octets = -(-subnet.prefixlen // _OCTET)
    return tuple(_zone(each, octets) for each in subnet.subnets(new_prefix=octets * _OCTET))


def _zone(network: IPv4Network, octets: int) -> str:
    return ".".join(reversed(str(network.network_address).split(".")[:octets])) + ".in-addr.arpa"
