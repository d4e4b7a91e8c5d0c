"""The door to who is there on a bridge: asked by ARP (RFC 826), and what the kernel's neighbour table says."""

from __future__ import annotations

import errno
import fcntl
import json
import select
import socket
import struct
import time
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address

from ai_how.errors import HostError
from ai_how.host.process import output

#: Seconds after which those who have not answered are asked again: frames get lost, and receive buffers overflow.
AGAIN = 0.3

#: Seconds between two looks at the kernel's table.
INTERVAL = 0.1

_ETH_P_ARP, _ETHERNET, _IPV4, _REQUEST, _REPLY = 0x0806, 1, 0x0800, 1, 2
_SIOCGIFADDR = 0x8915

#: RFC 863: nobody minds what is sent there.
_DISCARD = 9

#: What the kernel sends packets to by (NUD_VALID); one that is only suspected is asked by the kernel itself, after a
#: packet and 5 s of patience.
_VALID = frozenset({"PERMANENT", "NOARP", "REACHABLE", "STALE", "DELAY", "PROBE"})


def ask_by_arp(bridge: str, addresses: Collection[IPv4Address], *, within: float) -> frozenset[IPv4Address]:
    """Those of `addresses` that answer on `bridge` within so many seconds; returns as soon as all have.

    Needs CAP_NET_RAW: PermissionError without. Behind a bridge that is not there, or has no address, is nobody. The
    kernel's table is left alone: a thousand nodes would fill it.
    """
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP)) as asker:
        try:
            asker.bind((bridge, _ETH_P_ARP))
            # With no sender (RFC 5227's probe) a guest would take it for another claim to the address it just got.
            own = _address(bridge)
        except OSError as error:
            if error.errno in {errno.ENODEV, errno.EADDRNOTAVAIL, errno.ENXIO}:
                return frozenset()
            raise _trouble(bridge, error) from error
        mac: bytes = asker.getsockname()[4]
        left, found = set(addresses), set[IPv4Address]()
        deadline = time.monotonic() + within
        again = 0.0
        while left and (now := time.monotonic()) < deadline:
            if now >= again:
                again = now + AGAIN
                _send(asker, bridge, [request(mac, own, each) for each in sorted(left)])
            if select.select([asker], [], [], max(0.0, min(again, deadline) - time.monotonic()))[0]:
                answer = read_reply(_receive(asker, bridge))
                if answer in left:
                    left.discard(answer)
                    found.add(answer)
    return frozenset(found)


def ask_kernel(bridge: str, addresses: Collection[IPv4Address], *, within: float) -> frozenset[IPv4Address]:
    """The same as everybody may ask it: a packet to each makes the kernel ask, its table has the answer.

    Whom the kernel knows from before it asks only when the entry is old (15 to 45 s) and 5 s more have passed without
    an answer: until then such a node counts as there. On a bridge that was made anew nothing is known from before.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for each in addresses:
            try:
                sender.sendto(b"", (str(each), _DISCARD))
            except OSError as error:  # no way there, as behind a bridge that is gone: nobody answers
                if error.errno not in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ECONNREFUSED}:
                    raise _trouble(bridge, error) from error
    deadline = time.monotonic() + within
    while True:
        found = read_neighbours(list_neighbours(), bridge).intersection(addresses)
        if len(found) == len(set(addresses)) or time.monotonic() >= deadline:
            return found
        time.sleep(INTERVAL)


def list_neighbours() -> str:
    """`ip -json neighbour show` of all links, as text."""
    return output(["ip", "-json", "-4", "neighbour", "show"], remedy="Install it: apt-get install iproute2")


def read_neighbours(text: str, link: str) -> frozenset[IPv4Address]:
    """The addresses in `text` that the kernel knows on `link` and has not found silent."""
    return frozenset(
        IPv4Address(entry["dst"])
        for entry in json.loads(text or "[]")
        if entry.get("dev") == link and _VALID.intersection(entry.get("state", ()))
    )


def request(mac: bytes, own: IPv4Address, target: IPv4Address) -> bytes:
    """The frame that asks everybody who `target` is, and has the answer sent to `mac` and `own`."""
    head = b"\xff" * 6 + mac + struct.pack(">H", _ETH_P_ARP)
    return head + struct.pack(">HHBBH6s4s6s4s", _ETHERNET, _IPV4, 6, 4, _REQUEST, mac, own.packed, b"", target.packed)


def read_reply(frame: bytes) -> IPv4Address | None:
    """Who answers in this frame; None where it is no answer."""
    if len(frame) < 42 or frame[12:22] != struct.pack(">HHHBBH", _ETH_P_ARP, _ETHERNET, _IPV4, 6, 4, _REPLY):
        return None
    return IPv4Address(frame[28:32])


def _send(asker: socket.socket, bridge: str, frames: Sequence[bytes]) -> None:
    try:
        for frame in frames:
            asker.send(frame)
    except OSError as error:
        # Switched off, out of buffers for now, or gone: who has not been asked is asked again, or not there.
        if error.errno not in {errno.ENETDOWN, errno.ENOBUFS, errno.ENXIO, errno.ENODEV}:
            raise _trouble(bridge, error) from error


def _receive(asker: socket.socket, bridge: str) -> bytes:
    """The next frame; an empty one where the bridge was switched off or taken away meanwhile (packet(7))."""
    try:
        return asker.recv(128)
    except OSError as error:
        if error.errno != errno.ENETDOWN:
            raise _trouble(bridge, error) from error
        return b""


def _trouble(bridge: str, error: OSError) -> HostError:
    return HostError(
        f"nobody can be asked on {bridge}", why=str(error), remedy=f"Look at the bridge: ip addr show {bridge}"
    )


def _address(bridge: str) -> IPv4Address:
    """The bridge's own address (netdevice(7)). Raises OSError where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        told = fcntl.ioctl(asker, _SIOCGIFADDR, struct.pack("256s", bridge.encode()))
    return IPv4Address(told[20:24])
