"""Why a packet does not arrive: sent for real, followed through the rules of this host, and looked for where it was
last seen.

path = explain(node.place, Ping(address))
path.end or path.hops
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from ai_how.config.terms import Protocol
from ai_how.errors import CommandFailed
from ai_how.host import iptables
from ai_how.probe import legacy
from ai_how.probe.actions import Action, Forgery, Leaving, Page, Ping, Question, Served, Sized, Talk
from ai_how.probe.circumstances import (
    Look,
    Way,
    ask_routing,
    find_way,
    judge_outgoing,
    judge_port,
    judge_routing,
    judge_sender,
    look,
)
from ai_how.probe.packets import Answer, NotTested, ask
from ai_how.probe.path import Cause, PacketPath, Stop, hops
from ai_how.probe.place import Place, here
from ai_how.probe.remedy import Asked, network_of, owner_of, remedies, words_of
from ai_how.probe.run import Spot, act
from ai_how.probe.trace import Direction, Rule, Stay, last, stays
from ai_how.probe.tracer import Flow, tracing
from ai_how.resources.network import VirtualNetwork
from ai_how.spec.policy import Port

Ways = Mapping[Direction, list[Stay]]

_DNS = Port(Protocol.UDP, 53)
_HTTP = Port(Protocol.TCP, 80)


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known of the host beside what its kernel says: libvirt's networks, and of machines at addresses what is
    wrong with them, in words."""

    networks: tuple[VirtualNetwork, ...] = ()
    troubles: Mapping[IPv4Address, Stop] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A packet that got no answer, and all that was seen of it."""

    asked: Asked
    sender: str
    way: Way
    ways: Ways
    host: Look
    inside: Look
    old: tuple[Rule, ...] = ()
    refused: str = ""


def explain(spot: Spot | Place, action: Action, scene: Scene | None = None) -> PacketPath:
    """Do `action` there once, traced: its way, and where it stopped. What is no packet to one address has no way.

    Raises PrivilegeError, or HostError where nothing can be traced.
    """
    spot = spot if isinstance(spot, Spot) else Spot(spot)
    scene = scene or Scene()
    question, packet = str(action), _packet(action)
    if packet is None:
        return PacketPath(question, "no packet that can be followed")
    target, port = packet
    protocol, number = ("icmp", None) if port is None else (port.protocol.value, port.number)
    way = find_way(spot.place, target)
    if way.refused or way.source is None:
        return PacketPath(question, "nothing is sent", end=_no_way(spot.place.name, target, way))
    source = action.source if isinstance(action, Forgery) else way.source
    asked = Asked(source, target, protocol, number)
    before = legacy.read(legacy.ask())
    with here() as host, tracing([Flow(protocol, source, target, number)]) as tracer:
        try:
            answer = ask(act(action, spot))
        except NotTested as error:
            stop = Stop(Cause.ROUTE, Direction.REQUEST, spot.place.name, error.why)
            return PacketPath(question, str(error), end=stop)
        ways = stays(tracer.events(), source, target, number)
        seen = _Seen(asked, spot.place.name, way, ways, look(host), look(spot.place))
    found = hops(ways, seen.host.bridges)
    if answer.replied:
        return PacketPath(question, answer.detail, found)
    old = legacy.dropped(before, legacy.read(legacy.ask()))
    seen = replace(seen, old=old, refused=_refusal(answer))
    return PacketPath(question, answer.detail, found, find_end(seen, scene))


def _packet(action: Action) -> tuple[IPv4Address, Port | None] | None:
    """Whom it is sent to, and at which port; None where it is nothing of the kind."""
    match action:
        case Ping(IPv4Address() as to) | Forgery(_, to) | Sized(to):
            return to, None
        case Talk(IPv4Address() as to, port):
            return to, port
        case Question(server, _, _) | Leaving(server, _, _):
            return server, _DNS
        case Served(server, _, protocol):
            return server, Port(protocol, _DNS.number)
        case Page(to, _):
            return to, _HTTP
        case _:
            return None


def _refusal(answer: Answer) -> str:
    return answer.detail if answer.detail.startswith("refused") else ""


def _no_way(name: str, target: IPv4Address, way: Way) -> Stop:
    what = f"there is no way to {target}: {way.refused or 'the kernel names no source'}"
    return Stop(Cause.ROUTE, Direction.REQUEST, name, what, remedy=(f"ip route get {target}  # there, shows it",))


def find_end(seen: _Seen, scene: Scene) -> Stop:
    """Where the packet stopped, or its reply. Raises CommandFailed where the kernel cannot be asked."""
    for direction in (Direction.REQUEST, Direction.REPLY):
        for stay in seen.ways[direction]:
            if stay.dropped is not None:
                return _by_rule(stay.dropped, direction, seen.asked, scene)
    if seen.old:
        return _by_rule(seen.old[-1], Direction.REQUEST, seen.asked, scene)
    request, reply = seen.ways[Direction.REQUEST], seen.ways[Direction.REPLY]
    if not request and seen.way.local:
        what = f"it does not leave {seen.sender}, " + (
            "and nothing listens there" if seen.refused else "which is silent"
        )
        cause = Cause.REFUSED if seen.refused else Cause.SILENCE
        return Stop(cause, Direction.REQUEST, seen.sender, what)
    if not request:
        return _troubled(judge_sender(seen.inside, seen.host, seen.way, seen.asked.target, seen.sender), seen, scene)
    if seen.refused and last(request).hook != "prerouting":
        return _refused(last(request), seen)
    if reply:
        return _after(last(reply), Direction.REPLY, seen, scene)
    return _troubled(_after(last(request), Direction.REQUEST, seen, scene), seen, scene)


def _troubled(stop: Stop, seen: _Seen, scene: Scene) -> Stop:
    """What is known of the machine that it is for explains silence better than the silence."""
    trouble = scene.troubles.get(seen.asked.target)
    silent = stop.cause in (Cause.NEIGHBOUR, Cause.SILENCE) and stop.direction is Direction.REQUEST
    first = seen.way.via is None or seen.ways[Direction.REQUEST]
    return trouble if trouble is not None and silent and first else stop


def _by_rule(rule: Rule, direction: Direction, asked: Asked, scene: Scene) -> Stop:
    owner = owner_of(rule, _chains(rule))
    if direction is Direction.REPLY:
        asked = replace(asked, source=asked.target, target=asked.source, answer=True)
    where = f"{rule.family} {rule.table} {rule.chain}"
    remedy = remedies(rule, owner, asked, scene.networks)
    return Stop(Cause.RULE, direction, where, words_of(rule), owner, rule, remedy)


def _chains(rule: Rule) -> tuple[str, ...]:
    """The chains beside it in iptables, which tell who sets policies there."""
    if rule.text or rule.family not in ("ip", iptables.LEGACY):
        return ()
    try:
        command = "iptables" if rule.family == "ip" else iptables.LEGACY
        return tuple(iptables.read_rules(iptables.list_rules(command, rule.table)))
    except CommandFailed:
        return ()


def _refused(at: Stay, seen: _Seen) -> Stop:
    """No rule of this host has refused it: somebody beyond, or the one that it is for."""
    asked = seen.asked
    if at.hook == "input":
        where, who = "this host", f"this host at {at.after.target}"
    else:
        where = at.after.oif
        who = str(asked.target)
    if "ECONNREFUSED" not in seen.refused:
        return Stop(Cause.REFUSED, Direction.REQUEST, where, f"it left by {where}, and was {seen.refused}")
    what = f"it arrived, and {who} refused it: nothing listens on port {at.after.dport or asked.port}"
    remedy = (f"ss -ln{'t' if asked.protocol == 'tcp' else 'u'}  # there, shows who listens and on which address",)
    return Stop(Cause.REFUSED, Direction.REQUEST, where, what, remedy=remedy)


def _after(at: Stay, direction: Direction, seen: _Seen, scene: Scene) -> Stop:
    """Nobody dropped it, and it was last seen here."""
    now, host = at.after, seen.host
    source, target = now.source or seen.asked.source, now.target or seen.asked.target
    place = f"{at.family} {at.hook}"
    if not at.left:
        what = "it came here and did not go on, and no rule that nft knows says why"
        return Stop(Cause.LOST, direction, place, what, remedy=(f"nft list hooks  # who else is at {at.hook}",))
    match at.family, at.hook:
        case "inet", "prerouting":
            found = judge_routing(ask_routing(source, target, now.iif), source, target, direction)
            return found or Stop(Cause.LOST, direction, "routing on this host", "it was not routed; nothing says why")
        case "inet", "input":
            what = f"it was delivered to this host, {target}, and nothing answered"
            return Stop(Cause.SILENCE, direction, "this host", what, remedy=_at_host(seen.asked))
        case "inet", "postrouting" | "output" | "forward":
            own = find_way(None, target)
            inside = [network_of(each, scene.networks) for each in (source, target)]
            bare = source if inside[0] is not None and inside[1] is None else None
            return judge_outgoing(host, now.oif, own.via or target, bare, direction)
        case _:
            pass
    if not now.oif:
        stop = _in_bridge(now.iif, host, direction)
        return stop or Stop(Cause.LOST, direction, now.iif, "its bridge took it and passed it to no port")
    port = host.links.get(now.oif)
    stop = None if port is None else judge_port(port, direction)
    what = f"it was delivered by port {now.oif} of {host.bridges.get(now.oif, 'the bridge')}, and nothing answered"
    remedy = ("Look inside that machine: is its address the one that was asked, does its own firewall drop?",)
    return stop or Stop(Cause.SILENCE, direction, now.oif, what, remedy=remedy)


def _in_bridge(name: str, host: Look, direction: Direction) -> Stop | None:
    port = host.links.get(name)
    if port is not None and port.isolated:
        what = "the port is isolated: nothing passes from it to another such port"
        return Stop(Cause.LINK, direction, name, what, remedy=(f"bridge link set dev {name} isolated off",))
    return None if port is None else judge_port(port, direction)


def _at_host(asked: Asked) -> tuple[str, ...]:
    if asked.port is None:
        return ("sysctl net.ipv4.icmp_echo_ignore_all  # 1 keeps this host from answering",)
    return (f"ss -ln{'t' if asked.protocol == 'tcp' else 'u'}  # shows who listens, and on which address",)
