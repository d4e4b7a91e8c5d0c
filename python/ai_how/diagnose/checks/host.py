"""Checks of what everything stands on: libvirt's daemon, programs, settings of the kernel."""

from __future__ import annotations

from collections.abc import Iterator

from ai_how.diagnose.checks.base import advice, check, of_host, of_machine, of_network, repair
from ai_how.diagnose.facts import Facts, Part
from ai_how.diagnose.finding import Answer, Finding, Fix

#: Below this version dnsmasq can be made to run others' code by DNS answers (CVE-2020-25681 to 25687).
_DNSMASQ_SOUND = (2, 83)

#: The share of the table of connections from which on it is about to be full, and as good as full.
_NEARLY, _FULL = 0.8, 0.95


@check("libvirtd-down", "Does libvirt's daemon answer?", Part.LIBVIRT)
def daemon(facts: Facts) -> Iterator[Finding]:
    libvirt = facts.libvirt
    if libvirt.trouble in ("down", "absent", "unknown"):
        yield of_host(Answer.FAIL, libvirt.why, *_without_libvirt(facts), fix=_start(facts))
    elif not libvirt.trouble:
        versions = (f"{name} {version}" for name, version in sorted(facts.versions.items()))
        yield of_host(Answer.OK, f"libvirt {libvirt.version} answers at {libvirt.uri}", *versions)


def _without_libvirt(facts: Facts) -> Iterator[str]:
    """What is there by the kernel's word; whether it should be, only libvirt knows."""
    for link in facts.links.values():
        if link.kind == "bridge":
            addresses = ", ".join(map(str, link.addresses)) or "no address"
            yield f"there is: bridge {link.name}, {'up' if link.up else 'down'}, with {addresses}"
    for server in facts.servers:
        stopped = ", stopped" if server.stopped else ""
        yield f"there is: dnsmasq of network {server.network}, process {server.pid}{stopped}"


def _start(facts: Facts) -> Fix:
    libvirt, programs = facts.libvirt, facts.programs
    if facts.daemon is not None and "stopped" in libvirt.why:
        process = str(facts.daemon)
        return repair(("kill", "-CONT", process), undo=(("kill", "-STOP", process),))
    if libvirt.trouble == "absent":
        packages = ("libvirt-daemon-system", "libvirt-daemon-driver-qemu", "libvirt-clients", "qemu-system-x86")
        return advice("", ("apt-get", "install", "--no-install-recommends", *packages, "dnsmasq-base"))
    if libvirt.trouble == "unknown":
        return advice(libvirt.remedy)
    modular = not programs.get("libvirtd") and bool(programs.get("virtqemud"))
    units = ("virtqemud.socket", "virtnetworkd.socket", "virtstoraged.socket") if modular else ("libvirtd",)
    # One that hangs is there, and is not started by being told to.
    verb = "restart" if facts.daemon is not None else "start"
    return advice("", ("systemctl", verb, *units))


@check("permission-denied", "May this user use libvirt?", Part.LIBVIRT)
def permission(facts: Facts) -> Iterator[Finding]:
    if facts.libvirt.trouble == "permission":
        yield of_host(Answer.FAIL, facts.libvirt.why, *_without_libvirt(facts), fix=advice(facts.libvirt.remedy))


@check("outdated-package", "Are the programs free of known faults?", Part.HOST)
def versions(facts: Facts) -> Iterator[Finding]:
    version = facts.versions.get("dnsmasq", "")
    numbers = tuple(int(each) for each in version.split(".")[:2] if each.isdigit())
    if len(numbers) == 2 and numbers < _DNSMASQ_SOUND:
        yield of_host(
            Answer.WARN,
            f"dnsmasq {version} can be taken over by the DNS answers that it gets",
            "CVE-2020-25681 to CVE-2020-25687, repaired in 2.83",
            fix=advice("", ("apt-get", "install", "--only-upgrade", "dnsmasq-base")),
        )


@check(
    "kvm-unusable",
    "Can this host run its machines under KVM, where they want that?",
    Part.MACHINES,
    Part.HOST,
    Part.LIBVIRT,
)
def kvm(facts: Facts) -> Iterator[Finding]:
    for machine in facts.machines:
        if machine.kvm and not facts.kvm.usable:
            network = next((facts.network(nic.source) for nic in machine.interfaces if nic.kind == "network"), None)
            yield of_machine(
                machine,
                network,
                Answer.FAIL,
                "it is to run under KVM, which this host cannot do",
                facts.kvm.why,
                fix=advice(
                    "Switch virtualisation on in the firmware (or nested virtualisation in the host of this host), or "
                    "have the machine emulated: accelerator: tcg, or type='qemu' here:",
                    ("virsh", "edit", machine.name),
                ),
            )


@check("qemu-missing", "Is the emulator of every machine there?", Part.MACHINES, Part.LIBVIRT)
def emulator(facts: Facts) -> Iterator[Finding]:
    for path, why in facts.emulators.items():
        users = [each.name for each in facts.machines if each.emulator == path]
        yield of_host(
            Answer.FAIL,
            f"{path}: {why}",
            f"machines that need it: {', '.join(users)}",
            fix=advice("", ("apt-get", "install", "--reinstall", "qemu-system-x86")),
        )


@check("dnsmasq-missing", "Is the program dnsmasq there?", Part.HOST, Part.NETWORKS)
def dnsmasq_program(facts: Facts) -> Iterator[Finding]:
    users = [each.name for each in facts.networks if each.dns or each.serves_dhcp]
    if users and not facts.programs.get("dnsmasq"):
        yield of_host(
            Answer.FAIL,
            "no program dnsmasq: no network with DHCP or DNS can start",
            f"networks that need it: {', '.join(users)}",
            fix=advice("", ("apt-get", "install", "--reinstall", "dnsmasq-base")),
        )


@check("ip-forward-off", "Does the kernel forward packets of networks that lead out?", Part.NETWORKS, Part.SETTINGS)
def forwarding(facts: Facts) -> Iterator[Finding]:
    networks = [each for each in facts.active if each.leads_out]
    if networks and facts.settings.get("net/ipv4/ip_forward") == "0":
        names = ", ".join(each.name for each in networks)
        yield of_host(
            Answer.FAIL,
            "net.ipv4.ip_forward is 0: nothing gets from one link to another",
            f"networks that lead out: {names}",
            fix=_set("net/ipv4/ip_forward", "1", "0"),
        )
        return
    for network in networks:
        setting = f"net/ipv4/conf/{network.bridge}/forwarding"
        if facts.settings.get(setting) == "0":
            name = setting.replace("/", ".")
            summary = f"{name} is 0: what its nodes send goes no further"
            yield of_network(network, Answer.FAIL, summary, fix=_set(setting, "1", "0"))
    for link in facts.uplinks if networks else ():
        setting = f"net/ipv4/conf/{link}/forwarding"
        if facts.settings.get(setting) == "0":
            summary = f"{setting.replace('/', '.')} is 0: what comes back to nodes goes no further"
            yield of_host(Answer.FAIL, summary, fix=_set(setting, "1", "0"))


def _set(setting: str, value: str, before: str) -> Fix:
    # A name with slashes, since names of links may have dots (sysctl.d(5)).
    return repair(("sysctl", "-w", f"{setting}={value}"), undo=(("sysctl", "-w", f"{setting}={before}"),))


@check("conntrack-full", "Is there room for more connections?", Part.SETTINGS)
def connections(facts: Facts) -> Iterator[Finding]:
    count, most = (facts.settings.get(f"net/netfilter/nf_conntrack_{each}", "") for each in ("count", "max"))
    if count.isdigit() and most.isdigit() and int(most) and int(count) >= _NEARLY * int(most):
        full = int(count) >= _FULL * int(most)
        yield of_host(
            Answer.FAIL if full else Answer.WARN,
            f"{count} of {most} connections are in the kernel's table"
            + (": new ones are dropped" if full else ": it will be full soon"),
            fix=advice(
                "Who has so many: conntrack -L (package conntrack). More room, until the next boot:",
                ("sysctl", "-w", f"net.netfilter.nf_conntrack_max={2 * int(most)}"),
            ),
        )


@check(
    "rp-filter", "Does reverse path filtering let in what comes by every link?", Part.SETTINGS, Part.ROUTES, Part.LINKS
)
def reverse_path(facts: Facts) -> Iterator[Finding]:
    if not any(each.leads_out for each in facts.active) or not facts.uplinks:
        return
    main, *others = facts.uplinks
    dropping = facts.settings.get("rp_filter/drops", "0") != "0"
    # Answers to our own questions came by a link that is no way out.
    strangers = [
        each.name
        for each in facts.links.values()
        if dropping and each.up and each.addresses and each.kind != "loopback" and not facts.network_on(each.name)
    ]
    everywhere = facts.settings.get("net/ipv4/conf/all/rp_filter", "0")
    for link in dict.fromkeys((*others, *(each for each in strangers if each != main))):
        setting = f"net/ipv4/conf/{link}/rp_filter"
        here = facts.settings.get(setting, "0")
        if max(everywhere, here) == "1":
            yield Finding(
                "",
                link,
                Answer.FAIL if dropping else Answer.WARN,
                f"what comes in by {link} is dropped: answers leave by {main}, and rp_filter is strict",
                (f"net.ipv4.conf.all.rp_filter = {everywhere}", f"net.ipv4.conf.{link}.rp_filter = {here}"),
                _set(setting, "2", here),
            )
