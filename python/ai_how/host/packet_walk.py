"""nft's ruleset as data, and where a packet ends in a chain of it.

Packets are followed as far as the rules can be understood: one that cannot (a limit, a mark, a module of iptables)
neither accepts nor drops, and the packet goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from ai_how.host import iptables

#: What is known of a packet: links, `saddr`, `daddr`, `l4proto`, `sport`, `dport`, `icmp`, ct `state` and `direction`.
#: What is missing can be anything.
Packet = Mapping[str, str | int | IPv4Address]

#: One rule: nft's expressions in order.
Rule = Sequence[Mapping[str, Any]]


class End(Enum):
    """How a packet's way through a chain ends; NAT where it is given another address; RETURN where no rule ends it."""

    ACCEPT = "accept"
    DROP = "drop"
    RETURN = "return"
    NAT = "nat"


@dataclass(frozen=True, slots=True)
class Base:
    """What makes a chain a base chain: the hook it is at, and what becomes of packets that reach its end."""

    hook: str
    policy: End


@dataclass(frozen=True, slots=True)
class Table:
    """One table. `bases` are those of its chains that filter at a hook, `nats` those that change addresses there."""

    family: str
    name: str
    bases: dict[str, Base] = field(default_factory=dict)
    rules: dict[str, list[Any]] = field(default_factory=dict)
    sets: dict[str, list[Any]] = field(default_factory=dict)
    nats: dict[str, Base] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a packet's way ends, and the rule of the chain `chain` that ended it; `rule` is None where the policy did."""

    end: End
    chain: str
    rule: Rule | None = None


#: What a packet has where it has no such header: no match holds, `!=` neither.
_ABSENT = object()

_BUILT_IN = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
_NAT_TARGETS = frozenset({"MASQUERADE", "SNAT", "NETMAP"})
_STATE_MODULES = frozenset({"conntrack", "state"})
_IGNORED = frozenset({"counter", "log", "mangle", "notrack", "ct helper"})


def read_tables(text: str) -> tuple[Table, ...]:
    """Understands `nft -j list ruleset`."""
    tables: dict[tuple[str, str], Table] = {}

    def table_of(entry: Mapping[str, Any]) -> Table:
        key = (entry["family"], entry["table"])
        return tables.setdefault(key, Table(*key))

    for entry in json.loads(text or '{"nftables": []}')["nftables"]:
        match entry:
            case {"chain": chain}:
                table = table_of(chain)
                table.rules.setdefault(chain["name"], [])
                policy = End.DROP if chain.get("policy") == "drop" else End.ACCEPT
                if chain.get("type") == "filter":
                    table.bases[chain["name"]] = Base(chain["hook"], policy)
                elif chain.get("type") == "nat":
                    table.nats[chain["name"]] = Base(chain["hook"], policy)
            case {"rule": rule}:
                table_of(rule).rules.setdefault(rule["chain"], []).append(rule["expr"])
            case {"set": named} | {"map": named}:
                table_of(named).sets[named["name"]] = named.get("elem", [])
            case _:
                pass
    return tuple(tables.values())


def read_iptables(text: str, name: str = "filter") -> Table:
    """Understands `iptables -S` of the table `name`, as the same in nft's words."""
    table = Table("ip", name)
    bases = table.nats if name == "nat" else table.bases
    for chain, content in iptables.read_rules(text).items():
        table.rules[chain] = [_translated(rule) for rule in content.rules]
        if chain in _BUILT_IN:
            bases[chain] = Base(chain.lower(), End.DROP if content.policy == "DROP" else End.ACCEPT)
    return table


def passes(table: Table, chain: str, packet: Packet) -> bool:
    """Whether `packet` comes through the base chain `chain`."""
    return decide(table, chain, packet).end is not End.DROP


def decide(table: Table, chain: str, packet: Packet) -> Verdict:
    """What becomes of `packet` in the base chain `chain`, and what decides it."""
    verdict = _follow(table, chain, packet, {})
    if verdict.end is not End.RETURN:
        return verdict
    base = table.bases.get(chain) or table.nats[chain]
    return Verdict(base.policy, chain)


#: Where the packet ended in the chains that it has been through: it ends there again, whoever sends it there.
_Known = dict[str, Verdict]


def _follow(table: Table, chain: str, packet: Packet, known: _Known) -> Verdict:
    """Where `packet` ends that enters `chain`."""
    if chain not in known:
        known[chain] = Verdict(End.RETURN, chain)  # a loop, which the kernel does not allow, ends
        for rule in table.rules.get(chain, ()):
            verdict = _of_rule(table, chain, rule, packet, known)
            if verdict is not None:
                known[chain] = verdict
                break
    return known[chain]


def _of_rule(table: Table, chain: str, rule: Rule, packet: Packet, known: _Known) -> Verdict | None:
    """How the rule ends the packet's way through its chain; None where it goes on, or nobody knows."""
    for expression in rule:
        for kind, value in expression.items():
            if kind == "match":
                if _holds(table, value, packet) is not True:
                    return None
            elif kind == "vmap":
                chosen = _chosen(table, value, packet)
                return None if chosen is None else _ended(table, chain, rule, chosen, packet, known)
            elif kind in ("accept", "drop", "reject", "return", "jump", "goto"):
                return _ended(table, chain, rule, expression, packet, known)
            elif kind in ("masquerade", "snat"):
                return Verdict(End.NAT, chain, rule)
            elif kind == "xt":
                module = value or {}
                if module.get("type") == "target":
                    end = _target_end(module.get("name"))
                    return None if end is None else Verdict(end, chain, rule)
                if not _holds_module(module.get("name"), rule, packet):
                    return None
            elif kind not in _IGNORED:
                return None
    return None


def _target_end(name: str | None) -> End | None:
    if name == "REJECT":
        return End.DROP
    return End.NAT if name in _NAT_TARGETS else None


def _ended(
    table: Table, chain: str, rule: Rule, verdict: Mapping[str, Any], packet: Packet, known: _Known
) -> Verdict | None:
    match verdict:
        case {"accept": _}:
            return Verdict(End.ACCEPT, chain, rule)
        case {"drop": _} | {"reject": _}:
            return Verdict(End.DROP, chain, rule)
        case {"return": _}:
            return Verdict(End.RETURN, chain, rule)
        case {"jump": {"target": target}}:
            there = _follow(table, target, packet, known)
            return None if there.end is End.RETURN else there
        case {"goto": {"target": target}}:
            return _follow(table, target, packet, known)
        case _:
            return None


def _holds_module(name: str | None, rule: Rule, packet: Packet) -> bool:
    """A match by a module of iptables, whose arguments nft does not show. Of states, those that are accepted are mostly
    RELATED,ESTABLISHED, and those that are dropped INVALID."""
    if name in _STATE_MODULES:
        drops = any("drop" in each or each.get("xt") == {"type": "target", "name": "REJECT"} for each in rule)
        return packet["state"] == "established" and not drops
    return name == "comment"


def _holds(table: Table, match: Mapping[str, Any], packet: Packet) -> bool | None:
    """Whether a match holds; None where that depends on more than is known."""
    value = _value(match["left"], packet)
    if value is None:
        return None
    if value is _ABSENT:
        return False
    inside = _is_in(table, value, match["right"])
    match match["op"]:
        case "==" | "in":
            return inside
        case "!=":
            return not inside
        case _:
            return None


def _value(left: Any, packet: Packet) -> Any:
    """What the packet has at `left`; None where nobody knows."""
    match left:
        case {"meta": {"key": "iif" | "iifname"}}:
            return packet.get("iifname")
        case {"meta": {"key": "oif" | "oifname"}}:
            return packet.get("oifname")
        case {"meta": {"key": "bridged"}}:
            return packet.get("bridged", "no")
        case {"meta": {"key": "nfproto"}}:
            return "ipv4"
        case {"meta": {"key": "protocol"}}:
            return "ip"
        case {"meta": {"key": "l4proto"}} | {"payload": {"protocol": "ip", "field": "protocol"}}:
            return packet.get("l4proto")
        case {"ct": {"key": "state"}}:
            return packet["state"]
        case {"ct": {"key": "direction"}}:
            return packet.get("direction")
        case {"ct": {"key": "status"}}:
            return "confirmed"  # and neither snat nor dnat: what is exposed is no node's own doing
        case {"payload": {"protocol": "ip", "field": "saddr" | "daddr" as way}}:
            return packet.get(way)
        case {"payload": {"protocol": "ip6" | "icmpv6"}}:
            return _ABSENT
        case {"payload": {"protocol": "tcp" | "udp" | "icmp" | "th" as protocol, "field": what}}:
            known = packet.get("l4proto")
            if known is not None and protocol not in (known, "th"):
                return _ABSENT
            return packet.get("icmp" if protocol == "icmp" and what == "type" else what)
        case {"concat": parts}:
            values = [_value(part, packet) for part in parts]
            if _ABSENT in values:
                return _ABSENT
            return None if None in values else {"concat": values}
        case _:
            return None


def _is_in(table: Table, value: Any, right: Any) -> bool:
    match right:
        case {"set": members} | list(members):
            return any(_is_in(table, value, each) for each in members)
        case {"elem": {"val": member}}:
            return _is_in(table, value, member)
        case {"range": [low, high]}:
            return _between(value, low, high)
        case {"prefix": {"addr": str(address), "len": length}}:
            return _within(value, f"{address}/{length}")
        case {"concat": parts}:
            mine = value["concat"] if isinstance(value, dict) else [value]
            return len(mine) == len(parts) and all(_is_in(table, *pair) for pair in zip(mine, parts, strict=True))
        case str(text) if text.startswith("@"):
            return any(_is_in(table, value, _key(each)) for each in table.sets.get(text[1:], ()))
        case str(text) if isinstance(value, IPv4Address):
            return _within(value, text)
        case str(text) if isinstance(value, str):
            return value == text or (text.endswith("*") and value.startswith(text[:-1]))
        case _:
            return bool(value == right)


def _between(value: Any, low: Any, high: Any) -> bool:
    if isinstance(value, int):
        return isinstance(low, int) and isinstance(high, int) and low <= value <= high
    try:
        return isinstance(value, IPv4Address) and IPv4Address(low) <= value <= IPv4Address(high)
    except ValueError:  # of IPv6
        return False


def _within(value: Any, network: str) -> bool:
    try:
        return isinstance(value, IPv4Address) and value in IPv4Network(network, strict=False)
    except ValueError:  # of IPv6
        return False


def _chosen(table: Table, vmap: Mapping[str, Any], packet: Packet) -> Mapping[str, Any] | None:
    """The verdict that a verdict map has for the packet."""
    value, data = _value(vmap["key"], packet), vmap["data"]
    members = table.sets.get(data[1:], ()) if isinstance(data, str) else data.get("set", ())
    if value is None or value is _ABSENT:
        return None
    return next((each[1] for each in members if isinstance(each, list) and _is_in(table, value, each[0])), None)


def _key(member: Any) -> Any:
    """A member of a set, or the key of one of a map."""
    return member[0] if isinstance(member, list) else member


# iptables' words as nft's.


def _match(left: Mapping[str, Any], right: Any, negated: bool) -> dict[str, Any]:
    return {"match": {"op": "!=" if negated else "==", "left": left, "right": right}}


def _payload(protocol: str, what: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": what}}


def _link(word: str) -> str:
    return word[:-1] + "*" if word.endswith("+") else word


def _port(word: str) -> Any:
    low, colon, high = word.partition(":")
    return {"range": [int(low or 0), int(high or 65535)]} if colon else int(low)


def _translated(rule: Sequence[str]) -> Rule:
    """A rule of `iptables -S`, without `-A NAME`; what is not understood stays as something that nobody knows."""
    found: list[dict[str, Any]] = []
    words = list(rule)
    while words:
        negated = words[0] == "!"
        if negated:
            words.pop(0)
        match words:
            case ["-j" | "-g", target, *more]:
                found.append(_target(target, goto=words[0] == "-g", more=more))
                return found
            case ["-m", "comment", "--comment", _, *rest] | ["-m", "tcp" | "udp" | "conntrack" | "state", *rest]:
                pass
            case ["-m", "physdev", "--physdev-is-bridged", *rest]:
                found.append(_match({"meta": {"key": "bridged"}}, "yes", negated))
            case [option, value, *rest] if (known := _option(option, value, negated)) is not None:
                found.append(known)
            case _:
                found.append({"unknown": " ".join(words)})
                return found
        words = rest
    return found


def _option(option: str, value: str, negated: bool) -> dict[str, Any] | None:
    match option:
        case "-i" | "-o":
            return _match({"meta": {"key": "iifname" if option == "-i" else "oifname"}}, _link(value), negated)
        case "-s" | "-d":
            return _match(_payload("ip", "saddr" if option == "-s" else "daddr"), value, negated)
        case "-p":
            return _match({"meta": {"key": "l4proto"}}, value, negated)
        case "--dport" | "--sport":
            return _match(_payload("th", option[2:]), _port(value), negated)
        case "--ctstate" | "--state":
            return _match({"ct": {"key": "state"}}, value.lower().split(","), negated)
        case _:
            return None


def _target(name: str, *, goto: bool, more: Iterable[str]) -> dict[str, Any]:
    match name:
        case "ACCEPT" | "DROP" | "RETURN":
            return {name.lower(): None}
        case _ if name.isupper() and list(more):
            return {"xt": {"type": "target", "name": name}}  # only targets of modules have options
        case "REJECT" | "LOG" | "CHECKSUM" | "NOTRACK" | "MASQUERADE" | "SNAT" | "MARK" | "TCPMSS":
            return {"xt": {"type": "target", "name": name}}
        case _:
            return {("goto" if goto else "jump"): {"target": name}}


# Rules for people.


def words(rule: Rule) -> str:
    """A rule as nft would write it, without its counters."""
    said = (_statement(*each) for expression in rule for each in expression.items() if each[0] != "counter")
    return " ".join(filter(None, said))


def _statement(kind: str, value: Any) -> str:
    match kind, value:
        case "match", {"left": left, "right": right, "op": op}:
            return f"{term(left)} {'!= ' if op == '!=' else ''}{term(right)}"
        case "jump" | "goto", {"target": target}:
            return f"{kind} {target}"
        case "vmap", {"key": key, "data": data}:
            return f"{term(key)} vmap {term(data)}"
        case "xt", {"type": "target", "name": name}:
            return str(name)
        case "xt", {"name": name}:
            return f"-m {name}"
        case "unknown", str(text):
            return text
        case _:
            return kind


def term(value: Any) -> str:
    """A value, an element of a set or what is matched, as nft would write it."""
    match value:
        case {"meta": {"key": key}}:
            return str(key) if key in ("iif", "oif", "iifname", "oifname", "mark") else f"meta {key}"
        case {"payload": {"protocol": protocol, "field": what}}:
            return f"{protocol} {what}"
        case {"ct": {"key": key}}:
            return f"ct {key}"
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case {"range": [low, high]}:
            return f"{low}-{high}"
        case {"concat": parts}:
            return " . ".join(map(term, parts))
        case {"elem": {"val": member}}:
            return term(member)
        case {"set": list(members)}:
            return "{ " + ", ".join(map(_member, members)) + " }"
        case list(members):
            return ",".join(map(term, members))
        case dict():
            return json.dumps(value)
        case _:
            return str(value)


def _member(value: Any) -> str:
    match value:
        case [key, dict(verdict)]:
            return f"{term(key)} : {_statement(*next(iter(verdict.items())))}"
        case [key, data]:
            return f"{term(key)} : {term(data)}"
        case _:
            return term(value)
