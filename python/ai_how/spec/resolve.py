"""A Document and what the host knows → clusters with nothing left open."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from pathlib import Path as FilePath

from ai_how.config.load import Document
from ai_how.config.model import ClusterConfig, DiscoveryConfig, FirewallConfig
from ai_how.config.terms import AddressChoice, DnsMode
from ai_how.errors import ConfigurationError, Path, Problem, Severity, UsageError
from ai_how.spec import policy_rules, rules
from ai_how.spec.addressing import Space, Wanted, assign, assign_macs, derived_mac, space
from ai_how.spec.cluster import Cluster
from ai_how.spec.known import NOTHING_KNOWN, Known
from ai_how.spec.naming import Place, domain_name, network_name, places
from ai_how.spec.network import Network
from ai_how.spec.node import Node
from ai_how.spec.policy import Check, Discovery, Exposure, Firewall, Policy, Port, Route, Tls
from ai_how.spec.subnets import free_subnet, prefix_for

#: Public resolvers that answer beside the gateway where no DNS servers are given.
PUBLIC_DNS = (IPv4Address("8.8.8.8"), IPv4Address("1.1.1.1"))

_MIB = 1024 * 1024

#: One memory for all clusters of a file (its `subnet` counts for the one that is asked for, or where there is only
#: one), or one for each by its key.
Memory = Known | Mapping[str, Known]


@dataclass(frozen=True, slots=True)
class Examined:
    """What came out of a document: the clusters that are possible, and all problems in their order."""

    clusters: tuple[Cluster, ...]
    problems: tuple[Problem, ...]


def resolve(document: Document, cluster: str | None = None, *, known: Memory = NOTHING_KNOWN) -> Cluster:
    """One cluster: the one named by key or name, else the key `hpc`, else the only one.

    Raises ConfigurationError with every problem of the document, UsageError where there is no such cluster.
    """
    if isinstance(known, Known) and known.subnet is not None:
        keys = document.model.clusters
        chosen = choose([(key, config.name) for key, config in keys.items()], cluster) if keys else ""
        known = {key: known if key == chosen else replace(known, subnet=None) for key in keys}
    clusters = resolve_all(document, known=known)
    key = choose([(found.key, found.name) for found in clusters], cluster)
    return next(found for found in clusters if found.key == key)


def resolve_all(document: Document, *, known: Memory = NOTHING_KNOWN) -> tuple[Cluster, ...]:
    """Every cluster of the document, in its order. Raises ConfigurationError with every problem."""
    examined = examine(document, known=known)
    if any(problem.severity is Severity.ERROR for problem in examined.problems):
        raise ConfigurationError(examined.problems)
    return examined.clusters


def validate(document: Document, *, known: Memory = NOTHING_KNOWN, strict: bool = False) -> list[Problem]:
    """All problems in the order they stand in; with `strict` warnings count as errors."""
    problems = examine(document, known=known).problems
    return [replace(problem, severity=Severity.ERROR) if strict else problem for problem in problems]


def choose(clusters: Sequence[tuple[str, str]], wanted: str | None) -> str:
    """Of clusters as (key, name), the key of the one with that key or name, else `hpc`, else the only one.

    Raises UsageError.
    """
    keys = [key for key, _ in clusters]
    if (wanted or "hpc") in keys:
        return wanted or "hpc"
    for key, name in clusters:
        if name == wanted:
            return key
    if wanted is None and len(keys) == 1:
        return keys[0]
    listed = ", ".join(keys)
    if wanted is None:
        raise UsageError("no cluster was chosen", why=f"the configuration has {listed}", remedy="name one of them")
    names = [*keys, *(name for _, name in clusters)]
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]}?" if near else "name one of them"
    raise UsageError(f"there is no cluster {wanted!r}", why=f"the configuration has {listed}", remedy=remedy)


def examine(document: Document, *, known: Memory = NOTHING_KNOWN) -> Examined:
    """Resolve what can be resolved and collect every problem."""
    configs = document.model.clusters
    memories = _memories(configs, known)
    nodes = {key: places(key, config) for key, config in configs.items()}
    problems: list[Problem] = [*rules.across(document, configs, nodes)]
    clusters: list[Cluster] = []
    views: list[rules.View] = []
    used: list[tuple[IPv4Network, str]] = []
    spoken_for = [(key, config.network.subnet) for key, config in configs.items()]
    spoken_for += [(key, memory.subnet) for key, memory in memories.items() if memory.subnet is not None]
    for key, config in configs.items():
        memory = memories[key]
        found: list[Problem] = [*rules.node_names(document, key, config, nodes[key])]
        chosen = config.network.subnet
        net: IPv4Network | None
        if isinstance(chosen, AddressChoice):
            others = [*used, *((net, k) for k, net in spoken_for if isinstance(net, IPv4Network) and k != key)]
            net, problem = _free(document, key, config, nodes[key], memory, others)
            found += [problem] if problem else []
        else:
            net = chosen
        if net is not None:
            view = rules.View(document, key, config, nodes[key], net, memory)
            views.append(view)
            cluster, more = _cluster(view, used)
            found += more
            used.append((net, f"the cluster `{key}` of this configuration"))
            whole = not any(path[:2] == view.root for path in document.broken)
            if cluster is not None and whole and not any(p.severity is Severity.ERROR for p in found):
                clusters.append(cluster)
        problems += found
    problems += policy_rules.across(views)
    problems = [problem for problem in problems if not _false(document, problem.path)]
    return Examined(tuple(clusters), tuple(_in_order([*document.problems, *problems])))


def _memories(configs: Mapping[str, ClusterConfig], known: Memory) -> dict[str, Known]:
    if not isinstance(known, Known):
        return {key: known.get(key, NOTHING_KNOWN) for key in configs}
    shared = known if len(configs) == 1 else replace(known, subnet=None)
    return dict.fromkeys(configs, shared)


def _false(document: Document, path: Path) -> bool:
    """True for a problem of a value that only stands in for a wrong one, which was reported already."""
    return any(path[: len(broken)] == broken for broken in document.broken)


def _in_order(problems: Sequence[Problem]) -> list[Problem]:
    """As they stand in the file; without one, as they were found."""
    return sorted(problems, key=lambda p: (p.line or 0, p.column or 0))


def _free(
    document: Document,
    key: str,
    config: ClusterConfig,
    nodes: Sequence[Place],
    known: Known,
    used: Sequence[tuple[IPv4Network, str]],
) -> tuple[IPv4Network | None, Problem | None]:
    """The subnet of `subnet: auto`: the one the cluster has, else the first free one."""
    if known.subnet is not None:
        return known.subnet, None
    network = config.network
    path: Path = ("clusters", key, "network", "subnet")
    given: list[object] = [network.gateway_ip, network.dhcp_start, network.dhcp_end, *network.static_leases.values()]
    given += [getattr(place.config, "address", None) for place in nodes]
    if any(isinstance(address, IPv4Address) for address in given):
        first = next(address for address in given if isinstance(address, IPv4Address))
        hint = f"write the subnet, for example {IPv4Network((int(first) & ~0xFF, 24))}, or leave the addresses out"
        return None, document.problem(path, f"`auto` cannot promise the address {first}", hint)
    found = free_subnet(prefix_for(len(nodes)), [net for net, _ in (*used, *known.taken)])
    if found is None:
        return None, document.problem(path, "there is no free private subnet", "write a subnet in CIDR notation")
    return found, None


def _cluster(view: rules.View, used: Sequence[tuple[IPv4Network, str]]) -> tuple[Cluster | None, list[Problem]]:
    network = view.config.network
    problems = [*rules.subnet(view, used), *rules.gateway(view)]
    if not any(problem.path[-1] == "gateway_ip" for problem in problems):
        problems += rules.dhcp_range(view)
    fixed, wrong = rules.fixed_addresses(view)
    problems += wrong
    problems += [*rules.macs(view), *policy_rules.policy(view)]
    if any(problem.severity is Severity.ERROR for problem in problems):
        return None, problems
    gate, start, end = network.gateway_ip, network.dhcp_start, network.dhcp_end
    pool = space(
        view.subnet,
        gateway=None if gate is None else int(gate),
        start=None if start is None else int(start),
        end=None if end is None else int(end),
    )
    wanted = [_wanted(place, fixed) for place in view.places]
    known = {name: int(address) for name, address in view.known.addresses.items()}
    assigned = assign(pool, wanted, known)
    if not assigned.complete:
        open_end = replace(pool, end_given=False)
        return None, [*problems, *rules.enough_room(view, pool, assigned, assign(open_end, wanted, known))]
    by_name = dict(zip((place.name for place in view.places), assigned.addresses, strict=True))
    problems += rules.advice(view, pool, by_name)
    return _spec(view, pool, assigned.addresses, assigned.end), problems


def _wanted(place: Place, fixed: Mapping[str, rules.Fixed]) -> Wanted:
    given = fixed.get(place.name)
    return Wanted(place.name, place.slot, int(given.address) if given else None, place.dynamic and given is None)


def _spec(view: rules.View, pool: Space, addresses: Sequence[int | None], end: int) -> Cluster:
    config, network = view.config, view.config.network
    gateway = IPv4Address(pool.gateway)
    name = network_name(config.name)
    names = [place.name for place in view.places]
    bridge_mac = derived_mac(config.name, name, set(network.vm_macs.values()))
    macs = assign_macs(config.name, names, network.vm_macs, view.known.macs, [bridge_mac])
    nodes = tuple(
        Node(
            name=place.name,
            role=place.role,
            vcpus=place.config.cpu_cores,
            memory_mib=place.config.memory_gb,
            disk_bytes=place.config.disk_gb * _MIB,
            mac=mac,
            ip=None if address is None else IPv4Address(address),
        )
        for place, mac, address in zip(view.places, macs, addresses, strict=True)
    )
    return Cluster(
        key=view.key,
        name=config.name,
        base_image=_anchored(view.document.folder, config.base_image_path),
        network=Network(
            name=name,
            bridge=network.bridge,
            mac=bridge_mac,
            subnet=view.subnet,
            gateway=gateway,
            dhcp_start=IPv4Address(pool.start),
            dhcp_end=IPv4Address(end),
            dns_servers=tuple(dict.fromkeys(network.dns_servers or (gateway, *PUBLIC_DNS))),
            dns_mode=network.dns_mode,
            domain=domain_name(config),
            mtu=network.mtu,
            policy=_policy(view, {node.name: node.ip for node in nodes}),
        ),
        nodes=nodes,
        accelerator=config.accelerator,
        graphics=config.graphics,
        cloud_init=config.cloud_init,
    )


def _policy(view: rules.View, addresses: Mapping[str, IPv4Address | None]) -> Policy:
    network = view.config.network
    discovery = None
    if network.dns_mode is DnsMode.SERVICE_DISCOVERY:
        discovery = _discovery(view, network.service_discovery or DiscoveryConfig.model_validate({}))
    return Policy(
        nat=network.nat,
        routes=tuple(sorted((Route(each.to, each.via) for each in network.routes), key=lambda each: each.to)),
        firewall=_firewall(network.firewall or FirewallConfig.model_validate({}), addresses),
        discovery=discovery,
        host_resolver=network.host_resolver,
    )


def _firewall(config: FirewallConfig, addresses: Mapping[str, IPv4Address | None]) -> Firewall:
    exposed = [(each, addresses.get(each.node)) for each in config.expose]
    return Firewall(
        enabled=config.enabled,
        allow_host_ports=tuple(sorted({Port(protocol, number) for protocol, number in config.allow_host_ports})),
        block_networks=tuple(collapse_addresses(config.block_networks)),
        egress=config.egress,
        allow_networks=tuple(collapse_addresses(config.allow_networks)),
        expose=tuple(
            sorted(
                Exposure(Port(each.protocol, each.host_port), each.node, ip, each.node_port or each.host_port)
                for each, ip in exposed
                if ip is not None  # an error of spec/policy_rules.py
            )
        ),
        allow_from=tuple(collapse_addresses(config.allow_from)),
    )


def _discovery(view: rules.View, config: DiscoveryConfig) -> Discovery:
    folder = view.document.folder

    def file(path: FilePath | None) -> str | None:
        return None if path is None else str(_anchored(folder, path))

    check, tls = config.check, config.tls
    return Discovery(
        service_name=config.service_name or view.config.name,
        address=config.address,
        dns_port=config.dns_port,
        datacenter=config.datacenter,
        token_file=file(config.token_file),
        tls=None if tls is None else Tls(file(tls.ca_file), file(tls.cert_file), file(tls.key_file), tls.server_name),
        tags=tuple(dict.fromkeys(config.tags)),
        check=Check() if check is None else Check(check.port, check.interval, check.timeout),
        required=config.required,
    )


def _anchored(folder: FilePath, path: FilePath) -> FilePath:
    """Absolute and without `..`; symbolic links are left alone, they are the user's way to name a file."""
    return FilePath(os.path.normpath(folder / _home(path)))


def _home(path: FilePath) -> FilePath:
    try:
        return path.expanduser()
    except RuntimeError:  # no such user
        return path
