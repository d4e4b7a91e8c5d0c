"""Routes of a host to networks that routed clusters talk to. Ours carry a protocol number of our own."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from ai_how.errors import NotOurs
from ai_how.host import memory, routes
from ai_how.host.libvirt import Libvirt
from ai_how.host.routes import Hop
from ai_how.providers import network as networks
from ai_how.resources.route import HostRoute

_MEMORY = "routes.json"
#: The same for the hook: what `ip -batch` reads (compile/hook.py).
_FOR_THE_HOOK = "routes.batch"

#: Steps run side by side, and both files hold all routes.
_ONE = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What the kernel does not know of a route, or forgets with its link."""

    via: IPv4Address
    network: str


def observe(libvirt: Libvirt, cluster: str) -> list[HostRoute]:
    """What carries our mark, and what the kernel or our memory lost of it.

    A route by a router in a network that is stopped is not lost: it comes back with the network, by the hook.
    """
    known = _recall()
    lasting = not known or memory.recall_text(_FOR_THE_HOOK) == _batch(known)
    there = {hop.to: hop.via for hop in _hops() if hop.ours and hop.via is not None}
    found = [HostRoute(to, via, "", present=False) for to, via in there.items() if to not in known]
    for to, each in known.items():
        present = to in there or (each.network != "" and not _is_active(libvirt, each.network))
        found.append(HostRoute(to, there.get(to, each.via), each.network, present and lasting))
    return sorted(found, key=lambda each: each.to)


def foreign(libvirt: Libvirt, names: Collection[str]) -> Mapping[str, str]:
    """Routes to the same networks that somebody else set."""
    return {str(hop.to): _owner(hop) for hop in _hops() if str(hop.to) in names and not hop.ours}


def create(libvirt: Libvirt, want: HostRoute) -> None:
    """Set it, then remember it: a route that the kernel refuses is not tried again by the hook."""
    with _ONE:
        _set(want)
        _remember({**_recall(), want.to: _Remembered(want.via, want.network)})


def change(libvirt: Libvirt, have: HostRoute, want: HostRoute) -> None:
    """Set it anew; or lose it again, where that was so."""
    if want.present:
        create(libvirt, want)
        return
    with _ONE:
        _unset(want.to)
        _remember({**_recall(), want.to: _Remembered(want.via, want.network)})


def remove(libvirt: Libvirt, have: HostRoute) -> None:
    """Take it out of the kernel, and forget it."""
    with _ONE:
        _unset(have.to)
        _remember({to: each for to, each in _recall().items() if to != have.to})


def _is_active(libvirt: Libvirt, network: str) -> bool:
    handle = networks.find(libvirt, network)
    with libvirt.doing(f"cannot look at network {network}"):
        return handle is not None and bool(handle.isActive())


def _hops() -> tuple[Hop, ...]:
    return routes.read_hops(routes.list_routes())


def _set(want: HostRoute) -> None:
    there = [hop for hop in _hops() if hop.to == want.to]
    for hop in there:
        if not hop.ours:
            raise NotOurs(
                f"the route to {want.to} is not set",
                why=f"there is {_owner(hop)}",
                remedy=f"Remove it, if you do not need it: ip route del {want.to}",
            )
    if want.via not in [hop.via for hop in there]:
        routes.add_route(want.to, want.via, replace=bool(there))


def _unset(to: IPv4Network) -> None:
    for hop in _hops():
        if hop.ours and hop.to == to and hop.via is not None:
            routes.delete_route(to, hop.via)


def _owner(hop: Hop) -> str:
    by = f"by {hop.via} on" if hop.via is not None else "on"
    return f"a route {by} {hop.link} that ai-how did not set"


def _recall() -> dict[IPv4Network, _Remembered]:
    """What is remembered; what cannot be read was written by nobody of us, and is made anew by the next `up`."""
    try:
        said = (memory.recall(_MEMORY) or {}).items()
        return {IPv4Network(to): _Remembered(IPv4Address(each["via"]), str(each["network"])) for to, each in said}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def _batch(known: Mapping[IPv4Network, _Remembered]) -> str:
    return "".join(f"{routes.batch_line(to, each.via)}\n" for to, each in sorted(known.items()))


def _remember(known: Mapping[IPv4Network, _Remembered]) -> None:
    content = {str(to): {"via": str(each.via), "network": each.network} for to, each in sorted(known.items())}
    memory.keep(_MEMORY, content, beside=_FOR_THE_HOOK, text=_batch(known))
