"""The floor: what this host can do at best between two places. Two bare namespaces on a bare bridge, in a namespace of
its own, where no rule of the host's sees their packets; and a bare dnsmasq that answers one name."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface

from ai_how.probe.endpoint import LINK
from ai_how.probe.packets import ask, dns
from ai_how.probe.place import Place, new

#: The ends, and what is asked for: kept for documentation (RFC 5737, RFC 6761), and nobody else sees them.
_NEAR, _FAR = IPv4Interface("192.0.2.1/24"), IPv4Interface("192.0.2.2/24")
NAME = "floor.test"

_BRIDGE = "floor"

#: Seconds until its dnsmasq answers.
_WITHIN = 30.0


@dataclass(frozen=True, slots=True)
class Floor:
    """Two places, and the address of the far one, where `NAME` is answered."""

    near: Place
    far: Place
    address: IPv4Interface = _FAR


@contextmanager
def floor(mtu: int) -> Iterator[Floor]:
    """The floor for the length of a `with` block, with links that carry packets of `mtu` bytes. Raises HostError."""
    with new("floor's bridge") as middle, new("floor, near") as near, new("floor, far") as far:
        middle.run(["ip", "-batch", "-"], text=f"link add {_BRIDGE} type bridge\nlink set {_BRIDGE} mtu {mtu} up\n")
        for port, place, address in (("near", near, _NEAR), ("far", far, _FAR)):
            middle.run(
                ["ip", "-batch", "-"],
                text=f"link add {port} mtu {mtu} type veth peer name {LINK} mtu {mtu} netns {place.thread}\n"
                f"link set {port} master {_BRIDGE} up\n",
            )
            lines = f"link set lo up\nlink set {LINK} up\naddr add {address} dev {LINK}\n"
            place.run(["ip", "-batch", "-"], text=lines)
        with _dns(far) as server:
            deadline = time.monotonic() + _WITHIN
            while server is not None and server.poll() is None and time.monotonic() < deadline:
                if ask(dns(near, _FAR.ip, NAME)).replied:
                    break
                time.sleep(0.02)
            yield Floor(near, far)


@contextmanager
def _dns(place: Place) -> Iterator[subprocess.Popen[bytes] | None]:
    """A dnsmasq there. Where there is none, nobody answers, and the measurement says so."""
    argv = [
        # It ends with us however we end: the kernel kills it when the thread of its place is gone, unless it has
        # another user or group by then (prctl(2), PR_SET_PDEATHSIG).
        *("setpriv", "--pdeathsig", "KILL", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null"),
        *("--user=root", "--group=root", "--pid-file=", "--no-hosts", "--no-resolv", "--log-facility=/dev/null"),
        *(f"--listen-address={_FAR.ip}", "--bind-interfaces", f"--host-record={NAME},{_FAR.ip}"),
    ]
    quiet = subprocess.DEVNULL
    with contextlib.ExitStack() as stack:
        server = None
        with contextlib.suppress(OSError):
            server = place.at(subprocess.Popen, argv, stdin=quiet, stdout=quiet, stderr=quiet)
            stack.callback(server.wait)
            stack.callback(server.kill)
        yield server
