"""The way of a packet, hop by hop, and the first place where it stopped: made of a trace (trace.py), pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ai_how.probe.trace import Direction, Headers, Rule, Stay, Verdict

_HERE = "this host"


class Cause(StrEnum):
    """What stopped a packet. The words never change."""

    #: A rule of a firewall, or the policy of a chain.
    RULE = "rule"
    #: Whoever it is for refused it: nobody listens there.
    REFUSED = "refused"
    #: A link is down, or its machine is not on the bridge.
    LINK = "link"
    #: Nobody on the link says that the next address is his.
    NEIGHBOUR = "neighbour"
    #: There is no way to the address.
    ROUTE = "route"
    #: The host does not forward.
    FORWARDING = "forwarding"
    #: The host does not believe the source address on that link (rp_filter).
    SOURCE = "source"
    #: The sender has no address.
    ADDRESS = "address"
    #: The name leads nowhere.
    NAME = "name"
    #: It was delivered, or has left the host, and nothing came back.
    SILENCE = "silence"
    #: Somewhere between two places of the kernel, and nothing says why.
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Hop:
    """One thing that happened to the packet: where, and what, in words."""

    direction: Direction
    where: str
    what: str
    verdict: Verdict | None = None

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {"direction": self.direction, "where": self.where, "what": self.what, "verdict": self.verdict}


@dataclass(frozen=True, slots=True)
class Stop:
    """Where it stopped, and why. `owner` is whose the rule is; `remedy` is what would let it pass, one thing a line."""

    cause: Cause
    direction: Direction
    where: str
    what: str
    owner: str = ""
    rule: Rule | None = None
    remedy: tuple[str, ...] = ()

    def __str__(self) -> str:
        back = "the reply: " if self.direction is Direction.REPLY else ""
        return f"{back}{self.where}: {self.what}" if self.where else f"{back}{self.what}"

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        rule = self.rule
        return {
            "cause": self.cause,
            "direction": self.direction,
            "where": self.where,
            "what": self.what,
            "owner": self.owner or None,
            "rule": None
            if rule is None
            else {
                "family": rule.family,
                "table": rule.table,
                "chain": rule.chain,
                "handle": rule.handle,
                "text": rule.text or None,
                "comment": rule.comment or None,
            },
            "remedy": list(self.remedy),
        }


@dataclass(frozen=True, slots=True)
class PacketPath:
    """What was asked (in words), what came back, the way there and back, and where it ended: None where it passes."""

    question: str
    detail: str
    hops: tuple[Hop, ...] = ()
    end: Stop | None = None

    @property
    def passes(self) -> bool:
        """Whether the answer came."""
        return self.end is None

    def __str__(self) -> str:
        """One line: where it stopped, or that it passes."""
        return self.detail if self.end is None else str(self.end)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "question": self.question,
            "passes": self.passes,
            "detail": self.detail,
            "hops": [each.to_json() for each in self.hops],
            "stop": None if self.end is None else self.end.to_json(),
        }


def hops(ways: Mapping[Direction, Iterable[Stay]], bridges: Mapping[str, str]) -> tuple[Hop, ...]:
    """The way in words, there and back. `bridges` says of which bridge a link is a port."""
    found: list[Hop] = []
    for direction in Direction:
        way = list(ways.get(direction, ()))
        bridged = any((each.family, each.hook) == ("bridge", "prerouting") for each in way)
        for number, stay in enumerate(way):
            said = _hops(direction, stay, bridges, first=not number and not bridged)
            found += (each for each in said if each not in found)
    return tuple(found)


def _hops(direction: Direction, stay: Stay, bridges: Mapping[str, str], *, first: bool) -> Iterator[Hop]:
    now, after = stay.before, stay.after
    match stay.family, stay.hook:
        case "bridge", "prerouting":
            yield Hop(direction, bridges.get(now.iif, "a bridge"), f"{_addresses(now)} comes in by port {now.iif}")
        case "bridge", "forward" | "postrouting":
            yield Hop(direction, bridges.get(now.oif, "a bridge"), f"goes out by port {now.oif}")
        case "inet", "prerouting" if first:
            yield Hop(direction, _HERE, f"{_addresses(now)} comes in by {now.iif}")
        case "inet", "output" if not stay.nested:
            yield Hop(direction, _HERE, f"{_addresses(now)} is sent by {now.oif}")
        case "inet", "input":
            yield Hop(direction, _HERE, "is for this host itself")
        case "inet", "forward" if not stay.nested:
            yield Hop(direction, _HERE, f"is routed from {now.iif} to {now.oif}")
        case _:
            pass
    for rule, verdict in stay.decided:
        if rule.text or verdict is Verdict.DROP:
            what = rule.text or "policy drop"
            yield Hop(direction, f"{rule.family} {rule.table} {rule.chain}", what, verdict)
    if now.target != after.target or now.dport != after.dport:
        yield Hop(direction, _HERE, f"is led to {after.target}{_port(after.dport, after)}")
    if now.source != after.source:
        yield Hop(direction, _HERE, f"has {after.source} as its source from here on")


def _addresses(headers: Headers) -> str:
    return f"{headers.source} → {headers.target}{_port(headers.dport, headers)}"


def _port(port: int | None, headers: Headers) -> str:
    return "" if port is None or headers.protocol not in ("tcp", "udp") else f":{port}"
