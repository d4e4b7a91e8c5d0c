"""What shall pass between two clusters and what shall not, column by column, derived from their specs alone: pure, like
the table it follows (docs/architecture.md, "DNS modes")."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from ipaddress import IPv4Address
from typing import assert_never

from ai_how.config.terms import Protocol
from ai_how.probe.actions import (
    Action,
    Address,
    Forgery,
    Leased,
    Leaving,
    Page,
    Ping,
    Question,
    Resolves,
    Served,
    Talk,
    WhoHas,
)
from ai_how.probe.controls import able, neighbourly, outsider, pair, passes, seen_outside, way_out
from ai_how.probe.expectations import (
    HOST,
    LAN,
    Expect,
    Expectation,
    Outside,
    Side,
    address_of,
    forwards,
    leaves,
    peers,
    told_servers,
)
from ai_how.probe.private6 import gateway6, link_local, node6
from ai_how.spec.network import DnsMode
from ai_how.spec.node import Node
from ai_how.spec.policy import Port

#: The link of every endpoint.
_LINK = "eth0"

_OWN_SERVICE = "it is the host's own service"
_LET_IN = "allow_from or a route says so"


class Column(StrEnum):
    """What a cluster may reach or be reached by."""

    NODES = "nodes"
    GATEWAY = "gateway"
    HOST = "host services"
    INTERNET = "internet"
    LAN = "LAN in"
    NAMES = "names"
    REVERSE = "reverse"


def cell(column: Column, a: Side, b: Side, around: Outside, opened: Side | None = None) -> list[Expectation]:
    """What is expected of `a` towards `b` (or itself) in one column. `opened` is any cluster that the LAN may enter:
    the control of those that it may not."""
    match column:
        case Column.NODES:
            return list(_nodes(a, b, around))
        case Column.GATEWAY:
            return list(_gateway(a, b, around))
        case Column.HOST:
            return list(_host(a, b, around))
        case Column.INTERNET:
            return list(_internet(a, b, around))
        case Column.LAN:
            return list(_lan(a, around, opened))
        case Column.NAMES:
            return list(_names(a, b, around))
        case Column.REVERSE:
            return list(_reverse(a, b, around))
        case _:
            assert_never(column)


def _nodes(a: Side, b: Side, around: Outside) -> Iterator[Expectation]:
    same, allowed = a.name == b.name, a.name == b.name or peers(a, b)
    sender, (target, neighbour) = a.first, pair(b, reverse=same)
    ip, own = address_of(target), address_of(sender)
    source = own if allowed else None
    for action in (Ping(ip), *_talks(ip, around.node_port, source)):
        if allowed:
            yield passes(sender, target, action, "they are one" if not same else "it is one network", watched=True)
        else:
            yield _denied(sender, target, action, _apart(a, b), neighbourly(b, action), able(a, around), watched=True)
    for address in (node6(b.network, ip).ip, link_local(target.mac, _LINK)) if around.ipv6 else ():
        action = Ping(address)
        if same:
            yield passes(sender, target, action, "it is one network", watched=True)
        else:
            near = neighbourly(b, action)
            yield _denied(sender, target, action, "IPv6 never leaves a cluster", near, able(a, around), watched=True)
    if not same:
        forged = Forgery(address_of(neighbour), ip)
        why = "the source is not the sender's"
        yield _denied(sender, target, forged, why, neighbourly(b, Ping(ip)), able(a, around), watched=True)


def _gateway(a: Side, b: Side, around: Outside) -> Iterator[Expectation]:
    same = a.name == b.name
    sender, gateway, to = a.first, b.network.gateway, b.gateway_words
    if same:
        leased = Leased(sender.ip, gateway, told_servers(b.network), b.network.mtu)
        yield Expectation(sender.name, to, leased, Expect.PASS, "its own gateway")
    for action in (Ping(gateway), *_served(b)):
        if same or (peers(a, b) and isinstance(action, Ping)):
            why = "its own gateway" if same else "they are one"
            yield Expectation(sender.name, to, action, Expect.PASS, why)
        elif not peers(a, b):  # of these the own gateway asks; dnsmasq takes no questions that come by another link
            own = Expectation(b.first.name, to, action, Expect.PASS, "its own gateway")
            yield Expectation(sender.name, to, action, Expect.DENY, _apart(a, b), (own, able(a, around)))
    if not same:
        # Also between peers: they reach each other by routing, and nobody else's gateway is on this link.
        own = Expectation(sender.name, a.gateway_words, WhoHas(a.network.gateway), Expect.PASS, "its own gateway")
        yield Expectation(sender.name, to, WhoHas(gateway), Expect.DENY, "it is not on this link", (own,))
    if around.ipv6 and not same and not peers(a, b):
        ping = Ping(gateway6(b.network).ip)
        own = Expectation(HOST, to, ping, Expect.PASS, "it is the host's own address")
        near = neighbourly(a, Ping(node6(a.network, address_of(sender)).ip))
        yield Expectation(sender.name, to, ping, Expect.DENY, "IPv6 never leaves a cluster", (own, near))


def _host(a: Side, b: Side, around: Outside) -> Iterator[Expectation]:
    same = a.name == b.name
    sender, gateway = a.first, b.network.gateway
    denied: list[tuple[str, Talk]] = []
    for action in _talks(gateway, around.host_port):
        if same and action.port in a.network.policy.firewall.allow_host_ports:
            yield Expectation(sender.name, b.gateway_words, action, Expect.PASS, "allow_host_ports says so")
        else:
            denied.append((b.gateway_words, action))
    if around.uplink is not None:
        denied += [("uplink", action) for action in _talks(around.uplink, around.host_port)]
        denied += [("uplink", action) for action in _talks(around.uplink, around.uplink_port)]
    if around.ipv6:
        denied += [(b.gateway_words, action) for action in _talks(gateway6(b.network).ip, around.host_port)]
    for to, action in denied:
        yield _closed(a, to, action, action, around)
    if same and around.ipv6:
        local = zip(
            _talks(link_local(a.network.mac, _LINK), around.host_port),
            _talks(link_local(a.network.mac, a.network.bridge), around.host_port),
            strict=True,
        )
        for action, control in local:
            yield _closed(a, a.gateway_words, action, control, around)


def _closed(a: Side, to: str, action: Talk, control: Talk, around: Outside) -> Expectation:
    """A service of the host that nodes do not reach; `control` is the same as the host itself reaches it."""
    own = Expectation(HOST, to, control, Expect.PASS, _OWN_SERVICE)
    why = "only DHCP, DNS and ping of the own gateway are for nodes"
    return Expectation(a.first.name, to, action, Expect.DENY, why, (own, able(a, around)))


def _internet(a: Side, b: Side, around: Outside) -> Iterator[Expectation]:
    sender, net = a.first, a.network
    masked = net.policy.nat and not any(around.lan in each.to for each in net.policy.routes)
    seen = around.uplink if masked else sender.ip
    near = neighbourly(a, Ping(address_of(sender)))
    itself = way_out(a, around).needs
    tried: list[tuple[str, Action, IPv4Address]] = [("internet", Ping(around.resolver), around.resolver)]
    if around.lan_answers:
        tried += [(LAN, action, around.lan) for action in _talks(around.lan, around.lan_port, seen)]
    if around.web is not None:
        tried.append(("internet", Page(around.web, around.name), around.web))
    for to, action, address in tried:
        if leaves(a, address):
            needs = () if to == LAN else itself
            yield Expectation(sender.name, to, action, Expect.PASS, "the way out is open", needs=needs)
        else:
            open_ = replace(action, seen_as=None) if isinstance(action, Talk) else action
            reachable = Expectation(HOST, to, open_, Expect.PASS, "the host itself has a way out")
            why = "egress and block_networks do not let it out"
            yield Expectation(sender.name, to, action, Expect.DENY, why, (near,), needs=(reachable,))
    if forwards(net):
        known = around.exact and around.web is not None
        asked: Action = Resolves(net.gateway, around.name)
        if known:
            asked = Question(net.gateway, around.name, "A", (str(around.web),))
        yield Expectation(sender.name, "internet", asked, Expect.PASS, "the gateway forwards", needs=itself)
    elif net.gateway_answers_dns:
        asked = Leaving(net.gateway, f"asked-by-{a.name}.test", "A")
        control = seen_outside(a, around)
        why = "it forwards to nobody"
        yield Expectation(
            sender.name,
            "internet",
            asked,
            Expect.DENY,
            why,
            (control,),
            watched=around.watch,
            missing=control.missing,
        )
    if a.name != b.name and around.lan_answers and leaves(a, around.lan):
        forged = Forgery(address_of(b.first), around.lan)
        seen_by_tap = Expectation(sender.name, LAN, Ping(around.lan), Expect.PASS, "the way out is open", watched=LAN)
        why = "the source is not the sender's"
        yield Expectation(sender.name, LAN, forged, Expect.DENY, why, (seen_by_tap,), watched=LAN)


def _lan(a: Side, around: Outside, opened: Side | None) -> Iterator[Expectation]:
    target, policy = a.first, a.network.policy
    entered = [*policy.firewall.allow_from, *(each.to for each in policy.routes)]
    allowed = any(around.lan in each for each in entered)
    ip, gateway = address_of(target), a.network.gateway
    for action in (Ping(ip), *_talks(ip, around.node_port, around.lan if allowed else None)):
        if allowed:
            yield Expectation(LAN, target.name, action, Expect.PASS, _LET_IN, watched=target.name)
            continue
        controls = [neighbourly(a, action), *outsider(around)]
        if opened is not None:
            inside = opened.first
            controls.append(
                Expectation(LAN, inside.name, Ping(address_of(inside)), Expect.PASS, _LET_IN, watched=inside.name)
            )
        why = "nothing lets the LAN in"
        yield Expectation(LAN, target.name, action, Expect.DENY, why, tuple(controls), watched=target.name)
    closed: list[Action] = [Ping(gateway), *_served(a), *_talks(gateway, around.host_port)]
    for shut in closed:
        sender, why = (target.name, "its own gateway") if not isinstance(shut, Talk) else (HOST, _OWN_SERVICE)
        control = Expectation(sender, a.gateway_words, shut, Expect.PASS, why)
        why = "gateways are for their own networks"
        yield Expectation(LAN, a.gateway_words, shut, Expect.DENY, why, (control, *outsider(around)))


def _names(a: Side, b: Side, around: Outside) -> Iterator[Expectation]:
    for wanted in b.named[:1]:
        name = f"{wanted.name}.{b.network.domain}"
        yield from _records(a, b, name, "A", str(address_of(wanted)))
        if a.name == b.name and a.network.dns_mode is DnsMode.SHARED_DNS:
            missing = "" if around.host_dns else "nothing resolves names for the host here"
            question = Question(around.host_dns or a.network.gateway, name, "A", (str(address_of(wanted)),))
            why = "shared with the host"
            yield Expectation(HOST, f"names of {a.name}", question, Expect.PASS, why, missing=missing)
    # A name of its own for each asker: seen outside, it says whose gateway let it out.
    yield from _unknown(a, b, f"nobody-{a.name}.{b.network.domain}", "A", around)
    if b.network.dns_mode is DnsMode.SERVICE_DISCOVERY:
        yield from _consul(a, b, around)


def _consul(a: Side, b: Side, around: Outside) -> Iterator[Expectation]:
    """The nodes of `b` as Consul names them: answered to clusters in service discovery, and to no others."""
    discovery = b.network.policy.discovery
    service = b.name if discovery is None else discovery.service_name
    to, why = f"Consul's names of {b.name}", "Consul's names are answered"
    missing = "" if around.consul else "there is no Consul here"
    for wanted in b.named[:1]:
        name, want = f"{wanted.name}.{service}.service.consul", (str(address_of(wanted)),)
        known = Question(b.network.gateway, name, "A", want)
        own = Expectation(b.first.name, to, known, Expect.PASS, why, missing=missing)
        if a.name == b.name:
            yield own
            return
        asked = Question(a.network.gateway, name, "A", want)
        if a.network.dns_mode is b.network.dns_mode:
            yield Expectation(a.first.name, to, asked, Expect.PASS, why, missing=missing)
        else:
            yield Expectation(a.first.name, to, asked, Expect.DENY, _apart(a, b), (own,), missing=missing)


def _reverse(a: Side, b: Side, around: Outside) -> Iterator[Expectation]:
    for wanted in b.named[:1]:
        pointer = address_of(wanted).reverse_pointer
        yield from _records(a, b, pointer, "PTR", f"{wanted.name}.{b.network.domain}.")
        yield from _unknown(a, b, f"nobody-{a.name}.{pointer}", "PTR", around)


def _records(a: Side, b: Side, name: str, kind: str, want: str) -> Iterator[Expectation]:
    question = Question(a.network.gateway, name, kind, (want,))
    to = f"names of {b.name}"
    if a.name == b.name or peers(a, b):
        why = "its own names" if a.name == b.name else "names are shared"
        yield Expectation(a.first.name, to, question, Expect.PASS, why)
        return
    there = Question(b.network.gateway, name, kind, (want,))
    known = Expectation(b.first.name, to, there, Expect.PASS, "its own names")
    own = tuple(
        Expectation(a.first.name, f"names of {a.name}", _record(a, each), Expect.PASS, "its own names")
        for each in a.named[:1]
    )
    yield Expectation(a.first.name, to, question, Expect.DENY, _apart(a, b), (known, *own))


def _unknown(a: Side, b: Side, name: str, kind: str, around: Outside) -> Iterator[Expectation]:
    """A name in a zone of ours that nobody has: denied at once where the zone is known, and never asked for outside."""
    sender, gateway, to = a.first, a.network.gateway, f"names of {b.name}"
    if a.name == b.name or peers(a, b):
        yield Expectation(sender.name, to, Question(gateway, name, kind, ()), Expect.PASS, "unknown names are denied")
    control = seen_outside(a, around)
    why = "names of our zones never leave the host"
    yield Expectation(
        sender.name,
        to,
        Leaving(gateway, name, kind),
        Expect.DENY,
        why,
        (control,),
        watched=around.watch,
        missing=control.missing,
    )


def _denied(
    sender: Node, target: Node, action: Action, why: str, *controls: Expectation, watched: bool = False
) -> Expectation:
    place = target.name if watched else None
    return Expectation(sender.name, target.name, action, Expect.DENY, why, controls, watched=place)


def _record(cluster: Side, node: Node) -> Question:
    return Question(cluster.network.gateway, f"{node.name}.{cluster.network.domain}", "A", (str(address_of(node)),))


def _served(cluster: Side) -> tuple[Served, Served]:
    name, gateway = f"anybody.{cluster.network.domain}", cluster.network.gateway
    return Served(gateway, name, Protocol.UDP), Served(gateway, name, Protocol.TCP)


def _talks(to: Address, port: int, seen_as: Address | None = None) -> tuple[Talk, Talk]:
    return Talk(to, Port(Protocol.TCP, port), seen_as), Talk(to, Port(Protocol.UDP, port), seen_as)


def _apart(a: Side, b: Side) -> str:
    mode, other = a.network.dns_mode, b.network.dns_mode
    return f"{mode} keeps apart" if mode is other else f"{mode} and {other} are apart"
