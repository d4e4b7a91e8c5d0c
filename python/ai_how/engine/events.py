"""What the engine tells while it works. Library users pass a `progress` callable; the engine itself prints nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

from ai_how.plan.plan import Plan, Step


@dataclass(frozen=True, slots=True)
class Phase:
    """A new part of the work begins: its name, and how many things it consists of."""

    name: str
    total: int


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step is being taken."""

    step: Step


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step was taken, in so many seconds."""

    step: Step
    seconds: float


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step failed; what this run made is undone next."""

    step: Step
    error: Exception


@dataclass(frozen=True, slots=True)
class NodeReady:
    """A node has its lease, or answers again after a restart of its network, so many seconds after the wait began."""

    node: str
    ip: IPv4Address
    seconds: float


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth knowing that is no failure: the accelerator that was chosen, more memory than the host has."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """What is about to be done to a cluster, all of it."""

    cluster: str
    plan: Plan


Event = Phase | StepStarted | StepDone | StepFailed | NodeReady | Note | Planned

Progress = Callable[[Event], None]


def silent(_event: Event) -> None:
    """The progress of those who do not want to know."""
