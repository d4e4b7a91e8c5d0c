"""The other end of `traffic`, as a process of its own: python -m bench.far ECHO GREET SINK, descriptors of sockets.

ECHO (UDP) sends back what it gets, GREET (TCP) one byte to everybody who connects, SINK (TCP) one after every PIECE
bytes. One thread each, blocked but for its turn; only one of them works at a time.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable

#: Bytes of a stream that are answered.
PIECE = 4 << 20
#: Bytes read at once.
_ROOM = 1 << 20


def _echo(sock: socket.socket) -> None:
    while True:
        data, peer = sock.recvfrom(65536)
        sock.sendto(data, peer)


def _greet(sock: socket.socket) -> None:
    while True:
        client, _ = sock.accept()
        with client, contextlib.suppress(OSError):  # gone already
            client.send(b".")


def _sink(sock: socket.socket) -> None:
    room = bytearray(_ROOM)
    while True:
        client, _ = sock.accept()
        got = 0
        with client:
            while read := client.recv_into(room):
                got += read
                if got % PIECE == 0:
                    client.send(b".")


def main() -> None:
    """Serve until this process is ended."""
    serve: tuple[Callable[[socket.socket], None], ...] = (_echo, _greet, _sink)
    threads = [
        threading.Thread(target=work, args=(socket.socket(fileno=int(descriptor)),))
        for work, descriptor in zip(serve, sys.argv[1:], strict=True)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


if __name__ == "__main__":
    main()
