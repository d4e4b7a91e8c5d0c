"""`ai-how lab`: a command in a sealed place with its own libvirt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ai_how.cli.options import Options

LibvirtRoot = Annotated[
    Path | None,
    typer.Option("--libvirt-root", metavar="DIR", help="Use the libvirt unpacked in DIR (dpkg -x), not the system's."),
]

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
    libvirt_root: LibvirtRoot = None,
) -> int:
    """Run COMMAND in a lab: its own network, processes and libvirtd; nothing of it is left afterwards.

    The exit code is the command's. Your files are the real ones. Needs root.
    """
    from ai_how.lab import run as run_in_lab

    return run_in_lab(command, internet=internet, libvirt_root=libvirt_root)


@lab_app.command("matrix")
def matrix(
    ctx: typer.Context,
    libvirt_root: LibvirtRoot = None,
    here: Annotated[bool, typer.Option("--here", hidden=True, help="This lab is the one.")] = False,
) -> int:
    """Try every DNS mode against every other with packets, in a lab of its own, and show what passes and what does not.

    Exit code 1 where anything is otherwise than the modes promise, or could not be tried. Consul's names are tried
    where `consul` is installed. Needs root.
    """
    options: Options = ctx.obj
    if not here:
        from ai_how.lab import run as run_in_lab

        command = [sys.executable, "-m", "ai_how", "lab", "matrix", "--here", *(["--json"] if options.json else [])]
        return run_in_lab(command, internet=True, libvirt_root=libvirt_root)
    from ai_how.cli.matrix import show, shown
    from ai_how.cli.terminal import print_json
    from ai_how.host.libvirt import Libvirt
    from ai_how.probe.matrix import standing, try_all

    with (
        Libvirt(options.connect) as libvirt,
        shown(as_json=options.json) as told,
        standing(libvirt, told, remove=False) as field,
    ):
        found = try_all(field, told)
    if options.json:
        print_json(found.to_json())
    else:
        show(found)
    return 0 if found.holds else 1
