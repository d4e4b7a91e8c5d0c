"""Completion of verbs and options in bash, zsh and fish: shown, or installed where the shell looks for it."""

from __future__ import annotations

from enum import StrEnum

import typer
from typer import completion

from ai_how.cli.terminal import note, say
from ai_how.errors import HostError

PROGRAM = "ai-how"
#: The scripts call the program back with this variable set, to ask for what fits.
VARIABLE = "_AI_HOW_COMPLETE"


class Shell(StrEnum):
    """The shells that can complete."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def install(shell: Shell | None) -> None:
    """Install the script for a shell and exit. The shell is named, not guessed: it works from scripts and sudo, too."""
    if shell is None:
        return
    try:
        _, path = completion.install(shell=shell.value, prog_name=PROGRAM, complete_var=VARIABLE)
    except OSError as error:
        raise HostError(
            f"completion for {shell} cannot be installed",
            why=str(error),
            remedy=f"{PROGRAM} --show-completion {shell} prints it, to be put where you want it",
        ) from error
    note(f"{shell} completion is in {path}; it takes effect in the next shell")
    raise typer.Exit


def show(shell: Shell | None) -> None:
    """Print the script for a shell and exit."""
    if shell is None:
        return
    say(completion.get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell.value))
    raise typer.Exit
