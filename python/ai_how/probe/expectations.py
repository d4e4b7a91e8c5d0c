"""What shall pass between clusters and what shall not, derived from their specs alone: pure, like the table it follows
(docs/architecture.md, "DNS modes").

A denial is worth something only beside its controls: the same packet, sent by somebody who may, arrives in the same
run, and so does another packet of the same sender.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Interface, IPv6Network, ip_address
from typing import assert_never

from ai_how.config.terms import Egress, Protocol
from ai_how.spec.cluster import Cluster
from ai_how.spec.neighbours import SOCIAL
from ai_how.spec.network import DnsMode, Network
from ai_how.spec.node import Node
from ai_how.spec.policy import Port

Address = IPv4Address | IPv6Address

#: Places that are no nodes.
HOST, LAN = "host", "lan"

#: The link of every endpoint.
LINK = "eth0"

#: A private IPv6 prefix (RFC 4193): what another program on the host may give our bridges at any time.
_PRIVATE6 = IPv6Network("fd61:6968:6f77::/48")

_OWN_SERVICE = "it is the host's own service"
_LET_IN = "allow_from or a route says so"


class Expect(StrEnum):
    """What the configuration promises."""

    PASS = "pass"  # noqa: S105 - the word of the report
    DENY = "deny"


class Column(StrEnum):
    """What a cluster may reach or be reached by."""

    NODES = "nodes"
    GATEWAY = "gateway"
    HOST = "host services"
    INTERNET = "internet"
    LAN = "LAN in"
    NAMES = "names"
    REVERSE = "reverse"


@dataclass(frozen=True, slots=True)
class Ping:
    """An echo request."""

    to: Address

    def __str__(self) -> str:
        return f"ping {self.to}"


@dataclass(frozen=True, slots=True)
class Talk:
    """A connection or datagram to a responder, which shall see it come from `seen_as`, None where that is all one.

    `leads_to` is the address and the port at which it arrives, where those are others.
    """

    to: Address
    port: Port
    seen_as: Address | None = None
    leads_to: tuple[IPv4Address, int] | None = None

    def __str__(self) -> str:
        return f"{self.port.protocol} {self.to} {self.port.number}"


@dataclass(frozen=True, slots=True)
class Question:
    """A question for records: `want` shall be the answer, nothing but NXDOMAIN where it is empty."""

    server: IPv4Address
    name: str
    kind: str
    want: tuple[str, ...]

    def __str__(self) -> str:
        return f"dns {self.kind} {self.name} at {self.server}"


@dataclass(frozen=True, slots=True)
class Served:
    """A question to `server`, any answer to which passes."""

    server: IPv4Address
    name: str
    protocol: Protocol

    def __str__(self) -> str:
        return f"dns {self.server} by {self.protocol}"


@dataclass(frozen=True, slots=True)
class Leaving:
    """A question to `server` that is looked for outside, whatever the answer is."""

    server: IPv4Address
    name: str
    kind: str

    def __str__(self) -> str:
        return f"dns {self.kind} {self.name} outside"


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a web server, asked for by name."""

    to: IPv4Address
    host: str

    def __str__(self) -> str:
        return f"http {self.host}"


@dataclass(frozen=True, slots=True)
class Forgery:
    """An echo request that claims to come from `source`."""

    source: IPv4Address
    to: IPv4Address

    def __str__(self) -> str:
        return f"ping {self.to} as {self.source}"


@dataclass(frozen=True, slots=True)
class WhoHas:
    """An ARP request on the sender's own link."""

    to: IPv4Address

    def __str__(self) -> str:
        return f"arp {self.to}"


@dataclass(frozen=True, slots=True)
class Owner:
    """An ARP request on the sender's own link: `mac` and nobody else shall claim the address."""

    to: IPv4Address
    mac: str

    def __str__(self) -> str:
        return f"arp {self.to}: {self.mac} alone"


@dataclass(frozen=True, slots=True)
class Sized:
    """An echo request of `mtu` bytes as a whole, which nobody may cut in pieces (RFC 1191)."""

    to: IPv4Address
    mtu: int

    def __str__(self) -> str:
        return f"ping {self.to} with {self.mtu} bytes in one piece"


@dataclass(frozen=True, slots=True)
class Addressed:
    """What a running machine itself says: its card with `mac` has the address."""

    ip: IPv4Address
    mac: str

    def __str__(self) -> str:
        return f"its own address {self.ip}"


@dataclass(frozen=True, slots=True)
class Reaches:
    """An echo request to a name, as a running machine itself resolves it."""

    name: str

    def __str__(self) -> str:
        return f"ping {self.name}"


@dataclass(frozen=True, slots=True)
class Resolves:
    """A question for the address of `name`: any will do."""

    server: IPv4Address
    name: str

    def __str__(self) -> str:
        return f"dns A {self.name} at {self.server}"


@dataclass(frozen=True, slots=True)
class Leased:
    """What DHCP has given the sender."""

    ip: IPv4Address | None
    router: IPv4Address
    dns: tuple[IPv4Address, ...]
    mtu: int | None

    def __str__(self) -> str:
        return "dhcp"


Action = (
    Ping
    | Talk
    | Question
    | Served
    | Leaving
    | Page
    | Forgery
    | WhoHas
    | Leased
    | Owner
    | Sized
    | Resolves
    | Addressed
    | Reaches
)


@dataclass(frozen=True, slots=True)
class Expectation:
    """`action`, done at place `frm` towards `to` (words for people), shall pass or be denied, because of `why`.

    `controls` must pass in the same run for a denial to count. So must what it `needs`, also for a failure to count:
    what the host itself cannot reach is nobody's fault here. At place `watched` the packet shall arrive, or not.
    `missing` says why it cannot be tested here.
    """

    frm: str
    to: str
    action: Action
    expect: Expect
    why: str
    controls: tuple[Expectation, ...] = ()
    watched: str | None = None
    missing: str = ""
    needs: tuple[Expectation, ...] = ()

    @property
    def name(self) -> str:
        """Unique in a run."""
        return f"{self.frm} → {self.to}: {self.action}"


@dataclass(frozen=True, slots=True)
class Outside:
    """What is around the clusters of a run: addresses, and the ports at which responders answer.

    `uplink` is the host's address outside, None where it has none; `lan` another machine's there. `host_port` is
    answered on every address of the host, `uplink_port` on `uplink` alone, `node_port` by every node, `lan_port` by
    that machine. What leaves the host by its uplink is seen at the place `watch`; so would be packets to the addresses
    `by_uplink`. `host_dns` is the host's own resolver.

    In a lab all of it is known. Elsewhere the host may not reach `resolver` itself (`connected`), nodes may not talk to
    the stand-in for that machine (`lan_answers`), nobody gives our bridges IPv6 (`ipv6`), and `name` has whatever
    addresses it has (`exact`).
    """

    uplink: IPv4Address | None
    lan: IPv4Address
    resolver: IPv4Address
    web: IPv4Address | None
    name: str
    node_port: int = 7000
    lan_port: int = 7001
    host_port: int = 7777
    uplink_port: int = 7778
    consul: bool = False
    watch: str = LAN
    by_uplink: frozenset[IPv4Address] = frozenset()
    host_dns: IPv4Address | None = None
    lan_answers: bool = True
    connected: bool = True
    ipv6: bool = True
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Side:
    """A cluster as packets are sent from it and to it. `nodes` are those that have a place to send from, with their
    addresses, two at least; `named` are those whose names and addresses are known to be reserved."""

    cluster: Cluster
    nodes: tuple[Node, ...]

    @staticmethod
    def of(cluster: Cluster) -> Side:
        """The cluster with a place for each of its nodes."""
        return Side(cluster, cluster.nodes)

    @property
    def name(self) -> str:
        """That of the cluster."""
        return self.cluster.name

    @property
    def network(self) -> Network:
        """That of the cluster."""
        return self.cluster.network

    @property
    def named(self) -> tuple[Node, ...]:
        """The nodes whose names are known to lead to their addresses."""
        return tuple(each for each in self.cluster.nodes if each.ip is not None)


def peers(a: Side, b: Side) -> bool:
    """Whether the clusters are one with each other: two of the same social mode."""
    return a.name != b.name and a.network.dns_mode is b.network.dns_mode and a.network.dns_mode in SOCIAL


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


def private6(network: Network) -> IPv6Network:
    """The private IPv6 network that stands for this one in a test."""
    number = int(network.subnet.network_address) >> 8 & 0xFFFF
    return IPv6Network((int(_PRIVATE6.network_address) | number << 64, 64))


def gateway6(network: Network) -> IPv6Interface:
    """The host's address in it."""
    return IPv6Interface((int(private6(network).network_address) + 1, 64))


def node6(network: Network, ip: IPv4Address) -> IPv6Interface:
    """A node's address in it."""
    offset = int(ip) - int(network.subnet.network_address)
    return IPv6Interface((int(private6(network).network_address) + 0x100 + offset, 64))


def link_local(mac: str, link: str) -> IPv6Address:
    """The link-local address that follows from a MAC (RFC 4291, appendix A), as reached by `link`."""
    octets = bytes.fromhex(mac.replace(":", ""))
    address = IPv6Address(b"\xfe\x80" + bytes(6) + bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:])
    return IPv6Address(f"{address}%{link}")


def _nodes(a: Side, b: Side, around: Outside) -> Iterator[Expectation]:
    same, allowed = a.name == b.name, a.name == b.name or peers(a, b)
    sender, (target, neighbour) = _first(a), _pair(b, reverse=same)
    ip, own = _ip(target), _ip(sender)
    source = own if allowed else None
    for action in (Ping(ip), *_talks(ip, around.node_port, source)):
        if allowed:
            yield _passes(sender, target, action, "they are one" if not same else "it is one network", watched=True)
        else:
            yield _denied(sender, target, action, _apart(a, b), _neighbourly(b, action), able(a, around), watched=True)
    for address in (node6(b.network, ip).ip, link_local(target.mac, LINK)) if around.ipv6 else ():
        action = Ping(address)
        if same:
            yield _passes(sender, target, action, "it is one network", watched=True)
        else:
            near = _neighbourly(b, action)
            yield _denied(sender, target, action, "IPv6 never leaves a cluster", near, able(a, around), watched=True)
    if not same:
        forged = Forgery(_ip(neighbour), ip)
        why = "the source is not the sender's"
        yield _denied(sender, target, forged, why, _neighbourly(b, Ping(ip)), able(a, around), watched=True)


def _gateway(a: Side, b: Side, around: Outside) -> Iterator[Expectation]:
    same = a.name == b.name
    sender, gateway, to = _first(a), b.network.gateway, _gateway_of(b)
    if same:
        leased = Leased(sender.ip, gateway, told_servers(b.network), b.network.mtu)
        yield Expectation(sender.name, to, leased, Expect.PASS, "its own gateway")
    for action in (Ping(gateway), *_served(b)):
        if same or (peers(a, b) and isinstance(action, Ping)):
            why = "its own gateway" if same else "they are one"
            yield Expectation(sender.name, to, action, Expect.PASS, why)
        elif not peers(a, b):  # of these the own gateway asks; dnsmasq takes no questions that come by another link
            own = Expectation(_first(b).name, to, action, Expect.PASS, "its own gateway")
            yield Expectation(sender.name, to, action, Expect.DENY, _apart(a, b), (own, able(a, around)))
    if not same:
        # Also between peers: they reach each other by routing, and nobody else's gateway is on this link.
        own = Expectation(sender.name, _gateway_of(a), WhoHas(a.network.gateway), Expect.PASS, "its own gateway")
        yield Expectation(sender.name, to, WhoHas(gateway), Expect.DENY, "it is not on this link", (own,))
    if around.ipv6 and not same and not peers(a, b):
        ping = Ping(gateway6(b.network).ip)
        own = Expectation(HOST, to, ping, Expect.PASS, "it is the host's own address")
        near = _neighbourly(a, Ping(node6(a.network, _ip(sender)).ip))
        yield Expectation(sender.name, to, ping, Expect.DENY, "IPv6 never leaves a cluster", (own, near))


def _host(a: Side, b: Side, around: Outside) -> Iterator[Expectation]:
    same = a.name == b.name
    sender, gateway = _first(a), b.network.gateway
    denied: list[tuple[str, Talk]] = []
    for action in _talks(gateway, around.host_port):
        if same and action.port in a.network.policy.firewall.allow_host_ports:
            yield Expectation(sender.name, _gateway_of(b), action, Expect.PASS, "allow_host_ports says so")
        else:
            denied.append((_gateway_of(b), action))
    if around.uplink is not None:
        denied += [("uplink", action) for action in _talks(around.uplink, around.host_port)]
        denied += [("uplink", action) for action in _talks(around.uplink, around.uplink_port)]
    if around.ipv6:
        denied += [(_gateway_of(b), action) for action in _talks(gateway6(b.network).ip, around.host_port)]
    for to, action in denied:
        yield _closed(a, to, action, action, around)
    if same and around.ipv6:
        local = zip(
            _talks(link_local(a.network.mac, LINK), around.host_port),
            _talks(link_local(a.network.mac, a.network.bridge), around.host_port),
            strict=True,
        )
        for action, control in local:
            yield _closed(a, _gateway_of(a), action, control, around)


def _closed(a: Side, to: str, action: Talk, control: Talk, around: Outside) -> Expectation:
    """A service of the host that nodes do not reach; `control` is the same as the host itself reaches it."""
    own = Expectation(HOST, to, control, Expect.PASS, _OWN_SERVICE)
    why = "only DHCP, DNS and ping of the own gateway are for nodes"
    return Expectation(_first(a).name, to, action, Expect.DENY, why, (own, able(a, around)))


def _internet(a: Side, b: Side, around: Outside) -> Iterator[Expectation]:
    sender, net = _first(a), a.network
    masked = net.policy.nat and not any(around.lan in each.to for each in net.policy.routes)
    seen = around.uplink if masked else sender.ip
    near = _neighbourly(a, Ping(_ip(sender)))
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
        forged = Forgery(_ip(_first(b)), around.lan)
        seen_by_tap = Expectation(sender.name, LAN, Ping(around.lan), Expect.PASS, "the way out is open", watched=LAN)
        why = "the source is not the sender's"
        yield Expectation(sender.name, LAN, forged, Expect.DENY, why, (seen_by_tap,), watched=LAN)


def _lan(a: Side, around: Outside, opened: Side | None) -> Iterator[Expectation]:
    target, policy = _first(a), a.network.policy
    entered = [*policy.firewall.allow_from, *(each.to for each in policy.routes)]
    allowed = any(around.lan in each for each in entered)
    ip, gateway = _ip(target), a.network.gateway
    for action in (Ping(ip), *_talks(ip, around.node_port, around.lan if allowed else None)):
        if allowed:
            yield Expectation(LAN, target.name, action, Expect.PASS, _LET_IN, watched=target.name)
            continue
        controls = [_neighbourly(a, action), *_outsider(around)]
        if opened is not None:
            inside = _first(opened)
            controls.append(Expectation(LAN, inside.name, Ping(_ip(inside)), Expect.PASS, _LET_IN, watched=inside.name))
        why = "nothing lets the LAN in"
        yield Expectation(LAN, target.name, action, Expect.DENY, why, tuple(controls), watched=target.name)
    closed: list[Action] = [Ping(gateway), *_served(a), *_talks(gateway, around.host_port)]
    for shut in closed:
        sender, why = (target.name, "its own gateway") if not isinstance(shut, Talk) else (HOST, _OWN_SERVICE)
        control = Expectation(sender, _gateway_of(a), shut, Expect.PASS, why)
        why = "gateways are for their own networks"
        yield Expectation(LAN, _gateway_of(a), shut, Expect.DENY, why, (control, *_outsider(around)))


def _outsider(around: Outside) -> tuple[Expectation, ...]:
    """The machine outside does reach the host."""
    if around.uplink is None:
        return ()
    why = "the host itself is not closed to its LAN"
    return (Expectation(LAN, "uplink", Ping(around.uplink), Expect.PASS, why),)


def _names(a: Side, b: Side, around: Outside) -> Iterator[Expectation]:
    for wanted in b.named[:1]:
        name = f"{wanted.name}.{b.network.domain}"
        yield from _records(a, b, name, "A", str(_ip(wanted)))
        if a.name == b.name and a.network.dns_mode is DnsMode.SHARED_DNS:
            missing = "" if around.host_dns else "nothing resolves names for the host here"
            question = Question(around.host_dns or a.network.gateway, name, "A", (str(_ip(wanted)),))
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
        name, want = f"{wanted.name}.{service}.service.consul", (str(_ip(wanted)),)
        known = Question(b.network.gateway, name, "A", want)
        own = Expectation(_first(b).name, to, known, Expect.PASS, why, missing=missing)
        if a.name == b.name:
            yield own
            return
        asked = Question(a.network.gateway, name, "A", want)
        if a.network.dns_mode is b.network.dns_mode:
            yield Expectation(_first(a).name, to, asked, Expect.PASS, why, missing=missing)
        else:
            yield Expectation(_first(a).name, to, asked, Expect.DENY, _apart(a, b), (own,), missing=missing)


def _reverse(a: Side, b: Side, around: Outside) -> Iterator[Expectation]:
    for wanted in b.named[:1]:
        pointer = _ip(wanted).reverse_pointer
        yield from _records(a, b, pointer, "PTR", f"{wanted.name}.{b.network.domain}.")
        yield from _unknown(a, b, f"nobody-{a.name}.{pointer}", "PTR", around)


def _records(a: Side, b: Side, name: str, kind: str, want: str) -> Iterator[Expectation]:
    question = Question(a.network.gateway, name, kind, (want,))
    to = f"names of {b.name}"
    if a.name == b.name or peers(a, b):
        why = "its own names" if a.name == b.name else "names are shared"
        yield Expectation(_first(a).name, to, question, Expect.PASS, why)
        return
    there = Question(b.network.gateway, name, kind, (want,))
    known = Expectation(_first(b).name, to, there, Expect.PASS, "its own names")
    own = tuple(
        Expectation(_first(a).name, f"names of {a.name}", _record(a, each), Expect.PASS, "its own names")
        for each in a.named[:1]
    )
    yield Expectation(_first(a).name, to, question, Expect.DENY, _apart(a, b), (known, *own))


def _unknown(a: Side, b: Side, name: str, kind: str, around: Outside) -> Iterator[Expectation]:
    """A name in a zone of ours that nobody has: denied at once where the zone is known, and never asked for outside."""
    sender, gateway, to = _first(a), a.network.gateway, f"names of {b.name}"
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


def _passes(sender: Node, target: Node, action: Action, why: str, *, watched: bool = False) -> Expectation:
    return Expectation(sender.name, target.name, action, Expect.PASS, why, watched=target.name if watched else None)


def _denied(
    sender: Node, target: Node, action: Action, why: str, *controls: Expectation, watched: bool = False
) -> Expectation:
    place = target.name if watched else None
    return Expectation(sender.name, target.name, action, Expect.DENY, why, controls, watched=place)


def _neighbourly(cluster: Side, action: Action) -> Expectation:
    """The same, by another node of the cluster: the target is there and answers, and what watches it sees that."""
    target, neighbour = _pair(cluster)
    if isinstance(action, Talk):
        action = Talk(action.to, action.port, _ip(neighbour))
    return _passes(neighbour, target, action, "it is one network", watched=True)


def able(a: Side, around: Outside) -> Expectation:
    """The sender does send, beyond its own link where it may."""
    if beyond(a, around):
        return way_out(a, around)
    return Expectation(_first(a).name, _gateway_of(a), Ping(a.network.gateway), Expect.PASS, "its own gateway")


def beyond(a: Side, around: Outside) -> bool:
    """Whether its nodes are to reach the internet, and the host does."""
    return around.connected and leaves(a, around.resolver)


def seen_outside(a: Side, around: Outside) -> Expectation:
    """What leaves the host is seen: a question that the gateway forwards, or a ping where it forwards none."""
    missing = "" if around.uplink else "the host has no uplink"
    action: Action = Leaving(a.network.gateway, f"asked-by-{a.name}.test", "A")
    to, why = "internet", "the gateway forwards"
    if not forwards(a.network):
        to, action, why = "outside", Ping(around.resolver), "the way out is open"
        if not leaves(a, around.resolver):
            missing = "nothing of it may leave"
    return Expectation(_first(a).name, to, action, Expect.PASS, why, watched=around.watch, missing=missing)


def way_out(a: Side, around: Outside) -> Expectation:
    """Its first node reaches the internet, if the host does."""
    ping = Ping(around.resolver)
    itself = Expectation(HOST, "internet", ping, Expect.PASS, "the host itself has a way out")
    return Expectation(_first(a).name, "internet", ping, Expect.PASS, "the way out is open", needs=(itself,))


def _record(cluster: Side, node: Node) -> Question:
    return Question(cluster.network.gateway, f"{node.name}.{cluster.network.domain}", "A", (str(_ip(node)),))


def _served(cluster: Side) -> tuple[Served, Served]:
    name, gateway = f"anybody.{cluster.network.domain}", cluster.network.gateway
    return Served(gateway, name, Protocol.UDP), Served(gateway, name, Protocol.TCP)


def _talks(to: Address, port: int, seen_as: Address | None = None) -> tuple[Talk, Talk]:
    return Talk(to, Port(Protocol.TCP, port), seen_as), Talk(to, Port(Protocol.UDP, port), seen_as)


def leaves(a: Side, address: IPv4Address) -> bool:
    """Whether nodes may reach `address` outside."""
    firewall = a.network.policy.firewall
    if any(address in each for each in firewall.block_networks):
        return False
    return firewall.egress is Egress.ALLOW or any(address in each for each in firewall.allow_networks)


def _apart(a: Side, b: Side) -> str:
    mode, other = a.network.dns_mode, b.network.dns_mode
    return f"{mode} keeps apart" if mode is other else f"{mode} and {other} are apart"


def _gateway_of(cluster: Side) -> str:
    return f"gateway of {cluster.name}"


def _first(cluster: Side) -> Node:
    return cluster.nodes[0]


def _pair(cluster: Side, *, reverse: bool = False) -> tuple[Node, Node]:
    first, second = cluster.nodes[:2]
    return (second, first) if reverse else (first, second)


def _ip(node: Node) -> IPv4Address:
    if node.ip is None:
        raise ValueError(f"{node.name} has no fixed address")
    return node.ip


def forwards(network: Network) -> bool:
    """Whether its gateway asks others for names that it does not know."""
    return network.gateway_answers_dns and bool(network.forwarders)


def told_servers(network: Network) -> tuple[IPv4Address, ...]:
    """The DNS servers that DHCP tells nodes."""
    if network.gateway_answers_dns:
        return (network.gateway,)
    return tuple(each for each in map(ip_address, map(str, network.dns_servers)) if isinstance(each, IPv4Address))
