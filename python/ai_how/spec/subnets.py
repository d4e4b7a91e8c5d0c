"""Finding a free subnet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network

from ai_how.config.fields import MIN_PREFIX

#: RFC 1918, RFC 6598.
PRIVATE = tuple(IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))


def prefix_for(nodes: int) -> int:
    """The smallest subnet that holds so many nodes beside the gateway, keeping the first ten addresses apart; /24 or
    larger."""
    prefix = 24
    while (1 << (32 - prefix)) < nodes + 12 and prefix > MIN_PREFIX:
        prefix -= 1
    return prefix


def free_subnet(prefix: int, taken: Iterable[IPv4Network]) -> IPv4Network | None:
    """The first private subnet of that size free of all `taken`: from 192.168.100.0/24 upwards, then 10/8."""
    used = sorted((int(net.network_address), int(net.broadcast_address)) for net in taken)
    size = 1 << (32 - prefix)
    for first, end in _ranges():
        base = -(-first // size) * size
        while base + size <= end:
            clash = max((high for low, high in used if low < base + size and high >= base), default=None)
            if clash is None:
                return IPv4Network((base, prefix))
            base = -(-(clash + 1) // size) * size
    return None


def _ranges() -> Iterator[tuple[int, int]]:
    for text, start in (("192.168.0.0/16", 100 << 8), ("10.0.0.0/8", 0), ("172.16.0.0/12", 0)):
        net = IPv4Network(text)
        yield int(net.network_address) + start, int(net.broadcast_address) + 1
