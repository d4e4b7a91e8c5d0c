"""What a cluster allows must fit its mode, its subnet and itself: the rules for firewall, routes and service discovery.

As in spec/rules.py, each rule is one generator over what it needs. What several clusters must not do to each other is
in spec/neighbours.py.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from ai_how.config.model import DiscoveryConfig, FirewallConfig
from ai_how.config.terms import DnsMode, Egress, Protocol
from ai_how.errors import Path, Problem, some
from ai_how.spec.addressing import hosts
from ai_how.spec.naming import domain_name
from ai_how.spec.neighbours import SOCIAL, Clash, Neighbour, clashes, shared_clashes
from ai_how.spec.policy import Port
from ai_how.spec.rules import View, did_you_mean

EVERYTHING = IPv4Network("0.0.0.0/0")
_SSH = (22, Protocol.TCP)
#: More networks than a hint can list.
_MANY = 8


def policy(view: View) -> Iterator[Problem]:
    """All rules of one cluster's policy."""
    if (*view.network, "dns_mode") not in view.document.broken:
        yield from _mode(view)
    yield from _routes(view)
    firewall = view.config.network.firewall
    if firewall is not None and firewall.enabled:
        yield from _firewall(view, firewall)
    discovery = view.config.network.service_discovery
    if discovery is not None:
        yield from _discovery(view, discovery)


def gateway_of(view: View) -> IPv4Address:
    """The gateway, given or not (spec/addressing.py, rule 1)."""
    return view.config.network.gateway_ip or IPv4Address(hosts(view.subnet)[0])


# ---- what a mode has --------------------------------------------------------------------------------------------


def _mode(view: View) -> Iterator[Problem]:
    network, mode = view.config.network, view.config.network.dns_mode
    if mode is not DnsMode.ROUTED:
        hint = f"set dns_mode: {DnsMode.ROUTED}, or leave it out"
        if not network.nat:
            message = f"a cluster in mode {mode} reaches the outside through NAT only"
            yield view.error((*view.network, "nat"), message, hint)
        if network.routes:
            message = f"a cluster in mode {mode} has no routes"
            yield view.error((*view.network, "routes"), message, hint, at_key=True)
    if mode is not DnsMode.SHARED_DNS and "host_resolver" in network.model_fields_set:
        message = f"host_resolver has no effect in mode {mode}: the host is told of no names"
        hint = f"leave it out, or set dns_mode: {DnsMode.SHARED_DNS}"
        yield view.warning((*view.network, "host_resolver"), message, hint)
    if mode is DnsMode.SERVICE_DISCOVERY:
        domain = domain_name(view.config)
        if domain.split(".")[-1] == "consul":
            message = f"the domain {domain} would hide Consul's own names"
            yield view.error((*view.network, "domain"), message, f"write for example {view.config.name}.internal")
    elif network.service_discovery is not None:
        message = f"a cluster in mode {mode} has no service discovery"
        hint = f"set dns_mode: {DnsMode.SERVICE_DISCOVERY}, or leave it out"
        yield view.error((*view.network, "service_discovery"), message, hint, at_key=True)
    if network.firewall is not None and not network.firewall.enabled:
        yield from _unprotected(view, network.firewall, mode)


def _unprotected(view: View, firewall: FirewallConfig, mode: DnsMode) -> Iterator[Problem]:
    path = (*view.network, "firewall")
    if mode in SOCIAL:
        message = f"mode {mode} is made of firewall rules: it cannot be without them"
        yield view.error((*path, "enabled"), message, f"leave it out, or set dns_mode: {DnsMode.ISOLATED}")
        return
    for name in (name for name in FirewallConfig.model_fields if name in firewall.model_fields_set - {"enabled"}):
        message = f"`{name}` has no effect where `enabled` is false"
        yield view.error((*path, name), message, "leave it out, or leave out `enabled: false`", at_key=True)
    message = (
        "with libvirt's rules alone, nodes reach every service of the host, and other clusters' gateways; "
        "nobody stops a false DHCP server or sender"
    )
    yield view.warning((*path, "enabled"), message, "docs/modes/isolated.md says what stays open; or leave it out")


# ---- routes -----------------------------------------------------------------------------------------------------


def _routes(view: View) -> Iterator[Problem]:
    seen: dict[IPv4Network, int] = {}
    for i, route in enumerate(view.config.network.routes):
        path = (*view.network, "routes", i)
        first = seen.setdefault(route.to, i)
        wrong = _no_destination(view, route.to)
        if wrong is not None:
            yield view.error((*path, "to"), *wrong)
        elif first != i:
            yield view.error((*path, "to"), f"there are two routes to {route.to}", "keep one of them")
        if route.via is not None:
            yield from _router(view, (*path, "via"), route.to, route.via)


def _no_destination(view: View, to: IPv4Network) -> tuple[str, str] | None:
    if to == EVERYTHING:
        return "a route to everything would be the host's default route", "write the networks that you mean"
    if to.overlaps(view.subnet):
        same = "is" if to == view.subnet else "overlaps"
        return f"the route to {to} {same} the cluster's own subnet {view.subnet}", _without(to, view.subnet)
    for kind, name in (("is_loopback", "loopback"), ("is_multicast", "multicast"), ("is_link_local", "link-local")):
        if getattr(to, kind):
            return f"{to} is a {name} network: nothing is routed there (RFC 6890)", "write for example 10.50.0.0/16"
    if int(to.network_address) >> 24 == 0 or int(to.broadcast_address) >> 28 == 15:
        return f"{to} is reserved (RFC 6890)", "write for example 10.50.0.0/16"
    return None


def _router(view: View, path: Path, to: IPv4Network, via: IPv4Address) -> Iterator[Problem]:
    if via == gateway_of(view):
        hint = "leave `via` out where the host knows the way, or write the router behind it"
        yield view.error(path, f"{via} is the cluster's own gateway: the route would lead to itself", hint)
    elif via in to:
        hint = "leave `via` out where the host is in that network"
        yield view.error(path, f"the router {via} lies in {to}, to which it shall lead", hint)
    elif via in (view.subnet.network_address, view.subnet.broadcast_address):
        yield view.error(path, f"{via} is no host of {view.subnet}", "write the address of the router")
    elif via.is_loopback or via.is_multicast or via.is_unspecified or int(via) >> 28 == 15:
        yield view.error(path, f"{via} is not the address of a router", "write an address that the host reaches")


# ---- firewall ---------------------------------------------------------------------------------------------------


def _firewall(view: View, firewall: FirewallConfig) -> Iterator[Problem]:
    path = (*view.network, "firewall")
    yield from _blocked(view, firewall, path)
    yield from _egress(view, firewall, path)
    yield from _exposed(view, firewall, path)
    yield from _sources(view, firewall, path)
    yield from _direct_dns(view, firewall, path)
    routes = tuple(route.to for route in view.config.network.routes)
    blocked = tuple(collapse_addresses(firewall.block_networks))
    for at, networks in (
        ((*path, "allow_networks"), firewall.allow_networks),
        ((*path, "allow_from"), firewall.allow_from),
        ((*view.network, "routes"), routes),
    ):
        for i, network in enumerate(networks):
            wall = _overlapping(blocked, network)
            if wall is not None and EVERYTHING not in (network, wall):
                message = f"{network} overlaps {wall} in block_networks, which wins"
                yield view.warning((*at, i), message, "leave it out of one of the two")


def _overlapping(networks: Sequence[IPv4Network], wanted: IPv4Network) -> IPv4Network | None:
    """One of `networks`, sorted and apart from each other, that overlaps `wanted`: lists may be long."""
    at = bisect_right(networks, wanted.broadcast_address, key=lambda each: each.network_address)
    return networks[at - 1] if at and networks[at - 1].overlaps(wanted) else None


def _blocked(view: View, firewall: FirewallConfig, path: Path) -> Iterator[Problem]:
    for i, network in enumerate(firewall.block_networks):
        if network.overlaps(view.subnet):
            what = "is" if network == view.subnet else "overlaps"
            hint = "write egress: deny" if network == EVERYTHING else _without(network, view.subnet)
            message = f"{network} {what} the cluster's own subnet {view.subnet}: nodes would be cut off from each other"
            yield view.error((*path, "block_networks", i), message, hint)


def _egress(view: View, firewall: FirewallConfig, path: Path) -> Iterator[Problem]:
    if not firewall.allow_networks or (*path, "egress") in view.document.broken:
        return
    if firewall.egress is Egress.ALLOW:
        message = "allow_networks has no effect: with egress: allow everything may be reached"
        yield view.warning((*path, "allow_networks"), message, "write egress: deny, or leave it out", at_key=True)
    elif EVERYTHING in firewall.allow_networks:
        message = f"egress: deny with {EVERYTHING} allowed denies nothing"
        at = (*path, "allow_networks", firewall.allow_networks.index(EVERYTHING))
        yield view.warning(at, message, "write the networks that you mean")


def _exposed(view: View, firewall: FirewallConfig, path: Path) -> Iterator[Problem]:
    places = {place.name: place for place in view.places}
    whole = not {(*view.root, "controller"), (*view.root, "compute_nodes")} & view.document.broken
    used: dict[tuple[int, Protocol], str] = {}
    unknown = 0
    for i, each in enumerate(firewall.expose):
        at = (*path, "expose", i)
        place = places.get(each.node)
        if place is None and whole:
            unknown += 1
            hint = did_you_mean(each.node, [*places]) if unknown <= 3 else "see the names of the nodes above"
            yield view.error((*at, "node"), f"the cluster has no node {each.node}", hint)
        elif place is not None and place.dynamic:
            message = f"{each.node} takes whatever DHCP gives: no port can lead to it"
            yield view.error((*at, "node"), message, "leave out the word DHCP: the node gets a reserved address")
        port = (each.host_port, each.protocol)
        text = f"{each.host_port}/{each.protocol}"
        if port in used:
            message = f"port {text} of the host is exposed twice, to {used[port]} and to {each.node}"
            yield view.error((*at, "host_port"), message, "write another host_port")
        elif port == _SSH:
            message = f"port {text} of the host leads to {each.node}: the host's own SSH is not reached from outside"
            yield view.warning((*at, "host_port"), message, "write another host_port, for example 2222")
        used.setdefault(port, each.node)


def _sources(view: View, firewall: FirewallConfig, path: Path) -> Iterator[Problem]:
    for i, network in enumerate(firewall.allow_from):
        if network == EVERYTHING:
            message = "everybody outside may open connections to every port of every node"
            yield view.warning((*path, "allow_from", i), message, "write the networks that you mean")
        elif network.overlaps(view.subnet):
            same = "is" if network == view.subnet else "overlaps"
            message = f"{network} {same} the cluster's own subnet {view.subnet}, which is not outside"
            yield view.error((*path, "allow_from", i), message, _without(network, view.subnet))


def _direct_dns(view: View, firewall: FirewallConfig, path: Path) -> Iterator[Problem]:
    """Guests that ask servers themselves must reach them."""
    servers = view.config.network.dns_servers
    if servers is None or gateway_of(view) in servers:
        return
    asked = [server for server in servers if isinstance(server, IPv4Address)]
    hint = f"write the gateway {gateway_of(view)} into dns_servers: then it asks for the nodes"
    blocked = [str(server) for server in asked if any(server in net for net in firewall.block_networks)]
    if blocked:
        message = f"nodes ask {some(blocked)} themselves, and block_networks stops that"
        yield view.warning((*path, "block_networks"), message, hint, at_key=True)
    if firewall.egress is Egress.DENY:
        denied = [str(server) for server in asked if not any(server in net for net in firewall.allow_networks)]
        if denied:
            message = f"nodes ask {some(denied)} themselves, and egress: deny stops that"
            yield view.warning((*path, "egress"), message, f"{hint}, or add them to allow_networks")


def _without(network: IPv4Network, hole: IPv4Network) -> str:
    """How to say `network` without `hole`."""
    if network.subnet_of(hole):
        return "leave it out"
    parts = sorted(network.address_exclude(hole))
    if len(parts) > _MANY:
        return f"write networks that leave {hole} out, such as {parts[0]} and {parts[-1]}"
    return f"write the rest of it: [{', '.join(str(part) for part in parts)}]"


# ---- service discovery ------------------------------------------------------------------------------------------


def _discovery(view: View, discovery: DiscoveryConfig) -> Iterator[Problem]:
    path = (*view.network, "service_discovery")
    scheme, _, place = discovery.address.partition("://")
    check = discovery.check
    if check is not None and check.timeout > check.interval:
        message = f"a check of {check.timeout} s does not fit into {check.interval} s"
        at = "timeout" if "timeout" in check.model_fields_set else "interval"
        yield view.error((*path, "check", at), message, "write a timeout of at most the interval")
    tls = discovery.tls
    if tls is not None:
        for name, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
            both = {(*path, "tls", name), (*path, "tls", other)}
            if getattr(tls, name) is not None and getattr(tls, other) is None and not both & view.document.broken:
                message = f"`{name}` is given without `{other}`"
                yield view.error((*path, "tls", name), message, f"write {other}, too, or leave both out")
        if scheme == "http":
            message = f"tls has no effect: {discovery.address} is not encrypted"
            yield view.warning((*path, "tls"), message, "write address: https://…, or leave it out", at_key=True)
    if discovery.token_file is not None and scheme == "http" and not _local(place.partition(":")[0]):
        message = f"the ACL token crosses the network in clear text, to {discovery.address}"
        yield view.warning((*path, "token_file"), message, "write address: https://…")


def _local(host: str) -> bool:
    return host == "localhost" or IPv4Address(host).is_loopback


# ---- clusters of one file ---------------------------------------------------------------------------------------


def across(views: Sequence[View]) -> Iterator[Problem]:
    """What the clusters of one file must not do to each other."""
    known = [_facts(view) for view in views]
    for i, (view, one) in enumerate(zip(views, known, strict=True)):
        others = [other for other in known if other.cluster != one.cluster]
        earlier = [other for other in known[:i] if other.cluster != one.cluster]
        yield from _located(view, [*clashes(one, others), *shared_clashes(one, earlier)])


def _located(view: View, found: Iterable[Clash]) -> Iterator[Problem]:
    for clash in found:
        path = (*view.network, *clash.at)
        given = clash.at != ("domain",) or view.config.network.domain is not None
        yield view.error(path if given else (*view.root, "name"), clash.message, clash.hint)


def _facts(view: View) -> Neighbour:
    """What others must know of a cluster, in the order of its configuration."""
    network = view.config.network
    firewall = network.firewall or FirewallConfig.model_validate({})
    return Neighbour(
        cluster=view.config.name,
        mode=network.dns_mode,
        domain=domain_name(view.config),
        subnet=view.subnet,
        gateway=gateway_of(view),
        host_ports=tuple(Port(each.protocol, each.host_port) for each in firewall.expose),
        routes=tuple(route.to for route in network.routes),
        vias=tuple(route.via for route in network.routes),
        allow_from=firewall.allow_from,
        dns_servers=network.dns_servers or (),
    )
