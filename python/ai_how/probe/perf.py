"""How well the network performs between two nodes, and what this host could do at best, measured in the same run.

A node whose machine does not run is measured as itself: an endpoint takes its MAC and its address. Beside a machine
that runs stands a stand-in, an endpoint of its own with an address from the DHCP range; only pings go to the machine
itself, and come from it where its guest agent sends them. The name of a cluster means a stand-in there.
"""

from __future__ import annotations

import difflib
import math
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any, Generic, TypeVar

from ai_how.errors import CommandFailed, NotReady, PrivilegeError, UsageError, some
from ai_how.host import agent
from ai_how.host.libvirt import Libvirt
from ai_how.host.lock import held
from ai_how.host.memory import is_root
from ai_how.probe.endpoint import Endpoint, endpoint
from ai_how.probe.ends import Inhabitants, Machine, inhabitants
from ai_how.probe.floor import NAME, floor
from ai_how.probe.measure import MOST, Latency, Rate, Unmeasured, latency, questions, throughput
from ai_how.resources.network import VirtualNetwork

#: Seconds that each measurement takes, here and once more on the floor.
SECONDS = 2.0

PERCENTS = (50, 90, 99)

#: Both are measured in turns: what else the host does in the meantime meets both.
_ROUNDS = 4

_DEFAULT_MTU = 1500

#: Seconds that a guest may take to start and to end a ping, beside the time that it measures.
_GUEST_WITHIN = 20.0

#: Told what is measured, and how many rounds of how many are over.
Told = Callable[[str, int, int], None]

T = TypeVar("T", Latency, Rate)


@dataclass(frozen=True, slots=True)
class End:
    """What was named on one side: a node, or a cluster (`node` is None then)."""

    name: str
    network: VirtualNetwork
    node: Machine | None = None

    @property
    def runs(self) -> bool:
        """Whether it is a machine at work."""
        return self.node is not None and self.node.running

    @property
    def is_itself(self) -> bool:
        """Whether its endpoint is the node."""
        return self.node is not None and not self.node.running

    @property
    def stood_for(self) -> str:
        """Whom packets of its endpoint come from, in words."""
        if self.node is None:
            return f"a stand-in in {self.name}"
        return f"a stand-in beside {self.name}" if self.runs else self.name


@dataclass(frozen=True, slots=True)
class Measured(Generic[T]):
    """Figures between `frm` and `to`, and those of the floor. Each is None where `why` or `floor_why` says why."""

    frm: str
    to: str
    found: T | None
    floor: T | None
    why: str = ""
    floor_why: str = ""


@dataclass(frozen=True, slots=True)
class Performance:
    """What was measured between two ends; `notes` say what stands between these figures and the machines'.

    `unanswered` is whom `why-not` should follow packets to, empty where everybody answered or a stand-in did not.
    """

    frm: str
    to: str
    seconds: float
    latency: Measured[Latency]
    tcp: Measured[Rate]
    dns: Measured[Rate]
    notes: tuple[str, ...] = ()
    unanswered: str = ""

    @property
    def whole(self) -> bool:
        """Whether all of it could be measured; the floor is only for comparison."""
        return all(each.found is not None for each in (self.latency, self.tcp, self.dns))

    def to_json(self) -> dict[str, Any]:
        """As `ai-how perf --json` shows it. A figure that could not be taken is null; `why` has the reason."""

        def of(each: Measured[T], figures: Callable[[T], Any]) -> dict[str, Any]:
            return {
                "from": each.frm,
                "to": each.to,
                "measured": None if each.found is None else figures(each.found),
                "floor": None if each.floor is None else figures(each.floor),
                "why": each.why or each.floor_why,
            }

        return {
            "from": self.frm,
            "to": self.to,
            "seconds": self.seconds,
            "latency_ms": of(self.latency, _round_trips),
            "tcp_bits_per_second": of(self.tcp, lambda each: round(each.per_second * 8)),
            "dns_queries_per_second": of(self.dns, lambda each: round(each.per_second)),
            "notes": list(self.notes),
        }


def find_end(known: Inhabitants, word: str) -> End:
    """What `word` means: a node by its name or the end of it, or a cluster.

    Raises UsageError where it fits none or several, NotReady where the cluster's network is not at work.
    """
    node = None if word in known.clusters and word not in known.machines else known.machine(word)
    if node is None and word not in known.clusters:
        there = [*known.machines, *known.clusters]
        near = difflib.get_close_matches(word, there, n=1)
        raise UsageError(
            f"there is no node and no cluster {word} on this host",
            why=f"it has {some(sorted(there), 10)}" if there else "ai-how has made none here",
            remedy=f"Did you mean {near[0]}?" if near else "ai-how status lists them.",
        )
    network = known.clusters[word] if node is None else node.network
    if not network.active:
        raise NotReady(
            f"nothing can be measured in cluster {network.cluster}",
            why="its network is not active",
            remedy="Start it: ai-how up CONFIG --no-start",
        )
    return End(word if node is None else node.name, network, node)


def measure(libvirt: Libvirt, frm: str, to: str, seconds: float = SECONDS, told: Told = lambda *_: None) -> Performance:
    """Latency, TCP throughput and the questions that the gateway of `frm` answers, each for `seconds`.

    Raises PrivilegeError, UsageError, NotReady (a network that is not active, no lease) or InUse before anything is
    measured. What then cannot be measured is part of the answer.
    """
    if not is_root():
        raise PrivilegeError(
            "measuring needs root",
            why="packets are sent from network namespaces with links on the cluster's bridge",
            remedy="Run the same as root.",
        )
    known = inhabitants(libvirt)
    a, b = find_end(known, frm), find_end(known, to)
    if a.node is not None and a.name == b.name:
        raise UsageError(
            f"{a.name} cannot be measured against itself",
            remedy=f"Name another node, or the cluster for a stand-in there: ai-how perf {a.name} {a.network.cluster}",
        )
    with ExitStack() as stack:
        # While an endpoint is the node, nobody may start its machine.
        for cluster in sorted({each.network.cluster for each in (a, b) if each.is_itself}):
            stack.enter_context(held(libvirt.uri, cluster))
        told("taking leases", 0, 2)
        near = stack.enter_context(_standing(a))
        told("taking leases", 1, 2)
        far = stack.enter_context(_standing(b))
        below = stack.enter_context(floor(near.lease.mtu or _DEFAULT_MTU))
        told("taking leases", 2, 2)

        target = _address(b, far)
        inside = a.runs and agent.answers(libvirt, a.name)
        found = Performance(
            a.name,
            b.name,
            seconds,
            latency=_in_turns(
                a.name if inside else a.stood_for,
                b.name if b.runs else b.stood_for,
                lambda length: (
                    _from_inside(libvirt, a.name, target, length) if inside else latency(near.place, target, length)
                ),
                lambda length: latency(below.near, below.address.ip, length),
                seconds,
                lambda done: told("latency", done, _ROUNDS),
            ),
            tcp=_in_turns(
                a.stood_for,
                b.stood_for,
                lambda length: throughput(near.place, far.place, far.ip, length),
                lambda length: throughput(below.near, below.far, below.address.ip, length),
                seconds,
                lambda done: told("TCP throughput", done, _ROUNDS),
            ),
            dns=_in_turns(
                a.stood_for,
                f"gateway {a.network.gateway}",
                lambda length: questions(near.place, a.network.gateway, _a_name(a), length),
                lambda length: questions(below.near, below.address.ip, NAME, length),
                seconds,
                lambda done: told("DNS", done, _ROUNDS),
            ),
            notes=tuple(_notes(a, near, b, far, inside=inside)),
        )
        if (found.latency.why or found.tcp.why) and b.node is not None:
            return replace(found, unanswered=b.name)
        return replace(found, unanswered="gateway:53/udp" if found.dns.why else "")


@contextmanager
def _standing(end: End) -> Iterator[Endpoint]:
    """Its endpoint: the node itself, or a stand-in. Raises NotReady."""
    mac = end.node.mac if end.node is not None and end.is_itself else f"52:54:00:{secrets.token_bytes(3).hex(':')}"
    with ExitStack() as stack:
        try:
            made = stack.enter_context(endpoint(end.network.bridge, mac, name=end.stood_for))
        except NotReady as error:
            network = end.network
            raise NotReady(
                f"no lease for {end.stood_for}",
                why=error.why if end.is_itself else f"{error.why}; an address of {_ranges(network)} must be free",
                remedy=f"See who has them: ai-how leases {network.cluster}. Does its DHCP server answer? "
                f"ai-how status {network.cluster}",
            ) from error
        yield made


def _ranges(network: VirtualNetwork) -> str:
    return ", ".join(f"{first} to {last}" for first, last in network.dhcp_ranges) or "no range"


def _address(end: End, endpoint_: Endpoint) -> IPv4Address:
    """Where pings go: to the machine where it runs. Raises NotReady where it has no address."""
    if end.node is None or not end.runs:
        return endpoint_.ip
    if end.node.ip is None:
        raise NotReady(f"{end.name} has no address", why="DHCP has given it none", remedy="Wait: ai-how up CONFIG")
    return end.node.ip


def _a_name(end: End) -> str:
    """A name that its gateway answers by itself."""
    names = [name for each in end.network.dns_hosts for name in each.names]
    return f"{names[0] if names else end.name}.{end.network.domain}"


def _from_inside(libvirt: Libvirt, name: str, to: IPv4Address, seconds: float) -> Latency:
    """Pings that the guest itself sends, as fast as they are answered. Raises Unmeasured."""
    argv = ["ping", "-A", "-c", str(MOST), "-w", str(max(1, math.ceil(seconds))), str(to)]
    try:
        ran = agent.run(libvirt, name, argv, within=seconds + _GUEST_WITHIN)
    except (agent.NoAgent, CommandFailed) as error:
        raise Unmeasured(f"{name} cannot ping {to}", why=error.why) from error
    found = read_pings(ran.stdout)
    if not found.ms:
        said = (ran.stderr or ran.stdout).strip().splitlines() or [f"ping ended with {ran.code}"]
        raise Unmeasured(f"{to} does not answer {name}", why=said[-1])
    return found


def read_pings(text: str) -> Latency:
    """What ping(8) of iputils or busybox prints. The first reply is left out: it waited for ARP."""
    ms = tuple(float(each) for each in re.findall(r"time[=<]([\d.]+) ms", text))
    counts = re.search(r"(\d+) packets transmitted, (\d+)", text)
    # The one under way when the time was over is not lost.
    lost = max(0, int(counts[1]) - int(counts[2]) - 1) if counts else 0
    return Latency(ms[1:] or ms, lost)


def _in_turns(
    frm: str,
    to: str,
    here: Callable[[float], T],
    below: Callable[[float], T],
    seconds: float,
    told: Callable[[int], None],
) -> Measured[T]:
    """Both, round after round; what fails once is not tried again."""
    found: list[T] = []
    floors: list[T] = []
    why = floor_why = ""
    for done in range(_ROUNDS):
        told(done)
        why = why or _add(found, here, seconds / _ROUNDS)
        floor_why = floor_why or _add(floors, below, seconds / _ROUNDS)
    told(_ROUNDS)
    return Measured(frm, to, None if why else _total(found), None if floor_why else _total(floors), why, floor_why)


def _add(found: list[T], do: Callable[[float], T], seconds: float) -> str:
    """Measure once more; why not, where it cannot be."""
    try:
        found.append(do(seconds))
    except Unmeasured as error:
        return f"{error.what}: {error.why}"
    return ""


def _total(found: Sequence[T]) -> T:
    total = found[0]
    for each in found[1:]:
        total = total + each
    return total


def _notes(a: End, near: Endpoint, b: End, far: Endpoint, *, inside: bool) -> Iterator[str]:
    for end, there in ((a, near), (b, far)):
        if end.runs:
            yield f"{end.name} is running: TCP and DNS were tried beside it, by {there.ip}, and not by its own link"
    if inside:
        yield f"the pings were sent inside {a.name}, by its guest agent"
    elif a.runs:
        yield f"the pings were sent by {near.ip}, because no guest agent answers in {a.name}"


def _round_trips(found: Latency) -> dict[str, Any]:
    figures = {f"p{percent}": round(found.percentile(percent), 4) for percent in PERCENTS}
    return figures | {"count": len(found.ms), "lost": found.lost}
