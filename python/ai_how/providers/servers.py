"""The files of libvirt networks that say where their dnsmasq sends questions, and whom it tells nodes to ask."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path

from ai_how.host import dnsmasq, told
from ai_how.host.libvirt import Libvirt
from ai_how.resources.servers import File, Servers, file_path, servers_path


def observe(libvirt: Libvirt, cluster: str) -> list[Servers]:
    """The files of ours on this host; everybody may read them."""
    directory = Path(servers_path("").parent)
    lines, options = (told.ours(directory, file) for file in (File.SERVERS, File.OPTIONS))
    # One that is gone is as good as one that nobody has read.
    return [
        Servers(network, lines.get(network, (told.UNREAD,)), options.get(network, (told.UNREAD,)))
        for network in sorted({*lines, *options})
    ]


def foreign(libvirt: Libvirt, names: Collection[str]) -> Mapping[str, str]:
    """Files of these networks that are there without our mark."""
    paths = {path: name for name in names for file in File if (path := Path(file_path(name, file))).exists()}
    return {
        name: f"a file {path} that ai-how did not write (what removes it: rm {path})"
        for path, name in paths.items()
        if told.read_lines(path) is None
    }


def create(libvirt: Libvirt, want: Servers) -> None:
    """Write them; a dnsmasq that runs reads them at once."""
    servers, options = _paths(want.network)
    with contextlib.suppress(OSError):  # the file cannot be written then, either, and that is said
        servers.parent.mkdir(mode=0o755, exist_ok=True)  # libvirt makes it with its first network
    told.tell({servers: want.lines, options: want.options}, lambda: dnsmasq.reload_network(want.network))


def change(libvirt: Libvirt, have: Servers, want: Servers) -> None:
    """Write them anew; a dnsmasq that runs reads them at once."""
    create(libvirt, want)


def remove(libvirt: Libvirt, have: Servers) -> None:
    """Remove them, and those of the network's nodes; by the first of them the rest are found after a kill."""
    files = [Path(file_path(have.network, each)) for each in reversed(File)]
    told.untell(files, lambda: dnsmasq.reload_network(have.network))


def _paths(network: str) -> tuple[Path, Path]:
    return Path(file_path(network, File.SERVERS)), Path(file_path(network, File.OPTIONS))
