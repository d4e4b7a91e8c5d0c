"""The host outside libvirt: what it needs for all of its clusters, and what must be true before it is changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from ai_how.compile.host import Surroundings, compile_host, declared
from ai_how.config.load import Document
from ai_how.engine.events import Note, Progress
from ai_how.engine.observe import Observed
from ai_how.errors import ConfigurationError, HostError, RootNeeded
from ai_how.host.lock import host_held
from ai_how.host.memory import is_root
from ai_how.host.ports import list_listeners, read_listeners
from ai_how.host.routes import find_way, list_routes, read_uplinks, return_routes
from ai_how.plan.plan import Plan, Step
from ai_how.plan.text import line
from ai_how.resources.base import OF_THE_HOST, Resource
from ai_how.resources.firewall import FirewallTable
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.passage import Passage
from ai_how.resources.resolver import ResolverRoute
from ai_how.spec.cluster import Cluster
from ai_how.spec.neighbours import Neighbour, problems_with
from ai_how.spec.network import DnsMode
from ai_how.spec.policy import Exposure, Port

#: An address of the internet (RFC 5737: for documentation), to ask for the way out.
_ANYWHERE = IPv4Address("198.51.100.1")


@contextmanager
def shared(progress: Progress) -> Iterator[None]:
    """Nobody else changes what clusters share while the block lasts."""

    def waiting() -> None:
        progress(Note("another ai-how is changing this host; waiting for it to end"))

    with host_held(waiting):
        yield


def wanted_of_host(observed: Observed, cluster: str, want: Iterable[Resource]) -> tuple[Resource, ...]:
    """What the host needs once `cluster` has what `want` says, and every other cluster what it has now.

    Without root nothing of it can be made, and not all of it can be looked at: a cluster that has no part in it leaves
    it alone, and for the others what was applied last counts as the host's surroundings.
    """
    mine = [each for each in want if isinstance(each, VirtualNetwork)]
    after = [each for each in observed.networks if each.cluster and each.cluster != cluster] + mine
    if is_root():
        # TEMPORARY: until every provider is there
        from ai_how.providers import PROVIDERS

        return tuple(each for each in compile_host(after, _surroundings(after)) if each.kind in PROVIDERS)
    before = [] if observed.network is None else [observed.network]
    if any(each.policy.firewall.enabled for each in (*before, *mine)):
        return compile_host(after, _as_applied(observed.host))
    return observed.host


def _surroundings(networks: Collection[VirtualNetwork]) -> Surroundings:
    """What the host has around its clusters; nothing is asked where there are none."""
    if not networks:
        return Surroundings()
    ways = [find_way(each) for each in declared(networks)]
    uplinks = {*read_uplinks(list_routes()), *(way.link for way in ways if way is not None)}
    bridges = {each.bridge for each in networks}
    return Surroundings(uplinks=tuple(sorted(uplinks - bridges)))


def _as_applied(host: Iterable[Resource]) -> Surroundings:
    """The surroundings that `host` was computed from."""
    around = Surroundings()
    for each in host:
        match each:
            case FirewallTable():
                around = Surroundings(each.uplinks, around.resolver, around.passage)
            case ResolverRoute():
                around = Surroundings(around.uplinks, each.manager, around.passage)
            case Passage():
                around = Surroundings(around.uplinks, around.resolver, each.chain)
            case _:
                pass
    return around


def outside_libvirt(plan: Plan) -> tuple[Step, ...]:
    """The steps of `plan` that change the host outside libvirt."""
    return tuple(step for step in plan.steps if step.target.kind in OF_THE_HOST)


def refuse_without_root(cluster: str, plan: Plan) -> None:
    """Raise RootNeeded where `plan` changes the host outside libvirt and we may not."""
    steps = outside_libvirt(plan)
    if steps and not is_root():
        raise RootNeeded(cluster, [line(step) for step in steps])


def refuse_neighbours(document: Document, spec: Cluster, observed: Observed) -> None:
    """Raise ConfigurationError where another cluster of the host, from whatever file, cannot stand beside `spec`."""
    others = [_neighbour(each) for each in observed.networks if each.cluster and each.dns_mode in set(DnsMode)]
    problems = [document.problem(each.path, each.message, each.hint) for each in problems_with(spec, others)]
    if problems:
        raise ConfigurationError(problems)


def _neighbour(network: VirtualNetwork) -> Neighbour:
    policy = network.policy
    return Neighbour(
        cluster=network.cluster,
        mode=DnsMode(network.dns_mode),
        domain=network.domain,
        subnet=network.subnet,
        gateway=network.gateway,
        host_ports=tuple(each.host for each in policy.firewall.expose),
        routes=tuple(each.to for each in policy.routes),
        allow_from=policy.firewall.allow_from,
    )


def refuse_taken_ports(plan: Plan) -> None:
    """Raise HostError where a port of the host that `plan` exposes a node on is somebody's already."""
    new: dict[Port, Exposure] = {}
    for step in plan.steps:
        if isinstance(step.want, FirewallTable):
            before = _exposures(step.have) if isinstance(step.have, FirewallTable) else {}
            new = {port: each for port, each in _exposures(step.want).items() if port not in before}
    for listener in read_listeners(list_listeners()) if new else ():
        if (each := new.get(listener.port)) is not None:
            port = f"{each.host.number}/{each.host.protocol}"
            raise HostError(
                f"port {port} of this host cannot lead to {each.node}",
                why=f"{listener.program or 'a program'} listens on it, and would no longer be reached",
                remedy="Choose another host_port under network.firewall.expose, or end that program.",
            )


def _exposures(table: FirewallTable) -> dict[Port, Exposure]:
    return {each.host: each for cluster in table.clusters for each in cluster.expose}


def say_ways_back(spec: Cluster, progress: Progress) -> None:
    """Say which routes the machines outside need to answer the nodes of a routed cluster."""
    policy, network = spec.network.policy, spec.network
    if network.dns_mode is not DnsMode.ROUTED:
        return
    outside = [each.via or each.to for each in policy.routes if each.via is None or each.via not in network.subnet]
    ways = [way for target in outside if (way := find_way(target)) is not None]
    if not policy.nat and (way := find_way(_ANYWHERE)) is not None:
        ways.append(way)
    for command in return_routes([network.subnet], ways):
        progress(Note(f"for answers to {spec.name}, the routers outside need: {command}"))
