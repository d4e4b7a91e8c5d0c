"""What a host's firewall rules do to networks: which stop their packets, and what of libvirt's and ours is gone.

Everything is decided from the rules as text (facts.Firewall), packet by packet (host/packet_walk.py). A packet passes
each base chain at its hook: what one accepts another may drop, and a drop is final.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from ai_how.diagnose.facts import Firewall
from ai_how.diagnose.finding import Command
from ai_how.host import iptables
from ai_how.host.packet_walk import End, Packet, Rule, Table, Verdict, decide, read_iptables, read_tables, term, words
from ai_how.resources.firewall import TABLE, TRACES, Denial
from ai_how.resources.ruleset import FAMILIES

#: What is outside: an address that no network of this host has.
OUTSIDE = IPv4Address("8.8.8.8")

#: The comment of rules that our commands put into tables of others, by which they are found again (`taken_back`).
COMMENT = "ai-how doctor"

_LIBVIRT = "libvirt_network"
_LIBVIRT_CHAINS = "LIBVIRT_"
_FIREWALLD = ("inet", "firewalld")
_LEGACY = "iptables-legacy"
_IPTABLES = frozenset({"filter", "mangle", "raw", "nat", "security"})

_EPHEMERAL = 50000
_EVERYBODY = IPv4Address("255.255.255.255")
#: One packet of each kind that nodes send most: what is asked, and of answers the same from the other end.
_KINDS: Mapping[str, Mapping[str, str | int]] = {
    "tcp": {"l4proto": "tcp", "sport": _EPHEMERAL, "dport": 443},
    "udp": {"l4proto": "udp", "sport": _EPHEMERAL, "dport": 53},
    "icmp": {"l4proto": "icmp", "icmp": "echo-request"},
}


@dataclass(frozen=True, slots=True)
class Way:
    """An active network. `forward` is libvirt's mode (`nat`, `route`, `open`, `none`).

    `cluster` is empty where it is not ours. `guarded`: our table has rules for it, which masquerade and keep it apart.
    """

    network: str
    bridge: str
    subnet: IPv4Network
    gateway: IPv4Address
    forward: str
    cluster: str = ""
    guarded: bool = False

    @property
    def leads_out(self) -> bool:
        return self.forward in ("nat", "route", "open")

    @property
    def nodes(self) -> tuple[IPv4Address, IPv4Address]:
        """Addresses that two nodes may have."""
        first, last = int(self.subnet.network_address), int(self.subnet.broadcast_address)
        free = [IPv4Address(each) for each in range(first + 1, min(last, first + 5)) if each != int(self.gateway)]
        return (free[0], free[-1]) if free else (self.gateway, self.gateway)


# What is stopped.


@dataclass(frozen=True, slots=True)
class Stopped:
    """One chain that drops what a network sends.

    `way` is `out` (to the uplink), `back` (its answers), `within` (between ports of the bridge) or `asking` (of its
    gateway). `owner` says whose
    chain it is, `where` which (family, table, chain), `why` which rule or policy decides. `protocols` are those that
    are dropped, of tcp, udp and icmp: where it is not all of them, somebody has chosen.

    `open` are the commands that let it pass, `undo` those that take exactly that back. A rule in a table of nftables is
    deleted by its handle, which nobody knows before: there `undo` is empty, and `taken_back` tells it afterwards.
    """

    network: str
    way: str
    owner: str
    where: str
    why: str
    protocols: tuple[str, ...]
    open: tuple[Command, ...]
    undo: tuple[Command, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing passes."""
        return len(self.protocols) == len(_KINDS)


def forwarding_stopped(firewall: Firewall, ways: Iterable[Way], uplink: str) -> list[Stopped]:
    """Chains that drop what nodes send to the link `uplink`, or what comes back. Nothing where there is no uplink."""
    chains = _forward_chains(firewall)
    found: list[Stopped] = []
    for way in ways if uplink else ():
        if way.leads_out:
            found += _stopped(way, "out", chains, uplink)
            found += _stopped(way, "back", chains, uplink)
    return found


def within_stopped(firewall: Firewall, ways: Iterable[Way], calls_iptables: bool) -> list[Stopped]:
    """Chains that drop frames between two ports of a bridge, where these pass the hook `forward`, too
    (`net.bridge.bridge-nf-call-iptables` is 1)."""
    if not calls_iptables:
        return []
    chains = _forward_chains(firewall)
    return [each for way in ways for each in _stopped(way, "within", chains, "")]


def asking_stopped(firewall: Firewall, ways: Iterable[Way]) -> list[Stopped]:
    """Chains that drop what nodes ask of their gateway: names and addresses. `way` is `asking`."""
    found = [each for each in _chains(firewall) if each.table.name != TABLE and each.name in each.table.bases]
    chains = [each for each in found if each.table.bases[each.name].hook == "input"]
    return [each for way in ways for each in _stopped(way, "asking", chains, "")]


def taken_back(ruleset: str) -> tuple[Command, ...]:
    """The commands that delete the rules which `open` of a Stopped has put into tables of nftables, of nft's JSON as it
    is then."""
    rules = (each["rule"] for each in _entries(ruleset) if "rule" in each)
    return tuple(
        ("nft", "delete", "rule", rule["family"], rule["table"], rule["chain"], "handle", str(rule["handle"]))
        for rule in rules
        if rule.get("comment") == COMMENT
    )


@dataclass(frozen=True, slots=True)
class _Chain:
    """A base chain, and the command of iptables that changes it: `iptables`, `iptables-legacy`, or none."""

    table: Table
    name: str
    command: str = ""

    @property
    def where(self) -> str:
        first = self.command if self.command == _LEGACY else self.table.family
        return f"{first} {self.table.name} {self.name}"

    @property
    def is_firewalld(self) -> bool:
        return (self.table.family, self.table.name) == _FIREWALLD


def _forward_chains(firewall: Firewall) -> list[_Chain]:
    found = [each for each in _chains(firewall) if each.table.name != TABLE and each.name in each.table.bases]
    return [each for each in found if each.table.bases[each.name].hook == "forward"]


def _nat_chains(firewall: Firewall) -> list[_Chain]:
    found = [each for each in _chains(firewall) if each.name in each.table.nats]
    return [each for each in found if each.table.nats[each.name].hook == "postrouting"]


def _chains(firewall: Firewall) -> Iterator[_Chain]:
    """All base chains that IPv4 packets pass."""
    for table in read_tables(firewall.ruleset):
        if table.family in ("ip", "inet") and not table.name.startswith(TRACES):
            own = firewall.iptables.get(table.name) if table.family == "ip" else None
            said = table if own is None else read_iptables(own, table.name)
            for name in (*said.bases, *said.nats):
                is_iptables = table.family == "ip" and table.name in _IPTABLES and name.isupper()
                yield _Chain(said, name, "iptables" if is_iptables else "")
    for name, text in firewall.legacy.items():
        legacy = read_iptables(text, name)
        for chain in (*legacy.bases, *legacy.nats):
            yield _Chain(legacy, chain, _LEGACY)


def _stopped(way: Way, direction: str, chains: Iterable[_Chain], uplink: str) -> Iterator[Stopped]:
    packets = _packets(way, direction, uplink)
    for chain in chains:
        drops: dict[str, Verdict] = {}
        for kind, several in packets.items():
            verdicts = (decide(chain.table, chain.name, each) for each in several)
            dropped = next((each for each in verdicts if each.end is End.DROP), None)
            if dropped is not None and not _is_libvirts(chain.table, dropped):
                drops[kind] = dropped
        if drops:
            yield _found(way, direction, chain, drops, uplink)


def _is_libvirts(table: Table, verdict: Verdict) -> bool:
    """Whether libvirt's own rules reject it: then those that accept it are missing, which is another matter."""
    return table.name == _LIBVIRT or verdict.chain.startswith(_LIBVIRT_CHAINS)


def _packets(way: Way, direction: str, uplink: str) -> dict[str, list[Packet]]:
    """What must come through, by protocol."""
    node, other = way.nodes
    match direction:
        case "out":
            return {kind: [_question(way.bridge, uplink, node, OUTSIDE, kind)] for kind in _KINDS}
        case "back":
            return {kind: [_answer(uplink, way.bridge, OUTSIDE, node, kind)] for kind in _KINDS}
        case "asking":
            place: Packet = {"iifname": way.bridge, "state": "new", "direction": "original", "l4proto": "udp"}
            names: Packet = {**place, "saddr": node, "daddr": way.gateway, "sport": _EPHEMERAL, "dport": 53}
            address: Packet = {**place, "saddr": IPv4Address(0), "daddr": _EVERYBODY, "sport": 68, "dport": 67}
            return {"DNS": [names], "DHCP": [address]}
        case _:
            links = (way.bridge, way.bridge)
            both = {kind: [_question(*links, node, other, kind), _answer(*links, other, node, kind)] for kind in _KINDS}
            return {kind: [{**each, "bridged": "yes"} for each in several] for kind, several in both.items()}


def _question(come: str, go: str, source: IPv4Address, target: IPv4Address, kind: str) -> Packet:
    place = {"iifname": come, "oifname": go, "state": "new", "direction": "original"}
    return {**place, "saddr": source, "daddr": target, **_KINDS[kind]}


def _answer(come: str, go: str, source: IPv4Address, target: IPv4Address, kind: str) -> Packet:
    place = {"iifname": come, "oifname": go, "state": "established", "direction": "reply", "l4proto": kind}
    said = _KINDS[kind]
    ends = {"sport": said["dport"], "dport": said["sport"]} if "dport" in said else {"icmp": "echo-reply"}
    return {**place, "saddr": source, "daddr": target, **ends}


def _found(way: Way, direction: str, chain: _Chain, drops: Mapping[str, Verdict], uplink: str) -> Stopped:
    verdict = next(iter(drops.values()))
    if verdict.rule is None:
        why = f"the policy of {chain.where} is drop"
    else:
        inside = f" (in {verdict.chain})" if verdict.chain != chain.name else ""
        why = f"a rule of {chain.where}{inside} drops it: {words(verdict.rule)}"
    commands, undo = _opening(way, direction, chain, uplink)
    return Stopped(way.network, direction, _owner(chain, verdict), chain.where, why, tuple(drops), commands, undo)


def _owner(chain: _Chain, verdict: Verdict) -> str:
    """Whose chain it is, in words."""
    table = chain.table
    if chain.is_firewalld:
        return "firewalld"
    if table.name.startswith("docker"):
        return "Docker"
    if not chain.command:
        return f"the table {table.family} {table.name}"
    if verdict.rule is not None and verdict.chain == chain.name:
        return chain.command  # a rule in a chain of the kernel's can be anybody's
    names = [verdict.chain] if verdict.rule is not None else list(table.rules)
    for start, owner in (("DOCKER", "Docker"), ("ufw", "ufw")):
        if any(name.startswith(start) for name in names):
            return owner
    return chain.command


def _opening(way: Way, direction: str, chain: _Chain, uplink: str) -> tuple[tuple[Command, ...], tuple[Command, ...]]:
    """The commands that let it pass, and those that take them back.

    What our table guards is let through as a whole, as a passage is: our table has decided before. Of other networks
    only what was asked for, since libvirt's own rules, which keep them apart, may come after.
    """
    if chain.is_firewalld:
        return _in_zone(way, chain.table)
    if direction == "asking" and not way.guarded:
        return _opened_to_gateway(way, chain)
    if chain.command:
        rule = _iptables_rule(way, direction, uplink)
        name = _inserted_in(chain, way, direction, uplink)
        table = () if chain.table.name == "filter" else ("-t", chain.table.name)
        return ((chain.command, *table, "-I", name, *rule),), ((chain.command, *table, "-D", name, *rule),)
    place = (chain.table.family, chain.table.name, chain.name)
    return (("nft", "insert", "rule", *place, *_nft_rule(way, direction, uplink)),), ()


def _opened_to_gateway(way: Way, chain: _Chain) -> tuple[tuple[Command, ...], tuple[Command, ...]]:
    """DHCP and DNS alone: the host's other ports stay as they are."""
    ports = (("udp", "53"), ("tcp", "53"), ("udp", "67"))
    if not chain.command:
        place = (chain.table.family, chain.table.name, chain.name)
        rules = (("iifname", f'"{way.bridge}"', protocol, "dport", port) for protocol, port in ports)
        said = ("accept", "comment", f'"{COMMENT}"')
        return tuple(("nft", "insert", "rule", *place, *rule, *said) for rule in rules), ()
    words = [
        (chain.name, "-i", way.bridge, "-p", protocol, "--dport", port, "-j", "ACCEPT") for protocol, port in ports
    ]
    return tuple((chain.command, "-I", *each) for each in words), tuple((chain.command, "-D", *each) for each in words)


def _ends(way: Way, direction: str, uplink: str) -> tuple[str, str, bool]:
    """The link that it comes from and the one that it goes to (empty for any), and whether only answers shall pass."""
    if way.guarded:
        return ("", way.bridge, False) if direction == "back" else (way.bridge, "", False)
    match direction:
        case "out":
            return way.bridge, uplink, False
        case "back":
            return uplink, way.bridge, way.forward == "nat"
        case "asking":
            return way.bridge, "", False
        case _:
            return way.bridge, way.bridge, False


def _iptables_rule(way: Way, direction: str, uplink: str) -> tuple[str, ...]:
    come, go, answers = _ends(way, direction, uplink)
    links = (*(("-i", come) if come else ()), *(("-o", go) if go else ()))
    if way.guarded:
        return (*links, *iptables.MARK)
    state = ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED") if answers else ()
    return (*links, *state, "-j", "ACCEPT")


def _nft_rule(way: Way, direction: str, uplink: str) -> tuple[str, ...]:
    come, go, answers = _ends(way, direction, uplink)
    links = (*(("iifname", f'"{come}"') if come else ()), *(("oifname", f'"{go}"') if go else ()))
    state = ("ct", "state", "established,related") if answers else ()
    return (*links, *state, "accept", "comment", f'"{COMMENT}"')


def _inserted_in(chain: _Chain, way: Way, direction: str, uplink: str) -> str:
    """Docker's chain for the rules of others where an accept in it is enough, else the chain itself."""
    user, table = iptables.DOCKER_USER, chain.table
    if chain.name != "FORWARD" or user not in table.rules:
        return chain.name
    rules = {**table.rules, user: [[{"accept": None}], *table.rules[user]]}
    opened = replace(table, rules=rules)
    packets = [each for several in _packets(way, direction, uplink).values() for each in several]
    enough = all(decide(opened, chain.name, each).end is not End.DROP for each in packets)
    return user if enough else chain.name


def _in_zone(way: Way, table: Table) -> tuple[tuple[Command, ...], tuple[Command, ...]]:
    """firewalld's word for it: the bridge in libvirt's zone. A rule in firewalld's table is gone when it reloads."""
    zone = "libvirt-routed" if way.forward == "route" else "libvirt"
    place = f'"{way.bridge}"'
    chosen = (rule for rule in table.rules.get("filter_INPUT_ZONES", ()) if place in json.dumps(rule))
    targets = [value["target"] for rule in chosen for each in rule for kind, value in each.items() if kind == "goto"]
    command: Command = ("firewall-cmd", f"--zone={zone}", f"--change-interface={way.bridge}")
    if not targets:
        return (command,), (("firewall-cmd", f"--zone={zone}", f"--remove-interface={way.bridge}"),)
    before = targets[0].removeprefix("filter_IN_")
    return (command,), (("firewall-cmd", f"--zone={before}", f"--change-interface={way.bridge}"),)


# What libvirt's own rules lack.


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
    "cross": (_LIBVIRT, "guest_cross"),
    "into": (_LIBVIRT, "guest_input"),
    "from": (_LIBVIRT, "guest_output"),
    "nat": (_LIBVIRT, "guest_nat"),
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


def _unreadable(firewall: Firewall) -> bool:
    names = ("filter", "nat", _LIBVIRT)
    return any(f"ip {each}" in firewall.unread or each in firewall.unread for each in names)


def _backends(firewall: Firewall) -> list[_Backend]:
    ip = {table.name: table for table in read_tables(firewall.ruleset) if table.family == "ip"}
    legacy = {name: read_iptables(text, name) for name, text in firewall.legacy.items()}
    return [
        _Backend("iptables", _IN_IPTABLES, _REACHED_IN_IPTABLES, _only(ip, "filter", "nat"), _LIBVIRT_CHAINS),
        _Backend(_LEGACY, _IN_IPTABLES, _REACHED_IN_IPTABLES, _only(legacy, "filter", "nat"), _LIBVIRT_CHAINS),
        _Backend("nftables", _IN_NFTABLES, _REACHED_IN_NFTABLES, _only(ip, _LIBVIRT), ""),
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
    if way.leads_out:
        yield "from", (come, source, "accept"), Lack.ACCEPT
        yield "into", (go, target, "accept"), Lack.ACCEPT
    yield "from", (come, "reject"), Lack.ISOLATION
    yield "into", (go, "reject"), Lack.ISOLATION
    if way.forward == "nat":
        outside = f"daddr != {way.subnet}"
        yield "nat", (source, outside, "masquerade"), Lack.NAT
        for protocol in ("tcp", "udp"):
            yield "nat", (f"protocol {protocol}", source, outside, "masquerade"), Lack.NAT
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


# What leaves with the node's own address.


def not_masqueraded(firewall: Firewall, ways: Iterable[Way], uplink: str) -> list[tuple[str, str]]:
    """Networks whose packets shall leave by `uplink` with the host's address, and do not: (network, why).

    libvirt sees to that for forward mode `nat`, for those that our table guards it does: which of them, `loaded` says.
    """
    now, loaded = _nat_chains(firewall), _nat_chains(Firewall(firewall.loaded or ""))
    found = []
    for way in ways if uplink else ():
        packets = _packets(way, "out", uplink)
        ours = way.guarded and not _unchanged(loaded, packets)
        if way.forward != "nat" and not ours:
            continue
        if kinds := _unchanged(now, packets):
            found.append((way.network, _why_unchanged(now, packets, kinds)))
    return found


def _unchanged(chains: Sequence[_Chain], packets: Mapping[str, Sequence[Packet]]) -> list[str]:
    """The kinds of packets that no chain gives another address."""
    return [
        kind
        for kind, several in packets.items()
        if not all(any(_verdict(chain, each).end is End.NAT for chain in chains) for each in several)
    ]


def _verdict(chain: _Chain, packet: Packet) -> Verdict:
    return decide(chain.table, chain.name, packet)


def _why_unchanged(chains: Sequence[_Chain], packets: Mapping[str, Sequence[Packet]], kinds: Sequence[str]) -> str:
    if not chains:
        return "there is no chain that changes addresses (nat, postrouting)"
    which = "" if len(kinds) == len(packets) else f" ({', '.join(kinds)})"
    packet = packets[kinds[0]][0]
    for chain in chains:
        verdict = _verdict(chain, packet)
        if verdict.rule is not None:
            return f"a rule of {chain.where} lets it leave as it is{which}: {words(verdict.rule)}"
    places = ", ".join(chain.where for chain in chains)
    return f"no rule masquerades {packet['saddr']} on its way to {packet['oifname']}{which}; looked in {places}"


# What of our own tables is not as it was loaded.


class Change(StrEnum):
    """What a change of our tables means: whole parts are gone, clusters are less apart, what leaves is not masqueraded,
    or something else."""

    GONE = "gone"
    ISOLATION = "isolation"
    NAT = "nat"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class OurRule:
    """A rule of our tables; `word` is its comment, by which denials are known (resources/firewall.py)."""

    family: str
    chain: str
    word: str
    text: str


@dataclass(frozen=True, slots=True)
class Member:
    """An element of a set or map of our tables, as text."""

    family: str
    set: str
    element: str


@dataclass(frozen=True, slots=True)
class OursChanged:
    """How our tables differ from what was loaded. Chains and sets are named with their family (`inet between`).

    `gone` are families whose table is gone or has no rule left; what such a table had is not listed besides.
    `reordered` are chains with the same rules in another order, `altered` chains and sets of another kind, hook,
    priority or policy.
    """

    gone: tuple[str, ...] = ()
    chains: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    missing: tuple[OurRule, ...] = ()
    extra: tuple[OurRule, ...] = ()
    members_missing: tuple[Member, ...] = ()
    members_extra: tuple[Member, ...] = ()
    reordered: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    kinds: frozenset[Change] = field(default_factory=frozenset)

    @property
    def intact(self) -> bool:
        return not self.kinds

    @property
    def lines(self) -> tuple[str, ...]:
        """What differs, one a line."""
        return (
            *(f"table {family} {TABLE} is gone or empty" for family in self.gone),
            *(f"chain {name} is gone" for name in self.chains),
            *(f"set {name} is gone" for name in self.sets),
            *(f"missing in {each.family} {each.chain}: {_with_word(each)}" for each in self.missing),
            *(f"not ours in {each.family} {each.chain}: {_with_word(each)}" for each in self.extra),
            *(f"missing in set {each.family} {each.set}: {each.element}" for each in self.members_missing),
            *(f"not ours in set {each.family} {each.set}: {each.element}" for each in self.members_extra),
            *(f"another order in chain {name}" for name in self.reordered),
            *(f"{name} was altered" for name in self.altered),
        )


def _with_word(rule: OurRule) -> str:
    return f'{rule.text} comment "{rule.word}"' if rule.word else rule.text


#: Whose members let pass, or keep from being denied: more of them, and clusters are less apart (resources/ruleset.py).
_ALLOWING = frozenset(
    {
        *("peers", "peers_gateways", "host_ports", "allowed_from", "ways_out", "uplinks", "egress_allowed", "exposed"),
        *("own_gateway", "within", "sources", "nodes", "ports"),
    }
)
#: Whose members are guarded or denied: fewer of them, and clusters are less apart.
_GUARDING = frozenset({"bridges", "subnets", "blocked", "egress_denied", "gateways"})
_DENIALS = frozenset(str(each) for each in Denial)


@dataclass(slots=True)
class _Held:
    """One of our tables as data: chains and sets by name with what they are, rules by chain, elements by set."""

    chains: dict[str, str] = field(default_factory=dict)
    rules: dict[str, list[tuple[str, Mapping[str, Any]]]] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)
    members: dict[str, frozenset[str]] = field(default_factory=dict)


@dataclass(slots=True)
class _Differences:
    """What OursChanged is made of, while it is being found."""

    gone: list[str] = field(default_factory=list)
    chains: list[str] = field(default_factory=list)
    sets: list[str] = field(default_factory=list)
    missing: list[OurRule] = field(default_factory=list)
    extra: list[OurRule] = field(default_factory=list)
    members_missing: list[Member] = field(default_factory=list)
    members_extra: list[Member] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    kinds: set[Change] = field(default_factory=set)

    def result(self) -> OursChanged:
        return OursChanged(
            gone=tuple(self.gone),
            chains=tuple(self.chains),
            sets=tuple(self.sets),
            missing=tuple(self.missing),
            extra=tuple(self.extra),
            members_missing=tuple(self.members_missing),
            members_extra=tuple(self.members_extra),
            reordered=tuple(self.reordered),
            altered=tuple(self.altered),
            kinds=frozenset(self.kinds),
        )


def ours_changed(firewall: Firewall) -> OursChanged:
    """How our tables are otherwise than right after they were loaded, but for handles and counters.

    No difference where nobody knows how they were (`loaded` is None), and in tables that could not be read.
    """
    found = _Differences()
    have = _ours(firewall.ruleset)
    for family, want in _ours(firewall.loaded or "").items():
        if f"{family} {TABLE}" in firewall.unread:
            continue
        if family not in have or (any(want.rules.values()) and not any(have[family].rules.values())):
            found.gone.append(family)
            found.kinds.add(Change.GONE)
        else:
            _compare_chains(found, family, want, have[family])
            _compare_sets(found, family, want, have[family])
    return found.result()


def _entries(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text)["nftables"] if text else []
    return found


def _ours(text: str) -> dict[str, _Held]:
    """Our tables by family."""
    found: dict[str, _Held] = {}
    for entry in _entries(text):
        ((kind, data),) = entry.items()
        name = data.get("name") if kind == "table" else data.get("table")
        if name != TABLE or data["family"] not in FAMILIES:
            continue
        held = found.setdefault(data["family"], _Held())
        match kind:
            case "chain":
                held.chains[data["name"]] = _kind_of(data)
            case "rule":
                held.rules.setdefault(data["chain"], []).append((_plain(data["expr"], data.get("comment", "")), data))
            case "set" | "map":
                held.sets[data["name"]] = _kind_of(data)
                held.members[data["name"]] = frozenset(map(_element, data.get("elem", ())))
    return found


def _element(value: Any) -> str:
    """An element of a set, or `key : value` of a map's, as text."""
    if isinstance(value, list):
        return " : ".join(map(term, value))
    return term(value)


def _kind_of(data: Mapping[str, Any]) -> str:
    """What a chain or set is, without what it holds."""
    return json.dumps({key: each for key, each in data.items() if key not in ("handle", "elem")}, sort_keys=True)


def _plain(rule: Rule, word: str) -> str:
    """What tells a rule from another: all but its counters."""
    said = [{"counter": None} if "counter" in each else each for each in rule]
    return json.dumps([word, said], sort_keys=True)


def _compare_chains(found: _Differences, family: str, want: _Held, have: _Held) -> None:
    for name, kind in want.chains.items():
        if name not in have.chains:
            found.chains.append(f"{family} {name}")
            found.kinds.add(Change.GONE)
            continue
        if have.chains[name] != kind:
            found.altered.append(f"chain {family} {name}")
            found.kinds.add(Change.OTHER)
        _compare_rules(found, family, name, want.rules.get(name, []), have.rules.get(name, []))
    for name in have.chains:
        if name not in want.chains:
            _compare_rules(found, family, name, [], have.rules.get(name, []))


_Rules = Sequence[tuple[str, Mapping[str, Any]]]


def _compare_rules(found: _Differences, family: str, chain: str, want: _Rules, have: _Rules) -> None:
    lost, more = _without(want, have), _without(have, want)
    for _, rule in lost:
        found.missing.append(_our_rule(family, chain, rule))
        found.kinds.add(_means_missing(chain, rule))
    for _, rule in more:
        found.extra.append(_our_rule(family, chain, rule))
        found.kinds.add(_means_extra(chain, rule, have))
    if _besides(want, lost) != _besides(have, more):
        found.reordered.append(f"{family} {chain}")
        found.kinds.add(Change.ISOLATION if any(map(_denies, want)) else Change.OTHER)


def _without(rules: _Rules, others: _Rules) -> list[tuple[str, Mapping[str, Any]]]:
    """Those of `rules` that `others` does not have, or not as often: of equal ones the first, where nft inserts."""
    left = Counter(each for each, _ in others)
    found = []
    for each in reversed(rules):
        if left[each[0]] > 0:
            left[each[0]] -= 1
        else:
            found.append(each)
    return found[::-1]


def _besides(rules: _Rules, others: _Rules) -> list[str]:
    """What `rules` say without those of them that are in `others`."""
    without = {id(rule) for _, rule in others}
    return [said for said, rule in rules if id(rule) not in without]


def _our_rule(family: str, chain: str, rule: Mapping[str, Any]) -> OurRule:
    return OurRule(family, chain, rule.get("comment", ""), words(rule["expr"]))


def _has(rule: Mapping[str, Any], *kinds: str) -> bool:
    return any(kind in each for each in rule["expr"] for kind in kinds)


def _denies(rule: tuple[str, Mapping[str, Any]]) -> bool:
    """Whether it denies, or leads to a chain that does."""
    return rule[1].get("comment") in _DENIALS or _has(rule[1], "goto", "jump")


def _means_missing(chain: str, rule: Mapping[str, Any]) -> Change:
    if rule.get("comment") in _DENIALS or _has(rule, "goto") or "from_node" in words(rule["expr"]):
        return Change.ISOLATION
    return Change.NAT if _has(rule, "masquerade") else Change.OTHER


def _means_extra(chain: str, rule: Mapping[str, Any], have: _Rules) -> Change:
    """An accept ends the way through the table before the denials that come after it."""
    if chain == "postrouting":
        return Change.NAT
    place = next(at for at, (_, each) in enumerate(have) if each is rule)
    later = any(map(_denies, have[place + 1 :]))
    lets_pass = _has(rule, "accept", "return", "goto", "jump", "vmap", "dnat", "redirect", "queue")
    return Change.ISOLATION if lets_pass and later else Change.OTHER


def _compare_sets(found: _Differences, family: str, want: _Held, have: _Held) -> None:
    for name, kind in want.sets.items():
        if name not in have.sets:
            found.sets.append(f"{family} {name}")
            found.kinds.add(Change.GONE)
            continue
        if have.sets[name] != kind:
            found.altered.append(f"set {family} {name}")
            found.kinds.add(Change.OTHER)
        for element in sorted(want.members[name] - have.members[name]):
            found.members_missing.append(Member(family, name, element))
            found.kinds.add(_means_member(name, missing=True))
        for element in sorted(have.members[name] - want.members[name]):
            found.members_extra.append(Member(family, name, element))
            found.kinds.add(_means_member(name, missing=False))


def _means_member(name: str, *, missing: bool) -> Change:
    if name == ("masqueraded" if missing else "direct"):
        return Change.NAT
    return Change.ISOLATION if name in (_GUARDING if missing else _ALLOWING) else Change.OTHER
