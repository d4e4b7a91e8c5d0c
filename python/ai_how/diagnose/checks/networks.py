"""Checks of networks: defined and active, their bridge, its address, and that nobody else has what is theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Network

from ai_how.diagnose.checks.base import advice, check, of_network, repair
from ai_how.diagnose.facts import Facts, Link, Listener, Network, Part, Route
from ai_how.diagnose.finding import Answer, Command, Finding, Fix

_APPLIED = "firewall-applied.json"


@check("network-undefined", "Is every network defined that somebody needs?", Part.NETWORKS, Part.MACHINES)
def defined(facts: Facts) -> Iterator[Finding]:
    known = {each.name for each in facts.networks}
    users: dict[str, list[str]] = {}
    for machine in facts.machines:
        for nic in machine.interfaces:
            if nic.kind == "network" and nic.source not in known:
                users.setdefault(nic.source, []).append(f"machine {machine.name} is plugged into it")
    for cluster in _remembered_clusters(facts):
        if f"{cluster}-network" not in known:
            users.setdefault(f"{cluster}-network", []).append(f"ai-how has rules for cluster {cluster}")
    for name, why in users.items():
        if name == facts.asked:
            continue  # asked by name, it is told that there is none
        yield Finding(
            "",
            name,
            Answer.FAIL,
            "it is needed, and libvirt has no network of this name",
            tuple(why),
            advice("Make it anew: ai-how up with the cluster's configuration, or virsh net-define with its XML."),
            network=name,
        )


def _remembered_clusters(facts: Facts) -> list[str]:
    """Clusters that our firewall has rules for, of what root remembers."""
    try:
        found = json.loads(facts.memory.files.get(_APPLIED, "{}"))
        return [str(each["cluster"]) for each in found.get("clusters", ())]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []


@check("network-inactive", "Is every network active that somebody needs?", Part.NETWORKS)
def active(facts: Facts) -> Iterator[Finding]:
    for network in facts.networks:
        if network.active:
            ranges = ", ".join(f"{start}–{end}" for start, end in network.ranges)
            leases = facts.leases_of(network)
            count = f"{len(leases)} lease{'s' if len(leases) != 1 else ''}"
            known = "leases not known" if network.bridge in facts.unread_leases else count
            yield of_network(
                network,
                Answer.OK,
                f"active on {network.bridge or 'no bridge'}, {known}",
                f"forward mode {network.forward}, bridge {network.bridge or '-'}, gateway {network.gateway or '-'}",
                f"DHCP {ranges or 'off'}, DNS {'on' if network.dns else 'off'}",
                f"machines: {', '.join(each.name for each in facts.users_of(network.name)) or 'none'}",
                *(f"lease {each.ip} {each.mac} {each.hostname or '-'}" for each in leases),
            )
        elif facts.wants(network):
            users = [each.name for each in facts.users_of(network.name)]
            yield of_network(
                network,
                Answer.FAIL,
                "the network is not active",
                *([f"machines: {', '.join(users)}"] if users else []),
                fix=_started(facts, network),
            )


def _started(facts: Facts, network: Network) -> Fix:
    if network.cluster and not network.autostart:
        return advice("It was taken down, as ai-how down does: ai-how up with the cluster's configuration starts it.")
    return repair(
        ("virsh", "net-start", network.name),
        *_replug(facts, network),
        undo=(("virsh", "net-destroy", network.name),),
        ours=network,
    )


def _replug(facts: Facts, network: Network) -> list[Command]:
    """Make the taps of running machines ports of the bridge again."""
    return [
        ("ip", "link", "set", "dev", nic.tap, "master", network.bridge)
        for machine in facts.users_of(network.name)
        if machine.running
        for nic in machine.interfaces
        if nic.source == network.name and nic.tap in facts.links
    ]


@check("bridge-not-ours", "Is every bridge the one that libvirt made?", Part.NETWORKS, Part.LINKS)
def own_bridge(facts: Facts) -> Iterator[Finding]:
    for network in facts.networks:
        link = facts.links.get(network.bridge)
        if link is None or not facts.wants(network) or network.forward == "bridge":
            continue
        strange = _strange(network, link)
        if strange:
            ports = sorted(each.name for each in facts.links.values() if each.master == link.name)
            yield of_network(
                network,
                Answer.FAIL,
                f"{link.name} {strange}",
                f"its addresses: {', '.join(map(str, link.addresses)) or 'none'}",
                f"its ports: {', '.join(ports) or 'none'}",
                fix=advice(
                    "Give the network another bridge's name, or, if nobody needs that link, remove it and start the "
                    "network again:",
                    *([("virsh", "net-destroy", network.name)] if network.active else []),
                    ("ip", "link", "delete", link.name),
                    ("virsh", "net-start", network.name),
                    *_replug(facts, network),
                ),
            )


def _strange(network: Network, link: Link) -> str:
    if link.kind != "bridge":
        return f"is no bridge, but a link of kind {link.kind or 'device'}"
    if not network.active:
        return "is there, and the network is not active: somebody else made it"
    if network.mac and link.mac and network.mac != link.mac:
        return f"has MAC {link.mac}, and libvirt gave its bridge {network.mac}: somebody made it anew"
    return ""


@check("bridge-missing", "Is the bridge of every active network there?", Part.NETWORKS, Part.LINKS)
def bridge_there(facts: Facts) -> Iterator[Finding]:
    for network in _with_bridge(facts):
        if network.bridge not in facts.links:
            yield of_network(
                network,
                Answer.FAIL,
                f"libvirt says active, but there is no bridge {network.bridge}",
                fix=repair(
                    ("virsh", "net-destroy", network.name),
                    ("virsh", "net-start", network.name),
                    *_replug(facts, network),
                    ours=network,
                ),
            )


@check("bridge-missing", "Is the bridge there that an active network takes from the host?", Part.NETWORKS, Part.LINKS)
def foreign_bridge_there(facts: Facts) -> Iterator[Finding]:
    for network in facts.active:
        if network.forward == "bridge" and network.bridge and network.bridge not in facts.links:
            yield of_network(
                network,
                Answer.FAIL,
                f"libvirt says active, but there is no bridge {network.bridge}",
                "libvirt did not make it: it is the host's, or an administrator's",
                fix=advice(
                    "Make it again where the host's links are configured (netplan, ifupdown, systemd-networkd, "
                    "NetworkManager), then plug running machines in:",
                    *_replug(facts, network),
                ),
            )


@check("bridge-down", "Is the bridge of every active network up?", Part.NETWORKS, Part.LINKS)
def bridge_up(facts: Facts) -> Iterator[Finding]:
    for network in _with_bridge(facts):
        link = facts.links.get(network.bridge)
        if link is not None and not link.up:
            yield of_network(
                network,
                Answer.FAIL,
                f"the bridge {link.name} is down",
                fix=repair(
                    ("ip", "link", "set", "dev", link.name, "up"),
                    undo=(("ip", "link", "set", "dev", link.name, "down"),),
                    ours=network,
                ),
            )
        elif link is not None:
            ports = sorted(port.name for port in facts.links.values() if port.master == network.bridge)
            summary = f"{link.name} is up with {', '.join(map(str, link.addresses)) or 'no address'}"
            yield of_network(network, Answer.OK, summary, f"ports: {', '.join(ports) or 'none'}")


@check("bridge-address-missing", "Has every bridge the gateway's address?", Part.NETWORKS, Part.LINKS)
def bridge_address(facts: Facts) -> Iterator[Finding]:
    for network in _with_bridge(facts):
        link = facts.links.get(network.bridge)
        if link is None or network.gateway is None or network.gateway in link.addresses:
            continue
        words = ("dev", link.name)
        broadcast = str(network.gateway.network.broadcast_address)
        yield of_network(
            network,
            Answer.FAIL,
            f"the bridge {link.name} does not have the gateway's address {network.gateway}",
            f"its addresses: {', '.join(map(str, link.addresses)) or 'none'}",
            fix=repair(
                ("ip", "address", "add", str(network.gateway), "broadcast", broadcast, *words),
                undo=(("ip", "address", "delete", str(network.gateway), *words),),
                ours=network,
            ),
        )


@check(
    "bridge-address-missing",
    "Does the way to every network lead to its bridge?",
    Part.NETWORKS,
    Part.LINKS,
    Part.ROUTES,
)
def bridge_route(facts: Facts) -> Iterator[Finding]:
    for network in _with_bridge(facts):
        link, gateway = facts.links.get(network.bridge), network.gateway
        # Where the address is gone or the bridge is down the route is, too, and comes again with them.
        if link is None or not link.up or gateway is None or gateway not in link.addresses:
            continue
        if any(each.to == gateway.network and each.dev == link.name and each.table == "main" for each in facts.routes):
            continue
        way = (str(gateway.network), "dev", link.name)
        yield of_network(
            network,
            Answer.FAIL,
            f"the route to {gateway.network} by {link.name} is gone: what is for its nodes leaves by another link",
            fix=repair(
                ("ip", "route", "add", *way, "proto", "kernel", "scope", "link", "src", str(gateway.ip)),
                undo=(("ip", "route", "delete", *way),),
            ),
        )


def _with_bridge(facts: Facts) -> Iterator[Network]:
    """Active networks that libvirt made a bridge for."""
    yield from (each for each in facts.active if each.bridge and each.forward != "bridge")


@check("subnet-overlap", "Are a network's addresses nowhere else?", Part.NETWORKS, Part.ROUTES)
def own_subnet(facts: Facts) -> Iterator[Finding]:
    for network in facts.networks:
        subnet = network.subnet
        if subnet is None or not facts.wants(network):
            continue
        elsewhere = [each for each in facts.routes if each.dev != network.bridge and _collides(subnet, each)]
        if not elsewhere:
            continue
        route = elsewhere[0]
        other = facts.network_on(route.dev)
        where = f"{route.dev}, the bridge of network {other.name}" if other else route.dev
        taken = not network.active or route.to.prefixlen >= subnet.prefixlen
        comes = "packets to its nodes go there" if network.active else "libvirt does not start it"
        yield of_network(
            network,
            Answer.FAIL if taken else Answer.WARN,
            f"{route.to} is also behind {where}: {comes}"
            if taken
            else f"{route.to} behind {where} includes {subnet}: what of it is there is out of reach",
            *(_said(each) for each in elsewhere),
            fix=advice(
                "Give the network a subnet that is free (network.subnet: auto finds one), or take the other way away, "
                "if nobody needs it:",
                *(("ip", "route", "delete", str(each.to), "dev", each.dev) for each in elsewhere),
            ),
        )


def _collides(subnet: IPv4Network, route: Route) -> bool:
    if route.to.prefixlen == 0 or route.dev in ("", "lo") or route.dead or not route.to.overlaps(subnet):
        return False
    # A wider network by a router loses nothing but what the kernel was told to send here.
    return route.to.prefixlen >= subnet.prefixlen or route.via is None


def _said(route: Route) -> str:
    via = f" via {route.via}" if route.via else ""
    table = f" table {route.table}" if route.table != "main" else ""
    return f"route: {route.to}{via} dev {route.dev}{table}"


@check("port-53-taken", "Is the port of every network's DNS free for it?", Part.NETWORKS, Part.LISTENERS)
def dns_port(facts: Facts) -> Iterator[Finding]:
    served = {each.network for each in facts.servers if not each.stopped}
    own = {each.pid for each in facts.servers}
    for network in facts.networks:
        if not network.dns or network.gateway is None or not facts.wants(network) or network.name in served:
            continue
        gateway = str(network.gateway.ip)
        taken = [e for e in facts.listeners if e.port == 53 and e.address in ("*", gateway) and e.pid not in own]
        if taken:
            yield of_network(
                network,
                Answer.FAIL,
                f"{_name(taken[0])} listens at port 53 of {_where(taken[0])}, so that its dnsmasq cannot",
                *(f"{each.protocol} {each.address}:{each.port} {_name(each)}" for each in taken),
                fix=advice(
                    f"Have it listen at its own addresses only (dnsmasq: bind-interfaces; named: listen-on; "
                    f"unbound: interface), then: virsh net-start {network.name}"
                ),
            )


def _name(listener: Listener) -> str:
    return f"{listener.program} (process {listener.pid})" if listener.program else "another program"


def _where(listener: Listener) -> str:
    return "every address" if listener.address == "*" else listener.address
