"""The near end of `traffic`: round trips, connections and a stream to a far end, each from where a packet starts."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median, quantiles

from ai_how.probe.place import Place
from bench.far import PIECE
from bench.measure import Taken, timed

#: Seconds after which a packet is lost, and the measurement with it.
_PATIENCE = 5.0

_PAYLOAD = b"." * 64
_PIECE = bytes(PIECE)
#: Bytes that wait at either end of a stream: the kernel's own choice differs from one connection to the next.
_BUFFER = 1 << 20
#: Closing resets the connection: no port is kept waiting, of which a minute of connections would take all.
_RESET = struct.pack("ii", 1, 0)

_ROOT = Path(__file__).resolve().parents[1]


#: Of nice(2), the first.
_FIRST = -20


@contextmanager
def one_cpu() -> Iterator[None]:
    """This thread, and all that it starts meanwhile, on one CPU and before other programs, for the length of a `with`
    block.

    On several CPUs a round trip takes one of two times, by where the scheduler happens to wake the other end. On one,
    what both ends and the path take adds up, which is what is compared.
    """
    allowed, nice = os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)
    os.sched_setaffinity(0, {max(allowed)})
    os.setpriority(os.PRIO_PROCESS, 0, _FIRST)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        os.sched_setaffinity(0, allowed)


@dataclass(frozen=True, slots=True)
class Far:
    """A far end: where each of its three sockets is."""

    echo: tuple[str, int]
    greet: tuple[str, int]
    sink: tuple[str, int]


@contextmanager
def far_end(place: Place, address: IPv4Address) -> Iterator[Far]:
    """A far end at `place` for the length of a `with` block."""
    sockets = [place.socket(socket.AF_INET, kind) for kind in (socket.SOCK_DGRAM, *(socket.SOCK_STREAM,) * 2)]
    try:
        for each in sockets:
            each.bind((str(address), 0))
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            if each.type == socket.SOCK_STREAM:
                each.listen(128)
        descriptors = [each.fileno() for each in sockets]
        argv = [sys.executable, "-m", "bench.far", *map(str, descriptors)]
        running = subprocess.Popen(argv, pass_fds=descriptors, cwd=_ROOT)
        try:
            yield Far(*(each.getsockname() for each in sockets))
        finally:
            running.kill()
            running.wait()
    finally:
        for each in sockets:
            each.close()


def round_trips(place: Place, far: Far, count: int) -> tuple[Taken, Taken]:
    """One small packet there and back over UDP, `count` times: the median and the 90th percentile."""
    with place.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_PATIENCE)
        sock.connect(far.echo)
        for _ in range(count // 10):  # caches, neighbours, the state of the connection
            _there_and_back(sock)
        took: list[float] = []
        whole = timed(lambda: took.extend(_there_and_back(sock) for _ in range(count)))
    deciles = quantiles(took, n=10)
    return Taken(deciles[4], whole.cpu / count), Taken(deciles[8], whole.cpu / count)


def connections(place: Place, far: Far, count: int) -> Taken:
    """A new TCP connection that is greeted, `count` one after the other: the median."""
    took: list[float] = []

    def connect() -> None:
        for _ in range(count):
            begin = time.perf_counter()
            with socket.create_connection(far.greet, _PATIENCE) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                sock.recv(1)
            took.append(time.perf_counter() - begin)

    whole = place.at(timed, connect)
    return Taken(median(took), whole.cpu / count)


def stream(place: Place, far: Far, count: int) -> Taken:
    """PIECE bytes over an open TCP connection until the far end says that it has them, `count` times: the median."""
    took: list[float] = []

    def send() -> None:
        with socket.create_connection(far.sink, _PATIENCE) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            for _ in range(count):
                begin = time.perf_counter()
                sock.sendall(_PIECE)
                if sock.recv(1) != b".":
                    raise RuntimeError("the far end of a stream went away")
                took.append(time.perf_counter() - begin)

    whole = place.at(timed, send)
    return Taken(median(took), whole.cpu / count)


def _there_and_back(sock: socket.socket) -> float:
    begin = time.perf_counter()
    sock.send(_PAYLOAD)
    sock.recv(65536)
    return time.perf_counter() - begin
