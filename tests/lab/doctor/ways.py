"""How each fault is made on the scene, and taken back: context managers, each of which leaves the host as it found it.

Where it does not go without saying that it is a fault, it is looked at here: packets that do not arrive, a network that
does not start.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from tests.lab.clusters import breakages, proof
from tests.lab.clusters.breakages import STRANGER, sh
from tests.lab.doctor.scene import (
    ALONE,
    DEFAULT,
    DEFAULT_BRIDGE,
    DEFAULT_GATEWAY,
    DNSMASQ,
    GUEST_IP,
    LIVE,
    NAMES,
    RESOLVER,
    SYS,
    WITHIN,
    Ask,
    Scene,
    addresses,
    answers,
    asked_by,
    bridge_of,
    card_of,
    dnsmasq_of,
    gateway_of,
    machine_xml,
    pings,
    stop_network,
    tap_of,
    write,
)
from tests.lab.resolvers import bus
from tests.lab.resolvers import running as running_program
from tests.waiting import COMES_WITHIN, kill, stop, until

from ai_how.engine import cluster as engine
from ai_how.errors import NotReady
from ai_how.host import daemon, machine
from ai_how.host.libvirt import Libvirt
from ai_how.lab import INTERNET, LabSpec, cache_directory, open_lab
from ai_how.probe import packets
from ai_how.probe.dhcp import take_lease
from ai_how.probe.endpoint import LINK, attached
from ai_how.probe.place import Place, here, named
from ai_how.resources.hook import PATH as HOOK_PATH

#: Makes a fault for the length of a `with` block. What it yields asks the doctor, where that is not done as usual.
Breaks = Callable[[Scene], AbstractContextManager[Ask | None]]

SETTINGS = Path("/proc/sys/net")
#: Nobody's MACs, beside STRANGER.
OTHERS = tuple(f"52:54:00:ff:01:{number:02x}" for number in range(9))
#: Where no server is.
NOWHERE = "198.51.100.99"


# What all are made of


def lines(*do: str, back: Sequence[str]) -> Breaks:
    """Commands of somebody's, and those that take them back."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        with ExitStack() as stack:
            for line in reversed(back):
                stack.callback(sh, *shlex.split(line))
            for line in do:
                sh(*shlex.split(line))
            yield

    return broken


def of_clusters(breaks: breakages.Breaks) -> Breaks:
    """What other tests break."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        with breaks(scene.clusters):
            yield

    return broken


def at_once(*breaks: Breaks) -> Breaks:
    """All of them; asked as the last one says."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[Ask | None]:
        ask = None
        with ExitStack() as stack:
            for each in breaks:
                ask = stack.enter_context(each(scene)) or ask
            yield ask

    return broken


def setting(name: str, value: str) -> Breaks:
    """A kernel setting below net/."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        path = SETTINGS / name
        before = path.read_text()
        path.write_text(value)
        try:
            yield
        finally:
            path.write_text(before)

    return broken


def file(path: str | Path, change: Callable[[str], str] | None, then: Callable[[], object] = lambda: None) -> Breaks:
    """A file says something else, or is gone where `change` is None; whoever reads it is told by `then`."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        there = Path(path)
        before, mode = there.read_text(), there.stat().st_mode
        if change is None:
            there.unlink()
        else:
            assert change(before) != before, before
            there.write_text(change(before))
        try:
            then()
            yield
        finally:
            there.write_text(before)
            there.chmod(mode)
            then()

    return broken


def network(name: str, number: int, *, first: int = 10, last: int = 99, inside: str = "", dhcp: str = "",
            options: Sequence[str] = (), forward: str = "mode='nat'") -> Breaks:  # fmt: skip
    """A network of somebody's, 10.66.NUMBER.0/24 on br-NAME, as long as it is there; with `first` 0 it has no range."""
    range_ = f"<range start='10.66.{number}.{first}' end='10.66.{number}.{last}'/>" if first else ""
    set_ = "".join(f"<o:option value='{each}'/>" for each in ("no-ping", *options))
    text = f"""
<network xmlns:o='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>{name}</name><forward {forward}/>
  <bridge name='br-{name}' stp='off' delay='0'/>{inside}
  <ip address='10.66.{number}.1' netmask='255.255.255.0'><dhcp>{range_}{dhcp}</dhcp></ip>
  <o:options>{set_}</o:options></network>
"""

    return _one_more(name, text, "net-create", "net-destroy")


def running(name: str, network: str, mac: str, *, kind: str = "qemu", boot: str = "hd") -> Breaks:
    """One more machine that runs. Without a disk it does nothing."""
    return _one_more(name, machine_xml(name, network, mac, kind=kind, boot=boot), "create", "destroy")


def defined(name: str, network: str, mac: str, *, kind: str = "qemu", emulator: str = "") -> Breaks:
    """One more machine that does not run."""
    return _one_more(name, machine_xml(name, network, mac, kind=kind, emulator=emulator), "define", "undefine")


def _one_more(name: str, text: str, come: str, go: str) -> Breaks:
    """What `virsh come` makes of this XML, as long as it is there."""

    @contextmanager
    def there(scene: Scene) -> Iterator[None]:
        sh("virsh", come, write(scene.folder, text))
        try:
            yield
        finally:
            sh("virsh", go, name)

    return there


def refused(*words: str) -> str:
    """Why a command fails; it must."""
    ran = subprocess.run(words, check=False, capture_output=True, text=True)
    assert ran.returncode != 0, f"{' '.join(words)} succeeds"
    return ran.stderr


def leads_out(name: str, within: float = 0.5) -> bool:
    """Whether a node of the network reaches the web, in so many seconds."""
    gateway = gateway_of(name)
    with attached(bridge_of(name), OTHERS[8], name="node") as (place, _):
        address = f"{gateway.rpartition('.')[0]}.250"
        place.run(["ip", "-batch", "-"], text=f"addr add {address}/24 dev {LINK}\nroute add default via {gateway}\n")
        return packets.ask(packets.http(place, INTERNET.web, INTERNET.name, within=within)).replied


# The host


@contextmanager
def libvirtd_killed(scene: Scene) -> Iterator[None]:
    pid = daemon.find()
    assert pid is not None
    kill(pid)
    try:
        yield
    finally:
        scene.restart_libvirt()


@contextmanager
def libvirtd_stopped(_scene: Scene) -> Iterator[None]:
    pid = daemon.find()
    assert pid is not None
    stop(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def libvirtd_without_socket(_scene: Scene) -> Iterator[None]:
    path, kept = Path("/run/libvirt/libvirt-sock"), Path("/run/libvirt/kept")
    path.rename(kept)
    try:
        yield
    finally:
        kept.rename(path)


_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"]


def _as_nobody(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_NOBODY, *argv], cwd="/", check=False, capture_output=True, text=True, timeout=WITHIN)


@contextmanager
def nobody_asks(_scene: Scene) -> Iterator[Ask]:
    """The socket is root's alone."""
    assert "ermission denied" in refused(*_NOBODY, "virsh", "-c", "qemu:///system", "list")
    yield asked_by(_as_nobody)


@contextmanager
def nobody_asks_polkit(scene: Scene) -> Iterator[Ask]:
    """As on most systems: everybody may open the socket, and polkit decides; there is nobody to give a password."""
    path = "/etc/libvirt/libvirtd.conf"
    settings = file(path, lambda text: text.replace('"none"', '"polkit"').replace("0700", "0777"))
    with ExitStack() as stack:
        stack.callback(scene.restart_libvirt)  # it ends with the bus
        for each in (settings(scene), bus(), running_program("/usr/lib/polkit-1/polkitd", "--no-debug")):
            stack.enter_context(each)
        scene.restart_libvirt()
        until(lambda: "polkit agent" in refused(*_NOBODY, "virsh", "-c", "qemu:///system", "list"), "polkit says no")
        yield asked_by(_as_nobody)


@contextmanager
def kvm_hangs(scene: Scene) -> Iterator[None]:
    """It is there, and a machine that runs under it does nothing for ever."""
    if machine.kvm_ability(offered=True).usable or machine.device_trouble():
        pytest.skip("only where /dev/kvm opens and the CPU has neither vmx nor svm")
    with running("hangs", DEFAULT, OTHERS[0], kind="kvm", boot="network")(scene):
        yield


@contextmanager
def kvm_is_gone(scene: Scene) -> Iterator[None]:
    """Where a machine wants it that does not run."""
    with defined("wants", DEFAULT, OTHERS[0], kind="kvm")(scene), covered(Path("/dev/kvm")):
        assert "kvm" in refused("virsh", "start", "wants")
        yield


@contextmanager
def covered(path: Path) -> Iterator[None]:
    sh("mount", "-n", "--bind", "/dev/null", str(path))
    try:
        yield
    finally:
        sh("umount", "-n", "--lazy", str(path))


@contextmanager
def _own_files(folder: Path) -> Iterator[None]:
    """What is changed in a folder of programs is changed here alone, and not for long; what runs is not disturbed."""
    holder = Path("/run/doctor")
    for each in ("upper", "work"):
        (holder / each).mkdir(parents=True)
        (holder / each).chmod(0o755)
    layers = f"lowerdir={folder},upperdir={holder}/upper,workdir={holder}/work"
    sh("mount", "-n", "-t", "overlay", "overlay", "-o", layers, str(folder))
    try:
        yield
    finally:
        sh("umount", "-n", "--lazy", str(folder))
        sh("rm", "-r", str(holder))


def without_program(path: str, *, there: bool = False) -> Breaks:
    """A program is not installed, or cannot be run where it is `there`."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        program = Path(path)
        with _own_files(program.parent):
            if there:
                program.chmod(0o644)
            else:
                program.unlink()
            yield

    return broken


@contextmanager
def old_dnsmasq(_scene: Scene) -> Iterator[None]:
    """One that says of itself that it is of 2018."""
    program = Path("/usr/sbin/dnsmasq")
    with _own_files(program.parent):
        program.rename(program.with_name("dnsmasq.real"))
        program.write_text('#!/bin/sh\n[ "$1" = --version ] || exec dnsmasq.real "$@"\necho Dnsmasq version 2.80\n')
        program.chmod(0o755)
        yield


@contextmanager
def emulator_deleted(scene: Scene) -> Iterator[None]:
    """A machine names another one than the system's, which is gone."""
    program = Path("/run/doctor-qemu")
    program.write_text('#!/bin/sh\nexec /usr/bin/qemu-system-x86_64 "$@"\n')
    program.chmod(0o755)
    with defined("orphan", DEFAULT, OTHERS[0], emulator=str(program))(scene):
        program.unlink()
        assert "No such file" in refused("virsh", "start", "orphan")
        yield


@contextmanager
def connections_full(_scene: Scene) -> Iterator[None]:
    """As many connections as the kernel takes, each answered already: it gives none of them up for a new one."""
    limit = int((SETTINGS / "netfilter/nf_conntrack_max").read_text())
    _forget_connections()  # those that are about to end would make room
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
            for first in range(0, limit, 512):
                netlink.send(b"".join(_connection(each) for each in range(first, first + 512)))
        with here() as host:
            assert not packets.ask(packets.http(host, INTERNET.web, INTERNET.name, within=0.5)).replied
        yield
    finally:
        _forget_connections()


_NETLINK_NETFILTER, _CREATE, _DELETE = 12, 1 << 8, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW and _DELETE


def _connection(number: int) -> bytes:
    """An order to add one to the table: UDP between us and an address outside (nfnetlink_conntrack.h)."""
    us, them = INTERNET.uplink_address.ip.packed, bytes([198, 18, number >> 8 & 0xFF, number & 0xFF])
    port = 1024 + (number >> 16)
    tuples = _ends(1, us, them, port, 9) + _ends(2, them, us, 9, port)  # CTA_TUPLE_ORIG, CTA_TUPLE_REPLY
    state = _attribute(3, struct.pack(">I", 2 | 4 | 8))  # CTA_STATUS: IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED
    body = struct.pack("=BBH", socket.AF_INET, 0, 0) + tuples + state + _attribute(7, struct.pack(">I", 600))
    return struct.pack("=IHHII", 16 + len(body), _CREATE, 1 | 0x400, number, 0) + body  # NLM_F_REQUEST, NLM_F_CREATE


def _ends(kind: int, source: bytes, target: bytes, source_port: int, target_port: int) -> bytes:
    addresses = _attribute(1, source) + _attribute(2, target)
    ports = (_attribute(number, struct.pack(">H", port)) for number, port in ((2, source_port), (3, target_port)))
    protocol = _attribute(1, bytes([socket.IPPROTO_UDP])) + b"".join(ports)
    return _attribute(kind, _attribute(1, addresses, nested=True) + _attribute(2, protocol, nested=True), nested=True)


def _attribute(kind: int, content: bytes, *, nested: bool = False) -> bytes:
    """netlink(7): padded to four bytes."""
    return struct.pack("=HH", 4 + len(content), kind | nested << 15) + content + bytes(-len(content) % 4)


def _forget_connections() -> None:
    """All of them: none is named."""
    body = struct.pack("=BBH", socket.AF_INET, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(body), _DELETE, 1 | 4, 1, 0) + body)  # NLM_F_REQUEST, NLM_F_ACK
        assert struct.unpack_from("=i", netlink.recv(4096), 16)[0] == 0


@contextmanager
def frames_dropped(_scene: Scene) -> Iterator[None]:
    """What `bridge-nf-call-iptables` brings before iptables is dropped there."""
    assert (SETTINGS / "bridge/bridge-nf-call-iptables").read_text().strip() == "1"
    rule = ["FORWARD", "-i", DEFAULT_BRIDGE, "-o", DEFAULT_BRIDGE, "-j", "DROP"]
    with ExitStack() as stack:
        with _two(DEFAULT_BRIDGE, "192.168.122") as reaches:
            until(reaches, "one reaches the other")
            sh("iptables", "-I", *rule)
            stack.callback(sh, "iptables", "-D", *rule)
            assert not reaches()
        yield


@contextmanager
def frames_dropped_by_the_bridge(scene: Scene) -> Iterator[None]:
    """The setting of the host is off, and that of the bridge is on (ip-link(8), nf_call_iptables)."""
    bridge = bridge_of(LIVE)
    rule = ["FORWARD", "-m", "physdev", "--physdev-is-bridged", "-i", bridge, "-j", "DROP"]
    with setting("bridge/bridge-nf-call-iptables", "0")(scene), ExitStack() as stack:
        sh("ip", "link", "set", bridge, "type", "bridge", "nf_call_iptables", "1")
        stack.callback(sh, "ip", "link", "set", bridge, "type", "bridge", "nf_call_iptables", "0")
        with _two(bridge, "10.44.9") as reaches:
            until(reaches, "one reaches the other")
            sh("iptables", "-I", *rule)
            stack.callback(sh, "iptables", "-D", *rule)
            assert not reaches()
        yield


@contextmanager
def _two(bridge: str, subnet: str) -> Iterator[Callable[[], bool]]:
    """Whether one on the bridge reaches another."""
    with attached(bridge, OTHERS[1], name="one") as (one, _), attached(bridge, OTHERS[2], name="two") as (two, _):
        one.run(["ip", "addr", "add", f"{subnet}.201/24", "dev", LINK])
        two.run(["ip", "addr", "add", f"{subnet}.202/24", "dev", LINK])

        yield lambda: packets.ask(packets.ping(one, IPv4Address(f"{subnet}.202"))).replied


@contextmanager
def _second_uplink() -> Iterator[None]:
    net = INTERNET.namespace
    sh("ip", "link", "add", "second", "type", "veth", "peer", "name", "second", "netns", net)
    try:
        sh("ip", "address", "add", "192.0.2.2/24", "dev", "second")
        sh("ip", "link", "set", "second", "up")
        sh("ip", "-n", net, "address", "add", "192.0.2.1/24", "dev", "second")
        sh("ip", "-n", net, "link", "set", "second", "up")
        yield
    finally:
        sh("ip", "link", "del", "second")


@contextmanager
def answers_by_another_uplink(scene: Scene) -> Iterator[None]:
    """The provider answers by a second link of ours; the way back is by the first, so strict filtering drops it."""
    with _second_uplink():
        sh("ip", "-n", INTERNET.namespace, "route", "add", "203.0.113.2/32", "via", "192.0.2.2")
        until(lambda: pings("8.8.8.8"), "an answer, for that alone is no fault")
        with setting("ipv4/conf/second/rp_filter", "1")(scene):
            assert not pings("8.8.8.8")
            yield


@contextmanager
def asked_by_the_second_uplink(scene: Scene) -> Iterator[None]:
    """Two ways out. Whoever asks by the second one is answered by the first, so strict filtering drops the question."""
    with _second_uplink(), named(INTERNET.namespace) as outside:
        sh("ip", "route", "add", "default", "via", "192.0.2.1", "dev", "second", "metric", "200")

        def asked() -> bool:
            return packets.ask(packets.ping(outside, IPv4Address("192.0.2.2"), within=0.3)).replied

        # From an address that is not of the link.
        sh("ip", "-n", INTERNET.namespace, "route", "add", "192.0.2.2/32", "dev", "second", "src", "8.8.8.8")
        until(asked, "the question arrives")
        with setting("ipv4/conf/second/rp_filter", "1")(scene):
            assert not asked()
            yield


@contextmanager
def second_way_out(_scene: Scene) -> Iterator[None]:
    with _second_uplink():
        sh("ip", "route", "add", "default", "via", "192.0.2.1", "dev", "second", "metric", "200")
        yield


def link_with(address: str) -> Breaks:
    """Somebody's VPN, with this address."""
    return lines(
        "ip tuntap add dev vpn0 mode tun",
        f"ip address add {address} dev vpn0",
        "ip link set vpn0 up",
        back=["ip link del vpn0"],
    )


def overlapped_before_its_start(scene_network: str) -> Breaks:
    """The other was first: the network does not start."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        with stopped(scene_network)(scene), link_with(f"{gateway_of(scene_network)}/24")(scene):
            assert "already in use" in refused("virsh", "net-start", scene_network)
            yield

    return broken


def stopped(name: str) -> Breaks:
    """By hand. Machines' taps are put back by whoever mends it."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        taps = taps_on(bridge_of(name))
        stop_network(name)
        try:
            yield
        finally:
            start_network(name, taps)

    return broken


@contextmanager
def _listening(address: str, port: int = 53) -> Iterator[None]:
    """A program of somebody's, at an address that need not be there yet."""
    program = f"""
import socket, sys
held = []
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
    one = socket.socket(socket.AF_INET, kind)
    one.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND
    one.bind(("{address}", {port}))
    if kind == socket.SOCK_STREAM:
        one.listen()
    held.append(one)
print("ready", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def port_taken_while_stopped(name: str) -> Breaks:
    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        with stopped(name)(scene), _listening(gateway_of(name)):
            assert "ddress already in use" in refused("virsh", "net-start", name)
            yield

    return broken


def port_taken_after_a_crash(name: str) -> Breaks:
    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        with killed(name)(scene), _listening(gateway_of(name)):
            yield

    return broken


_DNS = [
    "dnsmasq",
    "--keep-in-foreground",
    "--conf-file=/dev/null",
    "--no-resolv",
    "--user=root",
    "--pid-file",
]


@contextmanager
def port_taken_everywhere(_scene: Scene) -> Iterator[Ask]:
    """A DNS server for all addresses of a host, before its first network starts: a lab of its own."""
    text = "<network><name>late</name><forward mode='nat'/><bridge name='br-late'/><ip address='10.66.9.1'/></network>"
    with open_lab(LabSpec(internet=True, cache=cache_directory())) as lab, ExitStack() as stack:
        server = stack.enter_context(subprocess.Popen(lab.enter(_DNS), env=dict(lab.environment)))
        stack.callback(server.kill)
        until(lambda: ":53 " in lab.run(["ss", "-Hln", "sport = :53"]).stdout, "the server listens")
        script = f'echo "{text}" > /run/late.xml && virsh net-define /run/late.xml && virsh net-autostart late'
        assert lab.run(["sh", "-c", script]).returncode == 0
        assert "ddress already in use" in lab.run(["virsh", "net-start", "late"]).stderr
        yield asked_by(lambda argv: lab.run(argv, timeout=WITHIN))


# libvirt


def taps_on(bridge: str) -> list[str]:
    """Those of machines."""
    return [each.name for each in (SYS / bridge / "brif").iterdir() if each.name.startswith("vnet")]


def start_network(name: str, taps: Sequence[str] = ()) -> None:
    """With these machines on it again."""
    sh("virsh", "net-start", name)
    for tap in taps:
        sh("ip", "link", "set", tap, "master", bridge_of(name))


def restart_network(name: str) -> None:
    """What stands in the way of its bridge is gone, and its machines are on it again."""
    bridge = bridge_of(name)
    taps = taps_on(bridge) if (SYS / bridge).exists() else []
    stop_network(name)
    subprocess.run(["ip", "link", "del", bridge], check=False, capture_output=True)
    start_network(name, taps)


def undefined(name: str) -> Breaks:
    """Whoever wants it is still there."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        text = sh("virsh", "net-dumpxml", "--inactive", name)
        with ExitStack() as stack:
            stack.callback(sh, "virsh", "net-start", name)
            stack.callback(sh, "virsh", "net-autostart", name)
            stack.callback(lambda: sh("virsh", "net-define", write(scene.folder, text)))
            stop_network(name)
            sh("virsh", "net-undefine", name)
            yield

    return broken


def lost_by_libvirt(name: str) -> Breaks:
    """Its file was damaged while it was stopped, and libvirt has read it."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        path = Path(f"/etc/libvirt/qemu/networks/{name}.xml")
        with stopped(name)(scene), ExitStack() as stack:
            stack.callback(scene.restart_libvirt)
            with file(path, lambda text: text[: len(text) // 2])(scene):
                scene.restart_libvirt()
                assert "not found" in refused("virsh", "net-info", name)
                yield

    return broken


@contextmanager
def nothing(_scene: Scene) -> Iterator[None]:
    """The question is the fault."""
    yield


def bridge_of_somebody(name: str, kind: str) -> Breaks:
    """A link of this name was there before the network was."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        bridge = bridge_of(name)
        link = lines(f"ip link add {bridge} type {kind}", f"ip link set {bridge} up", back=[f"ip link del {bridge}"])
        with stopped(name)(scene), link(scene):
            refused("virsh", "net-start", name)
            yield

    return broken


@contextmanager
def bridge_made_by_hand(scene: Scene) -> Iterator[None]:
    """The network runs; somebody deleted its bridge and made one of that name, with the gateway's address."""
    bridge = bridge_of(ALONE)
    with restarted_after(ALONE)(scene):
        sh("ip", "link", "del", bridge)
        sh("ip", "link", "add", bridge, "type", "bridge")
        sh("ip", "address", "add", f"{gateway_of(ALONE)}/24", "dev", bridge)
        sh("ip", "link", "set", bridge, "up")
        yield


def restarted_after(name: str) -> Breaks:
    """The network is stopped and started where the block ends."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        try:
            yield
        finally:
            restart_network(name)

    return broken


@contextmanager
def not_started_by_itself(scene: Scene) -> Iterator[None]:
    """A network that nobody but the question needs."""
    text = "<network><name>idle</name><forward mode='nat'/><bridge name='br-idle'/><ip address='10.66.8.1'/></network>"
    sh("virsh", "net-define", write(scene.folder, text))
    try:
        yield
    finally:
        sh("virsh", "net-undefine", "idle")


def hook_of_mode(mode: int) -> Breaks:
    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        path = Path(HOOK_PATH)
        before = path.stat().st_mode
        path.chmod(mode)
        try:
            yield
        finally:
            path.chmod(before)

    return broken


def edited(prefix: str, name: str, old: str, new: str) -> Breaks:
    """`virsh edit` (or `net-edit`): what is defined changes, and what runs does not."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        before = sh("virsh", f"{prefix}dumpxml", "--inactive", name)
        assert old in before, before
        sh("virsh", f"{prefix}define", write(scene.folder, before.replace(old, new)))
        try:
            yield
        finally:
            sh("virsh", f"{prefix}define", write(scene.folder, before))

    return broken


def updated(name: str, section: str, entry: str, *where: str) -> Breaks:
    """`virsh net-update`."""
    return lines(
        f'virsh net-update {name} add {section} "{entry}" {" ".join(where)}',
        back=[f'virsh net-update {name} delete {section} "{entry}" {" ".join(where)}'],
    )


# Bridges


def deleted_bridge(name: str) -> Breaks:
    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        with restarted_after(name)(scene):
            sh("ip", "link", "del", bridge_of(name))
            yield

    return broken


def renamed_bridge(name: str) -> Breaks:
    """Somebody has another name for it."""
    bridge = bridge_of(name)
    return lines(
        f"ip link set {bridge} down",
        f"ip link set {bridge} name br-other",
        "ip link set br-other up",
        back=["ip link set br-other down", f"ip link set br-other name {bridge}", f"ip link set {bridge} up"],
    )


def down(link: str) -> Breaks:
    return lines(f"ip link set {link} down", back=[f"ip link set {link} up"])


def without_address(name: str, instead: str = "") -> Breaks:
    """The gateway's address is gone from its bridge; there may be another one."""
    bridge, gateway = bridge_of(name), gateway_of(name)
    brd = f"{gateway.rpartition('.')[0]}.255"
    return lines(
        f"ip address del {gateway}/24 dev {bridge}",
        *([f"ip address add {instead} dev {bridge}"] if instead else []),
        back=[
            *([f"ip address del {instead} dev {bridge}"] if instead else []),
            f"ip address add {gateway}/24 brd {brd} dev {bridge}",
        ],
    )


# dnsmasq


def killed(name: str, *, trace: bool = True) -> Breaks:
    """Its process is gone, and its PID file too where it leaves no `trace`."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        kill(dnsmasq_of(name))
        if not trace:
            Path(f"/run/libvirt/network/{name}.pid").unlink()
        try:
            yield
        finally:
            restart_network(name)

    return broken


def halted(name: str) -> Breaks:
    """Its dnsmasq is stopped by a signal."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        stop(dnsmasq_of(name))
        try:
            yield
        finally:
            os.kill(dnsmasq_of(name), signal.SIGCONT)
            until(lambda: answers(gateway_of(name)), "it answers again")

    return broken


def dropped(where: str, what: str) -> Breaks:
    """Somebody's rule drops what comes in by this link."""
    chain = "add chain inet theirs in '{ type filter hook input priority -20; }'"
    return lines(
        "nft add table inet theirs",
        f"nft {chain}",
        f"nft add rule inet theirs in iifname {where} {what} drop",
        back=["nft delete table inet theirs"],
    )


def restart_resolver() -> None:
    """The host's own: Debian's script, as its administrator would."""
    subprocess.run(["/etc/init.d/dnsmasq", "restart"], check=True, stdout=subprocess.DEVNULL)
    until(lambda: answers("127.0.0.1"), "the host's resolver answers")


@contextmanager
def resolver_asks_gateway(scene: Scene) -> Iterator[None]:
    """The host's resolver asks the gateway of a network, which asks the host's resolver."""
    change = file(RESOLVER, lambda text: text.replace("server=8.8.8.8", f"server={DEFAULT_GATEWAY}"), restart_resolver)
    with change(scene):
        assert not answers(DEFAULT_GATEWAY, INTERNET.name)
        yield


@contextmanager
def asking_each_other(scene: Scene) -> Iterator[None]:
    first = network("first", 1, inside="<dns><forwarder addr='10.66.2.1'/></dns>")
    second = network("second", 2, inside="<dns><forwarder addr='10.66.1.1'/></dns>")
    with first(scene), second(scene):
        assert not answers("10.66.1.1", INTERNET.name)
        yield


@contextmanager
def cluster_told_others(scene: Scene) -> Iterator[None]:
    """A cluster whose configuration leaves the gateway out."""
    document = proof.document(
        proof.cluster(scene.folder / "blank.qcow2", "told", 13, nodes=1, dns_servers=["8.8.8.8", "1.1.1.1"])
    )
    with Libvirt() as libvirt:
        site = engine.Site(libvirt, scene.folder / "told.json")
        try:
            engine.up(site, document, "told", start=False, wait=False)
            yield
        finally:
            engine.destroy(site, "told")


def lease(place: Place, mac: str, client_id: bytes = b"", within: float = COMES_WITHIN) -> IPv4Address:
    """A lease that nobody gives back, by the client identifier where there is one."""
    with place.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        return take_lease(client, LINK, mac, within=within, client_id=client_id).ip


def noted(network: str, address: IPv4Address) -> None:
    """Wait until libvirt has written down who has the address: dnsmasq tells it after it has told the node."""
    until(lambda: f" {address}/" in sh("virsh", "-q", "net-dhcp-leases", network), f"the lease of {address}")


@contextmanager
def only_a_range_outside(scene: Scene) -> Iterator[None]:
    """The only addresses for who has no reservation are of another subnet: nobody gets one."""
    reservation = f"<host mac='{OTHERS[0]}' ip='10.66.6.5'/>"
    with network("beyond", 6, first=0, dhcp=reservation, options=("dhcp-range=10.99.0.10,10.99.0.20",))(scene):
        with attached("br-beyond", OTHERS[5], name="late") as (place, _), pytest.raises(NotReady):
            lease(place, OTHERS[5], within=1.0)
        yield


def leases_of_strangers(name: str, number: int, *, reserved: bool) -> Breaks:
    """A network with two addresses, both of somebody's, or with one that libvirt's limit on all leases keeps."""
    there = (
        network(name, number, first=10, last=10, dhcp=f"<host mac='{OTHERS[0]}' ip='10.66.{number}.5'/>")
        if reserved
        else network(name, number, first=10, last=11)
    )

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        with there(scene):
            for mac in OTHERS[: 1 if reserved else 2]:
                with attached(f"br-{name}", mac, name=mac) as (place, _):
                    noted(name, lease(place, mac))
            with attached(f"br-{name}", OTHERS[5], name="late") as (place, _), pytest.raises(NotReady):
                lease(place, OTHERS[5], within=1.0)
            yield

    return broken


def second_server(own: str, first: str, last: str, *, prefix: int = 24) -> Breaks:
    """Another DHCP server on the foreign network's bridge."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        with attached(DEFAULT_BRIDGE, STRANGER, name="rogue") as (place, _):
            place.run(["ip", "addr", "add", f"{own}/{prefix}", "dev", LINK])
            argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--no-ping"]
            argv += ["--leasefile-ro", "--dhcp-authoritative", "--log-facility=-", "--log-dhcp", "--pid-file"]
            argv += [f"--interface={LINK}", f"--dhcp-range={first},{last}"]
            server = place.at(lambda: subprocess.Popen(argv, stderr=subprocess.PIPE, text=True))
            try:
                assert server.stderr is not None
                assert any("DHCP, IP range" in line for line in server.stderr)
                with listened_longer():
                    yield
            finally:
                server.kill()
                server.communicate()

    return broken


@contextmanager
def one_identifier(scene: Scene) -> Iterator[None]:
    """Two machines, as cloned with their machine-id: the server takes them for one, and gives both one address."""
    with network("twins", 10)(scene), ExitStack() as stack:
        given = set()
        for name, mac in (("twin-a", OTHERS[3]), ("twin-b", OTHERS[4])):
            # The machine that runs does nothing; what it would say, is said for it beside.
            stack.enter_context(running(name, "twins", mac)(scene))
            place, _ = stack.enter_context(attached("br-twins", mac, name=name))
            address = lease(place, mac, b"\xff\x12\x34\x56\x78")
            place.run(["ip", "addr", "add", f"{address}/24", "dev", LINK])
            given.add(address)
        assert len(given) == 1
        noted("twins", address)
        with listened_longer():
            yield


@contextmanager
def listened_longer() -> Iterator[None]:
    """The doctor waits for everybody who answers on a bridge: here they share CPUs with others."""
    with pytest.MonkeyPatch.context() as patch:
        for patience in ("ARP_PATIENCE", "DHCP_PATIENCE"):
            patch.setattr(f"ai_how.diagnose.ask.packets.{patience}", 3.0)
        yield


def stranger(bridge: str, address: str, mac: str = STRANGER) -> Breaks:
    """Somebody on the bridge with an address that is another's."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        with attached(bridge, mac, name="stranger") as (place, _):
            place.run(["ip", "addr", "add", f"{address}/24", "dev", LINK])
            with listened_longer():
                yield
        sh("ip", "neigh", "flush", "dev", bridge)

    return broken


@contextmanager
def leased_then_reserved(scene: Scene) -> Iterator[None]:
    """Somebody had the address before it was reserved, and went without a word."""
    with network("former", 3, first=10, last=10)(scene):
        with attached("br-former", OTHERS[0], name="former") as (place, _):
            given = lease(place, OTHERS[0])
        assert str(given) == "10.66.3.10"
        noted("former", given)
        entry = f"<host mac='{OTHERS[1]}' ip='10.66.3.10'/>"
        with defined("heir", "former", OTHERS[1])(scene):
            sh("virsh", "net-update", "former", "add", "ip-dhcp-host", entry, "--live")
            with attached("br-former", OTHERS[1], name="heir") as (place, _), pytest.raises(NotReady):
                lease(place, OTHERS[1], within=1.0)
            yield


def remembered_lease(name: str, mac: Callable[[], str], address: str) -> Breaks:
    """dnsmasq starts with this lease of an earlier life, which libvirt has kept for it."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        path = DNSMASQ / f"{bridge_of(name)}.status"
        before = path.read_text() if path.exists() else ""
        held = f'[{{"ip-address": "{address}", "mac-address": "{mac()}", "expiry-time": 4000000000}}]'
        with _started_anew(name):
            path.write_text(held)
        try:
            yield
        finally:
            with _started_anew(name):
                path.write_text(before)

    return broken


def expired_lease(name: str, mac: str, address: str) -> Breaks:
    """libvirt notes who had an address until the next one comes or goes."""

    @contextmanager
    def there(_scene: Scene) -> Iterator[None]:
        path = DNSMASQ / f"{bridge_of(name)}.status"
        before = path.read_text() if path.exists() else ""
        path.write_text(f'[{{"ip-address": "{address}", "mac-address": "{mac}", "expiry-time": 1600000000}}]')
        try:
            yield
        finally:
            path.write_text(before)

    return there


@contextmanager
def _started_anew(name: str) -> Iterator[None]:
    """The network stops, then the block, then it starts."""
    taps = taps_on(bridge_of(name))
    stop_network(name)
    yield
    start_network(name, taps)


def _known_here() -> bool:
    """Whether what programs ask knows a node whose name the host shall know."""
    (server,) = re.findall(r"^nameserver (\S+)", Path("/etc/resolv.conf").read_text(), flags=re.MULTILINE)
    return addresses(server, "names-controller.names.internal") == ["10.44.3.2"]


def unknown(breaks: Breaks) -> Breaks:
    """A name of the cluster whose names the host should know, is known no more."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        until(_known_here, "the host knows the name")
        with breaks(scene):
            assert not _known_here()
            yield

    return broken


def resolver_file(change: Callable[[str], str] | None) -> Breaks:
    """What the host's resolver was told of a cluster, and it has read that."""
    return unknown(file(f"/etc/dnsmasq.d/ai-how-{NAMES}.conf", change, restart_resolver))


# The firewall


@contextmanager
def everything_flushed(_scene: Scene) -> Iterator[None]:
    try:
        with _iptables_kept():
            sh("nft", "flush", "ruleset")
            yield
    finally:
        breakages.load_rules()


def libvirts_chains_flushed(*tables: str) -> Breaks:
    """Of iptables."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        with _iptables_kept():
            for table in tables:
                for chain in re.findall(r"^-N (LIBVIRT_\S+)", sh("iptables", "-t", table, "-S"), flags=re.MULTILINE):
                    sh("iptables", "-t", table, "-F", chain)
            yield

    return broken


def libvirts_rule_deleted(table: str, chain: str, containing: str) -> Breaks:
    """Those rules of libvirt's that have these words."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        found = [each for each in sh("iptables", "-t", table, "-S", chain).splitlines() if containing in each]
        assert found, sh("iptables", "-t", table, "-S", chain)
        with _iptables_kept():
            for each in found:
                sh("iptables", "-t", table, "-D", *shlex.split(each)[1:])
            yield

    return broken


@contextmanager
def _iptables_kept() -> Iterator[None]:
    """All of iptables is as before at the end."""
    before = [(each, sh(f"{each}-save")) for each in ("iptables", "ip6tables")]
    try:
        yield
    finally:
        for each, text in before:
            subprocess.run([f"{each}-restore"], input=text, text=True, check=True)


@contextmanager
def docker_started(_scene: Scene) -> Iterator[None]:
    """Its rules, after the clusters were there: its policy drops what nobody accepts."""
    from tests.lab.clusters.test_why_not import DOCKER

    with _iptables_kept():
        subprocess.run(["iptables-restore", "--noflush"], input=DOCKER, text=True, check=True)
        yield


def policy_of_a_table(hook: str, policy: str = "drop") -> Breaks:
    """A table of somebody's that drops what is new and not its own, or nothing."""
    chain = f"add chain inet theirs one '{{ type filter hook {hook} priority 0; policy {policy}; }}'"
    return lines(
        "nft add table inet theirs",
        f"nft {chain}",
        "nft add rule inet theirs one ct state established,related accept",
        "nft add rule inet theirs one iif lo counter accept",
        back=["nft delete table inet theirs"],
    )


# The uplink


WITH_UPLINK = ("ip link set uplink up", "ip route replace default via 203.0.113.1 dev uplink")


def servers_outside(verdict: str) -> Breaks:
    """Questions arrive at the internet's servers, and this becomes of them there."""
    net = INTERNET.namespace
    return lines(
        f"ip netns exec {net} nft add table inet dead",
        f"ip netns exec {net} nft add chain inet dead in '{{ type filter hook input priority 0; }}'",
        f"ip netns exec {net} nft add rule inet dead in udp dport 53 {verdict}",
        f"ip netns exec {net} nft add rule inet dead in tcp dport 53 {verdict}",
        back=[f"ip netns exec {net} nft delete table inet dead"],
    )


@contextmanager
def consul_killed(scene: Scene) -> Iterator[None]:
    scene.consul.kill()
    try:
        yield
    finally:
        scene.start_consul()


@contextmanager
def consul_stopped(scene: Scene) -> Iterator[None]:
    stop(scene.consul.process.pid)
    try:
        yield
    finally:
        scene.consul.process.send_signal(signal.SIGCONT)
        until(lambda: scene.consul.call("GET", "/status/leader"), "it answers again", passing=(OSError,))


# Machines


def destroyed(name: str) -> Breaks:
    """A machine that runs, and does not any more; it is a copy, so that nobody has to wait for its start."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        with defined(name, DEFAULT, OTHERS[6])(scene):
            yield

    return broken


@contextmanager
def crashed(scene: Scene) -> Iterator[None]:
    """Its QEMU was killed; it is to start with the host."""
    with defined("crashed", DEFAULT, OTHERS[6])(scene):
        sh("virsh", "autostart", "crashed")
        sh("virsh", "start", "crashed")
        pid = int(Path("/run/libvirt/qemu/crashed.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        until(lambda: "shut off" in sh("virsh", "domstate", "crashed"), "libvirt has noticed")
        yield


def on_another_network(name: str, network: str, *, live: bool) -> Breaks:
    """A machine's interface is plugged into another network, as it runs or as it is defined."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        way = "--live" if live else "--config"
        before, after = card_of(name, live=live), card_of(name, live=live)
        for each in (before, after):
            for part in ("target", "alias"):
                for found in each.findall(part):
                    each.remove(found)
        source = after.find("source")
        assert source is not None
        source.attrib.clear()
        source.set("network", network)
        try:
            sh("virsh", "update-device", name, write(scene.folder, ET.tostring(after, "unicode")), way)
            yield
        finally:
            kept = before.find("source")
            assert kept is not None
            for word in ("portid", "bridge"):
                kept.attrib.pop(word, None)
            sh("virsh", "update-device", name, write(scene.folder, ET.tostring(before, "unicode")), way)

    return broken


def off_its_bridge(name: str, onto: str = "") -> Breaks:
    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        tap = tap_of(name)
        bridge = (SYS / tap / "master").resolve().name
        sh("ip", "link", "set", tap, *(("master", onto) if onto else ("nomaster",)))
        try:
            yield
        finally:
            sh("ip", "link", "set", tap, "master", bridge)

    return broken


@contextmanager
def without_tap(scene: Scene) -> Iterator[None]:
    """It was deleted; the machine runs on, and notices nothing."""
    with running("tapless", DEFAULT, OTHERS[6])(scene):
        sh("ip", "link", "del", tap_of("tapless"))
        yield


def tap_down(name: str) -> Breaks:
    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        with down(tap_of(name))(scene):
            yield

    return broken


def unplugged(name: str) -> Breaks:
    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        tap = tap_of(name)
        sh("virsh", "domif-setlink", name, tap, "down")
        try:
            yield
        finally:
            sh("virsh", "domif-setlink", name, tap, "up")
            scene.wait_for_guest()

    return broken


@contextmanager
def patience_over(_scene: Scene) -> Iterator[None]:
    """A machine that runs has had the time that a lease may take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ai_how.diagnose.checks.machines.GRACE", 0.0)
        yield


@contextmanager
def lease_given_back(scene: Scene) -> Iterator[None]:
    """The guest's DHCP client gave it back, and asks for none."""
    scene.inside("killall -USR2 udhcpc")
    try:
        until(
            lambda: GUEST_IP not in sh("virsh", "net-dhcp-leases", LIVE) + scene.inside("ip address show dev eth0"),
            "it has the lease no longer",
        )
        yield
    finally:
        scene.configure_guest()


def misconfigured(script: str) -> Breaks:
    """Something inside the guest is set by hand; DHCP sets all of it anew."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        scene.inside(script)
        try:
            yield
        finally:
            scene.configure_guest()

    return broken


def narrow(name: str, mtu: int) -> Breaks:
    """A machine's tap takes less than its bridge should."""

    @contextmanager
    def broken(_scene: Scene) -> Iterator[None]:
        tap = tap_of(name)
        until(lambda: pings(GUEST_IP, mtu + 100), "a packet of that size passes")
        sh("ip", "link", "set", tap, "mtu", str(mtu))
        try:
            assert not pings(GUEST_IP, mtu + 100)
            yield
        finally:
            sh("ip", "link", "set", tap, "mtu", "1500")

    return broken


def gone_from_libvirt(name: str) -> Breaks:
    """A node was undefined."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        text = sh("virsh", "dumpxml", "--inactive", name)
        sh("virsh", "undefine", name)
        try:
            yield
        finally:
            sh("virsh", "define", write(scene.folder, text))

    return broken
