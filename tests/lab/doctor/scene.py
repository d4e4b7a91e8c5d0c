"""A host that is well, with something of everything that the doctor looks at, and what the doctor says of it.

A network that ai-how did not make, with a machine; a cluster in each DNS mode, without machines; a cluster with a
machine that runs; the host's own resolver and Consul, which know of them; the pretend internet.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.query
import pytest
from tests.lab.clusters import proof
from tests.lab.clusters.breakages import sh
from tests.lab.consul_agent import Agent, agent
from tests.lab.resolvers import resolving_by
from tests.waiting import STARTS_WITHIN, kill, until, until_ended

from ai_how.host import agent as guest_agent
from ai_how.host import daemon, dnsmasq
from ai_how.host.libvirt import Libvirt
from ai_how.probe import packets
from ai_how.probe.place import here

#: The subject of what concerns the whole host.
HOST = "host"

#: As every installation of libvirt has it, but that ports need no time to begin; and a machine there, whose firmware
#: takes a lease: no disk is needed.
DEFAULT, DEFAULT_BRIDGE, DEFAULT_GATEWAY = "default", "virbr0", "192.168.122.1"
TINY, TINY_MAC = "tiny", "52:54:00:00:77:02"

#: Clusters, by the number in their subnet: no two of these can be written as one network.
NUMBERS = {"alone": 1, "names": 3, "way": 5, "found": 7, "live": 9}
ALONE, NAMES, WAY, FOUND, LIVE = (f"{each}-network" for each in NUMBERS)

#: The machine that runs, and its address.
GUEST, GUEST_IP = "live-controller", "10.44.9.2"

#: A network behind a node of `way`, and the node's address.
BEHIND, ROUTER = "10.99.0.0/24", "10.44.5.2"

#: Seconds in which the doctor has answered, whatever is broken and however busy the host is.
WITHIN = 120.0

#: How long the doctor waits for all that it asks and for a machine, below ai_how.diagnose.ask: machines are emulated
#: here, on CPUs that others use, too. Whoever asks from a process of its own (`asked_by`, `ai-how doctor`) waits as
#: long as the doctor does anywhere, and so does `ask_impatiently`.
PATIENCE = {"WITHIN": 40.0, "guests.PATIENCE": 10, "guests.WITHIN": 20.0}

SYS = Path("/sys/class/net")
DNSMASQ = Path("/var/lib/libvirt/dnsmasq")
RESOLVER = Path("/etc/dnsmasq.d/lab.conf")

_DEFAULT_XML = f"""
<network><name>{DEFAULT}</name><forward mode='nat'/><bridge name='{DEFAULT_BRIDGE}' stp='off' delay='0'/>
  <ip address='{DEFAULT_GATEWAY}' netmask='255.255.255.0'><dhcp>
    <range start='192.168.122.2' end='192.168.122.254'/></dhcp></ip></network>
"""

#: Whether the machine that runs has asked DHCP by its link as it is now, and all that it was told is carried out.
_CONFIGURED = r"""
[ "$(cat /run/asked)" = "$(cat /sys/class/net/eth0/carrier_changes)" ] && [ -s /run/lease ] &&
ip route show default | grep -q 'via 10\.44\.9\.1 ' && grep -q 'nameserver 10\.44\.9\.1$' /etc/resolv.conf &&
! ps | grep -q 'sh /etc/guest/[l]ease'
"""

#: For an interpreter of its own, of another user or in another lab.
_CHILD = """
import json, sys
from ai_how.diagnose.doctor import examine
said = examine(words=tuple(sys.argv[1:]))
print(json.dumps({
    "root": said.root and [said.root.id, said.root.subject],
    "causes": [[each.id, each.subject, list(each.because)] for each in said.causes],
    "findings": [[each.check, each.subject, each.answer.value, each.summary] for each in said.findings],
}))
"""


@dataclass(frozen=True)
class Seen:
    """What the doctor said: causes as identifier and subject, findings as check, subject, answer and summary."""

    root: tuple[str, str] | None
    causes: tuple[tuple[str, str], ...]
    because: tuple[tuple[str, ...], ...]
    findings: tuple[tuple[str, str, str, str], ...]

    @property
    def wrong(self) -> list[str]:
        """The findings that are not well, a line each."""
        return [" ".join(each) for each in self.findings if each[2] != "ok"]

    def __str__(self) -> str:
        causes = [f"{' '.join(each)}: {'; '.join(why)}" for each, why in zip(self.causes, self.because, strict=True)]
        return "\n  ".join([f"root {self.root}", *causes, *self.wrong])


#: Asks the doctor these words.
Ask = Callable[[Sequence[str]], Seen]


@contextmanager
def patient() -> Iterator[None]:
    """The doctor has PATIENCE."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in PATIENCE.items():
            patch.setattr(f"ai_how.diagnose.ask.{name}", value)
        yield


def ask(words: Sequence[str] = ()) -> Seen:
    """What the doctor says here."""
    with patient():
        return ask_impatiently(words)


def ask_impatiently(words: Sequence[str] = ()) -> Seen:
    """The same where it waits as long as anywhere."""
    from ai_how.diagnose.doctor import examine

    with _in_time():
        said = examine(words=tuple(words))
    return Seen(
        (said.root.id, said.root.subject) if said.root else None,
        tuple((each.id, each.subject) for each in said.causes),
        tuple(tuple(each.because) for each in said.causes),
        tuple((each.check, each.subject, each.answer.value, each.summary) for each in said.findings),
    )


@contextmanager
def _in_time() -> Iterator[None]:
    """A doctor that does not come to an end is wrong, and is seen where it stays."""

    def late(*_: object) -> None:
        faulthandler.dump_traceback(2)
        raise AssertionError(f"the doctor has not come to an end in {WITHIN:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, WITHIN, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def asked_by(run: Callable[[list[str]], subprocess.CompletedProcess[str]]) -> Ask:
    """The same from an interpreter that `run` starts."""

    def elsewhere(words: Sequence[str]) -> Seen:
        ran = run([sys.executable, "-c", _CHILD, *words])
        assert ran.returncode == 0, ran.stderr
        said = json.loads(ran.stdout)
        return Seen(
            tuple(said["root"]) if said["root"] else None,
            tuple((each[0], each[1]) for each in said["causes"]),
            tuple(tuple(each[2]) for each in said["causes"]),
            tuple((each[0], each[1], each[2], each[3]) for each in said["findings"]),
        )

    return elsewhere


@dataclass
class Scene:
    """All of it. What stands on the connection to libvirt is made anew where its daemon ended.

    `spoilt` is the fault that could not be mended.
    """

    folder: Path
    clusters: proof.Scene
    consul: Agent
    spoilt: str = ""
    _agents: ExitStack = field(default_factory=ExitStack)

    def start_consul(self) -> None:
        """It was killed."""
        self.consul = self._agents.enter_context(agent(self.folder / "consul"))

    def restart_libvirt(self) -> None:
        """With the environment of the lab: the host's resolver of these tests has libraries of its own."""
        pid = daemon.find()
        if pid is not None:
            with suppress(ProcessLookupError):  # without the bus it ends by itself
                kill(pid)
        own = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
        subprocess.run(["libvirtd", "--daemon"], check=True, env=own)
        listed = ["virsh", "-q", "list"]
        until(lambda: subprocess.run(listed, check=False, capture_output=True).returncode == 0, "libvirt answers")
        self.clusters.libvirt = Libvirt()

    def inside(self, script: str) -> str:
        """What a script in the machine that runs prints."""
        with Libvirt() as libvirt:
            until(lambda: guest_agent.answers(libvirt, GUEST), f"the agent of {GUEST}")
            ran = guest_agent.run(libvirt, GUEST, ["/bin/sh", "-c", script])
        assert ran.code == 0, ran.stderr
        return ran.stdout

    def configure_guest(self) -> None:
        """DHCP sets anew what it sets inside."""
        self.inside("rm -f /run/lease; killall -USR1 udhcpc")
        self.wait_for_guest()

    def wait_for_guest(self) -> None:
        """All is there that DHCP sets inside, and it answers; after a loss of its link it has asked anew."""
        until(lambda: self._is_configured() and pings(GUEST_IP), f"{GUEST} is configured", STARTS_WITHIN)

    def _is_configured(self) -> bool:
        with Libvirt() as libvirt:
            try:
                return guest_agent.run(libvirt, GUEST, ["/bin/sh", "-c", _CONFIGURED]).code == 0
            except guest_agent.NoAgent:
                return False  # not up yet


def stop_network(name: str) -> None:
    """It is not there any more, nor its dnsmasq, which libvirt kills without waiting for its end."""
    pid = dnsmasq_of(name) if dnsmasq.serves(name) else None
    sh("virsh", "net-destroy", name)
    if pid is not None:
        until_ended(pid)


def dnsmasq_of(network: str) -> int:
    return int(Path(f"/run/libvirt/network/{network}.pid").read_text())


def bridge_of(network: str) -> str:
    return DEFAULT_BRIDGE if network == DEFAULT else f"br-{network.removesuffix('-network')}"


def gateway_of(network: str) -> str:
    return DEFAULT_GATEWAY if network == DEFAULT else f"10.44.{NUMBERS[network.removesuffix('-network')]}.1"


def tap_of(machine: str) -> str:
    return sh("virsh", "-q", "domiflist", machine).split()[0]


def mac_of(machine: str) -> str:
    return next(word for word in sh("virsh", "-q", "domiflist", machine).split() if word.startswith("52:54:"))


def card_of(machine: str, *, live: bool = True) -> ET.Element:
    """The definition of a machine's interface."""
    text = sh("virsh", "-q", "dumpxml", machine, *([] if live else ["--inactive"]))
    found = ET.fromstring(text).find("devices/interface")  # noqa: S314 - libvirt's own
    assert found is not None
    return found


def pings(address: str, whole: int | None = None) -> bool:
    """Whether the host has a reply from there, where a packet has `whole` bytes and is not divided."""
    with here() as host:
        return packets.ask(packets.ping(host, IPv4Address(address), whole=whole)).replied


def answers(server: str, name: str = "") -> bool:
    """Whether a DNS server answers at all, or for a name with an address."""
    if name:
        return bool(addresses(server, name))
    try:
        dns.query.udp(dns.message.make_query("version.bind", "TXT", "CH"), server, timeout=0.5)
    except (OSError, dns.exception.Timeout):
        return False
    return True


def addresses(server: str, name: str) -> list[str]:
    """Those of a name that a DNS server answers with; none where it answers nothing."""
    try:
        said = dns.query.udp(dns.message.make_query(name, "A"), server, timeout=0.5)
    except (OSError, dns.exception.Timeout):
        return []
    return [data.to_text() for answer in said.answer for data in answer]


def machine_xml(name: str, network: str, mac: str, *, kind: str = "qemu", boot: str = "hd", emulator: str = "") -> str:
    """A machine without a disk; with `boot` network its firmware takes a lease."""
    program = f"<emulator>{emulator}</emulator>" if emulator else ""
    return f"""
<domain type='{kind}'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='{boot}'/></os><features><acpi/></features>
  <devices>{program}
    <interface type='network'><mac address='{mac}'/><source network='{network}'/><model type='virtio'/></interface>
  </devices></domain>
"""


def write(folder: Path, text: str) -> str:
    """The path of a file with this text, for virsh."""
    path = folder / "definition.xml"
    path.write_text(text)
    return str(path)


@contextmanager
def _default(folder: Path) -> Iterator[None]:
    with ExitStack() as stack:
        sh("virsh", "net-define", write(folder, _DEFAULT_XML))
        stack.callback(sh, "virsh", "net-undefine", DEFAULT)
        sh("virsh", "net-autostart", DEFAULT)
        sh("virsh", "net-start", DEFAULT)
        stack.callback(sh, "virsh", "net-destroy", DEFAULT)
        sh("virsh", "define", write(folder, machine_xml(TINY, DEFAULT, TINY_MAC, boot="network")))
        stack.callback(sh, "virsh", "undefine", TINY)
        sh("virsh", "start", TINY)
        stack.callback(sh, "virsh", "destroy", TINY)
        yield


@contextmanager
def scene(folder: Path, blank: Path, micro: Path) -> Iterator[Scene]:
    """All of it, well."""
    modes: dict[str, dict[str, Any]] = {
        "alone": {},
        "names": {"dns_mode": "shared_dns"},
        "way": {"dns_mode": "routed", "routes": [{"to": BEHIND, "via": ROUTER}]},
        "found": {"dns_mode": "service_discovery"},
        "live": {},
    }
    configured = [
        proof.cluster(micro if name == "live" else blank, name, NUMBERS[name], nodes=1 if name == "live" else 2, **mode)
        for name, mode in modes.items()
    ]
    with ExitStack() as stack:
        forwarding = Path("/proc/sys/net/ipv4/ip_forward")
        stack.callback(forwarding.write_text, forwarding.read_text())
        stack.enter_context(resolving_by("plain_dnsmasq"))
        agents = stack.enter_context(ExitStack())  # also one that is started later outlives the clusters
        consul = agents.enter_context(agent(folder / "consul"))
        stack.enter_context(_default(folder))
        clusters = stack.enter_context(proof.scene(folder, *configured))
        made = Scene(folder, clusters, consul, _agents=agents)
        sh("virsh", "start", GUEST)
        until(lambda: TINY_MAC in sh("virsh", "net-dhcp-leases", DEFAULT), f"the lease of {TINY}", STARTS_WITHIN)
        made.wait_for_guest()
        yield made
