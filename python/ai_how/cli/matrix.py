"""How the matrix of the DNS modes is shown: while it is tried, and as a table."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ai_how.cli.terminal import colourful, counted, note, paint, say
from ai_how.probe.columns import Column
from ai_how.probe.expectations import Expect
from ai_how.probe.judge import Result
from ai_how.probe.matrix import Matrix, Told, silent

#: Where stdout is no terminal: as wide as the table is.
_WIDTH = 132

_MARKS = {
    Result.PASSED: ("✓", "green"),
    Result.FAILED: ("✗", "red"),
    Result.SKIPPED: ("–", "yellow"),
}

_LEGEND = """
✓ as promised   ✗ not   – could not be tried      open: it passes   shut: it does not, and its controls do

nodes          ping, TCP, UDP to a node; always shut: IPv6 between clusters, sources that are not the sender's
gateway        ping, DNS, DHCP of the own gateway; ping of a peer's; always shut: ARP for another's gateway
host services  any other port of the host, at its gateways and at its address on the uplink
internet       ping, TCP, UDP, HTTP and DNS outside; the host's address is the one that is seen there
LAN in         a machine outside that knows the way: to a node, and to its gateway (always shut)
names          names of its nodes at the own gateway; unknown names of any cluster never leave the host
reverse        the same for addresses
"""


@contextmanager
def shown(*, as_json: bool) -> Iterator[Told]:
    """Progress on stderr: a live display on a terminal, a line for each part of the work elsewhere."""
    if as_json:
        yield silent
    elif colourful(sys.stderr):
        with _live() as told:
            yield told
    else:
        yield _plain()


def show(found: Matrix) -> None:
    """The table, what failed, and why what was left out was."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("from", "to", *Column):
        table.add_column(str(heading), no_wrap=True)
    before = ""
    for row in found.rows:
        if before and row.frm != before:
            table.add_row()
        cells = (_cell(found, row.name, column) for column in Column)
        table.add_row(row.frm if row.frm != before else "", row.to, *cells)
        before = row.frm
    console = Console(highlight=False, no_color=not colourful(sys.stdout))
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table)
    say(_LEGEND.strip())
    say()
    for expectation, scenario in found.scenarios.items():
        if scenario.result is Result.FAILED:
            promised = "shall pass" if scenario.expect is Expect.PASS else "shall not pass"
            say(f"{paint('✗', 'red')} {scenario.name}")
            say(f"    {promised} ({expectation.why}): {scenario.detail}")
    for scenario in found.scenarios.values():
        if scenario.result is Result.SKIPPED:
            say(f"{paint('–', 'yellow')} {scenario.name}: {scenario.detail}")
    passed, failed, skipped = (found.count(each) for each in Result)
    say(f"{passed} of {counted(passed + failed, 'scenario')} as promised, {skipped} could not be tried")


def _cell(found: Matrix, row: str, column: Column) -> str:
    mark, colour = _MARKS[found.result(row, column)]
    opened = any(each.expect is Expect.PASS for each in found.of(row, column))
    return f"[{colour}]{mark}[/] {'open' if opened else '[dim]shut[/]'}"


def _plain() -> Told:
    said: list[str] = []

    def told(what: str, _done: int, _of: int) -> None:
        if what not in said:
            said.append(what)
            note(what)

    return told


@contextmanager
def _live() -> Iterator[Told]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def told(what: str, done: int, of: int) -> None:
            # The terminal may be closed meanwhile.
            with contextlib.suppress(OSError):
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=of)
                bars.update(tasks[what], completed=done)

        yield told
