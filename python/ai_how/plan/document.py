"""A plan for programs: JSON-able data, and what differs in each field, nested ones told apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from ai_how.plan.plan import Plan, Step
from ai_how.resources.firewall import ClusterRules


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that differs. `field` is its path: `policy.firewall.expose`, `clusters.hpc.egress`.

    A side is None where there is nothing to compare with.
    """

    field: str
    old: object
    new: object


def plan_document(cluster: str, plan: Plan) -> dict[str, Any]:
    """The plan of one cluster as `ai-how plan --json` shows it."""
    return {"cluster": cluster, "changes": bool(plan), "steps": [step_document(step) for step in plan.steps]}


def step_document(step: Step) -> dict[str, Any]:
    """One step: addresses and paths are strings, tuples lists, and things with fields of their own objects."""
    return {
        "action": step.action.value,
        "kind": step.target.kind.value,
        "key": step.target.key,
        "class": step.impact.value,
        "reason": step.reason,
        "fields": [{"field": each.field, "old": plain(each.old), "new": plain(each.new)} for each in differences(step)],
        "disturbs": list(step.disturbs),
    }


def differences(step: Step) -> tuple[Difference, ...]:
    """What differs between the two sides of a change; nothing where one side is not there."""
    return tuple(found for each in step.fields for found in _compare(each.field, each.old, each.new))


def _compare(path: str, old: object, new: object) -> Iterator[Difference]:
    if old == new:
        return
    if isinstance(old, tuple) and isinstance(new, tuple) and {type(each) for each in (*old, *new)} == {ClusterRules}:
        before, after = ({each.cluster: each for each in side} for side in (old, new))
        for name in sorted({*before, *after}):
            yield from _compare(f"{path}.{name}", before.get(name), after.get(name))
    elif is_dataclass(old) and type(old) is type(new):
        for each in fields(old):
            yield from _compare(f"{path}.{each.name}", getattr(old, each.name), getattr(new, each.name))
    else:
        yield Difference(path, old, new)


def plain(value: object) -> Any:
    """A value as JSON has it."""
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return value if value is None or type(value) in (bool, int, str) else str(value)
