"""What stopped a packet that no rule dropped: what the host says of links, routes, neighbours and settings.

`look` asks, at the moment when a packet has just been lost; `judge_*` understand, and are pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

from ai_how.errors import CommandFailed
from ai_how.host.process import output
from ai_how.probe.path import Cause, Stop
from ai_how.probe.place import Place
from ai_how.probe.trace import Direction

_SETTINGS = Path("/proc/sys/net/ipv4/conf")
_UP_MENDS = "ai-how up, with the cluster's configuration, mends it"
_INSTALL = "Install it: apt-get install iproute2"
#: States of a neighbour that has not answered (ip-neighbour(8)).
_SILENT = frozenset({"FAILED", "INCOMPLETE"})


@dataclass(frozen=True, slots=True)
class Link:
    """A link: whether it is up and has a carrier, of which bridge it is a port, its addresses. `peer` is the number of
    the other end of a veth, `isolated` whether its bridge keeps it from other such ports."""

    name: str
    number: int
    up: bool
    carrier: bool
    master: str = ""
    addresses: tuple[IPv4Interface, ...] = ()
    peer: int | None = None
    isolated: bool = False
    state: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """What the kernel does with packets to an address: they leave by `link`, for `via` where it is not on the link,
    with `source` as its own address. `local` is whether it is the kernel's own. `refused` is why it would not send."""

    link: str = ""
    via: IPv4Address | None = None
    source: IPv4Address | None = None
    local: bool = False
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """Links by name and neighbours (link, address) with their state, of one place."""

    links: Mapping[str, Link] = field(default_factory=dict)
    neighbours: Mapping[tuple[str, IPv4Address], str] = field(default_factory=dict)

    def numbered(self, number: int | None) -> Link | None:
        """The link of that number."""
        return next((each for each in self.links.values() if each.number == number), None)

    def port_of(self, inside: Link | None) -> Link | None:
        """The other end, here, of a link in another place."""
        return None if inside is None else self.numbered(inside.peer)

    @property
    def bridges(self) -> Mapping[str, str]:
        """Of which bridge each port is one."""
        return {each.name: each.master for each in self.links.values() if each.master}


def look(place: Place) -> Look:
    """Ask a place for its links and neighbours. Raises CommandFailed."""
    links = place.run(["ip", "-json", "-details", "address", "show"])
    neighbours = place.run(["ip", "-json", "-4", "neighbour", "show"])
    return Look(read_links(links), read_states(neighbours))


def read_links(text: str) -> dict[str, Link]:
    """Understands `ip -json -details address show`."""
    return {
        entry["ifname"]: Link(
            name=entry["ifname"],
            number=entry["ifindex"],
            up="UP" in entry["flags"],
            carrier="LOWER_UP" in entry["flags"],
            master=entry.get("master", ""),
            addresses=tuple(
                IPv4Interface(f"{each['local']}/{each['prefixlen']}")
                for each in entry.get("addr_info", ())
                if each.get("family") == "inet"
            ),
            peer=entry.get("link_index"),
            isolated=_port(entry).get("isolated", False),
            state=_port(entry).get("state", ""),
        )
        for entry in json.loads(text or "[]")
        if "ifname" in entry
    }


def _port(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = entry.get("linkinfo", {}).get("info_slave_data", {})
    return found


def read_states(text: str) -> dict[tuple[str, IPv4Address], str]:
    """Understands `ip -json neighbour show`."""
    return {
        (entry["dev"], IPv4Address(entry["dst"])): (entry.get("state") or ["NONE"])[0]
        for entry in json.loads(text or "[]")
        if "dev" in entry
    }


def find_way(place: Place | None, target: IPv4Address, *source: str) -> Way:
    """How a place (or this process) sends to `target`; `source` are more words for `ip route get`. Raises CommandFailed
    where it cannot be asked."""
    argv = ["ip", "-json", "-4", "route", "get", str(target), *source]
    try:
        return read_way(output(argv, remedy=_INSTALL) if place is None else place.run(argv))
    except CommandFailed as error:
        if error.returncode != 2:
            raise
        return Way(refused=error.stderr.strip().removeprefix("RTNETLINK answers: "))


def read_way(text: str) -> Way:
    """Understands `ip -json route get`."""
    entry = json.loads(text)[0]
    kind = entry.get("type", "unicast")
    if kind not in ("unicast", "local"):
        return Way(refused=f"the route is of type {kind}")
    via, source = entry.get("gateway"), entry.get("prefsrc")
    return Way(
        entry.get("dev", ""),
        None if via is None else IPv4Address(via),
        None if source is None else IPv4Address(source),
        local=kind == "local",
    )


@dataclass(frozen=True, slots=True)
class Routing:
    """What decides about a packet that came in by `link`: how the kernel would send it, and, of itself, to its target;
    whether it forwards what comes by that link, and whether it asks for a way back to the source there."""

    link: str
    way: Way
    own: Way
    forwarding: bool
    strict: bool


def ask_routing(source: IPv4Address, target: IPv4Address, link: str) -> Routing:
    """Ask the kernel of this host. Raises CommandFailed."""
    return Routing(
        link,
        find_way(None, target, "from", str(source), "iif", link),
        find_way(None, target),
        forwarding=_setting(link, "forwarding") != "0",
        strict=max(_setting(each, "rp_filter") for each in ("all", link)) == "1",
    )


def _setting(link: str, name: str) -> str:
    # Not as sysctl(8) has it: a link may have dots in its name.
    try:
        return (_SETTINGS / link / name).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def judge_routing(found: Routing, source: IPv4Address, target: IPv4Address, direction: Direction) -> Stop | None:
    """Why a packet was not routed that had come in by a link; None where nothing speaks against it."""
    where = "routing on this host"
    if found.own.refused:
        return Stop(
            Cause.ROUTE,
            direction,
            where,
            f"there is no way to {target}: {found.own.refused}",
            remedy=(f"ip route get {target}  # shows it", f"ip route add {target} via ROUTER"),
        )
    if not found.way.refused:
        return None
    if not found.own.local and not found.forwarding:
        return Stop(
            Cause.FORWARDING,
            direction,
            where,
            f"this host forwards nothing that comes by {found.link}: net.ipv4.ip_forward is 0",
            remedy=("sysctl -w net.ipv4.ip_forward=1", "ai-how up, with the cluster's configuration, sets it, too"),
        )
    if found.strict:
        return Stop(
            Cause.SOURCE,
            direction,
            where,
            f"the way back to {source} does not lead over {found.link}, and rp_filter wants it to",
            remedy=(
                f"ip route get {source}  # shows the way back",
                f"sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{found.link}.rp_filter=2",
            ),
        )
    return Stop(
        Cause.ROUTE,
        direction,
        where,
        f"packets from {source} that come by {found.link} have no way to {target}: {found.way.refused}",
        remedy=(
            f"ip route get {target} from {source} iif {found.link}  # shows it",
            "ip rule; ip route show table all",
        ),
    )


def judge_sender(inside: Look, host: Look, way: Way, target: IPv4Address, name: str) -> Stop:
    """Why a packet was not seen by this host at all that was sent elsewhere."""
    first = way.via or target
    link = inside.links.get(way.link)
    port = host.port_of(link)
    if link is not None and not link.up:
        return Stop(Cause.LINK, Direction.REQUEST, name, f"its link {link.name} is down")
    if port is not None:
        stop = judge_port(port, Direction.REQUEST)
        if stop is not None:
            return stop
    state = inside.neighbours.get((way.link, first), "")
    if state in _SILENT or not state:
        where = f"the link of {name}" if port is None or not port.master else port.master
        return judge_silent(host, where, first, Direction.REQUEST)
    return Stop(
        Cause.LOST,
        Direction.REQUEST,
        name if port is None else port.name,
        "it was sent, and never came to the rules of this host",
        remedy=("Look for what is before all rules: tc filter show dev …, bridge vlan, XDP programs",),
    )


def judge_port(port: Link, direction: Direction) -> Stop | None:
    """Why nothing passes a link that should be a port of a bridge."""
    if not port.up:
        return Stop(Cause.LINK, direction, port.name, "the link is down", remedy=(f"ip link set {port.name} up",))
    if not port.master:
        return Stop(
            Cause.LINK,
            direction,
            port.name,
            "it is not a port of any bridge",
            remedy=(f"ip link set {port.name} master BRIDGE", _UP_MENDS),
        )
    if port.state in ("disabled", "blocking", "listening", "learning"):
        return Stop(Cause.LINK, direction, port.name, f"{port.master} holds its port in state {port.state}")
    return None


def judge_silent(host: Look, where: str, address: IPv4Address, direction: Direction) -> Stop:
    """Why nobody answers ARP for `address` on a bridge (or link) of this host."""
    bridge = host.links.get(where)
    if bridge is None:
        return Stop(Cause.NEIGHBOUR, direction, where, f"nobody there says that he is {address}")
    if not bridge.up:
        return Stop(
            Cause.LINK,
            direction,
            where,
            "the bridge is down",
            remedy=(f"ip link set {where} up", _UP_MENDS),
        )
    what = f"nobody on {where} says that he is {address}"
    ours = [each for each in bridge.addresses if address in each.network]
    if bridge.addresses and not ours:
        return Stop(Cause.NEIGHBOUR, direction, where, what, remedy=(f"ip addr show {where}  # has another network",))
    if not bridge.addresses:
        return Stop(
            Cause.LINK,
            direction,
            where,
            f"{what}: this host has no address there any more",
            remedy=(_UP_MENDS,),
        )
    return Stop(
        Cause.NEIGHBOUR,
        direction,
        where,
        what,
        remedy=(
            "Is that machine on, and its network card set up? ai-how status",
            f"bridge link show  # ports of {where}",
        ),
    )


def judge_outgoing(host: Look, link: str, first: IPv4Address, bare: IPv4Address | None, direction: Direction) -> Stop:
    """Why nothing came back that has left the kernel by `link` for `first`, the next address on it. `bare` is a
    cluster's own address that it left with."""
    found = host.links.get(link)
    if found is not None and not found.up:
        return Stop(Cause.LINK, direction, link, "the link is down", remedy=(f"ip link set {link} up",))
    if found is not None and not found.carrier:
        return Stop(
            Cause.LINK, direction, link, "the link has no carrier: nothing is at its other end, or that is down"
        )
    if host.neighbours.get((link, first), "") in _SILENT:
        if found is not None and found.name in host.bridges.values():
            return judge_silent(host, link, first, direction)
        return Stop(Cause.NEIGHBOUR, direction, link, f"nobody there says that he is {first}")
    if bare is not None:
        what = f"it left this host by {link} as {bare}, which is not masqueraded, and no answer came back"
        back = f"Machines outside must know the way back to {bare}: by this host."
        return Stop(Cause.SILENCE, direction, link, what, remedy=(f"{_UP_MENDS}, if it should be masqueraded", back))
    return Stop(
        Cause.SILENCE,
        direction,
        link,
        f"it left this host by {link}, and no answer came back",
        remedy=("Whoever it is for does not answer, or something beyond this host has stopped it.",),
    )
