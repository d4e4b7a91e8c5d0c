"""How work is shown while it goes on: a live display on a terminal, plain lines elsewhere, nothing with --json."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ai_how.cli.terminal import colourful, counted, note, paint
from ai_how.engine.events import (
    Event,
    NodeReady,
    Note,
    Phase,
    Planned,
    Progress,
    StepDone,
    StepFailed,
    StepStarted,
    silent,
)
from ai_how.plan.text import lines, summary

if TYPE_CHECKING:
    from rich.progress import TaskID

#: The engine's phases as people read them, with what is counted.
_PHASES = {
    "apply": "taking {step}",
    "undo": "undoing {step}",
    "verify": "reading the host again",
    "traffic": "waiting until {node} answer again",
    "wait": "waiting for the leases of {node}",
    "shut down": "asking {node} to shut down",
}


@contextmanager
def shown(*, as_json: bool, plain: bool = False) -> Iterator[Progress]:
    """A progress callable that shows what it is told on stderr, as long as the block lasts; `plain`: lines only."""
    if as_json:
        yield silent
    elif not plain and colourful(sys.stderr):
        with _live() as progress:
            yield progress
    else:
        yield _plain()


def warnings_of(progress: Progress) -> Progress:
    """`progress` that hears warnings only."""

    def tell(event: Event) -> None:
        if isinstance(event, Note) and event.warning:
            progress(event)

    return tell


def _plain() -> Progress:
    lock = threading.Lock()

    def tell(event: Event) -> None:
        line = _line(event)
        if line:
            with lock:
                note(line)

    return tell


def _phase(name: str, total: int) -> str:
    return _PHASES.get(name, name).format(step=counted(total, "step"), node=counted(total, "node"))


def _line(event: Event) -> str:
    match event:
        case Phase(name, total):
            return _phase(name, total) if total else ""
        case StepDone(step, seconds):
            return f"  {step} ({seconds:.2f} s)"
        case StepFailed(step, error):
            return f"  {step}: failed: {error}"
        case NodeReady(node, ip, seconds):
            return f"  {node} has {ip} ({seconds:.1f} s)"
        case Note(text, warning):
            return f"{paint('warning:', 'yellow', sys.stderr)} {text}" if warning else text
        case Planned(cluster, plan):
            return "\n".join([f"{cluster}: {summary(plan)}", *lines(plan)])
        case StepStarted():
            return ""


@contextmanager
def _live() -> Iterator[Progress]:
    """One bar for each phase; below it what is being done at this moment."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}", style="dim", markup=False),
        console=Console(stderr=True),
    )
    current: list[TaskID] = []

    def tell(event: Event) -> None:
        match event:
            case Phase(name, total):
                if total:
                    current[:] = [bars.add_task(_phase(name, total), total=total, now="")]
                    if name == "verify":
                        bars.update(current[0], completed=total)
            case StepStarted(step):
                if current:
                    bars.update(current[0], now=str(step))
            case StepDone():
                if current:
                    bars.advance(current[0])
            case NodeReady(node, ip, _):
                if current:
                    bars.update(current[0], advance=1, now=f"{node} has {ip}")
            case Note() | Planned() | StepFailed():
                bars.console.print(_line(event), markup=False, highlight=False)

    def tell_if_seen(event: Event) -> None:
        # The terminal may be closed meanwhile: no reason to stop half-way, and least of all in undoing.
        with contextlib.suppress(OSError):
            tell(event)

    bars.start()
    try:
        yield tell_if_seen
    finally:
        with contextlib.suppress(OSError):
            bars.stop()
