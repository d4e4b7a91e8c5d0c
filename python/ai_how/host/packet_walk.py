"""nft's ruleset as data, and where a packet ends in a chain of it.

Packets are followed as far as the rules can be understood: one that cannot (a limit, an address, a module of iptables)
neither accepts nor drops, and the packet goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

#: What is known of a packet: links, `l4proto`, `dport`, ct `state`. What is missing can be anything.
Packet = Mapping[str, str | int]


class End(Enum):
    """How a packet's way through a chain ends; RETURN where no rule ends it."""

    ACCEPT = "accept"
    DROP = "drop"
    RETURN = "return"


@dataclass(frozen=True, slots=True)
class Base:
    """What makes a chain a base chain: the hook it is at, and what becomes of packets that reach its end."""

    hook: str
    policy: End


@dataclass(frozen=True, slots=True)
class Table:
    """One table. `bases` are those of its chains that filter at a hook."""

    family: str
    name: str
    bases: dict[str, Base] = field(default_factory=dict)
    rules: dict[str, list[Any]] = field(default_factory=dict)
    sets: dict[str, list[Any]] = field(default_factory=dict)


def read_tables(text: str) -> tuple[Table, ...]:
    """Understands `nft -j list ruleset`."""
    tables: dict[tuple[str, str], Table] = {}

    def table_of(entry: Mapping[str, Any]) -> Table:
        key = (entry["family"], entry["table"])
        return tables.setdefault(key, Table(*key))

    for entry in json.loads(text or '{"nftables": []}')["nftables"]:
        match entry:
            case {"chain": chain}:
                table_of(chain).rules.setdefault(chain["name"], [])
                if chain.get("type") == "filter":
                    policy = End.DROP if chain.get("policy") == "drop" else End.ACCEPT
                    table_of(chain).bases[chain["name"]] = Base(chain["hook"], policy)
            case {"rule": rule}:
                table_of(rule).rules.setdefault(rule["chain"], []).append(rule["expr"])
            case {"set": named} | {"map": named}:
                table_of(named).sets[named["name"]] = named.get("elem", [])
            case _:
                pass
    return tuple(tables.values())


def passes(table: Table, chain: str, packet: Packet) -> bool:
    """Whether `packet` comes through the base chain `chain`."""
    end = _follow(table, chain, packet)
    return (table.bases[chain].policy if end is End.RETURN else end) is End.ACCEPT


def _follow(table: Table, chain: str, packet: Packet) -> End:
    """Where `packet` ends that enters `chain`. The kernel allows no loops."""
    for rule in table.rules.get(chain, ()):
        end = _rule_end(table, rule, packet)
        if end is not None:
            return end
    return End.RETURN


def _rule_end(table: Table, rule: Iterable[Mapping[str, Any]], packet: Packet) -> End | None:
    """How the rule ends the packet's way through its chain; None where it goes on, or nobody knows."""
    for expression in rule:
        for kind, value in expression.items():
            if kind == "match":
                if _holds(table, value, packet) is not True:
                    return None
            elif kind == "vmap":
                verdict = _chosen(table, value, packet)
                return None if verdict is None else _verdict_end(table, verdict, packet)
            elif kind in ("accept", "drop", "reject", "return", "jump", "goto"):
                return _verdict_end(table, expression, packet)
            elif kind == "xt":
                if value.get("type") == "target":
                    return End.DROP if value.get("name") == "REJECT" else None
                if not _holds_module(value.get("name"), packet):
                    return None
            elif kind not in ("counter", "log", "mangle", "notrack", "ct helper"):
                return None
    return None


def _verdict_end(table: Table, verdict: Mapping[str, Any], packet: Packet) -> End | None:
    match verdict:
        case {"accept": _}:
            return End.ACCEPT
        case {"drop": _} | {"reject": _}:
            return End.DROP
        case {"return": _}:
            return End.RETURN
        case {"jump": {"target": target}}:
            end = _follow(table, target, packet)
            return None if end is End.RETURN else end
        case {"goto": {"target": target}}:
            return _follow(table, target, packet)
        case _:
            return None


def _holds_module(name: str | None, packet: Packet) -> bool:
    """A match by a module of iptables, whose arguments nft does not show: RELATED,ESTABLISHED is the usual one."""
    return name == "comment" or (name in ("conntrack", "state") and packet["state"] == "established")


def _holds(table: Table, match: Mapping[str, Any], packet: Packet) -> bool | None:
    """Whether a match holds; None where that depends on more than is known."""
    value = _value(match["left"], packet)
    if value is None:
        return None
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
        case {"meta": {"key": "nfproto"}}:
            return "ipv4"
        case {"meta": {"key": "protocol"}}:
            return "ip"
        case {"meta": {"key": "l4proto"}} | {"payload": {"protocol": "ip", "field": "protocol"}}:
            return packet.get("l4proto")
        case {"ct": {"key": "state"}}:
            return packet["state"]
        case {"ct": {"key": "status"}}:
            return "confirmed"  # and neither snat nor dnat: what is exposed is no node's own doing
        case {"payload": {"protocol": "ip6" | "icmpv6"}}:
            return "not there"
        case {"payload": {"protocol": protocol, "field": "dport"}}:
            known = packet.get("l4proto")
            if known is None or protocol in (known, "th"):
                return packet.get("dport")
            return "not there"
        case {"concat": parts}:
            values = [_value(part, packet) for part in parts]
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
            return isinstance(value, int) and low <= value <= high
        case {"concat": parts}:
            mine = value["concat"] if isinstance(value, dict) else [value]
            return len(mine) == len(parts) and all(_is_in(table, *pair) for pair in zip(mine, parts, strict=True))
        case str(text) if text.startswith("@"):
            return any(_is_in(table, value, _key(each)) for each in table.sets.get(text[1:], ()))
        case str(text) if isinstance(value, str):
            return value == text or (text.endswith("*") and value.startswith(text[:-1]))
        case _:
            return bool(value == right)


def _chosen(table: Table, vmap: Mapping[str, Any], packet: Packet) -> Mapping[str, Any] | None:
    """The verdict that a verdict map has for the packet."""
    value, data = _value(vmap["key"], packet), vmap["data"]
    members = table.sets.get(data[1:], ()) if isinstance(data, str) else data.get("set", ())
    if value is None:
        return None
    return next((each[1] for each in members if isinstance(each, list) and _is_in(table, value, each[0])), None)


def _key(member: Any) -> Any:
    """A member of a set, or the key of one of a map."""
    return member[0] if isinstance(member, list) else member
