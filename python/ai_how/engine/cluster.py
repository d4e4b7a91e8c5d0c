"""What can be done with a cluster: `up`, `down`, `destroy`, `status`. Each walks the one path as far as it needs."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from ai_how.config.load import Document
from ai_how.engine.carry_out import carry_out
from ai_how.engine.discovery import leave_registered, settle
from ai_how.engine.drift import as_made
from ai_how.engine.events import Note, Phase, Planned, Progress, silent
from ai_how.engine.guard import guarded, order_for, refuse_irreversible
from ai_how.engine.hostwide import refuse_without_root, say_obstacles, say_ways_back, shared, wanted_of_host
from ai_how.engine.observe import Observed, observe
from ai_how.engine.pending import refuse_unconfirmed
from ai_how.engine.prepare import check, foresee, observe_awake, prepare, refuse_stale, refuse_without_consent
from ai_how.engine.readiness import Readiness
from ai_how.engine.site import Site as Site  # what every verb takes
from ai_how.engine.state import State, open_state
from ai_how.engine.status import ClusterStatus, read_status
from ai_how.engine.wait import leases
from ai_how.errors import HostError
from ai_how.host import dhcp
from ai_how.host.libvirt import Libvirt
from ai_how.host.lock import held
from ai_how.plan.plan import Plan, Step, make_plan
from ai_how.providers import domain as domains
from ai_how.providers import network as networks
from ai_how.providers import pool as pools
from ai_how.resources.base import Impact, Resource
from ai_how.resources.domain import Domain
from ai_how.resources.network import VirtualNetwork
from ai_how.spec.cluster import Cluster

#: Seconds that a verb waits for the leases of all nodes, and for a graceful end of all machines.
LEASES_WITHIN = 300.0
SHUTDOWN_WITHIN = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a verb did: the steps it took (none where nothing differed) and the cluster afterwards.

    `confirm_within`: seconds after which the change is undone unless it is confirmed; None where it stays.
    """

    steps: tuple[Step, ...]
    status: ClusterStatus
    confirm_within: float | None = None

    @property
    def changed(self) -> bool:
        """Whether anything was done."""
        return bool(self.steps)


def up(
    site: Site,
    document: Document,
    key: str,
    *,
    start: bool = True,
    remove_nodes: bool = False,
    disturb_nodes: bool = False,
    expect: str | None = None,
    confirm_within: float | None = None,
    wait: bool = True,
    within: float = LEASES_WITHIN,
) -> Outcome:
    """Make the cluster run as configured, and wait until each of its nodes has its lease (`wait`, `within` seconds).

    `key` is that of one of the document's clusters, which spec/resolve.py has found to be valid in itself.

    Without `start` machines are defined only; one that runs already keeps running. A plan that removes nodes with their
    disks is refused without `remove_nodes` (NodesLeave), one that disturbs running nodes without `disturb_nodes`
    (NodesDisturbed), and any other plan than the one with the digest `expect`, where that is given (PlanStale).

    With `confirm_within` a change is undone by itself unless it is confirmed so many seconds after this has returned
    (engine/guard.py), at once where nodes stop answering, and also where it ends here with an error but NotReady.

    Raises ConfigurationError, NotOurs, UnsafeChange or HostError before anything is changed; HostError or Interrupted
    after undoing what this run made; NotReady, leaving the machines as they are.
    """
    libvirt, progress = site.libvirt, site.progress
    name = document.model.clusters[key].name
    with open_state(site.state) as state, held(libvirt.uri, name), ExitStack() as guards:
        refuse_unconfirmed(libvirt.uri, name)
        with shared(progress):
            _continue(site, state, name)
            if expect is not None:
                # As `plan` looked, which wakes no pool.
                refuse_stale(foresee(libvirt, document, [key], start=start, progress=silent)[0], expect)
            awake = observe_awake(libvirt, name)
            ready = prepare(libvirt, document, key, start=start, observed=awake, progress=progress)
            spec, plan, observed = ready.spec, ready.plan, ready.observed
            if plan:
                refuse_without_root(name, plan)
                check(libvirt, document, ready, progress)
                if confirm_within is not None:
                    refuse_irreversible(name, plan)
                progress(Planned(name, plan))
                refuse_without_consent(name, plan, remove_nodes=remove_nodes, disturb_nodes=disturb_nodes)
            readiness = Readiness(libvirt, ready)
            if plan:
                guard = None
                if confirm_within is not None:
                    order = order_for(site, name, observed, ready.want, confirm_within)
                    guard = guards.enter_context(guarded(site, state, order))
                watching = replace(site, progress=readiness.watch(progress))
                observed = carry_out(watching, state, "up", name, plan, lambda _: ready.want)
                if guard is not None:
                    guard.changed = True
                _say_pending(plan, progress)
                _release_departed(libvirt, plan, observed)
            settle(observed, progress)
            say_ways_back(spec, progress)
            say_obstacles(libvirt, spec, observed.host, progress)
            state.remember(name, libvirt.uri)
            state.finish(name)
        readiness.verify_traffic(progress)
        for node in sorted(domains.paused(libvirt) & {each.name for each in observed.domains}):
            progress(Note(f"{node} is paused and stays so; let it go on: virsh resume {node}", warning=True))
        if wait:
            readiness.wait(within, progress)
            if plan:
                observed = observe(libvirt, name)
        return Outcome(plan.steps, read_status(libvirt, name, observed), confirm_within if plan else None)


def down(site: Site, name: str, *, within: float = SHUTDOWN_WITHIN) -> Outcome:
    """Stop the cluster's machines, gracefully within so many seconds and then by force, and its network.

    Everything stays defined: disks, addresses, names. A cluster that is not there is no error.
    """
    libvirt, progress = site.libvirt, site.progress
    with open_state(site.state) as state, held(libvirt.uri, name):
        refuse_unconfirmed(libvirt.uri, name)
        _continue(site, state, name)
        observed = observe(libvirt, name)
        plan = make_plan(_at_rest(observed, name), observed.everything)
        if plan:
            refuse_without_root(name, plan)
            site.progress(Planned(name, plan))
            state.begin(name, libvirt.uri, "down", plan)
            running = [each.name for each in observed.domains if each.running]
            progress(Phase("shut down", len(running)))
            for each in observed.domains:
                if not each.saved:  # it would be gone with its power
                    domains.change(libvirt, each, replace(each, saved=True))
            stubborn = domains.shut_down(libvirt, running, within=within)
            if stubborn:
                progress(Note(f"powered off after {within:g} s: {', '.join(stubborn)}", warning=True))
            with shared(progress):
                have = observe(libvirt, name)
                rest = make_plan(_at_rest(have, name), have.everything)
                observed = carry_out(site, state, "down", name, rest, lambda now: _at_rest(now, name))
            state.finish(name)
        return Outcome(plan.steps, read_status(libvirt, name, observed))


def mend(site: Site, name: str) -> Outcome:
    """Bring what the host has of the cluster, and what it has outside libvirt for it, back to what it was made as.

    Nothing is made that is gone: that takes the configuration. Nodes that run keep running, those that do not stay off.
    Raises UnsafeChange where only the configuration says what is right, RootNeeded, HostError.
    """
    libvirt = site.libvirt
    with open_state(site.state) as state, held(libvirt.uri, name), shared(site.progress):
        refuse_unconfirmed(libvirt.uri, name)
        _continue(site, state, name)
        was_there = name in state.clusters
        observed = observe_awake(libvirt, name)
        mended = as_made(observed)
        want = (*mended, *wanted_of_host(observed, name, mended))
        plan = make_plan(want, observed.everything)
        if plan:
            refuse_without_root(name, plan)
            site.progress(Planned(name, plan))
            observed = carry_out(site, state, "mend", name, plan, lambda _: want)
            if was_there:
                state.finish(name)
            else:
                state.forget(name)
        return Outcome(plan.steps, read_status(libvirt, name, observed))


def destroy(site: Site, name: str) -> Outcome:
    """Remove the cluster's machines, disks and network, and nothing else. One that is not there is no error."""
    libvirt = site.libvirt
    with open_state(site.state) as state, held(libvirt.uri, name), shared(site.progress):
        refuse_unconfirmed(libvirt.uri, name)
        _continue(site, state, name)
        observed = observe_awake(libvirt, name)
        leave_registered(observed, name, site.progress)
        want = wanted_of_host(observed, name, ())
        plan = make_plan(want, observed.everything)
        if plan:
            refuse_without_root(name, plan)
            site.progress(Planned(name, plan))
            observed = carry_out(site, state, "destroy", name, plan, lambda _: want)
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


def _at_rest(observed: Observed, name: str) -> tuple[Resource, ...]:
    """The same cluster, stopped, and what the host then needs for all of them."""
    stopped: list[Resource] = []
    for each in observed.resources:
        if isinstance(each, Domain):
            stopped.append(replace(each, running=False, saved=True))
        elif isinstance(each, VirtualNetwork):
            stopped.append(replace(each, active=False, autostart=False))
        else:
            stopped.append(each)
    return (*stopped, *wanted_of_host(observed, name, stopped))


def _release_departed(libvirt: Libvirt, plan: Plan, observed: Observed) -> None:
    """Have DHCP forget nodes that this plan removed, as it would their names and addresses, until their leases end.

    Those with a reservation went with it; what is left are those whose address was DHCP's choice.
    """
    network = observed.network
    gone = {step.have.mac for step in plan.steps if step.want is None and isinstance(step.have, Domain)}
    if network is None or not gone:
        return
    for each in leases(libvirt, network.name):
        if each.mac in gone:
            with suppress(HostError):  # it ends by itself
                dhcp.release(network.bridge, network.gateway, each.ip, each.mac)


def _continue(site: Site, state: State, name: str) -> None:
    """Where the last run was killed: say so, and let libvirt end what it was asked for then."""
    record = state.clusters.get(name)
    if record is not None and record.run is not None:
        run = record.run
        site.progress(Note(f"`{run.verb}` of {run.started} was cut off; continuing from what the host has"))
        domains.until_done(site.libvirt)


def _say_pending(plan: Plan, progress: Progress) -> None:
    """Name the running machines whose new definition waits for their next start."""
    for step in plan.steps:
        if step.have is not None and isinstance(step.want, Domain) and step.have.up and step.impact is Impact.RESTART:
            fields = ", ".join(f"{each.field} {each.old} → {each.new}" for each in step.fields)
            progress(Note(f"{step.target.key} keeps running as it is; at its next start: {fields}", warning=True))
