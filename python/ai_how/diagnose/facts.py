"""What is known about a host, read at one moment. None and `problem` mean "could not look", not "is not there"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Interface

from ai_how.errors import AiHowError


@dataclass(frozen=True, slots=True)
class Lease:
    """What a network's DHCP server gave."""

    mac: str
    ip: str
    hostname: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class Network:
    """A libvirt network. `gateway` is None where it has no address of its own; `answers_dns` is the reply to a real
    question to the gateway: None where there is nobody to ask."""

    name: str
    active: bool
    autostart: bool
    bridge: str
    forward: str
    gateway: IPv4Interface | None
    dhcp_ranges: tuple[tuple[str, str], ...]
    dns: bool
    leases: tuple[Lease, ...]
    answers_dns: bool | None


@dataclass(frozen=True, slots=True)
class Interface:
    """A machine's network interface: its `source` is a network's (or, for type bridge, a bridge's) name."""

    kind: str
    source: str
    mac: str
    tap: str | None


@dataclass(frozen=True, slots=True)
class Machine:
    """A libvirt domain."""

    name: str
    state: str
    interfaces: tuple[Interface, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """A network device of the kernel. `master` is the bridge that it is a port of."""

    name: str
    up: bool
    bridge: bool
    master: str | None
    address: IPv4Interface | None


@dataclass(frozen=True, slots=True)
class Server:
    """A dnsmasq process that serves a libvirt network in our network namespace; `stopped` by a signal or debugger."""

    pid: int
    network: str
    stopped: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the checks look at. `problem` says why libvirt could not be asked; then its parts are empty."""

    links: Mapping[str, Link]
    servers: tuple[Server, ...]
    networks: tuple[Network, ...] = ()
    machines: tuple[Machine, ...] = ()
    problem: AiHowError | None = None

    def network(self, name: str) -> Network | None:
        """The network of that name."""
        return next((network for network in self.networks if network.name == name), None)

    def users_of(self, network: str) -> list[str]:
        """The names of the machines with an interface in that network."""
        return [
            machine.name
            for machine in self.machines
            if any(nic.kind == "network" and nic.source == network for nic in machine.interfaces)
        ]
