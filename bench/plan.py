"""Part (h), `plan`: the plan of 100 to 10,000 nodes on a host that has none of them."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from bench.configuration import write
from bench.measure import AI_HOW, in_turns, process
from bench.report import Report, Row, Target

SIZES = (100, 1_000, 10_000)

TARGET = Target(seconds=3.0)

_PARSE = "import sys, yaml; yaml.load(open(sys.argv[1]), yaml.CSafeLoader)"


def measure(report: Report, image: Path, *, sizes: Sequence[int] = SIZES, rounds: int) -> None:
    """The whole of `ai-how plan --json`, which shows every step.

    The floor is a Python process in which libyaml reads the same file and nothing looks at it.

    Runs in a lab, on a host that has nothing.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            config = str(write(Path(folder, f"{size}.yaml"), size - 1, image=image))
            plan = [AI_HOW, "plan", "--json", config]
            process(plan)  # from the disk into memory, and compiled
            taken = in_turns(
                {"floor": partial(process, [sys.executable, "-c", _PARSE, config]), "plan": partial(process, plan)},
                rounds,
            )
            floor = Row("plan", f"{size:,} nodes, all new", "floor: libyaml reads the file", taken["floor"])
            target = TARGET if size == SIZES[-1] else None
            rows.append(Row("plan", floor.work, "ai-how plan --json", taken["plan"], floor.wall, target))
            report.rows += [floor, rows[-1]]
    for (less, before), (more, after) in pairwise(zip(sizes, rows, strict=True)):
        growth = (after.wall / more) / (before.wall / less)
        report.notes.append(f"in a plan, a node of {more:,} costs {growth:.2f} times what one of {less:,} costs")
