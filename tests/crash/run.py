"""The part of the harness that opens labs: scenarios side by side, each in a lab of its own, and what came of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.crash.point import Point, Scenario, Tried

from ai_how.lab import LabSpec, cache_directory, open_lab

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to try of a scenario: `size` of its points (0: all), or the one called `only`. With `libvirt` every call of
    libvirt's that may change something is a point, too."""

    scenario: Scenario
    size: int = 0
    only: str = ""
    libvirt: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a scenario: its points as far as they were tried, how many it has, and what ended it early."""

    scenario: Scenario
    tried: tuple[Tried, ...]
    known: int
    seconds: float
    broken: str = ""

    @property
    def survived(self) -> int:
        """How many of the points tried were survived."""
        return sum(not each.wrong for each in self.tried)

    @property
    def failed(self) -> tuple[tuple[Point, tuple[str, ...]], ...]:
        """The points that were not, and what is wrong there."""
        return tuple((Point(self.scenario, each.at), each.wrong) for each in self.tried if each.wrong)

    @property
    def fine(self) -> bool:
        """Whether all that was to be tried was tried, and survived."""
        return not self.broken and bool(self.tried) and not self.failed


#: Told of every point as it is tried: the scenario, what came of it, its number, and how many there will be.
Told = Callable[[Scenario, Tried, int, int], None]


def attempt(wanted: Iterable[Wanted], told: Told, *, jobs: int) -> list[Result]:
    """Try everything, so many scenarios at a time. `told` is called from several threads."""
    with ThreadPoolExecutor(jobs) as workers:
        return list(workers.map(lambda each: _in_a_lab(each, told), wanted))


def _in_a_lab(wanted: Wanted, told: Told) -> Result:
    """In a lab of its own, and in a new one after each point that is not survived."""
    begin = time.monotonic()
    tried: list[Tried] = []
    points: list[str] = []
    left: list[str] = [wanted.only] if wanted.only else []
    broken = ""
    while not broken:
        before = len(tried)
        libvirt = wanted.libvirt or any("call " in each for each in left)
        words = [str(wanted.scenario), str(int(libvirt)), str(0 if left else wanted.size), *left]
        with open_lab(LabSpec(internet=True, cache=cache_directory())) as lab, tempfile.TemporaryFile("w+") as errors:
            inside = subprocess.Popen(
                lab.enter([sys.executable, "-m", "tests.crash.inside", *words], cwd=_ROOT),
                env=lab.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            with inside:
                assert inside.stdout is not None
                points, left = (json.loads(inside.stdout.readline() or "[]") for _ in range(2))
                for line in inside.stdout:
                    tried.append(Tried.from_json(line))
                    left.remove(tried[-1].at)
                    told(wanted.scenario, tried[-1], len(tried), len(tried) + len(left))
            errors.seek(0)
            if inside.returncode:
                broken = errors.read().strip() or f"it ended with {inside.returncode}"
        if not left or len(tried) == before:
            break
    return Result(wanted.scenario, tuple(tried), len(points), round(time.monotonic() - begin, 1), broken)
