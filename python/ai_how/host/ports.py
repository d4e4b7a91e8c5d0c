"""The door to the ports that programs of this host listen on, asked of iproute2 (ss(8))."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address

from ai_how.config.terms import Protocol
from ai_how.host.process import output
from ai_how.spec.policy import Port

_PROGRAM = re.compile(r'"([^"]*)",pid=(\d+)')


@dataclass(frozen=True, slots=True)
class Listener:
    """Who listens on a port, on any address but loopback; `program` is in words, and empty where we may not know it."""

    port: Port
    program: str


def list_listeners() -> str:
    """`ss` of all TCP and UDP sockets that listen, as text. Raises CommandFailed where iproute2 is missing."""
    return output(["ss", "-H", "-l", "-n", "-t", "-u", "-p"], remedy="Install it: apt-get install iproute2")


def read_listeners(text: str, private: Collection[str] = ()) -> tuple[Listener, ...]:
    """The listeners in `text` that somebody outside could reach: not by loopback, nor by the links or addresses that
    are `private`."""
    found = []
    for entry in text.splitlines():
        protocol, _, _, _, local, *rest = entry.split()
        address, _, number = local.rpartition(":")
        # 127.0.0.53%lo, [::1], [fe80::1]%eth0, *
        bare, _, link = address.replace("[", "").replace("]", "").partition("%")
        if bare in private or link in private or (bare != "*" and ip_address(bare).is_loopback):
            continue
        program = _PROGRAM.search(" ".join(rest))
        words = f"{program[1]}, process {program[2]}" if program else ""
        found.append(Listener(Port(Protocol(protocol), int(number)), words))
    return tuple(found)
