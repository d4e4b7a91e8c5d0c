"""The clock: one run of something, several things in turns, whole processes with their CPU time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

#: The program as people start it: the script beside this environment's Python.
AI_HOW = str(Path(sys.executable).with_name("ai-how"))


@dataclass(frozen=True, slots=True)
class Taken:
    """What one run took, in seconds: by the wall clock, and of the CPU (user and system, with its children)."""

    wall: float
    cpu: float


#: Compiled modules go here with the first run: a shell that forbids writing them would have us measure the compiler.
_COMPILED = tempfile.TemporaryDirectory(prefix="ai-how-bench-")

_ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    "PYTHONPYCACHEPREFIX": _COMPILED.name,
}

T = TypeVar("T")


def timed(work: Callable[[], object]) -> Taken:
    """Work done in this process (its CPU time includes processes that it started and waited for)."""
    cpu, wall = _cpu(), time.perf_counter()
    work()
    return Taken(time.perf_counter() - wall, _cpu() - cpu)


def process(argv: Sequence[str]) -> Taken:
    """A whole process, from its start to its end. Raises RuntimeError with what it said where it fails."""
    with tempfile.TemporaryFile() as said:
        wall = time.perf_counter()
        running = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=_ENVIRONMENT)
        _, status, used = os.wait4(running.pid, 0)
        taken = Taken(time.perf_counter() - wall, used.ru_utime + used.ru_stime)
        running.returncode = os.waitstatus_to_exitcode(status)
        if running.returncode != 0:
            said.seek(0)
            raise RuntimeError(
                f"{' '.join(argv)} ended with {running.returncode}: {said.read().decode(errors='replace')}"
            )
    return taken


def in_turns(runs: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, tuple[T, ...]]:
    """Every run once in each round, in changing order, so that a change of the machine's load meets all alike."""
    results: dict[str, list[T]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            results[name].append(runs[name]())
    return {name: tuple(each) for name, each in results.items()}


def _cpu() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
