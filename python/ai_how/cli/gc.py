"""`ai-how gc`: what is left of clusters that are not there any more, listed and, when told so, removed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how.cli.options import Options
from ai_how.cli.site import site, specs_of
from ai_how.cli.terminal import counted, note, paint, print_json, say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ai_how.engine.gc import Found
    from ai_how.engine.leftovers import Leftover


def gc(
    ctx: typer.Context,
    configs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[CONFIG]...",
            help="Configuration files whose clusters are known, also where nothing of them is on the host.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove them, with all data on their disks.")] = False,
) -> int:
    """List what is left of clusters that are not there any more; with --yes remove it.

    Without --yes nothing is changed, and the exit code is 0. With it, 1 where something of it is still there.
    """
    from ai_how.config.load import load_file
    from ai_how.engine import gc as engine

    options: Options = ctx.obj
    named = {each.name for path in configs or () for each in specs_of(load_file(path), None)}
    with site(options) as place:
        found = engine.collect(place, named) if yes else engine.search(place, named)
    if options.json:
        print_json(_to_json(found))
    else:
        show(found, yes=yes)
    return 1 if yes and found.leftovers else 0


def show(found: Found, *, yes: bool) -> None:
    """What was found, for people."""
    for why in found.unseen:
        note(f"not looked at: {why}")
    _list(found.removed, paint("removed", "green"))
    _list(found.leftovers, paint("still there" if yes else "left", "yellow"))
    if yes:
        say(f"{counted(len(found.removed), 'leftover')} removed" if found.removed else "no leftovers removed")
    elif found.leftovers:
        say(f"{counted(len(found.leftovers), 'leftover')}; ai-how gc --yes removes those that are not kept")
    else:
        say("no leftovers")


def _list(leftovers: Iterable[Leftover], what: str) -> None:
    for each in leftovers:
        say(f"{what}: {paint(str(each), 'bold')}")
        say(f"    {each.why}")
        say(f"    {'kept: ' + each.kept if each.kept else each.loss}")


def _to_json(found: Found) -> dict[str, object]:
    return {
        "leftovers": [each.to_json() for each in found.leftovers],
        "removed": [each.to_json() for each in found.removed],
        "unseen": list(found.unseen),
    }
