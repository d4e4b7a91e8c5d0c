"""The links of running machines to the bridges of their networks: looked at, and made again where a network was
restarted under them.

libvirt puts a machine's tap on the bridge when the machine starts, and again when libvirtd itself starts; who stops and
starts a network leaves the taps of its machines behind, on no bridge.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ai_how.host import links
from ai_how.host.libvirt import Handle, Libvirt
from ai_how.host.memory import is_root
from ai_how.resources import xml
from ai_how.resources.base import Kind, changes, identity_uuid
from ai_how.resources.network import VirtualNetwork

#: What nodes know of their network from DHCP, and would believe until they renew their leases; and the bridge, by whose
#: name libvirt keeps the leases, so that with another nobody knows of them.
TOLD = frozenset({"subnet", "gateway", "mtu", "domain", "bridge"})

#: Bytes of a frame where a network does not say.
_MTU = 1500


@dataclass(frozen=True, slots=True)
class Link:
    """A network card of a running machine: its `tap` on this host, and the `bridge` that libvirt believes it is on.

    `on` is whether its cable is plugged in, as the guest sees it. `description` is libvirt's <interface>.
    """

    tap: str
    network: str
    bridge: str
    on: bool
    description: str

    def to_xml(self, *, on: bool, network: str | None = None) -> str:
        """The same card, plugged in or not, of this or another network, as libvirt takes it for a change."""
        interface = copy.deepcopy(xml.parse(self.description))
        for source in interface.iterfind("source"):
            # libvirt's own notes of where it is connected; it makes them anew.
            for note in {"portid", "bridge"}.intersection(map(str, source.attrib)):
                del source.attrib[note]
            source.set("network", network or self.network)
        for link in interface.findall("link"):
            interface.remove(link)
        xml.child(interface, "link", state="up" if on else "down")
        return xml.render(interface)


def read_links(text: str) -> tuple[Link, ...]:
    """The cards that the live XML of a machine has in libvirt's networks."""
    return tuple(
        Link(
            tap=xml.attribute(each, "target", "dev"),
            network=xml.attribute(each, "source", "network"),
            bridge=xml.attribute(each, "source", "bridge"),
            on=xml.attribute(each, "link", "state") != "down",
            description=xml.render(each),
        )
        for each in xml.parse(text).iterfind("devices/interface")
        if each.get("type") == "network" and xml.attribute(each, "target", "dev")
    )


def unlinked(libvirt: Libvirt, running: Mapping[str, str]) -> frozenset[str]:
    """Those of the `running` machines (keys) that have no tap on the bridge of their network (value)."""
    if not running:
        return frozenset()
    api = libvirt.api
    with libvirt.doing("cannot look at the links of machines"):
        # Asked for all at once: one call for each costs four times as much.
        told = libvirt.connection.getAllDomainStats(
            api.VIR_DOMAIN_STATS_INTERFACE, api.VIR_CONNECT_GET_ALL_DOMAINS_STATS_RUNNING
        )
    taps = {handle.name(): _taps(statistics) for handle, statistics in told}
    bridges = {network: _bridge(libvirt, network) for network in set(running.values())}
    return frozenset(
        machine
        for machine, network in running.items()
        # One that has ended since it was listed is not looked at.
        if machine in taps and bridges[network] not in {links.bridge_of(tap) for tap in taps[machine]} - {""}
    )


def let_go(libvirt: Libvirt, have: VirtualNetwork, want: VirtualNetwork) -> None:
    """Before a restart that takes a network from `have` to `want`: unplug the cards of its machines, where DHCP will
    tell these something else. They ask it anew when they are plugged in again, by `attach`."""
    if not TOLD.intersection(each.field for each in changes(want, have)):
        return

    def unplug(found: tuple[Handle, Link]) -> None:
        _update(libvirt, *found, on=False)

    # On the way back from a restart that failed they are off, and libvirt changes no card of a network that is, too.
    libvirt.map(unplug, [(owner, link) for owner, link in _find(libvirt, have.name) if link.on])


def attach(libvirt: Libvirt, network: str, *, machines: Collection[str] | None = None) -> None:
    """Plug the cards that running machines (or only these) have in `network` into its bridge. It must be active.

    Where the bridge has another name libvirt does it, so that it knows. Where it has the same name libvirt sees nothing
    to do: root does it; without root, libvirt takes the card to a network in between and back.
    """
    handle = libvirt.get(libvirt.connection.networkLookupByName, network)
    with libvirt.doing(f"cannot read network {network}"):
        bridge = str(handle.bridgeName())
        mtu = int(xml.attribute(xml.parse(handle.XMLDesc()), "mtu", "size") or _MTU)
    found = _find(libvirt, network, machines)

    def plug(pair: tuple[Handle, Link]) -> None:
        owner, link = pair
        # The cable first, then the bridge: killed in between, it is seen to be on no bridge.
        if link.bridge != bridge or not link.on:
            _update(libvirt, owner, link, on=True)
        if is_root():
            links.attach(link.tap, bridge, mtu=mtu)

    libvirt.map(plug, found)
    left = [(owner, link) for owner, link in found if links.bridge_of(link.tap) != bridge]
    if left:
        _take_around(libvirt, network, left)


def end_detour(libvirt: Libvirt, network: str) -> None:
    """End the network by which links to `network` were taken, where a kill of `attach` has left it."""
    handle = libvirt.find(libvirt.connection.networkLookupByUUIDString, _detour_uuid(network))
    if handle is not None:
        libvirt.ask(f"cannot end network {handle.name()}", handle.destroy)


def _take_around(libvirt: Libvirt, network: str, found: Sequence[tuple[Handle, Link]]) -> None:
    """Have libvirt connect the links to `network` anew by way of a network of nobody, that ends with this."""
    name = f"ai-how-{network}"
    document = xml.root("network")
    xml.child(document, "name", name)
    xml.child(document, "uuid", _detour_uuid(network))
    # The kernel's limit is 15 characters; %d is the first number that is free.
    xml.child(document, "bridge", name="aih-around%d", stp="off", delay="0")
    if libvirt.find(libvirt.connection.networkLookupByUUIDString, _detour_uuid(network)) is None:
        with libvirt.doing("cannot make a network to take links around by"):
            libvirt.connection.networkCreateXML(xml.render(document))
    try:

        def take(pair: tuple[Handle, Link]) -> None:
            _update(libvirt, *pair, on=True, network=name)
            _update(libvirt, *pair, on=True)

        libvirt.map(take, found)
    finally:
        end_detour(libvirt, network)


def _detour_uuid(network: str) -> str:
    """Not the mark of our networks (their names are in it): whoever lists clusters must not take it for one."""
    return str(identity_uuid(Kind.NETWORK, f"around {network}"))


def _find(libvirt: Libvirt, network: str, machines: Collection[str] | None = None) -> list[tuple[Handle, Link]]:
    """The cards that running machines (or only these) have in `network`, each with its machine."""
    if machines is None:
        with libvirt.doing("cannot list the host's machines"):
            handles = libvirt.connection.listAllDomains(libvirt.api.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    else:
        named = [libvirt.find(libvirt.connection.lookupByName, machine) for machine in machines]
        handles = [handle for handle in named if handle is not None]
    texts = libvirt.map(lambda handle: libvirt.ask(f"cannot read {handle.name()}", handle.XMLDesc), handles)
    return [
        (handle, link)
        for handle, text in zip(handles, texts, strict=True)
        if text is not None
        for link in read_links(text)
        if link.network == network
    ]


def _update(libvirt: Libvirt, owner: Handle, link: Link, *, on: bool, network: str | None = None) -> None:
    """Change the card. A machine that has ended meanwhile has none."""
    api = libvirt.api
    try:
        owner.updateDeviceFlags(link.to_xml(on=on, network=network), api.VIR_DOMAIN_AFFECT_LIVE)
    except api.libvirtError:
        with libvirt.doing(f"cannot connect {owner.name()} to network {network or link.network}"):
            if libvirt.find(libvirt.connection.lookupByUUIDString, owner.UUIDString()) is not None and owner.isActive():
                raise


def _bridge(libvirt: Libvirt, network: str) -> str | None:
    """The bridge of `network`, None where there is none of that name at work."""
    handle = libvirt.find(libvirt.connection.networkLookupByName, network)
    return libvirt.ask(
        f"cannot read network {network}",
        lambda: str(handle.bridgeName()) if handle is not None and handle.isActive() else None,
    )


def _taps(statistics: Mapping[str, object]) -> list[str]:
    """The names in libvirt's statistics: net.count, net.0.name, …"""
    return [str(value) for key, value in statistics.items() if key.startswith("net.") and key.endswith(".name")]
