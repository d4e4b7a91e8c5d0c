"""Where a run is killed, and what came of it: the data that the parts of the harness hand to each other."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum

from ai_how.spec.network import DnsMode


class Verb(StrEnum):
    """What is being done when the kill comes."""

    UP = "up"  #: from nothing
    CHANGE = "change"  #: `up` of another configuration of the same cluster
    DOWN = "down"
    DESTROY = "destroy"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One verb in one DNS mode: the points of a scenario are tried one after the other in a lab of their own."""

    mode: DnsMode
    verb: Verb

    def __str__(self) -> str:
        return f"{self.mode}/{self.verb}"

    @classmethod
    def parse(cls, text: str) -> Scenario:
        """The scenario of this name. Raises ValueError."""
        mode, verb = text.split("/")
        return cls(DnsMode(mode), Verb(verb))


#: All of them. The longest last for each mode, so that parts side by side end together.
SCENARIOS = tuple(Scenario(mode, verb) for verb in (Verb.CHANGE, Verb.UP, Verb.DESTROY, Verb.DOWN) for mode in DnsMode)


@dataclass(frozen=True, slots=True)
class Point:
    """One instant of a scenario: `at` is what the victim was about to do, or had just done (tests/crash/victim.py)."""

    scenario: Scenario
    at: str

    def __str__(self) -> str:
        return f"{self.scenario}/{self.at}"

    @classmethod
    def parse(cls, text: str) -> Point:
        """The point of this name. Raises ValueError."""
        mode, verb, at = text.split("/", 2)
        return cls(Scenario.parse(f"{mode}/{verb}"), at)


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a kill at a point; `wrong` is empty where it was survived."""

    at: str
    seconds: float
    wrong: tuple[str, ...] = ()

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Tried:
        """What `to_json` made the line of."""
        data = json.loads(line)
        return cls(data["at"], data["seconds"], tuple(data["wrong"]))


def sample(scenario: Scenario, points: Iterable[str], size: int) -> tuple[str, ...]:
    """So many of the points, the same ones each time: those of another scenario are others."""
    known = sorted(set(points))
    return tuple(known if size >= len(known) else sorted(random.Random(str(scenario)).sample(known, size)))
