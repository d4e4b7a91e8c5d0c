"""What of a plan no later plan can take back."""

from __future__ import annotations

from ai_how.plan.plan import Action, Plan, Step
from ai_how.resources.seed import Seed
from ai_how.resources.volume import Volume


def irreversible(plan: Plan) -> tuple[str, ...]:
    """What `plan` does for good, in words; empty where what is there now can be had again."""
    return tuple(said for step in plan.steps if (said := _for_good(step)))


def _for_good(step: Step) -> str:
    have, want = step.have, step.want
    if step.action is Action.CREATE:
        return ""
    if isinstance(have, Volume):
        if not isinstance(want, Volume):
            return f"removes the disk of {have.node}"
        return f"grows the disk of {have.node}" if want.capacity > have.capacity else f"changes the disk of {have.node}"
    if isinstance(have, Seed) and have.content is None:
        return f"removes the seed {have.name}, of which only the name is known"
    return ""
