"""`ai-how up`: clusters running as configured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how.cli.options import Options
from ai_how.cli.site import ClusterOption, site, specs_of
from ai_how.cli.terminal import confirm, counted, note, print_json, say
from ai_how.errors import NodesLeave

if TYPE_CHECKING:
    from ai_how.engine.cluster import Outcome
    from ai_how.spec.cluster import Cluster


def up(
    ctx: typer.Context,
    config: Annotated[Path, typer.Argument(help="The configuration file.", show_default=False)],
    cluster: ClusterOption = None,
    start: Annotated[bool, typer.Option(help="Start the nodes, or only define them.")] = True,
    wait: Annotated[bool, typer.Option(help="Wait until every node has its lease.")] = True,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long to wait for the leases.")] = 300.0,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before nodes that left the file go, with their disks.")
    ] = False,
) -> int:
    """Bring clusters up as configured, and wait until every node has its address.

    What is there already is left alone. If a step fails, or on Ctrl-C, what this run made is undone.
    """
    from ai_how.cli.status import show
    from ai_how.config.load import load_file
    from ai_how.engine import cluster as engine

    options: Options = ctx.obj
    document = load_file(config)
    answers = []
    specs = specs_of(document, cluster)

    def bring_up(spec: Cluster, *, remove_nodes: bool) -> Outcome:
        with site(options) as place:
            return engine.up(
                place, document, spec.key, start=start, remove_nodes=remove_nodes, wait=wait, within=timeout
            )

    outcomes = []
    for spec in specs:
        try:
            outcomes.append(bring_up(spec, remove_nodes=yes))
        except NodesLeave as leave:
            if options.json or not sys.stdin.isatty():
                raise
            note(f"{spec.name}: no longer configured: {', '.join(leave.nodes)}")
            if not confirm("Remove them, with all data on their disks?", yes=False):
                note("nothing was changed")
                return 1
            outcomes.append(bring_up(spec, remove_nodes=True))
    for spec, outcome in zip(specs, outcomes, strict=True):
        if options.json:
            answers.append({"changed": outcome.changed, "steps": [str(step) for step in outcome.steps]})
            answers[-1] |= outcome.status.to_json()
            continue
        say(
            f"{spec.name}: {counted(len(outcome.steps), 'step')} taken"
            if outcome.changed
            else f"{spec.name}: nothing to do"
        )
        show(outcome.status)
    if options.json:
        print_json(answers[0] if len(answers) == 1 else answers)
    return 0
