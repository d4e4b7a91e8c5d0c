"""A libvirt domain: one node's machine (libvirt's domain format, formatdomain.html)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

from ai_how.resources import xml
from ai_how.resources.base import Impact, Kind, ResourceId, identity_uuid, managed
from ai_how.spec.node import Role

#: TCG reserves a quarter of memory for translated code by default; small guests need far less.
_TCG_CACHE_MIB = 32


@dataclass(frozen=True, slots=True)
class Domain:
    """One machine. `memory_kib` in KiB; `kvm` chooses hardware virtualisation over TCG.

    `disk` and `seed` name volumes of `pool`, which stand in `directory`. `linked` is whether its tap is on the bridge
    of its network; one that does not run has none to be elsewhere. `saved` is False where somebody undefined it
    while it ran: it would be gone with its power.
    """

    kind: ClassVar[Kind] = Kind.DOMAIN

    name: str
    cluster: str = managed(Impact.LIVE)
    role: Role = managed(Impact.LIVE)
    kvm: bool = managed(Impact.RESTART)
    vcpus: int = managed(Impact.RESTART)
    memory_kib: int = managed(Impact.RESTART)
    disk: PurePosixPath = managed(Impact.RESTART)
    seed: PurePosixPath | None = managed(Impact.RESTART)
    network: str = managed(Impact.RESTART)
    mac: str = managed(Impact.RESTART)
    graphics: bool = managed(Impact.RESTART)
    running: bool = managed(Impact.LIVE)
    linked: bool = managed(Impact.LIVE, default=True)
    saved: bool = managed(Impact.LIVE, default=True)

    @property
    def key(self) -> str:
        return self.name

    @property
    def up(self) -> bool:
        return self.running

    @property
    def needs(self) -> tuple[ResourceId, ...]:
        pool = self.disk.parent.name
        files = [ResourceId(Kind.VOLUME, f"{pool}/{self.disk.name}")]
        if self.seed is not None:
            files.append(ResourceId(Kind.SEED, f"{pool}/{self.seed.name}"))
        return (ResourceId(Kind.NETWORK, self.network), *files)

    def to_xml(self) -> str:
        """The domain as libvirt reads it."""
        document = xml.root("domain", type="kvm" if self.kvm else "qemu")
        xml.child(document, "name", self.name)
        xml.child(document, "uuid", str(identity_uuid(self.kind, self.name)))
        xml.mark(document, cluster=self.cluster, role=self.role)
        xml.child(document, "memory", str(self.memory_kib), unit="KiB")
        xml.child(document, "vcpu", str(self.vcpus))
        # cloud-init's NoCloud and the micro image read the node's name here, before there is a network.
        information = xml.child(document, "sysinfo", type="smbios")
        xml.child(xml.child(information, "system"), "entry", f"ds=nocloud;h={self.name}", name="serial")
        os = xml.child(document, "os")
        xml.child(os, "type", "hvm", arch="x86_64", machine="q35")
        xml.child(os, "boot", dev="hd")
        xml.child(os, "smbios", mode="sysinfo")
        features = xml.child(document, "features")
        xml.child(features, "acpi")
        xml.child(features, "apic")
        if not self.kvm:
            xml.child(xml.child(features, "tcg"), "tb-cache", str(_TCG_CACHE_MIB), unit="MiB")
        xml.child(document, "cpu", mode="host-passthrough" if self.kvm else "maximum")
        clock = xml.child(document, "clock", offset="utc")
        xml.child(clock, "timer", name="rtc", tickpolicy="catchup")
        xml.child(clock, "timer", name="hpet", present="no")
        xml.child(document, "on_poweroff", "destroy")
        xml.child(document, "on_reboot", "restart")
        xml.child(document, "on_crash", "destroy")
        self._add_devices(xml.child(document, "devices"))
        return xml.render(document)

    def _add_devices(self, devices: xml.Element) -> None:
        _add_disk(devices, self.disk, "qcow2", "vda")
        if self.seed is not None:
            # A virtio disk, not a CD-ROM: small kernels (Debian's cloud kernel) have no AHCI driver.
            xml.child(_add_disk(devices, self.seed, "raw", "vdb"), "readonly")
        xml.child(devices, "controller", type="usb", model="none")
        nic = xml.child(devices, "interface", type="network")
        xml.child(nic, "mac", address=self.mac)
        xml.child(nic, "source", network=self.network)
        xml.child(nic, "model", type="virtio")
        xml.child(devices, "serial", type="pty")
        xml.child(devices, "console", type="pty")
        agent = xml.child(devices, "channel", type="unix")
        xml.child(agent, "target", type="virtio", name="org.qemu.guest_agent.0")
        xml.child(devices, "memballoon", model="virtio")
        rng = xml.child(devices, "rng", model="virtio")
        xml.child(rng, "backend", "/dev/urandom", model="random")
        if self.graphics:
            xml.child(devices, "graphics", type="vnc", listen="127.0.0.1", autoport="yes")
            xml.child(xml.child(devices, "video"), "model", type="virtio")
        else:
            # libvirt would not add one without graphics, older versions did.
            xml.child(xml.child(devices, "video"), "model", type="none")


def _add_disk(devices: xml.Element, path: PurePosixPath, driver: str, target: str) -> xml.Element:
    disk = xml.child(devices, "disk", type="file", device="disk")
    xml.child(disk, "driver", name="qemu", type=driver)
    xml.child(disk, "source", file=str(path))
    xml.child(disk, "target", dev=target, bus="virtio")
    return disk


def read_domain(text: str, *, running: bool) -> Domain:
    """The domain that libvirt's (inactive) XML describes."""
    document = xml.parse(text)
    facts = xml.read_mark(document)
    disks = {
        xml.attribute(disk, "target", "dev"): xml.attribute(disk, "source", "file")
        for disk in document.iterfind("devices/disk")
    }
    seed = disks.get("vdb", "")
    role = facts.get("role", "")
    return Domain(
        name=document.findtext("name", ""),
        cluster=facts.get("cluster", ""),
        role=Role(role) if role in set(Role) else Role.COMPUTE,
        kvm=document.get("type") == "kvm",
        vcpus=int(document.findtext("vcpu", "0")),
        memory_kib=int(document.findtext("memory", "0")),
        disk=PurePosixPath(disks.get("vda", "")),
        seed=PurePosixPath(seed) if seed else None,
        network=xml.attribute(document, "devices/interface/source", "network"),
        mac=xml.attribute(document, "devices/interface/mac", "address"),
        graphics=document.find("devices/graphics") is not None,
        running=running,
    )
