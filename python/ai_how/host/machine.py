"""What this machine can do: whether it runs guests under KVM, how much memory and how many CPUs it has."""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

MACHINE_ID = Path("/etc/machine-id")
KVM = Path("/dev/kvm")
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class KvmAbility:
    """Whether KVM really runs guests; `why` says what is missing, or what was seen."""

    usable: bool
    why: str


def judge_kvm(*, offered: bool, device: str, cpuinfo: str) -> KvmAbility:
    """The verdict from three facts.

    `offered`: libvirt lists KVM among its domain types. `device`: empty where /dev/kvm opens, else why it does not.
    `cpuinfo`: the text of /proc/cpuinfo. The CPU flag decides where the rest looks good: under some hypervisors
    /dev/kvm opens, creates machines, and hangs every guest (docs/facts.md).
    """
    if not offered:
        return KvmAbility(False, "libvirt does not offer it")
    if device:
        return KvmAbility(False, device)
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "").split()
    if "vmx" not in flags and "svm" not in flags:
        return KvmAbility(False, "/dev/kvm is there, but the CPU has neither vmx nor svm: guests would hang")
    return KvmAbility(True, "libvirt offers it, /dev/kvm opens, the CPU has " + ("vmx" if "vmx" in flags else "svm"))


def kvm_ability(*, offered: bool) -> KvmAbility:
    """The verdict for this machine; `offered` as for `judge_kvm`."""
    return judge_kvm(offered=offered, device=device_trouble(), cpuinfo=CPUINFO.read_text())


def device_trouble() -> str:
    """Why /dev/kvm cannot be opened, empty where it can (or where only this user may not: libvirt's QEMU may)."""
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        return "" if os.geteuid() != 0 else f"{KVM} may not be opened, even by root"
    except OSError as error:
        return f"{KVM} does not open: {error.strerror}"
    return ""


def memory_kib() -> int:
    """The machine's memory in KiB (/proc/meminfo, MemTotal)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            return int(value.split()[0])
    return 0


def cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def machine_identity() -> str:
    """What tells this machine from others, and nobody who it is: a digest of its id (machine-id(5)) and its name."""
    try:
        identity = MACHINE_ID.read_text().strip()
    except OSError:
        identity = ""
    return hashlib.sha256(f"ai-how {identity} {socket.gethostname()}".encode()).hexdigest()
