"""A change that is undone by itself unless it is confirmed: how it is begun.

The guard of a change is a process of its own (engine/guardian.py), which nothing that happens to `up`, to its terminal
or to its network ends. It is met at a name among the abstract sockets, as locks are (host/lock.py): whoever comes is
told what it waits for, and its user and root may tell it what to do (engine/pending.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import ai_how
from ai_how.engine.events import Note
from ai_how.engine.observe import Observed
from ai_how.engine.site import Site
from ai_how.engine.state import State
from ai_how.engine.traffic import addresses, who_answers
from ai_how.errors import HostError, NodesSilent, NotReady, UnsafeChange, UsageError, some
from ai_how.plan.irreversible import irreversible
from ai_how.plan.plan import Plan
from ai_how.resources.base import Resource
from ai_how.resources.codec import from_json, to_json
from ai_how.resources.domain import Domain
from ai_how.resources.network import VirtualNetwork

PREFIX = "ai-how/guard/"

#: Seconds that a guard may take to begin, on a busy machine.
_BEGINS_WITHIN = 60.0


class Phase(StrEnum):
    """How far a guarded change is."""

    APPLYING = "applying"
    WAITING = "waiting"
    UNDOING = "undoing"


class Word(StrEnum):
    """What a guard is told: the first three by whoever makes the change, the others by anybody of its user."""

    APPLIED = "applied"
    WITHDRAWN = "withdrawn"
    CONFIRM = "confirm"
    UNDO = "undo"


@dataclass(frozen=True, slots=True)
class Order:
    """What a guard must know: the cluster, where its state is, and what to go back to.

    `within`: seconds that it waits for a confirmation. `nodes` answered on `bridge` before the change, and are kept:
    each with the addresses it may answer at afterwards.
    """

    uri: str
    state: Path
    cluster: str
    within: float
    bridge: str
    nodes: dict[str, tuple[IPv4Address, ...]]
    before: tuple[Resource, ...]

    def to_json(self) -> dict[str, Any]:
        """What is sent to the guard."""
        return {
            "uri": self.uri,
            "state": str(self.state),
            "cluster": self.cluster,
            "within": self.within,
            "bridge": self.bridge,
            "nodes": {name: [str(each) for each in addresses] for name, addresses in self.nodes.items()},
            "before": [to_json(each) for each in self.before],
        }


def read_order(data: dict[str, Any]) -> Order:
    """What `Order.to_json` made."""
    nodes = {name: tuple(IPv4Address(each) for each in addresses) for name, addresses in data["nodes"].items()}
    return Order(
        uri=data["uri"],
        state=Path(data["state"]),
        cluster=data["cluster"],
        within=data["within"],
        bridge=data["bridge"],
        nodes=nodes,
        before=tuple(from_json(each) for each in data["before"]),
    )


class Guard:
    """The guard of a change, as whoever makes the change has it: when this end is closed, the change is undone."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.changed = False

    def tell(self, word: Word) -> None:
        """Tell it how the change has ended; nothing more can be told."""
        assert self._process.stdin is not None  # noqa: S101 - it was opened with one
        try:
            self._process.stdin.write(f"{word}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise HostError(
                "the change is not guarded any more",
                why="somebody ended its guard",
                remedy="What is there stays. To go back, bring the cluster up from the configuration that you want.",
            ) from error
        finally:
            self.leave()

    def leave(self) -> None:
        """Close this end. Before a word was told, the change is undone."""
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what could not be told is not told now either
                    pipe.close()


@contextmanager
def guarded(site: Site, state: State, order: Order) -> Iterator[Guard]:
    """Have the change that is made in the block undone unless it is confirmed in time after it; `changed` is to be set
    once the change is there.

    Undone at once where the block fails, unless nothing is left to undo. That nodes have no lease in time is no such
    failure: what is there may be looked at, and confirmed; that nodes were cut off is one.
    """
    guard = start(order)
    try:
        yield guard
    except BaseException as error:
        if isinstance(error, NotReady) and not isinstance(error, NodesSilent):
            _let_count(site, guard, order)
            raise
        record = state.clusters.get(order.cluster)
        if not guard.changed and (record is None or record.run is None):
            with suppress(HostError):  # it has gone: that is what it was to do
                guard.tell(Word.WITHDRAWN)
        else:
            site.progress(Note(f"{order.cluster}: what was changed is being undone", warning=True))
            guard.leave()
        raise
    _let_count(site, guard, order)


def _let_count(site: Site, guard: Guard, order: Order) -> None:
    guard.tell(Word.APPLIED)
    text = (
        f"{order.cluster}: this is undone in {order.within:g} s unless you keep it: ai-how confirm {order.cluster}\n"
        f"undo it now: ai-how confirm {order.cluster} --undo"
    )
    site.progress(Note(text, warning=True))


def refuse_irreversible(name: str, plan: Plan) -> None:
    """Raise UnsafeChange where `plan` does something that cannot be undone."""
    if for_good := irreversible(plan):
        raise UnsafeChange(
            f"cluster {name} is not changed",
            why=f"the change cannot be undone, as --confirm-within asks: it {some(for_good)}",
            remedy="Do it without --confirm-within.",
        )


def order_for(site: Site, name: str, observed: Observed, want: tuple[Resource, ...], within: float) -> Order:
    """What the guard of a change from `observed` to `want` must know. Raises UsageError, HostError."""
    if not within > 0:
        raise UsageError(f"a change cannot be confirmed within {within:g} s", remedy="Give it more time than none.")
    network = next(each for each in want if isinstance(each, VirtualNetwork))
    return Order(
        uri=site.libvirt.uri,
        state=Path(os.path.abspath(site.state)),  # noqa: PTH100 - a link stays what it is
        cluster=name,
        within=within,
        bridge=network.bridge,
        nodes=_who_answers(site, observed, want, network),
        before=observed.resources,
    )


def _who_answers(
    site: Site, observed: Observed, want: tuple[Resource, ...], network: VirtualNetwork
) -> dict[str, tuple[IPv4Address, ...]]:
    """The running nodes that answer now and shall go on, each with where it may be found afterwards."""
    shall_run = {each.name for each in want if isinstance(each, Domain) and each.running}
    kept = [each for each in observed.domains if each.running and each.name in shall_run]
    answered = who_answers(site.libvirt, kept, observed.network)
    # Whose address DHCP chose, and will choose anew in another subnet, cannot be found from here.
    then = addresses([each for each in kept if each.name in answered], network, (), answered)
    return {name: tuple(sorted(each)) for name, each in then.items() if each}


def start(order: Order) -> Guard:
    """Start the guard of a change that is about to be made; it has its name when this returns. Raises HostError."""
    root = str(Path(ai_how.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ai_how.engine.guardian"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
    except OSError as error:
        raise _not_started(order, error.strerror or str(error)) from error
    guard = Guard(process)
    try:
        _brief(process, order)
        # What we started has started the guard, and ended: it is nobody's child whom we would have to wait for.
        process.wait(_BEGINS_WITHIN)
    except BaseException:
        guard.leave()
        raise
    return guard


def _brief(process: subprocess.Popen[bytes], order: Order) -> None:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise TypeError("a guard has three pipes")
    try:
        process.stdin.write(json.dumps(order.to_json()).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it says why
    ready, _, _ = select.select([process.stdout], [], [], _BEGINS_WITHIN)
    answer = process.stdout.readline() if ready else b""
    if answer != b"ready\n":
        why = answer or (process.stderr.read() if ready else b"")
        raise _not_started(order, why.decode(errors="replace").strip() or f"it said nothing in {_BEGINS_WITHIN:g} s")


def _not_started(order: Order, why: str) -> HostError:
    return HostError(
        f"the guard of the change of {order.cluster} cannot be started",
        why=why,
        remedy="Nothing was changed. Without --confirm-within none is needed.",
    )


def name_of(uri: str, cluster: str) -> str:
    """Where the guard of a cluster is met."""
    return PREFIX + hashlib.sha256(f"{uri} {cluster}".encode()).hexdigest()
