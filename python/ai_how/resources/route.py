"""A route of the host to a network that routed clusters talk to (ip-route(8))."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import ClassVar

from ai_how.resources.base import Impact, Kind, Plain, ResourceId, managed


@dataclass(frozen=True, slots=True)
class HostRoute(Plain):
    """The way to network `to` by router `via`; `network` is the libvirt network the router is in, empty for none.

    `present` is False where the kernel lost it, with a link that went down, say, or where it would not come back:
    nobody remembers it, or the hook does not know it.
    """

    kind: ClassVar[Kind] = Kind.ROUTE

    to: IPv4Network
    via: IPv4Address = managed(Impact.LIVE)
    network: str = managed(Impact.LIVE)
    present: bool = managed(Impact.LIVE, default=True)

    def __str__(self) -> str:
        return f"route to {self.to} via {self.via}"

    @property
    def key(self) -> str:
        return str(self.to)

    @property
    def needs(self) -> tuple[ResourceId, ...]:
        return (ResourceId(Kind.NETWORK, self.network),) if self.network else ()
