"""What libvirt's own rules lack, with either of its backends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ai_how.diagnose.facts import Firewall
from ai_how.diagnose.rules.ways import LIBVIRT_CHAINS, LIBVIRT_TABLE, Way
from ai_how.host.iptables import LEGACY
from ai_how.host.packet_walk import Rule, Table, read_iptables, read_tables, term


class Lack(StrEnum):
    """What is gone: all of it (somebody flushed), what masquerades, what rejects, or what accepts."""

    WHOLE = "whole"
    NAT = "nat"
    ISOLATION = "isolation"
    ACCEPT = "accept"


@dataclass(frozen=True, slots=True)
class Missing:
    """Rules of libvirt's that are gone. `backend` is `iptables`, `iptables-legacy` or `nftables`, empty where none of
    them has a trace; `rules` say what is missing, one each."""

    kind: Lack
    networks: tuple[str, ...]
    backend: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A rule that libvirt has for a network, as the facts that its text must hold."""

    lack: Lack
    chain: str
    network: str
    facts: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"{self.chain}: {' '.join(self.facts)}"

    def is_in(self, rules: Iterable[frozenset[str]]) -> bool:
        facts = frozenset(self.facts)
        return any(facts <= each <= facts | _BESIDES for each in rules)


@dataclass(frozen=True, slots=True)
class _Backend:
    """One of libvirt's ways to write its rules: the table and chain that each role has, and the chain that leads to it
    where it is no base chain itself. `start` is how its chains are called."""

    name: str
    roles: Mapping[str, tuple[str, str]]
    reached: Mapping[str, str]
    tables: Mapping[str, Table]
    start: str

    def lists(self, role: str) -> list[frozenset[str]]:
        """The rules of the chain of a role."""
        table, chain = self.roles[role]
        return [_facts(rule) for rule in self.tables[table].rules.get(chain, ())] if table in self.tables else []

    @property
    def is_there(self) -> bool:
        return any(name.startswith(self.start) for table in self.tables.values() for name in table.rules)

    def has_chain(self, role: str) -> bool:
        table, chain = self.roles[role]
        return table in self.tables and chain in self.tables[table].rules

    def is_reached(self, role: str) -> bool:
        """Whether packets come to the chain of a role at all."""
        table, chain = self.roles[role]
        if table not in self.tables:
            return False
        if role not in self.reached:
            return chain in self.tables[table].nats or chain in self.tables[table].bases
        rules = self.tables[table].rules.get(self.reached[role], ())
        return any(f"jump {chain}" in _facts(rule) for rule in rules)


_IN_IPTABLES: Mapping[str, tuple[str, str]] = {
    "incoming": ("filter", "LIBVIRT_INP"),
    "outgoing": ("filter", "LIBVIRT_OUT"),
    "cross": ("filter", "LIBVIRT_FWX"),
    "into": ("filter", "LIBVIRT_FWI"),
    "from": ("filter", "LIBVIRT_FWO"),
    "nat": ("nat", "LIBVIRT_PRT"),
}
_REACHED_IN_IPTABLES = {
    "incoming": "INPUT",
    "outgoing": "OUTPUT",
    "cross": "FORWARD",
    "into": "FORWARD",
    "from": "FORWARD",
    "nat": "POSTROUTING",
}
#: libvirt 10.4 and later. It has no chains for what the host is asked: there the host's own firewall decides.
_IN_NFTABLES: Mapping[str, tuple[str, str]] = {
    "cross": (LIBVIRT_TABLE, "guest_cross"),
    "into": (LIBVIRT_TABLE, "guest_input"),
    "from": (LIBVIRT_TABLE, "guest_output"),
    "nat": (LIBVIRT_TABLE, "guest_nat"),
}
_REACHED_IN_NFTABLES = dict.fromkeys(("cross", "into", "from"), "forward")

#: What libvirt accepts for the gateway of each network: DNS and DHCP, and its answers. It has more, which nobody needs.
_SERVICES = (
    ("incoming", "iif", "udp", 53),
    ("incoming", "iif", "tcp", 53),
    ("incoming", "iif", "udp", 67),
    ("outgoing", "oif", "udp", 68),
)


def libvirt_rules_missing(firewall: Firewall, ways: Iterable[Way]) -> list[Missing]:
    """What libvirt's rules lack of what it makes when a network starts (all `ways` are active ones).

    Nothing where the tables that it may have them in could not be read.
    """
    wanting = [way for way in ways if way.forward in ("nat", "route", "none")]
    if not wanting or _unreadable(firewall):
        return []
    there = [each for each in _backends(firewall) if each.is_there]
    if not there:
        names = tuple(way.network for way in wanting)
        return [Missing(Lack.WHOLE, names, "", ("all of its chains, of iptables and of nftables",))]
    lacks = {each.name: _lacking(each, wanting) for each in there}
    # Where the backend was changed, what the old one had may still lie about: the one that holds most is at work.
    backend = max(there, key=lambda each: _count(each, wanting) - len(lacks[each.name]))
    return _grouped(backend, lacks[backend.name], wanting)


def libvirts_chains_are_whole(firewall: Firewall) -> bool:
    """Whether a backend has all its chains, and packets come to them: libvirt fills them again at SIGHUP, but makes
    them, and what leads to them, only when it starts."""
    return any(
        all(each.is_reached(role) and each.has_chain(role) for role in each.roles) for each in _backends(firewall)
    )


def _unreadable(firewall: Firewall) -> bool:
    names = ("filter", "nat", LIBVIRT_TABLE)
    return any(f"ip {each}" in firewall.unread or each in firewall.unread for each in names)


def _backends(firewall: Firewall) -> list[_Backend]:
    ip = {table.name: table for table in read_tables(firewall.ruleset) if table.family == "ip"}
    legacy = {name: read_iptables(text, name) for name, text in firewall.legacy.items()}
    return [
        _Backend("iptables", _IN_IPTABLES, _REACHED_IN_IPTABLES, _only(ip, "filter", "nat"), LIBVIRT_CHAINS),
        _Backend(LEGACY, _IN_IPTABLES, _REACHED_IN_IPTABLES, _only(legacy, "filter", "nat"), LIBVIRT_CHAINS),
        _Backend("nftables", _IN_NFTABLES, _REACHED_IN_NFTABLES, _only(ip, LIBVIRT_TABLE), ""),
    ]


def _only(tables: Mapping[str, Table], *names: str) -> dict[str, Table]:
    return {name: tables[name] for name in names if name in tables}


def _count(backend: _Backend, ways: Iterable[Way]) -> int:
    """How many rules the networks have where nothing is gone."""
    return sum(role in backend.roles for way in ways for role, _, _ in _wanted(way))


def _lacking(backend: _Backend, ways: Iterable[Way]) -> list[_Wanted]:
    lists = {role: backend.lists(role) for role in backend.roles}
    reached = {role: backend.is_reached(role) for role in backend.roles}
    found = []
    for way in ways:
        for role, facts, lack in _wanted(way):
            if role not in backend.roles:
                continue
            wanted = _Wanted(lack, backend.roles[role][1], way.network, facts)
            if not reached[role] or not wanted.is_in(lists[role]):
                found.append(wanted)
    return found


def _wanted(way: Way) -> Iterator[tuple[str, tuple[str, ...], Lack]]:
    """The rules of one network: in the chain of which role, with which facts, and what their absence means."""
    come, go = f"iif {way.bridge}", f"oif {way.bridge}"
    source, target = f"saddr {way.subnet}", f"daddr {way.subnet}"
    yield "cross", (come, go, "accept"), Lack.ACCEPT
    # Where the network may use one link alone, its rules name that.
    out, back = ((f"oif {way.device}",), (f"iif {way.device}",)) if way.device else ((), ())
    if way.leads_out:
        yield "from", (come, *out, source, "accept"), Lack.ACCEPT
        yield "into", (*back, go, target, "accept"), Lack.ACCEPT
    yield "from", (come, "reject"), Lack.ISOLATION
    yield "into", (go, "reject"), Lack.ISOLATION
    if way.forward == "nat":
        outside = f"daddr != {way.subnet}"
        yield "nat", (source, outside, *out, "masquerade"), Lack.NAT
        for protocol in ("tcp", "udp"):
            yield "nat", (f"protocol {protocol}", source, outside, *out, "masquerade"), Lack.NAT
    for role, key, protocol, port in _SERVICES:
        yield role, (f"{key} {way.bridge}", f"protocol {protocol}", f"dport {port}", "accept"), Lack.ACCEPT


def _grouped(backend: _Backend, lacking: Sequence[_Wanted], ways: Sequence[Way]) -> list[Missing]:
    """By network and kind; networks that have nothing left are one."""
    by_network = {way.network: [each for each in lacking if each.network == way.network] for way in ways}
    bare = [way.network for way in ways if _has_nothing(backend, way, by_network[way.network])]
    found = []
    if bare:
        rules = tuple(each.text for name in bare for each in by_network[name])
        found.append(Missing(Lack.WHOLE, tuple(bare), backend.name, rules))
    for name, those in by_network.items():
        for kind in (Lack.ACCEPT, Lack.NAT, Lack.ISOLATION):
            rules = tuple(each.text for each in those if each.lack is kind)
            if rules and name not in bare:
                found.append(Missing(kind, (name,), backend.name, rules))
    return found


def _has_nothing(backend: _Backend, way: Way, lacking: Sequence[_Wanted]) -> bool:
    """Whether none of the rules that decide what is forwarded is left."""
    forwards = [each for each in _wanted(way) if each[0] in ("cross", "into", "from")]
    chains = {backend.roles[role][1] for role in ("cross", "into", "from")}
    return sum(each.chain in chains for each in lacking) == len(forwards)


def _facts(rule: Rule) -> frozenset[str]:
    """What a rule says, whichever backend wrote it, so that what is wanted can be looked for in it."""
    return frozenset(fact for expression in rule for each in expression.items() for fact in _said(*each))


def _said(kind: str, value: Any) -> Iterator[str]:
    match kind, value:
        case "match", {"op": op, "left": left, "right": right}:
            key = _KEYS.get(term(left))
            if key is not None:
                yield f"{key} {'!= ' if op == '!=' else ''}{term(right)}"
                if key.endswith("dport") and (known := term(left).split()[0]) != "th":
                    yield f"protocol {known}"
        case "jump" | "goto", {"target": target}:
            yield f"jump {target}"
        case "xt", {"type": "target", "name": "MASQUERADE" | "SNAT"}:
            yield "masquerade"
        case "xt", {"type": "target", "name": "REJECT"}:
            yield "reject"
        case "snat", _:
            yield "masquerade"
        case "drop", _:
            yield "reject"
        case _:
            yield kind


#: What a rule of libvirt's may have besides: its counter, the module that asks for states.
_BESIDES = frozenset({"counter", "xt"})

_KEYS = {
    "iif": "iif",
    "iifname": "iif",
    "oif": "oif",
    "oifname": "oif",
    "ip saddr": "saddr",
    "ip daddr": "daddr",
    "ip protocol": "protocol",
    "meta l4proto": "protocol",
    "tcp dport": "dport",
    "udp dport": "dport",
    "th dport": "dport",
}
