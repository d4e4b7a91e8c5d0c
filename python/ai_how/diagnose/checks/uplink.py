"""Checks of the way out: that there is one, for frames of every size, and that who is asked there answers."""

from __future__ import annotations

from collections.abc import Iterator

from ai_how.diagnose.checks.base import advice, check, of_host, of_network, of_networks, repair
from ai_how.diagnose.facts import Facts, Link, Network, Part, Route
from ai_how.diagnose.finding import Answer, Finding

#: Bytes, of a link that nobody gave another size (IEEE 802.3).
_MTU = 1500

#: What the kernel says of a neighbour that does not answer (ip-neighbour(8)).
_SILENT = ("FAILED", "INCOMPLETE")


@check("uplink-missing", "Has this host a way out, for networks that lead out?", Part.NETWORKS, Part.ROUTES, Part.LINKS)
def way_out(facts: Facts) -> Iterator[Finding]:
    if not any(each.leads_out for each in facts.active):
        return
    defaults = [each for each in facts.routes if each.to.prefixlen == 0]
    if not defaults:
        yield of_host(
            Answer.FAIL,
            "there is no default route: nothing leaves this host",
            fix=advice("Connect the host; or name its router:", ("ip", "route", "add", "default", "via", "ROUTER")),
        )
        return
    troubles = [trouble for each in defaults if (trouble := _trouble(facts, each))]
    if len(troubles) == len(defaults):
        link = defaults[0].dev
        yield of_host(
            Answer.FAIL,
            troubles[0],
            fix=advice("", ("ip", "link", "set", "dev", link, "up"), ("ip", "route", "get", "8.8.8.8")),
        )
        return
    yield of_host(Answer.OK, f"the way out is {', '.join(facts.uplinks)}")


def _trouble(facts: Facts, route: Route) -> str:
    """Why nothing leaves by a default route; empty where something does, as far as can be seen."""
    link = facts.links.get(route.dev)
    if link is not None and not link.up:
        return f"the way out is {link.name}, which is down"
    if link is not None and not link.carrier:
        return f"the way out is {link.name}, which is not connected"
    if route.dead:
        return f"the way out is {route.dev}, which is dead"
    state = facts.neighbours.get((route.dev, str(route.via)), "")
    unanswered = facts.upstream and not any(each.answered for each in facts.upstream.values())
    if state in _SILENT and unanswered:
        return f"the router {route.via} behind {route.dev} does not answer"
    return ""


@check("dns-upstream-dead", "Do the servers answer that gateways ask?", Part.NETWORKS, Part.UPSTREAM)
def upstream(facts: Facts) -> Iterator[Finding]:
    silent: dict[bool, list[tuple[Network, list[str]]]] = {True: [], False: []}
    for network in facts.active:
        servers = [each for each in network.asks(facts.resolvers) if each in facts.upstream] if network.dns else []
        dead = [each for each in servers if not facts.upstream[each].answered]
        if dead:
            silent[len(dead) == len(servers)].append((network, dead))
    for everyone, found in silent.items():
        if not found:
            continue
        servers = list(dict.fromkeys(each for _, dead in found for each in dead))
        yield of_networks(
            [network.name for network, _ in found],
            Answer.FAIL if everyone else Answer.WARN,
            "no server answers that a gateway asks: nodes resolve no name outside"
            if everyone
            else f"{', '.join(servers)} does not answer, others do: names outside may take seconds, and fail with them",
            (f"{each}: {facts.upstream[each].why}" for each in servers),
            advice("Name servers that answer: network.dns_servers and ai-how up, or <forwarder> by virsh net-edit."),
        )


@check("mtu-mismatch", "Do all links on a way take frames of one size?", Part.NETWORKS, Part.LINKS)
def sizes(facts: Facts) -> Iterator[Finding]:
    owners = {nic.tap: machine for machine in facts.machines for nic in machine.interfaces if nic.tap}
    for network in facts.active:
        bridge = facts.links.get(network.bridge)
        if bridge is None or network.forward == "bridge":  # that one has the size that its owner gave it
            continue
        size = network.mtu or _MTU
        ports = [each for each in facts.links.values() if each.master == bridge.name and each.mtu != size]
        for port in ports:
            machine = owners.get(port.name)
            commands = (*_sized(port, size), *_sized(bridge, size))
            yield Finding(
                "",
                machine.name if machine else port.name,
                Answer.FAIL,
                f"{port.name} takes {port.mtu} bytes, its network {size}: larger frames vanish without a word",
                (f"bridge {bridge.name}: {bridge.mtu} bytes",),
                repair(*commands, undo=(*_sized(bridge, bridge.mtu), *_sized(port, port.mtu)))
                if machine
                else advice("If that link may take as much:", *commands),
                network=network.name,
                machine=machine.name if machine else "",
            )
        if bridge.mtu != size and not ports:
            yield of_network(
                network,
                Answer.FAIL,
                f"{bridge.name} takes {bridge.mtu} bytes, and its nodes are told {size}",
                fix=repair(*_sized(bridge, size), undo=_sized(bridge, bridge.mtu)),
            )
    yield from _uplinks(facts)


def _sized(link: Link, size: int) -> tuple[tuple[str, ...], ...]:
    return (("ip", "link", "set", "dev", link.name, "mtu", str(size)),)


def _uplinks(facts: Facts) -> Iterator[Finding]:
    for name in facts.uplinks[:1]:
        uplink = facts.links.get(name)
        larger = [each.name for each in facts.active if each.leads_out and uplink and (each.mtu or _MTU) > uplink.mtu]
        if uplink and larger:
            yield Finding(
                "",
                name,
                Answer.WARN,
                f"the way out takes {uplink.mtu} bytes, and nodes of {', '.join(larger)} send more: what may not be "
                "cut (large UDP, tunnels) does not leave, and where ICMP is stopped TCP hangs, too",
                fix=advice(
                    f"Tell nodes: network.mtu: {uplink.mtu} and ai-how up; or <mtu size='{uplink.mtu}'/> in its XML."
                ),
            )


@check("consul-unreachable", "Does the Consul agent of every cluster answer?", Part.NETWORKS, Part.CONSUL)
def consul(facts: Facts) -> Iterator[Finding]:
    for network in facts.active:
        reply = facts.consul.get(network.name)
        if reply is not None and not reply.answered:
            yield of_network(
                network,
                Answer.FAIL,
                "its Consul agent does not answer: names below .consul do not resolve",
                reply.why,
                fix=advice(
                    "Start the agent, or correct network.service_discovery.address and run ai-how up:",
                    ("consul", "members"),
                ),
            )
