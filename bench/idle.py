"""Part (c), `idle`: `up` where nothing is to be done, on 1,000 defined nodes."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from bench import floor
from bench.configuration import write
from bench.measure import AI_HOW, in_turns, process, timed
from bench.report import Report, Row, Target

SIZE = 1_000

THREADS = (1, 5)

TARGET = Target(seconds=1.0)


def measure(report: Report, image: Path, *, size: int = SIZE, rounds: int) -> None:
    """The whole process. The floor lists the machines and reads their XML, one after the other or five at a time.

    Runs in a lab, on a host that has nothing.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write(folder / "bench.yaml", size - 1, image=image)
        state = ["--state", str(folder / "state.json")]
        up = [AI_HOW, "up", "--no-start", "--no-wait", *state, str(config)]
        first = process(up)
        taken = in_turns(
            {
                **{
                    f"floor: their XML, {threads} at a time": partial(timed, partial(floor.read_all, threads=threads))
                    for threads in THREADS
                },
                "ai-how up --no-start": partial(process, up),
            },
            rounds,
        )
        gone = process([AI_HOW, "destroy", "--yes", *state, str(config)])
    work = f"{size:,} defined nodes, nothing to do"
    rows = [Row("idle", work, by, each) for by, each in taken.items()]
    best = min(row.wall for row in rows[:-1])
    target = TARGET if size == SIZE else None
    report.rows += [*rows[:-1], Row("idle", work, rows[-1].by, rows[-1].taken, best, target)]
    report.rows.append(Row("idle", f"{size:,} nodes", "defining them", (first,)))
    report.rows.append(Row("idle", f"{size:,} nodes", "destroying them", (gone,)))
