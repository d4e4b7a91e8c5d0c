"""Changes to a cluster at work: what `plan` calls `live` costs no packet, and what costs packets is said before.

The cluster, and pings of 50 a second between its nodes, from the host and to the outside, go through the whole module
(live_scene.py). Every change builds on the ones before it, so the tests run in their order.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from tests.lab.clusters.conftest import answers
from tests.lab.clusters.live_scene import (
    ADDRESSES,
    CONTROLLER,
    FIRST,
    GATEWAY,
    HOST,
    LATE,
    LATE_AT,
    LATE_MAC,
    OUTSIDE,
    PEERS_GATEWAY,
    PORT,
    SMALL,
    Live,
    standing,
)
from tests.lab.resolvers import getent
from tests.waiting import until

from ai_how.lab import INTERNET
from ai_how.probe.packets import ask, http

Ran = subprocess.CompletedProcess[str]

#: Seconds in which a change has taken effect, once `up` says that it is done; on a busy machine.
EFFECT_WITHIN = 30.0

#: Asked so often in a row, nobody who answers is taken for one who does not, for he is late once.
TIMES = 3

#: Seconds that most answers do not take. A busy machine, and a guest that it emulates, make some late; who holds
#: everybody's packets back makes most of them late.
ON_TIME = 1.0

#: Pings without which a stream proves nothing of a change. The quickest takes half a second, in which 25 are sent; a
#: busy machine leaves some out.
FEWEST = 10


@pytest.fixture(scope="module")
def live(
    tmp_path_factory: pytest.TempPathFactory,
    machine_room: None,
    micro_image: Path,
    blank_image: Path,
    ai_how: Callable[..., Ran],
    in_guest: Callable[..., Ran],
) -> Iterator[Live]:
    with standing(tmp_path_factory.mktemp("live"), micro_image, blank_image, ai_how, in_guest) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_stays() -> None:
    """Clusters go through the whole module here: the scene removes them."""


@dataclass(frozen=True)
class Change:
    """`edit` changes the configuration, `words` apply it to `cluster`.

    `holds` is reached on the wire afterwards: it is waited for. What `ends` is reached before, and then never again;
    without it `holds` is what is not reached before. `first` is done before the pings are watched. `disturbs` are the
    nodes that go themselves.
    """

    what: str
    edit: Callable[[Live], None]
    holds: Callable[[Live], bool]
    words: tuple[str, ...] = ("up",)
    cluster: str = "live"
    first: Callable[[Live], None] = lambda live: None
    disturbs: tuple[str, ...] = ()
    ends: Callable[[Live], bool] | None = None


DEFINE, REMOVE = ("up", "--no-start"), ("up", "--yes")


def network(**fields: Any) -> Callable[[Live], None]:
    """An edit of the network; None takes a field away."""

    def edit(live: Live) -> None:
        live.network.update(fields)
        for name in (name for name, value in fields.items() if value is None):
            live.network.pop(name, None)

    return edit


def nodes(*more: dict[str, Any], **fields: Any) -> Callable[[Live], None]:
    """An edit of the nodes beside those that are always there, and of the network."""

    def edit(live: Live) -> None:
        live.clusters["live"]["compute_nodes"] = [{"name": FIRST, "ip": str(ADDRESSES[FIRST]), **SMALL}, *more]
        network(**fields)(live)

    return edit


def nothing(live: Live) -> None:
    pass


def name_of(node: str) -> str:
    return f"{node}.{node.partition('-')[0]}.internal"


def knows_peer(live: Live) -> bool:
    return live.named("peer-controller.peer.internal") == "10.45.0.2"


def forgot_peer(live: Live) -> bool:
    return live.named("peer-controller.peer.internal") == "NXDOMAIN" and own_names(live)


def peer_is_anybody(live: Live) -> bool:
    """Its names are asked for outside, as all that are nobody's here."""
    return live.named("peer-controller.peer.internal") == WEB and own_names(live)


def own_names(live: Live) -> bool:
    return live.named(name_of(CONTROLLER)) == str(ADDRESSES[CONTROLLER])


def host_knows(_live: Live) -> bool:
    return getent(name_of(CONTROLLER))[:1] == [str(ADDRESSES[CONTROLLER])]


def web(live: Live) -> bool:
    return ask(http(live.endpoints["a"].place, INTERNET.web, INTERNET.name)).said == (INTERNET.web_body,)


def first_exposed(live: Live) -> bool:
    return live.opens(live.lan, HOST, 8081)


def second_exposed(live: Live) -> bool:
    return live.opens(live.lan, HOST, 8082)


def let_in(live: Live) -> bool:
    return live.opens(live.lan, ADDRESSES[FIRST], PORT)


def host_opens(live: Live) -> bool:
    return live.opens(live.endpoints["a"].place, GATEWAY, PORT)


def others_outside(live: Live) -> bool:
    """What is outside beside the web, and what the pings go to."""
    return live.reaches(live.endpoints["a"].place, INTERNET.resolvers[1])


def discovered(live: Live, name: str) -> bool:
    return str(ADDRESSES[CONTROLLER]) in live.named(f"{name}.service.consul").split(", ")


def ever(question: Callable[[Live], bool], live: Live) -> bool:
    return any(question(live) for _ in range(TIMES))


def peer_and_resolver_enter(live: Live) -> None:
    live.peer_enters()
    live.host_resolves()


LAN = str(INTERNET.uplink_address.network)
WEB = str(INTERNET.web)
ADDED = {"name": "live-added", "ip": "10.44.0.12", **SMALL}
IDLE = {"name": LATE, **SMALL}
MAC = "52:54:00:ff:01:02"
EXPOSE = [f"8081:{CONTROLLER}:{PORT}", f"8082:{FIRST}:{PORT}"]
DISCOVERY = {"check": {"port": PORT, "interval": 1}}

CHANGES = [
    # It was there when the network was started last; the nodes that come later are not.
    Change(
        "a reservation gets another MAC",
        network(vm_macs={LATE: MAC}),
        lambda live: str(live.lease(MAC).ip) == LATE_AT != str(live.lease(LATE_MAC).ip),
        DEFINE,
    ),
    Change(
        "a node that does not run gets another address",
        network(static_leases={LATE: "10.44.0.14"}),
        lambda live: str(live.lease(MAC).ip) == live.named(name_of(LATE)) == "10.44.0.14",
        DEFINE,
    ),
    Change(
        "a node that never ran is removed",
        nodes(vm_macs=None, static_leases=None),
        lambda live: live.named(name_of(LATE)) == "NXDOMAIN" and own_names(live),
        REMOVE,
    ),
    Change(
        "a node is added and starts",
        nodes(ADDED),
        lambda live: (
            live.named(name_of("live-added")) == "10.44.0.12" and live.reaches(live.host, IPv4Address("10.44.0.12"))
        ),
    ),
    Change(
        "a node that runs is removed",
        nodes(),
        lambda live: live.named(name_of("live-added")) == "NXDOMAIN" and own_names(live),
        REMOVE,
        disturbs=("live-added",),
    ),
    Change(
        "a node is added and does not start",
        nodes(IDLE, static_leases={LATE: LATE_AT}, vm_macs={LATE: LATE_MAC}),
        lambda live: str(live.lease(LATE_MAC).ip) == live.named(name_of(LATE)) == LATE_AT,
        DEFINE,
    ),
    Change(
        "a node that was added goes again",
        nodes(static_leases=None, vm_macs=None),
        lambda live: live.named(name_of(LATE)) == "NXDOMAIN" and str(live.lease(LATE_MAC).ip) != LATE_AT,
        REMOVE,
    ),
    Change(
        "the DHCP range grows",
        network(dhcp_end="10.44.0.199"),
        lambda live: str(live.offered(IPv4Address("10.44.0.190"))) == "10.44.0.190",
    ),
    Change(
        "a forwarder is replaced",
        network(dns_servers=[str(GATEWAY), "1.1.1.1"]),
        lambda live: live.forwarders() == {"1.1.1.1"},
    ),
    Change(
        "guests are told other DNS servers",
        network(dns_servers=[str(OUTSIDE)]),
        lambda live: live.lease().dns == (OUTSIDE,),
    ),
    Change(
        "guests are told the gateway again",
        network(dns_servers=[str(GATEWAY), str(OUTSIDE)]),
        lambda live: live.lease().dns == (GATEWAY,) and live.forwarders() == {str(OUTSIDE)},
    ),
    Change("a first port is exposed", network(firewall={"expose": EXPOSE[:1]}), first_exposed),
    Change(
        "a second port is exposed",
        network(firewall={"expose": EXPOSE}),
        lambda live: second_exposed(live) and first_exposed(live),
    ),
    Change("a port is no longer exposed", network(firewall={"expose": EXPOSE[1:]}), second_exposed, ends=first_exposed),
    Change("somebody outside is let in", network(firewall={"expose": EXPOSE[1:], "allow_from": [LAN]}), let_in),
    Change("nobody outside is let in any more", network(firewall={"expose": EXPOSE[1:]}), second_exposed, ends=let_in),
    Change("a network is blocked", network(firewall={"block_networks": [f"{WEB}/32"]}), others_outside, ends=web),
    Change(
        "only what is allowed leaves",
        network(firewall={"egress": "deny", "allow_networks": [str(OUTSIDE), WEB]}),
        web,
        ends=others_outside,
    ),
    Change("a port of the host is allowed", network(firewall={"allow_host_ports": [PORT]}), host_opens),
    Change("the firewall is as the mode makes it again", network(firewall=None), web, ends=host_opens),
    Change(
        "another cluster comes up",
        nothing,
        lambda live: live.named("peer-controller.peer.internal", PEERS_GATEWAY) == "10.45.0.2",
        DEFINE,
        "peer",
    ),
    Change("it becomes a peer", network(dns_mode="shared_dns", host_resolver="none"), knows_peer),
    Change(
        "the host is told of the names",
        network(host_resolver="dnsmasq"),
        host_knows,
        first=peer_and_resolver_enter,
    ),
    Change(
        "the host is no longer told of the names",
        network(host_resolver="none"),
        lambda live: not host_knows(live) and bool(getent(INTERNET.name)),
        ends=host_knows,
    ),
    Change(
        "a name is added among peers",
        nodes(IDLE, static_leases={LATE: LATE_AT}),
        lambda live: live.named(name_of(LATE), PEERS_GATEWAY) == LATE_AT,
        DEFINE,
    ),
    Change(
        "a name is removed among peers",
        nodes(static_leases=None),
        lambda live: live.named(name_of(LATE), PEERS_GATEWAY) == "NXDOMAIN" and knows_peer(live),
        REMOVE,
    ),
    Change("a peer goes down", nothing, forgot_peer, ("down", "peer"), first=Live.peer_leaves),
    Change("a peer comes back", nothing, knows_peer, DEFINE, "peer"),
    Change("a peer is destroyed", nothing, peer_is_anybody, ("destroy", "peer", "--yes")),
    Change(
        "a route is declared",
        network(dns_mode="routed", host_resolver=None, routes=[{"to": f"{WEB}/32"}]),
        lambda live: live.seen_as(INTERNET.web) == str(live.endpoints["b"].ip),
    ),
    Change(
        "a route is no longer declared",
        network(routes=None),
        lambda live: live.seen_as(INTERNET.web) == str(HOST),
    ),
    Change(
        "nothing is masqueraded",
        network(nat=False),
        lambda live: live.seen_as(INTERNET.web) == str(live.endpoints["b"].ip),
        first=lambda live: live.ways_back(["10.44.0.0/24"]),
    ),
    Change("what leaves is masqueraded again", network(nat=None), lambda live: live.seen_as(INTERNET.web) == str(HOST)),
    Change(
        "nodes are registered",
        network(dns_mode="service_discovery", service_discovery=DISCOVERY),
        lambda live: discovered(live, "live"),
        first=Live.consul_runs,
    ),
    Change(
        "nodes are registered by another name",
        network(service_discovery={"service_name": "fleet", **DISCOVERY}),
        lambda live: discovered(live, "fleet") and live.named("live.service.consul") == "NXDOMAIN",
    ),
    Change(
        "nodes are no longer registered",
        network(dns_mode=None, service_discovery=None),
        lambda live: live.named("fleet.service.consul") == WEB and own_names(live),
    ),
]


def test_meter_counts_what_a_restart_of_the_network_by_hand_costs(live: Live) -> None:
    """The control: what the other tests find none of is seen where there is some, in every stream."""
    with live.meter.watching() as quiet:
        pass
    assert quiet.losses == []
    with live.meter.watching() as watched:
        live.restart_network()
    assert len(watched.losses) == len(watched.sent) == 5, watched.losses
    live.meter.wait_until_answered()
    with live.meter.watching() as quiet:
        pass
    assert quiet.losses == []
    live.guests_begin()


@pytest.mark.parametrize("change", CHANGES, ids=[each.what for each in CHANGES])
def test_live_change_takes_effect_and_loses_no_packet(live: Live, change: Change) -> None:
    change.first(live)
    if change.ends is None:
        assert not ever(change.holds, live), "it holds already: then nothing shows that the change did it"
    else:
        until(partial(change.ends, live), f"what ends, before {change.what}")
    change.edit(live)
    live.write()
    verb, *words = change.words
    plan = live.plan(change.cluster, start="--no-start" not in words) if verb == "up" else None
    with live.meter.watching() as watched:
        if verb == "up":
            live.up(*words, cluster=change.cluster)
        else:
            live.run(*change.words)
        until(partial(change.holds, live), change.what, EFFECT_WITHIN)
        if change.ends is not None:
            assert not ever(change.ends, live), f"still reached after {change.what}"
    assert watched.losses == [], "\n".join(watched.losses)
    assert watched.lateness < ON_TIME
    assert watched.fewest >= FEWEST
    if plan is not None:
        assert plan["changes"]
        # What a machine has of it at its next start costs nothing now.
        assert {step["class"] for step in plan["steps"] if step["kind"] != "domain"} == {"live"}
        assert {node for step in plan["steps"] for node in step["disturbs"]} == {*change.disturbs}


def test_pings_of_the_machines_themselves_were_all_answered(live: Live) -> None:
    for each in live.guests:
        sent, lost = each.end()
        assert sent > 200, each.label
        assert lost == 0, f"{each.label}: {lost} of {sent}"


@dataclass(frozen=True)
class Restart:
    """A change of the network that its machines feel; `at` is where they are afterwards."""

    what: str
    edit: Callable[[Live], None]
    holds: Callable[[Live], bool]
    at: dict[str, IPv4Address]


def moved(live: Live) -> None:
    """Everything that has an address gets another one."""
    cluster = live.clusters["live"]
    cluster["controller"]["ip_address"] = str(MOVED[CONTROLLER])
    cluster["compute_nodes"][0]["ip"] = str(MOVED[FIRST])
    network(subnet="10.47.0.0/24", dhcp_start=None, dhcp_end=None, dns_servers=None)(live)


MOVED = {CONTROLLER: IPv4Address("10.47.0.2"), FIRST: IPv4Address("10.47.0.11")}

RESTARTS = [
    Restart("other MTU", network(mtu=1400), lambda live: live.lease().mtu == 1400, ADDRESSES),
    Restart(
        "other bridge", network(bridge="br-other"), lambda live: Path("/sys/class/net/br-other").exists(), ADDRESSES
    ),
    Restart("other subnet", moved, lambda live: live.lease().ip in IPv4Network("10.47.0.0/24"), MOVED),
]


@pytest.fixture(scope="module")
def machines_alone(live: Live) -> Live:
    """Two machines and no endpoints, which nobody connects again to a network that was restarted."""
    live.leave()
    nodes(static_leases=None, vm_macs=None)(live)
    live.write()
    live.up("--yes")
    return live


@pytest.mark.parametrize("change", RESTARTS, ids=[each.what for each in RESTARTS])
def test_restart_of_the_network_is_said_before_and_its_machines_answer_after_it(
    machines_alone: Live, change: Restart, in_guest: Callable[..., Ran]
) -> None:
    live = machines_alone
    streams = [live.meter.ping(live.host, each, f"host → {each}") for each in live.addresses.values()]
    live.meter.wait_until_answered()
    change.edit(live)
    live.write()
    plan = live.plan()
    assert [(step["kind"], step["disturbs"]) for step in plan["steps"] if step["class"] == "restart"] == [
        ("network", sorted(ADDRESSES))
    ]
    with live.meter.watching() as watched:
        ran = live.ai_how("up", live.file, "--cluster", "live", "--state", live.state)
    assert ran.returncode == 3
    assert all(node in ran.stderr for node in ADDRESSES)
    assert watched.losses == [], "it was refused, and yet something was done"

    with live.meter.watching() as watched:
        live.up("--yes")
    assert len(watched.losses) == len(streams), "nothing was lost: then it needed no restart"
    for each in streams:
        live.meter.end(each)
    live.addresses = change.at
    until(lambda: all(live.reaches(live.host, each) for each in change.at.values()), "every machine answers")
    assert change.holds(live)
    for node, target in ((CONTROLLER, OUTSIDE), (FIRST, change.at[CONTROLLER])):
        # It has its address a moment before its way out.
        until(partial(answers, in_guest, node, str(target)), f"{node} → {target}")
    assert not live.plan()["changes"]
