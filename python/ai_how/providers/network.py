"""libvirt networks on a host."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from ai_how.errors import HostError
from ai_how.host import dhcp
from ai_how.host.libvirt import Handle, Libvirt
from ai_how.resources import xml
from ai_how.resources.base import Kind, identity_uuid
from ai_how.resources.network import VirtualNetwork, read_network


def observe(libvirt: Libvirt, cluster: str) -> list[VirtualNetwork]:
    """The cluster's network, if it is there."""
    return [network for network in observe_all(libvirt) if network.cluster == cluster]


def observe_all(libvirt: Libvirt) -> list[VirtualNetwork]:
    """Every network of the host, whoever made it. `cluster` is empty where it carries no mark."""
    with libvirt.doing("cannot list the host's networks"):
        handles = libvirt.connection.listAllNetworks()
    return [network for handle in handles if (network := _read(libvirt, handle)) is not None]


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
    _define(libvirt, want)
    _set_power(libvirt, want)


def change(libvirt: Libvirt, have: VirtualNetwork, want: VirtualNetwork) -> None:
    """Apply reservations and names live; redefine for all else, which takes effect with the next start.

    plan/refuse.py sees to it that the latter only happens to a network without running nodes.
    """
    live = replace(have, reservations=want.reservations, dns_hosts=want.dns_hosts)
    live = replace(live, cluster=want.cluster, policy=want.policy, active=want.active, autostart=want.autostart)
    if have.active and want.active and live == want:
        _update_live(libvirt, have, want)
        if (have.cluster, have.policy) != (want.cluster, want.policy):
            _define(libvirt, want)  # our mark; what runs is not touched
    else:
        if have.active and live != want:
            _stop(libvirt, want.name)
        _define(libvirt, want)
    _set_power(libvirt, want)


def remove(libvirt: Libvirt, have: VirtualNetwork) -> None:
    """Stop and undefine it."""
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


def _read(libvirt: Libvirt, handle: Handle) -> VirtualNetwork | None:
    api, ours = libvirt.api, is_ours(handle)
    try:
        text = handle.XMLDesc(api.VIR_NETWORK_XML_INACTIVE if ours else 0)
        network = read_network(text, active=bool(handle.isActive()), autostart=bool(handle.autostart()))
    except api.libvirtError as error:
        if error.get_error_code() == api.VIR_ERR_NO_NETWORK:  # gone since it was listed
            return None
        with libvirt.doing(f"cannot read network {handle.name()}"):
            raise
    return network if ours else replace(network, cluster="")


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
                handle.destroy()
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
            handle.destroy()


def _update_live(libvirt: Libvirt, have: VirtualNetwork, want: VirtualNetwork) -> None:
    """Add and remove reservations and names in the running dnsmasq and in the definition, together."""
    api = libvirt.api
    gone, new = api.VIR_NETWORK_UPDATE_COMMAND_DELETE, api.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST
    hosts, names = api.VIR_NETWORK_SECTION_IP_DHCP_HOST, api.VIR_NETWORK_SECTION_DNS_HOST
    handle = libvirt.get(libvirt.connection.networkLookupByName, want.name)
    flags = api.VIR_NETWORK_UPDATE_AFFECT_LIVE | api.VIR_NETWORK_UPDATE_AFFECT_CONFIG

    def update(command: int, section: int, elements: Iterable[xml.Element]) -> None:
        for element in elements:
            with libvirt.doing(f"cannot update network {want.name}"):
                handle.update(command, section, -1, xml.render(element), flags)

    old, fresh = set(have.reservations), set(want.reservations)
    update(gone, hosts, (each.to_element() for each in sorted(old - fresh)))
    update(new, hosts, (each.to_element() for each in sorted(fresh - old)))
    known, listed = set(have.dns_hosts), set(want.dns_hosts)
    update(gone, names, (each.to_element() for each in sorted(known - listed)))
    update(new, names, (each.to_element() for each in sorted(listed - known)))
    # Else dnsmasq answers for the name, and keeps the address from its next owner, until the lease expires.
    holders = {each.mac for each in fresh}
    for each in old - fresh:
        if each.mac not in holders:
            # Not root on a kernel before 5.7 may not; the change is complete without it, and the lease expires.
            with contextlib.suppress(HostError):
                dhcp.release(want.bridge, want.gateway, each.ip, each.mac)
