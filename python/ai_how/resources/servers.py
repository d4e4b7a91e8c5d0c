"""Where a network's dnsmasq sends questions for other zones: a file that it reads again at SIGHUP (dnsmasq(8))."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

from ai_how.errors import some
from ai_how.resources.base import Impact, Kind, Plain, managed

#: Of libvirt's own; AppArmor lets dnsmasq read here and nowhere else.
_DIRECTORY = PurePosixPath("/var/lib/libvirt/dnsmasq")


def servers_path(network: str) -> PurePosixPath:
    """The file of a network."""
    return _DIRECTORY / f"ai-how-{network}.servers"


def servers_option(network: str) -> str:
    """The option that makes the dnsmasq of `network` read it."""
    return f"servers-file={servers_path(network)}"


@dataclass(frozen=True, slots=True)
class Servers(Plain):
    """The file of `network`: one line of dnsmasq's each, `server=…` or `rev-server=…`, sorted."""

    kind: ClassVar[Kind] = Kind.SERVERS

    network: str
    lines: tuple[str, ...] = managed(Impact.LIVE)

    def __str__(self) -> str:
        return f"{servers_path(self.network)}: {some(self.lines) or 'no other clusters'}"

    @property
    def key(self) -> str:
        return self.network
