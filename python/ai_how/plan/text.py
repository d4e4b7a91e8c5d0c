"""A plan as people read it."""

from __future__ import annotations

from typing import assert_never

from ai_how.plan.plan import Action, Step


def line(step: Step) -> str:
    """One step: what is made (+), changed (~) or removed (-), and in a change what differs."""
    thing = step.have if step.want is None else step.want
    match step.action:
        case Action.CREATE:
            return f"+ {thing}"
        case Action.CHANGE:
            return f"~ {thing} ({', '.join(each.field for each in step.fields)})"
        case Action.REMOVE:
            return f"- {thing}"
        case _:
            assert_never(step.action)
