"""Part (c), `idle`: 1,000 nodes defined from nothing; then `plan`, and `up` with nothing to do, on them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ai_how.config.load import load_file
from ai_how.engine.events import silent
from ai_how.engine.prepare import foresee
from ai_how.host.libvirt import Libvirt
from bench import floor
from bench.configuration import write
from bench.measure import AI_HOW, Taken, in_turns, process, timed
from bench.report import Report, Row, Target

SIZE = 1_000

#: How many machines the floor makes at a time, and reads.
THREADS = (2, 5)
READERS = (1, 5)

_ENGINE, _PLAN, _UP = "ai-how's engine, plan", "ai-how plan --no-start", "ai-how up --no-start"
TARGETS = {_ENGINE: Target(seconds=0.5), _PLAN: None, _UP: Target(seconds=1.0)}


def measure(report: Report, image: Path, *, size: int = SIZE, rounds: int) -> None:
    """The whole process; of a plan also the engine alone, in process.

    The floor of defining is that of `up` without a start; that of both others lists the machines and reads their XML,
    one after the other or five at a time.

    Runs in a lab, on a host that has nothing.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = str(write(folder / "bench.yaml", size - 1, image=image))
        state = ["--state", str(folder / "state.json")]
        up = [AI_HOW, "up", "--no-start", "--no-wait", *state, config]
        plan = [AI_HOW, "plan", "--no-start", "--exit-code", config]
        destroy = [AI_HOW, "destroy", "--yes", *state, config]
        process(destroy)  # nothing is there: the program comes into memory, and compiled
        _defining(report, floor.recipe(Path(config), kvm=False), up, destroy, rounds=max(1, rounds // 3))
        process(up)
        taken = in_turns(
            {
                **{
                    f"floor: their XML, {threads} at a time": partial(timed, partial(floor.read_all, threads=threads))
                    for threads in READERS
                },
                _ENGINE: partial(timed, partial(_plan, Path(config))),
                _PLAN: partial(process, plan),
                _UP: partial(process, up),
            },
            rounds,
        )
        process(destroy)
    rows = [Row("idle", f"{size:,} defined nodes, nothing to do", by, each) for by, each in taken.items()]
    best = min(row.wall for row in rows[: len(READERS)])
    for row in rows[len(READERS) :]:
        target = TARGETS[row.by] if size == SIZE else None
        rows[rows.index(row)] = Row(row.part, row.work, row.by, row.taken, best, target)
    report.rows += rows


def _plan(config: Path) -> None:
    document = load_file(config)
    with Libvirt() as libvirt:
        [prepared] = foresee(libvirt, document, document.model.clusters, start=False, progress=silent)
    if prepared.plan:
        raise RuntimeError(f"there is something to do: {prepared.plan.steps[0]}")


def _defining(report: Report, recipe: floor.Recipe, up: list[str], destroy: list[str], *, rounds: int) -> None:
    def bare(threads: int) -> Callable[[], tuple[Taken, Taken]]:
        return lambda: (
            timed(lambda: floor.up(recipe, threads=threads, start=False)),
            timed(lambda: floor.destroy(recipe, threads=threads)),
        )

    runs = {f"floor: {threads} at a time": bare(threads) for threads in THREADS}
    runs["ai-how"] = lambda: (process(up), process(destroy))
    both = in_turns(runs, rounds)
    for number, what in enumerate(("defining", "destroying")):
        taken = {by: tuple(each[number] for each in lives) for by, lives in both.items()}
        rows = [Row("idle", f"{what} {len(recipe.machines):,} nodes", by, each) for by, each in taken.items()]
        best = min(row.wall for row in rows[:-1])
        report.rows += [*rows[:-1], Row("idle", rows[-1].work, rows[-1].by, rows[-1].taken, best)]
