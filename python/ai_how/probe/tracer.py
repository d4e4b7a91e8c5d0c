"""Packets traced through the rules of this host: live, for the length of a `with` block (nft(8), "meta nftrace").

The tables that mark packets belong to a process of nft's that holds them (flag `owner`): they end with it, and it ends
with us, also when we are killed. A table without that flag would stay behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import IO

from ai_how.errors import HostError, PrivilegeError
from ai_how.probe.trace import FIRST, LAST, MARKER, Event, read_trace
from ai_how.resources.firewall import TRACES

#: Seconds in which nft must have made a table, or printed what it was told: milliseconds, as a rule.
WITHIN = 10.0

_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
#: Hooks at which packets come to a host's rules, and are marked.
_ENTRANCES = ("prerouting", "output")
_FAMILIES = ("inet", "bridge")
#: Bytes (RFC 768).
_UDP_HEADER = 8
_EARLIEST, _LATEST, _AFTER_CONNTRACK = -2147483648, 2147483647, -199

#: Ends a program when its parent ends, however it does (util-linux).
_WITH_US = ("setpriv", "--pdeathsig", "KILL")


@dataclass(frozen=True, slots=True)
class Flow:
    """Which packets are marked: those of `protocol` from `source` to `target`, to `port` of it, and what comes back."""

    protocol: str
    source: IPv4Address
    target: IPv4Address
    port: int | None = None


class Tracer:
    """What the kernel has said so far."""

    def __init__(self, table: str, monitor: subprocess.Popen[bytes], marker: socket.socket) -> None:
        self._table, self._monitor, self._marker = table, monitor, marker
        self._text = b""
        self._times = 0
        self._selector = selectors.DefaultSelector()
        self._output = _pipe(monitor.stdout)
        os.set_blocking(self._output.fileno(), False)
        self._selector.register(self._output, selectors.EVENT_READ)

    def events(self) -> tuple[Event, ...]:
        """Everything up to now. Raises HostError."""
        self._until_marked()
        own = self._marker.getsockname()[1]
        events = read_trace(self._text.decode(errors="replace"))
        # The marker itself is seen twice: when it leaves and, as another packet, when it comes.
        markers = {each.trace for each in events if each.headers.sport == each.headers.dport == own}
        return tuple(each for each in events if each.trace not in markers)

    def close(self) -> None:
        self._selector.close()

    def _until_marked(self) -> None:
        """Read until a packet that is sent now is seen: the kernel tells in order, so nothing is still to come."""
        # Each time a byte longer: those of earlier times may only now be told.
        self._times += 1
        sign = re.compile(rf" {self._table} {MARKER} packet: .* udp length {_UDP_HEADER + self._times}\b".encode())
        deadline = time.monotonic() + WITHIN
        while sign.search(self._text) is None:
            # The first ones are lost where nft does not listen yet.
            self._marker.send(bytes(self._times))
            if self._selector.select(0.05):
                self._read()
            if self._monitor.poll() is not None or time.monotonic() > deadline:
                raise HostError("packets cannot be traced", why=f"nft monitor trace says nothing: {self._said()}")

    def _read(self) -> None:
        while chunk := self._output.read():
            self._text += chunk

    def _said(self) -> str:
        return self._text.decode(errors="replace")[-500:].strip() or "no output"


@contextmanager
def tracing(flows: Sequence[Flow]) -> Iterator[Tracer]:
    """Trace packets of `flows` for the length of a `with` block. Raises PrivilegeError or HostError."""
    if os.geteuid() != 0:
        raise PrivilegeError(
            "packets cannot be traced",
            why="the kernel shows its rules at work, and the way of a packet through them, to root alone",
            remedy="Run the same as root.",
        )
    for program, package in (("nft", "nftables"), ("setpriv", "util-linux")):
        if shutil.which(program) is None:
            raise HostError(
                "packets cannot be traced",
                why=f"the program {program} is not installed",
                remedy=f"Install it: apt-get install {package}",
            )
    table = f"{TRACES}{os.getpid()}"
    with contextlib.ExitStack() as stack:
        marker = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        marker.bind(("127.0.0.1", 0))
        marker.connect(marker.getsockname())
        holder = stack.enter_context(_started([*_WITH_US, "nft", "-i"]))
        told = _pipe(holder.stdin)
        told.write("".join(f"{each}\n" for each in commands(table, flows, marker.getsockname()[1])).encode())
        told.flush()
        monitor = stack.enter_context(_started([*_WITH_US, "nft", "-a", "monitor", "trace"]))
        tracer = Tracer(table, monitor, marker)
        stack.callback(tracer.close)
        tracer.events()
        _refuse_errors(_pipe(holder.stdout))
        yield tracer


@contextmanager
def _started(argv: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        try:
            yield running
        finally:
            running.kill()


def _refuse_errors(said: IO[bytes]) -> None:
    """What nft does not take it says before the marker, which it is told last, works."""
    os.set_blocking(said.fileno(), False)
    text = (said.read() or b"").decode(errors="replace")
    if "Error" in text:
        raise HostError("packets cannot be traced", why=f"nft says: {text.strip()}")


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    """One that was asked for, and so is there."""
    if pipe is None:
        raise HostError("packets cannot be traced", why="a pipe to nft is missing")
    return pipe


def commands(table: str, flows: Sequence[Flow], marker: int) -> Iterator[str]:
    """What nft is told, line by line. UDP packets from port `marker` of this host to itself are seen, too."""
    for family in _FAMILIES:
        yield f"add table {family} {table} {{ flags owner; }}"
        for hook in _HOOKS:
            for name, priority in ((FIRST, _EARLIEST), (LAST, _LATEST)):
                yield _chain(family, table, f"{hook}_{name}", hook, priority)
        for hook in _ENTRANCES:
            for flow in flows:
                for what in _matches(flow):
                    yield f"add rule {family} {table} {hook}_{FIRST} {what} meta nftrace set 1"
    # What is masqueraded comes back to another address: only connection tracking knows whose it is.
    yield _chain("inet", table, "prerouting_known", "prerouting", _AFTER_CONNTRACK)
    for flow in flows:
        known = f"ct direction reply ct original ip saddr {flow.source} ct original ip daddr {flow.target}"
        port = "" if flow.port is None else f" ct original proto-dst {flow.port}"
        yield f"add rule inet {table} prerouting_known meta l4proto {flow.protocol} {known}{port} meta nftrace set 1"
    yield _chain("inet", table, MARKER, "output", _EARLIEST)
    yield f"add rule inet {table} {MARKER} ip daddr 127.0.0.1 udp sport {marker} udp dport {marker} meta nftrace set 1"


def _chain(family: str, table: str, name: str, hook: str, priority: int) -> str:
    return f"add chain {family} {table} {name} {{ type filter hook {hook} priority {priority}; }}"


def _matches(flow: Flow) -> Iterator[str]:
    there, back = f"ip saddr {flow.source}", f"ip daddr {flow.source}"
    if flow.protocol == "icmp":
        yield f"{there} ip daddr {flow.target} icmp type echo-request"
        yield f"{back} icmp type echo-reply"
    else:
        yield f"{there} ip daddr {flow.target} {flow.protocol} dport {flow.port}"
        # Whoever answers may be somebody else, where the port is led to a node.
        yield f"{back} {flow.protocol} sport {flow.port}" if flow.port is not None else back
