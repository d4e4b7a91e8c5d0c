"""`ai-how doctor`: what is wrong, the one cause of it, and its repair."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how.cli.options import DEFAULT_URI, Options
from ai_how.cli.terminal import confirm, note, paint, print_json, say
from ai_how.errors import UsageError

if TYPE_CHECKING:
    from ai_how.diagnose.causes import Cause, Diagnosis


def _offer(ctx: typer.Context, incomplete: str) -> list[str]:
    """What a shell offers next: a question, or the names of what there is."""
    given = list(ctx.params.get("about") or ())
    if not given:
        found = ["networks", "dnsmasq", "network", "vm"]
    else:
        from ai_how.diagnose.ask.libvirt import connect
        from ai_how.errors import AiHowError

        try:
            asked = connect(os.environ.get("LIBVIRT_DEFAULT_URI") or DEFAULT_URI)
            things = {"network": asked.networks, "vm": asked.machines}.get(given[0], list)()
            found = [str(each["name"]) for each in things] if len(given) == 1 else []
        except AiHowError:
            return []
    return [each for each in found if each.startswith(incomplete)]


def doctor(
    ctx: typer.Context,
    about: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[networks | dnsmasq | network NAME | vm NAME]",
            help="What to look at; without it, everything.",
            show_default=False,
            autocompletion=_offer,
        ),
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Repair what is certain and can be taken back; asks before each.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --fix: do not ask.")] = False,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Judge what ai-how support-bundle wrote elsewhere.", show_default=False),
    ] = None,
) -> int:
    """Find the one cause of what is wrong with a host's networks, and its repair.

    Also of networks that ai-how did not make. Nothing is changed without --fix. Exit code 0 healthy, 1 something is
    wrong, 3 could not look.
    """
    from ai_how.diagnose.doctor import examine

    options: Options = ctx.obj
    words = about or []
    if fix and bundle is not None:
        raise UsageError("what is in a file cannot be repaired", remedy="Run ai-how doctor --fix on the host itself.")
    if bundle is not None:
        from ai_how.diagnose.bundle import judge_file

        found = judge_file(bundle, words)
    else:
        if fix:
            repair(options, words, yes=yes)
        found = examine(options.connect, words, options.state)
    if options.json:
        print_json(found.to_json())
    else:
        show(found, everything=bool(options.verbose) or bool(words))
    return found.exit_code


def show(found: Diagnosis, *, everything: bool) -> None:
    """The verdict for people."""
    from ai_how.diagnose import report

    say(report.text(found, findings=everything, paint=paint))


def repair(options: Options, words: list[str], *, yes: bool) -> None:
    """Repair, and say what was done, on stderr."""
    from ai_how.cli.progress import shown
    from ai_how.cli.site import interruptible
    from ai_how.diagnose.fixing import Place, repair_all
    from ai_how.diagnose.report import fix_lines

    def agree(cause: Cause) -> bool:
        note(f"{paint(cause.id, 'red')} of {cause.subject}: {cause.finding.summary}")
        for line in fix_lines(cause.fix, paint):
            note(line)
        return confirm("Do this?", yes=yes)

    with interruptible(), shown(as_json=options.json) as progress:
        for attempt in repair_all(Place(options.connect, options.state, progress), words, agree):
            word = paint("repaired", "green") if attempt.done else paint("not repaired", "red")
            trouble = f": {attempt.trouble}" if attempt.trouble else ""
            note(f"{word}: {attempt.cause.id} of {attempt.cause.subject}{trouble}")
