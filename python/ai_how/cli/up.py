"""`ai-how up`: clusters running as configured."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ai_how.cli.duration import seconds
from ai_how.cli.options import Options
from ai_how.cli.site import ClusterOption, interruptible, site, specs_of
from ai_how.cli.terminal import confirm, counted, note, print_json, say
from ai_how.errors import ConsentNeeded, HostError, NodesLeave, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai_how.config.load import Document
    from ai_how.engine.cluster import Outcome
    from ai_how.engine.events import Event, Progress
    from ai_how.probe.report import Report


def up(
    ctx: typer.Context,
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG|PLAN", help="The configuration file, or a plan of it.", show_default=False),
    ],
    cluster: ClusterOption = None,
    start: Annotated[bool, typer.Option(help="Start the nodes, or only define them.")] = True,
    wait: Annotated[bool, typer.Option(help="Wait until every node has its lease.")] = True,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long to wait for the leases.")] = 300.0,
    confirm_within: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Undo the change by itself unless `ai-how confirm` comes within this time after it (60s, 5m), or if "
            "nodes stop answering.",
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        bool,
        typer.Option(
            "--test/--no-test",
            envvar="AI_HOW_TEST",
            help="Try with packets, after a change and with the nodes ready, what most often breaks.",
        ),
    ] = True,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", help="Do not ask before nodes go with their disks, or running nodes are disturbed."
        ),
    ] = False,
) -> int:
    """Bring clusters up as configured, and wait until every node has its address.

    What is there already is left alone. If a step fails, or on Ctrl-C, what this run made is undone. With a file that
    `ai-how plan -o` wrote, that plan is carried out, unless the host has changed since. Exit code 1 where the packets
    sent at the end say that the network does not do what it shall.
    """
    from ai_how.cli.status import show
    from ai_how.engine import cluster as engine

    options: Options = ctx.obj
    unconfirmed = None if confirm_within is None else seconds(confirm_within)
    document, keys, digests, start = _wanted(config, cluster, options, start=start)
    if unconfirmed is not None and len(keys) > 1:
        raise UsageError(
            "--confirm-within takes one cluster at a time",
            why=f"the time of the first would run out while the others of {', '.join(keys)} are brought up",
            remedy="Name one: --cluster NAME",
        )

    def bring_up(key: str, **agreed: Any) -> Outcome:
        with site(options) as place:
            told = replace(place, progress=once(place.progress))
            return engine.up(
                told,
                document,
                key,
                start=start,
                wait=wait,
                within=timeout,
                confirm_within=unconfirmed,
                **agreed,
            )

    once = _Once()
    outcomes = [
        _with_consent(partial(bring_up, key), digests.get(key), yes=yes, may_ask=not options.json) for key in keys
    ]
    changed = [key for key, outcome in zip(keys, outcomes, strict=True) if outcome.changed]
    report = _tried(document, changed, options) if test and wait and changed else None
    answers = []
    for outcome in outcomes:
        if options.json:
            answers.append({"changed": outcome.changed, "steps": [str(step) for step in outcome.steps]})
            if outcome.confirm_within is not None:
                answers[-1]["confirm_within"] = outcome.confirm_within
            answers[-1] |= outcome.status.to_json()
            continue
        taken = f"{counted(len(outcome.steps), 'step')} taken" if outcome.changed else "nothing to do"
        say(f"{outcome.status.cluster}: {taken}")
        show(outcome.status)
    if options.json:
        if report is not None:
            for answer in answers:
                answer["test"] = report.to_json()
        print_json(answers[0] if len(answers) == 1 else answers)
    elif report is not None:
        from ai_how.cli.test import show as show_report

        say("tried with packets:")
        show_report(report)
    return 0 if report is None or report.holds else 1


def _tried(document: Document, keys: list[str], options: Options) -> Report | None:
    """The quick part of `ai-how test` for these clusters; None, and why, where it cannot be had."""
    from ai_how.cli.test import try_clusters
    from ai_how.host.libvirt import Libvirt
    from ai_how.host.memory import is_root

    if not is_root():
        note("not tried with packets, which takes root: sudo ai-how test --quick")
        return None
    try:
        with interruptible(), Libvirt(options.connect) as libvirt:
            return try_clusters(libvirt, document, keys, as_json=True, quick=True)
    except HostError as error:
        note(f"not tried with packets: {error}")
        return None


def _wanted(
    config: Path, cluster: str | None, options: Options, *, start: bool
) -> tuple[Document, list[str], dict[str, str], bool]:
    """What is to be brought up: a configuration, the keys of its clusters, their plans' digests if it is a plan file,
    and whether nodes are started."""
    from ai_how.config.load import load_file
    from ai_how.engine.events import silent
    from ai_how.engine.planfile import read_plan
    from ai_how.engine.prepare import foresee, refuse_stale
    from ai_how.host.libvirt import Libvirt

    plan = read_plan(config, options.connect)
    if plan is None:
        document = load_file(config)
        keys = [spec.key for spec in specs_of(document, cluster)]
        if len(keys) > 1:
            with Libvirt(options.connect) as libvirt:
                # Before the first is changed: what stands against a later one must not leave half of the file done.
                foresee(libvirt, document, keys, start=start, progress=silent)
        return document, keys, {}, start
    if plan.start and not start:
        raise UsageError(
            f"{config} is a plan that starts nodes",
            why="--no-start was said now, and not when it was made",
            remedy=f"Make another: ai-how plan {plan.document.file} --no-start -o FILE",
        )
    keys = [spec.key for spec in specs_of(plan.document, cluster)] if cluster is not None else list(plan.digests)
    if missing := sorted(set(keys) - plan.digests.keys()):
        raise UsageError(
            f"{config} has no plan for cluster {missing[0]}",
            why=f"it was made for {', '.join(plan.digests)}",
            remedy=f"Make one: ai-how plan {plan.document.file} --cluster {missing[0]} -o FILE",
        )
    with Libvirt(options.connect) as libvirt:
        # All of them before the first is carried out: a later one that is stale must not come as a surprise.
        for found in foresee(libvirt, plan.document, keys, start=plan.start, progress=silent):
            refuse_stale(found, plan.digests[found.spec.key])
    return plan.document, keys, plan.digests, plan.start


def _with_consent(bring_up: Callable[..., Outcome], expect: str | None, *, yes: bool, may_ask: bool) -> Outcome:
    """Bring it up, asking for what only its user can agree to; what was agreed to is that plan and no other."""
    agreed = {"remove_nodes": yes, "disturb_nodes": yes}
    while True:
        try:
            return bring_up(expect=expect, **agreed)
        except ConsentNeeded as need:
            if not may_ask or not sys.stdin.isatty():
                raise
            note(need.why)
            leaving = isinstance(need, NodesLeave)
            question = "Remove them, with all data on their disks?" if leaving else "Do it?"
            if not confirm(question, yes=False):
                note(need.what)
                raise typer.Exit(1) from need
            agreed["remove_nodes" if leaving else "disturb_nodes"] = True
            expect = need.digest


class _Once:
    """Progress that shows the same plan once, however often the work is begun anew for an answer."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def __call__(self, progress: Progress) -> Progress:
        """`progress` without what was shown before."""
        from ai_how.engine.events import Planned

        def tell(event: Event) -> None:
            if isinstance(event, Planned):
                if event.plan.digest in self._shown:
                    return
                self._shown.add(event.plan.digest)
            progress(event)

        return tell
