"""The host outside libvirt: what it needs for all of its clusters, and what must be true before it is changed."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address

from ai_how.compile.host import Surroundings, compile_host, declared
from ai_how.config.load import Document
from ai_how.config.terms import HostResolver
from ai_how.engine.events import Note, Progress
from ai_how.engine.observe import Observed
from ai_how.errors import ConfigurationError, HostError, RootNeeded
from ai_how.host import daemon, foreign_firewalls, iptables, resolver
from ai_how.host.libvirt import Libvirt
from ai_how.host.libvirt_chains import make_chains
from ai_how.host.lock import host_held
from ai_how.host.memory import is_root, tidy
from ai_how.host.ports import list_listeners, read_listeners
from ai_how.host.routes import find_way, list_routes, read_uplinks, return_routes
from ai_how.plan.plan import Plan, Step
from ai_how.plan.text import line
from ai_how.providers.hook import hook_known
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

#: From this version on libvirt has a second backend, for nftables.
_TWO_BACKENDS = 10_004_000

_HOOK_UNKNOWN = (
    "libvirt does not know our hook yet: what a restart of a network loses is put back by the next up only\n"
    "until its daemon is reloaded, which machines do not notice: systemctl reload libvirtd"
)


@contextmanager
def shared(progress: Progress) -> Iterator[None]:
    """Nobody else changes what clusters share while the block lasts.

    Raises HostError in another network namespace than libvirt's.
    """
    daemon.refuse_elsewhere("the host was not changed")

    def waiting() -> None:
        progress(Note("another ai-how is changing this host; waiting for it to end"))

    with host_held(waiting):
        if is_root():
            tidy()
        yield


def wanted_of_host(observed: Observed, cluster: str, want: Iterable[Resource]) -> tuple[Resource, ...]:
    """What the host needs once `cluster` has what `want` says, and every other cluster what it has now.

    Without root nothing of it can be made, and not all of it can be looked at: a cluster that has no part in it leaves
    it alone, and for the others what was applied last counts as the host's surroundings.
    """
    mine = [each for each in want if isinstance(each, VirtualNetwork)]
    after = [each for each in observed.networks if each.cluster and each.cluster != cluster] + mine
    before = [] if observed.network is None else [observed.network]
    if is_root() or any(each.policy.firewall.enabled for each in (*before, *mine)):
        return needed_for(after, observed.host)
    return observed.host


def needed_for(networks: Collection[VirtualNetwork], host: Iterable[Resource]) -> tuple[Resource, ...]:
    """What the host needs for these networks of ours, while it has `host`."""
    return compile_host(networks, _surroundings(networks) if is_root() else _as_applied(host))


def _surroundings(networks: Collection[VirtualNetwork]) -> Surroundings:
    """What the host has around its clusters; nothing is asked where there are none."""
    if not any(each.policy.firewall.enabled for each in networks):
        return Surroundings()
    ways = [find_way(each) for each in declared(networks)]
    uplinks = {*read_uplinks(list_routes()), *(way.link for way in ways if way is not None)}
    return Surroundings(
        uplinks=tuple(sorted(uplinks - {each.bridge for each in networks})),
        resolver=_detected(networks) or HostResolver.NONE,
        passages=iptables.passage_chains(iptables.read_rules(iptables.list_rules())),
    )


def _detected(networks: Iterable[VirtualNetwork]) -> HostResolver | None:
    """What resolves names on the host, where a cluster wants to know; None where nothing does that we can tell."""
    wish = (DnsMode.SHARED_DNS, HostResolver.AUTO)
    return resolver.detect().manager if any((n.dns_mode, n.policy.host_resolver) == wish for n in networks) else None


def _as_applied(host: Iterable[Resource]) -> Surroundings:
    """The surroundings that `host` was computed from."""
    around = Surroundings()
    for each in host:
        match each:
            case FirewallTable():
                around = replace(around, uplinks=each.uplinks)
            case ResolverRoute():
                around = replace(around, resolver=each.manager)
            case Passage():
                around = replace(around, passages=(*around.passages, each.chain))
            case _:
                pass
    return around


def renew_libvirts_rules(libvirt: Libvirt, progress: Progress) -> None:
    """Have libvirt make its own firewall rules anew; where it has iptables as its only backend, in chains that are made
    for it if somebody flushed them, too.

    Raises HostError where no daemon runs.
    """
    pid = daemon.find()
    if pid is None:
        raise HostError(
            "libvirt's rules are not made anew",
            why="no libvirt daemon runs",
            remedy="Start it: systemctl start libvirtd",
        )
    with libvirt.doing("cannot ask libvirt for its version"):
        version = libvirt.connection.getLibVersion()
    with shared(progress):
        if version < _TWO_BACKENDS:
            make_chains()
        daemon.reload(pid)


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
        vias=tuple(each.via for each in policy.routes),
        allow_from=policy.firewall.allow_from,
    )


def refuse_unknown_resolver(spec: Cluster) -> None:
    """Raise HostError where the cluster's names shall resolve on the host, and nothing there can be told of them."""
    network, wish = spec.network, spec.network.policy.host_resolver
    if network.dns_mode is not DnsMode.SHARED_DNS or not is_root():
        return
    if wish is HostResolver.AUTO and (found := resolver.detect()).manager is None:
        raise resolver.unknown(found.why)
    if wish is HostResolver.SYSTEMD_RESOLVED and shutil.which("resolvectl") is None:
        raise resolver.unknown(f"network.host_resolver is {wish}, and there is no resolvectl to tell it with")


def refuse_taken_ports(plan: Plan) -> None:
    """Raise HostError where a port of the host that `plan` exposes a node on is somebody's already."""
    new: dict[Port, Exposure] = {}
    ours: set[str] = set()
    for step in plan.steps:
        if isinstance(step.want, FirewallTable):
            before = _exposures(step.have) if isinstance(step.have, FirewallTable) else {}
            new = {port: each for port, each in _exposures(step.want).items() if port not in before}
            # No port leads from a gateway to a node: clusters' own servers go on.
            ours = {name for each in step.want.clusters for name in (each.bridge, str(each.gateway))}
    for listener in read_listeners(list_listeners(), ours) if new else ():
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


def say_obstacles(libvirt: Libvirt, spec: Cluster, host: Iterable[Resource], progress: Progress) -> None:
    """Say what on this host would still stop the cluster's packets, or its rules from coming back, and what helps."""
    if not is_root() or not spec.network.policy.firewall.enabled:
        return
    around = _as_applied(host)
    seen = foreign_firewalls.look()
    bridge, ports = spec.network.bridge, spec.network.policy.firewall.allow_host_ports
    for each in foreign_firewalls.obstacles(
        seen, [bridge], uplinks=around.uplinks, passages=around.passages, ports={bridge: ports}
    ):
        progress(Note(f"{each.what}: {each.why}\n{each.remedy}", warning=True))
    if not hook_known(libvirt):
        progress(Note(_HOOK_UNKNOWN, warning=True))
