"""The door to the kernel's routes, every table (VPNs keep their own), asked of iproute2."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Network

from ai_how.host.process import output

#: Wider ones are no networks but ways out: a VPN puts 0.0.0.0/1 and 128.0.0.0/1 before the default route.
_WIDEST = 8


@dataclass(frozen=True, slots=True)
class Route:
    """One IPv4 route: the network it reaches and the link it takes."""

    network: IPv4Network
    link: str


def list_routes() -> str:
    """`ip -json route show` of all tables, as text. Raises CommandFailed where iproute2 is missing."""
    return output(["ip", "-json", "-4", "route", "show", "table", "all"], remedy="Install it: apt-get install iproute2")


def read_routes(text: str) -> tuple[Route, ...]:
    """The unicast routes of `text` that lead to a network: no default, no single addresses."""
    found = []
    for entry in json.loads(text or "[]"):
        target = entry.get("dst", "default")
        if target == "default" or entry.get("type", "unicast") != "unicast" or "dev" not in entry:
            continue
        network = IPv4Network(target)
        if _WIDEST <= network.prefixlen < 32:
            found.append(Route(network, entry["dev"]))
    return tuple(found)
