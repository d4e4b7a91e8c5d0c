"""Who answers from this host: how it is known that nodes are reached, before a change and after it."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address

from ai_how.host import neighbours


def answering(bridge: str, addresses: Collection[IPv4Address], within: float) -> frozenset[IPv4Address]:
    """Those of `addresses` that answer ARP on `bridge`, asked for at most `within` seconds; at once when all have.

    Root asks by itself, and has the truth of this moment. Others have the kernel ask, which believes for up to a
    minute in whom it knows from before. Raises HostError where nobody can be asked.
    """
    try:
        return neighbours.ask_by_arp(bridge, addresses, within=within)
    except PermissionError:
        return neighbours.ask_kernel(bridge, addresses, within=within)
