"""The nine holes that libvirt's own firewall leaves open: each is reproduced, and shown closed by our table."""

from __future__ import annotations

import contextlib
import secrets
import signal
import socket
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from tests.lab.firewall_scene import (
    CONTAINER,
    CONTAINERS,
    CONTAINERS_GATEWAY,
    MODES,
    PORT,
    Scene,
    arp,
    build,
    denials,
    denied,
    dns,
    everywhere,
    forget_neighbours,
    gateway,
    mac,
    ping,
    replied,
    rules,
    run,
    silent,
    started,
    tcp,
    udp,
)
from tests.waiting import COMES_WITHIN, until

from ai_how.compile.cluster import compile_network
from ai_how.compile.host import Surroundings, compile_host
from ai_how.config.load import load_mapping
from ai_how.host.libvirt import Libvirt
from ai_how.lab import Internet
from ai_how.probe.dhcp import Message, message, read_reply
from ai_how.probe.endpoint import attached, endpoint
from ai_how.probe.packets import checksum
from ai_how.probe.place import Place
from ai_how.probe.responder import Tap, tap
from ai_how.providers import servers
from ai_how.resources.firewall import ClusterRules, Denial, FirewallTable
from ai_how.resources.servers import Servers
from ai_how.spec.resolve import resolve

EVERY = [rules(letter) for letter in MODES]

PLAIN = """
<network><name>tried-network</name>{forward}<bridge name='br-tried' stp='off' delay='0'/>{dns}
  <ip address='10.67.0.1' netmask='255.255.255.0'><dhcp><range start='10.67.0.100' end='10.67.0.199'/></dhcp></ip>
  <options xmlns='http://libvirt.org/schemas/network/dnsmasq/1.0'><option value='no-ping'/></options></network>
"""


@pytest.fixture(scope="module")
def scene(libvirt_uri: str) -> Iterator[Scene]:
    with build(libvirt_uri) as built:
        yield built


@pytest.mark.parametrize("letter", MODES)
def test_every_cluster_works_with_our_table_as_without(scene: Scene, letter: str) -> None:
    if MODES[letter] == "nat":  # without our table nothing masquerades for the others
        scene.works(letter)
    with scene.table(*EVERY):
        scene.works(letter)


def test_hole_1_host_s_services_on_any_of_its_addresses(scene: Scene, internet: Internet) -> None:
    addresses = [gateway("a"), gateway("b"), internet.uplink_address.ip, CONTAINERS_GATEWAY]
    for each in everywhere(scene["a1"], *addresses):
        replied(each)
    with scene.table(*EVERY):
        scene.works("a")
        denied(Denial.HOST_SERVICE, *(way(scene["a1"], each, PORT) for each in addresses for way in (tcp, udp)))
        denied(Denial.HOST_SERVICE, *(ping(scene["a1"], each) for each in addresses[1:]))
        denied(Denial.HOST_SERVICE, *(dns(scene["a1"], each, "any.test") for each in addresses[1:]))


def test_hole_2_containers_on_the_host(scene: Scene) -> None:
    for each in everywhere(scene["a1"], CONTAINER):
        replied(each)
    with scene.table(*EVERY):
        scene.works("a")
        replied(tcp(scene.host, CONTAINER, PORT))
        denied(Denial.HOST_NETWORK, *everywhere(scene["a1"], CONTAINER))


def test_hole_3_gateway_s_address_from_the_lan_and_from_containers(scene: Scene, internet: Internet) -> None:
    for place in (scene.lan, scene.container):
        for each in everywhere(place, gateway("a")):
            replied(each)
    replied(dns(scene.lan, internet.resolvers[0], internet.name))
    with scene.table(*EVERY):
        scene.works("a")
        replied(tcp(scene.lan, internet.uplink_address.ip, PORT))
        for place in (scene.lan, scene.container):
            denied(Denial.GATEWAY_FROM_OUTSIDE, *everywhere(place, gateway("a")))


@pytest.mark.parametrize("source", ["a1", "s1"])
def test_hole_4_clusters_in_route_mode(scene: Scene, source: str) -> None:
    for each in everywhere(scene[source], scene.ip("r1")):
        replied(each)
    with scene.table(*EVERY):
        scene.works(source[0])
        scene.works("r")
        denied(Denial.OTHER_CLUSTER, *everywhere(scene[source], scene.ip("r1")))


def test_hole_5_names_in_the_host_s_own_hosts_file(scene: Scene) -> None:
    with _line_in("/etc/hosts", "192.0.2.99 only-the-host-knows.example"):
        with started(PLAIN.format(forward="<forward mode='nat'/>", dns="")):
            assert _resolve("only-the-host-knows.example") == ("192.0.2.99",)
        with _ours():
            assert _resolve("only-the-host-knows.example") != ("192.0.2.99",)
            assert _resolve("tried-controller.tried.internal") == ("10.67.0.2",)
            assert _resolve("internet.test") == ("198.51.100.80",)


def test_hole_6_names_of_the_internet_where_there_is_no_way_there(scene: Scene, internet: Internet) -> None:
    with started(PLAIN.format(forward="", dns="<dns><forwarder addr='8.8.8.8'/></dns>")):
        assert _resolve(internet.name) == (str(internet.web),)
    with _ours(dns_servers=["10.67.0.1"], firewall={"egress": "deny"}) as table, scene.table(*table):
        assert _resolve(internet.name) == ()
        assert _resolve("tried-controller.tried.internal") == ("10.67.0.2",)
        with endpoint("br-tried", "52:54:00:67:00:99", within=COMES_WITHIN) as node:
            denied(Denial.EGRESS, ping(node.place, internet.web))


def test_hole_8_a_name_of_another_node_taken_by_dhcp(scene: Scene) -> None:
    with started(PLAIN.format(forward="<forward mode='nat'/>", dns="")):
        taken = _lease_as("tried-controller")
        assert _resolve("tried-controller") == (taken,)
    with _ours():
        taken = _lease_as("tried-controller")
        assert _resolve("tried-controller.tried.internal") == ("10.67.0.2",) != (taken,)
        other = _lease_as("a-name-of-nobody")
        assert _resolve("a-name-of-nobody.tried.internal") == (other,)


def test_hole_7_arp_for_addresses_of_other_networks(scene: Scene, internet: Internet) -> None:
    foreign = [gateway("b"), internet.uplink_address.ip, CONTAINERS_GATEWAY]
    for address in foreign:
        replied(arp(scene["a1"], "eth0", address))
    with scene.table(*EVERY):
        for address in (gateway("a"), scene.ip("a2")):
            replied(arp(scene["a1"], "eth0", address))
        denied(Denial.FOREIGN_ARP, *(arp(scene["a1"], "eth0", address) for address in foreign))
        replied(arp(scene.container, "eth0", gateway("a")))  # what others' bridges answer is theirs to decide


@pytest.mark.parametrize("network", ["of the cluster", "of its own"])
def test_hole_9_rogue_dhcp_servers(scene: Scene, network: str) -> None:
    """One that offers addresses of the cluster is known by them, another one by the node's MAC."""
    own = network == "of its own"
    rogue = IPv4Interface("192.168.99.1/24") if own else scene.nodes["a2"].lease.interface
    with contextlib.ExitStack() as stack:
        if own:
            stack.enter_context(_has_address(scene["a2"], rogue))
        stack.enter_context(_dhcp_server(scene["a2"], rogue))
        assert _offers(scene["a1"], mac("a", 1), 2) == {rogue.ip, gateway("a")}
        with scene.table(*EVERY):
            before = denials()[Denial.ROGUE_DHCP]
            for _ in range(3):
                assert _offers(scene["a1"], mac("a", 1)) == {gateway("a")}
            until(lambda: denials()[Denial.ROGUE_DHCP] >= before + 3, "each of its offers is denied")


@pytest.mark.parametrize("known_by", ["its sender", "the address that it gives", "the node that it is for", "nothing"])
def test_each_thing_that_makes_a_dhcp_answer_ours_is_enough(scene: Scene, known_by: str) -> None:
    stranger = IPv4Interface("192.168.99.1/24")
    sender = scene.ip("a2") if known_by == "its sender" else stranger.ip
    gives = scene.ip("a1") if known_by == "the address that it gives" else IPv4Address("192.168.99.9")
    node = mac("a", 1) if known_by == "the node that it is for" else "52:54:00:ff:ff:02"
    answer = bytearray(message(Message.OFFER, secrets.token_bytes(4), node))
    answer[0], answer[16:20] = 2, gives.packed
    with (
        _has_address(scene["a2"], stranger),
        scene.table(*EVERY),
        tap(scene["a1"], "eth0") as seen,
        scene["a2"].socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
    ):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        server.bind((str(sender), 67))

        def arrives() -> bool | None:
            server.sendto(answer, ("255.255.255.255", 68))
            replied(ping(scene["a2"], scene.ip("a1")))
            return seen.saw(bytes(answer))

        if known_by == "nothing":
            until(arrives, "it arrives")
            assert denials()[Denial.ROGUE_DHCP] == 0
        else:
            assert arrives() is False
            until(lambda: denials()[Denial.ROGUE_DHCP] == 1, "it is denied")


def test_dhcp_between_the_ports_of_a_stranger_s_bridge_is_left_alone(scene: Scene) -> None:
    server = IPv4Interface(f"{CONTAINER}/24")
    with _dhcp_server(scene.container, server), scene.table(*EVERY):
        with attached(CONTAINERS, "02:42:ac:1d:00:0b", name="another") as (place, _):
            assert _offers(place, "02:42:ac:1d:00:0b") == {server.ip}
        assert denials()[Denial.ROGUE_DHCP] == 0


def test_node_with_the_gateway_s_address_is_not_heard(scene: Scene) -> None:
    with _has_address(scene["a2"], IPv4Interface(f"{gateway('a')}/32")):
        until(lambda: mac("a", 2) in _claims(scene["a1"], gateway("a")), "the node's claim")
        with scene.table(*EVERY):
            before = denials()[Denial.FALSE_GATEWAY]
            claims = _claims(scene["a1"], gateway("a"))
            assert len(claims) == 1
            assert mac("a", 2) not in claims
            until(lambda: denials()[Denial.FALSE_GATEWAY] > before, "its claim is denied")
            forget_neighbours(scene["a1"], "dev", "eth0")  # what it learnt before our table
            scene.works("a")


#: What may stand before the type of a frame without making it another one for whom it reaches (IEEE 802.1Q).
TAGS = ["", "81000000", "88a80000", "8100000081000000", "88a8000081000000"]


@pytest.mark.parametrize("tags", TAGS, ids=lambda tags: tags or "no tag")
def test_what_passes_for_the_gateway_is_known_behind_tags(scene: Scene, tags: str) -> None:
    with tap(scene["a1"], "eth0") as seen:
        for frame, token, _ in _false_and_true(scene, tags):
            until(partial(_arrives, scene, frame, token, seen), "it arrives")
    forget_neighbours(scene["a1"], "dev", "eth0")  # it learnt who else has the gateway's address
    with scene.table(*EVERY), tap(scene["a1"], "eth0") as seen:
        for frame, token, reason in _false_and_true(scene, tags):
            word = Denial.HIDDEN_FRAME if len(tags) > len(TAGS[1]) else reason
            before = denials()
            if word is None:
                until(partial(_arrives, scene, frame, token, seen), "it arrives")
                assert denials() == before
            else:
                assert _arrives(scene, frame, token, seen) is False, (word, frame.hex())
                until(partial(_are_counted, before + Counter({word: 1})), "it is denied, by this alone")


def _false_and_true(scene: Scene, tags: str) -> list[tuple[bytes, bytes, Denial | None]]:
    """Frames from a2 to a1, what only they have in them, and why they are denied."""
    elsewhere = IPv4Address("10.9.9.9")
    return [
        (*_claim(scene, scene.ip("a2"), tags), None),
        (*_claim(scene, gateway("a"), tags), Denial.FALSE_GATEWAY),
        (*_datagram(scene, elsewhere, tags), None),
        (*_datagram(scene, gateway("a"), tags), Denial.FALSE_GATEWAY),
        (*_datagram(scene, elsewhere, tags, 67, 68), Denial.ROGUE_DHCP),
    ]


@pytest.mark.parametrize(
    ("message", "arrives"),
    [
        ("router advertisement", False),
        ("redirect", False),
        ("DHCPv6", False),
        ("neighbour solicitation", True),
    ],
)
def test_no_node_is_a_router_of_ipv6_for_its_fellows(scene: Scene, message: str, arrives: bool) -> None:
    token = secrets.token_bytes(16)
    icmp = {"router advertisement": 134, "redirect": 137, "neighbour solicitation": 135}.get(message)
    if icmp is None:
        body, number = struct.pack(">HHHH", 547, 546, 8 + len(token), 0) + token, 17
    else:
        body, number = struct.pack(">BBHI", icmp, 0, 0, 0) + token, 58
    source, target = IPv6Address("fe80::1"), IPv6Address("ff02::1")
    header = struct.pack(">IHBB", 6 << 28, len(body), number, 255) + source.packed + target.packed
    frame = bytes.fromhex("333300000001") + _mac(scene, "a2") + b"\x86\xdd" + header + body
    with tap(scene["a1"], "eth0") as seen:
        until(partial(_arrives, scene, frame, token, seen), "it arrives")
    with scene.table(*EVERY), tap(scene["a1"], "eth0") as seen:
        if arrives:
            until(partial(_arrives, scene, frame, token, seen), "it arrives")
            assert denials()[Denial.ROGUE_ROUTER] == 0
        else:
            assert _arrives(scene, frame, token, seen) is False
            until(lambda: denials()[Denial.ROGUE_ROUTER] == 1, "it is denied")


def _arrives(scene: Scene, frame: bytes, token: bytes, seen: Tap) -> bool | None:
    """Whether a frame from a2 arrives at a1: it is sent once, and followed by what shall arrive."""
    _send(scene["a2"], frame)
    replied(ping(scene["a2"], scene.ip("a1")))
    return seen.saw(token)


def _are_counted(wanted: Counter[str]) -> bool:
    return denials() == wanted


def _datagram(scene: Scene, source: IPv4Address, tags: str, *ports: int) -> tuple[bytes, bytes]:
    """A datagram from a2 to a1 that says it is from `source`, and what only it has in it."""
    token = secrets.token_bytes(16)
    body = (b"\x02" + b"\0" * 27 + _mac(scene, "a1") + b"\0" * 202) if ports else b""
    sender, receiver = ports or (PORT, PORT)
    datagram = struct.pack(">HHHH", sender, receiver, 8 + len(body) + len(token), 0) + body + token
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0)
    header += source.packed + scene.ip("a1").packed
    header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
    return _mac(scene, "a1") + _mac(scene, "a2") + bytes.fromhex(f"{tags}0800") + header + datagram, token


def _claim(scene: Scene, claimed: IPv4Address, tags: str) -> tuple[bytes, bytes]:
    """A reply from a2 to a1 that says a2 has the address `claimed`, and what only it has in it."""
    token = secrets.token_bytes(16)
    said = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2) + _mac(scene, "a2") + claimed.packed
    said += _mac(scene, "a1") + scene.ip("a1").packed + token
    return _mac(scene, "a1") + _mac(scene, "a2") + bytes.fromhex(f"{tags}0806") + said, token


def _mac(scene: Scene, node: str) -> bytes:
    return bytes.fromhex(scene.nodes[node].mac.replace(":", ""))


def _send(place: Place, frame: bytes) -> None:
    with place.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0))
        sock.send(frame)


@contextlib.contextmanager
def _has_address(place: Place, address: IPv4Interface) -> Iterator[None]:
    place.run(["ip", "addr", "add", str(address), "dev", "eth0"])
    try:
        yield
    finally:
        place.run(["ip", "addr", "del", str(address), "dev", "eth0"])


def _resolve(name: str) -> tuple[str, ...]:
    """What the gateway of the network on br-tried tells its nodes."""
    with endpoint("br-tried", "52:54:00:67:00:98", within=COMES_WITHIN) as node:
        return replied(dns(node.place, node.lease.server, name)).said


def _lease_as(name: str) -> str:
    """The address that a stranger on br-tried gets, who says this is its name; the server has noted it."""
    asks = f"busybox udhcpc -i eth0 -n -q -f -t {COMES_WITHIN:.0f} -T 1 -s /bin/true -x hostname:{name}"
    with attached("br-tried", "52:54:00:67:00:97", name="stranger") as (place, _):
        place.run(asks.split(), timeout=2 * COMES_WITHIN)

    def noted() -> str | None:
        for each in map(str.split, run("virsh", "-q", "net-dhcp-leases", "tried-network").splitlines()):
            if "52:54:00:67:00:97" in each and name in each:
                return each[4].partition("/")[0]
        return None

    return until(noted, f"the lease of {name}")


@contextlib.contextmanager
def _ours(**network: Any) -> Iterator[list[ClusterRules]]:
    """The network that ai-how makes of a configuration, and what its firewall table holds of it."""
    machine = {"cpu_cores": 1, "memory_gb": 1, "disk_gb": 1}
    place = {"subnet": "10.67.0.0/24", "bridge": "br-tried", **network}
    cluster = {"name": "tried", "base_image_path": "/any.qcow2", "network": place, "controller": machine}
    made = compile_network(resolve(load_mapping({"clusters": {"hpc": cluster}})), active=True)
    around = compile_host([made], Surroundings())
    table = next(each for each in around if isinstance(each, FirewallTable))
    asked = next(each for each in around if isinstance(each, Servers))
    with Libvirt("qemu:///system") as libvirt, contextlib.ExitStack() as stack:
        stack.callback(servers.remove, libvirt, asked)
        servers.create(libvirt, asked)
        stack.enter_context(started(made.to_xml()))
        yield list(table.clusters)


@contextlib.contextmanager
def _line_in(path: str, line: str) -> Iterator[None]:
    """The file is the lab's own copy."""
    file = Path(path)
    before = file.read_text()
    file.write_text(f"{before}\n{line}\n")
    try:
        yield
    finally:
        file.write_text(before)


def _claims(place: Place, address: IPv4Address) -> set[str]:
    """Who says by ARP that it has `address`."""
    with tap(place, "eth0") as seen:
        for _ in range(3):
            replied(arp(place, "eth0", address))
        silent(arp(place, "eth0", IPv4Address("10.61.0.251")))  # until late answers are there, too
        answers = (frame for frame in seen.frames() if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2")
        return {frame[22:28].hex(":") for frame in answers if frame[28:32] == address.packed}


def _offers(place: Place, hardware: str, least: int = 1) -> set[IPv4Address | None]:
    """The servers that answer: `least` of them are waited for, and who else answers until a second is silent, or ten
    have passed."""
    transaction = secrets.token_bytes(4)
    with place.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.bind(("", 68))
        client.settimeout(1)
        found: set[IPv4Address | None] = set()

        def answered() -> bool:
            client.sendto(message(Message.DISCOVER, transaction, hardware), ("255.255.255.255", 67))
            deadline = time.monotonic() + 10
            with contextlib.suppress(TimeoutError):
                while time.monotonic() < deadline:
                    reply = read_reply(client.recv(65536))
                    if reply is not None and reply.transaction == transaction:
                        found.add(reply.server)
            return len(found) >= least

        until(answered, f"offers of {least}")
    return found


@contextlib.contextmanager
def _dhcp_server(place: Place, address: IPv4Interface) -> Iterator[None]:
    """dnsmasq at `place`, which has that address; quick and sure of itself."""
    pool = f"{address.network[200]},{address.network[220]}"
    argv = [
        *("dnsmasq", "--conf-file=/dev/null", "--port=0", "--user=root", "--keep-in-foreground", "--pid-file="),
        *("--no-ping", "--dhcp-authoritative", "--leasefile-ro", "--bind-interfaces", "--interface=eth0"),
        *("--log-facility=-", f"--dhcp-range={pool},2m"),
    ]
    with place.at(subprocess.Popen, argv, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            while "exclusively" not in (line := server.stderr.readline()):
                assert line, "dnsmasq does not start"
            yield
        finally:
            server.send_signal(signal.SIGTERM)
