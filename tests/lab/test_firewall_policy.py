"""What a cluster's configuration allows and forbids beyond its mode, seen by packets."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import pytest
from tests.lab.firewall_scene import (
    CONTAINER,
    CONTAINERS,
    PORT,
    Question,
    Scene,
    build,
    denials,
    denied,
    dns,
    everywhere,
    gateway,
    http,
    ping,
    replied,
    rules,
    run,
    silent,
    subnet,
    tcp,
    udp,
)
from tests.waiting import COMES_WITHIN, until

from ai_how.config.terms import Egress, Protocol
from ai_how.host import nftables
from ai_how.lab import Internet
from ai_how.probe.dhcp import Message, message, read_reply
from ai_how.probe.packets import ask, forged
from ai_how.probe.responder import Responder, tap
from ai_how.providers import firewall
from ai_how.resources.firewall import Denial, FirewallTable
from ai_how.resources.ruleset import render
from ai_how.spec.policy import Exposure, Port

WEB = IPv4Network("198.51.100.0/24")
LOCALHOST = IPv4Address("127.0.0.1")
CONTAINER_NETWORK = IPv4Network("172.29.0.0/24")
BRIDGED_FRAMES = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


@pytest.fixture(scope="module")
def scene(libvirt_uri: str) -> Iterator[Scene]:
    with build(libvirt_uri) as built:
        yield built


@contextmanager
def setting(path: Path | str, value: str) -> Iterator[None]:
    path = Path("/proc/sys", path)
    before = path.read_text()
    path.write_text(value)
    try:
        yield
    finally:
        path.write_text(before)


def test_what_somebody_else_leaves_unanswered_is_not_taken_for_a_denial_of_ours(scene: Scene) -> None:
    """Of the tests' own `denied`: several at once, and each is counted."""
    with scene.table(rules("a"), rules("r")):
        nobody_there = ping(scene.host, subnet("a")[250])
        with pytest.raises(AssertionError, match="2 more are counted"):
            denied(Denial.OTHER_CLUSTER, ping(scene["a1"], scene.ip("r1")), nobody_there, within=1.0)
        assert denials()[Denial.OTHER_CLUSTER] == 1
        with pytest.raises(AssertionError, match="reply in"):
            denied(Denial.OTHER_CLUSTER, tcp(scene["a1"], scene.ip("r1"), PORT), ping(scene["a1"], scene.ip("a2")))


def test_a_lease_is_renewed_at_the_own_gateway_and_asked_for_nowhere_else(scene: Scene) -> None:
    node = scene.nodes["a1"]
    with scene.table(rules("a"), rules("b")), scene["a1"].socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("", 68))
        client.settimeout(1)

        def given(letter: str) -> tuple[int, IPv4Address] | None:
            """What the server there gives when it is asked once."""
            transaction = secrets.token_bytes(4)
            asked = message(Message.REQUEST, transaction, node.mac, client=node.ip)
            client.sendto(asked, (str(gateway(letter)), 67))
            with suppress(TimeoutError):
                while (reply := read_reply(client.recv(65536))) is None or reply.transaction != transaction:
                    pass
                return reply.message, reply.address
            return None

        until(lambda: given("a") == (Message.ACK, node.ip), "the own gateway renews it")
        before = denials()[Denial.HOST_SERVICE]
        assert given("b") is None
        until(lambda: denials()[Denial.HOST_SERVICE] > before, "the other gateway is denied")


def test_blocked_networks_are_out_of_reach_and_everything_else_is_not(scene: Scene, internet: Internet) -> None:
    with scene.table(rules("a", block_networks=(WEB,)), rules("b")):
        web = http(scene["a1"], internet.web, internet.name), ping(scene["a1"], internet.web)
        denied(Denial.BLOCKED_NETWORK, *web)
        replied(ping(scene["a1"], internet.resolvers[0]))
        scene.works("b")


def test_blocked_networks_win_over_peers_but_not_over_the_cluster_itself(scene: Scene) -> None:
    everything = (IPv4Network("10.0.0.0/8"),)
    blocking = rules("r", peers=("fw-s",), block_networks=everything)
    with scene.table(blocking, rules("s", peers=("fw-r",))):
        peer = everywhere(scene["r1"], scene.ip("s1"))
        denied(Denial.BLOCKED_NETWORK, *peer, ping(scene["r1"], gateway("s")))
        scene.works("r")


def test_a_connection_that_exists_ends_when_its_network_is_blocked(scene: Scene, internet: Internet) -> None:
    with (
        scene.table(rules("a")),
        scene.lan.socket(socket.AF_INET, socket.SOCK_STREAM) as server,
        scene["a1"].socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        server.bind((str(internet.web), 0))
        server.listen()
        client.settimeout(COMES_WITHIN)
        client.connect(server.getsockname())
        with server.accept()[0] as other:
            other.settimeout(COMES_WITHIN)
            client.send(b"before")
            assert other.recv(100) == b"before"
            with scene.table(rules("a", block_networks=(WEB,))):
                before = denials()[Denial.BLOCKED_NETWORK]
                client.send(b"after")
                other.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    other.recv(100)
                until(lambda: denials()[Denial.BLOCKED_NETWORK] > before, "what was sent is denied")


def test_a_connection_that_exists_ends_when_who_opened_it_is_no_longer_allowed(
    scene: Scene, internet: Internet
) -> None:
    lan = internet.uplink_address.network
    with scene.lan.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        client.connect((str(scene.ip("r1")), PORT))

        def answered(word: bytes) -> bool:
            """Whether it is, when it is sent once; what was sent before may be so still."""
            client.send(word)
            with suppress(TimeoutError):
                while not client.recv(100).startswith(word):
                    pass
                return True
            return False

        with scene.table(rules("r", allow_from=(lan,))):
            until(lambda: answered(b"before"), "an answer")
            with scene.table(rules("r")):
                assert not answered(b"after")
                until(lambda: denials()[Denial.INTO_CLUSTER] == 1, "what was sent once is denied once")


@pytest.mark.parametrize("letter", ["a", "r"])
def test_egress_deny_leaves_only_what_is_excepted(scene: Scene, internet: Internet, letter: str) -> None:
    node = scene[f"{letter}1"]
    with scene.table(rules(letter, egress=Egress.DENY)):
        denied(Denial.EGRESS, http(node, internet.web, internet.name), ping(node, internet.resolvers[0]))
        replied(ping(node, gateway(letter)))
        replied(tcp(node, scene.ip(f"{letter}2"), PORT))
        assert replied(dns(node, gateway(letter), internet.name)).said
    with scene.table(rules(letter, egress=Egress.DENY, allow_networks=(WEB,))):
        assert replied(http(node, internet.web, internet.name)).said == (internet.web_body,)
        denied(Denial.EGRESS, ping(node, internet.resolvers[0]))


def test_host_s_ports_that_are_allowed_are_open_at_the_own_gateway_alone(scene: Scene) -> None:
    with scene.table(rules("a", allow_host_ports=(Port(Protocol.TCP, PORT),)), rules("b")):
        replied(tcp(scene["a1"], gateway("a"), PORT))
        denied(
            Denial.HOST_SERVICE,
            udp(scene["a1"], gateway("a"), PORT),
            tcp(scene["a1"], gateway("b"), PORT),
            tcp(scene["b1"], gateway("b"), PORT),
        )


def test_exposed_port_leads_to_the_node_from_the_lan_and_from_the_host(scene: Scene, internet: Internet) -> None:
    host = internet.uplink_address.ip
    expose = tuple(
        Exposure(Port(protocol, 8080), "r1", scene.ip("r1"), PORT) for protocol in (Protocol.TCP, Protocol.UDP)
    )
    with scene.table(rules("r", expose=expose), rules("a"), rules("s")):
        # The node sees who asks: nothing is masqueraded on the way in.
        assert replied(tcp(scene.lan, host, 8080)).said == (str(internet.router),)
        assert replied(udp(scene.lan, host, 8080)).said == (str(internet.router),)
        replied(tcp(scene.host, host, 8080))
        # The gateways are not the host's, as far as others are concerned.
        gateways = gateway("a"), gateway("r")
        silent(*(tcp(scene.host, address, 8080) for address in gateways))
        denied(Denial.GATEWAY_FROM_OUTSIDE, *(tcp(scene.lan, address, 8080) for address in gateways))
        replied(tcp(scene.container, host, 8080))
        # Nothing else of the node, and nothing of the port from clusters.
        denied(Denial.INTO_CLUSTER, *(tcp(scene.lan, scene.ip("r1"), port) for port in (PORT, 22)))
        denied(Denial.HOST_SERVICE, tcp(scene["a1"], host, 8080), tcp(scene["r2"], gateway("r"), 8080))
        scene.works("r")
    silent(tcp(scene.lan, host, 8080))


def test_names_resolve_where_the_port_of_dns_is_exposed(scene: Scene, internet: Internet) -> None:
    expose = tuple(
        Exposure(Port(protocol, 53), "r1", scene.ip("r1"), PORT) for protocol in (Protocol.TCP, Protocol.UDP)
    )
    with scene.table(rules("r", expose=expose), rules("a")):
        assert replied(udp(scene.lan, internet.uplink_address.ip, 53)).said == (str(internet.router),)
        scene.works("r")
        scene.works("a")
        for over_tcp in (False, True):  # as the servers of peers ask each other
            asked = dns(scene.host, gateway("a"), internet.name, over_tcp=over_tcp)
            assert replied(asked).said == (str(internet.web),)


def test_exposed_port_is_the_host_s_and_nobody_else_s(scene: Scene, internet: Internet) -> None:
    nobody_listens = 9
    expose = (Exposure(Port(Protocol.TCP, PORT), "r1", scene.ip("r1"), nobody_listens),)
    lan = internet.uplink_address.network
    with scene.table(rules("r", expose=expose), rules("s", allow_from=(lan,))), Responder() as responder:
        responder.listen(scene.host, PORT, LOCALHOST)
        silent(*(tcp(place, internet.uplink_address.ip, PORT) for place in (scene.lan, scene.host)))
        replied(tcp(scene.lan, scene.ip("s1"), PORT))
        replied(tcp(scene.host, scene.ip("s1"), PORT))
        assert replied(tcp(scene.host, LOCALHOST, PORT)).said == (str(LOCALHOST),)


def test_what_others_redirect_to_a_node_needs_to_be_exposed_by_us(scene: Scene, internet: Internet) -> None:
    run("nft", "add table ip theirs; add chain ip theirs in { type nat hook prerouting priority -110; }")
    run("nft", f"add rule ip theirs in tcp dport {{ 8081, 8082 }} dnat to {scene.ip('r1')}:{PORT}")
    try:
        replied(tcp(scene.lan, internet.uplink_address.ip, 8081))
        expose = (Exposure(Port(Protocol.TCP, 8080), "r2", scene.ip("r2"), PORT),)
        with scene.table(rules("r", expose=expose)):
            replied(tcp(scene.lan, internet.uplink_address.ip, 8080))
            denied(Denial.INTO_CLUSTER, tcp(scene.lan, internet.uplink_address.ip, 8082))
    finally:
        run("nft", "delete table ip theirs")


def test_what_the_host_tells_itself_is_not_masqueraded(scene: Scene) -> None:
    with scene.table(rules("r")):
        assert replied(tcp(scene.host, gateway("r"), PORT)).said == (str(gateway("r")),)


def test_exposed_port_answers_also_where_egress_is_denied(scene: Scene, internet: Internet) -> None:
    expose = (Exposure(Port(Protocol.TCP, 8080), "r1", scene.ip("r1"), PORT),)
    with scene.table(rules("r", expose=expose, egress=Egress.DENY)):
        replied(tcp(scene.lan, internet.uplink_address.ip, 8080))
        denied(Denial.EGRESS, tcp(scene["r1"], internet.router, PORT))


def test_lan_networks_that_are_allowed_reach_nodes_and_others_do_not(scene: Scene, internet: Internet) -> None:
    lan = internet.uplink_address.network
    with scene.table(rules("r", allow_from=(lan,)), rules("s")):
        for each in everywhere(scene.lan, scene.ip("r1")):
            replied(each)
        others = tcp(scene.container, scene.ip("r1"), PORT), tcp(scene.lan, scene.ip("s1"), PORT)
        denied(Denial.INTO_CLUSTER, *others)
        scene.works("r")
    with scene.table(rules("r", allow_from=(CONTAINER_NETWORK,))):
        replied(tcp(scene.container, scene.ip("r1"), PORT))
        denied(Denial.INTO_CLUSTER, tcp(scene.lan, scene.ip("r1"), PORT))


def test_errors_about_what_was_let_through_come_back(scene: Scene, internet: Internet) -> None:
    """A port where nobody listens is refused at once, and so a path that takes only small packets is found out."""
    closed = 9
    expose = (Exposure(Port(Protocol.UDP, 8080), "r1", scene.ip("r1"), closed),)
    with scene.table(rules("a"), rules("r", expose=expose, egress=Egress.DENY)):
        for question in (
            udp(scene["a1"], internet.router, closed),
            udp(scene.lan, internet.uplink_address.ip, 8080),
            udp(scene.host, scene.ip("a1"), closed),
        ):
            until(partial(_is_refused, question), "the error")


def _is_refused(question: Question) -> bool:
    return "ECONNREFUSED" in ask(question()).detail


def test_what_leaves_is_masqueraded_but_for_networks_reached_directly(scene: Scene, internet: Internet) -> None:
    lan = internet.uplink_address.network
    with scene.table(rules("r")):
        assert replied(tcp(scene["r1"], internet.router, PORT)).said == (str(internet.uplink_address.ip),)
    with scene.table(rules("r", direct=(lan,), allow_from=(lan,))):
        assert replied(tcp(scene["r1"], internet.router, PORT)).said == (str(scene.ip("r1")),)
        assert replied(http(scene["r1"], internet.web, internet.name)).said == (internet.web_body,)
    with scene.table(rules("r", masquerade=False)):
        assert replied(tcp(scene["r1"], internet.router, PORT)).said == (str(scene.ip("r1")),)


def test_peers_reach_each_other_s_nodes_and_names_and_nobody_else_does(scene: Scene) -> None:
    with scene.table(rules("r", peers=("fw-s",)), rules("s", peers=("fw-r",)), rules("a"), rules("b")):
        for here, there in (("r1", "s1"), ("s2", "r2")):
            for each in everywhere(scene[here], scene.ip(there)):
                replied(each)
            assert replied(tcp(scene[here], scene.ip(there), PORT)).said == (str(scene.ip(here)),)
            replied(ping(scene[here], gateway(there[0])))
            # What it is asked on another bridge libvirt's dnsmasq does not answer; it takes connections all the same.
            replied(tcp(scene[here], gateway(there[0]), 53))
            denied(Denial.HOST_SERVICE, tcp(scene[here], gateway(there[0]), PORT))
        strangers = (("a1", "s1"), ("s1", "a1"), ("a1", "b1"))
        denied(Denial.OTHER_CLUSTER, *(tcp(scene[here], scene.ip(there), PORT) for here, there in strangers))
        scene.works("r")
        scene.works("s")


def test_a_pair_is_one_way_only_where_it_is_said_one_way(scene: Scene) -> None:
    """A reply needs the way back to be allowed, whatever conntrack says of it."""
    with scene.table(rules("r", peers=("fw-s",)), rules("s")):
        denied(Denial.OTHER_CLUSTER, tcp(scene["r1"], scene.ip("s1"), PORT))


def test_a_node_may_be_the_router_of_a_network_behind_it(scene: Scene) -> None:
    """With libvirt's forward mode `open`; in `route` libvirt rejects what is not of the network's subnet."""
    behind = IPv4Network("10.200.0.0/16")
    router = scene["o2"]
    router.run(["ip", "addr", "add", f"{behind[1]}/32", "dev", "lo"])
    run("ip", "route", "add", str(behind), "via", str(scene.ip("o2")))
    try:
        one, other = rules("r", peers=("fw-o",)), rules("o", peers=("fw-r",))
        with scene.table(one, other):
            denied(Denial.SPOOFED_SOURCE, tcp(scene["r1"], behind[1], PORT))
        with scene.table(one, replace(other, behind=(behind,)), rules("a")):
            replied(tcp(scene["r1"], behind[1], PORT))
            denied(Denial.OTHER_CLUSTER, tcp(scene["a1"], behind[1], PORT))
    finally:
        run("ip", "route", "del", str(behind))
        router.run(["ip", "addr", "del", f"{behind[1]}/32", "dev", "lo"])


@pytest.mark.parametrize("killed", [False, True], ids=["whole", "after one that was killed"])
def test_no_packet_slips_through_while_rules_are_loaded_anew(scene: Scene, killed: bool) -> None:
    token = b"slips through"
    with (
        scene.table(rules("a"), rules("r")) as table,
        tap(scene.container, "eth0") as seen,
        scene["a1"].socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sent = 0
        with ThreadPoolExecutor(1) as worker:
            loading = worker.submit(_load_often, scene, table, killed=killed)
            while not loading.done():
                with suppress(OSError):  # the last one was rejected
                    sender.sendto(token, (str(CONTAINER), PORT))
                sent += 1
        loading.result()
        assert sent > 1000
        assert not seen.saw(token)
        replied(ping(scene.host, CONTAINER))
    with tap(scene.container, "eth0") as seen, scene["a1"].socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        until(lambda: sender.sendto(token, (str(CONTAINER), PORT)) and seen.saw(token), "it arrives without rules")


def test_no_packet_is_lost_while_rules_are_loaded_anew(scene: Scene, internet: Internet) -> None:
    """What the old rules and the new ones let pass. One way only, and all the time: as many are on their way as a busy
    kernel has room for."""
    with (
        scene.table(rules("a"), rules("r")) as table,
        scene["a1"].socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        scene.lan.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind((str(internet.resolvers[0]), 0))
        receiver.settimeout(COMES_WITHIN)
        sent, on_their_way = 0, 50
        with ThreadPoolExecutor(1) as worker:
            loading = worker.submit(_load_often, scene, table)
            while not loading.done():
                sender.sendto(b"", receiver.getsockname())
                sent += 1
                if sent > on_their_way:
                    receiver.recv(1)
        loading.result()
        assert sent > 1000
        for _ in range(on_their_way):
            receiver.recv(1)  # one that was lost is waited for in vain


def _load_often(scene: Scene, table: FirewallTable, *, killed: bool = False) -> None:
    for _ in range(30):
        if killed:
            nftables.load("".join(render(table).splitlines(keepends=True)[:2]))
        firewall.create(scene.libvirt, table)


@pytest.mark.parametrize("target", ["s1", "internet", "gateway"])
def test_forged_sources_do_not_leave_their_bridge(scene: Scene, internet: Internet, target: str) -> None:
    address = {"s1": scene.ip("s1"), "internet": internet.router, "gateway": gateway("r")}[target]
    place, link = {"s1": (scene["s1"], "eth0"), "internet": (scene.lan, internet.uplink)}.get(
        target, (scene.host, "fw-r")
    )
    peers = {"peers": ("fw-s",)}
    with scene.table(rules("r", **peers), rules("s", peers=("fw-r",)), rules("a")), tap(place, link) as seen:
        for source in (IPv4Address("10.99.0.1"), scene.ip("a1"), internet.router, IPv4Address("127.0.0.1")):
            sent = ask(forged(scene["r1"], source, address))
            replied(ping(scene["r1"], gateway("r")))  # what was sent before has been looked at
            assert target == "gateway" or not seen.saw(sent.token), source
        replied(ping(scene["r1"], address))
        until(lambda: denials()[Denial.SPOOFED_SOURCE] >= 3, "those that no kernel drops by itself are denied")


def test_forged_sources_of_a_cluster_do_not_come_in_from_outside(scene: Scene) -> None:
    lan = IPv4Network("0.0.0.0/0")
    with (
        scene.table(rules("r", allow_from=(lan,)), rules("s")),
        tap(scene["r1"], "eth0") as seen,
        setting("net/ipv4/conf/all/rp_filter", "0"),
        setting("net/ipv4/conf/uplink/rp_filter", "0"),
    ):
        for source in (scene.ip("s1"), scene.ip("r2")):
            spoofed = denials()[Denial.SPOOFED_SOURCE] + 1
            sent = ask(forged(scene.lan, source, scene.ip("r1")))
            replied(ping(scene.lan, scene.ip("r1")))
            assert not seen.saw(sent.token)
            until(lambda: denials()[Denial.SPOOFED_SOURCE] == spoofed, "it is denied")  # noqa: B023


@pytest.mark.parametrize("value", ["0", "1"])
def test_a_cluster_is_one_whether_or_not_bridged_frames_pass_the_firewall(scene: Scene, value: str) -> None:
    with setting(BRIDGED_FRAMES, value), scene.table(rules("a"), rules("r")):
        scene.works("a")
        scene.works("r")
        denied(Denial.OTHER_CLUSTER, tcp(scene["a1"], scene.ip("r1"), PORT))


def test_ipv6_link_local_reaches_the_cluster_and_not_the_host(scene: Scene) -> None:
    with _ipv6("fw-a"), setting("net/bridge/bridge-nf-call-ip6tables", "1"):
        host = _link_local(run("ip", "-j", "-6", "addr", "show", "dev", "fw-a"))
        other = _link_local(scene["a2"].run(["ip", "-j", "-6", "addr", "show", "dev", "eth0"]))
        replied(ping(scene["a1"], host))
        with scene.table(rules("a")):
            replied(ping(scene["a1"], other))
            replied(tcp(scene["a1"], other, PORT))
            denied(Denial.IPV6, ping(scene["a1"], host), tcp(scene["a1"], host, PORT))


def test_ipv6_does_not_open_what_ipv4_closes(scene: Scene) -> None:
    gateways = [IPv6Address("fd00:a::ff"), IPv6Address("fd00:b::ff")]
    with _unique_local(scene) as address:
        ways = [(scene["a1"], "b1"), (scene["a1"], "c1"), (scene.container, "a1")]
        for place, target in ways:
            for question in everywhere(place, address[target]):
                replied(question)
        for each in gateways:
            replied(ping(scene["a1"], each))
        with scene.table(rules("a", peers=("fw-b",)), rules("b", peers=("fw-a",))):
            for question in everywhere(scene["a1"], address["a2"]):
                replied(question)
            for place, target in ways:
                denied(Denial.IPV6, *everywhere(place, address[target]))
            denied(Denial.IPV6, *(ping(scene["a1"], each) for each in gateways))


@contextmanager
def _ipv6(bridge: str) -> Iterator[None]:
    """libvirt switches IPv6 off where a network has no such address; whoever switches it on finds it at once."""
    conf = f"net/ipv6/conf/{bridge}"
    with setting(f"{conf}/accept_dad", "0"), setting(f"{conf}/disable_ipv6", "0"):
        yield


@contextmanager
def _unique_local(scene: Scene) -> Iterator[dict[str, IPv6Address]]:
    """Clusters a and b, and a container, with IPv6 addresses, and a host that routes between them."""
    bridges = {"a": "fw-a", "b": "fw-b", "c": CONTAINERS}
    places = {"c1": scene.container, **{name: scene[name] for name in ("a1", "a2", "b1", "b2")}}
    with _ipv6("fw-a"), _ipv6("fw-b"), setting("net/ipv6/conf/all/forwarding", "1"):
        for letter, bridge in bridges.items():
            run("ip", "addr", "add", f"fd00:{letter}::ff/64", "dev", bridge, "nodad")
        for name, place in places.items():
            place.run(["ip", "addr", "add", f"fd00:{name[0]}::{name[1]}/64", "dev", "eth0", "nodad"])
            place.run(["ip", "-6", "route", "add", "default", "via", f"fd00:{name[0]}::ff"])
        try:
            yield {name: IPv6Address(f"fd00:{name[0]}::{name[1]}") for name in places}
        finally:
            for letter, bridge in bridges.items():
                run("ip", "addr", "del", f"fd00:{letter}::ff/64", "dev", bridge)
            for place in places.values():
                place.run(["ip", "-6", "addr", "flush", "dev", "eth0", "scope", "global"])


def _link_local(text: str) -> IPv6Address:
    """With the link that every place has."""
    addresses = json.loads(text)[0]["addr_info"]
    return IPv6Address(next(each["local"] for each in addresses if each["scope"] == "link") + "%eth0")
