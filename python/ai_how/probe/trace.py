"""What the kernel says of a packet that is traced through its rules, as `nft -a monitor trace` prints it: pure.

Our own chains (tracer.py) stand first and last at every hook, so that the packet is also seen where nobody has rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address

from ai_how.resources.firewall import TRACES

#: The names of our chains at a hook.
FIRST, LAST = "first", "last"

#: Comes before everything that a trace holds: it says that whoever prints it has read all there is before it.
MARKER = "marker"


class Direction(StrEnum):
    """Which way a packet goes: as asked, back, or back as an error of ICMP."""

    REQUEST = "request"
    REPLY = "reply"
    ERROR = "error"


class Verdict(StrEnum):
    """What a rule or a policy decided."""

    ACCEPT = "accept"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Headers:
    """What is known of a packet at one place: links, addresses, protocol, ports (an echo's number stands for both)."""

    iif: str = ""
    oif: str = ""
    source: IPv4Address | None = None
    target: IPv4Address | None = None
    protocol: str = ""
    sport: int | None = None
    dport: int | None = None
    icmp: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that decided, or a policy (`text` is empty then). `handle` is what nft deletes it by, None of a policy."""

    family: str
    table: str
    chain: str
    text: str = ""
    handle: int | None = None
    comment: str = ""

    def __str__(self) -> str:
        where = f"{self.family} {self.table} {self.chain}"
        return f"{where}: {self.text}" if self.text else f"{where}: policy drop"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a trace: packet `trace` at a chain, with its headers as they are there. `verdict` is None where a
    rule only counted, changed or led on; `rule` is None where the line is about the packet alone."""

    trace: str
    family: str
    table: str
    chain: str
    headers: Headers
    rule: Rule | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Stay:
    """A packet at one hook of one family: what it was when it came, and the rules that decided something there.

    `left` is whether it came out at the other end. `nested` is whether the bridge itself asked the rules of IP, within
    a hook of its own (bridge-nf-call-iptables).
    """

    family: str
    hook: str
    before: Headers
    after: Headers
    decided: tuple[tuple[Rule, Verdict], ...] = ()
    left: bool = False
    nested: bool = False

    @property
    def dropped(self) -> Rule | None:
        """The rule that ended it here, None where none did."""
        return next((rule for rule, verdict in self.decided if verdict is Verdict.DROP), None)


_LINE = re.compile(r"trace id ([0-9a-f]+) (\S+) (\S+) (\S+) (packet:|rule|unknown rule|policy|verdict) ?(.*)")
_RULE = re.compile(r"(.*?)(?: ?#? ?handle (\d+))? \(verdict (\w+)(?: \S+)?\)$")
_COMMENT = re.compile(r'comment "([^"]*)"')
#: Says nothing of what the rule does, and is as old as nft's list of rules.
_COUNTER = re.compile(r"counter packets \d+ bytes \d+")
_SPACES = re.compile(r"\s{2,}")
_FIELDS = {
    name: re.compile(rf"(?:^| ){text}")
    for name, text in {
        "iif": r'iif "([^"]+)"',
        "oif": r'oif "([^"]+)"',
        "source": r"ip saddr ([\d.]+)",
        "target": r"ip daddr ([\d.]+)",
        "sport": r"(?:tcp|udp) sport (\d+)",
        "dport": r"(?:tcp|udp) dport (\d+)",
        "echo": r"icmp id (\d+)",
        "icmp": r"icmp type (\S+)",
        "protocol": r"(tcp|udp) sport",
    }.items()
}


def read_trace(text: str) -> tuple[Event, ...]:
    """Understands the lines that are whole. Those of nobody's packet, such as after a lost line, are left out."""
    events: list[Event] = []
    known: dict[tuple[str, str], Headers] = {}
    for line in text.splitlines(keepends=True):
        found = _LINE.match(line)
        if found is None or not line.endswith("\n"):
            continue
        trace, family, table, chain, kind, rest = found.groups()
        if kind == "packet:":
            known[trace, family] = _headers(rest)
        headers = known.get((trace, family))
        if headers is None:
            continue
        event = Event(trace, family, table, chain, headers)
        match kind:
            case "rule" | "unknown rule":
                rule, verdict = _rule(event, rest)
                event = replace(event, rule=rule, verdict=verdict)
            case "policy":
                event = replace(event, rule=Rule(family, table, chain), verdict=_verdict(rest.split()[0]))
            case _:
                pass
        events.append(event)
    return tuple(events)


def _headers(text: str) -> Headers:
    found = {name: match[1] for name, pattern in _FIELDS.items() if (match := pattern.search(text)) is not None}
    echo = found.get("echo", "")
    sport, dport = found.get("sport", echo), found.get("dport", echo)
    return Headers(
        iif=found.get("iif", ""),
        oif=found.get("oif", ""),
        source=IPv4Address(found["source"]) if "source" in found else None,
        target=IPv4Address(found["target"]) if "target" in found else None,
        protocol=found.get("protocol", "icmp" if "icmp" in found else ""),
        sport=int(sport) if sport else None,
        dport=int(dport) if dport else None,
        icmp=found.get("icmp", ""),
    )


def _rule(event: Event, rest: str) -> tuple[Rule, Verdict | None]:
    found = _RULE.match(rest)
    text, handle, verdict = found.groups() if found is not None else (rest, None, "")
    comment = _COMMENT.search(text)
    rule = Rule(
        event.family,
        event.table,
        event.chain,
        _SPACES.sub(" ", _COUNTER.sub("", text)).strip(),
        None if handle is None else int(handle),
        "" if comment is None else comment[1],
    )
    return rule, _verdict(verdict)


def _verdict(word: str) -> Verdict | None:
    return Verdict(word) if word in (Verdict.ACCEPT, Verdict.DROP) else None


def direction_of(headers: Headers, source: IPv4Address, target: IPv4Address, port: int | None) -> Direction:
    """Which way a packet goes that is seen for the first time, of a question by `source` to `target`."""
    if headers.protocol == "icmp":
        match headers.icmp:
            case "echo-request":
                return Direction.REQUEST
            case "echo-reply":
                return Direction.REPLY
            case _:
                return Direction.ERROR
    asks = headers.source == source if source != target else headers.dport == port
    return Direction.REQUEST if asks or (headers.target == target and headers.dport == port) else Direction.REPLY


def stays(
    events: Iterable[Event], source: IPv4Address, target: IPv4Address, port: int | None
) -> dict[Direction, list[Stay]]:
    """The way of the first packet of each direction, hook by hook. Later ones, as TCP sends, have ways of their own,
    and what comes back to another port answers another question."""
    of: dict[str, list[Event]] = {}
    for event in events:
        of.setdefault(event.trace, []).append(event)
    ways: dict[Direction, list[Stay]] = {direction: [] for direction in Direction}
    asker: int | None = None
    for some in of.values():
        direction = direction_of(some[0].headers, source, target, port)
        if direction is Direction.REQUEST and asker is None:
            asker = some[0].headers.sport
        # Where addresses are translated the asker's own port is seen from there on.
        if direction is Direction.REPLY and asker not in [each.headers.dport for each in some]:
            continue
        way = ways[direction]
        more = list(_stays(some))
        if more and (not way or _goes_on(last(way), more[0])):
            way += more
    return {direction: _passed(way) for direction, way in ways.items()}


def last(way: Sequence[Stay]) -> Stay:
    """Where the packet was last: a hook that is no part of another one."""
    return next((each for each in reversed(way) if not each.nested), way[-1])


def _goes_on(before: Stay, after: Stay) -> bool:
    """Whether one is where a packet comes next that was at the other: the kernel gives it another number where it goes
    from a bridge to IP, and to the copies that a bridge makes for its ports."""
    match before.family, after.family:
        case "bridge", "inet":
            return before.hook in ("prerouting", "input") and after.hook == "prerouting"
        case "inet", "bridge":
            return before.hook == "postrouting" and after.hook in ("output", "postrouting")
        case "bridge", "bridge":
            return before.hook in ("prerouting", "output") and after.hook in ("forward", "output", "postrouting")
        case _:
            return False


def _passed(way: list[Stay]) -> list[Stay]:
    """With bridge-nf-call-iptables the rules of IP are asked within the bridge's hook, and not again by IP itself."""
    asked = any(each.nested and each.hook == "prerouting" and each.left for each in way)
    return [
        replace(each, left=True) if asked and each.hook == "prerouting" and each.dropped is None else each
        for each in way
    ]


def _stays(events: Iterable[Event]) -> Iterator[Stay]:
    """The hooks of one packet, in the order in which it came to them."""
    found: list[Stay] = []
    now: dict[str, int] = {}
    for event in events:
        family = "bridge" if event.family == "bridge" else "inet"
        own = event.table.startswith(TRACES)
        hook, _, end = event.chain.partition("_")
        if own and (family not in now or found[now[family]].hook != hook):
            within = found[now["bridge"]].hook if family == "inet" and "bridge" in now else "input"
            now[family] = len(found)
            found.append(Stay(family, hook, event.headers, event.headers, nested=within != "input"))
        if family not in now:
            continue
        stay = replace(found[now[family]], after=event.headers)
        if own:
            stay = replace(stay, left=stay.left or end == LAST)
        elif event.rule is not None and event.verdict is not None:
            stay = replace(stay, decided=(*stay.decided, (event.rule, event.verdict)))
        found[now[family]] = stay
    yield from found
