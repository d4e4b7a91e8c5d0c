"""The words of nftables' JSON (libnftables-json(5)) that our rules are made of: data in, data out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network
from typing import Any

Expression = dict[str, Any]
Statement = dict[str, Any]
Command = dict[str, Any]

ACCEPT: Statement = {"accept": None}
DROP: Statement = {"drop": None}
#: The sender learns at once that an administrator forbids it (RFC 1812, 5.2.7.1; RFC 4443, 3.1).
REJECT: Statement = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}
MASQUERADE: Statement = {"masquerade": None}


def meta(key: str) -> Expression:
    return {"meta": {"key": key}}


def payload(protocol: str, field: str) -> Expression:
    return {"payload": {"protocol": protocol, "field": field}}


def raw(base: str, offset: int, length: int) -> Expression:
    """`length` bits at bit `offset` of the header `base` (ll: link, nh: network, th: transport)."""
    return {"payload": {"base": base, "offset": offset, "len": length}}


def concat(*parts: object) -> Expression:
    return {"concat": list(parts)}


def prefix(network: IPv4Network) -> Expression:
    return {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}


def match(left: Expression, right: object, *, op: str = "==") -> Statement:
    return {"match": {"op": op, "left": left, "right": right}}


def one_of(*values: object) -> Expression:
    return {"set": list(values)}


def jump(chain: str) -> Statement:
    return {"jump": {"target": chain}}


def goto(chain: str) -> Statement:
    return {"goto": {"target": chain}}


def look_up(key: Expression, table: str) -> Expression:
    """What the map `table` has for `key`; where it has nothing the rule does not match."""
    return {"map": {"key": key, "data": f"@{table}"}}


class Table:
    """The commands that make one table, in the order that nft wants: chains and sets before the rules that use them.

    In two parts: what no packet comes to by itself, and the chains that packets enter.
    """

    def __init__(self, family: str, name: str, comment: str) -> None:
        self._place = {"family": family, "table": name}
        self._own = {"family": family, "name": name}
        self._comment = comment
        self._chains: list[Command] = []
        self._sets: list[Command] = []
        self._rules: list[Command] = []
        self._entrances: list[Command] = []
        self._first_rules: list[Command] = []

    @property
    def inert(self) -> list[Command]:
        """A new table in place of whatever is there, with all but its entrances."""
        new = {"add": {"table": {**self._own, "comment": self._comment}}}
        return [*self.removal, new, *self._chains, *self._sets, *self._rules]

    @property
    def entrances(self) -> list[Command]:
        """What is added to the table so that packets enter it."""
        return [*self._entrances, *self._first_rules]

    @property
    def removal(self) -> list[Command]:
        """Deleting what is not there fails, so it is added first."""
        return [{verb: {"table": self._own}} for verb in ("add", "delete")]

    def chain(self, name: str, *rules: Sequence[Statement] | Command, **hook: object) -> None:
        """A chain with its rules; `hook` are type, hook and prio of one that packets enter by themselves."""
        chains, behind = (self._entrances, self._first_rules) if hook else (self._chains, self._rules)
        base = {**hook, "policy": "accept"} if hook else {}
        chains.append({"add": {"chain": {**self._place, "name": name, **base}}})
        for each in rules:
            rule = each if isinstance(each, dict) else {"expr": list(each)}
            behind.append({"add": {"rule": {**self._place, "chain": name, **rule}}})

    def set(self, name: str, kind: str | Sequence[str], elements: Iterable[object], *, interval: bool = False) -> None:
        self._sets.append({"add": {"set": self._data(name, kind, elements, interval)}})

    def map(self, name: str, kind: Sequence[str], value: str, elements: Iterable[tuple[object, object]]) -> None:
        pairs = [list(each) for each in elements]
        self._sets.append({"add": {"map": {**self._data(name, kind, pairs, interval=False), "map": value}}})

    def _data(self, name: str, kind: str | Sequence[str], elements: Iterable[object], interval: bool) -> Command:
        held = list(elements)
        data = {**self._place, "name": name, "type": kind if isinstance(kind, str) else list(kind)}
        if interval:
            data["flags"] = ["interval"]
        return {**data, "elem": held} if held else data
