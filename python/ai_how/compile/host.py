"""What the host itself must have for all of its clusters: rules, settings, routes, resolver entries.

It is computed from every network of ours that the host has, whoever brought it up: each carries its policy in its mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from ai_how.compile.dns_modes.service_discovery import consul_server
from ai_how.compile.hook import HOOK
from ai_how.compile.zones import reverse_zones
from ai_how.config.fields import BRIDGE_PATTERN, LABEL_PATTERN, MAC_PATTERN, MAX_PREFIX, MIN_PREFIX, show
from ai_how.config.terms import HostResolver
from ai_how.errors import HostError
from ai_how.resources.base import Resource
from ai_how.resources.firewall import ClusterRules, FirewallTable
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.passage import Passage
from ai_how.resources.resolver import ResolverRoute
from ai_how.resources.route import HostRoute
from ai_how.resources.servers import Servers
from ai_how.resources.sysctl import FORWARDING, Sysctl
from ai_how.spec.naming import network_name
from ai_how.spec.neighbours import SOCIAL
from ai_how.spec.network import DnsMode
from ai_how.spec.policy import Discovery


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What of the host decides about these resources.

    `uplinks`: the links of its default routes, sorted. `resolver`: what resolves names on it, `none` where nothing does
    that we know. `passages`: the chains of iptables in which our bridges must be accepted, because they drop else.
    """

    uplinks: tuple[str, ...] = ()
    resolver: HostResolver = HostResolver.NONE
    passages: tuple[str, ...] = ()


def compile_host(networks: Iterable[VirtualNetwork], around: Surroundings) -> tuple[Resource, ...]:
    """Everything that must exist outside libvirt for `networks`, but for those that are not ours or want no rules.

    Raises HostError where one of ours was edited to say what we never write.
    """
    ours = sorted((each for each in networks if each.cluster), key=lambda each: each.cluster)
    for each in ours:
        _refuse_edited(each)
    guarded = [each for each in ours if each.policy.firewall.enabled]
    return tuple(_resources(guarded, ours, around)) if guarded else ()


def _refuse_edited(network: VirtualNetwork) -> None:
    """Whoever may use libvirt may edit a network; what root makes of it goes into other programs' files and rules."""
    wrong = [
        f"its {field} is {show(value)}"
        for field, value, right in (
            ("cluster", network.cluster, re.fullmatch(LABEL_PATTERN, network.cluster)),
            ("name", network.name, network.name == network_name(network.cluster)),
            ("bridge", network.bridge, re.fullmatch(BRIDGE_PATTERN, network.bridge)),
            ("domain", network.domain, all(re.fullmatch(LABEL_PATTERN, each) for each in network.domain.split("."))),
            ("subnet", network.subnet, MIN_PREFIX <= network.subnet.prefixlen <= MAX_PREFIX),
        )
        if not right
    ]
    if wrong:
        raise HostError(
            f"network {show(network.name)} is not as ai-how makes it",
            why=f"{'; '.join(wrong)}: somebody edited it",
            remedy="Bring its cluster up again, or remove it: ai-how destroy.",
        )


def _resources(
    guarded: Sequence[VirtualNetwork], ours: Sequence[VirtualNetwork], around: Surroundings
) -> Iterator[Resource]:
    yield Sysctl(FORWARDING, "1")
    yield FirewallTable(tuple(_rules(each, guarded) for each in guarded), around.uplinks, intact=True)
    for chain in around.passages:
        yield Passage(chain, tuple(sorted(each.bridge for each in guarded)))
    yield HOOK
    for each in guarded:
        yield Servers(each.name, tuple(sorted(_lines(each, ours))), tuple(_options(each)))
        yield from _routes(each)
        if (resolver := _resolver(each, around)) is not None:
            yield resolver


def _peers(network: VirtualNetwork, ours: Iterable[VirtualNetwork]) -> list[VirtualNetwork]:
    """The networks that `network` is one with: those of its mode that are to be up."""
    if network.dns_mode not in SOCIAL or not _present(network):
        return []
    return [each for each in ours if each != network and each.dns_mode == network.dns_mode and _present(each)]


def _present(network: VirtualNetwork) -> bool:
    """Whether it is up, or would be after a restart of the host: `down` ends both."""
    return network.active or network.autostart


def _rules(network: VirtualNetwork, ours: Iterable[VirtualNetwork]) -> ClusterRules:
    policy = network.policy
    direct = tuple(sorted(each.to for each in policy.routes))
    behind = tuple(sorted(each.to for each in policy.routes if each.via is not None and each.via in network.subnet))
    return ClusterRules(
        cluster=network.cluster,
        bridge=network.bridge,
        subnet=network.subnet,
        gateway=network.gateway,
        # libvirt also takes reservations by name alone.
        macs=tuple(sorted(each.mac for each in network.reservations if re.fullmatch(MAC_PATTERN, each.mac))),
        masquerade=policy.nat,
        direct=direct,
        behind=behind,
        peers=tuple(sorted(each.bridge for each in _peers(network, ours))),
        allow_host_ports=policy.firewall.allow_host_ports,
        block_networks=policy.firewall.block_networks,
        egress=policy.firewall.egress,
        allow_networks=policy.firewall.allow_networks,
        expose=policy.firewall.expose,
        allow_from=tuple(sorted({*policy.firewall.allow_from, *direct})),
    )


def _lines(network: VirtualNetwork, ours: Iterable[VirtualNetwork]) -> Iterator[str]:
    """dnsmasq's lines for what its own zones do not answer: the servers outside, Consul, the zones of other clusters.

    A peer's are asked of its gateway. All others are nobody's (an empty server): what is asked about them is denied
    here, and does not leave the host.
    """
    for server in network.upstream:
        yield f"server={server}"
    if network.dns_mode == DnsMode.SERVICE_DISCOVERY:
        yield consul_server(network.policy.discovery or Discovery(service_name=network.cluster))
    peers = _peers(network, ours)
    for other in ours:
        if other != network:
            for zone in zones(other):
                yield f"server=/{zone}/{other.gateway if other in peers else ''}"


def _options(network: VirtualNetwork) -> Iterator[str]:
    """What DHCP says to its nodes that may change under them."""
    if network.dns_servers:
        yield f"option:dns-server,{','.join(network.dns_servers)}"


def zones(network: VirtualNetwork) -> tuple[str, ...]:
    """The zones that the gateway of `network` answers for."""
    return (network.domain, *reverse_zones(network.subnet))


def _routes(network: VirtualNetwork) -> Iterator[HostRoute]:
    for each in network.policy.routes:
        if each.via is not None:
            yield HostRoute(each.to, each.via, network.name if each.via in network.subnet else "")


def _resolver(network: VirtualNetwork, around: Surroundings) -> ResolverRoute | None:
    if network.dns_mode != DnsMode.SHARED_DNS or not _present(network):
        return None
    wish = network.policy.host_resolver
    manager = around.resolver if wish is HostResolver.AUTO else wish
    if manager is HostResolver.NONE:
        return None
    return ResolverRoute(network.name, network.bridge, manager, network.gateway, tuple(sorted(zones(network))))


def declared(networks: Iterable[VirtualNetwork]) -> tuple[IPv4Network, ...]:
    """The networks that any cluster declares a route to."""
    return tuple(sorted({each.to for network in networks if network.cluster for each in network.policy.routes}))
