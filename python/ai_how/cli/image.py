"""`ai-how image build PATH`: the micro guest image for labs, demos and tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

image_app = typer.Typer(no_args_is_help=True, help="The micro guest image: a small machine for labs and tests.")


@image_app.callback()
def image() -> None:
    """The micro guest image: a small machine for labs and tests."""


@image_app.command()
def build(
    path: Annotated[Path, typer.Argument(help="Where to write the image (qcow2).")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Build a bootable image of some 16 MiB from Debian's kernel and busybox. Needs no root."""
    from rich.console import Console

    from ai_how.images import build_micro_image

    notes = Console(stderr=True)
    with notes.status("micro image") as status:

        def show(step: str) -> None:
            if notes.is_terminal:
                status.update(step)
            else:
                notes.print(step, highlight=False, soft_wrap=True)

        built = build_micro_image(path, progress=show, replace=force)
    size = built.size / 1024**2
    typer.echo(f"{built.path}: {built.outcome} ({size:.1f} MiB, {built.kernel}, key {built.key})")
