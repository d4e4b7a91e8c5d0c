"""`ai-how confirm`: a change made with `up --confirm-within` is kept, or undone at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ai_how.cli.options import Options
from ai_how.cli.site import ClusterOption, is_file, specs_of
from ai_how.cli.terminal import print_json, say
from ai_how.errors import NotReady


def confirm(
    ctx: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[CONFIG|CLUSTER]",
            help="A configuration file, or the name of a cluster; without it, every change that waits on this host.",
            show_default=False,
        ),
    ] = None,
    cluster: ClusterOption = None,
    undo: Annotated[bool, typer.Option("--undo", help="Undo the change now, instead of keeping it.")] = False,
) -> None:
    """Keep a change that was made with `up --confirm-within`, or undo it at once."""
    from ai_how.engine import pending

    options: Options = ctx.obj
    names = _names(options, target, cluster)
    answers = []
    for name in names:
        if undo:
            undone = pending.undo(options.connect, name, options.state)
            answers.append({"cluster": name, "confirmed": False, "undone": undone.when, "why": undone.why})
        else:
            pending.confirm(options.connect, name, options.state)
            answers.append({"cluster": name, "confirmed": True})
        if not options.json:
            say(f"{name}: {'undone' if undo else 'confirmed'}")
    if options.json:
        print_json(answers[0] if len(answers) == 1 else answers)


def _names(options: Options, target: str | None, cluster: str | None) -> list[str]:
    """The clusters that are meant. One that is not on the host any more may be: its first `up` was undone."""
    from ai_how.config.load import load_file
    from ai_how.engine import pending

    if target is not None and not is_file(target):
        return [target]
    waiting = [each.cluster for each in pending.all_pending(options.connect)]
    if target is not None:
        named = [spec.name for spec in specs_of(load_file(Path(target)), cluster)]
        return [name for name in named if name in waiting] or named[:1]
    if cluster is not None:
        return [cluster]
    if not waiting:
        raise NotReady(
            "no change waits for a confirmation on this host",
            remedy="Those wait that are made with: ai-how up CONFIG --confirm-within 60s",
        )
    return waiting
