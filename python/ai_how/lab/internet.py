"""The pretend internet: a second network namespace behind the lab's uplink.

It answers DNS and ICMP on the well-known addresses, resolves every name but one to its web server, and has no route
to private subnets. A guest that gets a reply has therefore been masqueraded: its own address cannot be answered.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from ai_how.errors import HostError
from ai_how.host.process import output

_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, slots=True)
class Internet:
    """The addresses and names of the pretend internet, all from ranges kept for documentation (RFC 5737, RFC 6761)
    except the public resolvers guests are configured with."""

    #: The lab's link to it, and the lab's address on that link.
    uplink: str = "uplink"
    uplink_address: IPv4Interface = IPv4Interface("203.0.113.2/24")
    #: The lab's default route.
    router: IPv4Address = IPv4Address("203.0.113.1")
    #: Answer DNS (UDP and TCP) and ping.
    resolvers: tuple[IPv4Address, ...] = (IPv4Address("8.8.8.8"), IPv4Address("1.1.1.1"))
    #: What every name resolves to; plain HTTP on port 80 with `web_body`, whatever the path.
    web: IPv4Address = IPv4Address("198.51.100.80")
    web_body: str = "ai-how lab: the pretend internet\n"
    #: Names to ask for: one that exists (as any other does), and the one that does not.
    name: str = "internet.test"
    missing_name: str = "missing.test"
    #: The network namespace, for `ip netns exec` inside the lab.
    namespace: str = "internet"


INTERNET = Internet()


def start(directory: Path) -> None:
    """Build it, as process 1 of the lab; its dnsmasq and web server run when this returns.

    `directory` takes its PID file. Raises CommandFailed or HostError.
    """
    net = INTERNET
    output(["ip", "netns", "add", net.namespace])
    _batch(
        [],
        f"link add {net.uplink} type veth peer name {net.uplink} netns {net.namespace}",
    )
    # Without duplicate address detection the uplink looks the same from the start.
    detection = Path(f"/proc/sys/net/ipv6/conf/{net.uplink}/accept_dad")
    if detection.exists():
        detection.write_text("0")
    _batch(
        [],
        f"addr add {net.uplink_address} dev {net.uplink}",
        f"link set {net.uplink} up",
        f"route add default via {net.router}",
    )
    loopback = [f"addr add {address}/32 dev lo" for address in (*net.resolvers, net.web)]
    prefix = net.uplink_address.network.prefixlen
    _batch(
        ["-netns", net.namespace],
        "link set lo up",
        *loopback,
        f"addr add {net.router}/{prefix} dev {net.uplink}",
        f"link set {net.uplink} up",
    )
    _start_dns(directory)
    _start_web()


def _start_dns(directory: Path) -> None:
    net = INTERNET
    listen = [f"--listen-address={address}" for address in (*net.resolvers, net.router)]
    output(
        [
            *("ip", "netns", "exec", net.namespace, "dnsmasq", "--conf-file=/dev/null", "--user=root"),
            *("--no-hosts", "--no-resolv", "--bind-interfaces", f"--pid-file={directory}/internet-dns.pid"),
            *listen,
            f"--address=/{net.missing_name}/",
            f"--address=/#/{net.web}",
            # Every other type (AAAA above all) is answered "no such data"; else it is refused and clients wait.
            "--address=/#/",
        ]
    )


def _start_web() -> None:
    """Fork a server for a socket made in the internet's namespace: a socket stays where it was made."""
    with _namespace(INTERNET.namespace):
        listener = socket.create_server((str(INTERNET.web), 80), backlog=64)
    if os.fork() == 0:
        os.setsid()
        _serve(listener)
    listener.close()


def _serve(listener: socket.socket) -> None:
    body = INTERNET.web_body.encode()
    head = f"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    while True:
        client, _ = listener.accept()
        with client:
            client.settimeout(2)  # seconds; a silent client must not hold up the others
            try:
                request = b""
                while b"\r\n\r\n" not in request and len(request) < 65536:
                    request += (chunk := client.recv(4096))
                    if not chunk:
                        break
                client.sendall(head if request.startswith(b"HEAD ") else head + body)
            except OSError:
                continue


class _namespace:  # noqa: N801 - used as a statement
    """This thread is in the named network namespace for the length of a `with` block."""

    def __init__(self, name: str) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._there = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> None:
        self._enter(self._there)

    def __exit__(self, *_: object) -> None:
        self._enter(self._home)
        os.close(self._home)
        os.close(self._there)

    def _enter(self, descriptor: int) -> None:
        if self._libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise HostError("the lab cannot enter its internet's namespace", why=os.strerror(ctypes.get_errno()))


def _batch(options: Sequence[str], *lines: str) -> None:
    output(["ip", *options, "-batch", "-"], text="\n".join(lines) + "\n")
