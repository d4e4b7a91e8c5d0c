"""A cluster's virtual network."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from ai_how.config.terms import DnsMode, MacAddress
from ai_how.spec.policy import Policy

__all__ = ["DnsMode", "Network"]


@dataclass(frozen=True, slots=True)
class Network:
    """The network of one cluster. `mac` is the bridge's own address; `dhcp_start` to `dhcp_end` are both inclusive.

    `dns_servers` is what the user listed; whether guests ask the gateway or the servers directly follows from the
    gateway being among them (`gateway_answers_dns`). `mtu` is in bytes, None for the kernel's 1500.
    """

    name: str
    bridge: str
    mac: MacAddress
    subnet: IPv4Network
    gateway: IPv4Address
    dhcp_start: IPv4Address
    dhcp_end: IPv4Address
    dns_servers: tuple[IPv4Address | IPv6Address, ...]
    dns_mode: DnsMode
    domain: str
    mtu: int | None
    policy: Policy = field(default_factory=Policy)

    @property
    def gateway_answers_dns(self) -> bool:
        """True where guests ask the gateway and the other servers are its forwarders."""
        return self.gateway in self.dns_servers

    @property
    def forwarders(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """The servers the gateway forwards to: never itself."""
        return tuple(server for server in self.dns_servers if server != self.gateway)
