"""Pings at a steady pace from any place, while something changes, and which of them were never answered.

with Meter() as meter:
    meter.ping(node.place, INTERNET.resolvers[0], "node → internet")
    with meter.watching() as watched:
        …
    assert watched.losses == []
"""

from __future__ import annotations

import secrets
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address
from statistics import median
from subprocess import CompletedProcess
from typing import Self

from tests.waiting import until

from ai_how.probe.packets import checksum
from ai_how.probe.place import Place

#: Seconds from one ping to the next: 50 in a second.
INTERVAL = 0.02

#: Seconds after which a ping counts as lost. On a busy machine an answer may be late, and late is not lost.
PATIENCE = 15.0

#: Seconds for which it goes on after what is watched: a daemon may do what it was told a moment later.
AFTERWARDS = 0.2

_ECHO, _REPLY = 8, 0
_SOL_RAW, _ICMP_FILTER = 255, 1  # raw(7)

Guest = Callable[..., CompletedProcess[str]]


class Stream:
    """Pings from one place to one address."""

    def __init__(self, place: Place, target: IPv4Address, label: str) -> None:
        self.label, self._target = label, target
        self._token = secrets.token_bytes(8)
        self._identity = secrets.randbelow(0x10000)
        #: When each was sent, and when it was answered, if it was.
        self.sent: list[float] = []
        self.answered: list[float | None] = []
        self.socket = place.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self.socket.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << _REPLY) & 0xFFFFFFFF))
        self.socket.setblocking(False)

    def send(self) -> None:
        """One more. What the place itself cannot send counts as sent: it will not be answered."""
        number = len(self.sent) & 0xFFFF
        packet = struct.pack(">BBHHH", _ECHO, 0, 0, self._identity, number) + self._token
        packet = packet[:2] + struct.pack(">H", checksum(packet)) + packet[4:]
        self.answered.append(None)  # first: whoever reads both meanwhile finds an answer for each that was sent
        self.sent.append(time.monotonic())
        try:
            self.socket.sendto(packet, (str(self._target), 0))
        except OSError:
            return

    def receive(self) -> None:
        """Note which one was answered."""
        try:
            data, (source, _) = self.socket.recvfrom(65536)
        except OSError:
            return
        icmp = data[(data[0] & 15) * 4 :]
        if source != str(self._target) or icmp[8:] != self._token:
            return
        identity, number = struct.unpack(">HH", icmp[4:8])
        newest = len(self.sent) - 1
        index = newest - ((newest - number) & 0xFFFF)
        if identity == self._identity and index >= 0:
            self.answered[index] = self.answered[index] or time.monotonic()

    def between(self, begin: float, end: float) -> list[int]:
        """The numbers of those that were sent in this time."""
        return [number for number, at in enumerate(self.sent) if begin <= at < end]

    def was_answered_since(self, begin: float) -> bool:
        """Whether one of those that were sent since then was answered."""
        return any(came for at, came in zip(self.sent, self.answered, strict=False) if at >= begin)


@dataclass(slots=True)
class Watched:
    """What became of the pings while something was watched; empty until the block is left."""

    #: Label → how many were sent, and how many seconds after the beginning each of those that were never answered.
    sent: dict[str, int] = field(default_factory=dict)
    lost: dict[str, list[float]] = field(default_factory=dict)
    #: How many seconds each of the others took, of all streams.
    took: list[float] = field(default_factory=list)

    @property
    def lateness(self) -> float:
        """The median of that."""
        return median(self.took)

    @property
    def losses(self) -> list[str]:
        """A line for each stream that lost any."""
        return [
            f"{label}: {len(at)} of {self.sent[label]} lost, from {at[0]:.2f} s to {at[-1]:.2f} s"
            for label, at in self.lost.items()
            if at
        ]

    @property
    def fewest(self) -> int:
        """How many pings of the slowest stream were sent."""
        return min(self.sent.values())


class Meter:
    """Sends all streams from a thread of its own, from `with` to the end of the block."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._streams: list[Stream] = []
        self._lock = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="pings", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()
        for each in self._streams:
            each.socket.close()
        self._selector.close()

    def ping(self, place: Place, target: IPv4Address, label: str) -> Stream:
        """Begin a stream."""
        stream = Stream(place, target, label)
        with self._lock:
            self._selector.register(stream.socket, selectors.EVENT_READ, stream)
            self._streams.append(stream)
        return stream

    def end(self, stream: Stream) -> None:
        """End it."""
        with self._lock:
            self._streams.remove(stream)
            self._selector.unregister(stream.socket)
            stream.socket.close()

    def wait_until_answered(self) -> None:
        """Wait until a ping of every stream that is sent from now on is answered."""
        begin = time.monotonic()
        for each in list(self._streams):
            until(partial(each.was_answered_since, begin), f"an answer of {each.label}")

    @contextmanager
    def watching(self) -> Iterator[Watched]:
        """What becomes of the pings that are sent until the block is left, and a moment afterwards."""
        watched, begin = Watched(), time.monotonic()
        yield watched
        time.sleep(AFTERWARDS)  # nothing to wait for: what is looked for is that nothing comes
        end = time.monotonic()
        streams = [(stream, stream.between(begin, end)) for stream in self._streams]
        while time.monotonic() < end + PATIENCE:
            if all(stream.answered[number] for stream, numbers in streams for number in numbers):
                break
            time.sleep(INTERVAL)
        for stream, numbers in streams:
            watched.sent[stream.label] = len(numbers)
            watched.lost[stream.label] = [stream.sent[each] - begin for each in numbers if not stream.answered[each]]
            watched.took += [came - stream.sent[each] for each in numbers if (came := stream.answered[each])]

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended:
            if (now := time.monotonic()) >= due:
                with self._lock:
                    for each in self._streams:
                        each.send()
                due = max(due + INTERVAL, now)  # what a busy machine left out is not made up for in a burst
            for key, _ in self._selector.select(max(due - time.monotonic(), 0)):
                with self._lock:
                    if key.data in self._streams:
                        key.data.receive()


class GuestPings:
    """The same from inside a guest, by its own `ping`, counted at the end by its kernel: on a busy machine the program
    is too slow to take every answer that arrives."""

    def __init__(self, in_guest: Guest, node: str, target: IPv4Address) -> None:
        """Begin."""
        self.label = f"{node} → {target}"
        self._in_guest, self._node = in_guest, node
        self._before = self._counted()
        self._run(f"ping -q -i {INTERVAL} {target} > /run/pings 2>&1 & echo $! > /run/pings.pid")

    def end(self) -> tuple[int, int]:
        """How many were sent, and how many of them were never answered."""
        self._run("kill -INT $(cat /run/pings.pid)")
        deadline = time.monotonic() + PATIENCE
        while True:
            sent, answered = (now - before for now, before in zip(self._counted(), self._before, strict=True))
            if sent == answered or time.monotonic() > deadline:
                return sent, sent - answered
            time.sleep(INTERVAL)

    def _counted(self) -> tuple[int, int]:
        """How many echo requests the guest has sent, and how many replies have arrived, since it started."""
        lines = [line.split() for line in self._run("cat /proc/net/snmp").splitlines() if line.startswith("Icmp:")]
        counters = dict(zip(*lines, strict=True))
        return int(counters["OutEchos"]), int(counters["InEchoReps"])

    def _run(self, script: str) -> str:
        ran = self._in_guest(self._node, "/bin/sh", "-c", script)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout
