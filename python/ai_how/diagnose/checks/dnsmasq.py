"""Checks of DHCP and DNS: that dnsmasq serves, whom it asks, what it has to give, and who holds which address."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from ai_how.diagnose.checks.base import advice, check, of_network, repair
from ai_how.diagnose.facts import Facts, Lease, Machine, Network, Part
from ai_how.diagnose.finding import Answer, Finding, Fix

#: How dnsmasq and libvirt call the option that tells nodes their DNS servers (RFC 2132, option 6).
_DNS_OPTION = ("option:dns-server", "6")

_LOOPBACK = "127."

#: A client identifier that is made of the client's MAC begins with its kind of hardware, Ethernet (RFC 2132, 9.14).
_BY_MAC = "01:"

#: What cannot be told of a network whose leases are not known.
_OF_LEASES = ("dhcp-pool-exhausted", "duplicate-client-id", "stale-lease", "lease-mismatch")


# ---- who serves -------------------------------------------------------------------------------------------------


@check("dnsmasq-dead", "Does a dnsmasq run for every active network?", Part.NETWORKS, Part.PROCESSES)
def alive(facts: Facts) -> Iterator[Finding]:
    for network in _served(facts):
        if not any(each.network == network.name for each in facts.servers):
            again = [("kill", "-HUP", str(facts.daemon))] if facts.daemon is not None else []
            yield of_network(
                network,
                Answer.FAIL,
                "no dnsmasq serves this network: no address and no name for its nodes",
                *([] if again else ["no libvirt daemon runs that would start it again"]),
                # At SIGHUP libvirt reads its settings anew, and starts what should run; machines keep their links.
                fix=repair(*again, ours=network) if again else advice("Start libvirt's daemon, then look again."),
            )


@check("dnsmasq-unresponsive", "Does every gateway answer a DNS question?", Part.NETWORKS, Part.PROCESSES, Part.NAMES)
def answers(facts: Facts) -> Iterator[Finding]:
    for network in _served(facts):
        servers = [each for each in facts.servers if each.network == network.name]
        stopped = [each for each in servers if each.stopped]
        pids = tuple(f"process {each.pid}" for each in servers)
        reply = facts.names.get(network.name)
        if stopped:
            process = str(stopped[0].pid)
            fix = repair(("kill", "-CONT", process), undo=(("kill", "-STOP", process),))
            yield of_network(network, Answer.FAIL, "its dnsmasq is stopped by a signal or a debugger", *pids, fix=fix)
        elif servers and reply is not None and not reply.answered:
            yield of_network(
                network,
                Answer.FAIL,
                "its dnsmasq runs, but does not answer a DNS question",
                *pids,
                f"asked {network.gateway.ip if network.gateway else '-'} port 53: {reply.why}",
                fix=advice(
                    "Look for a rule that stops port 53, and at what dnsmasq does:",
                    ("nft", "list", "ruleset"),
                    ("ss", "-lunp", "sport = :53"),
                    ("journalctl", "-t", "dnsmasq", "-n", "50"),
                ),
            )
        elif servers and reply is not None:
            yield of_network(network, Answer.OK, f"dnsmasq answers in {reply.ms:g} ms", *pids)


def _served(facts: Facts) -> Iterator[Network]:
    yield from (each for each in facts.active if each.dns or each.serves_dhcp)


# ---- whom it asks -----------------------------------------------------------------------------------------------


@check("dns-loop", "Does no chain of DNS servers come back to its beginning?", Part.NETWORKS)
def loops(facts: Facts) -> Iterator[Finding]:
    gateways = {str(each.gateway.ip): each.name for each in facts.active if each.gateway and each.dns}
    asks = {
        each.name: [gateways[server] for server in _asked(facts, each) if server in gateways]
        for each in facts.active
        if each.dns
    }
    asked = {each.name: _asked(facts, each) for each in facts.active}
    seen: set[frozenset[str]] = set()
    for start in sorted(asks):
        circle = _circle(asks, start)
        if circle and frozenset(circle) not in seen:
            seen.add(frozenset(circle))
            way = " → ".join((*circle, circle[0]))
            yield Finding(
                "",
                start,
                Answer.FAIL,
                f"what its gateway does not know comes back to it: {way}",
                tuple(f"{each} asks {', '.join(asked[each])}" for each in circle),
                advice(
                    "Have one of them ask a server outside: network.dns_servers, or <forwarder> in the network's XML:",
                    *(("virsh", "net-edit", each) for each in circle[:1]),
                ),
            )


def _asked(facts: Facts, network: Network) -> tuple[str, ...]:
    """The servers that its gateway asks; in place of one on this host's loopback, those that this one asks."""
    servers = network.asks(facts.resolvers)
    beyond = facts.resolver_asks if any(each.startswith(_LOOPBACK) for each in servers) else ()
    return (*(each for each in servers if not each.startswith(_LOOPBACK)), *beyond)


def _circle(asks: Mapping[str, list[str]], start: str) -> tuple[str, ...]:
    """The way from `start` back to it, empty where there is none."""
    todo: list[tuple[str, ...]] = [(start,)]
    seen = set()
    while todo:
        way = todo.pop()
        for each in asks.get(way[-1], ()):
            if each == start:
                return way
            if each not in seen:
                seen.add(each)
                todo.append((*way, each))
    return ()


@check("dns-gateway-not-listed", "Are nodes told to ask their gateway?", Part.NETWORKS)
def told_gateway(facts: Facts) -> Iterator[Finding]:
    for network in facts.active:
        told = _told(network)
        if network.dns and network.serves_dhcp and told:
            yield of_network(
                network,
                Answer.WARN,
                f"nodes are told to ask {', '.join(told)}, which do not know the names of this network",
                fix=advice(
                    f"List the gateway {network.gateway.ip if network.gateway else ''} first in network.dns_servers; "
                    "the others become the servers that it asks."
                ),
            )


def _told(network: Network) -> tuple[str, ...]:
    """The servers that nodes are told to ask, where the gateway is not among them."""
    found = list(network.told)
    for option in network.options:
        name, _, value = option.partition("=")
        words = value.split(",")
        if name == "dhcp-option" and words[0] in _DNS_OPTION:
            found += words[1:]
    gateway = {"0.0.0.0", str(network.gateway.ip) if network.gateway else ""}  # noqa: S104 - dnsmasq's "myself"
    return () if gateway & set(found) else tuple(found)


# ---- what it has to give ----------------------------------------------------------------------------------------


@check("dhcp-range-outside-subnet", "Do all DHCP addresses lie in the subnet?", Part.NETWORKS)
def ranges(facts: Facts) -> Iterator[Finding]:
    for network in facts.networks:
        subnet, gateway = network.subnet, network.gateway
        if subnet is None or gateway is None:
            continue
        strays = [
            f"range {start} – {end}" for start, end in _ranges(network) if start not in subnet or end not in subnet
        ]
        taken = (gateway.ip, subnet.broadcast_address)
        strays += [
            f"{each.ip}, reserved for {each.name or each.mac}"
            for each in network.reservations
            if each.ip not in subnet or each.ip in taken
        ]
        if strays:
            yield of_network(
                network,
                Answer.FAIL,
                f"DHCP has addresses outside {subnet} (or the gateway's): dnsmasq gives them to nobody",
                *strays,
                fix=advice(
                    "Correct dhcp_start, dhcp_end or the fixed address and run ai-how up, or edit the network:",
                    ("virsh", "net-edit", network.name),
                ),
            )


def _ranges(network: Network) -> Iterator[tuple[IPv4Address, IPv4Address]]:
    yield from network.ranges
    for option in network.options:
        name, _, value = option.partition("=")
        words = value.split(",")
        if name == "dhcp-range" and len(words) > 1:
            # Ranges that are tagged, or of another kind, say something else there.
            with contextlib.suppress(AddressValueError):
                yield IPv4Address(words[0]), IPv4Address(words[1])


@check("lease-mismatch", "Are the leases of every active network understood?", Part.NETWORKS, Part.LEASES)
def leases_read(facts: Facts) -> Iterator[Finding]:
    for network in facts.active:
        why = facts.unread_leases.get(network.bridge, "")
        for identifier in _OF_LEASES if why else ():
            summary = f"the leases of {network.name} are not known"
            yield replace(of_network(network, Answer.UNKNOWN, summary, why), check=identifier)


@check("dhcp-pool-exhausted", "Has every network an address for the next machine?", Part.NETWORKS, Part.LEASES)
def pool(facts: Facts) -> Iterator[Finding]:
    for network in facts.active:
        size = sum(int(end) - int(start) + 1 for start, end in network.ranges)
        if not size or network.subnet is None:
            continue
        fixed = {each.ip for each in network.reservations if _in_ranges(network, each.ip)}
        leases = facts.leases_of(network)
        free = size - len(fixed) - sum(_in_ranges(network, each.ip) and each.ip not in fixed for each in leases)
        # libvirt lets dnsmasq have as many leases as its ranges have addresses, those outside of them included.
        room = size - len(leases)
        waiting = [each.name for each, mac in _macs(facts, network) if _waits(facts, network, mac, free, room)]
        nobody_else = size == len(fixed)  # every address is somebody's: there never was one for a newcomer
        if waiting or (min(free, room) <= 0 and not nobody_else):
            yield of_network(
                network,
                Answer.FAIL if waiting else Answer.WARN,
                f"all of its {size} DHCP addresses are taken"
                + (f": none is left for {', '.join(waiting)}" if waiting else ""),
                f"{len(leases)} leases, {len(fixed)} of the addresses are reserved",
                *(f"held by {each.mac} {each.hostname}: {each.ip}" for each in _of_nobody(facts, network)),
                fix=_grow(network, network.subnet),
            )


def _waits(facts: Facts, network: Network, mac: str, free: int, room: int) -> bool:
    """Whether a running machine gets no address because there is none."""
    if facts.lease_of(network, mac) is not None:
        return False
    reserved = any(each.mac == mac for each in network.reservations)
    return room <= 0 if reserved else min(free, room) <= 0


def _in_ranges(network: Network, ip: IPv4Address) -> bool:
    return any(start <= ip <= end for start, end in network.ranges)


def _macs(facts: Facts, network: Network) -> Iterator[tuple[Machine, str]]:
    """Running machines in the network, by their MACs there."""
    for machine in facts.users_of(network.name):
        for nic in machine.interfaces:
            if machine.running and nic.source == network.name:
                yield machine, nic.mac


def _of_nobody(facts: Facts, network: Network) -> list[Lease]:
    """Leases of whoever is no machine of this host."""
    known = {nic.mac for machine in facts.machines for nic in machine.interfaces}
    return [each for each in facts.leases_of(network) if each.mac not in known]


def _grow(network: Network, subnet: IPv4Network) -> Fix:
    """A range that begins where the last one ends, if the subnet has room there."""
    last = max(end for _, end in network.ranges)
    start, end = last + 1, min(last + 64, subnet.broadcast_address - 1)
    text = "Let dhcp_end be later in the configuration and run ai-how up (running nodes do not notice)"
    if start > end:
        return advice(f"{text}; the subnet {subnet} itself is used up: it takes a wider one.")
    if network.cluster:
        return advice(f"{text}, up to {subnet.broadcast_address - 1}.")
    element = f"<range start='{start}' end='{end}'/>"
    words = ("virsh", "net-update", network.name, "add", "ip-dhcp-range", element, "--live", "--config")
    return advice("Add a range:", words)


# ---- who holds which address ------------------------------------------------------------------------------------


@check("rogue-dhcp", "Is the network's DHCP server the only one?", Part.NETWORKS, Part.SERVERS)
def only_server(facts: Facts) -> Iterator[Finding]:
    for network in facts.active:
        for server in facts.dhcp_servers.get(network.name, ()):
            ip, _, mac = server.partition(" ")
            owner = _owner(facts, mac)
            whose = f"machine {owner.name}" if owner else "no machine of this host"
            commands = [("virsh", "domif-setlink", owner.name, mac, "down")] if owner else []
            # Our rules keep its answers from other ports of the bridge (resources/firewall.py, ROGUE_DHCP).
            kept = network.guarded and "rogue-dhcp" in facts.firewall.ruleset
            yield of_network(
                network,
                Answer.WARN if kept else Answer.FAIL,
                f"another DHCP server answers on {network.bridge}: {ip}, {mac}",
                f"that MAC is of {whose}",
                *(["ai-how's rules keep its answers from nodes"] if kept else []),
                fix=advice("End it there, or take its link away:", *commands),
            )


@check("duplicate-mac", "Has every machine of a network a MAC of its own?", Part.MACHINES)
def macs(facts: Facts) -> Iterator[Finding]:
    users: dict[tuple[str, str], list[Machine]] = defaultdict(list)
    for machine in facts.machines:
        for nic in machine.interfaces:
            if nic.mac:
                users[nic.source, nic.mac].append(machine)
    for (source, mac), machines in users.items():
        if len(machines) < 2 or not any(each.running for each in machines):
            continue
        several = sum(each.running for each in machines) > 1
        edit = ("virsh", "edit", machines[-1].name)
        names = list(dict.fromkeys(each.name for each in machines))
        yield Finding(
            "",
            source,
            Answer.FAIL if several else Answer.WARN,
            f"MAC {mac} is of {', '.join(names)}" + (", twice" if len(names) == 1 else ""),
            () if several else ("not more than one of them runs now",),
            advice("Give all but one another MAC (take the <mac> line out: libvirt makes one):", edit),
            network=source,
        )


@check("duplicate-client-id", "Has every client of DHCP an identifier of its own?", Part.NETWORKS, Part.LEASES)
def client_ids(facts: Facts) -> Iterator[Finding]:
    for network in facts.active:
        clients: dict[str, set[str]] = defaultdict(set)
        for lease in facts.leases_of(network):
            if lease.client_id:
                clients[lease.client_id].add(lease.mac)
        found = {identifier: sorted(them) for identifier, them in clients.items() if len(them) > 1}
        # dnsmasq keeps one lease for an identifier: the two then answer at one address.
        for ip, both in _doubles(facts, network).items():
            held = next((each for each in facts.leases_of(network) if each.ip == ip), None)
            if held and held.client_id and held.client_id != f"{_BY_MAC}{held.mac}" and held.mac in both:
                found.setdefault(held.client_id, sorted(both))
        for identifier, them in found.items():
            yield of_network(
                network,
                Answer.FAIL,
                f"{' and '.join(_called(facts, each) for each in them)} ask DHCP with one client identifier",
                f"client identifier {identifier}",
                fix=advice(
                    "They are clones with one machine-id. Inside all but one: rm /etc/machine-id; "
                    "systemd-machine-id-setup; reboot. Or have them known by MAC: dhcp-identifier: mac (netplan), "
                    "ClientIdentifier=mac (systemd-networkd)."
                ),
            )


@check("duplicate-address", "Does one machine answer at every address?", Part.NETWORKS, Part.ANSWERING)
def addresses(facts: Facts) -> Iterator[Finding]:
    for network in facts.active:
        for ip, both in _doubles(facts, network).items():
            gateway = network.gateway is not None and ip == network.gateway.ip
            named = " and ".join(_called(facts, each) for each in sorted(both))
            yield of_network(
                network,
                Answer.FAIL,
                f"{named} answers at the gateway's address {ip}" if gateway else f"{named} both answer at {ip}",
                fix=advice("Find which of them should not, and correct its address inside (or have it ask DHCP)."),
            )


def _doubles(facts: Facts, network: Network) -> dict[IPv4Address, tuple[str, ...]]:
    """Addresses at which more answer than should: two, or anybody at the gateway's."""
    gateway = None if network.gateway is None else network.gateway.ip
    answering = facts.answering.get(network.bridge, {})
    return {ip: found for ip, found in answering.items() if len(found) > 1 or ip == gateway}


@check("stale-lease", "Are all leases of those whose addresses they are?", Part.NETWORKS, Part.LEASES)
def stale(facts: Facts) -> Iterator[Finding]:
    for network in facts.active:
        owners = {each.ip: each for each in network.reservations}
        reserved = {each.mac for each in network.reservations}
        for lease in _of_nobody(facts, network):
            owner = owners.get(lease.ip)
            if owner is not None and lease.mac not in reserved:
                yield of_network(
                    network,
                    Answer.FAIL,
                    f"{lease.ip} is {owner.name or owner.mac}'s, and {lease.mac} has a lease for it",
                    f"the lease ends {_ends(facts, lease)}; no machine of this host has its MAC",
                    fix=_release(network, lease),
                )


@check("lease-mismatch", "Has every machine the address that is reserved for it?", Part.NETWORKS, Part.LEASES)
def mismatches(facts: Facts) -> Iterator[Finding]:
    for network in facts.active:
        for reservation in network.reservations:
            held = facts.lease_of(network, reservation.mac)
            if held is None or held.ip == reservation.ip:
                continue
            owner = _owner(facts, reservation.mac)
            yield Finding(
                "",
                owner.name if owner else reservation.name or reservation.mac,
                Answer.FAIL,
                f"{reservation.ip} is reserved for it, and it has a lease for {held.ip}",
                (f"MAC {held.mac}; the lease ends {_ends(facts, held)}",),
                _release(network, held, owner),
                network=network.name,
                machine=owner.name if owner else "",
            )


def _release(network: Network, lease: Lease, owner: Machine | None = None) -> Fix:
    """Only a restart of dnsmasq without the lease takes one back that its holder does not return."""
    if owner is not None:
        setlink = ("virsh", "domif-setlink", owner.name, lease.mac)
        return advice(
            "Have it ask anew, by its link (what it is doing over it waits for a moment):",
            (*setlink, "down"),
            (*setlink, "up"),
        )
    return advice(
        f"It goes by itself when it ends. At once: end whoever has MAC {lease.mac}, and give the lease back for it "
        "(package dnsmasq-utils):",
        ("dhcp_release", network.bridge, str(lease.ip), lease.mac),
    )


def _owner(facts: Facts, mac: str) -> Machine | None:
    return next((each for each in facts.machines if any(nic.mac == mac for nic in each.interfaces)), None)


def _called(facts: Facts, mac: str) -> str:
    owner = _owner(facts, mac)
    return f"{owner.name} ({mac})" if owner else mac


def _ends(facts: Facts, lease: Lease) -> str:
    return "never" if not lease.expires else f"in {max(0, lease.expires - facts.now) / 60:.0f} minutes"
