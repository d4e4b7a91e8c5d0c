"""What can be done with a cluster: `up`, `down`, `destroy`, `status`. Each walks the one path as far as it needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ai_how.compile.cluster import HostFacts, compile_cluster
from ai_how.config.load import Document
from ai_how.engine import preflight
from ai_how.engine.apply import apply
from ai_how.engine.discovery import discoverable, leave_registered, settle
from ai_how.engine.events import Event, HostChanges, Note, Phase, Progress, StepDone, silent
from ai_how.engine.hostwide import (
    outside_libvirt,
    refuse_neighbours,
    refuse_taken_ports,
    refuse_unknown_resolver,
    refuse_without_root,
    say_obstacles,
    say_ways_back,
    shared,
    wanted_of_host,
)
from ai_how.engine.observe import Observed, known, observe, refuse_clashes
from ai_how.engine.state import State, open_state
from ai_how.engine.status import ClusterStatus, read_status
from ai_how.engine.wait import leases, wait_for_leases
from ai_how.errors import HostError, NodesLeave, UnsafeChange
from ai_how.host.libvirt import Libvirt
from ai_how.host.lock import held
from ai_how.host.routes import list_routes, read_routes
from ai_how.plan.plan import Plan, Step, make_plan
from ai_how.plan.refuse import leaving_nodes, lost_disks, refusals
from ai_how.providers import domain as domains
from ai_how.providers import network as networks
from ai_how.providers import pool as pools
from ai_how.resources.base import Impact, Kind, Resource, identify
from ai_how.resources.domain import Domain
from ai_how.resources.names import pool_name
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.pool import Pool
from ai_how.resources.volume import Volume
from ai_how.spec.cluster import Cluster
from ai_how.spec.resolve import resolve

#: Seconds that a verb waits for the leases of all nodes, and for a graceful end of all machines.
LEASES_WITHIN = 300.0
SHUTDOWN_WITHIN = 60.0

#: Seconds within which the host must look as planned after the last step.
VERIFY_WITHIN = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a verb did: the steps it took (none where nothing differed) and the cluster afterwards."""

    steps: tuple[Step, ...]
    status: ClusterStatus

    @property
    def changed(self) -> bool:
        """Whether anything was done."""
        return bool(self.steps)


@dataclass(frozen=True, slots=True)
class Site:
    """Where clusters are: an open libvirt, the state file, and who is told of the progress."""

    libvirt: Libvirt
    state: Path
    progress: Progress = silent


def up(
    site: Site,
    document: Document,
    key: str,
    *,
    start: bool = True,
    remove_nodes: bool = False,
    wait: bool = True,
    within: float = LEASES_WITHIN,
) -> Outcome:
    """Make the cluster run as configured, and wait until each of its nodes has its lease (`wait`, `within` seconds).

    `key` is that of one of the document's clusters, which spec/resolve.py has found to be valid in itself.

    Without `start` machines are defined only; one that runs already keeps running. Without `remove_nodes` a plan that
    removes nodes with their disks is refused (NodesLeave).

    Raises ConfigurationError, NotOurs, UnsafeChange or HostError before anything is changed; HostError or Interrupted
    after undoing what this run made; NotReady, leaving the machines as they are.
    """
    libvirt, progress = site.libvirt, site.progress
    name = document.model.clusters[key].name
    before: dict[str, int] = {}
    with open_state(site.state) as state, held(libvirt.uri, name):
        with shared(progress):
            _say_if_cut_off(state, name, progress)
            observed = _observe_awake(libvirt, name)
            routes = read_routes(list_routes())
            memory = {other: known(observed, routes, each.name) for other, each in document.model.clusters.items()}
            spec = resolve(document, key, known=memory)
            refuse_neighbours(document, spec, observed)
            able = preflight.abilities(libvirt)
            facts = HostFacts(kvm=preflight.choose_kvm(spec, able, progress))
            want = discoverable(compile_cluster(spec, facts), spec, observed, progress)
            if not start:
                running = {each.name for each in observed.domains if each.running}
                want = tuple(_leave_off(each, running) for each in want)
            want = (*want, *wanted_of_host(observed, name, want))
            plan = make_plan(want, observed.everything)
            kept = {each.name: each for each in observed.domains if each.running}
            if plan:
                _check(libvirt, document, spec, able, want, observed, plan, progress)
                if not remove_nodes and (leaving := leaving_nodes(plan)):
                    raise NodesLeave(name, leaving)
                before |= _expiries(libvirt, spec, plan)
                network = next(identify(each) for each in want if isinstance(each, VirtualNetwork))

                def watch(event: Event) -> None:
                    if isinstance(event, StepDone) and event.step.target == network:
                        # Now that it is active its old leases can be seen, and no machine runs that could renew one.
                        before.update(_expiries(libvirt, spec, plan))
                    progress(event)

                observed = _carry_out(replace(site, progress=watch), state, "up", name, plan, lambda _: want)
                _say_pending(plan, progress)
            settle(observed, progress)
            say_ways_back(spec, progress)
            say_obstacles(libvirt, spec, observed.host, progress)
            state.remember(name, libvirt.uri)
            state.finish(name)
        for node in sorted(domains.paused(libvirt) & {each.name for each in observed.domains}):
            progress(Note(f"{node} is paused and stays so; let it go on: virsh resume {node}", warning=True))
        if wait:
            nodes = _to_wait_for(libvirt, spec, want, kept, progress)
            _wait(site, spec, nodes, before, within)
            if plan:
                observed = observe(libvirt, name)
        return Outcome(plan.steps, read_status(libvirt, name, observed))


def down(site: Site, name: str, *, within: float = SHUTDOWN_WITHIN) -> Outcome:
    """Stop the cluster's machines, gracefully within so many seconds and then by force, and its network.

    Everything stays defined: disks, addresses, names. A cluster that is not there is no error.
    """
    libvirt, progress = site.libvirt, site.progress
    with open_state(site.state) as state, held(libvirt.uri, name):
        observed = observe(libvirt, name)
        plan = make_plan(_at_rest(observed, name), observed.everything)
        if plan:
            refuse_without_root(name, plan)
            state.begin(name, libvirt.uri, "down", plan)
            running = [each.name for each in observed.domains if each.running]
            progress(Phase("shut down", len(running)))
            stubborn = domains.shut_down(libvirt, running, within=within)
            if stubborn:
                progress(Note(f"powered off after {within:g} s: {', '.join(stubborn)}", warning=True))
            with shared(progress):
                have = observe(libvirt, name)
                rest = make_plan(_at_rest(have, name), have.everything)
                observed = _carry_out(site, state, "down", name, rest, lambda now: _at_rest(now, name))
            state.finish(name)
        return Outcome(plan.steps, read_status(libvirt, name, observed))


def destroy(site: Site, name: str) -> Outcome:
    """Remove the cluster's machines, disks and network, and nothing else. One that is not there is no error."""
    libvirt = site.libvirt
    with open_state(site.state) as state, held(libvirt.uri, name), shared(site.progress):
        observed = _observe_awake(libvirt, name)
        leave_registered(observed, name, site.progress)
        want = wanted_of_host(observed, name, ())
        plan = make_plan(want, observed.everything)
        if plan:
            refuse_without_root(name, plan)
            observed = _carry_out(site, state, "destroy", name, plan, lambda _: want)
        settle(observed, site.progress)
        state.forget(name)
        return Outcome(plan.steps, read_status(libvirt, name, observed))


def status(libvirt: Libvirt, name: str, spec: Cluster | None = None) -> ClusterStatus:
    """The cluster as the host has it now; with `spec` also the configured nodes that it does not have."""
    return read_status(libvirt, name, observe(libvirt, name, host=False), spec)


def clusters(libvirt: Libvirt) -> tuple[str, ...]:
    """The names of all of ai-how's clusters on the host, whoever brought them up."""
    found = {each.cluster for each in networks.observe_all(libvirt) if each.cluster}
    found |= {each.cluster for each in domains.observe_all(libvirt) if each.cluster}
    return tuple(sorted(found | pools.clusters(libvirt)))


def _check(
    libvirt: Libvirt,
    document: Document,
    spec: Cluster,
    able: preflight.Abilities,
    want: Iterable[Resource],
    observed: Observed,
    plan: Plan,
    progress: Progress,
) -> None:
    """Everything that can be known to fail, before anything is changed."""
    refuse_without_root(spec.name, plan)
    refuse_clashes(libvirt, want, observed)
    refuse_taken_ports(plan)
    refuse_unknown_resolver(spec)
    reasons = (*refusals(plan), *lost_disks(plan, observed.domains))
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
        preflight.check_image(document, spec, able)
        preflight.weigh(spec, progress)


def _carry_out(
    site: Site, state: State, verb: str, name: str, plan: Plan, want: Callable[[Observed], Iterable[Resource]]
) -> Observed:
    """Journal, apply, and read the host again until it looks as it shall (`want`, of what there is), which is returned.

    What changes outside libvirt is said before it is done.
    """
    if outside := outside_libvirt(plan):
        site.progress(HostChanges(outside))
    was_there = name in state.clusters
    state.begin(name, site.libvirt.uri, verb, plan)
    apply(site.libvirt, plan, site.progress, undone=lambda: state.finish(name) if was_there else state.forget(name))
    site.progress(Phase("verify", len(plan.steps)))
    deadline = time.monotonic() + VERIFY_WITHIN
    while True:
        observed = observe(site.libvirt, name)
        left = make_plan(want(observed), observed.everything)
        if not left:
            return observed
        if time.monotonic() > deadline:
            raise HostError(
                f"the host does not look as planned after {verb}",
                why="; ".join(f"{step} ({step.reason})" for step in left.steps[:5]),
                remedy=f"Run ai-how {verb} again. If that does not help, something else changes these things.",
            )
        time.sleep(0.1)


def _to_wait_for(
    libvirt: Libvirt, spec: Cluster, want: Iterable[Resource], kept: Mapping[str, Domain], progress: Progress
) -> list[Domain]:
    """The nodes whose leases are to be waited for: those that run, but for those of `kept` that ran before with
    another address, which they keep until they ask anew. Says which.
    """
    held = {each.mac: each.ip for each in leases(libvirt, spec.network.name)}
    addresses = {node.name: node.ip for node in spec.nodes}
    nodes = []
    for each in want:
        if not isinstance(each, Domain) or not each.running:
            continue
        now, ip = kept.get(each.name), addresses[each.name]
        if now is not None and now.mac != each.mac:
            continue  # named among what waits for the next start
        if now is not None and ip is not None and held.get(each.mac, ip) != ip:
            text = f"{each.name} keeps {held[each.mac]} until it is restarted or renews its lease; then it gets {ip}"
            progress(Note(text, warning=True))
        else:
            nodes.append(each)
    return nodes


def _wait(site: Site, spec: Cluster, nodes: Collection[Domain], before: dict[str, int], within: float) -> None:
    wait_for_leases(
        site.libvirt,
        spec.network.name,
        nodes,
        {node.mac: node.ip for node in spec.nodes if node.ip is not None},
        before=before,
        within=within,
        progress=site.progress,
    )


def _expiries(libvirt: Libvirt, spec: Cluster, plan: Plan) -> dict[str, int]:
    """When the leases end that nodes still hold from an earlier life, of those that this plan starts."""
    # One that goes on where it was saved goes on with its lease, too, and does not ask for it again.
    resumed = domains.saved(libvirt)
    started = {
        step.want.mac
        for step in plan.steps
        if isinstance(step.want, Domain) and step.want.running and not (step.have is not None and step.have.up)
        if step.want.name not in resumed
    }
    return {each.mac: each.expires for each in leases(libvirt, spec.network.name) if each.mac in started}


def _observe_awake(libvirt: Libvirt, name: str) -> Observed:
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


def _at_rest(observed: Observed, name: str) -> tuple[Resource, ...]:
    """The same cluster, stopped, and what the host then needs for all of them."""
    stopped: list[Resource] = []
    for each in observed.resources:
        if isinstance(each, Domain):
            stopped.append(replace(each, running=False))
        elif isinstance(each, VirtualNetwork):
            stopped.append(replace(each, active=False, autostart=False))
        else:
            stopped.append(each)
    return (*stopped, *wanted_of_host(observed, name, stopped))


def _leave_off(resource: Resource, running: Collection[str]) -> Resource:
    """The same thing, a machine left as it is instead of started."""
    return replace(resource, running=resource.name in running) if isinstance(resource, Domain) else resource


def _say_if_cut_off(state: State, name: str, progress: Progress) -> None:
    record = state.clusters.get(name)
    if record is not None and record.run is not None:
        progress(Note(f"`{record.run.verb}` of {record.run.started} was cut off; continuing from what the host has"))


def _say_pending(plan: Plan, progress: Progress) -> None:
    """Name the running machines whose new definition waits for their next start."""
    for step in plan.steps:
        if step.have is not None and isinstance(step.want, Domain) and step.have.up and step.impact is Impact.RESTART:
            fields = ", ".join(f"{each.field} {each.old} → {each.new}" for each in step.fields)
            progress(Note(f"{step.target.key} keeps running as it is; at its next start: {fields}", warning=True))
