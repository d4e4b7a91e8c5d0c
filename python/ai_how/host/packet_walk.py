"""nft's ruleset as data, and where a packet ends in a chain of it.

Packets are followed as far as the rules can be understood: one that cannot (a limit, a mark, a module of iptables)
neither accepts nor drops, and the packet goes on. Where it could have ended elsewhere by such a rule, the verdict is
not certain.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple

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
    """What makes a chain a base chain: the hook it is at, what becomes of packets that reach its end, and its place
    among those at the hook: lower ones come first."""

    hook: str
    policy: End
    priority: int = 0


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
    """How a packet's way ends, and the rule of the chain `chain` that ended it; `rule` is None where the policy did.

    `certain`: it ends so whatever the rules do that are not understood.
    """

    end: End
    chain: str
    rule: Rule | None = None
    certain: bool = True


#: What a packet has where it has no such header: no match holds, `!=` neither.
_ABSENT = object()

_BUILT_IN = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
_NAT_TARGETS = frozenset({"MASQUERADE", "SNAT", "NETMAP"})
_STATE_MODULES = frozenset({"conntrack", "state"})
_IGNORED = frozenset({"counter", "log", "mangle", "notrack", "ct helper"})
#: Targets that hand the packet to a program, which may let it pass.
_HANDED_ON = frozenset({"NFQUEUE", "TPROXY"})

#: Where the kernel has iptables' tables at a hook. The table `nat` is where addresses change.
_PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
TARGET_NAT, SOURCE_NAT = -100, 100

#: nft's names for iptables' kinds of ICMP; all that are not asked about may keep theirs.
_ICMP = {"0": "echo-reply", "pong": "echo-reply", "8": "echo-request", "ping": "echo-request"}


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
                if chain.get("type") in ("filter", "route"):
                    table.bases[chain["name"]] = Base(chain["hook"], policy, chain.get("prio", 0))
                elif chain.get("type") == "nat":
                    table.nats[chain["name"]] = Base(chain["hook"], policy, chain.get("prio", 0))
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
            policy = End.DROP if content.policy == "DROP" else End.ACCEPT
            bases[chain] = Base(chain.lower(), policy, _priority(name, chain))
    return table


def _priority(table: str, chain: str) -> int:
    if table == "nat":
        return TARGET_NAT if chain in ("PREROUTING", "OUTPUT") else SOURCE_NAT
    return _PRIORITIES.get(table, 0)


def passes(table: Table, chain: str, packet: Packet) -> bool:
    """Whether `packet` comes through the base chain `chain`, as far as its rules are understood."""
    return decide(table, chain, packet).end is not End.DROP


def decide(table: Table, chain: str, packet: Packet) -> Verdict:
    """What becomes of `packet` in the base chain `chain`, and what decides it."""
    found = _follow(table, chain, packet, {})
    policy = (table.bases.get(chain) or table.nats[chain]).policy
    possible = {policy if each is End.RETURN else each for each in found.ends}
    certain = len(possible) == 1
    verdict = found.last if certain else found.plain
    if verdict.end is End.RETURN:
        verdict = Verdict(policy, chain)
    return replace(verdict, certain=certain)


class _Outcome(NamedTuple):
    """Where the packet ends in a chain: `plain` if nothing holds that is not understood, `last` where nothing gets
    past; `ends` are all that are possible."""

    plain: Verdict
    last: Verdict
    ends: frozenset[End]


class _Step(NamedTuple):
    """The same of one rule, None where the packet goes on: `last` also where it may do so. `ends` are those that are
    possible besides."""

    plain: Verdict | None
    last: Verdict | None
    ends: frozenset[End]


_GOES_ON = _Step(None, None, frozenset())
_MAY_PASS = _Step(None, None, frozenset({End.ACCEPT}))

#: Where the packet ended in the chains that it has been through: it ends there again, whoever sends it there.
_Known = dict[str, _Outcome]


def _follow(table: Table, chain: str, packet: Packet, known: _Known) -> _Outcome:
    """Where `packet` ends that enters `chain`."""
    if chain not in known:
        returned = Verdict(End.RETURN, chain)
        # A loop, which the kernel does not allow, ends.
        known[chain] = _Outcome(returned, returned, frozenset({End.RETURN}))
        plain, ends = None, frozenset[End]()
        for rule in table.rules.get(chain, ()):
            step = _of_rule(table, chain, rule, packet, known)
            plain, last, ends = plain or step.plain, step.last, ends | step.ends
            if last is not None:
                break
        else:
            last, ends = returned, ends | {End.RETURN}
        known[chain] = _Outcome(plain or last, last, ends)
    return known[chain]


def _of_rule(table: Table, chain: str, rule: Rule, packet: Packet, known: _Known) -> _Step:
    """What the rule does to the packet."""
    sure = True
    for kind, value in (each for expression in rule for each in expression.items()):
        step = _ended(table, chain, rule, kind, value, packet, known)
        if step is not None:
            return step if sure else _unsure(step)
        holds = _lets_on(table, rule, kind, value, packet)
        if holds is False:
            return _GOES_ON
        sure = sure and holds is True
    return _GOES_ON


def _unsure(*steps: _Step) -> _Step:
    """One of these, or none. Of NAT it is none: who masquerades only what is marked (Tailscale, Kubernetes) does not
    do it for nodes."""
    ends = {end for each in steps for end in each.ends}
    return _Step(None, None, frozenset(ends - {End.NAT}))


def _lets_on(table: Table, rule: Rule, kind: str, value: Any, packet: Packet) -> bool | None:
    """Whether the packet gets to what follows in the rule; None where nobody knows."""
    if kind == "match":
        return _holds(table, value, packet)
    if kind == "xt":
        module = value or {}
        return True if module.get("type") == "target" else _holds_module(module.get("name"), rule, packet)
    return True if kind in _IGNORED else None


def _ended(table: Table, chain: str, rule: Rule, kind: str, value: Any, packet: Packet, known: _Known) -> _Step | None:
    """What a statement does that decides; None of every other."""
    match kind, value:
        case ("accept", _) | ("drop" | "reject", _) | ("return", _):
            return _at_once(_ENDS[kind], chain, rule)
        case ("masquerade" | "snat", _):
            return _at_once(End.NAT, chain, rule)
        case ("xt", {"type": "target", "name": "REJECT"}):
            return _at_once(End.DROP, chain, rule)
        case ("xt", {"type": "target", "name": name}) if name in _NAT_TARGETS:
            return _at_once(End.NAT, chain, rule)
        case ("xt", {"type": "target", "name": name}) if name in _HANDED_ON:
            return _MAY_PASS
        case ("queue", _):
            return _MAY_PASS
        case ("jump", {"target": target}):
            there = _follow(table, target, packet, known)
            plain = None if there.plain.end is End.RETURN else there.plain
            last = None if End.RETURN in there.ends else there.last
            return _Step(plain, last, there.ends - {End.RETURN})
        case ("goto", {"target": target}):
            return _Step(*_follow(table, target, packet, known))
        case ("vmap", {"key": key, "data": data}):
            asked = _value(key, packet)
            steps = (
                _ended(table, chain, rule, *each, packet, known) or _GOES_ON
                for verdict in _chosen(table, asked, data)
                for each in verdict.items()
            )
            return _unsure(*steps) if asked is None else next(steps, _GOES_ON)
        case _:
            return None


_ENDS = {"accept": End.ACCEPT, "drop": End.DROP, "reject": End.DROP, "return": End.RETURN}


def _at_once(end: End, chain: str, rule: Rule) -> _Step:
    verdict = Verdict(end, chain, rule)
    return _Step(verdict, verdict, frozenset({end}))


def _holds_module(name: str | None, rule: Rule, packet: Packet) -> bool | None:
    """A match by a module of iptables, whose arguments nft does not show. Of states, those that are accepted are mostly
    RELATED,ESTABLISHED, and those that are dropped INVALID."""
    if name in _STATE_MODULES:
        drops = any("drop" in each or each.get("xt") == {"type": "target", "name": "REJECT"} for each in rule)
        return packet["state"] == "established" and not drops
    return True if name == "comment" else None


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


def _chosen(table: Table, value: Any, data: Any) -> Iterator[Mapping[str, Any]]:
    """The verdicts that a verdict map has for the value: all where nobody knows it."""
    members = table.sets.get(data[1:], ()) if isinstance(data, str) else data.get("set", ())
    for each in members:
        if isinstance(each, list) and value is not _ABSENT and (value is None or _is_in(table, value, each[0])):
            yield each[1]


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
            case ["-m", "comment", "--comment", _, *rest]:
                pass
            case ["-m", "tcp" | "udp" | "icmp" | "conntrack" | "state", *rest]:
                pass
            case ["-m", "physdev", "--physdev-is-bridged", *rest]:
                found.append(_match({"meta": {"key": "bridged"}}, "yes", negated))
            case [option, value, *rest] if (known := _option(option, value, negated)) is not None:
                found.append(known)
            case _:
                size = next((at for at, each in enumerate(words) if at and each in ("-m", "-j", "-g")), len(words))
                found.append({"unknown": " ".join(words[:size])})
                rest = words[size:]
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
        case "--icmp-type":
            kind = value.partition("/")[0]  # and a code, of which echoes have one alone
            if kind in ("any", "255"):
                return _match({"meta": {"key": "l4proto"}}, "icmp", negated)
            return _match(_payload("icmp", "type"), _ICMP.get(kind, kind), negated)
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
        case "REJECT" | "LOG" | "CHECKSUM" | "NOTRACK" | "MASQUERADE" | "SNAT" | "MARK" | "TCPMSS" | "NFQUEUE":
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
