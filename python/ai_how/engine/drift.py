"""What of a cluster is not as it was made, as far as a host tells without the configuration.

The host says what was wanted: a network's definition beside what runs, machines and the disks they name, and what the
networks need outside libvirt. What the configuration says otherwise is for `plan`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ai_how.engine.hostwide import needed_for
from ai_how.engine.observe import Observed, observe_host
from ai_how.errors import HostError, UnsafeChange
from ai_how.host.libvirt import Libvirt
from ai_how.host.memory import is_root
from ai_how.plan.plan import Plan, Step, make_plan
from ai_how.resources.base import Kind, Resource
from ai_how.resources.domain import Domain
from ai_how.resources.names import pool_name
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.pool import Pool
from ai_how.resources.resolver import ResolverRoute
from ai_how.resources.route import HostRoute
from ai_how.resources.servers import Servers

_NOT_ROOT = "rules in the kernel, and files that only root may read, were not looked at: run it as root"

#: What it means that such a field differs from what it should be.
_WORDS = {
    (Kind.NETWORK, "saved"): "its definition says something else than what runs",
    (Kind.NETWORK, "intact"): "its dnsmasq ended, or its bridge is down or without its address",
    (Kind.NETWORK, "bridged"): "its bridge is gone",
    (Kind.DOMAIN, "saved"): "it runs, and is not defined any more",
    (Kind.FIREWALL, "intact"): "it is not what was loaded",
    (Kind.SYSCTL, "lasting"): "a restart of the host would lose it",
    (Kind.ROUTE, "present"): "it is not there, or would not come back",
    (Kind.HOOK, "content"): "it is not what was written",
    (Kind.HOOK, "mode"): "libvirt does not run it: it is not executable, or open to others",
    (Kind.HOOK, "remembered"): "the note of what was made for it is gone",
}


@dataclass(frozen=True, slots=True)
class Drift:
    """One resource that is not as it was made, and in `what` way."""

    kind: Kind
    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind} {self.key}: {self.what}"

    def to_json(self) -> dict[str, Any]:
        """As `ai-how status --json` shows it."""
        return {"kind": self.kind.value, "key": self.key, "what": self.what}


@dataclass(frozen=True, slots=True)
class HostWide:
    """The steps that would give the host what its networks need, and why some of it could not be looked at."""

    plan: Plan = Plan((), ())
    unseen: tuple[str, ...] = ()


def look_host_wide(libvirt: Libvirt, networks: Collection[VirtualNetwork]) -> HostWide:
    """What the host has outside libvirt for `networks`, beside what they need. Raises CommandFailed."""
    ours = [each for each in networks if each.cluster]
    if not libvirt.is_system or not any(each.policy.firewall.enabled for each in ours):
        return HostWide()
    host = observe_host(libvirt)
    try:
        plan = make_plan(needed_for(ours, host), host)
    except HostError as error:
        return HostWide(unseen=(f"what the host needs outside libvirt: {error}",))
    return HostWide(plan, () if is_root() else (_NOT_ROOT,))


def find_drift(observed: Observed, host: HostWide) -> tuple[Drift, ...]:
    """What of the cluster that was `observed` is not as it was made."""
    return (*_inside(observed), *_outside(observed.network, host.plan))


def _inside(observed: Observed) -> Iterator[Drift]:
    network = observed.network
    if network is not None and network.active:
        for field in ("saved", "intact", "bridged"):
            if not getattr(network, field):
                yield Drift(network.kind, network.key, _WORDS[network.kind, field])
        if not network.autostart:
            yield Drift(network.kind, network.key, "it runs, and does not start by itself any more")
    elif network is None and observed.domains:
        yield Drift(Kind.NETWORK, observed.domains[0].network, "it is gone, and its machines are there")
    pools = {each.name: each for each in observed.resources if isinstance(each, Pool)}
    for pool in sorted({each.disk.parent.name for each in observed.domains}):
        if pool in pools and not pools[pool].active:
            yield Drift(Kind.POOL, pool, "it is stopped, so that its disks were not looked at")
        elif pool not in pools and pool == pool_name(observed.domains[0].cluster):
            yield Drift(Kind.POOL, pool, "it is gone, and its machines are there")
    files = {each.key: each for each in observed.resources if each.kind in (Kind.VOLUME, Kind.SEED)}
    for machine in observed.domains:
        if not machine.saved:
            yield Drift(machine.kind, machine.key, _WORDS[machine.kind, "saved"])
        for need in machine.needs:
            pool = need.key.partition("/")[0]
            if need.kind in (Kind.VOLUME, Kind.SEED) and pool in pools and pools[pool].active and need.key not in files:
                yield Drift(need.kind, need.key, f"it is gone, and {machine.name} needs it")
        if not machine.linked and network is not None and network.active:
            yield Drift(machine.kind, machine.key, f"it runs, and its link is not on bridge {network.bridge}")


def _outside(network: VirtualNetwork | None, plan: Plan) -> Iterator[Drift]:
    if network is None or not network.policy.firewall.enabled:
        return
    for step in plan.steps:
        # What nobody needs any more is left of others: that is for gc.
        if step.want is not None and _concerns(step.want, network):
            yield Drift(step.target.kind, step.target.key, _what(step))


def _concerns(resource: Resource, network: VirtualNetwork) -> bool:
    match resource:
        case Servers() | ResolverRoute():
            return resource.network == network.name
        case HostRoute():
            return any(each.to == resource.to for each in network.policy.routes)
        case _:
            return True


def _what(step: Step) -> str:
    if step.have is None:
        return "it is gone"
    return "; ".join(_WORDS.get((step.target.kind, each.field), f"its {each.field} differ") for each in step.fields)


def as_made(observed: Observed) -> tuple[Resource, ...]:
    """What is there of the cluster, at work as it was made, as far as the host tells without the configuration.

    Raises UnsafeChange where what runs and what is defined differ: which of them is right only the configuration says.
    """
    network = observed.network
    if network is not None and network.active and not network.saved:
        raise UnsafeChange(
            f"cluster {network.cluster} is not mended",
            why=f"{network.name} runs otherwise than it is defined, and only the configuration says what is right",
            remedy="ai-how up with its configuration mends both.",
        )
    return tuple(map(_at_work, observed.resources))


def _at_work(each: Resource) -> Resource:
    match each:
        case VirtualNetwork(active=False, autostart=False):
            return each  # taken down, by ai-how down: that it rests is how it was made to be
        case VirtualNetwork():
            return replace(each, active=True, autostart=True, intact=True, bridged=True)
        case Domain():
            return replace(each, linked=True, saved=True)
        case Pool():
            return replace(each, active=True)
        case _:
            return each
