"""What a plan must not do by itself: lose data, or cut running machines off."""

from __future__ import annotations

from collections.abc import Iterable

from ai_how.errors import some
from ai_how.plan.plan import Action, Plan, Step
from ai_how.resources.base import Impact, Kind
from ai_how.resources.domain import Domain
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


def _reasons(step: Step) -> list[str]:
    reasons = []
    restarts = []
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
        elif step.target.kind is Kind.NETWORK and change.impact is Impact.RESTART and step.disturbs:
            restarts.append(differs)
            if change.field == "forward" and "dns_mode" not in {each.field for each in step.fields}:
                restarts[-1] += " (for the first, or without the last, of expose and allow_from)"
    if restarts:
        reasons.append(
            f"{', '.join(restarts)}, which restarts the network and cuts off {some(step.disturbs)}: "
            "stop the cluster first (ai-how down)"
        )
    return [f"{step.target}: {reason}" for reason in reasons]


def _said(value: object) -> str:
    """A value of a field as people write it."""
    return ", ".join(_said(each) for each in value) if isinstance(value, tuple) else str(value)
