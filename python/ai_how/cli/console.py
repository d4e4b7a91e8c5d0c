"""`ai-how console`: a node's serial console."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
from typing import Annotated

import typer

from ai_how.cli.options import Options
from ai_how.errors import HostError, NotReady, UsageError


def console(
    ctx: typer.Context,
    node: Annotated[str, typer.Argument(help="The node's name, or its end: `compute-01`.", show_default=False)],
) -> None:
    """Open the serial console of a node; leave it with Ctrl+]."""
    from ai_how.host.libvirt import Libvirt
    from ai_how.providers.domain import observe_all

    options: Options = ctx.obj
    with Libvirt(options.connect) as libvirt:
        nodes = {each.name: each for each in observe_all(libvirt)}
    fitting = [node] if node in nodes else [name for name in nodes if name.endswith(f"-{node}")]
    if not fitting:
        near = difflib.get_close_matches(node, nodes, n=1)
        raise UsageError(
            f"there is no node {node} on this host",
            why=f"it has {', '.join(sorted(nodes)[:10])}" if nodes else "ai-how has made none here",
            remedy=f"Did you mean {near[0]}?" if near else "ai-how status lists them.",
        )
    if len(fitting) > 1:
        raise UsageError(f"{node} fits several nodes", why=", ".join(sorted(fitting)), remedy="Give the whole name.")
    name = fitting[0]
    if not nodes[name].running:
        raise NotReady(f"{name} has no console", why="it is not running", remedy="Start it: ai-how up CONFIG")
    if not sys.stdin.isatty():
        raise UsageError(f"the console of {name} needs a terminal", why="standard input is not one")
    virsh = shutil.which("virsh")
    if virsh is None:
        raise HostError("there is no virsh", remedy="Install it: apt-get install libvirt-clients")
    sys.stdout.flush()
    os.execv(virsh, [virsh, "--connect", options.connect, "console", "--force", name])  # noqa: S606 - no shell
