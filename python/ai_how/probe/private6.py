"""IPv6 of clusters that nobody has configured: what another program on the host may give our bridges at any time."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Interface, IPv6Network

from ai_how.spec.network import Network

#: A private prefix (RFC 4193).
_PRIVATE = IPv6Network("fd61:6968:6f77::/48")


def private6(network: Network) -> IPv6Network:
    """The private IPv6 network that stands for this one in a test."""
    number = int(network.subnet.network_address) >> 8 & 0xFFFF
    return IPv6Network((int(_PRIVATE.network_address) | number << 64, 64))


def gateway6(network: Network) -> IPv6Interface:
    """The host's address in it."""
    return IPv6Interface((int(private6(network).network_address) + 1, 64))


def node6(network: Network, ip: IPv4Address) -> IPv6Interface:
    """A node's address in it."""
    offset = int(ip) - int(network.subnet.network_address)
    return IPv6Interface((int(private6(network).network_address) + 0x100 + offset, 64))


def link_local(mac: str, link: str) -> IPv6Address:
    """The link-local address that follows from a MAC (RFC 4291, appendix A), as reached by `link`."""
    octets = bytes.fromhex(mac.replace(":", ""))
    address = IPv6Address(b"\xfe\x80" + bytes(6) + bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:])
    return IPv6Address(f"{address}%{link}")
