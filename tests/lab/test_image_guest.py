"""The micro image under real libvirt: it boots, takes its lease and its name, runs commands, and goes when told."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest
from tests.waiting import COMES_WITHIN, STARTS_WITHIN, until

from ai_how.host import agent
from ai_how.host.libvirt import Libvirt
from ai_how.images import build_micro_image

NETWORK, BRIDGE, GATEWAY = "micro-network", "br-micro", "10.66.6.1"
RESERVED_MAC, SERIAL_MAC, PLAIN_MAC = "52:54:00:66:06:02", "52:54:00:66:06:03", "52:54:00:66:06:04"

NETWORK_XML = f"""
<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
  <name>{NETWORK}</name><forward mode='nat'/><bridge name='{BRIDGE}' stp='off' delay='0'/><mtu size='1400'/>
  <domain name='micro.internal' localOnly='yes'/>
  <ip address='{GATEWAY}' prefix='24'><dhcp><range start='10.66.6.100' end='10.66.6.200'/>
    <host mac='{RESERVED_MAC}' name='hpc-controller' ip='10.66.6.2'/></dhcp></ip>
  <dnsmasq:options><dnsmasq:option value='no-ping'/>
    <dnsmasq:option value='dhcp-option=option:dns-server,0.0.0.0,8.8.8.8'/></dnsmasq:options>
</network>
"""


def domain_xml(name: str, mac: str, disk: Path, log: Path, serial: str) -> str:
    sysinfo = (
        f"<sysinfo type='smbios'><system><entry name='serial'>{serial}</entry></system></sysinfo>" if serial else ""
    )
    return f"""
<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>96</memory><vcpu>1</vcpu>{sysinfo}
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/>{"<smbios mode='sysinfo'/>" if serial else ""}</os>
  <features><acpi/><apic/><tcg><tb-cache unit='MiB'>32</tb-cache></tcg></features>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>
      <target dev='vda' bus='virtio'/></disk>
    <interface type='network'><mac address='{mac}'/><source network='{NETWORK}'/><model type='virtio'/></interface>
    <serial type='pty'><log file='{log}'/><target port='0'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
"""


@dataclass(frozen=True)
class Guest:
    host: Libvirt
    network: Any
    domain: Any
    mac: str
    log: Path

    def report(self) -> dict[str, str]:
        """The line on the console, as the host reads it."""
        found = until(
            lambda: re.search(r"^AI-HOW (\S.*?)\r?$", self.log.read_text(errors="replace"), re.MULTILINE),
            f"the report of {self.domain.name()}",
            STARTS_WITHIN,
        )
        return dict(field.split("=", 1) for field in found.group(1).split())

    def lease(self) -> dict[str, Any]:
        """Its lease as libvirt has it."""
        leases: list[dict[str, Any]] = until(
            lambda: [x for x in self.network.DHCPLeases() if x["mac"] == self.mac],
            f"the lease of {self.mac}",
            STARTS_WITHIN,
        )
        return leases[0]

    def run(self, *argv: str) -> tuple[int, str]:
        """Exit code and output of a command inside, once the agent answers."""
        self.wait_for_agent()
        ran = agent.run(self.host, self.domain.name(), argv, COMES_WITHIN)
        return ran.code, ran.stdout + ran.stderr

    def wait_for_agent(self) -> None:
        until(lambda: agent.answers(self.host, self.domain.name()), f"the agent of {self.domain.name()}")


@pytest.fixture(scope="module")
def guests(libvirt_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Guest]]:
    """Three guests of one image: with a reserved name, with a serial number that names it, and with neither."""
    folder = tmp_path_factory.mktemp("guests")
    image = build_micro_image(folder / "micro.qcow2")
    host = Libvirt(libvirt_uri)
    connection = host.connection
    network = connection.networkCreateXML(NETWORK_XML)
    made: dict[str, Guest] = {}
    try:
        for name, mac, serial in (
            ("reserved", RESERVED_MAC, "ds=nocloud;h=not-this-one"),
            ("serial", SERIAL_MAC, "ds=nocloud;h=by-serial;i=1"),
            ("plain", PLAIN_MAC, ""),
        ):
            disk, log = folder / f"{name}.qcow2", folder / f"{name}.log"
            create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image.path), str(disk), "1G"]
            subprocess.run(create, check=True)
            domain = connection.createXML(domain_xml(f"micro-{name}", mac, disk, log, serial))
            made[name] = Guest(host, network, domain, mac, log)
        yield made
    finally:
        for domain in connection.listAllDomains():
            if domain.name() in {f"micro-{name}" for name in made}:
                domain.destroy()
        network.destroy()
        host.close()


def test_guest_reports_the_lease_that_dhcp_gave(guests: dict[str, Guest]) -> None:
    assert guests["reserved"].report() == {
        "node": "hpc-controller",
        "ip": "10.66.6.2",
        "dns": f"{GATEWAY},8.8.8.8",
        "gateway": GATEWAY,
    }


def test_name_of_the_reservation_wins_over_the_serial_number(guests: dict[str, Guest]) -> None:
    assert guests["reserved"].report()["node"] == "hpc-controller"
    assert guests["reserved"].run("hostname") == (0, "hpc-controller\n")
    assert guests["reserved"].lease()["hostname"] == "hpc-controller"


def test_guest_without_reservation_asks_dhcp_with_the_name_in_its_serial_number(guests: dict[str, Guest]) -> None:
    assert guests["serial"].report()["node"] == "by-serial"
    assert guests["serial"].lease()["hostname"] == "by-serial"


def test_guest_without_any_name_is_called_after_its_mac(guests: dict[str, Guest]) -> None:
    report = guests["plain"].report()
    assert report["node"] == "node-525400660604"
    assert report["ip"] == guests["plain"].lease()["ipaddr"]


def test_guest_applies_route_dns_search_domain_and_mtu(guests: dict[str, Guest]) -> None:
    guest = guests["reserved"]
    code, routes = guest.run("ip", "route")
    assert (code, routes.splitlines()[0].strip()) == (0, f"default via {GATEWAY} dev eth0"), routes
    assert guest.run("cat", "/etc/resolv.conf") == (
        0,
        f"search micro.internal\nnameserver {GATEWAY}\nnameserver 8.8.8.8\n",
    )
    assert guest.run("cat", "/sys/class/net/eth0/mtu") == (0, "1400\n")


def test_commands_inside_reach_the_gateway_and_its_dns_and_tell_failure(guests: dict[str, Guest]) -> None:
    guest = guests["serial"]
    guests["reserved"].report()
    code, said = guest.run("ping", "-c", "1", "-W", "5", GATEWAY)
    assert (code, "1 packets received" in said) == (0, True), said
    code, said = guest.run("nslookup", "-type=a", "hpc-controller.micro.internal", GATEWAY)
    assert (code, "10.66.6.2" in said) == (0, True), said
    code, said = guest.run("nslookup", "-type=a", "nobody.micro.internal", GATEWAY)
    assert code != 0, said
    code, said = guest.run("ping", "-c", "1", "-W", "1", "10.66.6.99")
    assert code != 0, said


def test_agent_tells_the_guests_address(guests: dict[str, Guest]) -> None:
    guest = guests["plain"]
    address = guest.report()["ip"]
    guest.wait_for_agent()
    told = {each.name: each.addresses for each in agent.links(guest.host, guest.domain.name())}
    assert [str(each.ip) for each in told["eth0"] if each.version == 4] == [address]


def test_serial_console_has_a_shell(guests: dict[str, Guest]) -> None:
    guest = guests["plain"]
    guest.report()
    pty = re.search(r"<serial type='pty'>\s*<source path='([^']+)'", guest.domain.XMLDesc())
    assert pty
    handle = os.open(pty.group(1), os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(handle, b"\necho answer=$((6 * 7))\n")
        until(lambda: "answer=42" in guest.log.read_text(errors="replace"), "the shell's answer")
    finally:
        os.close(handle)


def test_renewal_changes_nothing_and_is_not_reported_twice(guests: dict[str, Guest]) -> None:
    guest = guests["plain"]
    guest.report()
    before = guest.run("ip", "-4", "addr", "show", "eth0")
    expires = guest.lease()["expirytime"]
    until(lambda: time.time() > expires - 3600 + 1, "the second after the lease")
    guest.run("killall", "-USR1", "udhcpc")
    until(lambda: guest.lease()["expirytime"] > expires, "the renewed lease")
    assert guest.run("ip", "-4", "addr", "show", "eth0") == before
    assert guest.log.read_text(errors="replace").count("AI-HOW node=") == 1


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("serial", libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN),
        ("plain", libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT),
    ],
    ids=["by the power button", "by the agent"],
)
def test_shutdown_ends_the_guest_within_seconds(guests: dict[str, Guest], name: str, how: int) -> None:
    guest = guests[name]
    guest.wait_for_agent()
    guest.domain.shutdownFlags(how)
    until(lambda: name not in _running(guest), f"the end of {name}")
    assert guests["reserved"].domain.isActive(), "one that was not told to go is gone too"


def _running(guest: Guest) -> set[str]:
    return {domain.name().removeprefix("micro-") for domain in guest.domain.connect().listAllDomains()}
