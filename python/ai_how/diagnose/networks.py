"""Checks of networks: defined and active, their bridge, their address, and what DHCP gave."""

from __future__ import annotations

from collections.abc import Iterator

from ai_how.diagnose.facts import Facts, Network
from ai_how.diagnose.finding import Answer, Finding


def check_networks(facts: Facts) -> Iterator[Finding]:
    """All networks that libvirt has; without libvirt's word, the bridges that are there."""
    if facts.problem:
        for link in (link for link in facts.links.values() if link.bridge):
            state = f"{'up' if link.up else 'down'} with {link.address or 'no address'}"
            summary = f"the bridge is {state}; whether that is right, only libvirt knows"
            yield Finding("bridge", link.name, Answer.UNKNOWN, summary)
    elif not facts.networks:
        yield Finding("network", "libvirt", Answer.WARN, "there are no networks", hint="ai-how up CONFIG makes one")
    for network in facts.networks:
        yield from check_network(facts, network, asked=False)


def check_network_named(facts: Facts, name: str) -> Iterator[Finding]:
    """The one network that was asked for."""
    if facts.problem:
        return
    network = facts.network(name)
    if network is None:
        known = ", ".join(network.name for network in facts.networks) or "none"
        hint = f"the networks here: {known}"
        yield Finding("network-undefined", name, Answer.FAIL, "there is no network of this name", hint=hint)
    else:
        yield from check_network(facts, network, asked=True)


def check_network(facts: Facts, network: Network, *, asked: bool) -> Iterator[Finding]:
    """One network. An inactive one is a fault where somebody `asked` for it, or needs it."""
    users = facts.users_of(network.name)
    ranges = ", ".join(f"{start}–{end}" for start, end in network.dhcp_ranges)
    about = (
        f"forward mode {network.forward}, bridge {network.bridge or '-'}, gateway {network.gateway or '-'}",
        f"DHCP {ranges or 'off'}, DNS {'on' if network.dns else 'off'}",
        f"machines: {', '.join(users) or 'none'}",
    )
    if not network.active:
        wanted = asked or network.autostart or users
        answer = Answer.FAIL if wanted else Answer.WARN
        hint = f"virsh net-start {network.name}"
        yield Finding("network-inactive", network.name, answer, "the network is not active", about, hint)
        return
    yield Finding("network-active", network.name, Answer.OK, f"active on {network.bridge or 'no bridge'}", about)
    if network.bridge:
        yield from _bridge(facts, network)
    if network.dhcp_ranges:
        leases = tuple(
            f"{lease.ip} {lease.mac} {lease.hostname or '-'} until {lease.expires:%Y-%m-%d %H:%M:%S} UTC"
            for lease in network.leases
        )
        yield Finding(
            "leases", network.name, Answer.OK, f"{len(leases)} lease{'s' if len(leases) != 1 else ''}", leases
        )


def _bridge(facts: Facts, network: Network) -> Iterator[Finding]:
    link = facts.links.get(network.bridge)
    again = f"virsh net-destroy {network.name}; virsh net-start {network.name}  (running machines lose their link)"
    if link is None:
        summary = f"libvirt says active, but there is no bridge {network.bridge}"
        yield Finding("bridge-missing", network.name, Answer.FAIL, summary, hint=again)
        return
    if not link.up:
        hint = f"ip link set {network.bridge} up"
        yield Finding("bridge-down", network.name, Answer.FAIL, f"the bridge {network.bridge} is down", hint=hint)
    elif network.gateway and link.address != network.gateway:
        yield Finding(
            "bridge-address-missing",
            network.name,
            Answer.FAIL,
            f"the bridge {network.bridge} does not have the gateway's address {network.gateway}",
            (f"its address: {link.address or 'none'}",),
            f"ip address add {network.gateway} dev {network.bridge}",
        )
    else:
        ports = sorted(port.name for port in facts.links.values() if port.master == network.bridge)
        evidence = (f"ports: {', '.join(ports) or 'none'}",)
        yield Finding("bridge", network.name, Answer.OK, f"{network.bridge} is up with {link.address}", evidence)
