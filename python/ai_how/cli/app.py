"""The parser, and the table of verbs.

A verb is a function (or, for verbs with verbs of their own, a Typer app) in a module of its own, named in VERBS. It
takes `ctx: typer.Context`, finds the global options in `ctx.obj`, and returns its exit code (None is 0). Its module is
imported when the verb is used and not before. The global options are understood before and after every verb.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from ai_how.cli import completion
from ai_how.cli import version as versions
from ai_how.cli.completion import PROGRAM
from ai_how.cli.options import DEFAULT_STATE, DEFAULT_URI, Options
from ai_how.cli.terminal import note
from ai_how.errors import UsageError


class Verb(NamedTuple):
    """Where a verb's function or Typer app is ("module:name" in `ai_how.cli`), and its line in the help."""

    target: str
    summary: str


#: The order is the order of the help. A summary is the first line of the docstring of the function it names.
VERBS = {
    "validate": Verb("validate:validate", "Check a configuration and say everything that is wrong with it."),
    "schema": Verb("schema:schema", "Print the JSON Schema of the configuration, for editors."),
    "plan": Verb("plan:plan", "Show what `up` would create, change and remove, why, and whom it disturbs."),
    "up": Verb("up:up", "Bring clusters up as configured, and wait until every node has its address."),
    "confirm": Verb("confirm:confirm", "Keep a change that was made with `up --confirm-within`, or undo it at once."),
    "test": Verb(
        "test:prove",
        "Send packets, and say whether the network does what the configuration promises.",
    ),
    "perf": Verb(
        "perf:perf",
        "Measure latency, throughput and DNS between two nodes, beside the host's best.",
    ),
    "rehearse": Verb(
        "rehearse:rehearse",
        "Test a configuration with packets in a lab, and show the plan for this host.",
    ),
    "status": Verb("status:status", "Show the network and the nodes of clusters, with their leases."),
    "leases": Verb("leases:leases", "List the DHCP leases of clusters, also those of strangers on their networks."),
    "down": Verb("down:down", "Shut the nodes of clusters down and stop their networks; what is theirs is kept."),
    "destroy": Verb(
        "destroy:destroy", "Remove clusters: their machines, disks with all data and networks; nothing else."
    ),
    "gc": Verb("gc:gc", "List what is left of clusters that are not there any more; with --yes remove it."),
    "why-not": Verb(
        "why_not:why_not",
        "Send a packet, follow it, and name the rule or the missing thing that stops it.",
    ),
    "doctor": Verb("doctor:doctor", "Find the one cause of what is wrong with a host's networks, and its repair."),
    "support-bundle": Verb(
        "support_bundle:support_bundle",
        "Write what is needed to judge this host from afar into a file, without secrets.",
    ),
    "console": Verb("console:console", "Open the serial console of a node; leave it with Ctrl+]."),
    "lab": Verb("lab:lab_app", "A sealed place to try things in, with its own libvirt."),
    "image": Verb("image:image_app", "The micro guest image: a small machine for labs and tests."),
    "version": Verb("app:version", "Print the versions; with -v also those of libvirt and QEMU."),
}


class LazyVerb(TyperCommand):
    """A verb whose module is imported when it is used: it stands in the help and hands over to the real command."""

    def __init__(self, name: str, verb: Verb, global_options: Sequence[Any]) -> None:
        super().__init__(name, short_help=verb.summary, help=verb.summary, rich_markup_mode=None)
        self.target = verb.target
        self.global_options = global_options

    def load(self) -> Any:
        """The real command; it and its verbs understand the global options."""
        module, name = self.target.split(":")
        found = getattr(importlib.import_module(f"ai_how.cli.{module}"), name)
        if not isinstance(found, typer.Typer):
            function, found = found, _new_app()
            found.command(self.name)(function)
        command = typer.main.get_command(found)
        command.name = self.name
        self._adopt(command)
        return command

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Called with the verb's words, in running and in completing: here the real command takes over."""
        return self.load().make_context(info_name, args, parent=parent, **extra)

    def _adopt(self, command: Any) -> None:
        command.rich_markup_mode = None  # help without importing rich, and alike everywhere
        command.params = [param for param in command.params if "completion" not in str(param.name)]
        command.params.extend(self.global_options)
        if isinstance(command, TyperGroup):
            for verb in command.commands.values():
                self._adopt(verb)


def run(words: Sequence[str]) -> int:
    """Parse and carry out one command line; the exit code. Wrong use is a UsageError."""
    group = build()
    if os.environ.get(completion.VARIABLE):
        typer.completion.completion_init()
        group.main(prog_name=PROGRAM, complete_var=completion.VARIABLE)
    try:
        with group.make_context(PROGRAM, list(words), obj=Options.from_environment()) as ctx:
            code = group.invoke(ctx)
    except typer.Exit as end:
        return end.exit_code
    except TyperException as error:
        if _is_only_help(error):
            note(error.format_message())
            return UsageError.exit_code
        raise _usage(error) from error
    return code if isinstance(code, int) else 0


def parse_fault(words: Sequence[str]) -> str | None:
    """What the parser says against these words, None where it takes them; nothing is run and no value is looked at."""
    command: Any = build()
    ctx = None
    rest = list(words)
    try:
        while True:
            ctx = typer.Context(command, info_name=command.name or PROGRAM, parent=ctx)
            _, rest, _ = command.make_parser(ctx).parse_args(args=rest)
            if not isinstance(command, TyperGroup) or not rest:
                return None
            _, command, rest = command.resolve_command(ctx, rest)
            if isinstance(command, LazyVerb):
                command = command.load()
    except TyperException as error:
        return error.format_message()


def build() -> Any:
    """The command `ai-how`: the global options, and a lazy verb for each line of VERBS."""
    app = _new_app()
    app.callback(no_args_is_help=True)(ai_how)
    group: Any = typer.main.get_command(app)
    names = {field.name for field in dataclasses.fields(Options)} | {"no_color"}
    global_options = [param for param in group.params if param.name in names]
    for name, verb in VERBS.items():
        group.add_command(LazyVerb(name, verb, global_options))
    return group


def _new_app() -> typer.Typer:
    return typer.Typer(
        add_completion=False,  # ours names the shell
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )


def _is_only_help(error: Any) -> bool:
    """True for what is raised when a command with verbs is called without one: its message is the help page."""
    ctx = getattr(error, "ctx", None)
    return ctx is not None and error.format_message() == ctx.get_help()


def _usage(error: Any) -> UsageError:
    ctx = getattr(error, "ctx", None)
    where = ctx.command_path if ctx is not None else PROGRAM
    return UsageError(error.format_message(), remedy=f"{where} --help says how it is used")


def _keep(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    """Put a global option into `ctx.obj` where it was given; the last one given counts."""
    if value and not ctx.resilient_parsing:
        given = ctx.obj.verbose + value if param.name == "verbose" else value
        ctx.obj = dataclasses.replace(ctx.obj, **{str(param.name): given})
    return value


def _without_colours(value: bool) -> bool:
    if value:
        os.environ["NO_COLOR"] = "1"  # understood by rich and by the programs that we start, too
    return value


def _show_version(value: bool) -> None:
    if value:
        versions.show(as_json=False)
        raise typer.Exit


def ai_how(
    state: Annotated[
        Path | None,
        typer.Option(
            help=f"The state file. [env: AI_HOW_STATE; default: {DEFAULT_STATE}]",
            callback=_keep,
            expose_value=False,
        ),
    ] = None,
    connect: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help=f"The libvirt to work with. [env: LIBVIRT_DEFAULT_URI; default: {DEFAULT_URI}]",
            callback=_keep,
            expose_value=False,
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Answer with one JSON document.", callback=_keep, expose_value=False),
    ] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "-v",
            "--verbose",
            count=True,
            show_default=False,
            help="Say more; twice for still more.",
            callback=_keep,
            expose_value=False,
        ),
    ] = 0,
    no_color: Annotated[
        bool,
        typer.Option("--no-color", help="No colours. [env: NO_COLOR]", callback=_without_colours, expose_value=False),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the versions and exit.",
            callback=_show_version,
            is_eager=True,
            expose_value=False,
        ),
    ] = False,
    show_completion: Annotated[
        completion.Shell | None,
        typer.Option(
            metavar="SHELL",
            help="Print the completion script for bash, zsh or fish.",
            callback=completion.show,
            is_eager=True,
            expose_value=False,
        ),
    ] = None,
    install_completion: Annotated[
        completion.Shell | None,
        typer.Option(
            metavar="SHELL",
            help="Install it.",
            callback=completion.install,
            is_eager=True,
            expose_value=False,
        ),
    ] = None,
) -> None:
    """One configuration becomes running virtual HPC clusters on libvirt/KVM."""


def version(ctx: typer.Context) -> None:
    """Print the versions; with -v also those of libvirt and QEMU."""
    options: Options = ctx.obj
    more = versions.of_the_host(options.connect) if options.verbose else None
    versions.show(as_json=options.json, more=more)
