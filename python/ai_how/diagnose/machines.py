"""Checks of one machine: running, plugged into its network, and with an address."""

from __future__ import annotations

from collections.abc import Iterator

from ai_how.diagnose.facts import Facts, Interface, Machine
from ai_how.diagnose.finding import Answer, Finding


def check_machines(facts: Facts) -> Iterator[Finding]:
    """All running machines; one that is off is nobody's fault."""
    for machine in facts.machines:
        if machine.state == "running":
            yield from check_machine(facts, machine)


def check_machine_named(facts: Facts, name: str) -> Iterator[Finding]:
    """The one machine that was asked for."""
    if facts.problem:
        return
    machine = next((machine for machine in facts.machines if machine.name == name), None)
    if machine is None:
        known = ", ".join(machine.name for machine in facts.machines) or "none"
        hint = f"the machines here: {known}"
        yield Finding("vm-undefined", name, Answer.FAIL, "there is no machine of this name", hint=hint)
        return
    yield from check_machine(facts, machine)


def check_machine(facts: Facts, machine: Machine) -> Iterator[Finding]:
    """One machine and each of its interfaces."""
    if machine.state != "running":
        summary = f"the machine is not running: {machine.state}"
        hint = f"virsh resume {machine.name}" if machine.state == "paused" else f"virsh start {machine.name}"
        yield Finding("vm-not-running", machine.name, Answer.FAIL, summary, hint=hint)
        return
    yield Finding("vm", machine.name, Answer.OK, f"running, {len(machine.interfaces)} interfaces")
    for interface in machine.interfaces:
        yield from _plugged_in(facts, machine, interface)
        yield from _addressed(facts, machine, interface)


def _plugged_in(facts: Facts, machine: Machine, interface: Interface) -> Iterator[Finding]:
    network = facts.network(interface.source) if interface.kind == "network" else None
    bridge = network.bridge if network else interface.source if interface.kind == "bridge" else ""
    if not bridge or not interface.tap:
        return
    link = facts.links.get(interface.tap)
    seen = (f"{interface.mac} in {interface.source}", f"tap {interface.tap}")
    if link is None:
        summary = f"its tap {interface.tap} is not there"
        hint = "it runs elsewhere (another network namespace or host), or its tap was deleted: restart it"
        yield Finding("vm-tap-missing", machine.name, Answer.FAIL, summary, seen, hint)
    elif link.master != bridge:
        summary = f"its tap {interface.tap} is on {link.master or 'no bridge'}, not on {bridge}"
        hint = f"ip link set {interface.tap} master {bridge}"
        yield Finding("vm-tap-detached", machine.name, Answer.FAIL, summary, seen, hint)
    elif not link.up:
        hint = f"ip link set {interface.tap} up"
        yield Finding("vm-link-down", machine.name, Answer.FAIL, f"its tap {interface.tap} is down", seen, hint)
    else:
        yield Finding("vm-link", machine.name, Answer.OK, f"{interface.tap} is up on {bridge}", seen)


def _addressed(facts: Facts, machine: Machine, interface: Interface) -> Iterator[Finding]:
    network = facts.network(interface.source) if interface.kind == "network" else None
    if network is None or not network.active or not network.dhcp_ranges:
        return
    lease = next((lease for lease in network.leases if lease.mac == interface.mac), None)
    if lease is None:
        summary = f"{interface.mac} has no lease from {network.name}"
        hint = f"still booting? Look at its console: virsh console {machine.name}"
        yield Finding("vm-no-lease", machine.name, Answer.FAIL, summary, hint=hint)
    else:
        until = (f"until {lease.expires:%Y-%m-%d %H:%M:%S} UTC",)
        yield Finding("vm-lease", machine.name, Answer.OK, f"{interface.mac} has {lease.ip}", until)
