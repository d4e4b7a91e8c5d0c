"""The guard of a change (engine/guard.py), as a process: `python -m ai_how.engine.guardian`, with its order on stdin.

It is the one place that decides whether the change stays. What it does is told to syslog(3), and to the state file.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
import syslog
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from typing import assert_never

from ai_how.engine.answering import answering
from ai_how.engine.carry_out import carry_out
from ai_how.engine.discovery import settle
from ai_how.engine.events import Event, Note, StepDone, StepFailed, silent
from ai_how.engine.guard import Order, Phase, Word, name_of, read_order
from ai_how.engine.hostwide import shared, wanted_of_host
from ai_how.engine.observe import Observed
from ai_how.engine.prepare import observe_awake
from ai_how.engine.site import Site
from ai_how.engine.state import State, Undone, Unwritten, now, open_state
from ai_how.errors import AiHowError, HostError, InUse, StateError, some
from ai_how.host import rendezvous
from ai_how.host.libvirt import Libvirt
from ai_how.host.lock import held
from ai_how.plan.plan import Plan, make_plan
from ai_how.plan.text import line
from ai_how.providers import domain as domains
from ai_how.resources.base import Resource, identify
from ai_how.resources.domain import Domain
from ai_how.resources.registration import Registration
from ai_how.resources.seed import Seed

#: Seconds between two looks at the nodes, in which who is there has answered, and of silence that count.
LOOK_EVERY = 1.0
ONE_LOOK = 0.5
SILENT_FOR = 5.0

#: Seconds in which an undo is tried again: libvirt may be restarting. And between two tries.
TRY_FOR = 60.0
TRY_EVERY = 1.0

#: Fields that say whether a resource is in order; what is gone back to always is.
_HEALTH = frozenset({"saved", "linked", "intact", "bridged"})

#: Seconds that machines which did not run before have for a graceful end.
SHUTDOWN_WITHIN = 10.0


def elapsed() -> float:
    """Seconds on the clock that nobody sets, and that goes on while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass
class Guardian:
    """One change, from its first step until it is confirmed or undone."""

    order: Order
    server: socket.socket
    lifeline: int
    phase: Phase = Phase.APPLYING
    why: str = ""
    over: bool = False
    deadline: float = 0.0
    look_at: float = 0.0
    heard_at: dict[str, float] = field(default_factory=dict)
    waiting: list[socket.socket] = field(default_factory=list)
    work: Future[Undone] | None = None
    asked_to_end: bool = False

    def run(self) -> None:
        """Return when the change is confirmed, undone, or withdrawn."""
        for each in (signal.SIGHUP, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._end)
        with selectors.DefaultSelector() as selector, ThreadPoolExecutor(1) as worker:
            selector.register(self.lifeline, selectors.EVENT_READ, self._hear_maker)
            selector.register(self.server, selectors.EVENT_READ, self._welcome)
            while not self.over:
                for key, _ in selector.select(0.05 if self.phase is Phase.UNDOING else 0.2):
                    key.data(selector, key.fileobj)
                match self.phase:
                    case Phase.APPLYING:
                        pass  # whoever makes the change is at it, and holds the locks
                    case Phase.WAITING:
                        self._watch()
                    case Phase.UNDOING:
                        if self.work is None:
                            self.work = worker.submit(undo, self.order, self.why)
                        elif self.work.done():
                            self._finish(self.work.result())
                    case _:
                        assert_never(self.phase)
            for connection in self.waiting:
                connection.close()

    def _end(self, *_: object) -> None:
        self.asked_to_end = True

    def _hear_maker(self, selector: selectors.BaseSelector, lifeline: int) -> None:
        words = os.read(lifeline, 4096).decode().split()
        if not words:
            selector.unregister(lifeline)
            if self.phase is Phase.APPLYING:
                self._begin_undo("up ended before the change was complete")
        elif words[-1] == Word.WITHDRAWN:
            self.over = True
        elif words[-1] == Word.APPLIED and self.phase is Phase.APPLYING:
            self.phase = Phase.WAITING
            self.deadline = elapsed() + self.order.within
            self.heard_at = dict.fromkeys(self.order.nodes, elapsed())
            tell(f"the change of {self.order.cluster} waits {self.order.within:g} s for its confirmation")

    def _welcome(self, selector: selectors.BaseSelector, server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.setblocking(False)
        left = max(0.0, self.deadline - elapsed()) if self.phase is Phase.WAITING else 0.0
        state = {"uri": self.order.uri, "cluster": self.order.cluster, "phase": self.phase, "left": left}
        try:
            rendezvous.say(connection, state | {"why": self.why})
        except OSError:
            connection.close()
            return
        if rendezvous.owner(connection) in (0, os.geteuid()):
            selector.register(connection, selectors.EVENT_READ, self._hear_visitor)
        else:
            connection.close()

    def _hear_visitor(self, selector: selectors.BaseSelector, connection: socket.socket) -> None:
        selector.unregister(connection)
        try:
            word = rendezvous.hear(connection)
        except (OSError, ValueError):
            word = None
        if word == Word.CONFIRM and self.phase is Phase.WAITING and elapsed() < self.deadline:
            tell(f"the change of {self.order.cluster} is confirmed")
            self.over = True
            _answer(connection, {"done": Word.CONFIRM})
        elif word == Word.CONFIRM and self.phase is not Phase.APPLYING:
            _answer(connection, {"done": Word.UNDO, "why": self.why or "it was not confirmed in time"})
        elif word == Word.UNDO and self.phase is not Phase.APPLYING:
            if self.phase is Phase.WAITING:
                self._begin_undo("somebody asked for it: ai-how confirm --undo")
            self.waiting.append(connection)
        else:
            connection.close()

    def _watch(self) -> None:
        at = elapsed()
        if at >= self.deadline:
            self._begin_undo(f"it was not confirmed within {self.order.within:g} s")
        elif self.asked_to_end:
            self._begin_undo("the guard was asked to end (SIGTERM)")
        elif self.order.nodes and at >= self.look_at:
            self.look_at = at + LOOK_EVERY
            with suppress(HostError):  # could not look: no node was heard, and none was silent
                self._listen_to_nodes()

    def _listen_to_nodes(self) -> None:
        asked_at = elapsed()
        addresses = {each for several in self.order.nodes.values() for each in several}
        there = answering(self.order.bridge, addresses, ONE_LOOK)
        for name, several in self.order.nodes.items():
            if there.intersection(several):
                self.heard_at[name] = elapsed()
        silent_nodes = [name for name, last in self.heard_at.items() if asked_at - last >= SILENT_FOR]
        if silent_nodes:
            self._begin_undo(f"{some(silent_nodes)} stopped answering")

    def _begin_undo(self, why: str) -> None:
        self.phase, self.why = Phase.UNDOING, why
        tell(f"the change of {self.order.cluster} is being undone: {why}")

    def _finish(self, undone: Undone) -> None:
        tell(f"the change of {self.order.cluster} {undone.trouble or 'is undone'}")
        for connection in self.waiting:
            _answer(connection, {"done": Word.UNDO, "when": undone.when, "why": undone.why, "trouble": undone.trouble})
        self.over = True


def _answer(connection: socket.socket, message: dict[str, str]) -> None:
    with connection, suppress(OSError):  # they did not wait for it
        rendezvous.say(connection, message)


def undo(order: Order, why: str) -> Undone:
    """Make the cluster what it was before, and record that. Tried again for a while where it does not work."""
    deadline = elapsed() + TRY_FOR
    while True:
        try:
            return _undo_once(order, why)
        except Exception as error:  # noqa: BLE001 - the last door: nobody else is there to whom it could be raised
            trouble = error if isinstance(error, AiHowError) else f"{type(error).__name__}: {error}"
            tell(f"the undo failed: {trouble}")
            if elapsed() > deadline:
                return _record(order, Undone(now(), why, trouble=str(trouble)))
        time.sleep(TRY_EVERY)


def _undo_once(order: Order, why: str) -> Undone:
    with _in_charge(order) as state, Libvirt(order.uri) as libvirt:
        changed = _restore(Site(libvirt, order.state, _narrate), state, order)
        undone = Undone(now(), why)
        if changed:
            with suppress(StateError):  # it is undone, whether or not that can be written
                state.note_undone(order.cluster, order.uri, undone)
        return undone


def _record(order: Order, undone: Undone) -> Undone:
    with suppress(StateError), open_state(order.state) as state:
        state.note_undone(order.cluster, order.uri, undone)
    return undone


@contextmanager
def _in_charge(order: Order) -> Iterator[State]:
    """Hold the state, the cluster and the host against every other ai-how, after waiting for those who hold them."""
    with ExitStack() as locks:
        while True:
            try:
                state = locks.enter_context(_state(order))
                locks.enter_context(held(order.uri, order.cluster))
                locks.enter_context(shared(silent))
                break
            except InUse:
                locks.close()
                time.sleep(0.1)
        yield state


@contextmanager
def _state(order: Order) -> Iterator[State]:
    """The state file; one in memory where it cannot be used. Raises InUse."""
    with ExitStack() as stack:
        try:
            state = stack.enter_context(open_state(order.state))
        except InUse:
            raise
        except StateError as error:
            tell(str(error))
            state = Unwritten(order.state)
        yield state


def _restore(site: Site, state: State, order: Order) -> bool:
    """Whether anything was to be done."""
    name = order.cluster
    observed = observe_awake(site.libvirt, name)
    before = tuple(_restored(order.before, observed))
    ran = {each.name for each in before if isinstance(each, Domain) and each.running}
    stay = {each.name for each in before if isinstance(each, Domain)} - ran
    if starting := [each.name for each in observed.domains if each.running and each.name in stay]:
        domains.shut_down(site.libvirt, starting, within=SHUTDOWN_WITHIN)
        observed = observe_awake(site.libvirt, name)
    want = (*before, *wanted_of_host(observed, name, before))
    plan = make_plan(want, observed.everything)
    if plan:
        observed = _carry_out(site, state, name, plan, want)
    settle(observed, site.progress)
    if order.before:
        state.finish(name)
    else:
        state.forget(name)
    return bool(plan)


def _carry_out(site: Site, state: State, name: str, plan: Plan, want: tuple[Resource, ...]) -> Observed:
    try:
        return carry_out(site, state, "undo", name, plan, lambda _: want)
    except StateError as error:  # no room, say: the work is more than its record
        tell(str(error))
        return carry_out(site, Unwritten(site.state), "undo", name, plan, lambda _: want)


def _restored(before: tuple[Resource, ...], observed: Observed) -> Iterator[Resource]:
    """What was there before, as it can be had again."""
    there = {identify(each) for each in observed.resources}
    for each in before:
        if isinstance(each, Registration) and observed.unseen is not None:
            continue  # nobody takes it now; a later `up` does it
        if isinstance(each, Seed) and each.content is None and identify(each) not in there:
            continue  # a part that was left behind, and is gone
        yield _whole(each)


def _whole(resource: Resource) -> Resource:
    """The same without what was wrong with it."""
    wrong = {each.name: True for each in fields(resource) if each.name in _HEALTH}  # type: ignore[arg-type]
    return replace(resource, **wrong) if wrong else resource  # type: ignore[type-var]


def _narrate(event: Event) -> None:
    if isinstance(event, StepDone):
        tell(line(event.step))
    elif isinstance(event, StepFailed):
        tell(f"{line(event.step)}: {event.error}")
    elif isinstance(event, Note) and event.warning:
        tell(event.text)


def tell(text: str) -> None:
    """To the system's log."""
    syslog.syslog(syslog.LOG_NOTICE, text)


def watch_over(order: Order, server: socket.socket, lifeline: int) -> None:
    """Guard the change until it is decided. Where the guard itself fails it is undone, rather than left to nobody."""
    try:
        Guardian(order, server, lifeline).run()
    except Exception as error:  # noqa: BLE001 - the last door, as in undo
        tell(traceback.format_exc())
        undo(order, f"its guard failed: {type(error).__name__}: {error}")


def main() -> None:
    """Become nobody's child, take the order, and guard."""
    if os.fork():
        os._exit(0)
    syslog.openlog("ai-how", syslog.LOG_PID, syslog.LOG_DAEMON)
    order = read_order(json.loads(sys.stdin.buffer.readline()))
    try:
        server = rendezvous.listen(name_of(order.uri, order.cluster))
    except InUse as error:
        sys.exit(str(error))
    print("ready", flush=True)  # noqa: T201 - to whoever started us
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    watch_over(order, server, lifeline=0)


if __name__ == "__main__":
    main()
