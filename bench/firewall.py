"""Part (e), `firewall`: the table of 100 clusters × 100 nodes computed, loaded, replaced, looked at and removed."""

from __future__ import annotations

from functools import partial
from statistics import median

from ai_how.host import nftables
from ai_how.host.libvirt import Libvirt
from ai_how.providers import firewall
from ai_how.resources.firewall import FirewallTable
from ai_how.resources.ruleset import TABLES, render, render_removal
from ai_how.spec.network import DnsMode
from bench import clusters
from bench.floor import URI
from bench.measure import Taken, in_turns, timed
from bench.report import Report, Row, Target

TARGET = Target(seconds=1.0)

#: In all modes by turns, as a rule; and every cluster every other one's peer, which makes the largest sets.
KINDS = {"in all modes": tuple(DnsMode), "all peers": (DnsMode.SHARED_DNS,)}

_LOAD, _REPLACE, _LOOK, _REMOVE = "loading it", "replacing it", "looking whether it is in force", "removing it"
_FLOOR, _FLOOR_REPLACE = "floor: nft -j -f, no table there", "floor: nft -j -f, in place of another"


def measure(report: Report, *, size: int = clusters.SIZE, nodes: int, rounds: int) -> None:
    """What the provider of the table does beside nft alone, which is given the same chains and sets in one transaction,
    ready. The provider loads them twice: beside the old ones, and under the name that stays.

    Runs in a lab, on a host that has no table of ours. The clusters are not there: rules need no bridge.
    """
    for words, modes in KINDS.items():
        networks = clusters.networks(size, nodes, modes)
        want = clusters.table(networks)
        # With another uplink: what is replaced is as large.
        other = FirewallTable(want.clusters, (*want.uplinks, "other"), intact=True)
        work = f"table of {size:,} × {nodes:,}, {words}"
        text = render(want)
        computing = in_turns(
            {
                "computing it": partial(timed, partial(clusters.table, networks)),
                "writing its JSON": partial(timed, partial(render, want)),
            },
            rounds,
        )
        with Libvirt(URI) as libvirt:
            turns = in_turns(
                {"floor": partial(_bare, text.splitlines()[0]), "ours": partial(_ours, libvirt, want, other)},
                rounds,
            )
        floors, ours = ({name: tuple(each[name] for each in turns[side]) for name in turns[side][0]} for side in turns)
        report.rows += [Row("firewall", work, name, taken) for name, taken in (floors | computing).items()]
        for name, taken in ours.items():
            floor = {_LOAD: _FLOOR, _REPLACE: _FLOOR_REPLACE}.get(name)
            best = None if floor is None else median(each.wall for each in floors[floor])
            target = TARGET if floor and size == clusters.SIZE else None
            report.rows.append(Row("firewall", work, name, taken, best, target))
        report.notes.append(f"{work}: {len(text):,} bytes of JSON")


def _bare(text: str) -> dict[str, Taken]:
    """nft alone, loading `text` twice."""
    try:
        return {name: timed(partial(nftables.load, text)) for name in (_FLOOR, _FLOOR_REPLACE)}
    finally:
        nftables.load(render_removal(TABLES))


def _ours(libvirt: Libvirt, want: FirewallTable, other: FirewallTable) -> dict[str, Taken]:
    """The life of a table, all that its provider does for it."""
    try:
        taken = {
            _LOAD: timed(partial(firewall.create, libvirt, other)),
            _REPLACE: timed(partial(firewall.change, libvirt, other, want)),
            _LOOK: timed(partial(_see, libvirt, want)),
        }
    finally:
        removed = timed(partial(firewall.remove, libvirt, want))
    return {**taken, _REMOVE: removed}


def _see(libvirt: Libvirt, want: FirewallTable) -> None:
    if firewall.observe(libvirt, "") != [want]:
        raise RuntimeError("the table that was loaded is not the one that is seen")
