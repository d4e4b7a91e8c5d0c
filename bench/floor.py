"""The floor: the same network, overlays and machines by bare libvirt-python and qemu-img, with nothing checked.

It is handed the very XML that ai-how makes, ready, so that only the host's work is counted. No plan, no journal, no
verification, no pool.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt

from ai_how.compile.cluster import HostFacts, compile_cluster
from ai_how.config.load import load_file
from ai_how.resources.domain import Domain
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.volume import Volume
from ai_how.spec.resolve import resolve

URI = "qemu:///system"


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine: its name, its XML, and its overlay with what qemu-img is told of it."""

    name: str
    xml: str
    overlay: Path
    backing: Path
    capacity: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything to make: the network's name and XML, the overlays' directory, the machines."""

    network: str
    network_xml: str
    folder: Path
    machines: tuple[Machine, ...]


def recipe(config: Path, *, kvm: bool) -> Recipe:
    """What ai-how would make of the configuration."""
    resources = compile_cluster(resolve(load_file(config)), HostFacts(kvm=kvm))
    network = next(each for each in resources if isinstance(each, VirtualNetwork))
    disks = {each.name: each for each in resources if isinstance(each, Volume)}
    machines = []
    for each in resources:
        if isinstance(each, Domain):
            disk = disks[each.disk.name]
            machines.append(Machine(each.name, each.to_xml(), Path(each.disk), Path(disk.backing), disk.capacity))
    return Recipe(network.name, network.to_xml(), machines[0].overlay.parent, tuple(machines))


def up(what: Recipe, *, threads: int, start: bool = True) -> None:
    """Make it all, up to the last machine running, or without `start` defined; `threads` machines at a time, 1 is one
    after the other.
    """
    connection = libvirt.open(URI)
    connection.networkDefineXML(what.network_xml).create()
    what.folder.mkdir(parents=True)

    def add_disk(machine: Machine) -> None:
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(machine.backing)]
        subprocess.run([*create, str(machine.overlay), str(machine.capacity)], check=True)

    def add_machine(machine: Machine) -> None:
        domain = connection.defineXML(machine.xml)
        if start:
            domain.create()

    # All disks before the first machine: a booting guest would take the CPU from what is still to be made.
    _each(add_disk, what.machines, threads)
    _each(add_machine, what.machines, threads)
    connection.close()


def wait_for_leases(what: Recipe) -> None:
    """Until every machine has its lease, looking as often as ai-how does."""
    connection = libvirt.open(URI)
    network = connection.networkLookupByName(what.network)
    while len({lease["mac"] for lease in network.DHCPLeases()}) < len(what.machines):
        time.sleep(0.1)
    connection.close()


def destroy(what: Recipe, *, threads: int) -> None:
    """Remove it all."""
    connection = libvirt.open(URI)

    def remove(machine: Machine) -> None:
        domain = connection.lookupByName(machine.name)
        if domain.isActive():
            domain.destroy()
        domain.undefine()
        machine.overlay.unlink()

    _each(remove, what.machines, threads)
    what.folder.rmdir()
    network = connection.networkLookupByName(what.network)
    network.destroy()
    network.undefine()
    connection.close()


def read_all(*, threads: int) -> None:
    """List every machine of the host and read its XML."""
    connection = libvirt.open(URI)
    _each(lambda domain: domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), connection.listAllDomains(), threads)
    connection.close()


def _each(work: Callable[[Any], object], things: Any, threads: int) -> None:
    if threads == 1:
        for thing in things:
            work(thing)
    else:
        with ThreadPoolExecutor(threads) as workers:
            for _ in workers.map(work, things):
                pass
