"""The door to the kernel's routes, every table (VPNs keep their own), asked of iproute2 and set by it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from ai_how.errors import CommandFailed, HostError
from ai_how.host.process import output

#: Our mark on a route: who set it (rtm_protocol of rtnetlink(7)). From 5 to 255 the kernel gives it no meaning; those
#: of routing daemons are taken (186 to 197 are FRR's, which removes routes so marked when it starts), 97 is nobody's.
PROTOCOL = 97

#: Wider ones are no networks but ways out: a VPN puts 0.0.0.0/1 and 128.0.0.0/1 before the default route.
_WIDEST = 8

_INSTALL = "Install it: apt-get install iproute2"

_EVERYTHING = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, slots=True)
class Route:
    """One IPv4 route: the network it reaches and the link it takes."""

    network: IPv4Network
    link: str


@dataclass(frozen=True, slots=True)
class Hop:
    """A route of the main table by a router. `ours` says whether it carries our mark; `via` is None on a link."""

    to: IPv4Network
    via: IPv4Address | None
    link: str
    ours: bool


@dataclass(frozen=True, slots=True)
class Way:
    """How this host reaches an address: by which link, and with which address of its own."""

    link: str
    source: IPv4Address


def list_routes() -> str:
    """`ip -json route show` of all tables, as text. Raises CommandFailed where iproute2 is missing."""
    return output(["ip", "-json", "-4", "route", "show", "table", "all"], remedy=_INSTALL)


def read_routes(text: str) -> tuple[Route, ...]:
    """The unicast routes of `text` that lead to a network: no default, no single addresses."""
    return tuple(
        Route(network, link)
        for entry in _unicast(text)
        if _WIDEST <= (network := _target(entry)).prefixlen < 32
        for link in _links(entry)
    )


def read_uplinks(text: str) -> tuple[str, ...]:
    """The links that lead outside, sorted: of every default route, and of the wide ones that VPNs put before it.

    Of every table: the default route of a VPN is often in one of its own.
    """
    found = set()
    for entry in _unicast(text):
        network = _target(entry)
        if network.prefixlen < _WIDEST and not network.is_multicast:
            found.update(_links(entry))
    return tuple(sorted(found))


def read_hops(text: str) -> tuple[Hop, ...]:
    """The routes of the main table, but for those that fork."""
    return tuple(
        Hop(_target(entry), _gateway(entry), entry["dev"], entry.get("protocol") == str(PROTOCOL))
        for entry in _unicast(text)
        if entry.get("table", "main") == "main" and "dev" in entry
    )


def find_way(target: IPv4Address | IPv4Network) -> Way | None:
    """How packets to `target` leave this host; None where it has no way there, or is the target itself."""
    address = target.network_address + (target.prefixlen < 32) if isinstance(target, IPv4Network) else target
    try:
        return read_way(output(["ip", "-json", "-4", "route", "get", str(address)], remedy=_INSTALL))
    except CommandFailed as error:
        if error.returncode == 2:  # "Network is unreachable", as ip-route(8) ends when the kernel refuses
            return None
        raise


def read_way(text: str) -> Way | None:
    """The same of what `ip -json route get` says."""
    for entry in json.loads(text or "[]"):
        if entry.get("type", "unicast") == "unicast" and "dev" in entry and "prefsrc" in entry:
            return Way(entry["dev"], IPv4Address(entry["prefsrc"]))
    return None


def add_route(to: IPv4Network, via: IPv4Address, *, replace: bool) -> None:
    """Set a route with our mark; `replace` an existing one only where that is ours. Raises HostError."""
    try:
        output(["ip", "route", "replace" if replace else "add", *_words(to, via)], remedy=_INSTALL, changes_host=True)
    except CommandFailed as error:
        if error.returncode is None:
            raise
        raise HostError(
            f"there can be no route to {to} by {via}",
            why=error.stderr.strip(),
            remedy=f"Its router must be on a link of this host; look where {via} is: ip route get {via}",
        ) from error


def delete_route(to: IPv4Network, via: IPv4Address) -> None:
    """Remove a route with our mark."""
    output(["ip", "route", "del", *_words(to, via)], remedy=_INSTALL, changes_host=True)


def batch_line(to: IPv4Network, via: IPv4Address) -> str:
    """The same route as `ip -batch` reads it. It is added, not replaced: what others set meanwhile stays."""
    return " ".join(["route", "add", *_words(to, via)])


def return_routes(subnets: Iterable[IPv4Network], ways: Iterable[Way]) -> tuple[str, ...]:
    """What routers of the LAN must be told so that answers find back to `subnets`: by this host's own address on the
    link that each of `ways` takes. Sorted, each once."""
    hops = {way.source for way in ways}
    return tuple(f"ip route add {subnet} via {hop}" for subnet in sorted(set(subnets)) for hop in sorted(hops))


def _words(to: IPv4Network, via: IPv4Address) -> list[str]:
    return [str(to), "via", str(via), "proto", str(PROTOCOL)]


def _unicast(text: str) -> Iterator[dict[str, Any]]:
    return (entry for entry in json.loads(text or "[]") if entry.get("type", "unicast") == "unicast")


def _target(entry: dict[str, Any]) -> IPv4Network:
    target = entry.get("dst", "default")
    return _EVERYTHING if target == "default" else IPv4Network(target)


def _gateway(entry: dict[str, Any]) -> IPv4Address | None:
    return IPv4Address(entry["gateway"]) if "gateway" in entry else None


def _links(entry: dict[str, Any]) -> list[str]:
    """One, or those of all hops where the route forks."""
    return [hop["dev"] for hop in (entry, *entry.get("nexthops", ())) if "dev" in hop]
