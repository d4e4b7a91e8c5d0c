"""What can be tried: one packet or one question each, as plain data. Its text is the end of a scenario's name."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from ai_how.config.terms import Protocol
from ai_how.spec.policy import Port

Address = IPv4Address | IPv6Address


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
