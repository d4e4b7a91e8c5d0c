"""What a configuration must mean to be possible (errors) and should mean to be wise (warnings).

Each rule is one generator over what it needs; spec/resolve.py runs them. Warnings follow the document's best practices.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from ai_how.config.fields import MAX_LABEL, bridge_from
from ai_how.config.load import Document
from ai_how.config.model import ClusterConfig, ComputeGroupConfig
from ai_how.config.terms import AddressChoice, MacAddress
from ai_how.errors import Path, Problem, Severity
from ai_how.spec.addressing import Assigned, Space, hosts, space
from ai_how.spec.known import Known
from ai_how.spec.naming import Place, controller_name, default_domain
from ai_how.spec.node import Role
from ai_how.spec.subnets import PRIVATE, free_subnet, prefix_for

#: Names that others give to their interfaces, or that say nothing.
_COMMON_NAME = re.compile(r"(virbr|br|bridge|docker|lxcbr|lxdbr|cni|cni-podman|eth|ens|eno|wlan)\d*|lo")
_MANY = 1000


@dataclass(frozen=True, slots=True)
class View:
    """One cluster as the rules see it; `subnet` is decided already, `auto` included."""

    document: Document
    key: str
    config: ClusterConfig
    places: Sequence[Place]
    subnet: IPv4Network
    known: Known

    @property
    def root(self) -> Path:
        """The path of the cluster."""
        return ("clusters", self.key)

    @property
    def network(self) -> Path:
        """The path of its network."""
        return (*self.root, "network")

    def error(self, path: Path, message: str, hint: str, *, at_key: bool = False) -> Problem:
        """An error at a path of the document."""
        return self.document.problem(path, message, hint, at_key=at_key)

    def warning(self, path: Path, message: str, hint: str, *, at_key: bool = False) -> Problem:
        """Advice at a path of the document."""
        return self.document.problem(path, message, hint, Severity.WARNING, at_key=at_key)


@dataclass(frozen=True, slots=True)
class Fixed:
    """An address that the configuration gives to a node, and where it says so."""

    address: IPv4Address
    path: Path


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """The nearest name as a question, or the first few as a list."""
    near = difflib.get_close_matches(name.lower(), names[: 10 * _MANY], n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    if not names:
        return "the cluster has no nodes"
    listed = ", ".join(names[:4])
    return f"the nodes are {listed}" + (f" … {names[-1]}" if len(names) > 4 else "")


# ---- names ------------------------------------------------------------------------------------------------------


def node_names(document: Document, key: str, config: ClusterConfig, places: Sequence[Place]) -> Iterator[Problem]:
    """Every node name is a host name of its own (RFC 1035: a label has at most 63 characters)."""
    longest = max(places, key=lambda place: len(place.name), default=None)
    if longest is not None and len(longest.name) > MAX_LABEL:
        room = len(config.name) - (len(longest.name) - MAX_LABEL)
        hint = f"write a cluster name of at most {room} characters: {config.name[:room].rstrip('-')}"
        message = (
            f"the node name {longest.name} has {len(longest.name)} characters, a host name has at most {MAX_LABEL}"
        )
        yield document.problem(("clusters", key, "name"), message, hint)
    first: dict[str, Place] = {}
    for place in places:
        other = first.setdefault(place.name, place)
        if other is not place:
            path = (*place.path, "name") if _named(place) else (*other.path, "name")
            message = f"two nodes are called {place.name}"
            yield document.problem(path, message, "give each node a name of its own")


def _named(place: Place) -> bool:
    return getattr(place.config, "name", None) is not None


def across(
    document: Document, configs: Mapping[str, ClusterConfig], names: Mapping[str, Sequence[Place]]
) -> Iterator[Problem]:
    """Clusters of one file share a host: names, bridges and node names are each used once."""
    clusters: dict[str, str] = {}
    bridges: dict[str, str] = {}
    nodes: dict[str, str] = {}
    for key, config in configs.items():
        root: Path = ("clusters", key)
        other = clusters.setdefault(config.name, key)
        if other != key:
            message = f"the clusters `{other}` and `{key}` are both called {config.name}"
            yield document.problem(
                (*root, "name"), message, f"write another name, for example {config.name}-{key}"[:60]
            )
            continue
        other = bridges.setdefault(config.network.bridge, key)
        if other != key:
            message = f"the clusters `{other}` and `{key}` both use the bridge {config.network.bridge}"
            hint = f"write a bridge of its own, for example {bridge_from(f'br-{config.name}')}"
            if bridge_from(f"br-{config.name}") == config.network.bridge:
                hint = f"write a bridge of its own, for example {bridge_from(f'br-{key}')}"
            yield document.problem((*root, "network", "bridge"), message, hint)
        for place in names[key]:
            other = nodes.setdefault(place.name, key)
            if other != key:
                message = f"the clusters `{other}` and `{key}` both have a node {place.name}"
                path = (*place.path, "name") if _named(place) else (*root, "name")
                yield document.problem(path, message, "node names are unique on a host: rename one of them")
                break


# ---- subnet, gateway, range -------------------------------------------------------------------------------------


def subnet(view: View, others: Sequence[tuple[IPv4Network, str]]) -> Iterator[Problem]:
    """The subnet holds the nodes and overlaps nobody's. `others` are the file's earlier clusters."""
    path = (*view.network, "subnet")
    first, last = hosts(view.subnet)
    taken = [net for net, _ in (*others, *view.known.taken)]
    if len(view.places) > last - first:
        prefix = min(prefix_for(len(view.places)), view.subnet.prefixlen - 1)
        better = view.subnet.supernet(new_prefix=max(prefix, 8))
        if any(better.overlaps(net) for net in taken):
            better = free_subnet(prefix, taken) or better
        message = f"{view.subnet} has {last - first} addresses for nodes, the cluster has {len(view.places)} nodes"
        yield view.error(path, message, f"write for example {better}")
    for net, owner in (*others, *view.known.taken):
        if view.subnet.overlaps(net):
            free = free_subnet(view.subnet.prefixlen, taken)
            same = "is" if net == view.subnet else f"overlaps {net},"
            yield view.error(
                path,
                f"{view.subnet} {same} in use by {owner}",
                f"write a free subnet, for example {free}" if free else "write a smaller, free subnet",
            )
            break


def gateway(view: View) -> Iterator[Problem]:
    """The gateway is a host of the subnet."""
    address = view.config.network.gateway_ip
    if address is not None:
        message = _not_a_host(view.subnet, address)
        if message:
            path = (*view.network, "gateway_ip")
            yield view.error(path, f"the gateway {message}", f"write for example {view.subnet[1]}")


def _not_a_host(net: IPv4Network, address: IPv4Address) -> str:
    if address not in net:
        return f"{address} is outside the subnet {net}"
    if address == net.network_address:
        return f"{address} is the network address of {net}"
    if address == net.broadcast_address:
        return f"{address} is the broadcast address of {net}"
    return ""


def dhcp_range(view: View) -> Iterator[Problem]:
    """The range runs upwards inside the subnet and leaves the gateway out."""
    network = view.config.network
    usual = space(view.subnet, gateway=_number(network.gateway_ip))
    suggestion = {"dhcp_start": IPv4Address(usual.start), "dhcp_end": IPv4Address(usual.end)}
    outside = False
    for name, value in (("dhcp_start", network.dhcp_start), ("dhcp_end", network.dhcp_end)):
        message = _not_a_host(view.subnet, value) if value is not None else ""
        if message:
            outside = True
            yield view.error((*view.network, name), f"{name} {message}", f"write for example {suggestion[name]}")
    if outside or (network.dhcp_start is None and network.dhcp_end is None):
        return
    start, end = _number(network.dhcp_start), _number(network.dhcp_end)
    pool = space(view.subnet, gateway=_number(network.gateway_ip), start=start, end=end)
    low, high = IPv4Address(pool.start), IPv4Address(pool.end)
    name = "dhcp_end" if end is not None else "dhcp_start"
    if low > high:
        hint = f"write for example dhcp_start: {min(low, high)} and dhcp_end: {max(low, high)}"
        if start is None or end is None:
            hint = f"write for example dhcp_start: {usual_text(usual)}"
        yield view.error((*view.network, name), f"the DHCP range is reversed: {low} is behind {high}", hint)
    elif pool.start <= pool.gateway <= pool.end:
        gate = IPv4Address(pool.gateway)
        name = "dhcp_start" if start is not None else "dhcp_end"
        above, below = pool.end - pool.gateway, pool.gateway - pool.start
        keep = f"dhcp_start: {gate + 1}" if above >= below else f"dhcp_end: {gate - 1}"
        message = f"the DHCP range {low} to {high} contains the gateway {gate}"
        yield view.error((*view.network, name), message, f"write {keep}")


def usual_text(pool: Space) -> str:
    """The default range as a hint."""
    return f"{IPv4Address(pool.start)} and dhcp_end: {IPv4Address(pool.end)}"


def _number(address: IPv4Address | None) -> int | None:
    return None if address is None else int(address)


# ---- fixed addresses and MACs -----------------------------------------------------------------------------------


def fixed_addresses(view: View) -> tuple[dict[str, Fixed], list[Problem]]:
    """The addresses that the configuration gives, by node, and what is wrong with them."""
    problems: list[Problem] = []
    fixed: dict[str, Fixed] = {}
    leases = view.config.network.static_leases
    names = {place.name: place for place in view.places}
    for place in view.places:
        config = place.config
        if isinstance(config, ComputeGroupConfig):
            break  # a group says nothing about single nodes, and it is the whole rest
        if config.ip is not None and config.ip_address is not None and config.ip != config.ip_address:
            message = f"`ip` is {_say(config.ip)} and `ip_address` is {_say(config.ip_address)}: they mean the same"
            problems.append(view.error((*place.path, "ip_address"), message, "keep one of the two"))
        if isinstance(config.address, IPv4Address):
            fixed[place.name] = Fixed(config.address, (*place.path, config.address_key))
    problems += _unknown_nodes(view, "static_leases", leases, names)
    for name, address in leases.items():
        path = (*view.network, "static_leases", name)
        known = names.get(name)
        before = fixed.get(name)
        if before is not None and before.address != address:
            where = Problem(before.path, "").dotted
            message = f"{name} has the lease {address} here and {before.address} in {where}"
            problems.append(view.error(path, message, "write the same address in both, or leave one out"))
        elif known is not None and known.dynamic:
            message = f"{name} has the lease {address} here and takes DHCP in {Problem(known.path, '').dotted}"
            problems.append(view.error(path, message, "leave out the lease, or the word DHCP"))
        elif before is None:
            fixed[name] = Fixed(address, path)
    problems += _impossible(view, fixed)
    return {name: value for name, value in fixed.items() if name in names}, problems


def _say(address: IPv4Address | AddressChoice) -> str:
    return address.value if isinstance(address, AddressChoice) else str(address)


def _unknown_nodes(
    view: View, field: str, given: Mapping[str, object], names: Mapping[str, Place]
) -> Iterator[Problem]:
    unknown = [name for name in given if name not in names]
    listed = list(names)
    for count, name in enumerate(unknown):
        hint = did_you_mean(name, listed) if count < 3 else "see the names of the nodes above"
        yield view.error((*view.network, field, name), f"the cluster has no node {name}", hint, at_key=True)


def _impossible(view: View, fixed: Mapping[str, Fixed]) -> Iterator[Problem]:
    """Outside the subnet, the gateway's, used twice, or another node's on the host."""
    net = view.subnet
    network, broadcast = int(net.network_address), int(net.broadcast_address)
    pool = space(net, gateway=_number(view.config.network.gateway_ip))
    users: dict[IPv4Address, str] = {}
    holders: dict[IPv4Address, str] = {}
    if view.known.addresses:
        holders = {
            view.known.addresses[place.name]: place.name
            for place in view.places
            if place.name in view.known.addresses and place.name not in fixed and not place.dynamic
        }
    for name, value in fixed.items():
        address, number = value.address, int(value.address)
        other = users.setdefault(address, name)
        if not network < number < broadcast:
            hint = f"write an address from {net[1]} to {net[-2]}, not the gateway's"
            yield view.error(value.path, f"the address of {name}, {_not_a_host(net, address)}", hint)
        elif number == pool.gateway:
            yield view.error(value.path, f"{address} is the gateway, and given to {name}", _another(pool, fixed))
        elif other != name:
            yield view.error(value.path, f"{address} is given to {other} and to {name}", _another(pool, fixed))
        elif address in holders:
            holder = holders[address]
            message = f"{address} is given to {name}, and {holder} has it on the host"
            hint = f"{_another(pool, fixed, view.known)}, or fix another address for {holder}"
            yield view.error(value.path, message, hint)


def _another(pool: Space, fixed: Mapping[str, Fixed], known: Known | None = None) -> str:
    used = {int(value.address) for value in fixed.values()}
    if known is not None:
        used |= {int(address) for address in known.addresses.values()}
    for number in range(pool.first, pool.last + 1):
        if number != pool.gateway and number not in used:
            return f"write a free address, for example {IPv4Address(number)}"
    return "write a free address in a larger subnet"


def macs(view: View) -> Iterator[Problem]:
    """MACs are of nodes that exist, each used once."""
    given = view.config.network.vm_macs
    yield from _unknown_nodes(view, "vm_macs", given, {place.name: place for place in view.places})
    users: dict[MacAddress, str] = {}
    for name, mac in given.items():
        other = users.setdefault(mac, name)
        if other != name:
            path = (*view.network, "vm_macs", name)
            hint = "write another, or leave it out: a MAC is derived from the names then"
            yield view.error(path, f"{mac} is given to {other} and to {name}", hint)


def enough_room(view: View, pool: Space, assigned: Assigned, without_end: Assigned) -> Iterator[Problem]:
    """Where `assigned` is not complete: why, and what to write. `without_end` is what comes out without `dhcp_end`."""
    low, high = IPv4Address(pool.start), IPv4Address(assigned.end)
    computed = len(view.places) - assigned.dynamic
    if assigned.homeless:
        message = (
            f"the DHCP range {low} to {high} has {pool.end - pool.start + 1} addresses: "
            f"{len(assigned.homeless)} of {computed} nodes find none, the first is {assigned.homeless[0]}"
        )
    else:
        free = max(0, assigned.room)
        message = (
            f"the DHCP range {low} to {high} has {free} addresses left for "
            f"{assigned.dynamic} nodes that take whatever DHCP gives"
        )
    if pool.end_given:
        path = (*view.network, "dhcp_end")
    elif pool.start_given:
        path = (*view.network, "dhcp_start")
    else:
        path = (*view.network, "subnet")
    if pool.end_given and without_end.complete:
        hint = f"write dhcp_end: {IPv4Address(without_end.end)}, or leave it out"
    else:
        wider = view.subnet.supernet(new_prefix=max(8, min(prefix_for(len(view.places)), view.subnet.prefixlen - 1)))
        hint = f"take a larger subnet, for example {wider}"
        if pool.start_given:
            hint += ", or a lower dhcp_start"
    yield view.error(path, message, hint)


# ---- advice -----------------------------------------------------------------------------------------------------


def advice(view: View, pool: Space, addresses: Mapping[str, int | None]) -> Iterator[Problem]:
    """The document's best practices, as far as a configuration shows them."""
    network = view.config.network
    gate = IPv4Address(pool.gateway)
    if network.gateway_ip is None and network.subnet is not AddressChoice.AUTO:
        yield view.warning(view.network, f"no gateway_ip is given: it is {gate}", f"write gateway_ip: {gate}")
    yield from _fixed_advice(view, addresses)
    yield from _dns_advice(view, gate)
    if _COMMON_NAME.fullmatch(network.bridge):
        hint = f"write a descriptive name, for example {bridge_from(f'br-{view.config.name}')}"
        message = f"the bridge name {network.bridge} is one that other programs use, or says nothing"
        yield view.warning((*view.network, "bridge"), message, hint)
    if not any(view.subnet.subnet_of(net) for net in PRIVATE):
        free = free_subnet(view.subnet.prefixlen, [net for net, _ in view.known.taken])
        message = f"{view.subnet} is not private: the machines cannot reach the real owners of these addresses"
        hint = f"write a private subnet (RFC 1918), for example {free or '10.0.0.0/8'}"
        yield view.warning((*view.network, "subnet"), message, hint)
    if network.mtu is not None and network.mtu < 1280:
        message = f"an MTU of {network.mtu} is less than IPv6 and many tunnels need (RFC 8200: 1280)"
        yield view.warning((*view.network, "mtu"), message, "write 1280 or more, usually 1500")
    path = view.config.base_image_path
    if "$" in str(path):
        message = f"{path} holds a `$`: variables are not expanded"
        yield view.warning((*view.root, "base_image_path"), message, "write the path itself")
    if not view.places:
        yield view.warning(view.root, "the cluster has no machines", "add a controller or compute_nodes")


def _fixed_advice(view: View, addresses: Mapping[str, int | None]) -> Iterator[Problem]:
    config = view.config
    controller = config.controller
    name = controller_name(config.name)
    leases = config.network.static_leases
    fixed_subnet = config.network.subnet is not AddressChoice.AUTO
    if controller is not None and controller.address is None and name not in leases and fixed_subnet:
        number = addresses.get(name)
        if number is not None:
            address = IPv4Address(number)
            message = f"the controller has no fixed address: it gets {address}"
            yield view.warning((*view.root, "controller"), message, f"write ip_address: {address}")
    dynamic = [place for place in view.places if place.dynamic]
    if dynamic:
        which = dynamic[0].name if len(dynamic) == 1 else f"{len(dynamic)} nodes, first {dynamic[0].name},"
        verb = "takes" if len(dynamic) == 1 else "take"
        one = dynamic[0]
        key = "ip" if isinstance(one.config, ComputeGroupConfig) else one.config.address_key
        message = f"{which} {verb} whatever DHCP gives: the address may change"
        hint = "leave the address out for a reserved one" if one.role is Role.COMPUTE else "write a fixed address"
        yield view.warning((*one.path, key), message, hint)


def _dns_advice(view: View, gate: IPv4Address) -> Iterator[Problem]:
    servers = view.config.network.dns_servers
    path = (*view.network, "dns_servers")
    if servers is not None:
        if gate not in servers:
            message = f"the gateway {gate} is not among the DNS servers: cluster names will not resolve"
            yield view.warning(path, message, f"write {gate} first", at_key=True)
        listed = ", ".join(str(server) for server in dict.fromkeys((gate, *servers, "8.8.8.8", "1.1.1.1")))
        if set(servers) == {gate}:
            message = f"the gateway {gate} alone is listed: names outside the clusters will not resolve"
            yield view.warning(path, message, f"write for example [{listed}]", at_key=True)
        elif len(set(servers)) == 1:
            message = f"a single DNS server, {servers[0]}: without it no name resolves"
            yield view.warning(path, message, f"write for example [{listed}]", at_key=True)
        elif len(set(servers)) < len(servers):
            yield view.warning(path, "a DNS server is listed twice", "list each once", at_key=True)
    domain = view.config.network.domain
    if domain is not None and domain.split(".")[-1] == "local":
        message = f"{domain} ends in .local, which belongs to multicast DNS (RFC 6762): resolvers may not ask for it"
        yield view.warning((*view.network, "domain"), message, f"write for example {default_domain(view.config.name)}")
