"""Where the packets of a test come from and arrive, for clusters that stand on this host.

A node whose machine does not run is stood for by an endpoint with its MAC and its own lease: it is the node. Beside
machines that run, which are only targets, stand-ins with addresses out of the DHCP range send. A machine of the LAN is
the lab's, or a namespace behind a link of the host's. All of it is gone after the `with` block, and after a kill.
"""

from __future__ import annotations

import contextlib
import json
import resource
import secrets
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from threading import Lock

from ai_how.engine.wait import leases
from ai_how.errors import AiHowError, HostError, PrivilegeError
from ai_how.host import consul, resolver
from ai_how.host.libvirt import Libvirt
from ai_how.host.memory import is_root
from ai_how.host.process import output
from ai_how.host.routes import Way, find_way, list_routes, read_routes
from ai_how.lab import INTERNET, has_internet
from ai_how.probe.dhcp import Lease
from ai_how.probe.endpoint import LINK, Endpoint, endpoint
from ai_how.probe.expectations import HOST, LAN, Outside, Side
from ai_how.probe.guest import Guest, find_guest
from ai_how.probe.packets import NotTested, arp, ask, dns, ping
from ai_how.probe.place import Place, here, named, new
from ai_how.probe.promises import MOST, UPLINK, Member, Party, Stranger, blocked_targets
from ai_how.probe.responder import Responder, tap
from ai_how.probe.run import ATTEMPTS, Spot
from ai_how.providers import domain as domains
from ai_how.providers import network as networks
from ai_how.resources.network import VirtualNetwork
from ai_how.spec.cluster import Cluster
from ai_how.spec.network import DnsMode, Network
from ai_how.spec.node import MacAddress, Node, Role
from ai_how.spec.policy import Discovery

#: How many places are made, or agents asked, side by side.
_AT_ONCE = 8

#: Seconds after its check in which Consul finds a node, on a busy host.
_FOUND_WITHIN = 3.0

#: Where the stand-in for the LAN lives: addresses for tests between networks (RFC 2544).
_TESTING = IPv4Network("198.18.0.0/15")

_LAN_LINK = "aihlan"

#: Open files of a test, whatever its size, and of each place: its tap, and sockets that answer at a few ports.
_FILES, _FILES_OF_A_PLACE = 768, 16

#: How often a free port is looked for: most are.
_TRIES = 50
_ANY_RESOLVER = IPv4Address("8.8.8.8")
_ANY_NAME = "example.com"

#: Told what is being done, and how many of how many of it are done.
Told = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Standing:
    """Everything that is there for the length of a test."""

    parties: tuple[Party, ...]
    strangers: tuple[Stranger, ...]
    spots: Mapping[str, Spot]
    around: Outside


@contextmanager
def standing(
    libvirt: Libvirt,
    clusters: Sequence[Cluster],
    told: Told = lambda _what, _done, _of: None,
    *,
    everybody: bool = False,
    senders: int = 2,
    outside: bool = True,
    file: str = "CONFIG",
) -> Iterator[Standing]:
    """Places for `clusters`, which must be up, for the length of a `with` block.

    Of a cluster up to MOST nodes are stood for, or `everybody`; there are at least so many `senders`. Without `outside`
    nothing is made that stands for the LAN. `file` is where the clusters are configured, for what is said of it.

    Raises PrivilegeError, HostError where a cluster is not up, or has other addresses here, NotReady or HostError where
    nothing can send.
    """
    if not is_root():
        raise PrivilegeError(
            "packets cannot be sent from the network of a cluster",
            why="this takes network namespaces and links on its bridge, for the length of the test",
            remedy="Run the same as root.",
        )
    there = {each.cluster: each for each in networks.observe_all(libvirt) if each.cluster}
    _refuse_down(clusters, there)
    _refuse_differing(clusters, there, file)
    running = {each.name for each in domains.observe_all(libvirt) if each.running}
    with ExitStack() as stack:
        host = stack.enter_context(here(HOST))
        groups = [
            _Group(each, running, {held.mac: held.ip for held in leases(libvirt, each.network.name)})
            for each in clusters
        ]
        wanted = [
            (group, stand) for group in groups for stand in group.stands(None if everybody else MOST, senders=senders)
        ]
        _make_room(len(wanted))
        found: dict[str, list[Endpoint]] = {group.cluster.name: [] for group in groups}
        with ThreadPoolExecutor(_AT_ONCE) as workers:
            entered = workers.map(lambda one: stack.enter_context(one[0].enter(one[1])), wanted)
            for number, ((group, _), each) in enumerate(zip(wanted, entered, strict=True)):
                found[group.cluster.name].append(each)
                told("taking leases", number + 1, len(wanted))
        spots = {
            each.name: Spot(each.place, LINK, stack.enter_context(tap(each.place, LINK)), each.lease, each.trouble)
            for group in found.values()
            for each in group
        }
        guests = _guests(libvirt, clusters, running, None if everybody else MOST) if outside else {}
        spots |= {name: Spot(host, guest=guest) for name, guest in guests.items()}
        parties = tuple(group.party(found[group.cluster.name], guests) for group in groups)
        spots[HOST] = Spot(host)
        around = _surroundings(stack, [each.network for each in clusters], spots, outside=outside)
        _listen(stack, parties, spots, around)
        around = replace(around, consul=_is_in_consul(parties))
        strangers = tuple(
            Stranger(each.cluster, each.dns_mode, each.gateway, each.policy.firewall.enabled)
            for name, each in sorted(there.items())
            if each.active and name not in {cluster.name for cluster in clusters}
        )
        yield Standing(parties, strangers, spots, around)


def _refuse_down(clusters: Iterable[Cluster], there: Mapping[str, VirtualNetwork]) -> None:
    for each in clusters:
        network = there.get(each.name)
        if network is None or not network.active:
            raise HostError(
                f"cluster {each.name} cannot be tested",
                why="it is not on this host" if network is None else f"its network {network.name} is not active",
                remedy="Bring it up: ai-how up CONFIG. Before that, ai-how rehearse CONFIG tests it in a lab.",
            )


def _refuse_differing(clusters: Iterable[Cluster], there: Mapping[str, VirtualNetwork], file: str) -> None:
    """Whoever stands for a node would be on another network than the cluster's, or on none."""
    for each in clusters:
        network, told = there[each.name], each.network
        facts = {
            "": (network.subnet, told.subnet),
            "gateway ": (network.gateway, told.gateway),
            "bridge ": (network.bridge, told.bridge),
        }
        differ = [(name, now, said) for name, (now, said) in facts.items() if now != said]
        if differ:
            raise HostError(
                f"cluster {each.name} is not as {file} says",
                why="; ".join(f"its network has {name}{now}, the file says {name}{said}" for name, now, said in differ),
                remedy=f"`ai-how plan {file}` shows it, `ai-how up {file}` makes it so.",
            )


def _make_room(places: int) -> None:
    """Let this process open what so many places take. Raises HostError where it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = _FILES + places * _FILES_OF_A_PLACE
    if soft == resource.RLIM_INFINITY or need <= soft:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard if hard == resource.RLIM_INFINITY else max(need, hard)))
    except (OSError, ValueError) as error:
        raise HostError(
            f"there is no room for {places} places to send from",
            why=f"they take {need} open files: {error}",
            remedy="Try a sample, without --all, or one cluster after the other: --cluster NAME.",
        ) from error


class _Group:
    """A cluster, and who stands for whom in it."""

    def __init__(self, cluster: Cluster, running: Iterable[str], held: Mapping[str, IPv4Address]) -> None:
        self.cluster = cluster
        self._running = frozenset(running)
        self._held = held
        self._choosing = Lock()
        self._chosen: set[IPv4Address] = set()

    def stands(self, most: int | None, *, senders: int) -> list[Node]:
        """The nodes that endpoints stand for, and stand-ins that are none."""
        free = [each for each in self.cluster.nodes if each.name not in self._running][:most]
        extra = range(1, max(0, senders - len(free)) + 1)
        return free + [self._stand_in(number) for number in extra]

    def enter(self, node: Node) -> contextlib.AbstractContextManager[Endpoint]:
        """The endpoint for it."""
        network = self.cluster.network

        def otherwise(place: Place) -> Lease:
            return _as_configured(network, node.ip or self._free_address(place))

        return endpoint(network.bridge, node.mac, name=node.name, otherwise=otherwise)

    def party(self, endpoints: Sequence[Endpoint], guests: Collection[str]) -> Party:
        """The cluster with those that stand in it; `guests` are the machines whose agent answers."""
        addresses = {each.name: each.ip for each in endpoints}
        known = {each.name: each for each in self.cluster.nodes}
        nodes = [
            replace(known.get(each.name) or self._stand_in(0), name=each.name, mac=MacAddress(each.mac), ip=each.ip)
            for each in endpoints
        ]
        members = tuple(
            Member(
                each,
                addresses.get(each.name) or each.ip or self._held.get(each.mac),
                stands=each.name in addresses,
                runs=each.name in self._running,
                asked=each.name in guests,
            )
            for each in self.cluster.nodes
        )
        return Party(Side(self.cluster, tuple(nodes)), members)

    def _stand_in(self, number: int) -> Node:
        mac = f"52:54:00:{secrets.token_bytes(3).hex(':')}"
        return Node(f"stand-in {number} in {self.cluster.name}", Role.COMPUTE, 1, 1, 1, MacAddress(mac), None)

    def _free_address(self, place: Place) -> IPv4Address:
        """One of the DHCP range that nobody has, as far as can be seen: the last ones are given out last."""
        network = self.cluster.network
        first, last = network.dhcp_start, network.dhcp_end
        with self._choosing:
            taken = {*self._held.values(), *(each.ip for each in self.cluster.nodes), network.gateway, *self._chosen}
            for number in range(int(last), max(int(first), int(last) - 64) - 1, -1):
                address = IPv4Address(number)
                if address not in taken and not ask(arp(place, LINK, address, within=0.2)).replied:
                    self._chosen.add(address)
                    return address
        raise HostError(
            f"no address is free for a stand-in in {network.name}",
            why=f"machines run that are not asked themselves, and all of {first} – {last} is taken",
            remedy="Make room with network.dhcp_end, or stop a machine: it is stood for then.",
        )


def _guests(
    libvirt: Libvirt, clusters: Iterable[Cluster], running: Collection[str], most: int | None
) -> dict[str, Guest]:
    """The machines that can be asked themselves, of the first ones of each cluster."""
    names = [node.name for each in clusters for node in each.nodes[:most] if node.name in running]
    with ThreadPoolExecutor(_AT_ONCE) as workers:
        found = workers.map(lambda name: find_guest(libvirt, name), names)
        return {name: guest for name, guest in zip(names, found, strict=True) if guest is not None}


def _as_configured(network: Network, ip: IPv4Address) -> Lease:
    """What DHCP would have given."""
    return Lease(
        interface=IPv4Interface((ip, network.subnet.prefixlen)),
        routers=(network.gateway,),
        dns=(),
        host_name="",
        domain=network.domain,
        mtu=network.mtu,
        server=network.gateway,
        servers=(),
        seconds=0,
        took=0.0,
    )


def _surroundings(stack: ExitStack, clusters: Sequence[Network], spots: dict[str, Spot], *, outside: bool) -> Outside:
    """What is around, with the places `LAN` and `UPLINK` added to `spots`."""
    in_lab = has_internet()
    target = next(
        (server for each in clusters for server in each.forwarders if isinstance(server, IPv4Address)), _ANY_RESOLVER
    )
    way = find_way(target)
    host = spots[HOST].place
    connected = way is not None and _replies(host, target)
    port = _free_port(host)
    around = Outside(
        uplink=None if way is None else way.source,
        lan=INTERNET.router,
        resolver=target,
        web=INTERNET.web if in_lab else _resolve(host, _ANY_NAME) if connected else None,
        name=INTERNET.name if in_lab else _ANY_NAME,
        host_port=port,
        uplink_port=port + 1,
        lan_answers=in_lab,
        connected=connected,
        ipv6=False,
        exact=in_lab,
        host_dns=_host_dns(clusters),
        by_uplink=frozenset(_by_uplink(clusters, way)),
    )
    if in_lab:
        place = stack.enter_context(named(INTERNET.namespace))
        around = replace(around, lan_port=_free_port(place))  # there may be other tests in this lab
        spots[LAN] = Spot(place, INTERNET.uplink, stack.enter_context(tap(place, INTERNET.uplink)))
        if around.uplink is not None:
            stack.enter_context(ways_in(clusters, around))
    elif outside:
        place, address = stack.enter_context(stand_in_for_lan())
        around = replace(around, lan=address)
        spots[LAN] = Spot(place, LINK, stack.enter_context(tap(place, LINK)))
    if not in_lab:
        around = replace(around, watch=UPLINK)
        if way is not None:
            seen = stack.enter_context(tap(spots[HOST].place, way.link, outgoing=True))
            spots[UPLINK] = Spot(spots[HOST].place, way.link, seen)
    return around


def _by_uplink(clusters: Iterable[Network], uplink: Way | None) -> Iterator[IPv4Address]:
    """Of what nodes may not reach, what would leave by this link."""
    for _, address in (each for network in clusters for each in blocked_targets(network)):
        way = find_way(address)
        if way is not None and uplink is not None and way.link == uplink.link:
            yield address


@contextmanager
def ways_in(clusters: Sequence[Network], around: Outside) -> Iterator[None]:
    """The lab's machine outside knows the way to every cluster: only rules keep it out."""
    routes = [f"{each.subnet} via {around.uplink}" for each in clusters]

    def batch(verb: str) -> None:
        lines = "".join(f"route {verb} {route}\n" for route in routes)
        output(["ip", "-netns", INTERNET.namespace, "-batch", "-"], text=lines)

    batch("replace")
    try:
        yield
    finally:
        with contextlib.suppress(AiHowError):
            batch("del")


@contextmanager
def stand_in_for_lan() -> Iterator[tuple[Place, IPv4Address]]:
    """A namespace behind a link of the host's, in a network that nobody has: what comes from it comes from outside."""
    taken = [each.network for each in read_routes(list_routes())]
    free = (each for each in _TESTING.subnets(new_prefix=30) if not any(each.overlaps(other) for other in taken))
    network = next(free, None)
    if network is None:
        raise HostError(
            "there is no address for a machine outside",
            why=f"all of {_TESTING}, which is kept for tests, is routed somewhere on this host",
            remedy="See where: ip route show table all. Without that machine: ai-how test --quick",
        )
    ours, theirs = network.network_address + 1, network.network_address + 2
    link = f"{_LAN_LINK}{secrets.token_hex(4)}"
    with new(LAN) as place:
        output(
            ["ip", "-batch", "-"],
            text=f"link add {link} type veth peer name {LINK} netns {place.thread}\n"
            f"addr add {ours}/30 dev {link}\nlink set {link} addrgenmode none up\n",
        )
        try:
            place.run(
                ["ip", "-batch", "-"],
                text=f"link set lo up\nlink set {LINK} up\naddr add {theirs}/30 dev {LINK}\n"
                f"route add default via {ours}\n",
            )
            yield place, theirs
        finally:
            with contextlib.suppress(AiHowError):
                output(["ip", "link", "del", link])


def _listen(stack: ExitStack, parties: Iterable[Party], spots: Mapping[str, Spot], around: Outside) -> None:
    """Have something answer where it is asked for: at every node that is stood for, and at the host."""
    responder = stack.enter_context(Responder())
    host = spots[HOST].place
    for party in parties:
        network = party.side.network
        ports: dict[IPv4Address | None, set[int]] = {}
        for each in network.policy.firewall.expose:
            ports.setdefault(each.ip, set()).add(each.node_port)
        discovery = network.policy.discovery
        checked = set() if discovery is None else {discovery.check.port}
        for node in party.side.nodes:
            for port in {around.node_port, *checked, *ports.get(node.ip, ())}:
                responder.listen(spots[node.name].place, port)
        responder.listen(host, around.host_port, network.gateway)
        for open_port in {each.number for each in network.policy.firewall.allow_host_ports}:
            with contextlib.suppress(HostError):  # what listens there already is what shall be reached
                responder.listen(host, open_port, network.gateway)
    if around.uplink is not None:
        for port in (around.host_port, around.uplink_port):
            responder.listen(host, port, around.uplink)
    if around.lan_answers:
        responder.listen(spots[LAN].place, around.lan_port)


def _free_port(host: Place) -> int:
    """A port of the host with a free one after it, both for TCP and UDP. Raises HostError."""
    for _ in range(_TRIES):
        with ExitStack() as tried, contextlib.suppress(OSError, OverflowError):
            first = tried.enter_context(host.socket(socket.AF_INET, socket.SOCK_STREAM))
            first.bind(("", 0))
            port = int(first.getsockname()[1])
            for kind, number in (
                (socket.SOCK_DGRAM, port),
                (socket.SOCK_STREAM, port + 1),
                (socket.SOCK_DGRAM, port + 1),
            ):
                tried.enter_context(host.socket(socket.AF_INET, kind)).bind(("", number))
            return port
    raise HostError(f"{host.name} has no free port to answer at", why=f"none was found in {_TRIES} tries")


def _replies(host: Place, target: IPv4Address) -> bool:
    try:
        return any(ask(ping(host, target)).replied for _ in range(ATTEMPTS))
    except NotTested:
        return False


def _resolve(host: Place, name: str) -> IPv4Address | None:
    """What the host's own resolver says, if it says so soon."""
    server = resolver.first_nameserver()
    if server is None:
        return None
    try:
        answers = (ask(dns(host, server, name)) for _ in range(ATTEMPTS))
        said = next((each.said for each in answers if each.replied), ())
    except NotTested:
        return None
    return IPv4Address(said[0]) if said else None


def _host_dns(clusters: Iterable[Network]) -> IPv4Address | None:
    """Whom the host's own programs ask, where the host was told of the clusters' names."""
    shared = [each for each in clusters if each.dns_mode is DnsMode.SHARED_DNS]
    if not shared or resolver.detect().manager is None:
        return None
    return resolver.first_nameserver()


def _is_in_consul(parties: Iterable[Party]) -> bool:
    """Whether Consul answers, once it has had the time to find the first node of every cluster that it is to know."""
    asked = [
        (each.side.named[0].ip, discovery)
        for each in parties
        if (discovery := each.side.network.policy.discovery) is not None and each.side.named
    ]
    if not asked:
        return False
    deadline = time.monotonic() + max(each.check.interval + each.check.timeout for _, each in asked) + _FOUND_WITHIN
    while True:
        found = [(ip, _healthy(discovery)) for ip, discovery in asked]
        if all(healthy is not None and ip in healthy for ip, healthy in found):
            return True
        if time.monotonic() > deadline:
            # What it does not know of is promised all the same.
            return all(healthy is not None for _, healthy in found)
        time.sleep(0.1)


def _healthy(discovery: Discovery) -> set[IPv4Address] | None:
    """The nodes that Consul finds healthy; None where it does not answer."""
    try:
        reply = consul.ask(discovery, "GET", f"/v1/health/service/{discovery.service_name}?passing")
        return {IPv4Address(each["Service"]["Address"]) for each in json.loads(reply.text)}
    except (AiHowError, ValueError, KeyError, TypeError):
        return None
