"""`ai-how support-bundle`: everything that is needed to judge this host from afar, in one file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ai_how.cli.options import Options
from ai_how.cli.terminal import counted, note, print_json, say


def support_bundle(
    ctx: typer.Context,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write it.", show_default=False),
    ] = None,
) -> int:
    """Write what is needed to judge this host from afar into a file, without secrets.

    XML, rules, links, routes, leases, logs, and the doctor's findings. The file is for you alone: look at it before you
    send it. `ai-how doctor --bundle FILE` gives the same verdict elsewhere.
    """
    from ai_how.diagnose.bundle import write_bundle

    options: Options = ctx.obj
    path = output or Path(f"ai-how-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar.gz")
    made = write_bundle(path, options.connect, options.state)
    if options.json:
        print_json({"file": str(path), "members": list(made.members), "removed": made.removed})
    else:
        say(f"{path}: {counted(len(made.members), 'file')}")
        note(f"{counted(made.removed, 'secret')} taken out; look at it before you send it: tar -tzf {path}")
    return 0
