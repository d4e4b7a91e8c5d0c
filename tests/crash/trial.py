"""Trying one point: kill there, and see that `up` completes; kill there again, and see that `destroy` leaves nothing.

Runs inside a lab. This process has no libvirt connection and no thread of its own: whatever is done with a cluster is
done in a child (victim.in_child), so that each child is as fresh as a new `ai-how`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.crash import scene
from tests.crash.point import Scenario, Tried, Verb
from tests.crash.victim import Ended, Instants, failing_at, in_child
from tests.host_view import HostView, define_everything_once, differences, look_at_host, use_networks_once
from tests.lab.consul_agent import Agent

from ai_how.config.load import Document
from ai_how.engine import cluster as engine
from ai_how.engine.events import Progress, silent
from ai_how.engine.state import read_state
from ai_how.host.libvirt import Libvirt, bindings
from ai_how.spec.network import DnsMode

#: Seconds within which the host is again as it was before: processes end a moment after libvirt has said so.
_SETTLES_WITHIN = 5.0

#: PID files of stopped networks, which libvirt leaves, and what a resolver writes for itself, which is asked instead.
_OTHERS_OWN = ("/run/libvirt/network/", "/run/systemd/resolve/")

#: What differs between two hosts with the same cluster on them: what happened, not what is there. The state of a
#: machine and what libvirt notes while one runs are seen with their names (`libvirt domains`), disks with theirs.
_HISTORY = re.compile(
    r"^/run/|^/var/lib/libvirt/qemu/(?:\S*domain-|\S*/monitor|channel/|dump|snapshot|\S*\.sock)|"
    r"^/etc/libvirt/\S+/autostart |\.(?:leases|status|macs|pid)\b|/random-seed|\.monitor"
)
#: Taps are numbered on and on, and the kernel gives every link addresses of its own a moment later.
_OF_A_LINK = re.compile(r"fe80::|ff00::|\bvnet\d")
_HASH_OF_DISK = re.compile(r"^(/var/lib/libvirt/images/\S+ \S+ \S+) \S+$")


#: Where QEMU has what its machines of the PC kind begin with.
_FIRMWARE = (Path("/usr/share/seabios/bios-256k.bin"), Path("/usr/share/qemu/bios-256k.bin"))


class Failed(Exception):
    """The host is not as it must be; the text says what differs."""


class Trial:
    """A scenario in this lab: its clusters, and what the host looks like without and with them."""

    def __init__(self, scenario: Scenario, folder: Path, image: Path, consul: Agent | None) -> None:
        self.scenario, self.folder, self.consul = scenario, folder, consul
        self.state = folder / "cluster_state.json"
        self.first = scene.cluster(scenario.mode, image)
        self.second = scene.changed(scenario.mode, image)
        self.peer = scene.peer(scenario.mode, image)
        self.has: Document | None = None
        self.last = ""
        self.before: HostView = {}
        self.settled: dict[str, HostView] = {}

    # What is done with clusters

    def up(self, document: Document, progress: Progress = silent) -> list[str]:
        """The steps that it took."""
        state = self.folder / "peer_state.json" if document is self.peer else self.state
        with Libvirt() as libvirt:
            site = engine.Site(libvirt, state, progress)
            [key] = document.model.clusters
            done = engine.up(site, document, key, wait=False, remove_nodes=True, **_CONSENT)
            return [str(step) for step in done.steps]

    def down(self, progress: Progress = silent) -> list[str]:
        with Libvirt() as libvirt:
            done = engine.down(engine.Site(libvirt, self.state, progress), scene.NAME, within=0)
            return [str(step) for step in done.steps]

    def destroy(self, progress: Progress = silent, name: str = scene.NAME) -> list[str]:
        state = self.state if name == scene.NAME else self.folder / "peer_state.json"
        with Libvirt() as libvirt:
            done = engine.destroy(engine.Site(libvirt, state, progress), name)
            return [str(step) for step in done.steps]

    def do(self, verb: Verb, progress: Progress = silent) -> list[str]:
        """What is killed."""
        match verb:
            case Verb.UP:
                return self.up(self.first, progress)
            case Verb.CHANGE:
                return self.up(self.second, progress)
            case Verb.DOWN:
                return self.down(progress)
            case Verb.DESTROY:
                return self.destroy(progress)

    @property
    def base(self) -> Document | None:
        """What is there when the scenario begins."""
        return None if self.scenario.verb is Verb.UP else self.first

    @property
    def goal(self) -> Document:
        """What `up` completes to after the kill."""
        return self.second if self.scenario.verb is Verb.CHANGE else self.first

    # What the host looks like

    def look(self, parts: Collection[str] = ()) -> HostView:
        """The host, the user's folder, and Consul."""
        view = look_at_host(parts)
        view["files"] = [each for each in view["files"] if not each.startswith(_OTHERS_OWN)]
        if self.scenario.mode is DnsMode.SHARED_DNS:
            view["resolver"] = _resolver()
        view["folder"] = sorted(each.name for each in self.folder.iterdir() if each.name != "consul")
        view["consul"] = [] if self.consul is None else sorted(map(str, self.consul.services().items()))
        return view

    def look_settled(self) -> HostView:
        """What must be the same after every completed `up`, whatever happened before."""
        view = self.look(("nft", "iptables", "rules", "routes", "files", "libvirt networks", "libvirt pools"))
        view["files"] = [_HASH_OF_DISK.sub(r"\1", each) for each in view["files"] if not _HISTORY.search(each)]
        view["routes"] = [each.replace(" linkdown", "") for each in view["routes"] if not _OF_A_LINK.search(each)]
        view["libvirt domains"] = _machines()
        return view

    # One point

    def begin(self) -> None:
        """Once, before all others."""
        use_networks_once()
        define_everything_once()
        if self.peer is not None:
            _done(in_child(lambda: self.up(_given(self.peer))))
        _until_links_settle()
        self.before = self.look()

    def end(self) -> None:
        """Take away what is there, and see that no trial left anything."""
        self._be(None)

    def recorded(self, *, libvirt: bool) -> tuple[str, ...]:
        """All instants of the scenario, of a run that nobody kills and of one that fails after its last step; with
        `libvirt` also every call of libvirt's that may change something."""
        self._be(self.base)
        instants = _done(in_child(lambda: self._recorded(None, libvirt=libvirt)))
        self.has = None if self.scenario.verb in (Verb.DESTROY, Verb.DOWN) else self.goal
        if self.scenario.verb is Verb.DOWN:
            self._complete()
        last = [each for each in instants if each.startswith("after ")][-1].removeprefix("after ")
        undo: list[str] = []
        if self.scenario.verb in (Verb.UP, Verb.CHANGE):
            self.last = last
            self._be(self.base)
            undo = _done(in_child(lambda: self._recorded(last, libvirt=libvirt)))
            self._complete()
        return tuple(dict.fromkeys([*instants, *(each for each in undo if each.startswith("undo: "))]))

    def _recorded(self, failing: str | None, *, libvirt: bool) -> list[str]:
        instants = self._watched(None, libvirt=libvirt)
        progress = instants.told if failing is None else failing_at(failing, instants.told)
        try:
            self.do(self.scenario.verb, progress)
        except Exception:
            if failing is None:
                raise
        return instants.seen

    def _watched(self, fatal: str | None, *, libvirt: bool) -> Instants:
        instants = Instants(self.folder, fatal)
        sys.addaudithook(instants.audited)
        if libvirt:
            instants.watch_libvirt()
        return instants

    def attempt(self, at: str) -> Tried:
        """Kill at this instant, twice: once for `up`, once for `destroy`."""
        begin = time.monotonic()
        wrong: list[str] = []
        for recover in (self._complete, self._remove):
            try:
                self._be(self.base)
                self._kill(at)
                self.has = None if recover == self._remove else self.has
                recover()
            except Failed as failure:
                wrong.append(f"{recover.__name__.strip('_')}: {failure}")
                break
        return Tried(at, round(time.monotonic() - begin, 2), tuple(wrong))

    def _kill(self, at: str) -> None:
        def work() -> None:
            instants = self._watched(at, libvirt="call " in at)
            progress = failing_at(self.last, instants.told) if at.startswith("undo: ") else instants.told
            self.do(self.scenario.verb, progress)

        ended = in_child(work)
        if not ended.killed:
            raise Failed(f"it did not come to this point: {ended.error or 'it ended as if nothing were'}")

    def _complete(self) -> None:
        """`up` completes what was cut off, then nothing is left to do and nothing is recorded as under way."""
        _done(in_child(lambda: self.up(self.goal)))
        again = _done(in_child(lambda: self.up(self.goal)))
        if again:
            raise Failed(f"a second up still finds something to do: {', '.join(again)}")
        for record in read_state(self.state).values():
            if record.run is not None:
                raise Failed(f"the journal still has the run {record.run.verb} of {record.name}")
        self.has = self.goal
        self._compare(
            "the cluster is otherwise than after an up that nobody cut off", self._expected, self.look_settled
        )

    def _expected(self) -> HostView:
        return self.settled[str(self.scenario.verb is Verb.CHANGE)]

    def _remove(self) -> None:
        """`destroy` leaves the host as it was before the first `up`."""
        _done(in_child(self.destroy))
        self.has = None
        self._compare("the host is otherwise than before", lambda: self.before, self.look)

    def _be(self, wanted: Document | None) -> None:
        """Bring about what the scenario begins with."""
        if wanted is self.has:
            return
        if wanted is None or self.has is not None:
            self._remove()
        if wanted is not None:
            _done(in_child(lambda: self.up(wanted)))
            self.has = wanted

    def know(self) -> None:
        """Look at the host after each `up` that nobody cuts off."""
        self._be(self.first)
        self.settled["False"] = self.look_settled()
        if self.scenario.verb is Verb.CHANGE:
            _done(in_child(lambda: self.up(self.second)))
            self.has = self.second
            self.settled["True"] = self.look_settled()

    def _compare(self, what: str, expected: Callable[[], HostView], look: Callable[[], HostView]) -> None:
        deadline = time.monotonic() + _SETTLES_WITHIN
        while left := differences(expected(), look()):
            if time.monotonic() > deadline:
                raise Failed(f"{what}:\n" + "\n".join(left[:20]))
            time.sleep(0.05)


def _have_machines_halt() -> None:
    """Give emulated machines of this lab a firmware that ends at its first instruction: nobody here waits for them."""
    size = 256 * 1024
    halting = tempfile.NamedTemporaryFile(delete=False, dir="/run/ai-how-lab")  # noqa: SIM115 - mounted, not read
    with halting:
        halting.write((b"\xf4" * size)[:-16] + b"\xf4\xeb\xfd".ljust(16, b"\xf4"))  # hlt; jmp back: where a CPU begins
    for place in _FIRMWARE:
        if place.exists():
            subprocess.run(["mount", "--bind", halting.name, str(place)], check=True)


@contextmanager
def trial(scenario: Scenario, folder: Path) -> Iterator[Trial]:
    """A scenario ready to be tried."""
    bindings()  # loaded once, for all children
    _have_machines_halt()
    image = folder.with_name(f"{folder.name}-blank.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1M"], check=True)
    Path("/var/lib/libvirt/dnsmasq").mkdir(exist_ok=True)  # as Debian's package makes it
    with scene.surroundings(scenario.mode, folder) as consul:
        made = Trial(scenario, folder, image, consul)
        made.begin()
        made.know()
        yield made


#: `up` may do what it would otherwise ask for.
_CONSENT: dict[str, Any] = {"disturb_nodes": True}


def _done(ended: Ended) -> Any:
    if ended.killed or ended.error:
        raise Failed(ended.error or "the process was killed, and not by us")
    return ended.value


def _given(document: Document | None) -> Document:
    assert document is not None
    return document


def _resolver() -> list[str]:
    """What the host's resolver was told of each link."""
    said = [
        subprocess.run(["resolvectl", "--no-pager", each], check=True, capture_output=True, text=True).stdout
        for each in ("dns", "domain")
    ]
    links = re.compile(r"^Link \d+ \(br-.*", re.MULTILINE)
    return [re.sub(r"^Link \d+", "", each) for text in said for each in links.findall(text)]


def _until_links_settle() -> None:
    """Addresses that the kernel gives to links become theirs after a moment (RFC 4862)."""
    deadline = time.monotonic() + 2 * _SETTLES_WITHIN
    while any("tentative" in each for each in look_at_host(("addresses",))["addresses"]):
        assert time.monotonic() < deadline, "links do not settle"
        time.sleep(0.05)


def _machines() -> list[str]:
    """Every machine with its state."""
    ran = subprocess.run(["virsh", "-q", "list", "--all"], check=True, capture_output=True, text=True)
    return sorted(" ".join(line.split()[1:]) for line in ran.stdout.splitlines())
