"""What is known about a host at one moment: frozen data that the checks look at (read.py makes it of a capture).

What could not be looked at is in `missing`, by part: a check that needs such a part answers "unknown".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network


class Part(StrEnum):
    """What is looked at, each part on its own: one that cannot be read takes no other along."""

    HOST = "host"
    LIBVIRT = "libvirt"
    NETWORKS = "networks"
    MACHINES = "machines"
    LINKS = "links"
    ROUTES = "routes"
    NEIGHBOURS = "neighbours"
    SETTINGS = "settings"
    PROCESSES = "processes"
    LISTENERS = "listeners"
    LEASES = "leases"
    FIREWALL = "firewall"
    RESOLVER = "resolver"
    RESOLVES = "resolves"
    MEMORY = "memory"
    DRIFT = "drift"
    STATE = "state"
    NAMES = "names"
    UPSTREAM = "upstream"
    ANSWERING = "answering"
    SERVERS = "servers"
    CONSUL = "consul"
    GUESTS = "guests"
    LOGS = "logs"


@dataclass(frozen=True, slots=True)
class Lease:
    """What a network's DHCP server gave; `expires` in seconds since the epoch, 0 for never."""

    ip: IPv4Address
    mac: str
    hostname: str
    client_id: str
    expires: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """A fixed DHCP address for a MAC."""

    ip: IPv4Address
    mac: str
    name: str


@dataclass(frozen=True, slots=True)
class Forwarder:
    """Where a gateway sends questions: those below `domain`, or all others where it is empty."""

    server: str
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    """A libvirt network, as it runs where it is active. `gateway` is None where it has no IPv4 address of its own.

    `cluster` is empty where ai-how did not make it; `dns_mode`, `told` (servers that nodes ask instead of the gateway),
    `upstream` (servers that the gateway asks) and `policy` are from our mark. `differences` say how what runs differs
    from what is defined. `devices` are the links that it forwards by, as its XML names them.
    """

    name: str
    active: bool
    persistent: bool
    autostart: bool
    bridge: str
    mac: str
    mtu: int | None
    forward: str
    gateway: IPv4Interface | None
    ranges: tuple[tuple[IPv4Address, IPv4Address], ...]
    reservations: tuple[Reservation, ...]
    dns: bool
    forwarders: tuple[Forwarder, ...]
    options: tuple[str, ...]
    domain: str = ""
    cluster: str = ""
    dns_mode: str = ""
    told: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    policy: Mapping[str, object] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()

    @property
    def subnet(self) -> IPv4Network | None:
        """Its addresses; None where it has none."""
        return None if self.gateway is None else self.gateway.network

    @property
    def leads_out(self) -> bool:
        """Whether what nodes send passes through this host."""
        return self.forward in ("nat", "route", "open")

    @property
    def serves_dhcp(self) -> bool:
        return bool(self.ranges or self.reservations)

    def adding(self, reservations: Iterable[Reservation]) -> Network:
        """The same with these reservations, too."""
        return replace(self, reservations=(*self.reservations, *reservations))

    def asks(self, host: Sequence[str]) -> tuple[str, ...]:
        """The servers that its gateway asks what it does not know itself; `host` are those of the host, which dnsmasq
        asks where it is told no others."""
        everything = tuple(each.server for each in self.forwarders if not each.domain)
        own = (*self.upstream, *everything)
        if own or self.guarded or not self.dns:
            return own
        elsewhere = any(each.startswith(("no-resolv", "server=", "resolv-file=")) for each in self.options)
        return () if elsewhere else tuple(host)

    @property
    def guarded(self) -> bool:
        """Whether our table has rules for it."""
        firewall = self.policy.get("firewall")
        return bool(self.cluster) and not (isinstance(firewall, Mapping) and firewall.get("enabled") is False)


@dataclass(frozen=True, slots=True)
class Interface:
    """A machine's interface: its `source` is a network's (for kind bridge a bridge's, for kind direct a link's) name.
    `plugged` is what libvirt has as its link's state."""

    kind: str
    source: str
    mac: str
    tap: str
    plugged: bool = True


@dataclass(frozen=True, slots=True)
class Machine:
    """A libvirt domain. `age` is how many seconds its QEMU has run, None where it does not; `kvm` whether it is to run
    under KVM; `agent` whether one is connected; `cluster` as for a network."""

    name: str
    state: str
    interfaces: tuple[Interface, ...]
    kvm: bool = False
    emulator: str = ""
    autostart: bool = False
    cluster: str = ""
    uuid: str = ""
    agent: bool = False
    age: float | None = None
    differences: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        return self.state in ("running", "blocked")


@dataclass(frozen=True, slots=True)
class Link:
    """A network device of the kernel. `up` is what somebody set, `carrier` whether it is connected; `mtu` in bytes;
    `calls_iptables` whether what passes within this bridge goes through iptables, too."""

    name: str
    kind: str
    up: bool
    carrier: bool
    mtu: int
    mac: str
    master: str = ""
    addresses: tuple[IPv4Interface, ...] = ()
    calls_iptables: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the kernel; `to` is 0.0.0.0/0 for the default one. A `dead` one is not used: its link is down."""

    to: IPv4Network
    via: IPv4Address | None
    dev: str
    metric: int = 0
    dead: bool = False
    table: str = "main"


@dataclass(frozen=True, slots=True)
class Server:
    """A dnsmasq process that serves a libvirt network in our network namespace; `stopped` by a signal or debugger."""

    pid: int
    network: str
    stopped: bool


@dataclass(frozen=True, slots=True)
class Listener:
    """A program that listens at a port of this host; `address` is `*` for all of them."""

    protocol: str
    address: str
    port: int
    program: str
    pid: int | None


@dataclass(frozen=True, slots=True)
class Guest:
    """What a machine's agent says: addresses by MAC, routers and DNS servers; None where it did not say."""

    answers: bool
    why: str = ""
    addresses: Mapping[str, tuple[IPv4Interface, ...]] = field(default_factory=dict)
    routers: tuple[IPv4Address, ...] | None = None
    resolvers: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Kvm:
    """Whether this host runs guests under KVM, and why (not)."""

    usable: bool
    why: str


@dataclass(frozen=True, slots=True)
class Reply:
    """Whether somebody answered, how long that took in milliseconds, and what was said."""

    answered: bool
    ms: float = 0.0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Drift:
    """What ai-how itself finds not as it was made (engine/drift.py), or a state file that cannot be used."""

    cluster: str
    kind: str
    key: str
    what: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What ai-how remembers of a host, and its hook: `hook` is its text, None where it is gone; `mode` is octal."""

    files: Mapping[str, str] = field(default_factory=dict)
    hook: str | None = None
    mode: str = ""
    unknown_to_libvirt: bool = False


@dataclass(frozen=True, slots=True)
class Firewall:
    """The rules of the kernel, as text: `ruleset` is nft's JSON of every table that it could say, `unread` the names of
    those it could not; `legacy` is `iptables-legacy -S` by table, and `iptables` the same of those tables of nftables
    that iptables keeps there, since nft does not say what its modules match.

    `loaded` is what our own tables must look like: nft's JSON of them, listed right after they were loaded into an
    empty namespace; None where there are none."""

    ruleset: str
    unread: tuple[str, ...] = ()
    legacy: Mapping[str, str] = field(default_factory=dict)
    iptables: Mapping[str, str] = field(default_factory=dict)
    loaded: str | None = None


@dataclass(frozen=True, slots=True)
class Libvirt:
    """The daemon: how it was asked (`bindings` or `virsh`), and why it could not be. `trouble` is `down`, `permission`,
    `absent` (not installed) or `unknown`, empty where it answers."""

    uri: str
    via: str = ""
    version: str = ""
    trouble: str = ""
    why: str = ""
    remedy: str = ""
    offers_kvm: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the checks look at. `now` is in seconds since the epoch, `daemon` the process that runs libvirt's
    networks. `missing` says why a part could not be looked at.

    `programs` are paths by name, empty where a program is not there; `emulators` those that cannot be run, and why.
    `unread_leases`: by bridge, why they are not known.
    `neighbours`: by link and address. `names`: whether gateways answer, by network; `upstream`: servers outside, by
    address; `answering`: who answers ARP, by bridge and address; `dhcp_servers`: those of others, by network; `consul`
    and `resolves` (whether programs of the host find its names): by network. `resolvers` are the host's name servers,
    `resolver_asks` those that one on the host itself asks. `unseen`: what of ai-how's own could not be compared, and
    why; `state`: what is wrong with the state file. `asked`: the name of the network or machine that is asked about.
    """

    now: float = 0.0
    root: bool = False
    daemon: int | None = None
    libvirt: Libvirt = Libvirt("")
    kvm: Kvm = Kvm(usable=False, why="")
    programs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    emulators: Mapping[str, str] = field(default_factory=dict)
    networks: tuple[Network, ...] = ()
    machines: tuple[Machine, ...] = ()
    links: Mapping[str, Link] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    neighbours: Mapping[tuple[str, str], str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    servers: tuple[Server, ...] = ()
    listeners: tuple[Listener, ...] = ()
    leases: Mapping[str, tuple[Lease, ...]] = field(default_factory=dict)
    unread_leases: Mapping[str, str] = field(default_factory=dict)
    firewall: Firewall = Firewall("")
    resolvers: tuple[str, ...] = ()
    resolver_asks: tuple[str, ...] = ()
    resolves: Mapping[str, Reply] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    drift: tuple[Drift, ...] = ()
    unseen: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    names: Mapping[str, Reply] = field(default_factory=dict)
    upstream: Mapping[str, Reply] = field(default_factory=dict)
    answering: Mapping[str, Mapping[IPv4Address, tuple[str, ...]]] = field(default_factory=dict)
    dhcp_servers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    consul: Mapping[str, Reply] = field(default_factory=dict)
    guests: Mapping[str, Guest] = field(default_factory=dict)
    missing: Mapping[Part, str] = field(default_factory=dict)
    asked: str = ""

    def network(self, name: str) -> Network | None:
        """The network of that name."""
        return next((network for network in self.networks if network.name == name), None)

    def network_on(self, bridge: str) -> Network | None:
        """The network whose bridge that is."""
        return next((network for network in self.networks if network.bridge == bridge and bridge), None)

    def port_of(self, interface: Interface) -> Link | None:
        """The host's end of a machine's interface."""
        return self.links.get(interface.tap) if interface.tap else None

    def lease_of(self, network: Network, mac: str) -> Lease | None:
        """What DHCP gave to a MAC, and still holds."""
        return next((each for each in self.leases_of(network) if each.mac == mac), None)

    def leases_of(self, network: Network) -> tuple[Lease, ...]:
        """The leases of a network that have not ended."""
        return tuple(e for e in self.leases.get(network.bridge, ()) if not e.expires or e.expires > self.now)

    def wants(self, network: Network) -> bool:
        """Whether somebody needs the network to be at work: whoever asks, a start of the host, or a machine."""
        return (
            network.active
            or network.autostart
            or self.asked == network.name
            or any(each.running or each.autostart for each in self.users_of(network.name))
        )

    def users_of(self, network: str) -> list[Machine]:
        """The machines with an interface in that network."""
        return [
            machine
            for machine in self.machines
            if any(nic.kind == "network" and nic.source == network for nic in machine.interfaces)
        ]

    @property
    def active(self) -> tuple[Network, ...]:
        """The networks that are at work."""
        return tuple(network for network in self.networks if network.active)

    @property
    def uplinks(self) -> tuple[str, ...]:
        """The links that default routes lead to, the preferred one first."""
        ways = [each for each in self.routes if each.to.prefixlen == 0 and each.dev]
        ways.sort(key=lambda each: (each.table != "main", each.metric, each.dev))
        return tuple(dict.fromkeys(each.dev for each in ways))
