"""What the verbs that touch clusters share: which clusters are meant, where they are, and an orderly end on signals."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ai_how.cli.options import Options
from ai_how.errors import UsageError

if TYPE_CHECKING:
    from ai_how.config.load import Document
    from ai_how.engine.site import Site
    from ai_how.host.libvirt import Libvirt
    from ai_how.spec.cluster import Cluster

Target = Annotated[
    str | None,
    typer.Argument(
        metavar="[CONFIG|CLUSTER]",
        help="A configuration file, or the name of a cluster on this host; without it, every cluster on this host.",
        show_default=False,
    ),
]

ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME",
        help="Only this cluster of the file, by key or name; without it, all of them.",
        show_default=False,
    ),
]


class Chosen(NamedTuple):
    """One cluster that is meant; `spec` is known where a configuration file named it."""

    name: str
    spec: Cluster | None


@contextmanager
def site(options: Options) -> Iterator[Site]:
    """An open libvirt, with progress shown and SIGTERM and SIGHUP treated like Ctrl-C while the block lasts."""
    from ai_how.cli.progress import shown
    from ai_how.engine.site import Site
    from ai_how.host.libvirt import Libvirt

    with interruptible(), Libvirt(options.connect) as libvirt, shown(as_json=options.json) as progress:
        yield Site(libvirt, options.state, progress)


def choose(libvirt: Libvirt, target: str | None, cluster: str | None) -> list[Chosen]:
    """The clusters that the command line means. Raises UsageError where a name fits none, ConfigurationError."""
    from ai_how.config.load import load_file
    from ai_how.engine.cluster import clusters

    if target is not None and is_file(target):
        return [Chosen(spec.name, spec) for spec in specs_of(load_file(Path(target)), cluster)]
    there = clusters(libvirt)
    wanted = cluster or target
    if wanted is None:
        return [Chosen(name, None) for name in there]
    if wanted not in there:
        near = difflib.get_close_matches(wanted, there, n=1)
        raise UsageError(
            f"there is no cluster {wanted} on this host",
            why=f"it has {', '.join(there)}" if there else "ai-how has made none here",
            remedy=f"Did you mean {near[0]}?" if near else "Name a configuration file, or one of these clusters.",
        )
    return [Chosen(wanted, None)]


def is_file(target: str) -> bool:
    """Whether the word means a file: it looks like one, or there is one."""
    return "/" in target or target.endswith((".yaml", ".yml", ".json")) or Path(target).is_file()


def specs_of(document: Document, cluster: str | None) -> list[Cluster]:
    """The clusters of a configuration: one by key or name, or all."""
    from ai_how.spec.resolve import resolve, resolve_all

    return list(resolve_all(document)) if cluster is None else [resolve(document, cluster)]


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    """As whoever listens for Ctrl-C now, which is asyncio while packets are sent."""
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(number, frame)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a closed terminal or a polite kill end the work as Ctrl-C does: after undoing or journalling.

    What the caller has us ignore stays ignored: under nohup a closed terminal ends nothing.
    """
    heard = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    replaced = {each: signal.signal(each, _as_interrupt) for each in heard}
    try:
        yield
    finally:
        for each, handler in replaced.items():
            signal.signal(each, handler)
