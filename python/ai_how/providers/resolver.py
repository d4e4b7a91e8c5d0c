"""Resolver routes on a host: the host's own resolver asks the clusters' gateways for their zones."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from ai_how.config.terms import HostResolver
from ai_how.errors import CommandFailed, HostError
from ai_how.host import memory, told
from ai_how.host import resolver as host
from ai_how.host.libvirt import Libvirt
from ai_how.resources.resolver import ResolverRoute, write_links

#: The managers that read files.
_FILES: Mapping[HostResolver, Path] = {
    HostResolver.NETWORKMANAGER: host.NETWORKMANAGER_FILES,
    HostResolver.DNSMASQ: host.DNSMASQ_FILES,
}
_MEMORY = "resolver.json"
_LINKS = "resolver.links"
_BRIDGE = "# On bridge "
_NOWHERE = IPv4Address(0)

#: Steps run side by side, and all of these write to the same files of our memory, and restart the same programs.
_ONE = threading.Lock()


def observe(libvirt: Libvirt, cluster: str) -> list[ResolverRoute]:
    """Every resolver route of ours on this host. One that is not in force as it was made, or that the hook would not
    put back, has no zones."""
    found = [
        read_file(network, manager, lines)
        for manager, directory in _FILES.items()
        for network, lines in told.ours(directory, "conf").items()
    ]
    remembered = _remembered()
    if remembered:
        lasting = memory.recall_text(_LINKS) == write_links(remembered.values())
        found += [each if lasting else replace(each, zones=()) for each in _in_force(remembered.values())]
    return sorted(found, key=lambda each: each.network)


def foreign(libvirt: Libvirt, names: Collection[str]) -> Mapping[str, str]:
    """Files of these networks that are there without our mark."""
    paths = [(name, _path(manager, name)) for name in names for manager in _FILES]
    return {
        name: f"a file {path} that ai-how did not write (what removes it: rm {path})"
        for name, path in paths
        if path.exists() and told.read_lines(path) is None
    }


def create(libvirt: Libvirt, want: ResolverRoute) -> None:
    """Tell the host's resolver. Raises HostError where it does not run."""
    with _ONE:
        if want.manager in _FILES:
            _require(want.manager)
            told.tell({_path(want.manager, want.network): write_file(want)}, partial(_reload, want.manager))
        else:
            # Remembered before it is done, so that it is found whatever happens in between.
            _remember(_remembered() | {want.network: want})
            _apply(want)


def change(libvirt: Libvirt, have: ResolverRoute, want: ResolverRoute) -> None:
    """Tell it anew; what another manager, or the same one on another bridge, was told is taken back."""
    if (have.manager, have.bridge) != (want.manager, want.bridge):
        remove(libvirt, have)
    create(libvirt, want)


def remove(libvirt: Libvirt, have: ResolverRoute) -> None:
    """Take it back. A resolver that does not run need not be told."""
    with _ONE:
        if have.manager in _FILES:
            told.untell([_path(have.manager, have.network)], partial(_reload_if_it_runs, have.manager))
        else:
            _revert(have.bridge)
            _remember({name: each for name, each in _remembered().items() if name != have.network})


# Files


def _path(manager: HostResolver, network: str) -> Path:
    return told.file_of(_FILES[manager], network, "conf")


def write_file(route: ResolverRoute) -> tuple[str, ...]:
    """The lines of its file, below our mark."""
    return (
        f"{_BRIDGE}{route.bridge}",
        # The answers are private addresses, which some hosts' dnsmasq takes for an attack (stop-dns-rebind).
        *(f"rebind-domain-ok=/{zone}/" for zone in route.zones if not zone.endswith(".arpa")),
        *(f"server=/{zone}/{route.server}" for zone in route.zones),
    )


def read_file(network: str, manager: HostResolver, lines: tuple[str, ...]) -> ResolverRoute:
    """The route that its file says; one without zones where it is not as we wrote it, or not read yet."""
    bridge = next((line.removeprefix(_BRIDGE) for line in lines if line.startswith(_BRIDGE)), "")
    servers = [line.split("/")[1:] for line in lines if line.startswith("server=/")]
    try:
        found = ResolverRoute(network, bridge, manager, IPv4Address(servers[0][1]), tuple(zone for zone, _ in servers))
    except (IndexError, ValueError):
        return ResolverRoute(network, bridge, manager, _NOWHERE, ())
    return found if write_file(found) == lines else replace(found, zones=())


def _require(manager: HostResolver) -> None:
    """Raise HostError unless the manager runs and reads our files."""
    directory = _FILES[manager]
    if manager is HostResolver.NETWORKMANAGER:
        runs = host.networkmanager_runs() and directory.is_dir()
    else:
        runs = host.hosts_dnsmasq() is not None
        host.restart_of_dnsmasq()
    if not runs:
        raise HostError(
            f"{manager} cannot be told of the clusters' names",
            why=f"none runs that reads {directory}",
            remedy="Start it, or set network.host_resolver to what resolves names on this host, or to none.",
        )


def _reload(manager: HostResolver) -> None:
    if manager is HostResolver.NETWORKMANAGER:
        host.reload_networkmanager()
    else:
        host.restart_dnsmasq(host.restart_of_dnsmasq())


def _reload_if_it_runs(manager: HostResolver) -> None:
    runs = host.networkmanager_runs() if manager is HostResolver.NETWORKMANAGER else host.hosts_dnsmasq() is not None
    if runs:
        _reload(manager)


# systemd-resolved, which keeps nothing itself


def _remembered() -> dict[str, ResolverRoute]:
    """What it was told, by the network."""
    said = memory.recall(_MEMORY)
    return {name: read_memory(name, each) for name, each in said.items()} if isinstance(said, dict) else {}


def read_memory(network: str, entry: Any) -> ResolverRoute:
    """The route that our memory has for `network`; one without zones where it cannot be understood."""
    try:
        bridge, server, zones = str(entry["bridge"]), IPv4Address(entry["server"]), tuple(map(str, entry["zones"]))
    except (KeyError, TypeError, ValueError):
        bridge, server, zones = "", _NOWHERE, ()
    return ResolverRoute(network, bridge, HostResolver.SYSTEMD_RESOLVED, server, zones)


def _remember(routes: Mapping[str, ResolverRoute]) -> None:
    content = {
        name: {"bridge": each.bridge, "server": str(each.server), "zones": list(each.zones)}
        for name, each in sorted(routes.items())
    }
    memory.keep(_MEMORY, content, beside=_LINKS, text=write_links(routes.values()))


def _in_force(remembered: Iterable[ResolverRoute]) -> list[ResolverRoute]:
    try:
        links = host.links()
    except CommandFailed:
        if not memory.is_root():
            return list(remembered)
        links = {}
    return [judge(each, links, present=_is_there(each.bridge)) for each in remembered]


def judge(remembered: ResolverRoute, links: Mapping[str, host.Link], *, present: bool) -> ResolverRoute:
    """The route as systemd-resolved has it. Without its bridge there is nothing to have: the hook puts it back with
    the bridge (`present`)."""
    if not present:
        return remembered
    link = links.get(remembered.bridge, host.Link())
    # Without the `~` it would be a domain to search short names in, too.
    as_made = link.servers == (str(remembered.server),) and all(each.startswith("~") for each in link.domains)
    return replace(remembered, zones=tuple(sorted(each[1:] for each in link.domains)) if as_made else ())


def _apply(route: ResolverRoute) -> None:
    if not route.zones:
        _revert(route.bridge)
    elif _is_there(route.bridge):
        host.set_link(route.bridge, route.server, route.zones)


def _revert(bridge: str) -> None:
    if _is_there(bridge):
        host.revert_link(bridge)


def _is_there(bridge: str) -> bool:
    return bool(bridge) and Path("/sys/class/net", bridge).exists()
