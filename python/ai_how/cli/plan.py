"""`ai-how plan`: what `up` would do, and to whom."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how.cli.options import Options
from ai_how.cli.site import ClusterOption, specs_of
from ai_how.cli.terminal import note, paint, print_json, say

if TYPE_CHECKING:
    from ai_how.engine.prepare import Prepared

_COLOURS = {"+": "green", "~": "yellow", "-": "red"}


def plan(
    ctx: typer.Context,
    config: Annotated[Path, typer.Argument(help="The configuration file.", show_default=False)],
    cluster: ClusterOption = None,
    start: Annotated[bool, typer.Option(help="The plan of up with nodes started, or only defined.")] = True,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write it to FILE, for `ai-how up FILE`.", show_default=False
        ),
    ] = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 where there is something to do.")] = False,
) -> int:
    """Show what `up` would create, change and remove, why, and whom it disturbs.

    Nothing is changed.
    """
    from ai_how.cli.progress import shown, warnings_of
    from ai_how.config.load import load_file
    from ai_how.engine.planfile import write_plan
    from ai_how.engine.prepare import foresee
    from ai_how.host.libvirt import Libvirt
    from ai_how.plan.document import plan_document

    options: Options = ctx.obj
    document = load_file(config)
    keys = [spec.key for spec in specs_of(document, cluster)]
    with Libvirt(options.connect) as libvirt, shown(as_json=options.json, plain=True) as progress:
        told = progress if options.verbose else warnings_of(progress)
        found = foresee(libvirt, document, keys, start=start, progress=told)
    if output is not None:
        write_plan(output, document, options.connect, found, start=start)
    if options.json:
        answers = [plan_document(each.spec.name, each.plan) for each in found]
        print_json(answers[0] if len(answers) == 1 else answers)
    else:
        for each in found:
            show(each, everything=options.verbose > 0)
        if output is not None:
            note(f"written to {output}; carry it out with: ai-how up {output}")
    return 1 if exit_code and any(each.plan for each in found) else 0


def show(found: Prepared, *, everything: bool) -> None:
    """A plan for people."""
    from ai_how.host.memory import is_root
    from ai_how.plan.text import lines, summary
    from ai_how.resources.base import OF_THE_HOST

    say(f"{paint(found.spec.name, 'bold')}: {summary(found.plan)}")
    for line in lines(found.plan, everything=everything):
        sign = line.lstrip()[:1]
        say(paint(line, _COLOURS[sign]) if sign in _COLOURS else line)
    if not is_root() and any(step.target.kind in OF_THE_HOST for step in found.plan.steps):
        note("this takes root: the host is changed outside libvirt; nothing else of it was looked at")
