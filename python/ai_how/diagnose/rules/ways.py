"""Networks as the rules see them: the chains that their packets pass, and the packets themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from ai_how.diagnose.facts import Firewall
from ai_how.host import iptables
from ai_how.host.packet_walk import Base, Packet, Table, read_iptables, read_tables
from ai_how.resources.firewall import OUR_NAMES, TRACES

#: What is outside: an address that no network of this host has.
OUTSIDE = IPv4Address("8.8.8.8")

LIBVIRT_TABLE = "libvirt_network"
LIBVIRT_CHAINS = "LIBVIRT_"
FIREWALLD = ("inet", "firewalld")

_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")

_EPHEMERAL = 50000
_EVERYBODY = IPv4Address("255.255.255.255")
_FIRST: Mapping[str, str] = {"state": "new", "direction": "original"}
_REPLY: Mapping[str, str] = {"state": "established", "direction": "reply"}
#: What the host sends comes in by no link, and what it gets leaves by none.
_NO_LINK: Mapping[str, str] = {"iifname": "", "oifname": ""}
#: One packet of each kind that nodes send most: what is asked, and of answers the same from the other end.
KINDS: Mapping[str, Mapping[str, str | int]] = {
    "tcp": {"l4proto": "tcp", "sport": _EPHEMERAL, "dport": 443},
    "udp": {"l4proto": "udp", "sport": _EPHEMERAL, "dport": 53},
    "icmp": {"l4proto": "icmp", "icmp": "echo-request"},
}


@dataclass(frozen=True, slots=True)
class Way:
    """An active network. `forward` is libvirt's mode (`nat`, `route`, `open`, `none`).

    `cluster` is empty where it is not ours. `guarded`: our table has rules for it, which masquerade and keep it apart.
    `device` is the only link that it may leave by, empty for any.
    """

    network: str
    bridge: str
    subnet: IPv4Network
    gateway: IPv4Address
    forward: str
    cluster: str = ""
    guarded: bool = False
    device: str = ""

    @property
    def leads_out(self) -> bool:
        return self.forward in ("nat", "route", "open")

    @property
    def nodes(self) -> tuple[IPv4Address, IPv4Address]:
        """Addresses that two nodes may have."""
        first, last = int(self.subnet.network_address), int(self.subnet.broadcast_address)
        free = [IPv4Address(each) for each in range(first + 1, min(last, first + 5)) if each != int(self.gateway)]
        return (free[0], free[-1]) if free else (self.gateway, self.gateway)


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain, and the command of iptables that changes it: `iptables`, `iptables-legacy`, or none."""

    table: Table
    name: str
    command: str = ""

    @property
    def hook(self) -> str:
        return self._base.hook

    @property
    def priority(self) -> int:
        return self._base.priority

    @property
    def _base(self) -> Base:
        return self.table.bases.get(self.name) or self.table.nats[self.name]

    @property
    def where(self) -> str:
        first = self.command if self.command == iptables.LEGACY else self.table.family
        return f"{first} {self.table.name} {self.name}"

    @property
    def is_firewalld(self) -> bool:
        return (self.table.family, self.table.name) == FIREWALLD


def filter_chains(firewall: Firewall) -> list[Chain]:
    """Those that filter, without our own, in the order in which packets come to their hooks."""
    others = [each for each in chains_of(firewall) if each.table.name not in OUR_NAMES]
    found = [each for each in others if each.name in each.table.bases]
    return [each for hook in _HOOKS for each in found if each.hook == hook]


def nat_chains(firewall: Firewall) -> list[Chain]:
    """Those that change the source of what leaves."""
    found = [each for each in chains_of(firewall) if each.name in each.table.nats]
    return [each for each in found if each.hook == "postrouting"]


def chains_of(firewall: Firewall) -> Iterator[Chain]:
    """All base chains that IPv4 packets pass."""
    for table in read_tables(firewall.ruleset):
        if table.family in ("ip", "inet") and not table.name.startswith(TRACES):
            own = firewall.iptables.get(table.name) if table.family == "ip" else None
            said = table if own is None else read_iptables(own, table.name)
            for name in (*said.bases, *said.nats):
                is_iptables = table.family == "ip" and table.name in iptables.TABLES and name.isupper()
                yield Chain(said, name, "iptables" if is_iptables else "")
    for name, text in firewall.legacy.items():
        legacy = read_iptables(text, name)
        for chain in (*legacy.bases, *legacy.nats):
            yield Chain(legacy, chain, iptables.LEGACY)


def packets_of(way: Way, direction: str, uplink: str) -> dict[str, list[Packet]]:
    """What must come through, by protocol. Of what the gateway answers about addresses one packet is enough: nodes ask
    for them in several ways."""
    node, other = way.nodes
    match direction:
        case "out":
            return {kind: [_question(way.bridge, uplink, node, OUTSIDE, kind)] for kind in KINDS}
        case "back":
            return {kind: [_answer(uplink, way.bridge, OUTSIDE, node, kind)] for kind in KINDS}
        case "asking":
            place: Packet = {**_NO_LINK, "iifname": way.bridge, **_FIRST, "l4proto": "udp"}
            names: Packet = {**place, "saddr": node, "daddr": way.gateway, "sport": _EPHEMERAL, "dport": 53}
            address: Packet = {**place, "saddr": IPv4Address(0), "daddr": _EVERYBODY, "sport": 68, "dport": 67}
            return {"DNS": [names], "DHCP": [address]}
        case "answering":
            place = {**_NO_LINK, "oifname": way.bridge, "saddr": way.gateway, "l4proto": "udp"}
            name: Packet = {**place, **_REPLY, "daddr": node, "sport": 53, "dport": _EPHEMERAL}
            # What was asked of everybody is answered by who was not asked: the kernel takes it for something new.
            offer: Packet = {**place, "sport": 67, "dport": 68, "daddr": node}
            offers: list[Packet] = [{**offer, **_FIRST}, {**offer, **_FIRST, "daddr": _EVERYBODY}, {**offer, **_REPLY}]
            return {"DNS": [name], "DHCP": offers}
        case _:
            links = (way.bridge, way.bridge)
            both = {kind: [_question(*links, node, other, kind), _answer(*links, other, node, kind)] for kind in KINDS}
            return {kind: [{**each, "bridged": "yes"} for each in several] for kind, several in both.items()}


def _question(come: str, go: str, source: IPv4Address, target: IPv4Address, kind: str) -> Packet:
    place = {"iifname": come, "oifname": go, **_FIRST}
    return {**place, "saddr": source, "daddr": target, **KINDS[kind]}


def _answer(come: str, go: str, source: IPv4Address, target: IPv4Address, kind: str) -> Packet:
    place = {"iifname": come, "oifname": go, **_REPLY, "l4proto": kind}
    said = KINDS[kind]
    ends = {"sport": said["dport"], "dport": said["sport"]} if "dport" in said else {"icmp": "echo-reply"}
    return {**place, "saddr": source, "daddr": target, **ends}


def entries_of(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text)["nftables"] if text else []
    return found
