"""A DHCP client that takes a lease and says what was offered with it (RFC 2131, RFC 2132)."""

from __future__ import annotations

import secrets
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Interface

from ai_how.errors import NotReady

_SERVER_PORT, _CLIENT_PORT = 67, 68
_EVERYBODY = ("255.255.255.255", _SERVER_PORT)
_COOKIE = b"\x63\x82\x53\x63"
_HEADER = struct.Struct(">BBBB4sHH4s4s4s4s16s64s128s")
_REQUEST, _REPLY, _ETHERNET, _HARDWARE_LENGTH = 1, 2, 1, 6
#: The reply is sent to everybody: without an address nothing else reaches an ordinary socket.
_BROADCAST = 0x8000
#: Seconds until a question is repeated.
_AGAIN = 0.5

_NO_ADDRESS = IPv4Address(0)


class Message(IntEnum):
    """Types of message (option 53)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7


class Option(IntEnum):
    """The options that we ask for or look at."""

    PAD = 0
    MASK = 1
    ROUTER = 3
    DNS = 6
    HOST_NAME = 12
    DOMAIN = 15
    MTU = 26
    REQUESTED = 50
    LEASE_TIME = 51
    MESSAGE = 53
    SERVER = 54
    WANTED = 55
    CLIENT_ID = 61
    SEARCH = 119
    END = 255


_WANTED = (
    Option.MASK,
    Option.ROUTER,
    Option.DNS,
    Option.HOST_NAME,
    Option.DOMAIN,
    Option.MTU,
    Option.LEASE_TIME,
    Option.SEARCH,
)

#: Seconds from the question in which other servers offer an address, too.
_OTHERS_WITHIN = 0.25


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said: the address it gives, and its options as bytes."""

    transaction: bytes
    address: IPv4Address
    options: Mapping[int, bytes]

    @property
    def message(self) -> int:
        """The type of message, 0 where it has none."""
        return next(iter(self.options.get(Option.MESSAGE, b"")), 0)

    @property
    def server(self) -> IPv4Address | None:
        """Who says so."""
        found = _addresses(self.options.get(Option.SERVER, b""))
        return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Lease:
    """What DHCP gave. `seconds` is how long it holds, `took` how long it took, `mtu` None where none was said.

    `servers` are all that made an offer: more than one on a cluster's network is one too many.
    """

    interface: IPv4Interface
    routers: tuple[IPv4Address, ...]
    dns: tuple[IPv4Address, ...]
    host_name: str
    domain: str
    mtu: int | None
    server: IPv4Address
    servers: tuple[IPv4Address, ...]
    seconds: int
    took: float

    @property
    def ip(self) -> IPv4Address:
        """The address alone."""
        return self.interface.ip


def take_lease(sock: socket.socket, link: str, mac: str, *, within: float, client_id: bytes = b"") -> Lease:
    """Get a lease over `sock`, an unbound UDP socket in the namespace of `link`, and hear who else offers one.

    With `client_id` the server is told that identifier (option 61), and not to go by `mac` alone. Raises NotReady.
    """
    _prepare(sock, link)
    begin = time.monotonic()
    deadline = begin + within
    transaction = secrets.token_bytes(4)
    offers: dict[IPv4Address, Reply] = {}
    offer = _exchange(
        sock, message(Message.DISCOVER, transaction, mac, client_id=client_id), {Message.OFFER}, offers, deadline
    )
    server = None if offer is None else offer.server
    if offer is None or server is None:
        raise NotReady(f"no DHCP server answers {mac}", why=f"no offer in {within:g} s")
    asked = message(Message.REQUEST, transaction, mac, requested=offer.address, server=server, client_id=client_id)
    ack = _exchange(sock, asked, {Message.ACK, Message.NAK}, offers, deadline)
    if ack is None or ack.message == Message.NAK:
        why = f"no answer in {within:g} s" if ack is None else "it says no (DHCPNAK)"
        raise NotReady(f"{server} does not give {offer.address} to {mac}", why=why)
    took = time.monotonic() - begin
    _hear(sock, transaction, offers, begin + _OTHERS_WITHIN)
    try:
        return read_lease(ack, server, tuple(offers), took)
    except ValueError as error:
        raise NotReady(f"{server} gives {mac} an address that is none", why=str(error)) from error


def give_back(sock: socket.socket, link: str, mac: str, lease: Lease) -> None:
    """Tell the server that the lease is no longer used; there is never an answer.

    It is sent to everybody: to the server alone it would wait for ARP, and the link may be gone before that is done.
    """
    _prepare(sock, link)
    released = message(Message.RELEASE, secrets.token_bytes(4), mac, client=lease.ip, server=lease.server)
    sock.sendto(released, _EVERYBODY)


def message(
    kind: Message,
    transaction: bytes,
    mac: str,
    *,
    client: IPv4Address = _NO_ADDRESS,
    requested: IPv4Address | None = None,
    server: IPv4Address | None = None,
    client_id: bytes = b"",
) -> bytes:
    """A client's message."""
    hardware = bytes.fromhex(mac.replace(":", ""))
    flags = 0 if kind is Message.RELEASE else _BROADCAST
    fixed = _HEADER.pack(
        *(_REQUEST, _ETHERNET, _HARDWARE_LENGTH, 0, transaction, 0, flags),
        *(client.packed, b"", b"", b"", hardware, b"", b""),
    )
    options = bytes([Option.MESSAGE, 1, kind])
    if requested is not None:
        options += bytes([Option.REQUESTED, 4]) + requested.packed
    if server is not None:
        options += bytes([Option.SERVER, 4]) + server.packed
    if client_id:
        options += bytes([Option.CLIENT_ID, len(client_id)]) + client_id
    if kind is not Message.RELEASE:
        options += bytes([Option.WANTED, len(_WANTED), *_WANTED])
    return fixed + _COOKIE + options + bytes([Option.END])


def read_reply(data: bytes) -> Reply | None:
    """A server's message; None where it is none, or cut short."""
    if len(data) < _HEADER.size + len(_COOKIE) or data[0] != _REPLY:
        return None
    fields = _HEADER.unpack_from(data)
    if data[_HEADER.size : _HEADER.size + len(_COOKIE)] != _COOKIE:
        return None
    options: dict[int, bytes] = {}
    at = _HEADER.size + len(_COOKIE)
    while at < len(data) and data[at] != Option.END:
        if data[at] == Option.PAD:
            at += 1
            continue
        if at + 1 >= len(data):
            return None
        code, length = data[at], data[at + 1]
        options[code] = options.get(code, b"") + data[at + 2 : at + 2 + length]
        at += 2 + length
    return Reply(fields[4], IPv4Address(fields[8]), options)


def read_lease(ack: Reply, server: IPv4Address, servers: tuple[IPv4Address, ...], took: float) -> Lease:
    """The lease that an acknowledgement gives. Raises ValueError where its mask is none."""
    options = ack.options
    mask = _addresses(options.get(Option.MASK, b"")) or [IPv4Address("255.255.255.255")]
    mtu = options.get(Option.MTU)
    return Lease(
        interface=IPv4Interface(f"{ack.address}/{mask[0]}"),
        routers=tuple(_addresses(options.get(Option.ROUTER, b""))),
        dns=tuple(_addresses(options.get(Option.DNS, b""))),
        host_name=_text(options.get(Option.HOST_NAME, b"")),
        domain=_text(options.get(Option.DOMAIN, b"")),
        mtu=None if mtu is None else int.from_bytes(mtu),
        server=server,
        servers=servers,
        seconds=int.from_bytes(options.get(Option.LEASE_TIME, b"")),
        took=took,
    )


def _prepare(sock: socket.socket, link: str) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.bind(("", _CLIENT_PORT))


def _exchange(
    sock: socket.socket, question: bytes, kinds: set[Message], offers: dict[IPv4Address, Reply], deadline: float
) -> Reply | None:
    """The first reply of one of `kinds`; all offers seen meanwhile are noted in `offers`."""
    again = 0.0
    while (now := time.monotonic()) < deadline:
        if now >= again:
            sock.sendto(question, _EVERYBODY)
            again = now + _AGAIN
        sock.settimeout(max(min(again, deadline) - now, 0.001))
        try:
            reply = read_reply(sock.recv(65536))
        except TimeoutError:
            continue
        if reply is None or reply.transaction != question[4:8]:
            continue
        if reply.message == Message.OFFER and reply.server is not None:
            offers.setdefault(reply.server, reply)
        if reply.message in kinds:
            return reply
    return None


def _hear(sock: socket.socket, transaction: bytes, offers: dict[IPv4Address, Reply], deadline: float) -> None:
    """Note those that are slower to offer than the one that was taken."""
    while (left := deadline - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            reply = read_reply(sock.recv(65536))
        except TimeoutError:
            return
        if reply is not None and reply.transaction == transaction and reply.message == Message.OFFER and reply.server:
            offers.setdefault(reply.server, reply)


def _addresses(data: bytes) -> list[IPv4Address]:
    return [IPv4Address(data[at : at + 4]) for at in range(0, len(data) - 3, 4)]


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode("ascii", errors="replace")
