"""Who sends and who is sent to, by name: nodes of the clusters on this host, the host, the outside.

A node whose machine does not run is stood for by an endpoint with its MAC and its own lease: for the network it is the
node. Beside one that runs, an endpoint of its own sends, on the same bridge. All of it is gone after the `with` block,
and after a kill.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from ai_how.config.terms import Protocol
from ai_how.engine.wait import leases
from ai_how.errors import AiHowError, NotReady, UsageError
from ai_how.host.libvirt import Libvirt
from ai_how.host.lock import held
from ai_how.host.process import output
from ai_how.host.routes import read_routes
from ai_how.lab import INTERNET, has_internet
from ai_how.probe.actions import Ping, Question, Talk
from ai_how.probe.circumstances import find_way, look
from ai_how.probe.endpoint import Endpoint, endpoint
from ai_how.probe.explain import Scene, explain
from ai_how.probe.packets import NotTested, ask, dns
from ai_how.probe.path import Cause, PacketPath, Stop
from ai_how.probe.place import Place, here, named
from ai_how.probe.remedy import network_of
from ai_how.probe.responder import Responder
from ai_how.probe.standing import stand_in_for_lan
from ai_how.probe.trace import Direction
from ai_how.providers import domain as domains
from ai_how.providers import network as networks
from ai_how.resources.network import VirtualNetwork
from ai_how.spec.policy import Port

HOST, OUTSIDE, GATEWAY = "host", "outside", "gateway"

_ANYWHERE = IPv4Address("8.8.8.8")
#: While an endpoint is a node of that network, nobody else may be it, or start its machine.
Hold = Callable[[VirtualNetwork], None]

_UP = "ai-how up, with the cluster's configuration, mends it"

_TARGET = re.compile(r"(?P<name>[\w.-]+)(?::(?P<port>\d{1,5})(?:/(?P<protocol>tcp|udp))?)?", re.ASCII)
#: Bytes of a name, and of a part of it, at most (RFC 1035, 2.3.4).
_LONGEST_NAME, _LONGEST_LABEL = 253, 63


@dataclass(frozen=True, slots=True)
class Target:
    """TO as it was written: a name or an address, and a port, None for a ping."""

    name: str
    port: Port | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """A node as the host has it. `ip` is the address reserved for it, or leased to it where it runs."""

    name: str
    mac: str
    network: VirtualNetwork
    ip: IPv4Address | None
    running: bool = False
    paused: bool = False
    linked: bool = True

    @property
    def trouble(self) -> Stop | None:
        """What keeps it from sending and answering, as far as libvirt says."""
        if not self.network.active:
            what = f"the network {self.network.name} is not active"
            return Stop(Cause.LINK, Direction.REQUEST, self.name, what, remedy=(_UP,))
        if self.paused:
            what = "its machine is paused"
            return Stop(Cause.SILENCE, Direction.REQUEST, self.name, what, remedy=(f"virsh resume {self.name}",))
        if not self.linked:
            what = f"the link of its machine is not a port of {self.network.bridge}"
            return Stop(Cause.LINK, Direction.REQUEST, self.name, what, remedy=(_UP,))
        return None


@dataclass(frozen=True, slots=True)
class Inhabitants:
    """The clusters of this host: their networks by cluster, their nodes by name, and everybody's networks."""

    clusters: Mapping[str, VirtualNetwork] = field(default_factory=dict)
    machines: Mapping[str, Machine] = field(default_factory=dict)
    networks: tuple[VirtualNetwork, ...] = ()

    def machine(self, name: str) -> Machine | None:
        """The node of that name, or of that end of a name (`compute-01`). Raises UsageError where it fits several."""
        if name in self.machines:
            return self.machines[name]
        fitting = [each for each in self.machines if each.endswith(f"-{name}")]
        if len(fitting) > 1:
            raise UsageError(f"{name} fits several nodes", why=", ".join(fitting), remedy="Give the whole name.")
        return self.machines[fitting[0]] if fitting else None

    def at(self, address: IPv4Address) -> Machine | None:
        """The node with that address."""
        return next((each for each in self.machines.values() if each.ip == address), None)


def read_target(text: str) -> Target:
    """Understands `TO[:PORT[/udp]]`. Raises UsageError."""
    found = _TARGET.fullmatch(text)
    number = int(found["port"] or 1) if found is not None else 0
    if found is None or not 1 <= number <= 65535 or not _is_name(found["name"]):
        raise UsageError(
            f"{text!r} is no target",
            why="IPv6 stays within its cluster, and is not followed" if text.count(":") > 1 else "",
            remedy="Write NAME, NAME:PORT or NAME:PORT/udp, where NAME is a node, an IPv4 address, a name of the "
            "internet, gateway, host or outside.",
        )
    port = None if found["port"] is None else Port(Protocol(found["protocol"] or "tcp"), number)
    return Target(found["name"], port)


def _is_name(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    return len(text) <= _LONGEST_NAME and all(0 < len(each) <= _LONGEST_LABEL for each in labels)


def inhabitants(libvirt: Libvirt) -> Inhabitants:
    """Ask libvirt for them."""
    everything = tuple(networks.observe_all(libvirt))
    clusters = {each.cluster: each for each in everything if each.cluster}
    found = domains.observe_all(libvirt)
    paused = domains.paused(libvirt) if any(each.running for each in found) else frozenset()
    given: dict[str, dict[str, IPv4Address]] = {}
    machines = {}
    for each in found:
        network = clusters.get(each.cluster)
        if network is None:
            continue
        if each.running and each.cluster not in given:
            given[each.cluster] = {lease.mac: lease.ip for lease in leases(libvirt, network.name)}
        reserved = next((one.ip for one in network.reservations if one.mac == each.mac), None)
        ip = reserved or given.get(each.cluster, {}).get(each.mac)
        machines[each.name] = Machine(
            each.name, each.mac, network, ip, each.running, each.name in paused, each.linked or not each.running
        )
    return Inhabitants(clusters, machines, everything)


@dataclass(frozen=True, slots=True)
class Answered:
    """The way between two ends: from whom (and whether somebody stood in for it) to which address."""

    sender: str
    source: IPv4Address | None
    target: IPv4Address | None
    path: PacketPath
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _End:
    """A place to send from, and what is known of it."""

    place: Place
    name: str
    network: VirtualNetwork | None = None
    endpoint: Endpoint | None = None


class _Stopped(Exception):
    """It is known where the packet stops before one is sent."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(str(stop))
        self.stop = stop


def why_not(libvirt: Libvirt, frm: str, to: Target) -> Answered:
    """Send from `frm` to `to` and follow the packet. Raises UsageError where a name fits nothing, PrivilegeError or
    HostError where nothing can be sent or followed."""
    known = inhabitants(libvirt)
    notes: list[str] = []
    source = target = None
    with ExitStack() as stack:
        taken: set[str] = set()

        def hold(network: VirtualNetwork) -> None:
            if network.cluster not in taken:
                stack.enter_context(held(libvirt.uri, network.cluster))
                taken.add(network.cluster)

        try:
            end = _enter(stack, known, frm, hold, notes)
            target = _find_target(known, end, to)
            spot_way = find_way(end.place, target)
            source = spot_way.source
            responder = stack.enter_context(Responder())
            troubles = _stand_for(stack, known, end, target, to.port, responder, hold, notes)
            action = Ping(target) if to.port is None else Talk(target, to.port)
            path = explain(end.place, action, Scene(known.networks, troubles))
        except _Stopped as known_already:
            question = "ping" if to.port is None else f"{to.port.protocol} {to.port.number}"
            path = PacketPath(f"{question} {to.name}", "nothing was sent", end=known_already.stop)
    return Answered(frm, source, target, path, tuple(notes))


def _enter(stack: ExitStack, known: Inhabitants, name: str, hold: Hold, notes: list[str]) -> _End:
    if name == HOST:
        return _End(stack.enter_context(here(HOST)), HOST)
    if name == OUTSIDE:
        return _End(stack.enter_context(outside(known)), OUTSIDE)
    machine = known.machine(name)
    if machine is None and name not in known.clusters:
        raise _nobody(known, name)
    network = known.clusters[name] if machine is None else machine.network
    if machine is not None and machine.trouble is not None:
        raise _Stopped(machine.trouble)
    if not network.active:
        what = f"the network {network.name} is not active"
        raise _Stopped(Stop(Cause.LINK, Direction.REQUEST, name, what, remedy=(_UP,)))
    stands = machine is not None and not machine.running
    mac = machine.mac if machine is not None and stands else f"52:54:00:{secrets.token_bytes(3).hex(':')}"
    who = machine.name if machine is not None and stands else f"a stand-in on {network.bridge}"
    if stands:
        hold(network)
    entered = _leased(stack, network, mac, who)
    if stands:
        notes.append(f"{who} does not run: {entered.ip} was taken for it")
    else:
        beside = f"beside {machine.name}, which runs" if machine is not None else f"in {name}"
        notes.append(f"a stand-in {beside}, has sent: {entered.ip} on {network.bridge}")
    return _End(entered.place, who, network, entered)


def _leased(stack: ExitStack, network: VirtualNetwork, mac: str, name: str) -> Endpoint:
    try:
        return stack.enter_context(endpoint(network.bridge, mac, name=name))
    except NotReady as error:
        with here() as host:
            bridge = look(host).links.get(network.bridge)
        if bridge is not None and not bridge.up:
            remedy = (f"ip link set {network.bridge} up", _UP)
            stop = Stop(Cause.LINK, Direction.REQUEST, network.bridge, "the bridge is down", remedy=remedy)
            raise _Stopped(stop) from error
        what = f"{name} gets no address: {error.what}" + (f" ({error.why})" if error.why else "")
        remedy = (f"Is the DHCP server of {network.name} at work? ai-how status", _UP)
        raise _Stopped(Stop(Cause.ADDRESS, Direction.REQUEST, network.bridge, what, remedy=remedy)) from error


def _nobody(known: Inhabitants, name: str) -> UsageError:
    there = [*known.machines, *known.clusters, HOST, OUTSIDE]
    near = difflib.get_close_matches(name, there, n=1)
    return UsageError(
        f"nobody here is called {name}",
        why=f"the clusters of this host are {', '.join(known.clusters)}" if known.clusters else "it has no clusters",
        remedy=f"Did you mean {near[0]}?" if near else "Name a node (ai-how status), a cluster, host or outside.",
    )


def _find_target(known: Inhabitants, end: _End, to: Target) -> IPv4Address:
    with contextlib.suppress(ValueError):
        return IPv4Address(to.name)
    if to.name == GATEWAY:
        return _gateway(known, end)
    if to.name == HOST:
        found = find_way(None, _ANYWHERE).source
        if found is None:
            raise UsageError(
                "the host has no address outside", why="it has no default route", remedy="Give an address."
            )
        return found
    if to.name == OUTSIDE:
        if not has_internet():
            raise UsageError("outside is no target", remedy="Give an address or a name outside: 8.8.8.8, example.com")
        return INTERNET.router
    machine = known.machine(to.name)
    if machine is not None:
        if machine.ip is None:
            what = f"it has no address: {'no lease was given to it' if machine.running else 'none is reserved for it'}"
            raise _Stopped(Stop(Cause.ADDRESS, Direction.REQUEST, machine.name, what, remedy=("ai-how leases",)))
        return machine.ip
    if to.name in known.clusters:
        gateway = known.clusters[to.name].gateway
        raise UsageError(
            f"{to.name} is a cluster, and no address",
            remedy=f"Name one of its nodes, or its gateway, {gateway}.",
        )
    if "." not in to.name:
        raise _nobody(known, to.name)
    return _resolve(known, end, to.name)


def _gateway(known: Inhabitants, end: _End) -> IPv4Address:
    networks_ = [end.network] if end.network is not None else list(known.clusters.values())
    if len(networks_) != 1:
        addresses = ", ".join(f"{each.gateway} of {each.cluster}" for each in networks_)
        raise UsageError(f"{end.name} is in no cluster, and has no gateway", why=addresses, remedy="Give its address.")
    return networks_[0].gateway


def _resolve(known: Inhabitants, end: _End, name: str) -> IPv4Address:
    """As the sender would: a node asks whom DHCP named, everybody else the host's own resolver."""
    if end.endpoint is None:
        try:
            found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            stop = Stop(Cause.NAME, Direction.REQUEST, HOST, f"{name} does not resolve: {error.strerror or error}")
            raise _Stopped(stop) from error
        return IPv4Address(found[0][4][0])
    if not end.endpoint.lease.dns:
        raise _Stopped(Stop(Cause.NAME, Direction.REQUEST, end.name, "DHCP named no DNS server"))
    server = end.endpoint.lease.dns[0]
    try:
        answer = ask(dns(end.place, server, name, within=2.0))
    except NotTested as error:
        raise _Stopped(Stop(Cause.ROUTE, Direction.REQUEST, end.name, error.why)) from error
    if not answer.replied:
        path = explain(end.place, Question(server, name, "A", ()), Scene(known.networks))
        stop = Stop(Cause.NAME, Direction.REQUEST, str(server), f"{name} is asked of {server}, which does not answer")
        raise _Stopped(path.end or stop)
    if not answer.said:
        raise _Stopped(_no_name(known, end, name, server, answer.code))
    return IPv4Address(answer.said[-1])


def _no_name(known: Inhabitants, end: _End, name: str, server: IPv4Address, code: str) -> Stop:
    what = f"{name} has no address there: {code}"
    owner = next((each for each in known.clusters.values() if f".{name}".endswith(f".{each.domain}")), None)
    if owner is None or end.network is None or owner.cluster == end.network.cluster:
        return Stop(Cause.NAME, Direction.REQUEST, f"DNS at {server}", what)
    modes = f"{end.network.cluster} has {end.network.dns_mode}, {owner.cluster} has {owner.dns_mode}"
    remedy = f"{end.network.cluster} and {owner.cluster}: network.dns_mode: shared_dns, or routed, the same in both"
    what = f"{what}; {owner.domain} is the zone of cluster {owner.cluster}, and no peer's"
    return Stop(Cause.NAME, Direction.REQUEST, f"DNS at {server}", what, remedy=(f"{remedy} ({modes})",))


def _stand_for(
    stack: ExitStack,
    known: Inhabitants,
    end: _End,
    target: IPv4Address,
    port: Port | None,
    responder: Responder,
    hold: Hold,
    notes: list[str],
) -> dict[IPv4Address, Stop]:
    """Put somebody in place of the node that it is for, where it does not run; what is wrong with it where it does."""
    machine, at = known.at(target), None if port is None else port.number
    exposed = [] if port is None else [one for each in known.networks for one in each.policy.firewall.expose]
    led = next((one for one in exposed if one.host == port), None)
    if machine is None and led is not None and network_of(target, known.clusters.values()) is None:
        machine, at = known.at(led.ip), led.node_port
    if machine is None or machine.ip is None or (end.endpoint is not None and end.endpoint.mac == machine.mac):
        return {}
    if machine.running:
        return {} if machine.trouble is None else {machine.ip: machine.trouble}
    if not machine.network.active:
        return {}
    hold(machine.network)
    try:
        entered = _leased(stack, machine.network, machine.mac, machine.name)
    except _Stopped as stopped:
        return {machine.ip: stopped.stop}
    notes.append(f"{machine.name} does not run: {entered.ip} was taken for it" + (", and listens there" if at else ""))
    if at is not None:
        responder.listen(entered.place, at)
    return {}


@contextmanager
def outside(known: Inhabitants) -> Iterator[Place]:
    """A machine outside that knows the way to every cluster: the lab's pretend internet, or, on a real host, a
    namespace behind a link of its own."""
    subnets = [str(each.subnet) for each in known.clusters.values()]
    if not has_internet():
        with stand_in_for_lan() as (place, _):
            place.name = OUTSIDE
            yield place
        return
    have = {str(each.network) for each in read_routes(output(["ip", "-json", "-4", "-n", INTERNET.namespace, "route"]))}
    new_ = [each for each in subnets if each not in have]
    for each in new_:
        _route("add", each)
    try:
        with named(INTERNET.namespace) as place:
            place.name = OUTSIDE
            yield place
    finally:
        for each in new_:
            with contextlib.suppress(AiHowError):
                _route("del", each)


def _route(verb: str, subnet: str) -> None:
    output(["ip", "-n", INTERNET.namespace, "route", verb, subnet, "via", str(INTERNET.uplink_address.ip)])
