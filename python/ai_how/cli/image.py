"""`ai-how image build PATH`: the micro guest image for labs, demos and tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ai_how.cli.options import Options
from ai_how.cli.terminal import note, print_json, say

image_app = typer.Typer(no_args_is_help=True, help="The micro guest image: a small machine for labs and tests.")


@image_app.callback()
def image() -> None:
    """The micro guest image: a small machine for labs and tests."""


@image_app.command()
def build(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The qcow2 file to write.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Build the image from Debian's or Ubuntu's kernel and busybox. Needs no root.

    What was built once is copied from the cache. Exit code 2: PATH exists and is not this image.
    """
    from ai_how.images import build_micro_image

    options: Options = ctx.obj
    built = build_micro_image(path, progress=None if options.json else note, replace=force)
    if options.json:
        print_json(
            {
                "path": str(built.path),
                "size": built.size,
                "key": built.key,
                "kernel": built.kernel,
                "outcome": built.outcome.value,
            }
        )
    else:
        say(f"{built.path}: {built.outcome} ({built.size / 1024**2:.1f} MiB, {built.kernel})")
