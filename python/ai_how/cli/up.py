"""`ai-how up`: clusters running as configured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ai_how.cli.options import Options
from ai_how.cli.site import ClusterOption, site, specs_of
from ai_how.cli.terminal import print_json, say


def up(
    ctx: typer.Context,
    config: Annotated[Path, typer.Argument(help="The configuration file.", show_default=False)],
    cluster: ClusterOption = None,
    start: Annotated[bool, typer.Option(help="Start the nodes, or only define them.")] = True,
    wait: Annotated[bool, typer.Option(help="Wait until every node has its lease.")] = True,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long to wait for the leases.")] = 300.0,
) -> None:
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
    with site(options) as place:
        outcomes = [
            engine.up(place, document, cluster=spec.key, start=start, wait=wait, within=timeout) for spec in specs
        ]
    for spec, outcome in zip(specs, outcomes, strict=True):
        if options.json:
            answers.append({"changed": outcome.changed, "steps": [str(step) for step in outcome.steps]})
            answers[-1] |= outcome.status.to_json()
            continue
        say(f"{spec.name}: {len(outcome.steps)} steps taken" if outcome.changed else f"{spec.name}: nothing to do")
        show(outcome.status)
    if options.json:
        print_json(answers[0] if len(answers) == 1 else answers)
