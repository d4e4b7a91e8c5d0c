"""Whether nodes that answered before a change answer again after it, at the address they shall have.

Two looks are taken: `who_answers` before anything is changed, and `verify_traffic` when all is done and a network was
restarted. A guard (engine/guard.py) goes on looking by itself.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address

from ai_how.engine.answering import answering
from ai_how.engine.events import NodeReady, Phase, Progress
from ai_how.engine.wait import Lease, leases
from ai_how.errors import NodesSilent
from ai_how.host.libvirt import Libvirt
from ai_how.plan.plan import Plan
from ai_how.resources.base import Impact, Kind, Resource
from ai_how.resources.domain import Domain
from ai_how.resources.network import VirtualNetwork

#: Seconds that nodes may take to answer before the change, and in all after it: a guest that sees its link come back
#: asks DHCP first, an emulated one slowly.
BEFORE_WITHIN = 3.0
AFTER_WITHIN = 60.0

#: Seconds between two looks at the leases, which say where else a node may answer by now.
INTERVAL = 0.5


def who_answers(libvirt: Libvirt, nodes: Collection[Domain], network: VirtualNetwork | None) -> dict[str, IPv4Address]:
    """Those of `nodes` on `network` that run and answer now, each with its address."""
    if network is None or not network.active:
        return {}
    where = addresses(nodes, network, leases(libvirt, network.name), {})
    there = answering(network.bridge, _all(where), BEFORE_WITHIN)
    return {name: min(found) for name, each in where.items() if (found := there & each)}


def verify_traffic(
    libvirt: Libvirt,
    before: Mapping[str, IPv4Address],
    want: Iterable[Resource],
    progress: Progress,
    *,
    within: float = AFTER_WITHIN,
) -> None:
    """Wait up to `within` seconds until all nodes of `before` that still run as `want` has it answer.

    Raises NodesSilent with those that do not, and where they should; they are left as they are.
    """
    nodes = [each for each in want if isinstance(each, Domain) and each.running and each.name in before]
    network = next((each for each in want if isinstance(each, VirtualNetwork)), None)
    if network is None or not nodes:
        return
    progress(Phase("traffic", len(nodes)))
    begin = time.monotonic()
    while True:
        where = addresses(nodes, network, leases(libvirt, network.name), before)
        left = begin + within - time.monotonic()
        look = max(0.0, min(INTERVAL, left))
        again = time.monotonic() + look
        there = answering(network.bridge, _all(where), look)
        for name, each in where.items():
            if found := there & each:
                progress(NodeReady(name, min(found), time.monotonic() - begin))
                nodes = [node for node in nodes if node.name != name]
        if not nodes:
            return
        if left <= 0:
            break
        # Nobody was waited for where nobody has an address yet.
        time.sleep(max(0.0, again - time.monotonic()))
    silent = sorted(each.name for each in nodes)
    raise NodesSilent(
        f"{len(silent)} of the {len(before)} nodes that answered before the network was restarted do not answer",
        why="; ".join(f"{name} (at {', '.join(map(str, sorted(where[name]))) or 'no address'})" for name in silent),
        remedy="They run on. A guest that does not ask DHCP anew when its link comes back needs a restart: "
        f"virsh reboot {silent[0]}",
    )


def addresses(
    nodes: Collection[Domain],
    network: VirtualNetwork,
    held: Collection[Lease],
    before: Mapping[str, IPv4Address],
) -> dict[str, frozenset[IPv4Address]]:
    """Where each of the running `nodes` can be on `network`: at the address reserved for it, one that it holds by DHCP,
    or the one that it had `before`. Addresses of another subnet lead nowhere any more."""
    known: dict[str, set[IPv4Address]] = {}
    told = [(each.mac, each.ip) for each in network.reservations] + [(each.mac, each.ip) for each in held]
    told += [(each.mac, before[each.name]) for each in nodes if each.name in before]
    for mac, ip in told:
        if ip in network.subnet:
            known.setdefault(mac, set()).add(ip)
    return {each.name: frozenset(known.get(each.mac, ())) for each in nodes if each.running}


def restarts_network(plan: Plan) -> bool:
    """Whether `plan` restarts the network under running nodes."""
    return any(
        step.target.kind is Kind.NETWORK and step.impact is not Impact.LIVE and step.disturbs for step in plan.steps
    )


def _all(where: Mapping[str, frozenset[IPv4Address]]) -> frozenset[IPv4Address]:
    return frozenset().union(*where.values())
