"""Part (a), `up`: a cluster of 1 + N nodes brought up and destroyed, N = 1, 10, 50."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from ai_how.config.load import load_file
from ai_how.engine import cluster as engine
from ai_how.engine import preflight
from ai_how.engine.events import silent
from ai_how.host.libvirt import Libvirt
from ai_how.spec.resolve import resolve
from bench import floor
from bench.configuration import CLUSTER, MEMORY_MIB, write
from bench.measure import AI_HOW, Taken, in_turns, process, timed
from bench.report import Report, Row, Target

SIZES = (1, 10, 50)

#: For this size also the time to the last lease.
LEASED = 10

#: How many machines the floor makes at a time. A warm-up tries all, the two quickest stay, the better of them counts.
THREADS = (2, 4, 5, 8)
STAY = 2

TARGETS = {50: Target(times_floor=1.15)}

#: What QEMU and its cache of translated code take beside the guest's memory, in MiB.
_OVERHEAD_MIB = 80

_GONE_WITHIN = 60.0

_PROCESS, _ENGINE, _SEQUENTIAL = "ai-how", "its engine, in process", "floor: one after the other"


@dataclass(frozen=True, slots=True)
class Life:
    """One cluster's: brought up, and destroyed."""

    up: Taken
    destroy: Taken


@dataclass(frozen=True, slots=True)
class Subject:
    """What is brought up: the configuration for us, the recipe for the floor, and a place for the state."""

    config: Path
    recipe: floor.Recipe
    state: Path


def measure(report: Report, image: Path, *, sizes: Sequence[int] = SIZES, leased: int = LEASED, rounds: int) -> None:
    """Up to the last machine running, by the whole process, by its engine alone, and by the floor, in turns.

    Runs in a lab, on a host that has nothing; each life begins when the last guest of the one before is gone.
    """
    for size in sizes:
        needed, there = (size + 1) * (MEMORY_MIB + _OVERHEAD_MIB), _available_mib()
        if needed > there:
            report.notes.append(f"1 + {size} nodes were skipped: they need {needed} MiB of memory, {there} are there")
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            config = write(folder / "bench.yaml", size, image=image)
            subject = Subject(config, floor.recipe(config, kvm=_kvm(config)), folder / "state.json")
            _to_running(report, subject, size, rounds)
            if size == leased:
                _to_leases(report, subject, size, rounds)


def _to_running(report: Report, subject: Subject, size: int, rounds: int) -> None:
    def bare(threads: int) -> Callable[[], Life]:
        return partial(
            _life,
            partial(timed, partial(floor.up, subject.recipe, threads=threads)),
            partial(timed, partial(floor.destroy, subject.recipe, threads=threads)),
        )

    _process(subject, "destroy", "--yes")()  # nothing is there: the program comes into memory, and compiled
    warm = {threads: bare(threads)() for threads in THREADS if threads <= size + 1}
    stay = sorted(warm, key=lambda threads: warm[threads].up.wall)[:STAY]
    runs = {_SEQUENTIAL: bare(1)} | {f"floor: {threads} at a time": bare(threads) for threads in sorted(stay)}
    runs[_PROCESS] = partial(_life, _process(subject, "up", "--no-wait"), _process(subject, "destroy", "--yes"))
    runs[_ENGINE] = partial(
        _life, partial(timed, partial(_engine_up, subject)), partial(timed, partial(_engine_destroy, subject))
    )
    lives = in_turns(runs, rounds)
    for verb, of, target in (("up", _up_of, TARGETS.get(size)), ("destroy", _destroy_of, None)):
        taken = {name: tuple(map(of, each)) for name, each in lives.items()}
        floors = [name for name in taken if name.startswith("floor")]
        best = min(median(each.wall for each in taken[name]) for name in floors)
        for name, each in taken.items():
            ours = name not in floors
            report.rows.append(
                Row("up", f"{verb} of 1 + {size}", name, each, best if ours else None, target if ours else None)
            )


def _to_leases(report: Report, subject: Subject, size: int, rounds: int) -> None:
    threads = min(5, size + 1)

    def bare() -> None:
        floor.up(subject.recipe, threads=threads)
        floor.wait_for_leases(subject.recipe)

    lives = in_turns(
        {
            f"floor: {threads} at a time": partial(
                _life,
                partial(timed, bare),
                partial(timed, partial(floor.destroy, subject.recipe, threads=threads)),
            ),
            _PROCESS: partial(_life, _process(subject, "up"), _process(subject, "destroy", "--yes")),
        },
        rounds,
    )
    (floor_name, floors), (name, ours) = ((name, tuple(map(_up_of, each))) for name, each in lives.items())
    row = Row("up", f"up of 1 + {size} to the last lease", floor_name, floors)
    report.rows += [row, Row("up", row.work, name, ours, row.wall)]


def _life(up: Callable[[], Taken], destroy: Callable[[], Taken]) -> Life:
    life = Life(up(), destroy())
    deadline = time.monotonic() + _GONE_WITHIN
    while _guests():
        if time.monotonic() > deadline:
            raise RuntimeError(f"guests still run {_GONE_WITHIN:g} s after their end: {_guests()}")
        time.sleep(0.05)
    return life


def _up_of(life: Life) -> Taken:
    return life.up


def _destroy_of(life: Life) -> Taken:
    return life.destroy


def _process(subject: Subject, *words: str) -> Callable[[], Taken]:
    return partial(process, [AI_HOW, *words, "--state", str(subject.state), str(subject.config)])


def _engine_up(subject: Subject) -> None:
    with Libvirt(floor.URI) as libvirt:
        engine.up(engine.Site(libvirt, subject.state), load_file(subject.config), "hpc", wait=False)


def _engine_destroy(subject: Subject) -> None:
    with Libvirt(floor.URI) as libvirt:
        engine.destroy(engine.Site(libvirt, subject.state), CLUSTER)


def _kvm(config: Path) -> bool:
    """Whether ai-how would run these guests under KVM here."""
    with Libvirt(floor.URI) as libvirt:
        return preflight.choose_kvm(resolve(load_file(config)), preflight.abilities(libvirt), silent)


def _guests() -> list[str]:
    """The PIDs of QEMU; in a lab all of them are ours."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name = (entry / "comm").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if name.startswith("qemu-system"):
                found.append(entry.name)
    return found


def _available_mib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    sys.exit("/proc/meminfo does not say MemAvailable")
