"""Checks of machines: that they run, are plugged into their network, have their address, and are right inside."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface

from ai_how.diagnose.checks.base import advice, check, of_machine, repair
from ai_how.diagnose.facts import Facts, Guest, Interface, Machine, Network, Part
from ai_how.diagnose.finding import Answer, Command, Finding, Fix

#: Seconds that a machine may take from its start to its lease.
GRACE = 30.0

#: The master of all ports of all bridges of Open vSwitch, which keeps to itself which port is on which.
_OPEN_VSWITCH = "ovs-system"

_PAUSED = ("paused", "suspended")

#: Resolvers within a guest, which ask others in turn.
_STUBS = "127."


@check("vm-not-running", "Does every machine run that should?", Part.MACHINES)
def running(facts: Facts) -> Iterator[Finding]:
    for machine in facts.machines:
        network = _network(facts, machine)
        if machine.running:
            age = "" if machine.age is None else f", for {machine.age:.0f} s"
            yield of_machine(machine, network, Answer.OK, f"running{age}, {len(machine.interfaces)} interface(s)")
        elif _should_run(facts, machine):
            # A pause may be somebody's will, and not only ours to end.
            mild = machine.state in _PAUSED and not machine.cluster and facts.asked != machine.name
            yield of_machine(
                machine,
                network,
                Answer.WARN if mild else Answer.FAIL,
                f"the machine is not running: {machine.state}",
                fix=_woken(machine),
            )


def _woken(machine: Machine) -> Fix:
    if machine.state not in _PAUSED:
        return repair(("virsh", "start", machine.name), undo=(("virsh", "destroy", machine.name),))
    command = "resume" if machine.state == "paused" else "dompmwakeup"
    return advice(
        "libvirt pauses a machine whose disk is full or gone, people pause one on purpose. See why, then let it go on:",
        ("virsh", "domstate", "--reason", machine.name),
        ("virsh", command, machine.name),
    )


def _should_run(facts: Facts, machine: Machine) -> bool:
    """One that is shut off is nobody's fault, unless it should start by itself, or others of its cluster run."""
    if facts.asked == machine.name or machine.state == "crashed":
        return True
    if machine.state in _PAUSED:
        return True
    others = (each.running for each in facts.machines if each.cluster == machine.cluster and machine.cluster)
    return machine.autostart or any(others)


@check("vm-wrong-network", "Is every machine in its own network?", Part.MACHINES, Part.NETWORKS, Part.LINKS)
def own_network(facts: Facts) -> Iterator[Finding]:
    for machine in facts.machines:
        wanted = next((e for e in facts.networks if e.cluster == machine.cluster and machine.cluster), None)
        strays = [nic for nic in machine.interfaces if nic.kind == "network" and wanted and nic.source != wanted.name]
        for nic in strays if wanted else ():
            yield of_machine(
                machine,
                wanted,
                Answer.FAIL,
                f"it is of cluster {machine.cluster}, and its interface {nic.mac} is in network {nic.source}",
                fix=advice("Take it back with the cluster's configuration: ai-how up. It belongs in its own network."),
            )
    for machine, nic, network in _plugged(facts):
        port, bridge = facts.port_of(nic), _bridge(nic, network)
        other = facts.network_on(port.master) if port is not None and bridge and port.master != bridge else None
        if port is not None and other is not None:
            yield of_machine(
                machine,
                network,
                Answer.FAIL,
                f"its tap {nic.tap} is plugged into {port.master} of network {other.name}, not into {bridge}",
                fix=_plugged_in(facts, nic, bridge, _plug(nic, port.master)),
            )


@check("vm-tap-detached", "Is the tap of every machine on its bridge?", Part.MACHINES, Part.NETWORKS, Part.LINKS)
def tap(facts: Facts) -> Iterator[Finding]:
    for machine, nic, network in _plugged(facts):
        bridge, port = _bridge(nic, network), facts.port_of(nic)
        if not bridge or not nic.tap:
            continue
        if port is None:
            yield of_machine(
                machine,
                network,
                Answer.FAIL,
                f"its tap {nic.tap} is gone",
                fix=advice(
                    "Only a new start makes another:",
                    ("virsh", "destroy", machine.name),
                    ("virsh", "start", machine.name),
                ),
            )
        elif port.master not in (bridge, _OPEN_VSWITCH) and facts.network_on(port.master) is None:
            off: Command = ("ip", "link", "set", "dev", nic.tap, "nomaster")
            undo = _plug(nic, port.master) if port.master else off
            yield of_machine(
                machine,
                network,
                Answer.FAIL,
                f"its tap {nic.tap} is on {f'{port.master}, which is no network' if port.master else 'no bridge'}",
                f"it belongs on {bridge}",
                fix=_plugged_in(facts, nic, bridge, undo),
            )


@check("vm-link-down", "Is the link of every machine up?", Part.MACHINES, Part.NETWORKS, Part.LINKS)
def link(facts: Facts) -> Iterator[Finding]:
    for machine, nic, network in _plugged(facts):
        port = facts.port_of(nic)
        if not nic.plugged:
            setlink = ("virsh", "domif-setlink", machine.name, nic.mac)
            yield of_machine(
                machine,
                network,
                Answer.FAIL,
                f"its interface {nic.mac} is unplugged: its link is set down",
                fix=repair((*setlink, "up"), undo=((*setlink, "down"),)),
            )
        elif port is not None and not port.up:
            words = ("ip", "link", "set", "dev", nic.tap)
            yield of_machine(
                machine,
                network,
                Answer.FAIL,
                f"its tap {nic.tap} is down",
                fix=repair((*words, "up"), undo=((*words, "down"),)),
            )


@check(
    "vm-no-lease", "Has every running machine an address?",
    Part.MACHINES, Part.NETWORKS, Part.LEASES, Part.PROCESSES,
)  # fmt: skip
def lease(facts: Facts) -> Iterator[Finding]:
    for machine, nic, network in _plugged(facts):
        if network is None or not network.active or not network.serves_dhcp:
            continue
        held = facts.lease_of(network, nic.mac)
        if held is not None:
            minutes = f"for {(held.expires - facts.now) / 60:.0f} more minutes" if held.expires else "for ever"
            yield of_machine(machine, network, Answer.OK, f"{nic.mac} has {held.ip}, {minutes}")
        elif inside := _own_address(facts, machine, nic, network):
            yield of_machine(machine, network, Answer.OK, f"{nic.mac} has {inside}, and did not ask DHCP for it")
        elif network.bridge in facts.unread_leases:
            why = facts.unread_leases[network.bridge]
            yield of_machine(machine, network, Answer.UNKNOWN, f"the leases of {network.name} are not known", why)
        elif not _is_otherwise(facts.guests.get(machine.name), nic):
            young = machine.age is not None and machine.age < GRACE
            yield of_machine(
                machine,
                network,
                Answer.UNKNOWN if young else Answer.FAIL,
                f"{nic.mac} has no lease from {network.name}"
                + (f" yet: it has run for {machine.age:.0f} s" if young else ""),
                fix=advice(
                    "It does not ask DHCP, or has not come up. Look at its console, and at what it sends:",
                    ("virsh", "console", machine.name),
                    ("tcpdump", "-ni", nic.tap or network.bridge, "port", "67", "or", "arp"),
                ),
            )


def _own_address(facts: Facts, machine: Machine, nic: Interface, network: Network) -> str:
    """The address by which it is there all the same: the one that is reserved for it, else any in the subnet.

    Its agent knows; of machines without one, who answers ARP.
    """
    guest = facts.guests.get(machine.name)
    if guest is not None and guest.answers:
        found = [each.ip for each in guest.addresses.get(nic.mac, ())]
    else:
        found = [ip for ip, macs in facts.answering.get(network.bridge, {}).items() if nic.mac in macs]
    reserved = next((each.ip for each in network.reservations if each.mac == nic.mac), None)
    own = (ip for ip in found if network.subnet and ip in network.subnet and reserved in (None, ip))
    return str(next(own, ""))


def _is_otherwise(guest: Guest | None, nic: Interface) -> bool:
    """Whether its agent says that the interface has an address, which then is another one than it should have."""
    return guest is not None and bool(guest.addresses.get(nic.mac))


@check(
    "vm-guest-misconfigured",
    "Is every machine inside what its network says?",
    Part.MACHINES,
    Part.NETWORKS,
    Part.GUESTS,
)
def inside(facts: Facts) -> Iterator[Finding]:
    for machine, nic, network in _plugged(facts):
        guest = facts.guests.get(machine.name)
        if guest is None or not guest.answers or network is None or not network.active or network.gateway is None:
            continue
        # Of several networks one has the way out, and which one is the machine's own matter.
        alone = len(machine.interfaces) == 1
        ways = _wrong_ways(guest, network, network.gateway.ip) if alone else ()
        wrong = [*_wrong_address(facts, guest, nic, network), *ways]
        if wrong:
            yield of_machine(
                machine,
                network,
                Answer.FAIL,
                wrong[0],
                *wrong[1:],
                fix=advice(
                    "Correct it inside: let the interface be configured by DHCP (netplan: dhcp4: true).",
                    ("virsh", "console", machine.name),
                ),
            )


def _wrong_address(facts: Facts, guest: Guest, nic: Interface, network: Network) -> Iterator[str]:
    have = guest.addresses.get(nic.mac)
    if have is None:
        yield f"its agent knows no interface with MAC {nic.mac}"
        return
    held = facts.lease_of(network, nic.mac)
    reserved = next((each.ip for each in network.reservations if each.mac == nic.mac), None)
    wanted = reserved or (held.ip if held else None)
    if wanted is not None and have and wanted not in {each.ip for each in have}:
        yield f"its address is {_words(have)}, and should be {wanted}"
    elif wanted is None and have and network.subnet and not any(each.ip in network.subnet for each in have):
        yield f"its address is {_words(have)}, which is not in {network.subnet}"
    elif held is not None and not have:
        yield f"it has a lease for {held.ip}, and no address"


def _wrong_ways(guest: Guest, network: Network, gateway: IPv4Address) -> Iterator[str]:
    if network.leads_out and guest.routers is not None and gateway not in guest.routers:
        routers = ", ".join(map(str, guest.routers)) or "none"
        yield f"its default router is {routers}, and should be {gateway}"
    told = network.told or ((str(gateway),) if network.dns else ())
    own = [each for each in guest.resolvers or () if not each.startswith(_STUBS)]
    stub = len(own) < len(guest.resolvers or ())
    if told and guest.resolvers is not None and not stub and not set(told) & set(own):
        yield f"it asks {', '.join(own) or 'nobody'} for names, and should ask {', '.join(told)}"


def _words(addresses: tuple[IPv4Interface, ...]) -> str:
    return ", ".join(str(each.ip) for each in addresses)


def _plugged(facts: Facts) -> Iterator[tuple[Machine, Interface, Network | None]]:
    """Every interface of every running machine, with its network where it is in one of libvirt's."""
    for machine in facts.machines:
        if machine.running:
            for nic in machine.interfaces:
                yield machine, nic, facts.network(nic.source) if nic.kind == "network" else None


def _bridge(nic: Interface, network: Network | None) -> str:
    """The bridge that its tap belongs on."""
    if network is not None:
        return network.bridge if network.active else ""
    return nic.source if nic.kind == "bridge" else ""


def _network(facts: Facts, machine: Machine) -> Network | None:
    return next((facts.network(nic.source) for nic in machine.interfaces if nic.kind == "network"), None)


def _plugged_in(facts: Facts, nic: Interface, bridge: str, undo: Command) -> Fix:
    """Make its tap a port of `bridge`, if there is one."""
    if bridge in facts.links:
        return repair(_plug(nic, bridge), undo=(undo,))
    return advice(f"There is no bridge {bridge}: make it again, then plug the tap in.", _plug(nic, bridge))


def _plug(nic: Interface, bridge: str) -> Command:
    return ("ip", "link", "set", "dev", nic.tap, "master", bridge)
