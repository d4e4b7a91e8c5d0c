"""What answers at places, and what notes the packets that arrive there."""

from __future__ import annotations

import contextlib
import ctypes
import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address
from typing import Self

from ai_how.errors import HostError
from ai_how.probe.packets import Address
from ai_how.probe.place import Place

_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
#: Bytes of frames that a tap keeps until it is read: some ten thousand small ones.
_BUFFER = 16 * 1024 * 1024
_LONGEST_FRAME = 65536
#: Bytes of the longest frames that are noted: what is looked for is in small ones, and a busy uplink has many others.
_LONGEST_NOTED = 600
#: struct sock_filter (linux/filter.h): the length; is it greater? take nothing; take all of it.
_FILTER = b"".join(
    struct.pack("=HBBI", *each)
    for each in ((0x80, 0, 0, 0), (0x25, 0, 1, _LONGEST_NOTED), (0x06, 0, 0, 0), (0x06, 0, 0, _LONGEST_FRAME))
)
_SO_ATTACH_FILTER = 26
_SOL_PACKET, _PACKET_STATISTICS = 263, 6


class Responder:
    """Answers TCP and UDP at any number of places with the address that the question seemed to come from."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._stop, self._stopped = socket.socketpair()
        self._selector.register(self._stopped, selectors.EVENT_READ)
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, name="responder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()
        self._thread.join()
        for each in (*self._sockets, self._stopped):
            each.close()
        self._selector.close()

    def listen(self, place: Place, port: int, address: Address | None = None) -> None:
        """Answer at `port` of `place`, on `address` or on all of IPv4 and IPv6. Raises HostError."""
        families = (socket.AF_INET, socket.AF_INET6) if address is None else (_family(address),)
        for family in families:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                sock = place.socket(family, kind)
                self._sockets.append(sock)
                try:
                    self._open(sock, "" if address is None else str(address), port)
                except OSError as error:
                    raise HostError(f"port {port} cannot be answered at {place.name}", why=str(error)) from error

    def _open(self, sock: socket.socket, address: str, port: int) -> None:
        if sock.type == socket.SOCK_STREAM:
            # Of datagrams it would take those that a server of the host's is there for.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        if sock.type == socket.SOCK_STREAM:
            sock.listen(128)
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                sock = key.fileobj
                if sock is self._stopped:
                    return
                # A peer that went away again, or has no way back, is no trouble of ours.
                with contextlib.suppress(OSError):
                    if isinstance(sock, socket.socket):
                        _answer(sock)


def _answer(sock: socket.socket) -> None:
    if sock.type == socket.SOCK_STREAM:
        client, peer = sock.accept()
        with client:
            client.sendall(_seen(peer[0]).encode())
    else:
        data, peer = sock.recvfrom(65536)
        sock.sendto(data + _seen(peer[0]).encode(), peer)


def _seen(address: str) -> str:
    return str(ip_address(address.partition("%")[0]))


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET


class Tap:
    """Notes every frame of the size of a probe that arrives at a link of a place, or those that leave by it."""

    def __init__(self, sock: socket.socket, *, outgoing: bool = False) -> None:
        self._socket = sock
        self._outgoing = outgoing
        self._frames: list[bytes] = []
        self._lost = False

    def frames(self) -> list[bytes]:
        """All of them since the tap was opened."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, origin = self._socket.recvfrom(_LONGEST_FRAME)
                if (origin[2] == socket.PACKET_OUTGOING) is self._outgoing:
                    self._frames.append(data)
        return self._frames

    def saw(self, token: bytes) -> bool | None:
        """Whether one of them holds `token`; None where that is not known: where some were lost, or nothing tells the
        packet from others."""
        if not token:
            return None
        if any(token in frame for frame in self.frames()):
            return True
        return None if self._has_lost() else False

    def _has_lost(self) -> bool:
        # The kernel counts from one question to the next.
        _, lost = struct.unpack("=II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._lost = self._lost or lost > 0
        return self._lost


@contextmanager
def tap(place: Place, link: str, *, outgoing: bool = False) -> Iterator[Tap]:
    """A tap on `link` for the length of a `with` block, for what arrives or for what leaves."""
    # Without a protocol it takes nothing yet: neither of other links, nor while its buffer is still a small one.
    with place.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        program = ctypes.create_string_buffer(_FILTER)
        described = struct.pack("@HP", len(_FILTER) // 8, ctypes.addressof(program))
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
        sock.bind((link, _ETH_P_ALL))
        sock.setblocking(False)
        yield Tap(sock, outgoing=outgoing)
