"""`ai-how rehearse`: a configuration tried in a lab, before the host has seen anything of it."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ai_how.cli.options import Options
from ai_how.cli.site import interruptible
from ai_how.cli.terminal import note, print_json, say
from ai_how.errors import AiHowError

if TYPE_CHECKING:
    from ai_how.config.load import Document
    from ai_how.engine.prepare import Prepared


def rehearse(
    ctx: typer.Context,
    config: Annotated[Path, typer.Argument(help="The configuration file.", show_default=False)],
    quick: Annotated[bool, typer.Option("--quick", help="Only what most often breaks.")] = False,
    here: Annotated[Path | None, typer.Option("--here", hidden=True, help="This lab is the one.")] = None,
) -> int:
    """Test a configuration with packets in a lab, and show the plan for this host.

    Endpoints stand in for the machines; the host is only read, for the plan. Exit code 1 where the network would not do
    what the configuration promises. Needs root.
    """
    from ai_how.config.load import load_file
    from ai_how.spec.resolve import resolve_all

    options: Options = ctx.obj
    document = load_file(config)
    resolve_all(document)
    if here is not None:
        return _inside(document, options, here, quick=quick)
    from ai_how.lab import run as run_in_lab

    with interruptible(), tempfile.TemporaryDirectory(prefix="ai-how-rehearsal-") as folder:
        answer = Path(folder) / "answer.json"
        words = ["--json"] * options.json + ["--quick"] * quick + ["--verbose"] * options.verbose
        command = [sys.executable, "-m", "ai_how", "rehearse", str(config), "--here", str(answer), *words]
        code = run_in_lab(command, internet=True, reads=[config])
        if not answer.exists():
            return code
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    plans = _plans(document, options)
    if options.json:
        from ai_how.plan.document import plan_document

        found["plans"] = [plan_document(each.spec.name, each.plan) for each in plans]
        print_json(found)
    elif plans:
        from ai_how.cli.plan import show

        say("the plan for this host:")
        for each in plans:
            show(each, everything=options.verbose > 0)
    return code


def _inside(document: Document, options: Options, answer: Path, *, quick: bool) -> int:
    from ai_how.cli.progress import shown, warnings_of
    from ai_how.cli.test import show, try_clusters
    from ai_how.host.libvirt import Libvirt
    from ai_how.probe.rehearsal import brought_up

    with interruptible(), Libvirt() as libvirt, shown(as_json=options.json, plain=True) as progress:
        told = progress if options.verbose else warnings_of(progress)
        with brought_up(libvirt, document, told) as rehearsed:
            report = try_clusters(libvirt, rehearsed.document, (), as_json=options.json, quick=quick)
    found = report.to_json() | {"not_rehearsed": list(rehearsed.notes)}
    answer.write_text(json.dumps(found), encoding="utf-8")
    if not options.json:
        show(report)
        for each in rehearsed.notes:
            note(each)
    return 0 if report.holds else 1


def _plans(document: Document, options: Options) -> tuple[Prepared, ...]:
    """What `up` would do on this host; nothing, and why, where that cannot be known yet."""
    from ai_how.engine.events import silent
    from ai_how.engine.prepare import foresee
    from ai_how.host.libvirt import Libvirt

    try:
        with Libvirt(options.connect) as libvirt:
            return foresee(libvirt, document, list(document.model.clusters), start=True, progress=silent)
    except AiHowError as error:
        note(f"no plan for this host: {error}")
        return ()
