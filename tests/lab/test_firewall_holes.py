"""The nine holes that libvirt's own firewall leaves open: each is reproduced, and shown closed by our table."""

from __future__ import annotations

import contextlib
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface

import pytest
from tests.lab.firewall_scene import (
    CONTAINER,
    CONTAINERS,
    CONTAINERS_GATEWAY,
    MODES,
    PORT,
    Scene,
    build,
    denials,
    denied,
    everywhere,
    gateway,
    mac,
    replied,
    rules,
    silent,
)

from ai_how.lab import Internet
from ai_how.probe.dhcp import Message, message, read_reply
from ai_how.probe.endpoint import attached
from ai_how.probe.packets import arp, ask, dns, ping, tcp, udp
from ai_how.probe.place import Place
from ai_how.probe.responder import tap
from ai_how.resources.firewall import Denial

EVERY = [rules(letter) for letter in MODES]


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
        for address in addresses:
            for way in (tcp, udp):
                denied(Denial.HOST_SERVICE, way(scene["a1"], address, PORT))
        for address in addresses[1:]:
            denied(Denial.HOST_SERVICE, ping(scene["a1"], address))
            denied(Denial.HOST_SERVICE, dns(scene["a1"], address, "any.test"))


def test_hole_2_containers_on_the_host(scene: Scene) -> None:
    for each in everywhere(scene["a1"], CONTAINER):
        replied(each)
    with scene.table(*EVERY):
        scene.works("a")
        replied(tcp(scene.host, CONTAINER, PORT))
        for each in everywhere(scene["a1"], CONTAINER):
            denied(Denial.HOST_NETWORK, each)


def test_hole_3_gateway_s_address_from_the_lan_and_from_containers(scene: Scene, internet: Internet) -> None:
    for place in (scene.lan, scene.container):
        for each in everywhere(place, gateway("a")):
            replied(each)
    replied(dns(scene.lan, internet.resolvers[0], internet.name))
    with scene.table(*EVERY):
        scene.works("a")
        replied(tcp(scene.lan, internet.uplink_address.ip, PORT))
        for place in (scene.lan, scene.container):
            for each in everywhere(place, gateway("a")):
                denied(Denial.GATEWAY_FROM_OUTSIDE, each)


@pytest.mark.parametrize("source", ["a1", "s1"])
def test_hole_4_clusters_in_route_mode(scene: Scene, source: str) -> None:
    for each in everywhere(scene[source], scene.ip("r1")):
        replied(each)
    with scene.table(*EVERY):
        scene.works(source[0])
        scene.works("r")
        for each in everywhere(scene[source], scene.ip("r1")):
            denied(Denial.OTHER_CLUSTER, each)


def test_hole_7_arp_for_addresses_of_other_networks(scene: Scene, internet: Internet) -> None:
    foreign = [gateway("b"), internet.uplink_address.ip, CONTAINERS_GATEWAY]
    for address in foreign:
        replied(arp(scene["a1"], "eth0", address))
    with scene.table(*EVERY):
        for address in (gateway("a"), scene.ip("a2")):
            replied(arp(scene["a1"], "eth0", address))
        for address in foreign:
            denied(Denial.FOREIGN_ARP, arp(scene["a1"], "eth0", address, within=0.3))
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
        assert _offers(scene["a1"], mac("a", 1)) == {rogue.ip, gateway("a")}
        with scene.table(*EVERY):
            before = denials()[Denial.ROGUE_DHCP]
            for _ in range(3):
                assert _offers(scene["a1"], mac("a", 1)) == {gateway("a")}
            assert denials()[Denial.ROGUE_DHCP] >= before + 3


def test_dhcp_between_the_ports_of_a_stranger_s_bridge_is_left_alone(scene: Scene) -> None:
    server = IPv4Interface(f"{CONTAINER}/24")
    with _dhcp_server(scene.container, server), scene.table(*EVERY):
        with attached(CONTAINERS, "02:42:ac:1d:00:0b", name="another") as (place, _):
            assert _offers(place, "02:42:ac:1d:00:0b") == {server.ip}
        assert denials()[Denial.ROGUE_DHCP] == 0


def test_node_with_the_gateway_s_address_is_not_heard(scene: Scene) -> None:
    with _has_address(scene["a2"], IPv4Interface(f"{gateway('a')}/32")):
        assert mac("a", 2) in _claims(scene["a1"], gateway("a"))
        with scene.table(*EVERY):
            before = denials()[Denial.FALSE_GATEWAY]
            claims = _claims(scene["a1"], gateway("a"))
            assert len(claims) == 1
            assert mac("a", 2) not in claims
            assert denials()[Denial.FALSE_GATEWAY] > before
            scene["a1"].run(["ip", "neigh", "flush", "dev", "eth0"])  # what it learnt before our table
            scene.works("a")


@contextlib.contextmanager
def _has_address(place: Place, address: IPv4Interface) -> Iterator[None]:
    place.run(["ip", "addr", "add", str(address), "dev", "eth0"])
    try:
        yield
    finally:
        place.run(["ip", "addr", "del", str(address), "dev", "eth0"])


def _claims(place: Place, address: IPv4Address) -> set[str]:
    """Who says by ARP that it has `address`."""
    with tap(place, "eth0") as seen:
        for _ in range(3):
            ask(arp(place, "eth0", address, within=0.2))
        silent(arp(place, "eth0", IPv4Address("10.61.0.251"), within=0.3))  # until late answers are there, too
        answers = (frame for frame in seen.frames() if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2")
        return {frame[22:28].hex(":") for frame in answers if frame[28:32] == address.packed}


def _offers(place: Place, hardware: str) -> set[IPv4Address | None]:
    """The servers that answer within a second."""
    transaction = secrets.token_bytes(4)
    with place.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.bind(("", 68))
        client.sendto(message(Message.DISCOVER, transaction, hardware), ("255.255.255.255", 67))
        found = set()
        deadline = time.monotonic() + 1
        with contextlib.suppress(TimeoutError):
            while (left := deadline - time.monotonic()) > 0:
                client.settimeout(left)
                reply = read_reply(client.recv(65536))
                if reply is not None and reply.transaction == transaction:
                    found.add(reply.server)
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
