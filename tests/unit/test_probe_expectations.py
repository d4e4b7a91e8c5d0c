"""What is expected between clusters, against the table of docs/architecture.md ("DNS modes"), written out again."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from ai_how.config.load import load_mapping
from ai_how.config.terms import DnsMode, Protocol
from ai_how.probe.actions import Forgery, Leased, Leaving, Page, Ping, Question, Served, Talk, WhoHas
from ai_how.probe.columns import Column, cell
from ai_how.probe.expectations import LAN, Expect, Expectation, Outside, Side
from ai_how.probe.matrix import AROUND, Field, document_of
from ai_how.probe.private6 import link_local
from ai_how.probe.run import with_controls
from ai_how.spec.policy import Port
from ai_how.spec.resolve import resolve, resolve_all

MODES = list(DnsMode)
TOGETHER = {(DnsMode.SHARED_DNS, DnsMode.SHARED_DNS), (DnsMode.ROUTED, DnsMode.ROUTED)}
PAIRS = [pytest.param(a, b, id=f"{a}-{b}") for a, b in itertools.product(MODES, repeat=2)]


@pytest.fixture(scope="module")
def field() -> Field:
    return Field({each.name: each for each in resolve_all(document_of(Path("/blank.qcow2")))}, {})


def pair(field: Field, a: DnsMode, b: DnsMode) -> tuple[Side, Side]:
    row = next(each for each in field.rows() if (each.frm, each.to) == (a.value, b.value))
    return row.a, row.b


def only(found: list[Expectation], kind: type[object]) -> list[Expectation]:
    return [each for each in found if isinstance(each.action, kind)]


def verdicts(found: list[Expectation]) -> set[Expect]:
    return {each.expect for each in found}


def cluster(**network: object) -> Side:
    machine = {"cpu_cores": 1, "memory_gb": 1, "disk_gb": 1}
    one = {
        "name": "one",
        "base_image_path": "/blank.qcow2",
        "network": {"subnet": "10.1.0.0/24", "bridge": "br-one", **network},
        "controller": machine,
        "compute_nodes": [machine],
    }
    return Side.of(resolve(load_mapping({"clusters": {"one": one}}), "one"))


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_nodes_reach_those_of_peers_under_their_own_address_and_no_others(field: Field, a: DnsMode, b: DnsMode) -> None:
    one, other = pair(field, a, b)
    found = cell(Column.NODES, one, other, AROUND)
    ip = other.nodes[0].ip
    tried = [each for each in found if isinstance(each.action, Ping | Talk) and each.action.to == ip]
    assert len(tried) == 3
    assert verdicts(tried) == {Expect.PASS if (a, b) in TOGETHER else Expect.DENY}
    if (a, b) in TOGETHER:
        assert {each.action.seen_as for each in tried if isinstance(each.action, Talk)} == {one.nodes[0].ip}


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_ipv6_and_forged_sources_never_pass_between_clusters(field: Field, a: DnsMode, b: DnsMode) -> None:
    found = cell(Column.NODES, *pair(field, a, b), AROUND)
    over6 = [each for each in only(found, Ping) if isinstance(each.action, Ping) and each.action.to.version == 6]
    assert len(over6) == 2
    assert verdicts(over6) == verdicts(only(found, Forgery)) == {Expect.DENY}


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_peers_ping_each_other_s_gateways_and_nobody_asks_another_s_link_for_one(
    field: Field, a: DnsMode, b: DnsMode
) -> None:
    one, other = pair(field, a, b)
    found = cell(Column.GATEWAY, one, other, AROUND)
    pings = [each for each in only(found, Ping) if each.action == Ping(other.network.gateway)]
    assert verdicts(pings) == {Expect.PASS if (a, b) in TOGETHER else Expect.DENY}
    assert verdicts(only(found, WhoHas)) == {Expect.DENY}
    assert verdicts(only(found, Served)) == (set() if (a, b) in TOGETHER else {Expect.DENY})


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_services_of_the_host_are_closed_in_every_mode(field: Field, a: DnsMode, b: DnsMode) -> None:
    one, other = pair(field, a, b)
    found = cell(Column.HOST, one, other, AROUND)
    assert verdicts(found) == {Expect.DENY}
    targets = {(each.action.to, each.action.port.number) for each in found if isinstance(each.action, Talk)}
    assert {
        (other.network.gateway, AROUND.host_port),
        (AROUND.uplink, AROUND.host_port),
        (AROUND.uplink, AROUND.uplink_port),
    } <= targets


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_names_of_peers_are_known_forward_and_reverse_and_no_others(field: Field, a: DnsMode, b: DnsMode) -> None:
    one, other = pair(field, a, b)
    wanted = other.nodes[0]
    forward, reverse = f"{wanted.name}.{other.network.domain}", str(wanted.ip)
    known = Expect.PASS if (a, b) in TOGETHER else Expect.DENY
    for column, want in ((Column.NAMES, reverse), (Column.REVERSE, f"{forward}.")):
        found = cell(column, one, other, AROUND)
        asked = [
            each
            for each in only(found, Question)
            if isinstance(each.action, Question) and each.action.want and "consul" not in each.action.name
        ]
        assert [(each.action.server, each.action.want) for each in asked if isinstance(each.action, Question)] == [
            (one.network.gateway, (want,))
        ]
        assert verdicts(asked) == {known}
        assert verdicts(only(found, Leaving)) == {Expect.DENY}
        assert {each.watched for each in only(found, Leaving)} == {LAN}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_reaches_the_internet_as_the_host(field: Field, mode: DnsMode) -> None:
    one, _ = pair(field, mode, mode)
    found = cell(Column.INTERNET, one, one, AROUND)
    assert verdicts(found) == {Expect.PASS}
    assert {type(each.action) for each in found} == {Ping, Talk, Question, Page}
    assert {each.action.seen_as for each in found if isinstance(each.action, Talk)} == {AROUND.uplink}


@pytest.mark.parametrize("mode", MODES)
def test_the_lan_is_kept_out_of_every_mode(field: Field, mode: DnsMode) -> None:
    one, _ = pair(field, mode, mode)
    assert verdicts(cell(Column.LAN, one, one, AROUND, field.opened)) == {Expect.DENY}


def test_the_lan_enters_by_allow_from_and_by_a_route_but_never_a_gateway(field: Field) -> None:
    for name in ("isolated-open", "routed-open"):
        one = Side.of(field.clusters[name])
        found = cell(Column.LAN, one, one, AROUND, field.opened)
        assert verdicts([each for each in found if each.to == one.nodes[0].name]) == {Expect.PASS}
        assert verdicts([each for each in found if each.to != one.nodes[0].name]) == {Expect.DENY}


def test_along_a_declared_route_nothing_is_masqueraded(field: Field) -> None:
    one = Side.of(field.clusters["routed-open"])
    found = cell(Column.INTERNET, one, one, AROUND)
    assert {each.action.seen_as for each in found if isinstance(each.action, Talk)} == {one.nodes[0].ip}


def test_a_cluster_by_itself_is_one_network_with_its_gateway(field: Field) -> None:
    one, _ = pair(field, DnsMode.ISOLATED, DnsMode.ISOLATED)
    assert verdicts(cell(Column.NODES, one, one, AROUND)) == {Expect.PASS}
    found = cell(Column.GATEWAY, one, one, AROUND)
    assert verdicts(found) == {Expect.PASS}
    assert [each.action for each in only(found, Leased)] == [
        Leased(one.nodes[0].ip, one.network.gateway, (one.network.gateway,), None)
    ]
    assert {each.action.protocol for each in found if isinstance(each.action, Served)} == set(Protocol)


def test_every_denial_has_controls_that_shall_pass(field: Field) -> None:
    everything = with_controls(each for some in field.cells().values() for each in some)
    for each in everything:
        if each.expect is Expect.DENY:
            assert each.controls, each.name
            assert verdicts(list(each.controls)) == {Expect.PASS}
    names = [each.name for each in everything]
    assert len(names) == len(set(names))


def test_a_denial_s_control_is_the_same_packet_by_somebody_who_may(field: Field) -> None:
    one, other = pair(field, DnsMode.ISOLATED, DnsMode.ROUTED)
    for column in (Column.NODES, Column.GATEWAY, Column.HOST):
        for each in cell(column, one, other, AROUND):
            if isinstance(each.action, Ping | Talk):
                same = [
                    control
                    for control in each.controls
                    if isinstance(control.action, type(each.action)) and control.action.to == each.action.to
                ]
                assert same, each.name
                assert same[0].frm != each.frm


def test_allowed_ports_of_the_host_pass_and_others_do_not() -> None:
    one = cluster(firewall={"allow_host_ports": [f"{AROUND.host_port}/tcp"]})
    found = cell(Column.HOST, one, one, AROUND)
    assert [each.action for each in found if each.expect is Expect.PASS] == [
        Talk(one.network.gateway, Port(Protocol.TCP, AROUND.host_port))
    ]


def test_what_egress_denies_and_networks_that_are_blocked_are_expected_not_to_pass() -> None:
    shut = cluster(firewall={"egress": "deny", "allow_networks": ["8.8.8.8"]})
    outside = [each for each in cell(Column.INTERNET, shut, shut, AROUND) if not isinstance(each.action, Question)]
    assert {each.action for each in outside if each.expect is Expect.PASS} == {Ping(IPv4Address("8.8.8.8"))}
    blocked = cluster(firewall={"block_networks": ["203.0.113.0/24"]})
    outside = cell(Column.INTERNET, blocked, blocked, AROUND)
    assert {each.to for each in outside if each.expect is Expect.DENY} == {LAN}


def test_without_nat_the_node_s_own_address_is_seen_outside() -> None:
    one = cluster(dns_mode="routed", nat=False)
    found = cell(Column.INTERNET, one, one, AROUND)
    assert {each.action.seen_as for each in found if isinstance(each.action, Talk)} == {one.nodes[0].ip}


def test_what_cannot_be_tried_in_a_lab_says_why(field: Field) -> None:
    missing = {each.missing for some in field.cells().values() for each in with_controls(some) if each.missing}
    assert missing == {
        "nothing resolves names for the host here",
        "there is no Consul here",
    }


def test_consul_s_names_are_answered_in_service_discovery_and_in_no_other_mode(field: Field) -> None:
    around = replace(AROUND, consul=True)
    for mode in MODES:
        one, other = pair(field, mode, DnsMode.SERVICE_DISCOVERY)
        found = [each for each in cell(Column.NAMES, one, other, around) if each.to.startswith("Consul")]
        together = mode is DnsMode.SERVICE_DISCOVERY
        assert [each.expect for each in found] == [Expect.PASS if together else Expect.DENY]
        assert isinstance(found[0].action, Question)
        assert found[0].action.name == "discovery-b-controller.discovery-b.service.consul"
        assert found[0].action.server == one.network.gateway
        assert not found[0].missing


def test_link_local_addresses_follow_from_macs() -> None:
    assert link_local("52:54:00:12:34:01", "eth0") == IPv6Address("fe80::5054:ff:fe12:3401%eth0")


def test_ports_of_responders_are_all_different() -> None:
    around = Outside(AROUND.uplink, AROUND.lan, AROUND.resolver, AROUND.web, AROUND.name)
    assert len({around.node_port, around.lan_port, around.host_port, around.uplink_port}) == 4
