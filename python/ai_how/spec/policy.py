"""What a cluster allows beyond its mode's defaults: its firewall, its routes, its place in service discovery."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from ai_how.config.terms import Egress, HostResolver, Protocol

__all__ = [
    "Check",
    "Discovery",
    "Egress",
    "Exposure",
    "Firewall",
    "HostResolver",
    "Policy",
    "Port",
    "Protocol",
    "Route",
    "Tls",
]


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """A port of the host, 1 to 65535."""

    protocol: Protocol
    number: int


@dataclass(frozen=True, slots=True, order=True)
class Exposure:
    """A port of the host that leads to a port of a node: `host` → `ip`:`node_port`, same protocol."""

    host: Port
    node: str
    ip: IPv4Address
    node_port: int


@dataclass(frozen=True, slots=True)
class Firewall:
    """What may pass beside what the mode gives. Networks are sorted; `block_networks` wins over everything.

    `allow_host_ports`: ports of the gateway that nodes may use beyond DHCP and DNS. `allow_networks`: what nodes may
    still reach with `egress: deny`. `allow_from`: networks outside that may open connections to nodes.
    """

    enabled: bool = True
    allow_host_ports: tuple[Port, ...] = ()
    block_networks: tuple[IPv4Network, ...] = ()
    egress: Egress = Egress.ALLOW
    allow_networks: tuple[IPv4Network, ...] = ()
    expose: tuple[Exposure, ...] = ()
    allow_from: tuple[IPv4Network, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """A network that a routed cluster exchanges packets with, unmasqueraded; `via` is its router, None where the host
    knows the way already."""

    to: IPv4Network
    via: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for TLS to Consul, in PEM; None is the system's trust, and no certificate of our own."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """Consul's check of a node: a TCP connection to `port` every `interval` s, given up after `timeout` s."""

    port: int = 22
    interval: int = 3
    timeout: int = 1


@dataclass(frozen=True, slots=True)
class Discovery:
    """Where Consul is and what nodes are there.

    `address` is the URL of an agent's HTTP API, its host also answers DNS at `dns_port`. `token_file` holds the ACL
    token, which is read when needed and kept nowhere. `datacenter` None is the agent's own.
    """

    service_name: str
    address: str = "http://127.0.0.1:8500"
    dns_port: int = 8600
    datacenter: str | None = None
    token_file: str | None = None
    tls: Tls | None = None
    tags: tuple[str, ...] = ()
    check: Check = field(default_factory=Check)
    required: bool = True


@dataclass(frozen=True, slots=True)
class Policy:
    """All of it. `nat` says whether what leaves for the uplink is masqueraded; only `routed` may switch it off.

    `discovery` is None in every mode but `service_discovery`.
    """

    nat: bool = True
    routes: tuple[Route, ...] = ()
    firewall: Firewall = field(default_factory=Firewall)
    discovery: Discovery | None = None
    host_resolver: HostResolver = HostResolver.AUTO
