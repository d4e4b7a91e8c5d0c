"""What the configuration of clusters promises on a host as it stands: pure. The whole of it is every pair of clusters,
column by column (expectations.py), and every node; the quick part is what most often breaks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from ai_how.config.terms import Protocol
from ai_how.probe.actions import (
    Action,
    Addressed,
    Leased,
    Owner,
    Ping,
    Question,
    Reaches,
    Resolves,
    Sized,
    Talk,
    WhoHas,
)
from ai_how.probe.columns import Column, cell
from ai_how.probe.controls import able, beyond, seen_outside, way_out
from ai_how.probe.expectations import (
    HOST,
    LAN,
    Expect,
    Expectation,
    Outside,
    Side,
    forwards,
    leaves,
    peers,
    told_servers,
)
from ai_how.spec.neighbours import SOCIAL
from ai_how.spec.network import DnsMode, Network
from ai_how.spec.node import Node
from ai_how.spec.policy import Exposure, Port

#: The place where what leaves the host is seen.
UPLINK = "uplink"

#: Bytes of a packet where the configuration names no MTU (Ethernet).
_MTU = 1500

#: How many nodes of a cluster are stood for, or asked by their guest agents, unless all are wanted: each is a namespace
#: with a lease, or a program started in a guest. The quick part looks at no others.
MOST = 8

#: How many of them the whole of it looks at.
_WHOLE = 64

_OWN_NETWORK = "it is one network"


@dataclass(frozen=True, slots=True)
class Member:
    """A node in a test: `ip` is reserved for it, or what DHCP gave it, or None; `stands` says that a place stands for
    it, `runs` that its machine does, `asked` that a guest agent answers in that."""

    node: Node
    ip: IPv4Address | None
    stands: bool
    runs: bool
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Party:
    """A cluster in a test, and all of its nodes."""

    side: Side
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Stranger:
    """Another cluster of the host that is up, as far as its network says."""

    name: str
    mode: str
    gateway: IPv4Address
    guarded: bool


@dataclass(frozen=True, slots=True)
class Promises:
    """What is to be tried. `left_out` says which nodes are not, and how to have them tried, too."""

    expectations: tuple[Expectation, ...]
    left_out: str = ""


def whole(
    parties: Sequence[Party], strangers: Iterable[Stranger], around: Outside, *, everybody: bool = False
) -> Promises:
    """Everything."""
    opened = next((each.side for each in parties if _lets_in(each.side, around)), None)
    found: dict[Expectation, None] = {}
    for party in parties:
        a = party.side
        found |= dict.fromkeys(_of_nodes(party, around, None if everybody else _WHOLE))
        for other in (a, *(each.side for each in parties if each is not party)):
            for column in Column:
                found |= dict.fromkeys(
                    each
                    for each in cell(column, a, other, around, opened)
                    if not _is_known(each, party) and (each.expect is Expect.PASS or _denies(each, column, a, other))
                )
        found |= dict.fromkeys(_inside(party, parties, around, None if everybody else MOST))
        found |= dict.fromkeys(_exposed(party, around))
        found |= dict.fromkeys(_opened(a))
        found |= dict.fromkeys(_blocked(a, around))
        found |= dict.fromkeys(_of_strangers(a, strangers, around))
    return Promises(tuple(found), _left_out(parties, None if everybody else _WHOLE))


def quick(parties: Sequence[Party], strangers: Iterable[Stranger], around: Outside) -> Promises:
    """What most often breaks: a lease, the gateway, names, machines, the way out, and who is kept apart."""
    found: dict[Expectation, None] = {}
    for party in parties:
        a = party.side
        found |= dict.fromkeys(_of_nodes(party, around, MOST))
        found[_expect(a, f"gateway of {a.name}", Ping(a.network.gateway), "its own gateway")] = None
        if leaves(a, around.resolver):
            found[way_out(a, around)] = None
            if forwards(a.network):
                asked = Resolves(a.network.gateway, around.name)
                needs = way_out(a, around).needs
                found[_expect(a, "internet", asked, "the gateway forwards", needs=needs)] = None
        for other in (each.side for each in parties if each is not party):
            if _guarded(a) or _guarded(other):
                found |= dict.fromkeys(_towards(a, other.name, other.network.gateway, peers(a, other), around))
        found |= dict.fromkeys(_of_strangers(a, strangers, around))
    return Promises(tuple(found))


def _of_nodes(party: Party, around: Outside, most: int | None) -> Iterator[Expectation]:
    """Its address, its name and its MTU, for each node."""
    a, network = party.side, party.side.network
    mtu = network.mtu or _MTU
    dns = told_servers(network)
    yield _expect(a, f"gateway of {a.name}", Sized(network.gateway, mtu), "the network's MTU")
    yield _expect(a, f"gateway of {a.name}", Owner(network.gateway, network.mac), "it is the gateway's address")
    for each in party.members[:most]:
        node, ip = each.node, each.ip
        sender = next((other for other in a.nodes if other.name != node.name), a.nodes[0])
        if each.stands:
            leased = Leased(node.ip, network.gateway, dns, network.mtu)
            yield Expectation(node.name, f"gateway of {a.name}", leased, Expect.PASS, "its own gateway")
        elif each.runs:
            where = ip or network.gateway
            missing = "" if ip else "it has no lease"
            yield Expectation(sender.name, node.name, Ping(where), Expect.PASS, _OWN_NETWORK, missing=missing)
        if ip is not None and (each.stands or each.runs) and sender.name != node.name:
            yield Expectation(sender.name, node.name, Owner(ip, node.mac), Expect.PASS, "it is its address")
            yield Expectation(HOST, node.name, Sized(ip, mtu), Expect.PASS, "the host reaches nodes")
            yield Expectation(sender.name, node.name, Sized(ip, mtu), Expect.PASS, "the network's MTU")
        if node.ip is not None:
            full = f"{node.name}.{network.domain}"
            for name, kind, want in ((full, "A", str(node.ip)), (node.ip.reverse_pointer, "PTR", f"{full}.")):
                question = Question(network.gateway, name, kind, (want,))
                yield _expect(a, f"names of {a.name}", question, "its own names")


def _inside(party: Party, parties: Iterable[Party], around: Outside, most: int | None) -> Iterator[Expectation]:
    """What a running machine itself says, by its guest agent."""
    a, network = party.side, party.side.network
    for each in party.members[:most]:
        if not each.runs or each.ip is None:
            continue
        name = each.node.name
        itself = Expectation(name, name, Addressed(each.ip, each.node.mac), Expect.PASS, "it is its address")
        if not each.asked:
            yield replace(itself, missing=f"no guest agent answers in {name}")
            continue
        yield itself
        gateway = Expectation(name, f"gateway of {a.name}", Ping(network.gateway), Expect.PASS, "its own gateway")
        yield gateway
        if network.gateway_answers_dns:
            for other in [one for one in a.named if one.name != name][:1]:
                known = Reaches(f"{other.name}.{network.domain}")
                there = next(one for one in party.members if one.node is other)
                missing = "" if there.stands or there.runs else f"{other.name} is off"
                yield Expectation(name, other.name, known, Expect.PASS, _OWN_NETWORK, missing=missing)
        if leaves(a, around.resolver):
            yield replace(way_out(a, around), frm=name)
        able_itself = replace(way_out(a, around), frm=name) if beyond(a, around) else gateway
        for other_side in (one.side for one in parties if one is not party):
            if _guarded(a) or _guarded(other_side):
                yield from _towards_from(name, a, other_side, able_itself)


def _towards_from(name: str, a: Side, b: Side, control: Expectation) -> Iterator[Expectation]:
    to, ping = f"gateway of {b.name}", Ping(b.network.gateway)
    if peers(a, b):
        yield Expectation(name, to, ping, Expect.PASS, "they are one")
    else:
        own = Expectation(HOST, to, ping, Expect.PASS, "it is the host's own address")
        why = f"{a.network.dns_mode} keeps apart"
        yield Expectation(name, to, ping, Expect.DENY, why, (own, control))


def _exposed(party: Party, around: Outside) -> Iterator[Expectation]:
    """Ports of the host that lead to nodes, from outside."""
    members = {each.ip: each for each in party.members if each.ip is not None}
    for each in party.side.network.policy.firewall.expose:
        member = members.get(each.ip)
        if around.uplink is None:
            missing = "the host has no uplink"
        elif member is None or not (member.stands or member.runs):
            missing = f"nobody stands for {each.node}"
        elif member.runs and each.host.protocol is Protocol.UDP:
            missing = f"only the machine of {each.node} knows what it answers"
        else:
            missing = ""
        yield _exposure(party.side, each, member, around, missing)


def _exposure(a: Side, each: Exposure, member: Member | None, around: Outside, missing: str) -> Expectation:
    # Answered by a place of ours it says whom it sees; a machine of its own says what it likes, if it listens.
    runs = member is not None and member.runs
    leads_to = (each.ip, each.node_port)
    action = Talk(around.uplink or each.ip, each.host, None if runs else around.lan, None if runs else leads_to)
    watched = member.node.name if member is not None and member.stands else None
    inside = Talk(each.ip, Port(each.host.protocol, each.node_port))
    needs = (_expect(a, each.node, inside, "its own service"),) if runs else ()
    why = "expose says so"
    return Expectation(LAN, each.node, action, Expect.PASS, why, watched=watched, missing=missing, needs=needs)


def _opened(a: Side) -> Iterator[Expectation]:
    """Ports of the host that nodes may use."""
    to = f"gateway of {a.name}"
    for port in a.network.policy.firewall.allow_host_ports:
        action = Talk(a.network.gateway, port)
        itself = Expectation(HOST, to, action, Expect.PASS, "it is the host's own service")
        yield _expect(a, to, action, "allow_host_ports says so", needs=(itself,))


def _blocked(a: Side, around: Outside) -> Iterator[Expectation]:
    """Networks that nodes may not reach: whether anybody answers there or not, nothing leaves for them."""
    controls = (seen_outside(a, around), able(a, around))
    for network, address in blocked_targets(a.network):
        missing = "" if address in around.by_uplink else "it is not behind the uplink, where it would be seen"
        yield Expectation(
            a.nodes[0].name,
            str(network),
            Ping(address),
            Expect.DENY,
            "block_networks says so",
            controls,
            watched=around.watch,
            missing=missing,
        )


def blocked_targets(network: Network) -> list[tuple[IPv4Network, IPv4Address]]:
    """An address in each network that nodes may not reach."""
    blocked = network.policy.firewall.block_networks
    return [(each, next(iter(each.hosts()))) for each in blocked]


def _of_strangers(a: Side, strangers: Iterable[Stranger], around: Outside) -> Iterator[Expectation]:
    for each in strangers:
        together = each.mode == a.network.dns_mode and DnsMode(each.mode) in SOCIAL
        if _guarded(a) or each.guarded:
            yield from _towards(a, each.name, each.gateway, together, around)


def _towards(a: Side, name: str, gateway: IPv4Address, together: bool, around: Outside) -> Iterator[Expectation]:
    """The gateway of another cluster, which the host itself can always ping."""
    to, ping = f"gateway of {name}", Ping(gateway)
    if together:
        yield _expect(a, to, ping, "they are one")
    else:
        own = Expectation(HOST, to, ping, Expect.PASS, "it is the host's own address")
        why = f"{a.network.dns_mode} keeps apart"
        yield Expectation(a.nodes[0].name, to, ping, Expect.DENY, why, (own, able(a, around)))


def _expect(a: Side, to: str, action: Action, why: str, *, needs: tuple[Expectation, ...] = ()) -> Expectation:
    return Expectation(a.nodes[0].name, to, action, Expect.PASS, why, needs=needs)


def _is_known(each: Expectation, party: Party) -> bool:
    """Whether it is the lease of a node, of which _of_nodes has more to say."""
    return isinstance(each.action, Leased) and any(one.stands and one.node.name == each.frm for one in party.members)


def _denies(each: Expectation, column: Column, a: Side, b: Side) -> bool:
    """Whether anything is denied in this column: libvirt's own rules promise nothing."""
    if column in (Column.NODES, Column.GATEWAY) and not isinstance(each.action, WhoHas):
        return _guarded(a) or _guarded(b)
    return _guarded(a)


def _guarded(side: Side) -> bool:
    return side.network.policy.firewall.enabled


def _lets_in(side: Side, around: Outside) -> bool:
    policy = side.network.policy
    return any(around.lan in each for each in (*policy.firewall.allow_from, *(each.to for each in policy.routes)))


def _left_out(parties: Iterable[Party], most: int | None) -> str:
    said = [
        f"{len(each.members) - most} of the {len(each.members)} nodes of {each.side.name}"
        for each in parties
        if most is not None and len(each.members) > most
    ]
    return f"a sample: without {' and '.join(said)}; all of them with --all" if said else ""
