"""`ai-how down`: clusters at rest, everything kept."""

from __future__ import annotations

from typing import Annotated

import typer

from ai_how.cli.options import Options
from ai_how.cli.site import ClusterOption, choose, site
from ai_how.cli.terminal import print_json, say


def down(
    ctx: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|CLUSTER", help="A configuration file, or the name of a cluster.", show_default=False
        ),
    ],
    cluster: ClusterOption = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Power off what still runs after this time.")
    ] = 60.0,
) -> None:
    """Shut the nodes of clusters down and stop their networks; what is theirs is kept."""
    from ai_how.engine import cluster as engine

    options: Options = ctx.obj
    with site(options) as place:
        outcomes = [
            (each.name, engine.down(place, each.name, within=timeout))
            for each in choose(place.libvirt, target, cluster)
        ]
    if options.json:
        answers = [{"cluster": name, "changed": outcome.changed} for name, outcome in outcomes]
        print_json(answers[0] if len(answers) == 1 else answers)
        return
    for name, outcome in outcomes:
        say(f"{name}: stopped" if outcome.changed else f"{name}: nothing to do")
