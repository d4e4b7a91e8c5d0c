"""Part (b), `validate`: reading and checking configurations of 100 to 10,000 nodes."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from ai_how.config.load import load_file
from ai_how.spec.resolve import resolve_all
from bench.configuration import Form, write
from bench.measure import AI_HOW, in_turns, process, timed
from bench.report import Report, Row, Target

SIZES = (100, 1_000, 10_000)

#: Whole process, 10,000 nodes.
TARGETS = {Form.GROUP: Target(seconds=0.5), Form.LIST: Target(seconds=2.0)}

_PARSE = "import sys, yaml; yaml.load(open(sys.argv[1]), yaml.CSafeLoader)"


def measure(report: Report, *, sizes: Sequence[int] = SIZES, rounds: int) -> None:
    """The whole of `ai-how validate`, and in this process config and spec alone.

    The floor is a Python process in which libyaml reads the same file and nothing looks at it.
    """
    with tempfile.TemporaryDirectory() as folder:
        for form in Form:
            _measure(report, form, sizes, rounds, Path(folder))


def _measure(report: Report, form: Form, sizes: Sequence[int], rounds: int, folder: Path) -> None:
    spec = []
    for size in sizes:
        file = write(folder / f"{form}-{size}.yaml", size, form=form)
        process([AI_HOW, "validate", str(file)])  # from the disk into memory, and compiled
        _resolve(file)
        taken = in_turns(
            {
                "floor": partial(process, [sys.executable, "-c", _PARSE, str(file)]),
                "validate": partial(process, [AI_HOW, "validate", str(file)]),
                "spec": partial(timed, partial(_resolve, file)),
            },
            rounds,
        )
        work = f"{size:,} nodes as a {form}"
        floor = Row("validate", work, "floor: libyaml reads the file", taken["floor"])
        target = TARGETS[form] if size == max(SIZES) else None
        whole = Row("validate", work, "ai-how validate", taken["validate"], floor.wall, target)
        spec.append(Row("validate", work, "config and spec, in process", taken["spec"]))
        report.rows += [floor, whole, spec[-1]]
    for (less, before), (more, after) in pairwise(zip(sizes, spec, strict=True)):
        growth = (after.wall / more) / (before.wall / less)
        report.notes.append(f"as a {form}, a node of {more:,} costs {growth:.2f} times what one of {less:,} costs")


def _resolve(file: Path) -> None:
    resolve_all(load_file(file))
