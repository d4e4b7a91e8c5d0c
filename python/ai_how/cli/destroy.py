"""`ai-how destroy`: clusters gone, the host as it was before them."""

from __future__ import annotations

from typing import Annotated

import typer

from ai_how.cli.options import Options
from ai_how.cli.site import ClusterOption, choose, site
from ai_how.cli.terminal import confirm, counted, note, print_json, say


def destroy(
    ctx: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|CLUSTER", help="A configuration file, or the name of a cluster.", show_default=False
        ),
    ],
    cluster: ClusterOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Remove clusters: their machines, disks with all data and networks; nothing else."""
    from ai_how.engine import cluster as engine
    from ai_how.host.libvirt import Libvirt

    options: Options = ctx.obj
    with Libvirt(options.connect) as libvirt:
        chosen = choose(libvirt, target, cluster)
        there = {each.name: engine.status(libvirt, each.name) for each in chosen}
    doomed = [found for found in there.values() if found.exists]
    for found in doomed:
        nodes = ", ".join(node.name for node in found.nodes[:5]) + (" …" if len(found.nodes) > 5 else "")
        if nodes:
            note(f"{found.cluster}: {found.network.name} and {counted(len(found.nodes), 'node')} with disk ({nodes})")
        elif found.storage is not None:
            note(f"{found.cluster}: {found.network.name}, and the disks in {found.storage}, whose machines are gone")
        else:
            note(f"{found.cluster}: {found.network.name}")
    if doomed and not confirm("Remove them, with all data on their disks?", yes=yes):
        note("nothing was removed")
        return 1
    with site(options) as place:
        outcomes = [(each.name, engine.destroy(place, each.name)) for each in chosen]
    if options.json:
        answers = [{"cluster": name, "changed": outcome.changed} for name, outcome in outcomes]
        print_json(answers[0] if len(answers) == 1 else answers)
        return 0
    for name, outcome in outcomes:
        say(f"{name}: removed" if outcome.changed else f"{name}: nothing there")
    return 0
