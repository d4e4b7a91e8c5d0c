"""The documented troubleshooting script on real libvirt: silent about what is well, and right about what is not."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ai_how.host.libvirt import Libvirt

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "python/ai_how/examples/network_troubleshooting.py"
NETWORK, BRIDGE = "trouble-network", "br-trouble"
HOME, HOME_BRIDGE, MACHINE, MAC = "home-network", "br-home", "home-machine", "52:54:00:00:77:02"


def network_xml(name: str, bridge: str, third: int) -> str:
    return f"""
<network>
  <name>{name}</name>
  <forward mode='nat'/>
  <bridge name='{bridge}' stp='off' delay='0'/>
  <ip address='10.77.{third}.1' prefix='24'>
    <dhcp><range start='10.77.{third}.10' end='10.77.{third}.99'/></dhcp>
  </ip>
</network>
"""


def machine_xml(name: str, mac: str, boot: str) -> str:
    return f"""
<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='{boot}'/></os>
  <features><acpi/></features>
  <devices>
    <interface type='network'><mac address='{mac}'/><source network='{HOME}'/><model type='virtio'/></interface>
  </devices>
</domain>
"""


def ask(*words: str, python: tuple[str, ...] = (sys.executable,)) -> subprocess.CompletedProcess[str]:
    """The script, called as documented from the repository's root."""
    return subprocess.run([*python, SCRIPT, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def shell(command: str) -> None:
    subprocess.run(["bash", "-ec", command], check=True, capture_output=True, timeout=60)


def about(subject: str, text: str) -> list[str]:
    """The lines of a report about one thing."""
    return [line for line in text.splitlines() if line[9:].startswith(f"{subject}: ")]


def repair_in(text: str) -> str:
    """The first command that a report gives; what it does stands in parentheses behind it."""
    return text.partition("→ ")[2].partition("\n")[0].partition("  (")[0]


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come in {seconds} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def libvirt() -> Iterator[Libvirt]:
    with Libvirt() as host:
        yield host


@contextmanager
def running(libvirt: Libvirt, name: str, bridge: str, third: int) -> Iterator[str]:
    handle = libvirt.connection.networkDefineXML(network_xml(name, bridge, third))
    handle.create()
    try:
        yield name
    finally:
        if handle.isActive():
            handle.destroy()
        handle.undefine()
        subprocess.run(["ip", "link", "delete", bridge], check=False, capture_output=True)


@pytest.fixture
def network(libvirt: Libvirt) -> Iterator[str]:
    """A network without machines, to be broken."""
    with running(libvirt, NETWORK, BRIDGE, 77) as name:
        yield name


@pytest.fixture(scope="module")
def machine(libvirt: Libvirt) -> Iterator[str]:
    """A machine in a network of its own, for all tests: they leave it as well as they found it.

    It boots from the network: the firmware's own DHCP client takes a lease, and no disk is needed.
    """
    with running(libvirt, HOME, HOME_BRIDGE, 78) as home:
        handle = libvirt.connection.defineXML(machine_xml(MACHINE, MAC, "network"))
        handle.create()
        leases = libvirt.connection.networkLookupByName(home).DHCPLeases
        wait_for("the firmware's lease", lambda: bool(leases(None, 0)))
        yield MACHINE
        if handle.isActive():
            handle.destroy()
        handle.undefine()


def tap() -> str:
    [name] = [port.name for port in Path(f"/sys/class/net/{HOME_BRIDGE}/brif").iterdir()]
    return name


@pytest.mark.parametrize("words", [(), ("networks",), ("dnsmasq",)])
def test_nothing_is_reported_about_what_is_well(machine: str, words: tuple[str, ...]) -> None:
    """Other tests of the session may have left networks here that are not well: those lines are theirs."""
    ended = ask(*words)
    lines = about(HOME, ended.stdout) + about(machine, ended.stdout)
    assert lines
    assert all(line.startswith("ok ") for line in lines), ended.stdout
    assert ended.stderr == ""


@pytest.mark.parametrize("words", [("network", HOME), ("vm", MACHINE)])
def test_what_is_well_ends_with_0(machine: str, words: tuple[str, ...]) -> None:
    ended = ask(*words)
    assert ended.returncode == 0, ended.stdout
    assert all(line.startswith(("ok ", " ")) for line in ended.stdout.splitlines())
    assert ended.stderr == ""


def test_network_in_detail_shows_what_it_is_and_who_has_an_address(machine: str) -> None:
    shown = ask("network", HOME).stdout
    assert f"forward mode nat, bridge {HOME_BRIDGE}, gateway 10.77.78.1/24" in shown
    assert "DHCP 10.77.78.10–10.77.78.99, DNS on" in shown
    assert f"machines: {machine}" in shown
    assert f"{HOME_BRIDGE} is up with 10.77.78.1/24" in shown
    assert "1 lease\n" in shown
    assert MAC in shown
    assert "dnsmasq runs and answers" in shown


def test_machine_in_detail_shows_its_tap_and_its_lease(machine: str) -> None:
    shown = ask("vm", machine).stdout
    assert f"{machine}: running" in shown
    assert f"{tap()} is up on {HOME_BRIDGE}" in shown
    assert f"{MAC} has 10.77.78." in shown


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (f"virsh net-destroy {NETWORK}", "network-inactive"),
        (f"ip link set {BRIDGE} down", "bridge-down"),
        (f"ip link delete {BRIDGE}", "bridge-missing"),
        (f"ip address flush dev {BRIDGE}", "bridge-address-missing"),
        ("kill -9 $(cat /run/libvirt/network/trouble-network.pid)", "dnsmasq-dead"),
        ("kill -STOP $(cat /run/libvirt/network/trouble-network.pid)", "dnsmasq-unresponsive"),
    ],
)
def test_fault_is_named_with_its_repair_and_the_repair_works(network: str, fault: str, named: str) -> None:
    assert ask("network", network).returncode == 0
    shell(fault)
    ended = ask("network", network)
    assert ended.returncode == 1
    failed = [line for line in ended.stdout.splitlines() if line.startswith("fail ")]
    assert failed[0].endswith(f"[{named}]"), ended.stdout
    shell(repair_in(ended.stdout))
    wait_for("health after the repair", lambda: ask("network", network).returncode == 0)


def test_blocked_port_is_not_taken_for_health_because_the_process_runs(network: str) -> None:
    shell("nft 'add table inet trouble; add chain inet trouble in { type filter hook input priority -20; }'")
    try:
        shell("nft 'add rule inet trouble in udp dport 53 drop'")
        ended = ask("dnsmasq")
    finally:
        shell("nft delete table inet trouble")
    assert ended.returncode == 1
    [line] = about(network, ended.stdout)
    assert line.startswith("fail ")
    assert line.endswith("dnsmasq runs, but does not answer a DNS question [dnsmasq-unresponsive]")
    [line] = about(network, ask("dnsmasq").stdout)
    assert line.startswith("ok ")


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("ip link set {tap} nomaster", "vm-tap-detached"),
        ("ip link set {tap} down", "vm-link-down"),
        ("virsh destroy {machine}", "vm-not-running"),
        ("virsh suspend {machine}", "vm-not-running"),
    ],
)
def test_fault_of_a_machine_is_named_with_its_repair(machine: str, fault: str, named: str) -> None:
    shell(fault.format(tap=tap(), machine=machine))
    ended = ask("vm", machine)
    assert ended.returncode == 1
    assert f"[{named}]" in ended.stdout
    shell(repair_in(ended.stdout))
    wait_for("health after the repair", lambda: ask("vm", machine).returncode == 0)


def test_machine_without_a_lease_is_wrong(libvirt: Libvirt, machine: str) -> None:
    handle = libvirt.connection.createXML(machine_xml("mute-machine", "52:54:00:00:77:03", "hd"), 0)
    try:
        ended = ask("vm", "mute-machine")
        all_of_them = ask()
    finally:
        handle.destroy()
    assert ended.returncode == all_of_them.returncode == 1
    named = "mute-machine: 52:54:00:00:77:03 has no lease from home-network [vm-no-lease]"
    assert named in ended.stdout
    assert named in all_of_them.stdout


@pytest.mark.parametrize("kind", ["network", "vm"])
def test_name_that_does_not_exist_is_wrong_and_the_existing_ones_are_listed(machine: str, kind: str) -> None:
    ended = ask(kind, "nothing")
    assert ended.returncode == 1
    assert f"[{kind}-undefined]" in ended.stdout
    assert {"network": HOME, "vm": machine}[kind] in ended.stdout


def test_inactive_network_that_nobody_needs_is_only_mentioned(libvirt: Libvirt, network: str) -> None:
    libvirt.connection.networkLookupByName(network).destroy()
    lines = about(network, ask("networks").stdout)
    assert lines == [f"warn     {network}: the network is not active [network-inactive]"]


def test_bare_interpreter_says_what_it_can_and_how_to_get_the_rest(network: str) -> None:
    ended = ask(python=("/usr/bin/python3", "-I", "-S"))  # neither our environment nor the system's packages
    assert ended.returncode == 3
    assert "libvirt's Python bindings cannot be loaded" in ended.stdout
    assert "apt-get install python3-libvirt" in ended.stdout
    assert f"{BRIDGE}: the bridge is up with 10.77.77.1/24" in ended.stdout
    assert f"{network}: process " in ended.stdout
    assert "ok " not in ended.stdout
    assert ended.stderr == ""
