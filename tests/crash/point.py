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
    """One verb in one DNS mode."""

    mode: DnsMode
    verb: Verb

    def __str__(self) -> str:
        return f"{self.mode}/{self.verb}"


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
        return cls(Scenario(DnsMode(mode), Verb(verb)), at)


class Recovery(StrEnum):
    """What is done after the kill."""

    UP = "up"  #: completes
    DESTROY = "destroy"  #: leaves the host as it was before


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a kill at the point of this name; `wrong` is empty where it was survived."""

    point: str
    seconds: float
    wrong: str = ""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Tried:
        """What `to_json` made the line of."""
        return cls(**json.loads(line))


def sample(scenario: Scenario, points: Iterable[str], size: int) -> list[str]:
    """So many of the points, the same ones each time: those of another scenario are others."""
    known = sorted(set(points))
    return known if size >= len(known) else sorted(random.Random(str(scenario)).sample(known, size))


def is_of_libvirt(at: str) -> bool:
    """Whether this instant is one of a call of libvirt's, which are watched only where they are asked for."""
    return at.removeprefix("undo: ").startswith(("call ", "within "))
