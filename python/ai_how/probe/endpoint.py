"""An endpoint: a place on a cluster's bridge, with a MAC and a real lease of its own. It works before any machine does.

with endpoint("br-hpc", "52:54:00:12:34:01", name="hpc-controller") as node:
    answer = ask(ping(node, node.gateway))
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

from ai_how.errors import AiHowError, HostError, NotReady
from ai_how.host import links
from ai_how.host.process import output
from ai_how.probe.dhcp import Lease, give_back, take_lease
from ai_how.probe.place import Place, new

#: Seconds that a lease may take: DISCOVER to ACK are milliseconds where the server does not ping first.
LEASE_WITHIN = 5.0

#: Seconds in which a new port forwards, on a busy host or with a short delay of a spanning tree (4 s are the least):
#: what is sent sooner is lost.
_FORWARDS_WITHIN = 8.0

#: The link inside.
LINK = "eth0"

#: The other end, on the bridge: this and eight digits; 15 characters are the kernel's limit.
PREFIX = "aih"

#: Less is no MTU of IPv4's (RFC 791), and the kernel takes none.
_LEAST_MTU = 68


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place with what DHCP gave it. `port` is its link on the bridge. `trouble` is why DHCP gave nothing, where it
    has what it was to have otherwise."""

    place: Place
    bridge: str
    port: str
    mac: str
    lease: Lease
    trouble: str = ""

    @property
    def name(self) -> str:
        """For people."""
        return self.place.name

    @property
    def ip(self) -> IPv4Address:
        """Its address."""
        return self.lease.ip

    @property
    def gateway(self) -> IPv4Address:
        """Its first router. Raises HostError where DHCP named none."""
        if not self.lease.routers:
            raise HostError(f"{self.name} has no gateway", why="DHCP named none")
        return self.lease.routers[0]


@contextmanager
def endpoint(
    bridge: str,
    mac: str,
    *,
    name: str = "",
    within: float = LEASE_WITHIN,
    otherwise: Callable[[Place], Lease | None] = lambda _: None,
) -> Iterator[Endpoint]:
    """An endpoint on `bridge` for the length of a `with` block: attached, leased, with its address and default route.

    A node's own MAC gets the node's address; do not use it beside the node. The lease is given back at the end. Where
    DHCP gives none, it has what `otherwise` says.
    Raises PrivilegeError, HostError (no such bridge) or NotReady (no lease).
    """
    with attached(bridge, mac, name=name or mac) as (place, port):
        trouble = ""
        try:
            with place.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                lease = take_lease(client, LINK, mac, within=within)
        except NotReady as error:
            instead = otherwise(place)
            if instead is None:
                raise
            lease, trouble = instead, f"{error.what}: {error.why}"
        configure(place, lease)
        try:
            yield Endpoint(place, bridge, port, mac, lease, trouble)
        finally:
            # The server may be gone by now; then so is the lease.
            with contextlib.suppress(OSError), place.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                give_back(client, LINK, mac, lease)


@contextmanager
def attached(bridge: str, mac: str, *, name: str) -> Iterator[tuple[Place, str]]:
    """A place with a link to `bridge` that is up and has no IPv4 address yet, and the name of its port there."""
    port = f"{PREFIX}{secrets.token_hex(4)}"
    with new(name) as place:
        try:
            _attach(place, bridge, port, mac)
            yield place, port
        finally:
            # With its namespace it would go by itself, a moment later; so it does when we are killed.
            with contextlib.suppress(AiHowError):
                output(["ip", "link", "del", port])


def _attach(place: Place, bridge: str, port: str, mac: str) -> None:
    output(
        ["ip", "-batch", "-"],
        text=f"link add {port} type veth peer name {LINK} address {mac} netns {place.thread}\n"
        f"link set {port} addrgenmode none master {bridge} up\n",
        remedy=f"Is {bridge} there, and a bridge? ip -d link show {bridge}",
    )
    # The link-local address is there at once, and replies of a server that the link has no address for are taken.
    place.set(f"net/ipv6/conf/{LINK}/accept_dad", "0")
    for each in ("all", LINK):
        place.set(f"net/ipv4/conf/{each}/rp_filter", "0")
    place.run(["ip", "-batch", "-"], text=f"link set lo up\nlink set {LINK} up\n")
    links.await_forwarding(port, within=_FORWARDS_WITHIN)


def configure(place: Place, lease: Lease) -> None:
    """Give the link of a place what DHCP said. Raises CommandFailed."""
    lines = [f"addr add {lease.interface} dev {LINK}"]
    if lease.mtu is not None and lease.mtu >= _LEAST_MTU:
        lines.append(f"link set {LINK} mtu {lease.mtu}")
    if lease.routers:
        # Also by a router that is not on the link: what DHCP says is judged, and packets show what becomes of it.
        lines.append(f"route add default via {lease.routers[0]} dev {LINK} onlink")
    place.run(["ip", "-batch", "-"], text="\n".join(lines) + "\n")
