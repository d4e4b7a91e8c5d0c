"""One packet, or one question, sent from a place, and what came back. Each is a coroutine: many may run at once.

What could not be sent at all (no route, no such link) is NotTested: it says nothing about what may pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import secrets
import socket
import struct
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

from ai_how.errors import HostError
from ai_how.probe.place import Place

Address = IPv4Address | IPv6Address

#: Seconds that an answer may take. Nothing here is farther than a few links.
WITHIN = 1.0

#: What every payload of ours begins with, before eight bytes of its own.
MAGIC = b"ai-how probe "

_IP_RECVERR, _IPV6_RECVERR = 11, 25
#: Never fragmented, and sent whatever the kernel believes of the path (ip(7)).
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3
#: Bytes of an echo request that are no payload: IPv4's header and ICMP's.
_HEADERS = 28
_ECHO, _ECHO6 = 8, 128
_ECHO_REPLY, _ECHO_REPLY6 = 0, 129
_ETH_P_ARP, _ARP_REQUEST, _ARP_REPLY = 0x0806, 1, 2

#: Of Ethernet with jumbo frames and without, PPPoE, tunnels of every kind, and what IPv6 and IPv4 must carry.
_USUAL_MTUS = (9000, 4000, 1500, 1492, 1480, 1476, 1450, 1420, 1400, 1372, 1280, 1000, 576)

#: What keeps this host from sending at all: it says nothing of what would have become of the packet.
_NOT_SENT = frozenset({errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

#: Seconds in which others claim an address that the first one has claimed.
_OTHERS_WITHIN = 0.1

T = TypeVar("T")


class NotTested(HostError):
    """The packet could not be sent, so that nothing is known about what would have become of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `replied`, or the `detail` of how it was refused or that nothing came. `ms` is milliseconds.

    `said` is the reply as text: the address that a responder saw us come from, the body of a page, the records of a
    name (`codes` has the response code, such as NXDOMAIN). `token` is a sequence of bytes that only this packet has.
    """

    replied: bool
    detail: str
    ms: float
    said: tuple[str, ...] = ()
    code: str = ""
    token: bytes = field(default=b"", repr=False)


def ask(question: Coroutine[Any, Any, T]) -> T:
    """Its answer, for callers that ask one thing at a time."""
    return asyncio.run(question)


async def ping(place: Place, target: Address, *, within: float = WITHIN, whole: int | None = None) -> Answer:
    """An ICMP echo request (RFC 792, RFC 4443); with `whole` one over IPv4 of so many bytes, in one piece."""
    token = _token()
    version6 = target.version == 6
    payload = token if whole is None else token.ljust(whole - _HEADERS, b"\0")
    protocol = socket.getprotobyname("ipv6-icmp") if version6 else socket.IPPROTO_ICMP
    packet = struct.pack(">BBHHH", _ECHO6 if version6 else _ECHO, 0, 0, os.getpid() & 0xFFFF, 1) + payload
    if not version6:  # the kernel does it for ICMPv6
        packet = packet[:2] + struct.pack(">H", checksum(packet)) + packet[4:]

    def is_reply(data: bytes) -> bool:
        return is_echo_reply(data, token, version6=version6)

    with _connected(place, target, 0, socket.SOCK_RAW, protocol) as sock:
        if whole is not None:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        return await _exchange(sock, packet, is_reply, within, token)


def is_echo_reply(data: bytes, token: bytes, *, version6: bool = False) -> bool:
    """Whether what a raw socket got is the reply to the echo request with `token`. An error of the target's quotes the
    request, and is none (RFC 792); over IPv4 the socket has the header of IP, too."""
    header = 0 if version6 else (data[0] & 15) * 4
    return token in data and data[header] == (_ECHO_REPLY6 if version6 else _ECHO_REPLY)


async def whole_size(place: Place, target: IPv4Address, mtu: int) -> int | None:
    """The largest of the usual sizes below `mtu` that arrives in one piece; None where none does."""
    sizes = [each for each in _USUAL_MTUS if each < mtu]
    answers = await asyncio.gather(*(ping(place, target, whole=each) for each in sizes), return_exceptions=True)
    arrived = (size for size, each in zip(sizes, answers, strict=True) if isinstance(each, Answer) and each.replied)
    return max(arrived, default=None)


async def udp(place: Place, target: Address, port: int, *, within: float = WITHIN) -> Answer:
    """A datagram to a responder (responder.py); `said` is the address that it saw."""
    token = _token()
    with _connected(place, target, port, socket.SOCK_DGRAM) as sock:
        return await _exchange(sock, token, lambda data: token in data, within, token, keep=len(token))


async def tcp(place: Place, target: Address, port: int, *, within: float = WITHIN, send: bytes = b"") -> Answer:
    """A TCP connection: replied is when it is established; `said` is what the other end says before it closes."""
    begin = time.monotonic()
    _route(place, target)
    with _socket(place, target, socket.SOCK_STREAM) as sock:
        sock.bind(("::" if target.version == 6 else "0.0.0.0", 0))  # noqa: S104 - a client's
        token = target.packed + struct.pack(">HH", sock.getsockname()[1], port)
        loop = asyncio.get_running_loop()
        try:
            await _in_time(within, loop.sock_connect(sock, _where(place, target, port)))
        except TimeoutError:
            return _silence(begin, within, token)
        except OSError as error:
            return _refusal(begin, error, token)
        ms = _since(begin)
        said: list[bytes] = []

        async def listen() -> None:
            if send:
                await loop.sock_sendall(sock, send)
            while chunk := await loop.sock_recv(sock, 65536):
                said.append(chunk)

        with contextlib.suppress(TimeoutError, OSError):
            await _in_time(within, listen())
        words = b"".join(said).decode(errors="replace")
        return Answer(True, f"connected in {ms:.1f} ms", ms, (words,), token=token)


async def http(place: Place, target: Address, host: str, *, within: float = WITHIN) -> Answer:
    """A page of the web server at `target`, asked for as `host`; `said` is its body."""
    request = f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode()
    answer = await tcp(place, target, 80, within=within, send=request)
    head, _, body = "".join(answer.said).partition("\r\n\r\n")
    code = head.split(" ")[1] if head.startswith("HTTP/") and " " in head else ""
    if answer.replied and not code:
        return Answer(False, "connected, but no page came", answer.ms, token=answer.token)
    return Answer(answer.replied, answer.detail, answer.ms, (body,), code, answer.token)


async def dns(
    place: Place, server: Address, name: str, kind: str = "A", *, over_tcp: bool = False, within: float = WITHIN
) -> Answer:
    """A question to `server`; `said` are the records of type `kind` in the answer, `code` is its response code."""
    import dns.exception
    import dns.message
    import dns.rcode
    import dns.rdatatype

    query = dns.message.make_query(name, kind)
    wire = query.to_wire()
    token = name_in_query(name)
    if over_tcp:
        begin = time.monotonic()
        answer = await _over_tcp(place, server, wire, within)
        if answer is None or isinstance(answer, Answer):
            return answer or Answer(False, "connected, but no answer came", _since(begin), token=token)
        data, ms = answer, _since(begin)
    else:
        with _connected(place, server, 53, socket.SOCK_DGRAM) as sock:
            got: list[bytes] = []

            def is_reply(data: bytes) -> bool:
                got[:] = [data]
                return data[:2] == wire[:2]

            exchanged = await _exchange(sock, wire, is_reply, within, token)
        if not exchanged.replied:
            return exchanged
        data, ms = got[0], exchanged.ms
    try:
        reply = dns.message.from_wire(data)
    except dns.exception.DNSException as error:
        return Answer(False, f"an answer that makes no sense: {error}", ms, token=token)
    wanted = dns.rdatatype.from_text(kind)
    records = tuple(sorted(item.to_text() for each in reply.answer if each.rdtype == wanted for item in each))
    code = dns.rcode.to_text(reply.rcode())
    return Answer(True, f"{code} {' '.join(records)}".strip(), ms, records, code, token)


async def forged(place: Place, source: IPv4Address, target: IPv4Address) -> Answer:
    """An echo request that claims to come from `source`: no answer comes here; look for `token` where it should not
    arrive."""
    token = _token()
    echo = struct.pack(">BBHHH", _ECHO, 0, 0, os.getpid() & 0xFFFF, 1) + token
    echo = echo[:2] + struct.pack(">H", checksum(echo)) + echo[4:]
    length = 20 + len(echo)
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, length, 0, 0, 64, 1, 0, source.packed, target.packed)
    begin = time.monotonic()
    _route(place, target)
    with _socket(place, target, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        try:
            sock.sendto(header + echo, (str(target), 0))
        except OSError as error:
            raise _not_tested(place, target, error) from error
    return Answer(False, f"sent as {source}", _since(begin), token=token)


async def arp(
    place: Place, link: str, target: IPv4Address, *, within: float = WITHIN, everyone: bool = False
) -> Answer:
    """Who has `target` on `link` (RFC 826)? `said` is the hardware address that claims it; with `everyone` all that
    claim it within a moment of the first, or within a second."""
    begin = time.monotonic()
    claims: dict[str, float] = {}
    try:
        opened = place.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP))
    except OSError as error:
        raise _not_tested(place, target, error) from error
    with opened as sock:
        try:
            sock.bind((link, _ETH_P_ARP))
        except OSError as error:
            raise _not_tested(place, target, error) from error
        mac = sock.getsockname()[4]
        sock.setblocking(False)
        # From no address of its own, as a probe for duplicates is: it teaches nobody anything (RFC 5227).
        question = struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, _ARP_REQUEST, mac, b"", b"", target.packed)
        frame = b"\xff" * 6 + mac + struct.pack(">H", _ETH_P_ARP) + question

        loop = asyncio.get_running_loop()

        async def hear() -> None:
            while True:
                data = await loop.sock_recv(sock, 65536)
                if data[20:22] == struct.pack(">H", _ARP_REPLY) and data[28:32] == target.packed:
                    claims.setdefault(data[22:28].hex(":"), _since(begin))
                    return

        async def hear_all() -> None:
            while True:
                await hear()

        try:
            await loop.sock_sendall(sock, frame)
            await _in_time(within, hear())
            if everyone:
                with contextlib.suppress(TimeoutError):
                    await _in_time(_OTHERS_WITHIN, hear_all())
        except TimeoutError:
            return _silence(begin, within, question)
        except OSError as error:
            return _refusal(begin, error, question)
    macs = tuple(sorted(claims))
    return Answer(True, f"{target} is at {', '.join(macs)}", min(claims.values()), macs, token=question)


def translated(token: bytes, to: IPv4Address, port: int) -> bytes:
    """The token of a TCP connection over IPv4 where its destination has become another."""
    return to.packed + token[4:6] + struct.pack(">H", port)


def name_in_query(name: str) -> bytes:
    """How `name` looks in a question on the wire (RFC 1035, 3.1)."""
    labels = (label.encode("ascii") for label in name.rstrip(".").split("."))
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


async def _in_time(within: float, work: Coroutine[Any, Any, T]) -> T:
    """What comes of `work`, also where both are over before a busy host lets us look: an answer that was there in time
    is one. Raises TimeoutError."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task,), timeout=within)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))  # it lets go of its socket before that is closed
    if task.cancelled():
        raise TimeoutError
    return task.result()


def _token() -> bytes:
    return MAGIC + secrets.token_bytes(8)


async def _exchange(
    sock: socket.socket,
    packet: bytes,
    is_reply: Callable[[bytes], bool],
    within: float,
    token: bytes,
    *,
    keep: int | None = None,
) -> Answer:
    """Send, and wait for what `is_reply` takes. With `keep` the reply's text after so many bytes is `said`."""
    loop = asyncio.get_running_loop()
    begin = time.monotonic()

    async def reply() -> bytes:
        await loop.sock_sendall(sock, packet)
        while not is_reply(data := await loop.sock_recv(sock, 65536)):
            pass
        return data

    try:
        data = await _in_time(within, reply())
    except TimeoutError:
        return _silence(begin, within, token)
    except OSError as error:
        return _refusal(begin, error, token)
    ms = _since(begin)
    said = () if keep is None else (data[keep:].decode(errors="replace"),)
    return Answer(True, f"reply in {ms:.1f} ms", ms, said, token=token)


async def _over_tcp(place: Place, server: Address, wire: bytes, within: float) -> Answer | bytes | None:
    """A question over TCP (RFC 1035, 4.2.2): two bytes of length before each message. Servers keep it open."""
    _route(place, server)
    loop = asyncio.get_running_loop()
    begin = time.monotonic()
    with _socket(place, server, socket.SOCK_STREAM) as sock:

        async def reply() -> bytes | None:
            await loop.sock_connect(sock, _where(place, server, 53))
            await loop.sock_sendall(sock, struct.pack(">H", len(wire)) + wire)
            data = b""
            while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2]):
                chunk = await loop.sock_recv(sock, 65536)
                if not chunk:
                    return None
                data += chunk
            return data[2:]

        try:
            return await _in_time(within, reply())
        except TimeoutError:
            return _silence(begin, within, b"")
        except OSError as error:
            return _refusal(begin, error, b"")


def _socket(place: Place, target: Address, kind: int, protocol: int = 0) -> socket.socket:
    family = socket.AF_INET6 if target.version == 6 else socket.AF_INET
    try:
        sock = place.socket(family, kind, protocol)
    except OSError as error:
        raise _not_tested(place, target, error) from error
    sock.setblocking(False)
    return sock


def _connected(place: Place, target: Address, port: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket of that peer alone, which learns of refusals (ip(7), IP_RECVERR)."""
    sock = _socket(place, target, kind, protocol)
    try:
        if target.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        sock.connect(_where(place, target, port))
    except OSError as error:
        sock.close()
        raise _not_tested(place, target, error) from error
    return sock


def _route(place: Place, target: Address) -> None:
    """Raise NotTested where the place itself knows no way: nothing would be sent."""
    with _connected(place, target, 9, socket.SOCK_DGRAM):
        pass


def _where(place: Place, target: Address, port: int) -> tuple[Any, ...]:
    if isinstance(target, IPv4Address):
        return (str(target), port)
    scope = target.scope_id
    try:
        number = place.at(socket.if_nametoindex, scope) if scope else 0
    except OSError as error:
        raise _not_tested(place, target, error) from error
    return (str(ipaddress.IPv6Address(int(target))), port, 0, number)


def _not_tested(place: Place, target: Address, error: OSError) -> NotTested:
    return NotTested(f"nothing can be sent from {place.name} to {target}", why=error.strerror or str(error))


def _silence(begin: float, within: float, token: bytes) -> Answer:
    return Answer(False, f"no reply in {within:g} s", _since(begin), token=token)


def _refusal(begin: float, error: OSError, token: bytes) -> Answer:
    if error.errno in _NOT_SENT:
        raise NotTested("nothing can be sent", why=error.strerror or str(error)) from error
    named = errno.errorcode.get(error.errno or 0, "")
    # Not the error's own words: asyncio says with whom it was, which whoever asked knows.
    why = os.strerror(error.errno) if error.errno else str(error)
    return Answer(False, f"refused: {why} ({named})", _since(begin), token=token)


def _since(begin: float) -> float:
    return (time.monotonic() - begin) * 1000
