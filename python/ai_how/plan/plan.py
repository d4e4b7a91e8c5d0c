"""The plan: every difference as a step that says why, what it costs and whom it disturbs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ai_how.resources.base import FieldChange, Impact, Kind, Resource, ResourceId, changes, identify, worst
from ai_how.resources.domain import Domain


class Action(StrEnum):
    """What a step does to its resource."""

    CREATE = "create"
    CHANGE = "change"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Step:
    """One resource taken from `have` to `want`; None on either side means that it is not there.

    The undo of a step is the same step with its sides exchanged. `disturbs` names running nodes that notice it.
    """

    target: ResourceId
    want: Resource | None
    have: Resource | None
    fields: tuple[FieldChange, ...] = ()
    reason: str = ""
    disturbs: tuple[str, ...] = ()

    @property
    def action(self) -> Action:
        """Follows from which sides are there."""
        if self.have is None:
            return Action.CREATE
        return Action.REMOVE if self.want is None else Action.CHANGE

    @property
    def impact(self) -> Impact:
        """The worst of its fields."""
        return worst(tuple(each.impact for each in self.fields))

    @property
    def lowers(self) -> bool:
        """Whether the resource ends up less at work than before: such steps go from dependants to their needs."""
        return self.want is None or (self.have is not None and self.have.up and not self.want.up)

    def undo(self) -> Step:
        """The step back."""
        return Step(self.target, want=self.have, have=self.want, fields=self.fields, reason=f"undo: {self.reason}")

    def __str__(self) -> str:
        return f"{self.action} {self.target}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in an order in which they can be taken one by one; empty where nothing differs.

    `after[i]` are the positions of the steps that must be done before step i; the rest may go side by side.
    """

    steps: tuple[Step, ...]
    after: tuple[tuple[int, ...], ...]

    def __bool__(self) -> bool:
        return bool(self.steps)

    @property
    def digest(self) -> str:
        """What tells this plan from every other: the same resources, taken from the same state to the same."""
        sides = sorted(repr((each.have, each.want)) for each in self.steps)
        return hashlib.sha256("\n".join(sides).encode()).hexdigest()


def make_plan(want: Iterable[Resource], have: Iterable[Resource]) -> Plan:
    """The steps that turn what a host has (of one cluster) into what it shall have."""
    wanted = {identify(each): each for each in want}
    present = {identify(each): each for each in have}
    differ = [target for target in {**wanted, **present} if wanted.get(target) != present.get(target)]
    users = _users(present.values()) if differ else {}
    return _ordered([_step(each, wanted.get(each), present.get(each), sorted(users.get(each, ()))) for each in differ])


def _users(present: Iterable[Resource]) -> Mapping[ResourceId, list[str]]:
    """The running nodes by all that each stands on, and by its machine."""
    users: dict[ResourceId, list[str]] = {}
    for each in present:
        if isinstance(each, Domain) and each.running:
            for used in (identify(each), *each.needs):
                users.setdefault(used, []).append(each.name)
    return users


def _step(target: ResourceId, want: Resource | None, have: Resource | None, users: Sequence[str]) -> Step:
    if want is None:
        return Step(target, None, have, reason="not part of the configuration", disturbs=tuple(users))
    if have is None:
        return Step(target, want, None, reason="not there yet")
    fields = changes(want, have)
    lowers = have.up and not want.up
    impact = worst(tuple(each.impact for each in fields))
    # A machine that is defined anew runs on as it is, until its next start.
    costly = lowers or (impact is not Impact.LIVE and target.kind is not Kind.DOMAIN)
    disturbs = tuple(users) if costly else ()
    return Step(target, want, have, fields=fields, reason=_reason(fields, want, have, disturbs), disturbs=disturbs)


def _reason(fields: Sequence[FieldChange], want: Resource, have: Resource, disturbs: Sequence[str]) -> str:
    reason = ", ".join(each.field for each in fields) + (" differs" if len(fields) == 1 else " differ")
    if worst(tuple(each.impact for each in fields)) is not Impact.RESTART:
        return reason
    if want.kind is Kind.DOMAIN and have.up and want.up:
        return f"{reason}; it runs on as it is until its next start"
    if want.kind is Kind.NETWORK and disturbs:
        links = "1 node loses its link" if len(disturbs) == 1 else f"{len(disturbs)} nodes lose their link"
        return f"{reason}; the network is restarted: {links} for a moment"
    return reason


def _ordered(steps: list[Step]) -> Plan:
    """Sort by dependency. Needs come first where things rise, dependants first where they are lowered."""
    # Removing a node first frees its address for others; kinds are declared from needs to dependants.
    rank = {kind: position for position, kind in enumerate(Kind)}
    steps = sorted(steps, key=lambda s: (0, -rank[s.target.kind]) if s.lowers else (1, rank[s.target.kind]))
    position = {step.target: number for number, step in enumerate(steps)}
    after: list[set[int]] = [set() for _ in steps]
    for number, step in enumerate(steps):
        for needed in _needs(step):
            other = position.get(needed)
            if other is None:
                continue
            if step.lowers:
                after[other].add(number)
            elif not steps[other].lowers:
                after[number].add(other)
    return Plan(tuple(steps), tuple(tuple(sorted(before)) for before in after))


def _needs(step: Step) -> tuple[ResourceId, ...]:
    resource = step.have if step.want is None else step.want
    return () if resource is None else resource.needs
