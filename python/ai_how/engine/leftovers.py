"""What is left on a host of clusters that are not there any more: decided here from what was seen (engine/gc.py).

A cluster is known where the host has its network, or where a state file or a configuration names it. What carries our
mark and belongs to no known cluster is a leftover, and so is what the host has for its clusters and none of them needs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ai_how.compile.hook import LOG, UNKNOWN
from ai_how.errors import some
from ai_how.host import memory
from ai_how.resources.base import Kind, Resource, ResourceId, identify
from ai_how.resources.domain import Domain
from ai_how.resources.firewall import FirewallTable
from ai_how.resources.names import pool_cluster, pool_name
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.passage import Passage
from ai_how.resources.pool import Pool
from ai_how.resources.sysctl import Sysctl
from ai_how.resources.volume import Volume
from ai_how.spec.naming import network_name

#: What a leftover is that is no resource by itself.
FILE = "file"

#: The files of our memory (host/memory.py), and what they remember.
MEMORY_FILES: Mapping[str, Kind] = {
    "sysctl.json": Kind.SYSCTL,
    "sysctl.settings": Kind.SYSCTL,
    "firewall.json": Kind.FIREWALL,
    "firewall-applied.json": Kind.FIREWALL,
    "passage.json": Kind.PASSAGE,
    "passage.rules": Kind.PASSAGE,
    "hook.json": Kind.HOOK,
    "routes.json": Kind.ROUTE,
    "routes.batch": Kind.ROUTE,
    "resolver.json": Kind.RESOLVER,
    "resolver.links": Kind.RESOLVER,
    "consul.json": Kind.REGISTRATION,
}

#: What the hook leaves in /run.
HOOK_FILES = frozenset({Path(LOG), Path(UNKNOWN)})


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing to go: its kind (of resource, or FILE) and key, the cluster that it was of, empty where that cannot be
    told or all had it together; why it is a leftover, and what removing it does.

    `kept` says why it is not removed all the same, and what to do; empty where it is.
    """

    kind: str
    key: str
    cluster: str
    why: str
    loss: str
    kept: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"

    def to_json(self) -> dict[str, Any]:
        """As `ai-how gc --json` shows it."""
        return {
            "kind": self.kind,
            "key": self.key,
            "cluster": self.cluster or None,
            "why": self.why,
            "loss": self.loss,
            "kept": self.kept or None,
        }


@dataclass(frozen=True, slots=True)
class Entry:
    """What an agent of Consul's at `address` was told of `cluster`: the services that it still has."""

    cluster: str
    address: str
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a host has that carries our mark.

    `files` are those in the pools of clusters without a network. `users` names, by disk, machines of others that use
    it. `needed` is what the host needs for its networks, None where that could not be judged. `networks` are ours with
    their mark whole. `entries` are of clusters that are gone. `halves` are files that a cut off write left, `papers`
    whole files of ours beside any resource.
    """

    networks: tuple[VirtualNetwork, ...] = ()
    machines: tuple[Domain, ...] = ()
    pools: tuple[Pool, ...] = ()
    files: tuple[Resource, ...] = ()
    users: tuple[tuple[PurePosixPath, str], ...] = ()
    host: tuple[Resource, ...] = ()
    needed: tuple[Resource, ...] | None = ()
    entries: tuple[Entry, ...] = ()
    halves: tuple[Path, ...] = ()
    papers: tuple[Path, ...] = ()


def find(seen: Seen, named: Collection[str]) -> tuple[Leftover, ...]:
    """The leftovers among what was seen, while state file and configurations name the clusters `named`."""
    known = {each.cluster for each in seen.networks} | set(named)
    return (
        *_of_clusters(seen, known),
        *(() if seen.needed is None else _of_host(seen.host, seen.needed)),
        *(_entry(each) for each in seen.entries),
        *_files(seen),
    )


def _of_clusters(seen: Seen, known: Collection[str]) -> Iterator[Leftover]:
    networks, pools = {network_name(each) for each in known}, {pool_name(each) for each in known}

    def strange(machine: Domain) -> bool:
        # One whose mark somebody took away is still told by what it stands on.
        here = machine.network in networks or machine.disk.parent.name in pools
        return machine.cluster not in known and not (machine.cluster == "" and here)

    machines = [each for each in seen.machines if strange(each)]
    lost = {each.name: pool_cluster(each.name) for each in seen.pools if pool_cluster(each.name) not in known}
    holders = _holders(seen, machines)
    for machine in machines:
        cluster = machine.cluster
        yield Leftover(
            Kind.DOMAIN,
            machine.name,
            cluster,
            _unknown(cluster) if cluster else "it has our identity, and its mark of a cluster is gone",
            f"the machine goes, and its disk {machine.disk} with all data on it",
            holders.get(cluster, "") if cluster else _runs([machine.name], "") if machine.running else "",
        )
    disks = {each.disk for each in machines}
    places = {each.name: each.path for each in seen.pools}
    for file in seen.files:
        pool, _, name = file.key.partition("/")
        if pool in lost and places[pool] / name not in disks:
            cluster = lost[pool]
            loss = "the disk goes, with all data on it" if isinstance(file, Volume) else "the file goes"
            yield Leftover(file.kind, file.key, cluster, _unknown(cluster), loss, holders.get(cluster, ""))
    for each in seen.pools:
        if each.name in lost:
            cluster = lost[each.name]
            inside = "" if each.active else " (it is stopped: what is in there was not looked at, and goes, too)"
            loss = f"the pool goes, and its directory {each.path}{inside}"
            yield Leftover(Kind.POOL, each.name, cluster, _unknown(cluster), loss, holders.get(cluster, ""))


def _holders(seen: Seen, machines: Collection[Domain]) -> dict[str, str]:
    """The clusters that stay, all of them, because something of them is in use, and what to do about it."""
    running: dict[str, list[str]] = {}
    for each in machines:
        if each.running:
            for cluster in {each.cluster, pool_cluster(each.disk.parent.name)} - {""}:
                running.setdefault(cluster, []).append(each.name)
    found = {cluster: _runs(names, cluster) for cluster, names in running.items()}
    paths = {each.path: pool_cluster(each.name) for each in seen.pools}
    for disk, user in seen.users:
        if disk.parent in paths:
            found.setdefault(
                paths[disk.parent], f"{user}, which is not ours, uses {disk}: take that disk from it, then gc again"
            )
    return found


def _runs(names: Collection[str], cluster: str) -> str:
    what = f"{some(sorted(names))} {'runs' if len(names) == 1 else 'run'}"
    remedy = f"ai-how destroy {cluster}" if cluster else f"virsh destroy {min(names)}, then gc again"
    return f"{what}, and gc ends no machine: {remedy}"


def _unknown(cluster: str) -> str:
    return f"cluster {cluster} has no network on this host, and neither state file nor configuration names it"


def split(have: Resource, want: Resource | None) -> tuple[str, ...]:
    """Whom `have` is for and `want` is not: clusters, or bridges; empty where that cannot be told."""
    match have, want:
        case FirewallTable(), FirewallTable():
            wanted = {each.cluster for each in want.clusters}
            return tuple(each.cluster for each in have.clusters if each.cluster not in wanted)
        case Passage(), Passage():
            return tuple(each for each in have.bridges if each not in want.bridges)
        case _:
            return ()


def _of_host(host: Collection[Resource], needed: Collection[Resource]) -> Iterator[Leftover]:
    wanted = {identify(each): each for each in needed}
    for have in host:
        want = wanted.get(identify(have))
        if want is None:
            loss = "it goes"
            if isinstance(have, Sysctl):
                loss = "it goes back to what it was before the first cluster, unless somebody else needs it now"
            yield Leftover(have.kind, have.key, "", f"no cluster of this host needs it ({have})", loss)
        elif gone := split(have, want):
            cluster = gone[0] if isinstance(have, FirewallTable) and len(gone) == 1 else ""
            why = f"it is also for {some(gone)}, of which this host has no network"
            yield Leftover(have.kind, have.key, cluster, why, "what it has for others stays as it is")


def sides(seen: Seen, leftovers: Collection[Leftover]) -> tuple[list[Resource], list[Resource]]:
    """Of those `leftovers` that are the host's own: what shall be there instead, and what is."""
    doomed = {(each.kind, each.key) for each in leftovers}
    have = [each for each in seen.host if (each.kind, each.key) in doomed]
    there: set[ResourceId] = {identify(each) for each in have}
    return [each for each in seen.needed or () if identify(each) in there], have


def _entry(entry: Entry) -> Leftover:
    count = len(entry.services)
    why = f"Consul at {entry.address} was told of it, and this host has no network of it that says so"
    if count:
        loss = f"{some(entry.services)} {'is' if count == 1 else 'are'} deregistered"
    else:
        loss = "nothing is there any more; that it was told is forgotten"
    return Leftover(Kind.REGISTRATION, f"{entry.cluster} at {entry.address}", entry.cluster, why, loss)


def _files(seen: Seen) -> Iterator[Leftover]:
    for path in seen.halves:
        yield Leftover(FILE, str(path), "", "a write of ours was cut off", "the half file goes")
    if seen.needed is None:
        return
    kinds = {each.kind for each in (*seen.host, *seen.needed)}
    networks = {each.name for each in seen.networks}
    for path in seen.papers:
        if path == memory.DIRECTORY:
            yield Leftover(FILE, str(path), "", "our directory, and nothing is in it", "the empty directory goes")
        elif path.parent == memory.DIRECTORY:
            if MEMORY_FILES[path.name] not in kinds:
                why = f"it remembers a {MEMORY_FILES[path.name]} that the host neither has nor needs"
                yield Leftover(FILE, str(path), "", why, "the note goes")
        elif path in HOOK_FILES:
            if Kind.HOOK not in kinds:
                yield Leftover(FILE, str(path), "", "the hook that wrote it is not there", "the file goes")
        elif path.stem.removeprefix("ai-how-") not in networks:
            network = path.stem.removeprefix("ai-how-")
            why = f"it is for network {network}, which this host does not have"
            yield Leftover(FILE, str(path), "", why, "the file goes")
