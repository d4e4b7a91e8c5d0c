"""Part (f), `traffic`: what the table costs the packets that pass it: round trips, new connections, a stream.

The floor is the same path with no table loaded: libvirt's network and nothing else. Our network for a cluster that lets
somebody in is routed by libvirt and masqueraded by us; its floor is libvirt's own NAT.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import quantiles

import libvirt

from ai_how.host import nftables
from ai_how.lab.internet import INTERNET
from ai_how.probe.endpoint import endpoint
from ai_how.probe.place import Place, named
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.ruleset import TABLES, render, render_removal
from bench import clusters
from bench.far import PIECE
from bench.floor import URI
from bench.measure import Taken, in_turns
from bench.near import Far, connections, far_end, one_cpu, round_trips, stream
from bench.report import Report, Row, Target


@dataclass(frozen=True, slots=True)
class Load:
    """How much is sent on each path with each table, and how often all of it is repeated."""

    rounds: int
    round_trips: int
    connections: int
    pieces: int


FULL = Load(rounds=25, round_trips=2_000, connections=300, pieces=48)
QUICK = Load(rounds=8, round_trips=1_000, connections=200, pieces=24)

TARGET = Target(times_floor=1.10)

_BARE = "no table"
_NAT, _OUR_NAT, _PEERS = "libvirt's NAT", "our masquerade", "to a peer"
_MEDIAN, _LATE = "round trip, median", "round trip, 90th percentile"
_CONNECTION, _STREAM = "new connection", f"{PIECE >> 20} MiB of a stream"
_TARGETED = (_MEDIAN, _STREAM)

#: By path and what was sent.
_Runs = dict[tuple[str, str], Taken]


@dataclass(frozen=True, slots=True)
class _Path:
    """From a place to a far end; without a table of ours the way there may not be."""

    place: Place
    far: Far
    bare: bool = True


def measure(report: Report, *, size: int = clusters.SIZE, nodes: int, load: Load) -> None:
    """Everything with no table, with one for the clusters whose bridges are there, and with one of `size` clusters.

    The tables take turns: loads of the machine meet them alike. Runs in a lab with the pretend internet.
    """
    there = clusters.there(nodes)
    texts = {
        _BARE: render_removal(TABLES),
        f"table of {len(there)} clusters": render(clusters.table(list(there.values()))),
        f"table of {size} clusters": render(clusters.table(clusters.networks(size, nodes))),
    }
    with one_cpu(), _paths(there) as paths:
        runs = {name: partial(_all, paths, text, load, bare=name == _BARE) for name, text in texts.items()}
        try:
            turns = in_turns(runs, load.rounds)
        finally:
            nftables.load(render_removal(TABLES))
    bare = turns.pop(_BARE)
    for name, path in paths.items():
        for sent in (_MEDIAN, _LATE, _CONNECTION, _STREAM):
            work = f"{name}: {sent}"
            floor = Row(
                "traffic", work, "floor: no table", tuple(each[name if path.bare else _NAT, sent] for each in bare)
            )
            report.rows.append(replace(floor, by=floor.by if path.bare else "floor: libvirt's NAT, no table"))
            for by, ours in turns.items():
                taken = tuple(each[name, sent] for each in ours)
                target = TARGET if sent in _TARGETED and size == clusters.SIZE else None
                report.rows.append(Row("traffic", work, by, taken, floor.wall, target, floor.taken))
                if sent in _TARGETED:
                    report.notes.append(f"{work}, {by}: {_spread(report.rows[-1].ratios)}")


def _all(paths: dict[str, _Path], text: str, load: Load, *, bare: bool) -> _Runs:
    """Load the table and send everything on every path."""
    nftables.load(text)
    taken: _Runs = {}
    for name, path in paths.items():
        if path.bare or not bare:
            median, late = round_trips(path.place, path.far, load.round_trips)
            taken[name, _MEDIAN], taken[name, _LATE] = median, late
            taken[name, _CONNECTION] = connections(path.place, path.far, load.connections)
            taken[name, _STREAM] = stream(path.place, path.far, load.pieces)
    return taken


def _spread(ratios: tuple[float, ...]) -> str:
    """How the ratios of single rounds lie: a machine that is busy with other things shows here."""
    quarter, half, three = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return f"{half:.2f} × its floor; half of the rounds lie between {quarter:.2f} and {three:.2f}"


@contextmanager
def _paths(there: dict[str, VirtualNetwork]) -> Iterator[dict[str, _Path]]:
    """The networks by libvirt alone, a node on each, and the far ends, for the length of a `with` block."""
    with ExitStack() as stack:
        connection = libvirt.open(URI)
        stack.callback(connection.close)
        nodes = {}
        for name, network in there.items():
            # dnsmasq is not asked for names: it needs no file of ours with the other clusters' zones.
            made = connection.networkCreateXML(replace(network, dnsmasq_options=()).to_xml())
            stack.callback(made.destroy)
            mac = network.reservations[0].mac
            nodes[name] = stack.enter_context(endpoint(network.bridge, mac, name=name))
        internet = stack.enter_context(named(INTERNET.namespace))
        web = stack.enter_context(far_end(internet, INTERNET.web))
        peer = nodes[clusters.OTHER_PEER]
        yield {
            _NAT: _Path(nodes[clusters.PLAIN].place, web),
            _OUR_NAT: _Path(nodes[clusters.LETS_IN].place, web, bare=False),
            _PEERS: _Path(nodes[clusters.PEER].place, stack.enter_context(far_end(peer.place, peer.ip))),
        }
