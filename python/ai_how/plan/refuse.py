"""What a plan must not do by itself: lose data, or cut running machines off."""

from __future__ import annotations

from ai_how.plan.plan import Action, Plan, Step
from ai_how.resources.base import Impact, Kind
from ai_how.resources.volume import Volume


def refusals(plan: Plan) -> tuple[str, ...]:
    """Why `plan` must not be carried out as it stands, one sentence for each reason; empty where it may."""
    return tuple(reason for step in plan.steps if step.action is Action.CHANGE for reason in _reasons(step))


def _reasons(step: Step) -> list[str]:
    reasons = []
    for change in step.fields:
        differs = f"{step.target}: {change.field} is {change.old} and would become {change.new}"
        if isinstance(step.want, Volume) and change.field == "capacity" and isinstance(step.have, Volume):
            if step.want.capacity < step.have.capacity:
                reasons.append(f"{differs}, but a disk cannot shrink without losing data")
            elif step.disturbs:
                reasons.append(f"{differs}, but {step.want.node} is running: stop the cluster first (ai-how down)")
        elif change.impact is Impact.RECREATE:
            reasons.append(f"{differs}, which needs it to be made anew and would lose what is on it")
        elif step.target.kind is Kind.NETWORK and change.impact is Impact.RESTART and step.disturbs:
            reasons.append(
                f"{differs}, which restarts the network and cuts off {len(step.disturbs)} running nodes: "
                "stop the cluster first (ai-how down)"
            )
    return reasons
