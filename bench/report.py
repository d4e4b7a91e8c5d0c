"""The numbers, and how they are shown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from bench.measure import Taken

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """A promise: the median is at most so many seconds, or so many times the floor."""

    seconds: float | None = None
    times_floor: float | None = None

    def __str__(self) -> str:
        return f"≤ {self.times_floor:g} × floor" if self.seconds is None else f"≤ {_span(self.seconds)}"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured several times. `floor` is the median, in seconds, of the least that its work can take.

    `beside` are the floor's runs where each belongs to one of `taken`, made right before or after it: then the ratio is
    the median of the single ratios, to which a machine that changes its pace from minute to minute does nothing.
    """

    part: str
    work: str
    by: str
    taken: tuple[Taken, ...]
    floor: float | None = None
    target: Target | None = None
    beside: tuple[Taken, ...] = ()

    @property
    def wall(self) -> float:
        """The median by the wall clock, in seconds."""
        return median(each.wall for each in self.taken)

    @property
    def cpu(self) -> float:
        """The median of CPU time, in seconds."""
        return median(each.cpu for each in self.taken)

    @property
    def ratio(self) -> float | None:
        """How many times the floor it takes."""
        if self.beside:
            return median(self.ratios)
        return None if self.floor is None else self.wall / self.floor

    @property
    def ratios(self) -> tuple[float, ...]:
        """Each run beside the floor's of the same round."""
        return tuple(each.wall / floor.wall for each, floor in zip(self.taken, self.beside, strict=bool(self.beside)))

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        match self.target:
            case Target(seconds=float(seconds)):
                return self.wall <= seconds
            case Target(times_floor=float(times)) if self.ratio is not None:
                return self.ratio <= times
        return None

    def to_json(self) -> Json:
        """All of it as plain data; times in seconds."""
        return {
            "part": self.part,
            "work": self.work,
            "by": self.by,
            "wall": self.wall,
            "cpu": self.cpu,
            "runs": [asdict(each) for each in self.taken],
            "floor": self.floor,
            "ratio": self.ratio,
            "ratios": self.ratios,
            "target": None if self.target is None else str(self.target),
            "met": self.met,
        }


@dataclass(slots=True)
class Report:
    """What was measured, what was not and why, and what else there is to say."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> Json:
        """The document that --json writes."""
        return {"machine": machine(), "rows": [row.to_json() for row in self.rows], "notes": self.notes}

    def table(self) -> str:
        """The same for people: aligned columns, then the notes."""
        lines: list[Sequence[str]] = [("work", "by", "median", "fastest", "CPU", "÷ floor", "target", "")]
        seen = ""
        for row in self.rows:
            lines.append(
                (
                    "" if row.work == seen else row.work,
                    row.by,
                    _span(row.wall),
                    _span(min(each.wall for each in row.taken)),
                    _span(row.cpu),
                    "" if row.ratio is None else f"{row.ratio:.2f}",
                    "" if row.target is None else str(row.target),
                    {True: "met", False: "MISSED", None: ""}[row.met],
                )
            )
            seen = row.work
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        shown = [
            "  ".join(
                text.rjust(width) if 2 <= column <= 5 else text.ljust(width)
                for column, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([shown[0], "-" * max(map(len, shown)), *shown[1:], "", *self.notes])


def machine() -> Json:
    """What the numbers hold for. The load average (1, 5, 15 minutes) tells whether the machine was quiet."""
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
    }


def _span(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.1f} µs"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
