"""What a network's dnsmasq reads again at SIGHUP (dnsmasq(8)): files of ours, so that a change needs no restart.

Where it sends questions, and which servers it tells nodes to ask, is this kind; the nodes themselves are part of the
network (resources/network.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import ClassVar

from ai_how.errors import some
from ai_how.resources.base import Impact, Kind, Plain, managed

#: Of libvirt's own; AppArmor lets dnsmasq read here and nowhere else.
_DIRECTORY = PurePosixPath("/var/lib/libvirt/dnsmasq")


class File(StrEnum):
    """Our files of a network, by how their names end."""

    SERVERS = "servers"
    OPTIONS = "options"
    HOSTS = "hosts"
    NAMES = "names"


_OPTIONS = {
    File.SERVERS: "servers-file",
    File.OPTIONS: "dhcp-optsfile",
    File.HOSTS: "dhcp-hostsfile",
    File.NAMES: "addn-hosts",
}


def file_path(network: str, file: File) -> PurePosixPath:
    """The file of a network."""
    return _DIRECTORY / f"ai-how-{network}.{file}"


def servers_path(network: str) -> PurePosixPath:
    """The one with its servers."""
    return file_path(network, File.SERVERS)


def file_option(network: str, file: File) -> str:
    """The option that makes the dnsmasq of `network` read it."""
    return f"{_OPTIONS[file]}={file_path(network, file)}"


@dataclass(frozen=True, slots=True)
class Servers(Plain):
    """The files of `network`, one line of dnsmasq's each: `lines` (`server=…`, sorted) and DHCP `options`."""

    kind: ClassVar[Kind] = Kind.SERVERS

    network: str
    lines: tuple[str, ...] = managed(Impact.LIVE)
    options: tuple[str, ...] = managed(Impact.LIVE, default=())

    def __str__(self) -> str:
        return f"{servers_path(self.network)}: {some((*self.lines, *self.options)) or 'no servers'}"

    @property
    def key(self) -> str:
        return self.network
