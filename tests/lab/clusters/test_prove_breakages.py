"""What `ai-how test` says where one thing is broken: exactly the scenarios that depend on it fail.

Four clusters stay up. Each row of the table breaks one thing between the configuration and the packet, tries everything
that is promised, and mends it. Nothing else may fail, and a denial whose control did not pass is never called passed.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.lab.clusters.breakages import (
    Breaks,
    another,
    at_once,
    dead,
    done,
    edited,
    hung,
    knowing,
    narrow,
    rules,
    second_server,
    silent,
    unplugged,
    without_rule,
)
from tests.lab.clusters.proof import ATTEMPTS, Found, Scene, cluster, scene
from tests.lab.consul_agent import agent
from tests.waiting import COMES_WITHIN

from ai_how.probe.actions import Ping, WhoHas
from ai_how.probe.expectations import Expect
from ai_how.probe.judge import Result

ADD, TAKE = "add element inet ai_how ", "delete element inet ai_how "
OTHER_SERVERS = ("server=1.1.1.1\nserver=8.8.8.8\n", "server=198.51.100.99\n")

#: What nodes of other clusters, or the LAN, try of a node.
TRIED = r"(ping \S+|(tcp|udp) \S+ 7000)"


@dataclass(frozen=True)
class Row:
    """`what` is broken, and `breaks` does it. `fails` fit what shall pass and fails, `leaks` what shall not and passes.

    With `anew` leases are taken while it is broken.
    """

    what: str
    breaks: Breaks
    fails: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()
    anew: bool = False


ROWS = [
    # Our rules.
    Row(
        "a port of the host is opened to all nodes",
        rules("insert rule inet ai_how to_host tcp dport HOST_PORT accept"),
        leaks=(r"\S+-controller → (gateway of \w+|uplink): tcp \S+ HOST_PORT",),
    ),
    Row(
        "a port of the host is opened to one cluster",
        rules(f"{ADD} host_ports {{ br-two . 10.44.2.1 . udp . HOST_PORT }}"),
        leaks=("two-controller → gateway of two: udp .* HOST_PORT",),
    ),
    Row(
        "a port of the host that shall be open is shut",
        rules(f"{TAKE} host_ports {{ br-one . 10.44.1.1 . tcp . 9000 }}"),
        fails=("one-controller → gateway of one: tcp .* 9000",),
    ),
    Row(
        "peers are parted",
        rules(f"{TAKE} peers {{ br-one . br-two }}"),
        fails=(f"one-controller → two-controller: {TRIED}", f"two-controller → one-controller: {TRIED}"),
    ),
    Row(
        "a peer's gateway is shut",
        rules(f"{TAKE} peers_gateways {{ br-one . 10.44.2.1 }}"),
        fails=("one-controller → gateway of two: ping .*",),
    ),
    Row(
        "isolated clusters are one",
        rules(f"{ADD} peers {{ br-one . br-three, br-three . br-one }}"),
        leaks=(f"one-controller → three-controller: {TRIED}", f"three-controller → one-controller: {TRIED}"),
    ),
    Row(
        "another cluster's gateway is opened",
        rules(f"{ADD} peers_gateways {{ br-three . 10.44.2.1 }}"),
        leaks=("three-controller → gateway of two: ping .*",),
    ),
    Row(
        "the LAN is let in",
        rules(f"{ADD} allowed_from {{ br-two . 203.0.113.0/24 }}"),
        leaks=(f"lan → two-controller: {TRIED}",),
    ),
    Row(
        "the LAN is not let in where it shall be",
        rules(f"{TAKE} allowed_from {{ br-four . 203.0.113.0/24 }}"),
        fails=(f"lan → four-controller: {TRIED}",),
    ),
    Row(
        "gateways are opened to the LAN",
        without_rule("gateway-from-outside", "input"),
        leaks=(r"lan → gateway of \w+: (ping .*|(tcp|udp) .*)",),
    ),
    Row(
        "nothing is masqueraded",
        rules("flush chain inet ai_how postrouting"),
        fails=("(one|two)-controller → lan: (tcp|udp) .*",),
    ),
    Row(
        "what goes along a declared route is masqueraded",
        rules(f"{TAKE} direct {{ 10.44.4.0/24 . 203.0.113.0/24 }}"),
        fails=("four-controller → lan: (tcp|udp) .*",),
    ),
    Row(
        "egress is opened",
        rules(f"{TAKE} egress_denied {{ br-three }}"),
        leaks=("three-controller → lan: (tcp|udp) .*", "three-controller → internet: http .*"),
    ),
    Row(
        "egress is shut",
        rules(f"{ADD} egress_denied {{ br-two }}", f"{TAKE} ways_out {{ br-two . uplink }}"),
        fails=(r"two-controller → (internet: (ping|http) .*|lan: (ping \S+|(tcp|udp) .*))",),
    ),
    Row(
        "a network that shall be reached is not allowed",
        rules(f"{TAKE} egress_allowed {{ br-three . 8.8.8.8 }}"),
        fails=("three-controller → internet: ping .*",),
    ),
    Row(
        "a blocked network is opened",
        rules(f"{TAKE} blocked {{ br-one . 198.51.100.0/24 }}"),
        leaks=("one-controller → internet: http .*", "one-controller → 198.51.100.0/24: ping .*"),
    ),
    Row(
        "a network is blocked that shall be open",
        rules(f"{ADD} blocked {{ br-two . 8.8.8.8 }}"),
        fails=("two-controller → internet: ping .*",),
    ),
    Row(
        "nodes may forge sources towards peers",
        without_rule("spoofed-source", "between"),
        leaks=(
            r"one-controller → two-controller: ping \S+ as \S+",
            r"two-controller → one-controller: ping \S+ as \S+",
        ),
    ),
    Row(
        "nodes may forge sources towards the outside",
        at_once(
            without_rule("spoofed-source", "out_of_cluster"),
            done("iptables -I FORWARD -i br-two -j ACCEPT", "iptables -D FORWARD -i br-two -j ACCEPT"),
        ),
        leaks=(r"two-controller → lan: ping \S+ as \S+",),
    ),
    Row(
        "the host answers ARP for gateways of other links",
        rules("delete table arp ai_how"),
        leaks=(r"\S+ → gateway of \w+: arp \S+",),
    ),
    # Exposed ports.
    Row(
        "an exposed port leads nowhere",
        rules(f"{TAKE} nodes {{ tcp . 8001 }}"),
        fails=("lan → one-compute-01: tcp .* 8001",),
    ),
    Row(
        "an exposed port leads to another node",
        rules(f"{TAKE} nodes {{ tcp . 8001 }}", f"{ADD} nodes {{ tcp . 8001 : 10.44.1.11 }}"),
        fails=("lan → one-compute-01: tcp .* 8001",),
    ),
    Row(
        "an exposed port leads to another node, which answers",
        rules(
            f"{TAKE} nodes {{ tcp . 8001 }}",
            f"{ADD} nodes {{ tcp . 8001 : 10.44.1.11 }}",
            f"{TAKE} ports {{ tcp . 8001 }}",
            f"{ADD} ports {{ tcp . 8001 : 7000 }}",
            f"{ADD} exposed {{ br-one . 10.44.1.11 . tcp . 7000 }}",
        ),
        fails=("lan → one-compute-01: tcp .* 8001",),
    ),
    Row(
        "an exposed port is not let in",
        rules(f"{TAKE} exposed {{ br-one . 10.44.1.10 . tcp . 80 }}"),
        fails=("lan → one-compute-01: tcp .* 8001",),
    ),
    Row(
        "an exposed service is dead",
        silent("one-compute-01", 80),
        fails=("lan → one-compute-01: tcp .* 8001",),
    ),
    # Names.
    Row(
        "a gateway's dnsmasq hangs",
        hung("three-network"),
        fails=("three-controller → (gateway of three|names of three|internet): dns .*",),
    ),
    Row(
        "the forwarders are nobody",
        edited("ai-how-two-network.servers", OTHER_SERVERS),
        fails=("two-controller → internet: dns A internet.test .*",),
    ),
    Row(
        "questions for another cluster's zone leave the host",
        edited("ai-how-one-network.servers", ("server=/three.internal/\n", "")),
        leaks=(r"one-controller → names of three: dns A nobody\S+ outside",),
    ),
    Row(
        "questions for another cluster's addresses leave the host",
        edited("ai-how-one-network.servers", ("server=/3.44.10.in-addr.arpa/\n", "")),
        leaks=(r"one-controller → names of three: dns PTR nobody\S+ outside",),
    ),
    Row(
        "another cluster's names are told",
        edited("ai-how-one-network.servers", ("server=/three.internal/\n", "server=/three.internal/10.44.3.1\n")),
        leaks=("one-controller → names of three: dns A three-controller.*",),
    ),
    Row(
        "a peer's names are asked of nobody",
        edited("ai-how-one-network.servers", ("/two.internal/10.44.2.1", "/two.internal/10.44.2.99")),
        fails=("one-controller → names of two: dns A .*",),
    ),
    Row(
        "a peer's addresses are asked of nobody",
        edited("ai-how-one-network.servers", ("/2.44.10.in-addr.arpa/10.44.2.1", "/2.44.10.in-addr.arpa/")),
        fails=("one-controller → names of two: dns PTR 2.2.44.10.*",),
    ),
    Row(
        "a name leads to another address",
        edited("two-network.addnhosts", ("10.44.2.2\t", "10.44.2.22\t")),
        fails=("(one|two)-controller → names of two: dns (A two-controller.*|PTR 2.2.44.10.*)",),
    ),
    Row(
        "an address has another name",
        edited("one-network.addnhosts", ("10.44.1.2\tone-controller", "10.44.1.2\tsomebody\tone-controller")),
        fails=("(one|two)-controller → names of one: dns PTR 2.1.44.10.*",),
    ),
    # Links, addresses, the host.
    Row(
        "a gateway has lost its address",
        done("ip addr del 10.44.2.1/24 dev br-two", "ip addr add 10.44.2.1/24 brd 10.44.2.255 dev br-two"),
        fails=(
            f"one-controller → two-controller: {TRIED}",
            "one-controller → (gateway of two: ping|names of two: dns) .*",
            "host → (gateway of two|two-.*): .*",
            "two-controller → (?!two-)(?!.*: dhcp).*",
        ),
    ),
    Row(
        "a bridge is down",
        done("ip link set br-three down", "ip link set br-three up"),
        fails=(r"three-\S+ → (?!.*: dhcp).*", "host → three-.*"),
    ),
    Row(
        "the host forwards nothing",
        done("sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.ip_forward=1"),
        fails=(
            r"\S+-controller → (internet: (ping|http)|lan:) .*",
            f"one-controller → two-controller: {TRIED}",
            f"two-controller → one-controller: {TRIED}",
            "lan → (four-controller|one-compute-01): .*",
        ),
    ),
    Row(
        "a bridge's MTU is too small",
        done("ip link set br-one mtu 1300", "ip link set br-one mtu 1500"),
        fails=("host → one-.*: ping .* with 1400 bytes .*",),
    ),
    Row(
        "the MTU on the way to a node is too small",
        narrow("one-compute-02", 1300),
        fails=("(host|one-controller) → one-compute-02: ping .* with 1400 bytes .*",),
    ),
    Row(
        "a node is not plugged into the bridge",
        unplugged("one-compute-02"),
        fails=("(host|one-controller) → one-compute-02: .*",),
    ),
    Row(
        "two have a node's address",
        another("br-one", "10.44.1.11"),
        fails=("one-controller → one-compute-02: arp .*",),
    ),
    Row("somebody claims the gateway's address, and our rules stand before it", another("br-two", "10.44.2.1")),
    Row(
        "somebody claims the gateway's address",
        at_once(rules("delete table bridge ai_how"), knowing("br-two", "10.44.2.1"), another("br-two", "10.44.2.1")),
        fails=("two-controller → gateway of two: arp .* alone",),
    ),
    # Other programs on the host.
    Row(
        "somebody drops what leaves a cluster",
        done("iptables -I FORWARD -i br-two -o uplink -j DROP", "iptables -D FORWARD -i br-two -o uplink -j DROP"),
        fails=(r"two-controller → (internet: (ping|http) .*|lan: (ping \S+|(tcp|udp) .*))",),
    ),
    Row(
        "somebody drops questions to a gateway",
        done(
            "iptables -I INPUT -i br-two -p udp --dport 53 -j DROP",
            "iptables -D INPUT -i br-two -p udp --dport 53 -j DROP",
        ),
        fails=("two-controller → (names of (one|two)|internet): dns .*", "two-controller → gateway of two: dns .* udp"),
    ),
    # Leases.
    Row(
        "a gateway's dnsmasq is dead",
        dead("three-network"),
        fails=(
            "three-controller → (gateway of three|names of three|internet): dns .*",
            r"three-\S+ → gateway of three: dhcp",
        ),
        anew=True,
    ),
    Row(
        "a reservation is of another address",
        edited("one-network.hostsfile", ("10.44.1.11", "10.44.1.77")),
        fails=("one-compute-02 → gateway of one: dhcp",),
        anew=True,
    ),
    Row(
        "a node has neither reservation nor name",
        at_once(
            edited("one-network.hostsfile", ("52:54:00:c0:d2:0e,10.44.1.11,one-compute-02", "")),
            edited("one-network.addnhosts", ("10.44.1.11\tone-compute-02\t\n", "")),
        ),
        fails=(
            "one-compute-02 → gateway of one: dhcp",
            "one-controller → names of one: dns .*(11.1.44.10|compute-02).*",
        ),
        anew=True,
    ),
    Row(
        "nodes are told another DNS server",
        edited("ai-how-two-network.options", ("", "option:dns-server,9.9.9.9")),
        fails=(r"two-\S+ → gateway of two: dhcp",),
        anew=True,
    ),
    Row(
        "nodes are told another gateway",
        edited("ai-how-two-network.options", ("", "option:router,10.44.2.77")),
        fails=(
            r"two-\S+ → gateway of two: dhcp",
            f"one-controller → two-controller: {TRIED}",
            f"two-controller → one-controller: {TRIED}",
            "two-controller → gateway of one: ping .*",
            r"two-controller → (internet: (ping|http) .*|lan: (ping \S+|(tcp|udp) .*))",
        ),
        anew=True,
    ),
    Row(
        "nodes are told another MTU",
        edited("ai-how-one-network.options", ("", "option:mtu,1300")),
        fails=(r"one-\S+ → gateway of one: dhcp", r"(host|one-\S+) → .*: ping .* with 1400 bytes .*"),
        anew=True,
    ),
    Row(
        "a second DHCP server, and our rules stand before it",
        second_server("br-two", "10.44.2.3"),
        anew=True,
    ),
    Row(
        "a second DHCP server",
        at_once(rules("delete table bridge ai_how"), second_server("br-two", "10.44.2.3")),
        fails=(r"two-\S+ → gateway of two: dhcp",),
        anew=True,
    ),
]


@pytest.fixture(scope="module")
def clusters(
    libvirt_uri: str, machine_room: None, blank_image: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    opened = {"expose": ["8001:one-compute-01:80"], "allow_host_ports": ["9000/tcp"]}
    with scene(
        tmp_path_factory.mktemp("breakages"),
        cluster(
            blank_image,
            "one",
            1,
            dns_mode="shared_dns",
            mtu=1400,
            host_resolver="none",
            firewall={**opened, "block_networks": ["198.51.100.0/24"]},
        ),
        cluster(blank_image, "two", 2, nodes=2, dns_mode="shared_dns", host_resolver="none"),
        cluster(blank_image, "three", 3, nodes=2, firewall={"egress": "deny", "allow_networks": ["8.8.8.8"]}),
        cluster(blank_image, "four", 4, nodes=2, dns_mode="routed", routes=[{"to": "203.0.113.0/24"}]),
    ) as made:
        yield made


def fitting(found: Found, patterns: tuple[str, ...], expect: Expect, port: int) -> set[str]:
    """The names of the scenarios that are meant; every pattern means at least one."""
    names = [each.name for each in found.scenarios.values() if each.expect is expect]
    meant: set[str] = set()
    for each in patterns:
        fits = {name for name in names if re.fullmatch(each.replace("HOST_PORT", str(port)), name)}
        assert fits, f"nothing fits {each}"
        meant |= fits
    return meant


def noted_at_once(found: Found) -> set[str]:
    """The names of those that no busy machine is late with: the kernel answers them, or they are noted where they
    arrive. To all others a program must answer."""
    return {
        scenario.name
        for each, scenario in found.scenarios.items()
        if each.watched is not None or isinstance(each.action, Ping | WhoHas)
    }


def test_unbroken_everything_passes(clusters: Scene) -> None:
    found = clusters.try_all()
    assert found.failed == found.unjustified() == []
    assert found.missing() == {"nothing resolves names for the host here"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_exactly_what_depends_on_it_fails(clusters: Scene, row: Row) -> None:
    if row.anew:
        clusters.leave()
    missed: set[str] = set()
    with row.breaks(clusters):
        # A busy machine is late: what shall pass is tried again, and of what leaks a program's answer is missed once.
        for attempts in (1, 3, ATTEMPTS):
            port = clusters.stand().around.host_port
            found = clusters.try_all(attempts)
            fails, leaks = fitting(found, row.fails, Expect.PASS, port), fitting(found, row.leaks, Expect.DENY, port)
            leaked = found.names(Result.FAILED, Expect.DENY)
            assert leaked <= leaks, "\n".join(found.failed)
            unseen = leaks - leaked
            assert not unseen & (noted_at_once(found) | missed), "it leaks, and was not seen"
            missed |= unseen
            if row.anew:
                clusters.leave()
            if found.names(Result.FAILED) == fails | leaks:
                break
    assert found.names(Result.FAILED) == fails | leaks, "\n".join(found.failed)
    assert found.unjustified() == []


def test_mended_everything_passes_again(clusters: Scene) -> None:
    """After each of the above: what was left broken would show here."""
    found = clusters.try_all()
    assert found.failed == found.unjustified() == []
    assert found.missing() == {"nothing resolves names for the host here"}


def said(method: str, path: str, body: object = None) -> Breaks:
    """Somebody tells Consul something else; ai-how mends it."""

    @contextmanager
    def broken(scene: Scene) -> Iterator[None]:
        request = urllib.request.Request(
            f"http://127.0.0.1:8500/v1/{path}", method=method, data=None if body is None else json.dumps(body).encode()
        )
        urllib.request.urlopen(request, timeout=COMES_WITHIN).close()  # noqa: S310
        try:
            yield
        finally:
            scene.leave()
            scene.up()

    return broken


ZONE = "server=/consul/127.0.0.1#8600"
IN_CONSUL = [
    Row("a node is not in Consul", said("PUT", "agent/service/deregister/ai-how:found:found-controller")),
    Row(
        "a node is in Consul with another address",
        said(
            "PUT",
            "agent/service/register",
            {
                "ID": "ai-how:found:found-controller",
                "Name": "found",
                "Address": "10.44.7.99",
                "Tags": ["controller", "found-controller"],
                "Meta": {"ai-how-cluster": "found", "ai-how-node": "found-controller"},
            },
        ),
    ),
    Row("Consul's zone is asked of nobody", edited("ai-how-found-network.servers", (ZONE, f"{ZONE[:-1]}9"))),
]
TOLD = edited("ai-how-apart-network.servers", ("", ZONE))


@pytest.fixture(scope="module")
def discovering(
    libvirt_uri: str, machine_room: None, blank_image: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """A cluster in Consul and one that is not."""
    folder = tmp_path_factory.mktemp("discovering")
    check = {"check": {"port": 7000, "interval": 1}}
    with (
        agent(folder / "consul"),
        scene(
            folder,
            cluster(blank_image, "found", 7, nodes=2, dns_mode="service_discovery", service_discovery=check),
            cluster(blank_image, "apart", 8, nodes=2),
        ) as made,
    ):
        yield made


@pytest.mark.parametrize("row", IN_CONSUL, ids=lambda row: row.what)
def test_names_of_consul_fail_where_they_are_not_what_was_registered(discovering: Scene, row: Row) -> None:
    discovering.leave()
    with row.breaks(discovering):
        found = discovering.try_all()
    assert found.names(Result.FAILED) == {
        name for name in found.names(Result.FAILED) if name.startswith("found-controller → Consul's names of found: ")
    }, "\n".join(found.failed)
    assert found.names(Result.FAILED)
    # The denial to others has no control then.
    [unproven] = (name for name in found.names(Result.SKIPPED) if "Consul" in name)
    assert unproven.startswith("apart-controller → ")
    assert found.unjustified() == []


def test_names_of_consul_that_others_are_told_fail(discovering: Scene) -> None:
    with TOLD(discovering):
        found = discovering.try_all()
    [failed] = found.names(Result.FAILED)
    assert failed.startswith("apart-controller → Consul's names of found: ")
    assert found.unjustified() == []
    assert discovering.try_all().failed == []
