"""From a configuration and what a host has to the plan of `up`, and all that can be known to fail before it begins."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ai_how.compile.cluster import HostFacts, compile_cluster
from ai_how.config.load import Document
from ai_how.engine import preflight
from ai_how.engine.discovery import discoverable
from ai_how.engine.events import Note, Progress
from ai_how.engine.hostwide import (
    refuse_neighbours,
    refuse_taken_ports,
    refuse_unknown_resolver,
    wanted_of_host,
)
from ai_how.engine.observe import Observed, known, observe, refuse_clashes
from ai_how.engine.wait import leases
from ai_how.errors import NodesDisturbed, NodesLeave, PlanStale, UnsafeChange, some
from ai_how.host.libvirt import Libvirt
from ai_how.host.routes import list_routes, read_routes
from ai_how.plan.plan import Plan, make_plan
from ai_how.plan.refuse import disturbed_nodes, leaving_nodes, lost_addresses, lost_disks, refusals
from ai_how.providers import pool as pools
from ai_how.resources.base import OF_THE_HOST, Kind, Resource
from ai_how.resources.domain import Domain
from ai_how.resources.names import pool_name
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.pool import Pool
from ai_how.resources.seed import Seed
from ai_how.resources.volume import Volume
from ai_how.spec.cluster import Cluster
from ai_how.spec.known import Known
from ai_how.spec.resolve import resolve, resolve_all


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that `up` knows of a cluster before it changes anything; `want` has what the host needs, too."""

    spec: Cluster
    able: preflight.Abilities
    want: tuple[Resource, ...]
    observed: Observed
    plan: Plan

    def foreseen(self, observed: Observed) -> Observed:
        """`observed` as it would be after this plan, for the next cluster's."""
        mine = [each for each in self.want if isinstance(each, VirtualNetwork)]
        others = [each for each in observed.networks if each.cluster != self.spec.name]
        host = tuple(each for each in self.want if each.kind in OF_THE_HOST)
        return replace(observed, networks=(*others, *mine), host=host)


def foresee(
    libvirt: Libvirt, document: Document, keys: Iterable[str], *, start: bool, progress: Progress
) -> tuple[Prepared, ...]:
    """What `up` of these clusters, one after the other, would do. Nothing is changed, and no lock is taken.

    Raises what `up` would raise before it changes anything, but for the privileges and the consents that it asks for.
    """
    found: list[Prepared] = []
    for key in keys:
        observed = observe(libvirt, document.model.clusters[key].name)
        for each in found:
            observed = each.foreseen(observed)
        prepared = prepare(libvirt, document, key, start=start, observed=observed, progress=progress)
        if prepared.plan:
            check(libvirt, document, prepared, progress)
        found.append(prepared)
    return tuple(found)


def prepare(
    libvirt: Libvirt, document: Document, key: str, *, start: bool, observed: Observed, progress: Progress
) -> Prepared:
    """The plan that makes the host, of which `observed` was seen, have the cluster as configured.

    Without `start` machines are defined only; one that runs already keeps running.
    """
    spec = resolve(document, key, known=_memory(document, observed))
    refuse_neighbours(document, spec, observed)
    able = preflight.abilities(libvirt)
    facts = HostFacts(kvm=preflight.choose_kvm(spec, able, progress))
    want = discoverable(compile_cluster(spec, facts), spec, observed, progress)
    if not start:
        running = {each.name for each in observed.domains if each.running}
        want = tuple(_leave_off(each, running) for each in want)
    want = (*want, *wanted_of_host(observed, spec.name, want))
    observed = _with_sleeping_files(observed, want, progress)
    return Prepared(spec, able, want, observed, make_plan(want, observed.everything))


def specs_here(libvirt: Libvirt, document: Document, chosen: Collection[str] = ()) -> tuple[Cluster, ...]:
    """The clusters of a configuration as this host has or would have them: those chosen by key or name, or all."""
    memory = _memory(document, observe(libvirt, "", host=False))
    if not chosen:
        return resolve_all(document, known=memory)
    return tuple(resolve(document, each, known=memory) for each in chosen)


def _memory(document: Document, observed: Observed) -> dict[str, Known]:
    routes = read_routes(list_routes())
    return {key: known(observed, routes, each.name) for key, each in document.model.clusters.items()}


def check(libvirt: Libvirt, document: Document, prepared: Prepared, progress: Progress) -> None:
    """Raise what can be known to fail, or must not be done, of a plan that is not empty. Nothing was changed yet."""
    spec, plan, observed = prepared.spec, prepared.plan, prepared.observed
    refuse_clashes(libvirt, prepared.want, observed)
    refuse_taken_ports(plan)
    refuse_unknown_resolver(spec)
    stopped = {each.mac for each in observed.domains if not each.running}
    held = [each for each in leases(libvirt, spec.network.name) if each.mac not in stopped]
    reasons = (
        *refusals(plan),
        *lost_disks(plan, observed.domains),
        *lost_addresses(plan, {each.mac: each.ip for each in held}),
    )
    if reasons:
        raise UnsafeChange(
            f"cluster {spec.name} is not changed",
            why="; ".join(reasons),
            remedy="Do what is said there, or change it back in the configuration.\n"
            "To begin anew, without what is on the disks: ai-how destroy, then up.",
        )
    owners = {each.disk.name for each in observed.domains}
    for step in plan.steps:
        if step.have is None and isinstance(step.want, Volume) and step.want.name in owners:
            progress(Note(f"the disk of {step.want.node} is gone; it begins anew with an empty one", warning=True))
    preflight.check_programs()
    if any(step.target.kind is Kind.VOLUME and step.want is not None for step in plan.steps):
        preflight.check_image(document, spec, prepared.able)
        preflight.weigh(spec, progress)


def refuse_without_consent(name: str, plan: Plan, *, remove_nodes: bool, disturb_nodes: bool) -> None:
    """Raise NodesLeave or NodesDisturbed where `plan` costs what was not agreed to."""
    if not remove_nodes and (leaving := leaving_nodes(plan)):
        raise NodesLeave(name, leaving, plan.digest)
    if not disturb_nodes and (disturbed := disturbed_nodes(plan)):
        raise NodesDisturbed(name, tuple(disturbed), tuple(dict.fromkeys(disturbed.values())), plan.digest)


def refuse_stale(prepared: Prepared, expect: str) -> None:
    """Raise PlanStale unless the plan is the one whose digest is `expect`."""
    plan = prepared.plan
    if plan.digest != expect:
        now = some([f"{step} ({step.reason})" for step in plan.steps]) or "nothing is left to do"
        raise PlanStale(
            f"the plan for cluster {prepared.spec.name} is not carried out",
            why=f"the host has changed since it was made; now it would be: {now}",
            remedy="Make the plan again, and look at it: ai-how plan.",
        )


def observe_awake(libvirt: Libvirt, name: str) -> Observed:
    """What the host has, after starting the cluster's pool if it is stopped: only an active pool shows its disks.

    A pool that somebody undefined is ours still, where our machines have their disks in its directory.
    """
    observed = observe(libvirt, name)
    places = {each.disk.parent for each in observed.domains if each.disk.parent.name == pool_name(name)}
    if places and pools.find(libvirt, pool_name(name)) is None:
        for place in places:
            pools.define(libvirt, Pool(pool_name(name), place, active=False))
        observed = observe(libvirt, name)
    asleep = [each for each in observed.resources if isinstance(each, Pool) and not each.active]
    for each in asleep:
        pools.change(libvirt, each, replace(each, active=True))
    if asleep:
        observed = observe(libvirt, name)
    seen = {each.name for each in observed.resources if isinstance(each, Volume)}
    if any(each.disk.name not in seen for each in observed.domains) and pools.refresh(libvirt, pool_name(name)):
        # A file that was put back is there once libvirt has looked.
        observed = observe(libvirt, name)
    return observed


def _with_sleeping_files(observed: Observed, want: Iterable[Resource], progress: Progress) -> Observed:
    """`observed`, with the wanted files that are there in a pool that is stopped or gone, and so shows none.

    They are taken to be as they should; `up` looks at them once it has started the pool.
    """
    awake = {each.name for each in observed.resources if isinstance(each, Pool) and each.active}
    asleep = [each for each in want if isinstance(each, Pool) and each.name not in awake]
    place = {each.name: each.path for each in asleep if Path(each.path).is_dir()}
    files = tuple(
        each
        for each in want
        if isinstance(each, Volume | Seed) and each.pool in place and Path(place[each.pool], each.name).exists()
    )
    if not files:
        return observed
    progress(Note(f"storage pool {', '.join(place)} is off: of its disks only the names were looked at", warning=True))
    return replace(observed, resources=(*observed.resources, *files))


def _leave_off(resource: Resource, running: Collection[str]) -> Resource:
    """The same thing, a machine left as it is instead of started."""
    return replace(resource, running=resource.name in running) if isinstance(resource, Domain) else resource
