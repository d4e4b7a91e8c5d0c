"""The part of the harness that opens labs: DNS modes side by side, each in a lab of its own, and what came of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.crash.point import Scenario, Tried, Verb

from ai_how.lab import LabSpec, cache_directory, open_lab
from ai_how.spec.network import DnsMode

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to try of a mode: all points of `verbs`, or a sample of `size` of each verb's, or those in `only` (names).

    With `alternate` points are recovered from by `up` and by `destroy` in turns, else each by both. With `libvirt`
    every call of libvirt's that may change something is a point, too.
    """

    mode: DnsMode
    verbs: tuple[Verb, ...] = tuple(Verb)
    size: int = 0
    only: tuple[str, ...] = ()
    alternate: bool = False
    libvirt: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a mode: its points as far as they were tried, the names of all that it has, and what ended it
    early."""

    wanted: Wanted
    tried: tuple[Tried, ...]
    known: tuple[str, ...]
    seconds: float
    broken: str = ""

    @property
    def failed(self) -> tuple[Tried, ...]:
        """The points that were not survived."""
        return tuple(each for each in self.tried if each.wrong)

    @property
    def fine(self) -> bool:
        """Whether all that was to be tried was tried, and survived."""
        return not self.broken and bool(self.tried) and not self.failed

    def counts(self) -> dict[Scenario, tuple[int, int, int]]:
        """Points tried, survived and known of each verb."""
        return {
            each: (
                sum(_is_of(tried.point, each) for tried in self.tried),
                sum(_is_of(tried.point, each) and not tried.wrong for tried in self.tried),
                sum(_is_of(point, each) for point in self.known),
            )
            for each in (Scenario(self.wanted.mode, verb) for verb in self.wanted.verbs)
        }


#: Told of every point as it is tried: what came of it, its number in its mode, and how many there will be.
Told = Callable[[Tried, int, int], None]


def attempt(wanted: Iterable[Wanted], told: Told, *, jobs: int) -> list[Result]:
    """Try everything, so many modes at a time. `told` is called from several threads."""
    with ThreadPoolExecutor(jobs) as workers:
        return list(workers.map(lambda each: _in_labs(each, told), wanted))


def _in_labs(wanted: Wanted, told: Told) -> Result:
    """In one lab, and in a new one after each point that is not survived."""
    begin = time.monotonic()
    tried: list[Tried] = []
    known: tuple[str, ...] = ()
    while True:
        part = _in_a_lab(wanted, told, before=len(tried))
        tried += part.tried
        known = known or part.known
        if part.broken or not part.failed or not part.wanted.only:
            return Result(wanted, tuple(tried), known, round(time.monotonic() - begin, 1), part.broken)
        wanted = part.wanted


def _in_a_lab(wanted: Wanted, told: Told, *, before: int) -> Result:
    """In the result `wanted` is what is left to try. `before`: how many points were tried in other labs."""
    tried: list[Tried] = []
    with open_lab(LabSpec(internet=True, cache=cache_directory())) as lab, tempfile.TemporaryFile("w+") as errors:
        inside = subprocess.Popen(
            lab.enter([sys.executable, "-m", "tests.crash.inside"], cwd=_ROOT),
            env=lab.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        with inside:
            assert inside.stdin is not None
            assert inside.stdout is not None
            inside.stdin.write(json.dumps(asdict(wanted)))
            inside.stdin.close()
            known, chosen = (json.loads(inside.stdout.readline() or "[]") for _ in range(2))
            for line in inside.stdout:
                tried.append(Tried.from_json(line))
                told(tried[-1], before + len(tried), before + len(chosen))
        errors.seek(0)
        broken = (errors.read().strip() or f"it ended with {inside.returncode}") if inside.returncode else ""
    left = replace(wanted, only=tuple(chosen[len(tried) :]), size=0)
    return Result(left, tuple(tried), tuple(known), 0, broken)


def _is_of(point: str, scenario: Scenario) -> bool:
    return point.startswith(f"{scenario}/")
