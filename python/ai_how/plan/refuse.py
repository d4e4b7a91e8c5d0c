"""What a plan must not do by itself: lose data, or cut running machines off."""

from __future__ import annotations

from collections.abc import Iterable

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


def _reasons(step: Step) -> list[str]:
    reasons = []
    for change in step.fields:
        differs = f"{step.target}: {change.field} is {change.old} and would become {change.new}"
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
            reasons.append(
                f"{differs}, which restarts the network and cuts off {len(step.disturbs)} running nodes: "
                "stop the cluster first (ai-how down)"
            )
    return reasons
