"""`ai-how perf`: how well the network performs between two nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ai_how.cli.duration import seconds as read_seconds
from ai_how.cli.options import Options
from ai_how.cli.terminal import note, paint, print_json, say, table
from ai_how.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai_how.probe.perf import Performance

_WORD = "A node's name, or its end: `compute-01`; or a cluster's name, for a stand-in there."
_LONGEST = 3600.0


def perf(
    ctx: typer.Context,
    frm: Annotated[str, typer.Argument(metavar="FROM", help=_WORD, show_default=False)],
    to: Annotated[str, typer.Argument(metavar="TO", help="The same.", show_default=False)],
    seconds: Annotated[
        str, typer.Option("--seconds", metavar="TIME", help="How long each of the three is measured: 0.5, 2s, 1m.")
    ] = "2",
) -> int:
    """Measure latency, throughput and DNS between two nodes, beside the host's best.

    The floor is measured in the same run: two bare namespaces on a bare bridge. Exit code 1 where one of the three
    could not be measured. Needs root.
    """
    from ai_how.cli.matrix import shown
    from ai_how.cli.site import interruptible
    from ai_how.host.libvirt import Libvirt
    from ai_how.probe.perf import measure

    options: Options = ctx.obj
    length = read_seconds(seconds)
    if length > _LONGEST:
        raise UsageError(f"--seconds {seconds} is too long", why="an hour is the most")
    with interruptible(), Libvirt(options.connect) as libvirt, shown(as_json=options.json) as told:
        found = measure(libvirt, frm, to, length, told)
    if options.json:
        print_json(found.to_json())
    else:
        show(found)
    return 0 if found.whole else 1


def show(found: Performance) -> None:
    """The figures for people, with the reasons for those that are missing."""
    from ai_how.probe.perf import PERCENTS

    say(paint(f"{found.frm} → {found.to}", "bold"))
    rows = [
        _row(
            f"latency P{percent}",
            None if found.latency.found is None else found.latency.found.percentile(percent),
            None if found.latency.floor is None else found.latency.floor.percentile(percent),
            lambda value: f"{value:.3f} ms",
        )
        for percent in PERCENTS
    ]
    for what, rates, words in (("TCP throughput", found.tcp, _bits), ("DNS queries", found.dns, _queries)):
        here, floor = (None if rate is None else rate.per_second for rate in (rates.found, rates.floor))
        rows.append(_row(what, here, floor, words))
    table(("", "measured", "floor", "ratio"), rows, indent="  ")
    for what, measured in (("pings", found.latency.found), ("DNS queries", found.dns.found)):
        if measured is not None and measured.lost:
            say(f"  {paint('lost:', 'yellow')} {measured.lost:,} {what}")
    for each in (found.latency, found.tcp, found.dns):
        if each.why:
            say(f"  {paint('not measured:', 'red')} {each.why}")
        if each.floor_why:
            say(f"  {paint('no floor:', 'yellow')} {each.floor_why}")
    for remark in found.notes:
        note(remark)
    if found.unanswered:
        note(f"where packets stop: ai-how why-not {found.frm} {found.unanswered}")


def _row(what: str, here: float | None, floor: float | None, words: Callable[[float], str]) -> tuple[str | None, ...]:
    ratio = None if here is None or not floor else f"{here / floor:.2f}"
    return (what, None if here is None else words(here), None if floor is None else words(floor), ratio)


def _bits(bytes_per_second: float) -> str:
    return f"{bytes_per_second * 8 / 1e9:.2f} Gbit/s"


def _queries(per_second: float) -> str:
    return f"{per_second:,.0f}/s"
