"""The servers files of libvirt networks: where their dnsmasq sends questions for the zones of other clusters."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path

from ai_how.host import dnsmasq, told
from ai_how.host.libvirt import Libvirt
from ai_how.resources.servers import Servers, servers_path


def observe(libvirt: Libvirt, cluster: str) -> list[Servers]:
    """Every servers file of ours on this host; everybody may read them."""
    files = told.ours(Path(servers_path("").parent), "servers")
    return [Servers(network, lines) for network, lines in sorted(files.items())]


def foreign(libvirt: Libvirt, names: Collection[str]) -> Mapping[str, str]:
    """Files of these networks that are there without our mark."""
    paths = {name: Path(servers_path(name)) for name in names}
    return {
        name: f"a file {path} that ai-how did not write (what removes it: rm {path})"
        for name, path in paths.items()
        if path.exists() and told.read_lines(path) is None
    }


def create(libvirt: Libvirt, want: Servers) -> None:
    """Write it; a dnsmasq that runs reads it at once."""
    path = Path(servers_path(want.network))
    with contextlib.suppress(OSError):  # the file cannot be written then, either, and that is said
        path.parent.mkdir(mode=0o755, exist_ok=True)  # libvirt makes it with its first network
    told.tell(path, want.lines, lambda: dnsmasq.reload_network(want.network))


def change(libvirt: Libvirt, have: Servers, want: Servers) -> None:
    """Write it anew; a dnsmasq that runs reads it at once."""
    create(libvirt, want)


def remove(libvirt: Libvirt, have: Servers) -> None:
    """Remove it."""
    told.untell(Path(servers_path(have.network)), lambda: dnsmasq.reload_network(have.network))
