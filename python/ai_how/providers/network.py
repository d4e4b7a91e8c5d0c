"""libvirt networks on a host."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from ai_how.config.fields import BRIDGE_PATTERN
from ai_how.errors import HostError
from ai_how.host import dhcp, dnsmasq, links, told
from ai_how.host.libvirt import Handle, Libvirt
from ai_how.host.libvirt_chains import keeping_chains
from ai_how.host.libvirt_rules import let_through
from ai_how.host.memory import is_root
from ai_how.providers import attachment
from ai_how.resources import xml
from ai_how.resources.base import Impact, Kind, changes, identity_uuid, worst
from ai_how.resources.network import (
    DnsHost,
    Entry,
    Range,
    Reservation,
    VirtualNetwork,
    as_it_runs,
    range_changes,
    range_element,
    read_dns_hosts,
    read_network,
    read_ranges,
    read_reservations,
)
from ai_how.resources.servers import File, file_path
from ai_how.spec.naming import network_name


def observe(libvirt: Libvirt, cluster: str) -> list[VirtualNetwork]:
    """The cluster's network, if it is there."""
    return [network for network in observe_all(libvirt) if network.cluster == cluster]


def observe_all(libvirt: Libvirt) -> list[VirtualNetwork]:
    """Every network of the host, whoever made it. `cluster` is empty where it carries no mark."""
    with libvirt.doing("cannot list the host's networks"):
        handles = libvirt.connection.listAllNetworks()
    asked = [libvirt.ask(f"cannot read network {each.name()}", partial(_read, libvirt, each)) for each in handles]
    found = [network for network in asked if network is not None]
    if libvirt.is_system and any(each.cluster and each.active for each in found):
        bridges = links.read_bridges(links.list_bridges())
        found = [_judged(each, bridges) if each.cluster and each.active else each for each in found]
    return found


def foreign(libvirt: Libvirt, names: Collection[str]) -> Mapping[str, str]:
    """Networks of these names that someone else made."""
    found = {}
    for name in names:
        handle = find(libvirt, name)
        if handle is not None and not is_ours(handle):
            found[name] = f"a network with UUID {handle.UUIDString()} that ai-how did not make"
    return found


def create(libvirt: Libvirt, want: VirtualNetwork) -> None:
    """Define it and start it if it is to be active."""
    _begin_anew(want)
    _define(libvirt, want)
    keeping_chains(lambda: _set_power(libvirt, want))


def change(libvirt: Libvirt, have: VirtualNetwork, want: VirtualNetwork) -> None:
    """Change what runs as far as that goes, and define the same; else stop it, define it and start it again, with the
    machines that run on it."""
    # An undo to one that did not work leaves it at work.
    want = replace(want, intact=True, bridged=True)
    costs = worst(tuple(each.impact for each in changes(want, have)))
    restarts = have.active and costs is not Impact.LIVE
    if have.active and want.active and not restarts:
        # What an update does is in effect also where libvirt fails with its rules; the second time has the rest to do.
        keeping_chains(lambda: _change_running(libvirt, have, want))
    else:
        if have.active:
            attachment.let_go(libvirt, have, want)
            _stop(libvirt, want.name)
        if have.bridge != want.bridge and re.fullmatch(BRIDGE_PATTERN, have.bridge) and is_root():
            # libvirt does that for the bridge of a definition that goes, and not when one is replaced.
            dnsmasq.forget_bridge(have.bridge)
        _begin_anew(want)
    _define(libvirt, want)
    keeping_chains(lambda: _set_power(libvirt, want))
    if want.active:
        _release(libvirt, have.reservations, want)
    if restarts and want.active:
        attachment.attach(libvirt, want.name)


def remove(libvirt: Libvirt, have: VirtualNetwork) -> None:
    """Stop and undefine it."""
    attachment.end_detour(libvirt, have.name)
    _stop(libvirt, have.name)
    handle = find(libvirt, have.name)
    if handle is not None:
        with libvirt.doing(f"cannot undefine network {have.name}"):
            handle.undefine()


def find(libvirt: Libvirt, name: str) -> Handle | None:
    """The network's handle, None where there is none of that name."""
    return libvirt.find(libvirt.connection.networkLookupByName, name)


def is_ours(handle: Handle) -> bool:
    """Whether the network carries our mark: the UUID that follows from its name."""
    return bool(handle.UUIDString() == str(identity_uuid(Kind.NETWORK, handle.name())))


def _read(libvirt: Libvirt, handle: Handle) -> VirtualNetwork:
    defined, ours = libvirt.api.VIR_NETWORK_XML_INACTIVE, is_ours(handle)
    active, autostart = bool(handle.isActive()), bool(handle.autostart())
    text = handle.XMLDesc(defined if ours and not active else 0)
    network = read_network(text, active=active, autostart=autostart)
    if not ours:
        return replace(network, cluster="")
    # Its identity is of its name, and that of the cluster's, should somebody have edited our mark away.
    named = network.name.removesuffix(network_name(""))
    if not active:
        return replace(network, cluster=network.cluster or named)
    saved = handle.XMLDesc(defined)
    # Most often they differ in the first tag at most, where libvirt counts the machines on what runs.
    same = saved.partition(">")[2] == text.partition(">")[2]
    definition = network if same else read_network(saved, active=active, autostart=autostart)
    # libvirt shows one that somebody undefined while it was active as if it were defined.
    definition = replace(definition, cluster=definition.cluster or named, saved=bool(handle.isPersistent()))
    return _observed(network, definition)


def _observed(live: VirtualNetwork, definition: VirtualNetwork) -> VirtualNetwork:
    if not live.has_files:
        return as_it_runs(live, definition)
    hosts, names = (told.lines_of(path) for path in _paths(live.name))
    try:
        reservations, dns_hosts = read_reservations(_read_ones(hosts)), read_dns_hosts(_read_ones(names))
    except ValueError:  # somebody edited them
        return replace(as_it_runs(live, definition), saved=False)
    network = as_it_runs(live, definition, reservations=reservations, dns_hosts=dns_hosts)
    return replace(network, saved=network.saved and told.UNREAD not in (*hosts, *names))


def _judged(network: VirtualNetwork, bridges: Mapping[str, links.Bridge]) -> VirtualNetwork:
    """An active network as it works. Of what only root could mend in place, others see that a restart is needed."""
    bridge = bridges.get(network.bridge)
    if bridge is None:
        return replace(network, bridged=False)
    at_work = bridge.up and network.gateway in bridge.addresses
    return replace(network, intact=at_work and dnsmasq.serves(network.name), bridged=at_work or is_root())


def _mend(libvirt: Libvirt, handle: Handle, want: VirtualNetwork) -> None:
    """Have its bridge up, with its address, and its dnsmasq run, without a word to its machines."""
    if is_root():
        links.set_up(want.bridge, IPv4Interface((want.gateway, want.subnet.prefixlen)))
    if not dnsmasq.serves(want.name):
        # libvirt starts it when it has something new to tell it.
        api, word = libvirt.api, DnsHost(want.gateway, ("ai-how-was-here",)).to_element()
        for command in (api.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, api.VIR_NETWORK_UPDATE_COMMAND_DELETE):
            _update_one(libvirt, handle, command, api.VIR_NETWORK_SECTION_DNS_HOST, word)


def _read_ones(lines: Iterable[str]) -> list[str]:
    return [line for line in lines if line != told.UNREAD]


def _paths(network: str) -> tuple[Path, Path]:
    return Path(file_path(network, File.HOSTS)), Path(file_path(network, File.NAMES))


def _begin_anew(want: VirtualNetwork) -> None:
    """One that starts has all of its nodes from its definition: what our files add to that is gone."""
    if want.has_files and is_root():
        told.tell(dict.fromkeys(_paths(want.name), ()), lambda: None)


def _define(libvirt: Libvirt, want: VirtualNetwork) -> None:
    with libvirt.doing(f"cannot define network {want.name}"):
        libvirt.connection.networkDefineXML(want.to_xml())


def _set_power(libvirt: Libvirt, want: VirtualNetwork) -> None:
    handle = libvirt.get(libvirt.connection.networkLookupByName, want.name)
    with libvirt.doing(f"cannot {'start' if want.active else 'stop'} network {want.name}"):
        if bool(handle.isActive()) != want.active:
            if want.active:
                handle.create()
            else:
                _destroy(libvirt, handle)
        if want.autostart and not handle.isPersistent():
            # Somebody undefined it while it was active; only what is defined starts by itself.
            handle = libvirt.connection.networkDefineXML(want.to_xml())
        if bool(handle.autostart()) != want.autostart:
            handle.setAutostart(want.autostart)


def _stop(libvirt: Libvirt, name: str) -> None:
    handle = find(libvirt, name)
    if handle is None:
        return
    with libvirt.doing(f"cannot stop network {name}"):
        if handle.isActive():
            _destroy(libvirt, handle)


def _destroy(libvirt: Libvirt, handle: Handle) -> None:
    with dnsmasq.until_ended(handle.name()) if libvirt.is_system else contextlib.nullcontext():
        handle.destroy()


def _change_running(libvirt: Libvirt, have: VirtualNetwork, want: VirtualNetwork) -> None:
    """Take ranges, reservations and names of what runs to what shall be. dnsmasq knows them when this returns.

    One update by libvirt takes a third of a second, because it makes its rules anew for it. So what is added is written
    to files of ours, all of it at once; what goes is taken out of what libvirt has.
    """
    handle = libvirt.get(libvirt.connection.networkLookupByName, want.name)
    if not have.intact:
        _mend(libvirt, handle, want)
    with libvirt.doing(f"cannot read network {want.name}"):
        text = handle.XMLDesc(0)
    live = read_network(text, active=True, autostart=have.autostart)
    hosts, names = libvirt.api.VIR_NETWORK_SECTION_IP_DHCP_HOST, libvirt.api.VIR_NETWORK_SECTION_DNS_HOST
    in_files = live.has_files and is_root()
    rules_anew = live.dhcp_ranges != want.dhcp_ranges or not {*live.reservations} <= {*want.reservations}
    with let_through(live.bridge) if in_files and rules_anew else contextlib.nullcontext():
        if live.dhcp_ranges != want.dhcp_ranges:
            _update_ranges(libvirt, handle, *range_changes(read_ranges(text), want.dhcp_ranges))
        reservations = _update(libvirt, handle, hosts, live.reservations, want.reservations, in_files=in_files)
    dns_hosts = _update(libvirt, handle, names, live.dns_hosts, want.dns_hosts, in_files=in_files)
    if in_files:
        files = dict(zip(_paths(want.name), (reservations, dns_hosts), strict=True))
        told.tell(files, lambda: dnsmasq.reload_network(want.name))


def _update_ranges(libvirt: Libvirt, handle: Handle, new: Iterable[Range], gone: Iterable[Range]) -> None:
    # New ones first: dnsmasq does not start with more leases than its ranges have addresses.
    section = libvirt.api.VIR_NETWORK_SECTION_IP_DHCP_RANGE
    for each in new:
        _update_one(libvirt, handle, libvirt.api.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, section, range_element(each))
    for each in gone:
        _update_one(libvirt, handle, libvirt.api.VIR_NETWORK_UPDATE_COMMAND_DELETE, section, range_element(each))


def _update(
    libvirt: Libvirt,
    handle: Handle,
    section: int,
    live: Iterable[Entry],
    want: Iterable[Entry],
    *,
    in_files: bool,
) -> list[str]:
    """Take entries that go from what libvirt runs, and add to it what cannot be in a file: the lines for the rest."""
    old, fresh = set(live), set(want)
    add, delete = libvirt.api.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, libvirt.api.VIR_NETWORK_UPDATE_COMMAND_DELETE
    for each in sorted(old - fresh):
        _update_one(libvirt, handle, delete, section, each.to_element())
    lines = []
    for each in sorted(fresh - old):
        if in_files and each.is_plain:
            lines.append(each.to_line())
        else:
            _update_one(libvirt, handle, add, section, each.to_element())
    return lines


def _update_one(libvirt: Libvirt, handle: Handle, command: int, section: int, element: xml.Element) -> None:
    with libvirt.doing(f"cannot update network {handle.name()}"):
        handle.update(command, section, -1, xml.render(element), libvirt.api.VIR_NETWORK_UPDATE_AFFECT_LIVE)


def _release(libvirt: Libvirt, old: Collection[Reservation], want: VirtualNetwork) -> None:
    """Have dnsmasq forget the leases of addresses that are nobody's or somebody else's now, also those that it has kept
    while the network was stopped.

    Else it answers for the name, and keeps the address from its next owner, until the lease expires.
    """
    owners = {each.ip: each.mac for each in want.reservations}
    gone = {each.mac for each in old} - {*owners.values()}
    handle = libvirt.get(libvirt.connection.networkLookupByName, want.name)
    with libvirt.doing(f"cannot read the leases of {want.name}"):
        leases = [each for each in handle.DHCPLeases() if each["type"] == libvirt.api.VIR_IP_ADDR_TYPE_IPV4]
    held = {(each["mac"].lower(), IPv4Address(each["ipaddr"])) for each in leases}
    held |= {(each.mac, each.ip) for each in old}
    for mac, ip in sorted(held):
        if mac in gone or owners.get(ip, mac) != mac:
            # Not root on a kernel before 5.7 may not; the change is complete without it, and the lease expires.
            with contextlib.suppress(HostError):
                dhcp.release(want.bridge, want.gateway, ip, mac)
