"""`ai-how lab`: a command in a sealed place with its own libvirt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

lab_app = typer.Typer(help="A sealed place to try things in, with its own libvirt.", no_args_is_help=True)


@lab_app.callback()
def lab() -> None:
    """A sealed place to try things in, with its own libvirt."""


@lab_app.command(
    "run",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def run(
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="The command and its arguments.", show_default=False)
    ],
    internet: Annotated[
        bool, typer.Option("--internet", help="Add the pretend internet: DNS at 8.8.8.8 and 1.1.1.1, a web server.")
    ] = False,
    libvirt_root: Annotated[
        Path | None,
        typer.Option(
            "--libvirt-root", metavar="DIR", help="Use the libvirt unpacked in DIR (dpkg -x), not the system's."
        ),
    ] = None,
) -> int:
    """Run COMMAND in a lab: its own network, processes and libvirtd; nothing of it is left afterwards.

    The exit code is the command's. Your files are the real ones. Needs root.
    """
    from ai_how.lab import run as run_in_lab

    return run_in_lab(command, internet=internet, libvirt_root=libvirt_root)
