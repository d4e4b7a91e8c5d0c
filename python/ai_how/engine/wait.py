"""Waiting until every node has its lease, and telling at which stage the others are stuck."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path

from ai_how.engine.events import NodeReady, Phase, Progress
from ai_how.errors import NotReady
from ai_how.host.libvirt import Libvirt
from ai_how.providers import domain as domains
from ai_how.providers import network as networks
from ai_how.resources import xml
from ai_how.resources.domain import Domain

#: Seconds between two looks at the leases.
INTERVAL = 0.1


@dataclass(frozen=True, slots=True)
class Lease:
    """What DHCP gave to a MAC; `expires` in seconds since the epoch."""

    mac: str
    ip: IPv4Address
    name: str
    expires: int

    @property
    def expires_at(self) -> datetime:
        """The same as a time in UTC."""
        return datetime.fromtimestamp(self.expires, UTC)


class Stage(StrEnum):
    """How far a node without a lease got, and where to look."""

    NOT_RUNNING = "its machine is not running (see its console: ai-how console)"
    NO_TAP = "its machine has no link on the bridge, or the link is switched off"
    NO_DISCOVER = "its machine has sent nothing yet, no DHCPDISCOVER: still booting, or no driver for its network card"
    NO_LEASE = "it sends packets, but no lease was given: DHCP client not running, or dnsmasq does not answer"
    WRONG_LEASE = "its lease is for another address than the one reserved for it: it asks again when it is restarted"


def leases(libvirt: Libvirt, network: str) -> tuple[Lease, ...]:
    """The leases of `network`, in order of address; none where it is not active."""
    handle = networks.find(libvirt, network)
    if handle is None:
        return ()
    with libvirt.doing(f"cannot read the leases of {network}"):
        if not handle.isActive():
            return ()
        found = [
            Lease(each["mac"].lower(), IPv4Address(each["ipaddr"]), each.get("hostname") or "", each["expirytime"])
            for each in handle.DHCPLeases()
            if each["type"] == libvirt.api.VIR_IP_ADDR_TYPE_IPV4
        ]
    return tuple(sorted(found, key=lambda lease: lease.ip))


def wait_for_leases(
    libvirt: Libvirt,
    network: str,
    nodes: Collection[Domain],
    reserved: Mapping[str, IPv4Address],
    *,
    before: Mapping[str, int],
    within: float,
    progress: Progress,
) -> None:
    """Wait up to `within` seconds until every one of `nodes` has its lease.

    `reserved` gives the address each MAC must get, where it has one. `before` gives the expiry of leases (by MAC) that
    nodes held before they were started by this run: such a lease says nothing until it is renewed. Raises NotReady
    with every stuck node and its stage.
    """
    begin = time.monotonic()
    waiting = {node.mac: node for node in nodes}
    wrong: set[str] = set()
    progress(Phase("wait", len(waiting)))
    while True:
        for lease in leases(libvirt, network):
            node = waiting.get(lease.mac)
            if node is None or lease.expires == before.get(lease.mac):
                continue
            if lease.ip == reserved.get(lease.mac, lease.ip):
                del waiting[lease.mac]
                progress(NodeReady(node.name, lease.ip, time.monotonic() - begin))
            else:
                wrong.add(lease.mac)
        if not waiting:
            return
        if time.monotonic() - begin > within:
            break
        time.sleep(INTERVAL)
    stuck = {
        node.name: Stage.WRONG_LEASE if mac in wrong else _stage(libvirt, node.name, mac)
        for mac, node in waiting.items()
    }
    raise NotReady(
        f"{len(stuck)} of {len(nodes)} nodes have no lease after {within:g} s",
        why="; ".join(f"{name}: {stage}" for name, stage in sorted(stuck.items())),
        remedy="The machines are left as they are. Look at one with: ai-how console NODE; wait longer with --timeout.",
    )


def _stage(libvirt: Libvirt, name: str, mac: str) -> Stage:
    handle = domains.find(libvirt, name)
    if handle is None or not domains.is_active(libvirt, handle):
        return Stage.NOT_RUNNING
    with libvirt.doing(f"cannot read the link of {name}"):
        document = xml.parse(handle.XMLDesc())
        for interface in document.iterfind("devices/interface"):
            tap = xml.attribute(interface, "target", "dev")
            if xml.attribute(interface, "mac", "address") == mac and tap:
                off = xml.attribute(interface, "link", "state") == "down"
                if off or not Path("/sys/class/net", tap, "master").exists():
                    return Stage.NO_TAP
                # libvirt counts from the guest's side: (rx bytes, packets, errors, drops, tx bytes, packets, …).
                sent = handle.interfaceStats(tap)[5]
                return Stage.NO_LEASE if sent else Stage.NO_DISCOVER
    return Stage.NO_TAP
