"""A plan as people read it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import assert_never

from ai_how.errors import some
from ai_how.plan.document import Difference, differences
from ai_how.plan.plan import Action, Plan, Step
from ai_how.resources.base import OF_THE_HOST

#: Above so many, things of one kind that all come or all go are one line.
_FEW = 4

#: Longer values are cut where people read them; JSON has them whole.
_LONG = 100


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


def lines(plan: Plan, *, everything: bool = False) -> Iterator[str]:
    """The whole plan: libvirt's part, then what the host needs besides; `everything`: each thing on its own line."""
    inside = [step for step in plan.steps if step.target.kind not in OF_THE_HOST]
    outside = [step for step in plan.steps if step.target.kind in OF_THE_HOST]
    yield from _section(inside, everything=everything)
    if outside:
        yield "on this host, outside libvirt:"
        yield from _section(outside, everything=everything)


def summary(plan: Plan) -> str:
    """How much of what: `3 to create, 1 to change (restart)`."""
    parts = []
    for action in Action:
        steps = [step for step in plan.steps if step.action is action]
        if steps:
            costs = sorted({step.impact.value for step in steps}) if action is Action.CHANGE else []
            parts.append(f"{len(steps)} to {action}" + (f" ({', '.join(costs)})" if costs else ""))
    return ", ".join(parts) or "nothing to do"


def _section(steps: Sequence[Step], *, everything: bool) -> Iterator[str]:
    for (action, kind), group in itertools.groupby(steps, lambda step: (step.action, step.target.kind)):
        alike = list(group)
        if action is Action.CHANGE:
            for step in alike:
                yield from _change(step)
        elif len(alike) > _FEW and not everything:
            sign = "+" if action is Action.CREATE else "-"
            yield f"  {sign} {len(alike)} {kind}s: {some([step.target.key for step in alike], 3)}"
        else:
            for step in alike:
                yield f"  {_thing(step)}{_cost(step)}"


def _thing(step: Step) -> str:
    return line(step) if step.target.kind in OF_THE_HOST else f"{'-' if step.want is None else '+'} {step.target}"


def _cost(step: Step) -> str:
    return f"; disturbs {some(step.disturbs)}" if step.disturbs else ""


def _change(step: Step) -> Iterator[str]:
    # Which fields differ is said below.
    _, _, more = step.reason.partition("; ")
    yield f"  ~ {step.target} ({step.impact}){': ' if more else ''}{more}{_cost(step)}"
    for each in differences(step):
        yield f"      ~ {each.field}: {_words(each)}"


def _words(each: Difference) -> str:
    if isinstance(each.old, tuple) and isinstance(each.new, tuple):
        gone = [f"- {_said(item)}" for item in each.old if item not in each.new]
        come = [f"+ {_said(item)}" for item in each.new if item not in each.old]
        if gone or come:
            return some([*gone, *come])
    return f"{_said(each.old)} → {_said(each.new)}"


def _said(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_said, value)) + ")"
    if is_dataclass(value):
        values = (getattr(value, each.name) for each in fields(value))
        text = " ".join(_said(one) for one in values if one not in (None, ()))
    else:
        text = str(value).replace("\n", "⏎")
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"
