"""What must be true of the host before anything is changed. Everything here only looks."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from ai_how.config.load import Document
from ai_how.engine.events import Note, Progress
from ai_how.errors import ConfigurationError, HostError, some
from ai_how.host.image import blocked_for, header_of
from ai_how.host.libvirt import Libvirt
from ai_how.host.machine import cpus, kvm_ability, memory_kib
from ai_how.resources import xml
from ai_how.spec.cluster import Accelerator, Cluster

MIB = 1024 * 1024
KIB_PER_MIB = 1024

#: dnsmasq is started by libvirtd, whose PATH has these whatever ours has.
_SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What libvirt says of the host: the kinds of domain it runs (`kvm`, `qemu`) and the user that QEMU runs as."""

    domain_types: frozenset[str]
    qemu_uid: int | None
    qemu_gid: int | None


def read_abilities(text: str) -> Abilities:
    """The abilities in libvirt's capabilities (formatcaps.html) for x86-64 guests."""
    document = xml.parse(text)
    types = {
        each.get("type", "")
        for guest in document.iterfind("guest")
        if xml.attribute(guest, "arch", "name") == "x86_64"
        for each in guest.iterfind("arch/domain")
    }
    for model in document.iterfind("host/secmodel"):
        if model.findtext("model") == "dac":
            # "+64055:+64055": numbers, with a plus so that no name is meant
            uid, _, gid = model.findtext("baselabel", "").partition(":")
            return Abilities(frozenset(types), int(uid), int(gid))
    return Abilities(frozenset(types), None, None)


def abilities(libvirt: Libvirt) -> Abilities:
    """What this host's libvirt can do."""
    with libvirt.doing("cannot read the host's capabilities"):
        return read_abilities(libvirt.connection.getCapabilities())


def choose_kvm(cluster: Cluster, able: Abilities, progress: Progress) -> bool:
    """Whether the machines run under KVM; says which and why. Raises HostError where the wish cannot be met."""
    if not able.domain_types:
        raise HostError(
            "this host cannot run machines",
            why="libvirt knows no QEMU for x86-64 guests",
            remedy="Install it: apt-get install qemu-system-x86 libvirt-daemon-driver-qemu",
        )
    kvm = kvm_ability(offered="kvm" in able.domain_types)
    match cluster.accelerator:
        case Accelerator.AUTO:
            chosen = "KVM" if kvm.usable else "TCG (slow emulation)"
            progress(Note(f"accelerator: {chosen}, because {kvm.why}" if not kvm.usable else f"accelerator: {chosen}"))
            return kvm.usable
        case Accelerator.KVM:
            if not kvm.usable:
                raise HostError(
                    f"cluster {cluster.name} asks for KVM, which does not work on this host",
                    why=kvm.why,
                    remedy="Enable virtualisation in the firmware (or nesting in the outer hypervisor), "
                    "or set accelerator: auto",
                )
            return True
        case Accelerator.TCG:
            return False
        case _:
            assert_never(cluster.accelerator)


def check_image(document: Document, cluster: Cluster, able: Abilities) -> None:
    """Raise ConfigurationError where the base image cannot be what the nodes' disks stand on."""
    path = Path(cluster.base_image)
    place = ("clusters", cluster.key, "base_image_path")

    def refuse(message: str, hint: str) -> ConfigurationError:
        return ConfigurationError([document.problem(place, message, hint)])

    try:
        header = header_of(path)
        blocked = None if able.qemu_uid is None else blocked_for(path, able.qemu_uid, able.qemu_gid or 0)
    except FileNotFoundError as error:
        raise refuse(
            f"{path} does not exist", "give the path of a qcow2 image; make a small one: ai-how image build PATH"
        ) from error
    except OSError as error:
        raise refuse(f"{path} cannot be read: {error.strerror}", "give the path of a readable qcow2 image") from error
    if header is None:
        raise refuse(
            f"{path} is not a qcow2 image", "convert it: qemu-img convert -O qcow2 OLD NEW, and give the new one"
        )
    small = [node for node in cluster.nodes if node.disk_bytes < header.virtual_size]
    if small:
        needed = -(-header.virtual_size // (MIB * KIB_PER_MIB))
        raise refuse(
            f"the image's disk of {header.virtual_size / MIB / KIB_PER_MIB:.1f} GiB is larger than disk_gb of "
            + some([node.name for node in small]),
            f"set disk_gb to at least {needed} for them",
        )
    if blocked is not None:
        raise refuse(
            f"QEMU's user (uid {able.qemu_uid}) cannot reach {path}: it may not pass {blocked}",
            f"move the image to /var/lib/libvirt/images, or: chmod o+x {blocked}",
        )


def check_programs() -> None:
    """Raise HostError where a program that libvirt needs for our networks is missing."""
    if shutil.which("dnsmasq", path=_SEARCH) is None:
        raise HostError(
            "networks cannot be started",
            why="dnsmasq, which answers DHCP and DNS on them, is not installed",
            remedy="Install it: apt-get install dnsmasq-base",
        )


def weigh(cluster: Cluster, progress: Progress) -> None:
    """Say where the cluster wants more than the host has."""
    memory = sum(node.memory_mib for node in cluster.nodes)
    there = memory_kib() // KIB_PER_MIB
    if memory > there:
        progress(Note(f"the nodes of {cluster.name} want {memory} MiB of memory, the host has {there}", warning=True))
    widest = max((node.vcpus for node in cluster.nodes), default=0)
    if widest > cpus():
        progress(Note(f"a node of {cluster.name} has {widest} CPUs, the host has {cpus()}", warning=True))
