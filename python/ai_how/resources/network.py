"""A libvirt network: the bridge, its DHCP and DNS (libvirt's network format, formatnetwork.html)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import ClassVar, TypeVar

from lxml import etree

from ai_how.config.fields import LABEL_PATTERN, MAC_PATTERN
from ai_how.resources import xml
from ai_how.resources.base import Impact, Kind, ResourceId, identity_uuid, managed
from ai_how.resources.firewall import TABLE
from ai_how.resources.hook import PATH as HOOK_PATH
from ai_how.resources.policy import read_policy, write_policy
from ai_how.resources.servers import File, file_option
from ai_how.resources.sysctl import FORWARDING
from ai_how.spec.policy import Policy

#: libvirt's passthrough of options to dnsmasq, one line of its configuration each.
DNSMASQ = "http://libvirt.org/schemas/network/dnsmasq/1.0"

#: First and last address of a DHCP range, both inclusive.
Range = tuple[IPv4Address, IPv4Address]


def range_element(each: Range) -> xml.Element:
    """The <range> that libvirt takes in <dhcp> and in live updates."""
    return xml.root("range", start=str(each[0]), end=str(each[1]))


class Forward(StrEnum):
    """How packets leave the network (libvirt's <forward mode>)."""

    NAT = "nat"
    ROUTE = "route"
    OPEN = "open"
    NONE = "none"


@dataclass(frozen=True, slots=True, order=True)
class Reservation:
    """A fixed DHCP address for a MAC, with the host name that DHCP hands out (option 12)."""

    ip: IPv4Address
    mac: str
    name: str

    def to_element(self) -> xml.Element:
        """The <host> that libvirt takes in <dhcp> and in live updates."""
        return etree.Element("host", {"mac": self.mac, "name": self.name, "ip": str(self.ip)})

    @property
    def is_plain(self) -> bool:
        """Whether it is as we make them. Others can have anything in their words."""
        return all((re.fullmatch(MAC_PATTERN, self.mac), re.fullmatch(LABEL_PATTERN, self.name)))

    def to_line(self) -> str:
        """The same in a file of dnsmasq's dhcp-hostsfile."""
        return f"{self.mac},{self.ip},{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class DnsHost:
    """A name that the gateway answers for, whether or not the machine is there."""

    ip: IPv4Address
    names: tuple[str, ...]

    def to_element(self) -> xml.Element:
        """The <host> that libvirt takes in <dns> and in live updates."""
        made = etree.Element("host", {"ip": str(self.ip)})
        for name in self.names:
            xml.child(made, "hostname", name)
        return made

    @property
    def is_plain(self) -> bool:
        """Whether it is as we make them."""
        return all(re.fullmatch(LABEL_PATTERN, name) for name in self.names)

    def to_line(self) -> str:
        """The same in a file of dnsmasq's addn-hosts, which is one as hosts(5) describes it."""
        return " ".join((str(self.ip), *self.names))


Entry = TypeVar("Entry", Reservation, DnsHost)


@dataclass(frozen=True, slots=True)
class VirtualNetwork:
    """One network. `dhcp_ranges` (inclusive, merged), `reservations` and `dns_hosts` are sorted; `mtu` is in bytes.

    `cluster`, `dns_mode`, `policy`, `upstream` and `dns_servers` are carried in our mark, so that a host tells by
    itself what it runs. The servers that the gateway asks are `forwarders` in the definition, or `upstream` where files
    of ours say them (resources/servers.py); `dns_servers` are those that these tell nodes to ask instead of it.

    What is observed of an active network is what runs. `saved` is False where its definition says something else, so
    that a restart would change it, or where a file of ours was not read yet. `intact` is False where its dnsmasq ended,
    or its bridge is down or without its address, `bridged` where its bridge is gone: libvirt notices nothing of these.
    """

    kind: ClassVar[Kind] = Kind.NETWORK

    name: str
    cluster: str = managed(Impact.LIVE)
    dns_mode: str = managed(Impact.LIVE)
    forward: Forward = managed(Impact.RESTART)
    bridge: str = managed(Impact.RESTART)
    mac: str = managed(Impact.RESTART)
    mtu: int | None = managed(Impact.RESTART)
    domain: str = managed(Impact.RESTART)
    subnet: IPv4Network = managed(Impact.RESTART)
    gateway: IPv4Address = managed(Impact.RESTART)
    dhcp_ranges: tuple[Range, ...] = managed(Impact.LIVE)
    reservations: tuple[Reservation, ...] = managed(Impact.LIVE)
    dns_hosts: tuple[DnsHost, ...] = managed(Impact.LIVE)
    forwarders: tuple[str, ...] = managed(Impact.RESTART)
    dnsmasq_options: tuple[str, ...] = managed(Impact.RESTART)
    active: bool = managed(Impact.LIVE)
    autostart: bool = managed(Impact.LIVE)
    policy: Policy = managed(Impact.LIVE, default_factory=Policy)
    upstream: tuple[str, ...] = managed(Impact.LIVE, default=())
    dns_servers: tuple[str, ...] = managed(Impact.LIVE, default=())
    saved: bool = managed(Impact.LIVE, default=True)
    intact: bool = managed(Impact.LIVE, default=True)
    bridged: bool = managed(Impact.RESTART, default=True)

    @property
    def key(self) -> str:
        return self.name

    @property
    def up(self) -> bool:
        return self.active

    @property
    def needs(self) -> tuple[ResourceId, ...]:
        # Rules are there before what they hold, a setting is remembered before libvirt changes it, libvirt knows the
        # hook, and dnsmasq does not start without its file.
        of_host = (
            ResourceId(Kind.FIREWALL, TABLE),
            ResourceId(Kind.SYSCTL, FORWARDING),
            ResourceId(Kind.HOOK, HOOK_PATH),
        )
        files = (ResourceId(Kind.SERVERS, self.name),) if self.has_files else ()
        return (*(of_host if self.policy.firewall.enabled else ()), *files)

    @property
    def has_files(self) -> bool:
        """Whether its dnsmasq reads files of ours."""
        return {file_option(self.name, each) for each in File} <= {*self.dnsmasq_options}

    def to_xml(self) -> str:
        """The network as libvirt reads it."""
        document = etree.Element("network", nsmap={"dnsmasq": DNSMASQ})
        xml.child(document, "name", self.name)
        xml.child(document, "uuid", str(identity_uuid(self.kind, self.name)))
        facts = {"cluster": self.cluster, "dns_mode": self.dns_mode, "policy": write_policy(self.policy)}
        servers = {"upstream": " ".join(self.upstream), "dns_servers": " ".join(self.dns_servers)}
        xml.mark(document, **facts, **{name: value for name, value in servers.items() if value})
        if self.forward is not Forward.NONE:
            xml.child(document, "forward", mode=self.forward)
        # Spanning tree and a forward delay would hold every new port for seconds; no loop can form here.
        xml.child(document, "bridge", name=self.bridge, stp="off", delay="0")
        if self.mtu is not None:
            xml.child(document, "mtu", size=self.mtu)
        # A fixed address: with a random one, a redefined network loses guests that have the gateway in their ARP cache.
        xml.child(document, "mac", address=self.mac)
        # localOnly: unknown names of our own zone are answered here, at once, and never leave the host.
        xml.child(document, "domain", name=self.domain, localOnly="yes")
        dns = xml.child(document, "dns")
        for server in self.forwarders:
            xml.child(dns, "forwarder", addr=server)
        dns.extend(host.to_element() for host in self.dns_hosts)
        ip = xml.child(document, "ip", address=str(self.gateway), netmask=str(self.subnet.netmask))
        if self.dhcp_ranges:
            dhcp = xml.child(ip, "dhcp")
            dhcp.extend(range_element(each) for each in self.dhcp_ranges)
            dhcp.extend(reservation.to_element() for reservation in self.reservations)
        options = etree.SubElement(document, f"{{{DNSMASQ}}}options")
        for option in self.dnsmasq_options:
            etree.SubElement(options, f"{{{DNSMASQ}}}option", value=option)
        return xml.render(document)


def read_network(text: str, *, active: bool, autostart: bool) -> VirtualNetwork:
    """The network that libvirt's XML describes.

    Any network can be read, also those of others: what they lack is empty, what they have in IPv6 is left out, and of
    several IPv4 subnets the first one counts.
    """
    document = xml.parse(text)
    facts = xml.read_mark(document)
    ipv4 = (each for each in document.iterfind("ip") if each.get("family", "ipv4") == "ipv4")
    ip = next(ipv4, etree.Element("ip"))
    gateway = IPv4Address(ip.get("address", "0.0.0.0"))  # noqa: S104 - a value, not a bind
    mask = ip.get("netmask") or ip.get("prefix", "32")
    mtu = xml.attribute(document, "mtu", "size")
    return VirtualNetwork(
        name=document.findtext("name", ""),
        cluster=facts.get("cluster", ""),
        dns_mode=facts.get("dns_mode", ""),
        forward=_forward(document),
        bridge=xml.attribute(document, "bridge", "name"),
        mac=xml.attribute(document, "mac", "address"),
        mtu=int(mtu) if mtu else None,
        domain=xml.attribute(document, "domain", "name"),
        subnet=IPv4Network(f"{gateway}/{mask}", strict=False),
        gateway=gateway,
        dhcp_ranges=merged(_ranges(ip)),
        reservations=tuple(
            sorted(
                Reservation(IPv4Address(host.get("ip")), host.get("mac", ""), host.get("name", ""))
                for host in ip.iterfind("dhcp/host")
                if host.get("ip")
            )
        ),
        dns_hosts=tuple(
            sorted(
                DnsHost(IPv4Address(host.get("ip")), tuple(name.text or "" for name in host.iterfind("hostname")))
                for host in document.iterfind("dns/host")
                if ":" not in host.get("ip", ":")
            )
        ),
        forwarders=tuple(server.get("addr", "") for server in document.iterfind("dns/forwarder")),
        dnsmasq_options=tuple(
            option.get("value", "") for option in document.iterfind(f"{{{DNSMASQ}}}options/{{{DNSMASQ}}}option")
        ),
        active=active,
        autostart=autostart,
        policy=read_policy(facts.get("policy")),
        upstream=_servers(facts.get("upstream", "")),
        dns_servers=_servers(facts.get("dns_servers", "")),
    )


def read_reservations(lines: Iterable[str]) -> tuple[Reservation, ...]:
    """What such a file says. Raises ValueError where it is not one of ours."""
    parts = (line.split(",") for line in lines)
    return tuple(Reservation(IPv4Address(ip), mac, name) for mac, ip, name in parts)


def read_dns_hosts(lines: Iterable[str]) -> tuple[DnsHost, ...]:
    """The same of names."""
    parts = (line.split() for line in lines)
    return tuple(DnsHost(IPv4Address(ip), tuple(names)) for ip, *names in parts)


def read_ranges(text: str) -> tuple[Range, ...]:
    """The ranges in libvirt's XML, each as it was added."""
    return tuple(_ranges(xml.parse(text).find("ip")))


def _ranges(ip: xml.Element | None) -> Iterator[Range]:
    for each in () if ip is None else ip.iterfind("dhcp/range"):
        yield IPv4Address(each.get("start")), IPv4Address(each.get("end"))


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same addresses, sorted, in as few ranges as there can be."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and int(start) <= int(found[-1][1]) + 1:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return tuple(found)


def range_changes(live: Iterable[Range], want: Sequence[Range]) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    """What to add to `live` and what to remove from it then, so that it has the addresses of `want`: as few as
    possible, since dnsmasq starts anew for each."""
    held = [(each, any(start <= each[0] and each[1] <= end for start, end in want)) for each in live]
    kept = merged(each for each, inside in held if inside)
    new: list[Range] = []
    for first, end in want:
        start = first
        for kept_start, kept_end in kept:
            if start <= kept_start and kept_end <= end:
                if start < kept_start:
                    new.append((start, kept_start - 1))
                start = kept_end + 1
        if start <= end:
            new.append((start, end))
    return tuple(new), tuple(each for each, inside in held if not inside)


def as_it_runs(
    live: VirtualNetwork,
    definition: VirtualNetwork,
    *,
    reservations: Iterable[Reservation] = (),
    dns_hosts: Iterable[DnsHost] = (),
) -> VirtualNetwork:
    """An active network of ours: what libvirt runs, and what our files add to it (`reservations`, `dns_hosts`).

    Our mark counts as it is defined: libvirt keeps the one of the network's start with what runs.
    """
    found = replace(
        live,
        cluster=definition.cluster,
        dns_mode=definition.dns_mode,
        policy=definition.policy,
        upstream=definition.upstream,
        dns_servers=definition.dns_servers,
        reservations=_joined(live.reservations, reservations),
        dns_hosts=_joined(live.dns_hosts, dns_hosts),
    )
    return replace(found, saved=found == definition)


def _joined(entries: tuple[Entry, ...], more: Iterable[Entry]) -> tuple[Entry, ...]:
    known = frozenset(entries)
    new = tuple(each for each in more if each not in known)
    return tuple(sorted(entries + new)) if new else entries


def _servers(text: str) -> tuple[str, ...]:
    """The addresses of servers in our mark; none where somebody edited it to something else."""
    try:
        return tuple(str(ip_address(each)) for each in text.split())
    except ValueError:
        return ()


def _forward(document: xml.Element) -> Forward:
    found = document.find("forward")
    if found is None:
        return Forward.NONE
    mode = found.get("mode", "nat")
    # Modes that we never make (bridge, hostdev, …) have no subnet of their own either.
    return Forward(mode) if mode in set(Forward) else Forward.NONE
