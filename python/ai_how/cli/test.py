"""`ai-how test`: packets sent on the network of clusters, and what became of them against what was promised."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how.cli.options import Options
from ai_how.cli.site import ClusterOption, interruptible
from ai_how.cli.terminal import colourful, note, paint, print_json, say
from ai_how.errors import AiHowError

#: How many of the packets of a test that fail are followed.
_FOLLOWED = 8

if TYPE_CHECKING:
    from ai_how.config.load import Document
    from ai_how.host.libvirt import Libvirt
    from ai_how.probe.expectations import Expectation
    from ai_how.probe.judge import Scenario
    from ai_how.probe.path import PacketPath
    from ai_how.probe.report import Report
    from ai_how.probe.standing import Standing


def prove(
    ctx: typer.Context,
    config: Annotated[Path, typer.Argument(help="The configuration file.", show_default=False)],
    cluster: ClusterOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only what most often breaks, as `up` does at its end.")
    ] = False,
    only: Annotated[
        str,
        typer.Option(
            "--filter", metavar="REGEX", help="Only scenarios whose name it fits somewhere.", show_default=False
        ),
    ] = "",
    everybody: Annotated[
        bool, typer.Option("--all", help="Every node of a large cluster, and not a sample of them.")
    ] = False,
    retry: Annotated[
        int, typer.Option(metavar="N", min=0, max=100, help="How often what should pass is tried again.")
    ] = 2,
    pause: Annotated[
        bool, typer.Option("--pause-on-fail", help="Wait with everything in place after a failure, to look around.")
    ] = False,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write JUnit's XML to FILE, too.", show_default=False)
    ] = None,
) -> int:
    """Send packets, and say whether the network does what the configuration promises.

    What is forbidden is tried, too. The clusters must be up. Nodes whose machines are off are stood for by endpoints
    with their addresses; beside machines that run, stand-ins with addresses of the DHCP range send, and the machines
    themselves where a guest agent answers. Exit code 1 where anything fails. Needs root.
    """
    from ai_how.config.load import load_file
    from ai_how.host.libvirt import Libvirt
    from ai_how.probe.report import read_filter

    options: Options = ctx.obj
    document = load_file(config)
    wanted = read_filter(only) if only else None
    if junit is not None:
        _refuse_unwritable(junit)
    with interruptible(), Libvirt(options.connect) as libvirt:
        report = try_clusters(
            libvirt,
            document,
            [] if cluster is None else [cluster],
            as_json=options.json,
            quick=quick,
            only=wanted,
            everybody=everybody,
            attempts=retry + 1,
            failed=_pause if pause else None,
        )
    if options.json:
        print_json(report.to_json())
    else:
        show(report)
    if junit is not None:  # last: what cannot be written must not cost the report
        _write(junit, report.to_junit("ai-how"))
    return 0 if report.holds else 1


def try_clusters(
    libvirt: Libvirt,
    document: Document,
    keys: Sequence[str],
    *,
    as_json: bool,
    quick: bool = False,
    only: re.Pattern[str] | None = None,
    everybody: bool = False,
    attempts: int = 3,
    failed: Callable[[Standing], None] | None = None,
) -> Report:
    """The test of these clusters of the document, all of them where none is named, shown while it goes on. `failed` is
    called after a failure, while everything still stands."""
    from ai_how.engine.prepare import specs_here
    from ai_how.host.lock import held
    from ai_how.probe import promises
    from ai_how.probe.judge import Result
    from ai_how.probe.report import Report, chosen, worth_telling
    from ai_how.probe.run import run
    from ai_how.probe.standing import standing

    begin = time.monotonic()
    specs = specs_here(libvirt, document, keys)
    with _shown(as_json=as_json) as display, ExitStack() as stack:
        for each in specs:  # nobody starts a machine while something stands for it
            stack.enter_context(held(libvirt.uri, each.name))
        stands = stack.enter_context(
            standing(
                libvirt,
                specs,
                display.preparing,
                everybody=everybody,
                senders=1 if quick else 2,
                outside=not quick,
                file=document.file or "CONFIG",
            )
        )
        if quick:
            wanted = promises.quick(stands.parties, stands.strangers, stands.around)
        else:
            wanted = promises.whole(stands.parties, stands.strangers, stands.around, everybody=everybody)
        tried = list(wanted.expectations) if only is None else chosen(wanted.expectations, only)
        found = run(tried, stands.spots, display.answered, display.judged, attempts=attempts)
        kept = worth_telling(tried, found, everything=only is None)
        paths = _paths(libvirt, kept, stands)
        if failed is not None and any(each.result is Result.FAILED for each in kept.values()):
            display.close()
            failed(stands)
    return Report(kept, time.monotonic() - begin, wanted.left_out, paths)


def _paths(libvirt: Libvirt, found: Mapping[Expectation, Scenario], stands: Standing) -> dict[Expectation, PacketPath]:
    """How the packets of what failed go, sent once more and followed; of the first ones, which the others resemble."""
    from ai_how.probe.explain import Scene, explain
    from ai_how.probe.judge import Result
    from ai_how.providers import network as networks

    wrong = (each for each, scenario in found.items() if scenario.result is Result.FAILED)
    failed = [each for each in wrong if stands.spots[each.frm].guest is None][:_FOLLOWED]
    scene = Scene(networks=tuple(networks.observe_all(libvirt))) if failed else None
    paths = {}
    for each in failed:
        with suppress(AiHowError):  # it cannot be followed here; that it failed is known
            path = explain(stands.spots[each.frm], each.action, scene)
            if path.hops:
                paths[each] = path
    return paths


def show(report: Report) -> None:
    """What failed, what could not be tried, and the sum."""
    from ai_how.probe.judge import Result

    for expectation, scenario in report.of(Result.FAILED):
        promised = "shall pass" if expectation.expect == "pass" else "shall not pass"
        say(f"{paint('✗', 'red')} {scenario.name}")
        say(f"    {promised} ({expectation.why}): {scenario.detail}")
        if (path := report.paths.get(expectation)) is not None:
            for hop in path.hops:
                say(f"    · {hop.where}: {hop.what}")
            if path.end is not None:
                say(f"    ✗ {path.end}")
    reasons: dict[str, list[str]] = {}
    for _, scenario in report.of(Result.SKIPPED):
        reasons.setdefault(scenario.detail, []).append(scenario.name)
    for why, names in reasons.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        say(f"{paint('–', 'yellow')} {names[0]}{more}: {why}")
    if report.left_out:
        note(report.left_out)
    say(summary(report))


def summary(report: Report) -> str:
    """One line."""
    from ai_how.probe.judge import Result

    passed, failed, skipped = (report.count(each) for each in Result)
    reasons = dict.fromkeys(_short(scenario.detail) for _, scenario in report.of(Result.SKIPPED))
    why = f" ({'; '.join(reasons)})" if reasons else ""
    line = f"{passed} of {passed + failed} passed, {skipped} skipped{why}"
    return f"{paint(line, 'red' if failed else 'green')} in {report.seconds:.1f} s"


def _short(reason: str) -> str:
    return reason if len(reason) <= 60 else f"{reason[:57]}..."


def _refuse_unwritable(path: Path) -> None:
    """Before packets are sent; what was there stays until there is something to write."""
    from ai_how.errors import UsageError

    # Not as pathlib has it, which raises where it may not look, or where the name is too long.
    if os.path.isdir(path) or not os.path.isdir(path.parent):  # noqa: PTH112
        why = "it is a directory" if os.path.isdir(path) else f"there is no directory {path.parent}"  # noqa: PTH112
        raise UsageError(f"{path} cannot be written", why=why)


def _write(path: Path, text: str) -> None:
    from ai_how.errors import HostError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise HostError(f"{path} cannot be written", why=error.strerror or str(error)) from error


def _pause(stands: Standing) -> None:
    """Everything stays until Enter."""
    from ai_how.probe.expectations import HOST

    note("everything stands; enter a place in another terminal:")
    host = stands.spots[HOST].place
    for name, spot in stands.spots.items():
        if spot.place is not host:
            note(f"    {name}: nsenter --net=/proc/{spot.place.thread}/ns/net")
    if sys.stdin.isatty():
        note("Enter goes on.")
        sys.stdin.readline()
    else:
        note("there is no terminal to wait at: going on")


class _Display:
    """What is shown while the test goes on: nothing here."""

    def preparing(self, what: str, done: int, of: int) -> None:
        """Told of the work before the first packet."""

    def answered(self, done: int, of: int) -> None:
        """Told how many of how many are answered."""

    def judged(self, expectation: Expectation, scenario: Scenario) -> None:
        """Told of every scenario."""

    def close(self) -> None:
        """The end of it."""


class _Lines(_Display):
    """One line for each scenario, on stderr."""

    def judged(self, expectation: Expectation, scenario: Scenario) -> None:
        note(_line(scenario))


class _Live(_Display):
    """The same on a terminal, with a bar under it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn())
        console = Console(stderr=True, highlight=False)
        self._bars = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._task = self._bars.add_task("taking leases", total=None)
        self._bars.start()

    def preparing(self, what: str, done: int, of: int) -> None:
        self._bars.update(self._task, description=what, completed=done, total=of)

    def answered(self, done: int, of: int) -> None:
        self._bars.update(self._task, description="sending packets", completed=done, total=of)

    def judged(self, expectation: Expectation, scenario: Scenario) -> None:
        self._bars.console.print(_line(scenario), markup=False)

    def close(self) -> None:
        self._bars.stop()


def _line(scenario: Scenario) -> str:
    marks = {"passed": "✓", "failed": "✗", "skipped": "–"}
    promised = "" if scenario.expect == "pass" else " (denied)"
    return f"{marks[scenario.result]} {scenario.name}{promised}"


@contextmanager
def _shown(*, as_json: bool) -> Iterator[_Display]:
    display = _Display() if as_json else _Live() if colourful(sys.stderr) else _Lines()
    try:
        yield display
    finally:
        display.close()
