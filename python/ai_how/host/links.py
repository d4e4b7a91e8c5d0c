"""The door to links and the bridges they are ports of: asked of sysfs and iproute2, set by the latter."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from ai_how.host.process import output

_LINKS = Path("/sys/class/net")
_INSTALL = "Install it: apt-get install iproute2"
#: In a bridge port's `state` (linux/if_bridge.h, BR_STATE_FORWARDING).
_FORWARDING = "3"
#: Of a link's `flags` (linux/if.h, IFF_UP).
_UP = 1


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge of this host: whether it is set up, and its IPv4 addresses."""

    up: bool
    addresses: frozenset[IPv4Address]


def list_bridges() -> str:
    """`ip -json address show type bridge`, as text. Everybody may ask. Raises CommandFailed."""
    return output(["ip", "-json", "address", "show", "type", "bridge"], remedy=_INSTALL)


def read_bridges(text: str) -> Mapping[str, Bridge]:
    """Understands it: the bridges by name."""
    return {
        entry["ifname"]: Bridge(
            "UP" in entry["flags"],
            frozenset(IPv4Address(each["local"]) for each in entry["addr_info"] if each["family"] == "inet"),
        )
        for entry in json.loads(text or "[]")
        if "ifname" in entry  # where nothing is to be shown some versions print an empty object
    }


def set_up(bridge: str, address: IPv4Interface) -> None:
    """Set a bridge up, with this address as libvirt gives it. Raises CommandFailed. Takes CAP_NET_ADMIN."""
    output(["ip", "link", "set", "dev", bridge, "up"], remedy=_INSTALL, changes_host=True)
    broadcast = str(address.network.broadcast_address)
    replace = ["ip", "address", "replace", str(address), "broadcast", broadcast, "dev", bridge]
    output(replace, remedy=_INSTALL, changes_host=True)


def await_forwarding(port: str, *, within: float) -> bool:
    """Whether the bridge of this port forwards what comes from it. It takes a moment from when both are up, which is
    waited for, up to `within` seconds."""
    state, flags = _LINKS / port / "brport/state", _LINKS / port / "master/flags"
    deadline = time.monotonic() + within
    with suppress(OSError):  # it was taken away
        while state.read_text().strip() != _FORWARDING:
            if not int(flags.read_text(), 16) & _UP or time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True
    return False


def bridge_of(link: str) -> str:
    """The bridge that `link` is a port of; empty where it is none's, or is not there."""
    try:
        return (_LINKS / link / "master").readlink().name
    except OSError:  # no such link, or none that it belongs to
        return ""


def attach(link: str, bridge: str, *, mtu: int) -> None:
    """Make `link` a port of `bridge`, whatever it was before, with frames of up to `mtu` bytes. Raises CommandFailed.

    The change takes CAP_NET_ADMIN.
    """
    # A bridge without an MTU of its own takes the least of its ports': it comes first.
    output(
        ["ip", "link", "set", "dev", link, "mtu", str(mtu), "master", bridge],
        remedy=_INSTALL,
        changes_host=True,
    )
