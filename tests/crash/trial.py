"""Trying points in a lab: kill there, and see that `up` completes; kill there again, and see that `destroy` leaves
nothing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.crash import scene
from tests.crash.clusters import Clusters, until_links_settle, use_libvirt_once
from tests.crash.point import Point, Recovery, Tried, Verb, is_of_libvirt
from tests.crash.victim import Ended, Instants, failing_at, in_child
from tests.host_view import HostView, left

from ai_how.config.load import Document
from ai_how.engine.state import read_state
from ai_how.host.libvirt import bindings
from ai_how.spec.network import DnsMode

#: Where QEMU has what its machines of the PC kind begin with.
_FIRMWARE = (Path("/usr/share/seabios/bios-256k.bin"), Path("/usr/share/qemu/bios-256k.bin"))


class Failed(Exception):
    """The host is not as it must be; the text says what differs."""


class Trial:
    """A DNS mode in this lab, what its verbs look like when nobody kills them, and points that are tried."""

    def __init__(self, clusters: Clusters) -> None:
        self._clusters = clusters
        self._has: Document | None = None
        self._before: HostView = {}
        self._settled: dict[bool, HostView] = {}
        #: The last step of a verb, which fails so that all of them are undone.
        self._last: dict[Verb, str] = {}

    def record(self, verbs: Collection[Verb], *, libvirt: bool) -> dict[Verb, tuple[str, ...]]:
        """The instants of each of `verbs`, of a run that nobody kills and of one that fails after its last step; with
        `libvirt` also every call of libvirt's that may change something. Called once, before any point is tried."""
        clusters = self._clusters
        use_libvirt_once()
        _done(in_child(clusters.prepare))
        until_links_settle()
        self._before = clusters.look()
        seen: dict[Verb, tuple[str, ...]] = {}
        for verb in Verb:
            if verb not in verbs and verb is not Verb.UP:
                continue
            self._be(self._base(verb))
            instants = self._instants(verb, None, libvirt=libvirt)
            self._last[verb] = [each for each in instants if each.startswith("after ")][-1].removeprefix("after ")
            match verb:
                case Verb.UP | Verb.CHANGE:
                    self._has = self._goal(verb)
                    self._settled[verb is Verb.CHANGE] = clusters.look_settled()
                    self._be(self._base(verb))
                    instants += self._instants(verb, self._last[verb], libvirt=libvirt)
                    self._complete(Verb.UP)
                case Verb.DOWN:
                    self._complete(verb)
                case Verb.DESTROY:
                    self._remove(verb)
            seen[verb] = tuple(dict.fromkeys(instants))
        return {verb: seen[verb] for verb in seen if verb in verbs}

    def attempt(self, point: Point, recoveries: Collection[Recovery]) -> Tried:
        """Kill at this point, once for each way to recover."""
        begin = time.monotonic()
        verb = point.scenario.verb
        wrong = ""
        for recovery in recoveries:
            try:
                self._be(self._base(verb))
                self._kill(verb, point.at)
                recover = self._complete if recovery is Recovery.UP else self._remove
                recover(verb)
            except Failed as failure:
                wrong = f"{recovery} after the kill: {failure}"
                break
        return Tried(str(point), round(time.monotonic() - begin, 2), wrong)

    def _base(self, verb: Verb) -> Document | None:
        """What is there when the verb begins."""
        return None if verb is Verb.UP else self._clusters.first

    def _goal(self, verb: Verb) -> Document:
        """What `up` completes to after the kill."""
        return self._clusters.second if verb is Verb.CHANGE else self._clusters.first

    def _be(self, wanted: Document | None) -> None:
        if wanted is self._has:
            return
        if self._has is not None:
            self._remove(Verb.DESTROY)
        if wanted is not None:
            _done(in_child(lambda: self._clusters.up(wanted)))
            self._has = wanted

    def _instants(self, verb: Verb, failing: str | None, *, libvirt: bool) -> list[str]:
        seen: list[str] = _done(in_child(lambda: self._recorded(verb, failing, libvirt=libvirt)))
        return seen

    def _recorded(self, verb: Verb, failing: str | None, *, libvirt: bool) -> list[str]:
        instants = self._watched(None, libvirt=libvirt)
        progress = instants.told if failing is None else failing_at(failing, instants.told)
        try:
            self._clusters.do(verb, progress)
        except Exception:
            if failing is None:
                raise
        return instants.seen if failing is None else [each for each in instants.seen if each.startswith("undo: ")]

    def _watched(self, fatal: str | None, *, libvirt: bool) -> Instants:
        """The instants of this process, which is a child."""
        instants = Instants(self._clusters.folder, fatal)
        sys.addaudithook(instants.audited)
        if libvirt:
            instants.watch_libvirt()
        return instants

    def _kill(self, verb: Verb, at: str) -> None:
        def work() -> None:
            instants = self._watched(at, libvirt=is_of_libvirt(at))
            undone = at.startswith("undo: ")
            self._clusters.do(verb, failing_at(self._last[verb], instants.told) if undone else instants.told)

        ended = in_child(work)
        if not ended.killed:
            raise Failed(f"it did not come to this point: {ended.error or 'it ended as if nothing were'}")

    def _complete(self, verb: Verb) -> None:
        """`up` completes what was cut off, then nothing is left to do and nothing is recorded as under way."""
        clusters, goal = self._clusters, self._goal(verb)
        _done(in_child(lambda: clusters.up(goal)))
        if again := _done(in_child(lambda: clusters.up(goal))):
            raise Failed(f"a second up still finds something to do: {', '.join(again)}")
        for record in read_state(clusters.state).values():
            if record.run is not None:
                raise Failed(f"the journal still has the run {record.run.verb} of {record.name}")
        self._has = goal
        if other := left(self._settled[verb is Verb.CHANGE], clusters.look_settled):
            raise Failed("\n".join(["the cluster is otherwise than after an up that nobody cut off:", *other[:20]]))

    def _remove(self, verb: Verb) -> None:
        """`destroy` leaves the host as it was before the first `up`."""
        _done(in_child(self._clusters.destroy))
        self._has = None
        if other := left(self._before, self._clusters.look):
            raise Failed("\n".join([f"the host is otherwise than before ({verb}):", *other[:20]]))


@contextmanager
def trial(mode: DnsMode, folder: Path) -> Iterator[Trial]:
    """A mode that can be tried in this lab."""
    bindings()  # loaded once, for all children
    _have_machines_halt()
    image = folder.with_name(f"{folder.name}-blank.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1M"], check=True)
    with scene.surroundings(mode, folder) as consul:
        yield Trial(Clusters(mode, folder, image, consul))


def _have_machines_halt() -> None:
    """Give emulated machines of this lab a firmware that ends at its first instruction: nobody here waits for them."""
    with tempfile.NamedTemporaryFile(delete=False, dir="/run/ai-how-lab") as halting:
        # Where a CPU begins: hlt, and back to it.
        halting.write(b"\xf4" * (256 * 1024 - 16) + b"\xf4\xeb\xfd".ljust(16, b"\xf4"))
    for place in _FIRMWARE:
        if place.exists():
            subprocess.run(["mount", "--bind", halting.name, str(place)], check=True)


def _done(ended: Ended) -> Any:
    if ended.killed or ended.error:
        raise Failed(ended.error or "the process was killed, and not by us")
    return ended.value
