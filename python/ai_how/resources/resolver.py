"""A resolver route: the host asks a cluster's gateway for the names of its zones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import ClassVar

from ai_how.config.terms import HostResolver
from ai_how.errors import some
from ai_how.resources.base import Impact, Kind, Plain, ResourceId, managed


@dataclass(frozen=True, slots=True)
class ResolverRoute(Plain):
    """`manager`, never `auto` or `none`, sends questions for `zones` to `server` on `bridge`, the one of `network`.

    `zones` are forward and reverse, sorted, without a dot at the end.
    """

    kind: ClassVar[Kind] = Kind.RESOLVER

    network: str
    bridge: str = managed(Impact.LIVE)
    manager: HostResolver = managed(Impact.LIVE)
    server: IPv4Address = managed(Impact.LIVE)
    zones: tuple[str, ...] = managed(Impact.LIVE)

    def __str__(self) -> str:
        return f"{self.manager}: {some(self.zones)} from {self.server}"

    @property
    def key(self) -> str:
        return self.network

    @property
    def needs(self) -> tuple[ResourceId, ...]:
        return (ResourceId(Kind.NETWORK, self.network),)


def write_links(routes: Iterable[ResolverRoute]) -> str:
    """What of `routes` systemd-resolved forgets when a bridge goes: `BRIDGE GATEWAY ZONE ZONE …`, a line for each.

    libvirt's network hook reads it (compile/hook.py): single spaces, no quotes, nothing else.
    """
    lines = (
        " ".join((each.bridge, str(each.server), *each.zones))
        for each in routes
        if each.manager is HostResolver.SYSTEMD_RESOLVED and each.zones
    )
    return "".join(f"{line}\n" for line in sorted(lines))
