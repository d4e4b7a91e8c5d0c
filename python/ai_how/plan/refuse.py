"""What a plan must not do by itself: lose data, take addresses away, cut running machines off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address

from ai_how.plan.plan import Action, Plan, Step
from ai_how.resources.base import Impact
from ai_how.resources.domain import Domain
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.volume import Volume


def refusals(plan: Plan) -> tuple[str, ...]:
    """Why `plan` must not be carried out as it stands, one sentence for each reason; empty where it may."""
    return tuple(reason for step in plan.steps if step.action is Action.CHANGE for reason in _reasons(step))


def lost_disks(plan: Plan, machines: Iterable[Domain]) -> tuple[str, ...]:
    """Why disks that somebody took from under running `machines` must not be made anew: these still write to theirs."""
    owners = {each.disk.name for each in machines if each.running}
    return tuple(
        f"{step.target} is gone, and {step.want.node} runs on: save its data while it does, or stop it and begin with "
        "an empty disk (ai-how down, then up)"
        for step in plan.steps
        if step.action is Action.CREATE and isinstance(step.want, Volume) and step.want.name in owners
    )


def leaving_nodes(plan: Plan) -> tuple[str, ...]:
    """The nodes whose disks, with all that is on them, `plan` would remove."""
    return tuple(
        step.have.node for step in plan.steps if step.action is Action.REMOVE and isinstance(step.have, Volume)
    )


def disturbed_nodes(plan: Plan) -> dict[str, str]:
    """The running nodes that notice `plan`, but for those that it removes, each with the first reason."""
    gone = {step.target.key for step in plan.steps if step.action is Action.REMOVE}
    found: dict[str, str] = {}
    for step in plan.steps:
        for name in step.disturbs:
            if name not in gone:
                found.setdefault(name, f"{step.target}: {step.reason}")
    return found


def lost_addresses(plan: Plan, leases: Mapping[str, IPv4Address]) -> tuple[str, ...]:
    """Why addresses must not change hands while their holders have them: `leases` by MAC, those of nodes included."""
    return tuple(
        reason
        for step in plan.steps
        if isinstance(step.want, VirtualNetwork) and isinstance(step.have, VirtualNetwork)
        if step.want.subnet == step.have.subnet  # else nobody keeps an address, and the plan says so
        for reason in (*_given_away(step.want, plan, leases), *_left_out(step.want, step.have, leases))
    )


def _given_away(want: VirtualNetwork, plan: Plan, leases: Mapping[str, IPv4Address]) -> Iterator[str]:
    """Addresses of running nodes that would be reserved for others."""
    gone = {step.have.mac for step in plan.steps if step.want is None and isinstance(step.have, Domain)}
    holders = {ip: mac for mac, ip in leases.items() if mac not in gone}
    own = {each.mac: each.name for each in want.reservations}
    for each in want.reservations:
        holder = holders.get(each.ip, each.mac)
        if holder != each.mac:
            yield (
                f"{each.ip} would become the address of {each.name}, and {own.get(holder, holder)} holds it: "
                "stop that one first, or wait until its lease ends (ai-how leases)"
            )


def _left_out(want: VirtualNetwork, have: VirtualNetwork, leases: Mapping[str, IPv4Address]) -> Iterator[str]:
    """Leases in use that the DHCP pool would no longer cover."""
    if want.dhcp_ranges == have.dhcp_ranges:
        return
    reserved = {each.mac for each in want.reservations}
    for mac, ip in sorted(leases.items()):
        if mac not in reserved and not any(first <= ip <= last for first, last in want.dhcp_ranges):
            yield f"the DHCP pool would no longer have {ip}, which {mac} holds: keep it inside, or end that lease first"


def _reasons(step: Step) -> list[str]:
    reasons = []
    for change in step.fields:
        differs = f"{change.field} is {_said(change.old)} and would become {_said(change.new)}"
        if isinstance(step.want, Volume) and change.field == "capacity" and isinstance(step.have, Volume):
            if step.want.capacity < step.have.capacity:
                reasons.append(f"{differs}, but a disk cannot shrink without losing data")
            elif step.disturbs:
                reasons.append(f"{differs}, but {step.want.node} is running: stop the cluster first (ai-how down)")
        elif isinstance(step.want, Domain) and change.field == "disk":
            reasons.append(
                f"{differs}, which would leave out what is written since (a snapshot?): "
                f"merge it (virsh blockcommit {step.want.name} vda --shallow --active --pivot)"
            )
        elif change.impact is Impact.RECREATE:
            reasons.append(f"{differs}, which needs it to be made anew and would lose what is on it")
    return [f"{step.target}: {reason}" for reason in reasons]


def _said(value: object) -> str:
    """A value of a field as people write it."""
    return ", ".join(_said(each) for each in value) if isinstance(value, tuple) else str(value)
