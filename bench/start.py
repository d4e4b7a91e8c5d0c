"""Part (d), `start`: how long it takes until ai-how says anything."""

from __future__ import annotations

import sys
from functools import partial

from bench.measure import AI_HOW, in_turns, process
from bench.report import Report, Row, Target


def measure(report: Report, *, rounds: int) -> None:
    """`version` and `--help` as whole processes; the floor is a Python that does nothing."""
    nothing = [sys.executable, "-c", "pass"]
    argvs = {"python -c pass": nothing, "ai-how version": [AI_HOW, "version"], "ai-how --help": [AI_HOW, "--help"]}
    for argv in argvs.values():
        process(argv)  # from the disk into memory, and the compiled modules written
    taken = in_turns({name: partial(process, argv) for name, argv in argvs.items()}, rounds)
    floor = Row("start", "starting a program", "floor: python -c pass", taken["python -c pass"])
    report.rows += [
        floor,
        Row("start", floor.work, "ai-how version", taken["ai-how version"], floor.wall, Target(seconds=0.08)),
        Row("start", floor.work, "ai-how --help", taken["ai-how --help"], floor.wall, Target(seconds=0.15)),
    ]
