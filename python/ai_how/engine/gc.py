"""Leftovers looked for on a host, and removed: by the providers, under the locks that every verb holds."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ai_how.compile.hook import UNKNOWN
from ai_how.engine.apply import apply, take
from ai_how.engine.events import Note, Progress
from ai_how.engine.hostwide import needed_for, shared
from ai_how.engine.leftovers import FILE, HOOK_FILES, MEMORY_FILES, Entry, Leftover, Seen, find, sides
from ai_how.engine.observe import observe_host
from ai_how.engine.prepare import observe_awake
from ai_how.engine.site import Site
from ai_how.engine.state import open_state, read_state
from ai_how.errors import HostError, LeftoversNeedRoot
from ai_how.host import consul, memory, resolver, told
from ai_how.host.files import half
from ai_how.host.libvirt import Libvirt
from ai_how.host.lock import held
from ai_how.plan.plan import Step, make_plan
from ai_how.plan.text import line
from ai_how.providers import domain as domains
from ai_how.providers import network as networks
from ai_how.providers import pool as pools
from ai_how.providers import registration
from ai_how.providers import seed as seeds
from ai_how.providers import volume as volumes
from ai_how.resources import xml
from ai_how.resources.base import OF_THE_HOST, Kind, Resource, identify
from ai_how.resources.hook import PATH as HOOK_PATH
from ai_how.resources.names import pool_cluster
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.pool import Pool
from ai_how.resources.servers import File, file_path

_NOT_ROOT = "rules in the kernel, and files that only root may read, were not looked at; what is said of them is what "
_NOT_ROOT += "was applied last (run it as root)"


@dataclass(frozen=True, slots=True)
class Found:
    """The `leftovers` on a host, those that were `removed`, and why something could not be looked at (`unseen`)."""

    leftovers: tuple[Leftover, ...]
    removed: tuple[Leftover, ...] = ()
    unseen: tuple[str, ...] = ()


def search(site: Site, named: Collection[str]) -> Found:
    """The leftovers, while configurations name the clusters `named`. Nothing is changed, and no lock is taken."""
    seen, unseen = look(site.libvirt, site.state)
    return Found(find(seen, {*named, *read_state(site.state)}), unseen=unseen)


def collect(site: Site, named: Collection[str]) -> Found:
    """Remove the leftovers; what is kept, or could not be removed, is still among those that are returned.

    Raises LeftoversNeedRoot before anything is changed; HostError, StateError.
    """
    libvirt, progress = site.libvirt, site.progress
    # Half files go already when the locks are taken.
    halves = [each for each in search(site, named).leftovers if each.kind == FILE]
    with open_state(site.state) as state, shared(progress):
        known = {*named, *state.clusters}
        seen, _ = look(libvirt, site.state)
        before = find(seen, known)
        doomed = [each for each in before if not each.kept]
        _refuse_without_root(doomed)
        # First of all: a half file would keep its directory from going with the whole one.
        _remove_files(doomed)
        trouble = _remove_clusters(libvirt, seen, doomed, progress)
        _remove_of_host(libvirt, seen, doomed, progress)
        for why in registration.settle(seen.networks) if seen.entries else ():
            progress(Note(why, warning=True))
        seen, _ = look(libvirt, site.state)
        _remove_files(find(seen, known))
        seen, unseen = look(libvirt, site.state)
        after = tuple(replace(each, kept=each.kept or trouble.get(each.cluster, "")) for each in find(seen, known))
    left = {(each.kind, each.key) for each in after}
    gone = {(each.kind, each.key): each for each in (*before, *halves) if (each.kind, each.key) not in left}
    return Found(after, tuple(gone.values()), unseen)


def look(libvirt: Libvirt, state: Path) -> tuple[Seen, tuple[str, ...]]:
    """What the host has that carries our mark, beside the file `state`; and why something could not be looked at."""
    ours = tuple(each for each in networks.observe_all(libvirt) if each.cluster)
    there = tuple(pools.observe_all(libvirt))
    lost = {pool_cluster(each.name) for each in there} - {each.cluster for each in ours}
    unseen = []
    host: tuple[Resource, ...] = ()
    needed: tuple[Resource, ...] | None = None
    entries: tuple[Entry, ...] = ()
    if not libvirt.is_system:
        unseen.append(
            f"what this host has outside libvirt is for the clusters of the system's, which {libvirt.uri} is not"
        )
    else:
        host = observe_host(libvirt)
        try:
            needed = needed_for(ours, host)
        except HostError as error:
            unseen.append(f"what this host needs outside libvirt: {error}")
        entries, silent = _entries(ours)
        unseen += silent
    if not memory.is_root():
        unseen.append(_NOT_ROOT)
    seen = Seen(
        networks=ours,
        machines=tuple(domains.observe_all(libvirt)),
        pools=there,
        files=tuple(each for name in sorted(lost) for kind in (volumes, seeds) for each in kind.observe(libvirt, name)),
        users=tuple(_users(libvirt, [each for each in there if pool_cluster(each.name) in lost])),
        host=host,
        needed=needed,
        entries=entries,
        halves=tuple(_halves(state)),
        papers=tuple(_papers()),
    )
    return seen, tuple(unseen)


def _entries(ours: Collection[VirtualNetwork]) -> tuple[tuple[Entry, ...], list[str]]:
    found, silent = [], []
    for each in registration.astray(ours):
        try:
            services = consul.list_services(each.discovery, each.cluster)
        except HostError as error:
            silent.append(f"whether nodes of {each.cluster} are still registered in Consul: {error}")
        else:
            found.append(Entry(each.cluster, each.discovery.address, tuple(sorted(services))))
    return tuple(found), silent


def _users(libvirt: Libvirt, lost: Collection[Pool]) -> Iterator[tuple[PurePosixPath, str]]:
    """The disks in these pools that machines of others use."""
    if not lost:
        return
    places = {each.name: each.path for each in lost}
    with libvirt.doing("cannot list the host's machines"):
        handles = [each for each in libvirt.connection.listAllDomains() if not domains.is_ours(each)]
        texts = [(each.name(), each.XMLDesc(libvirt.api.VIR_DOMAIN_XML_INACTIVE)) for each in handles]
    for name, text in texts:
        for source in xml.parse(text).iterfind("devices/disk/source"):
            volume = places.get(source.get("pool", ""))
            disk = PurePosixPath(source.get("file", "")) if volume is None else volume / source.get("volume", "")
            if disk.parent in places.values():
                yield disk, name


def _halves(state: Path) -> Iterator[Path]:
    """What writes that were cut off left beside the files that they were for."""
    single = [*(memory.DIRECTORY / each for each in MEMORY_FILES), Path(HOOK_PATH), Path(UNKNOWN), state.resolve()]
    for path in single:
        if _is_file(cut_off := half(path)):
            yield cut_off
    for directory, suffix, alone in _shelves():
        for cut_off in sorted(directory.glob(f".ai-how-*.{suffix}.new")):
            # Where there is only the half, it stands for a resource, which is a leftover or to be made whole.
            whole = cut_off.with_name(cut_off.name[1:].removesuffix(".new"))
            if _is_file(cut_off) and (alone or told.read_lines(whole) is not None):
                yield cut_off


def _papers() -> Iterator[Path]:
    """Whole files of ours that stand for no resource by themselves, and our directory where it is empty."""
    directory = memory.DIRECTORY
    # Where something is mounted, as in a lab, it stays.
    if directory.is_dir() and not directory.is_mount() and not any(directory.iterdir()):
        yield directory
    # What agents were told is looked after by itself, where it can be read.
    names = [each for each in MEMORY_FILES if each != registration.MEMORY or not registration.astray(())]
    for path in (*(directory / each for each in names), *sorted(HOOK_FILES)):
        if _is_file(path):
            yield path
    for shelf, suffix, alone in _shelves():
        for path in sorted(shelf.glob(f"ai-how-*.{suffix}")) if alone else ():
            if _is_file(path) and told.read_lines(path) is not None:
                yield path


def _shelves() -> Iterator[tuple[Path, str, bool]]:
    """Directories of other programs with files of ours in them, how those end, and whether no resource has them."""
    yield resolver.NETWORKMANAGER_FILES, "conf", False
    yield resolver.DNSMASQ_FILES, "conf", False
    for each in File:
        yield Path(file_path("", each).parent), each, each in (File.HOSTS, File.NAMES)


def _is_file(path: Path) -> bool:
    """Whether it is one, by itself and not by a link; nothing of what we write is one by a link."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _refuse_without_root(doomed: Collection[Leftover]) -> None:
    if memory.is_root():
        return
    rooted = [each for each in doomed if each.kind in OF_THE_HOST or each.kind == Kind.REGISTRATION]
    rooted += [each for each in doomed if each.kind == FILE and not os.access(Path(each.key).parent, os.W_OK)]
    if rooted:
        raise LeftoversNeedRoot([str(each) for each in rooted])


def _remove_clusters(libvirt: Libvirt, seen: Seen, doomed: Collection[Leftover], progress: Progress) -> dict[str, str]:
    """Remove machines, disks and pools; for the clusters of which something stays, why."""
    inside = [each for each in doomed if each.kind in (Kind.DOMAIN, Kind.POOL, Kind.VOLUME, Kind.SEED)]
    trouble: dict[str, str] = {}
    for cluster in dict.fromkeys(each.cluster for each in inside if each.cluster):
        try:
            with held(libvirt.uri, cluster):
                observed = observe_awake(libvirt, cluster)
                apply(libvirt, make_plan((), observed.resources), progress, undone=lambda: None)
        except HostError as error:
            # The others need not wait for it.
            trouble[cluster] = str(error)
    unmarked = {each.key for each in inside if not each.cluster}
    for each in seen.machines:
        if each.name in unmarked and each.cluster == "":
            take(libvirt, Step(identify(each), None, each))
    return trouble


def _remove_of_host(libvirt: Libvirt, seen: Seen, doomed: Collection[Leftover], progress: Progress) -> None:
    want, have = sides(seen, doomed)
    plan = make_plan(want, have)
    if plan:
        progress(Note("\n".join(["on this host, outside libvirt:", *(f"  {line(step)}" for step in plan.steps)])))
        apply(libvirt, plan, progress, undone=lambda: None)


def _remove_files(doomed: Collection[Leftover]) -> None:
    for each in doomed:
        if each.kind == FILE:
            _remove_file(Path(each.key))


def _remove_file(path: Path) -> None:
    try:
        if path == memory.DIRECTORY:
            with contextlib.suppress(FileNotFoundError):
                path.rmdir()
        elif path.parent == memory.DIRECTORY:
            memory.forget(path.name)  # and the directory, if it was the last
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(
            f"{path} cannot be removed", why=error.strerror or str(error), remedy=f"Look at it: ls -ld {path}"
        ) from error
