"""Latency, throughput and questions answered between two places, and what was measured as plain data.

Each measurement sends as fast as answers come, from one thread: what differs between two places measured alike is the
network between them. Whoever compares must measure both ends of the comparison in the same run.
"""

from __future__ import annotations

import math
import secrets
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address

from ai_how.errors import NotReady
from ai_how.probe.packets import checksum, name_in_query
from ai_how.probe.place import Place

#: Seconds that one answer may take; what takes longer is lost.
WITHIN = 1.0

#: So often one after the other may nothing come until nobody is there. A link that has just been made loses packets.
_SILENT = 3
_NO_ANSWER = f"no answer in {_SILENT * WITHIN:g} s"

#: Round trips that are kept of one measurement, so that a long one fits into memory.
MOST = 100_000

#: Bytes handed to the kernel at once, as bulk copies do.
_CHUNK = 256 * 1024

#: Questions that wait for an answer at any time, as of a busy cluster.
_WINDOW = 32

_ECHO, _ECHO_REPLY = 8, 0
_SOL_RAW, _ICMP_FILTER = 255, 1
_DNS_PORT, _TYPE_A, _CLASS_IN, _RECURSION = 53, 1, 1, 0x0100
#: The name is there, or is denied: either way somebody looked.
_ANSWERS = (0, 3)


class Unmeasured(NotReady):
    """There is no figure, and why."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Round trips in milliseconds, and how many were `lost`."""

    ms: tuple[float, ...]
    lost: int = 0

    def __add__(self, other: Latency) -> Latency:
        return Latency(self.ms + other.ms, self.lost + other.lost)

    def percentile(self, percent: float) -> float:
        """The least round trip that so many percent of all do not exceed (nearest rank)."""
        ordered = sorted(self.ms)
        return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Rate:
    """So much in so many seconds, and how many questions were `lost`."""

    amount: int
    seconds: float
    lost: int = 0

    def __add__(self, other: Rate) -> Rate:
        return Rate(self.amount + other.amount, self.seconds + other.seconds, self.lost + other.lost)

    @property
    def per_second(self) -> float:
        """The rate."""
        return self.amount / self.seconds


def latency(place: Place, to: IPv4Address, seconds: float) -> Latency:
    """Echo requests to `to`, each sent when the one before is answered. Raises Unmeasured where nobody answers."""
    token = secrets.token_bytes(48)
    found: list[float] = []
    lost = silent = sequence = 0
    with place.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        # Of everything that arrives at the place only replies wake us.
        sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << _ECHO_REPLY) & 0xFFFFFFFF))
        _wait_at_most(sock, WITHIN)
        try:
            sock.connect((str(to), 0))
            # The first reply is not counted: it waited for ARP.
            while silent < _SILENT and _echo(sock, sequence, token) is None:
                silent += 1
            begin = time.monotonic()
            while silent < _SILENT and len(found) < MOST and (not found or time.monotonic() - begin < seconds):
                sequence = (sequence + 1) % 0x10000
                took = _echo(sock, sequence, token)
                if took is None:
                    lost, silent = lost + 1, silent + 1
                else:
                    silent = 0
                    found.append(took * 1000)
        except OSError as error:
            raise Unmeasured(f"{place.name} cannot ping {to}", why=error.strerror or str(error)) from error
    if not found:
        raise Unmeasured(f"{to} does not answer {place.name}", why=_NO_ANSWER)
    return Latency(tuple(found), lost)


def throughput(sender: Place, receiver: Place, to: IPv4Address, seconds: float) -> Rate:
    """Bytes that arrive over one TCP connection from `sender` to the address `to` of `receiver`. Raises Unmeasured."""
    with (
        ThreadPoolExecutor(1) as reader,
        receiver.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        sender.socket(socket.AF_INET, socket.SOCK_STREAM) as outward,
    ):
        listener.bind((str(to), 0))
        listener.listen(1)
        outward.settimeout(_SILENT * WITHIN)
        try:
            outward.connect((str(to), listener.getsockname()[1]))
        except OSError as error:
            why = _NO_ANSWER if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise Unmeasured(f"{sender.name} gets no TCP connection to {to}", why=why) from error
        inward, _ = listener.accept()
        arrived = reader.submit(_drain, inward)
        _pour(outward, seconds)
        outward.close()
        found = arrived.result()
    if not found.amount:
        raise Unmeasured(
            f"nothing comes over a TCP connection from {sender.name} to {to}", why="connected, but no data"
        )
    return found


def questions(place: Place, server: IPv4Address, name: str, seconds: float) -> Rate:
    """Answers of the DNS server `server` to questions for the address of `name`. Raises Unmeasured."""
    question = name_in_query(name) + struct.pack(">HH", _TYPE_A, _CLASS_IN)
    waiting: set[int] = set()
    answered, lost, silent, number = 0, 0, 0, secrets.randbelow(0x10000)
    with place.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        _wait_at_most(sock, WITHIN)
        try:
            sock.connect((str(server), _DNS_PORT))
            begin = last = time.monotonic()
            while (more := not answered or time.monotonic() - begin < seconds) or waiting:
                while more and len(waiting) < _WINDOW:
                    number = (number + 1) % 0x10000
                    sock.send(struct.pack(">6H", number, _RECURSION, 1, 0, 0, 0) + question)
                    waiting.add(number)
                try:
                    data = sock.recv(512)
                except BlockingIOError:
                    lost, silent = lost + len(waiting), silent + 1
                    waiting.clear()
                    if silent == _SILENT:
                        break
                    continue
                this, flags = struct.unpack(">HH", data[:4].ljust(4, b"\0"))
                if this in waiting:
                    waiting.remove(this)
                    if flags & 15 not in _ANSWERS:
                        raise Unmeasured(f"{server} does not tell {place.name} about {name}", why=f"code {flags & 15}")
                    answered, silent = answered + 1, 0
                    last = time.monotonic()
        except OSError as error:
            raise Unmeasured(f"{place.name} cannot ask {server}", why=error.strerror or str(error)) from error
    if not answered:
        raise Unmeasured(f"{server} answers no question of {place.name}", why=_NO_ANSWER)
    return Rate(answered, last - begin, lost)


def _echo(sock: socket.socket, sequence: int, token: bytes) -> float | None:
    """The seconds that one echo request (RFC 792) and its reply take, None where none comes."""
    unsummed = struct.pack(">BBHHH", _ECHO, 0, 0, 0, sequence) + token
    packet = unsummed[:2] + struct.pack(">H", checksum(unsummed)) + unsummed[4:]
    reply = packet[6:]  # its number and the token
    begin = time.monotonic()
    sock.send(packet)
    while time.monotonic() - begin < WITHIN:
        try:
            data = sock.recv(2048)
        except BlockingIOError:
            return None
        if data.endswith(reply):
            return time.monotonic() - begin
    return None


def _pour(sock: socket.socket, seconds: float) -> None:
    """Send for so many seconds, or until the other end takes nothing for a while."""
    chunk = bytes(_CHUNK)
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            sock.send(chunk)
    except OSError:
        return  # what arrived until then counts


def _drain(sock: socket.socket) -> Rate:
    """What comes until the other end closes, or sends nothing for a while."""
    buffer, total = bytearray(_CHUNK), 0
    begin = last = time.monotonic()
    with sock:
        sock.settimeout(2 * WITHIN)
        try:
            while got := sock.recv_into(buffer):
                total += got
                last = time.monotonic()
        except OSError:
            pass  # silence, or a reset: what arrived until then counts
    return Rate(total, max(last - begin, 1e-6))


def _wait_at_most(sock: socket.socket, seconds: float) -> None:
    """A limit that the kernel keeps: with Python's own each recv(2) would cost a poll(2), too."""
    whole = int(seconds)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", whole, int((seconds - whole) * 1e6)))
