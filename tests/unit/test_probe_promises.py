"""What clusters promise on a host as it stands, and the report of what became of it: pure."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any
from xml.etree import ElementTree

import pytest

from ai_how.config.load import load_mapping
from ai_how.config.terms import Protocol
from ai_how.errors import UsageError
from ai_how.probe.actions import Leased, Leaving, Owner, Ping, Question, Sized, Talk, WhoHas
from ai_how.probe.expectations import HOST, LAN, Expect, Expectation, Outside, Side
from ai_how.probe.judge import Result, Scenario
from ai_how.probe.matrix import AROUND
from ai_how.probe.promises import Member, Party, Promises, Stranger, blocked_targets, quick, whole
from ai_how.probe.report import Report, chosen, read_filter
from ai_how.probe.run import with_controls
from ai_how.spec.policy import Port
from ai_how.spec.resolve import resolve_all

MACHINE = {"cpu_cores": 1, "memory_gb": 1, "disk_gb": 1}
BLOCKED = IPv4Address("192.0.2.1")
ABOUT = replace(AROUND, ipv6=False, by_uplink=frozenset({BLOCKED}))


def parties(*networks: dict[str, Any], nodes: int = 3, runs: bool = False, subnet: int = 24) -> list[Party]:
    """A cluster for each, with a place for each node; or they run, and two stand-ins are beside them."""
    clusters = {
        f"c{number}": {
            "name": f"c{number}",
            "base_image_path": "/blank.qcow2",
            "network": {"subnet": f"10.{number}.0.0/{subnet}", "bridge": f"br-c{number}", **each},
            "controller": MACHINE,
            "compute_nodes": {"count": nodes - 1, **MACHINE},
        }
        for number, each in enumerate(networks)
    }
    found = []
    for each in resolve_all(load_mapping({"clusters": clusters})):
        beside = tuple(
            replace(node, name=f"stand-in {number}", ip=each.network.dhcp_end - number)
            for number, node in enumerate(each.nodes[:2])
        )
        members = tuple(Member(node, node.ip, stands=not runs, runs=runs) for node in each.nodes)
        found.append(Party(Side(each, beside if runs else each.nodes), members))
    return found


def everything(*networks: dict[str, Any], around: Outside = ABOUT, strangers: tuple[Stranger, ...] = ()) -> Promises:
    return whole(parties(*networks), strangers, around)


def only(found: Promises, kind: type[object], expect: Expect | None = None) -> list[Expectation]:
    wanted = [each for each in found.expectations if isinstance(each.action, kind)]
    return [each for each in wanted if expect in (None, each.expect)]


def test_every_node_has_its_lease_its_name_its_address_alone_and_its_mtu() -> None:
    [party] = parties({"mtu": 1400})
    found = whole([party], (), ABOUT)
    for member in party.members:
        node = member.node
        assert node.ip is not None
        leased = Leased(node.ip, party.side.network.gateway, (party.side.network.gateway,), 1400)
        mine = {each.action for each in found.expectations if node.name in (each.frm, each.to)}
        assert {leased, Owner(node.ip, node.mac), Sized(node.ip, 1400)} <= mine
        asked = {each.action.name for each in only(found, Question) if isinstance(each.action, Question)}
        assert {f"{node.name}.c0.internal", node.ip.reverse_pointer} <= asked
        assert any(each.frm == HOST and each.to == node.name for each in only(found, Sized))


@pytest.mark.parametrize("make", [whole, quick])
def test_names_are_of_one_scenario_and_denials_have_controls_that_shall_pass(make: Any) -> None:
    options = {"firewall": {"expose": ["8001:c1-controller:80"], "block_networks": ["192.0.2.0/24"]}}
    stranger = Stranger("other", "isolated", IPv4Address("10.99.0.1"), guarded=True)
    modes: list[dict[str, Any]] = [
        {"dns_servers": ["10.0.0.1"]},
        options,
        {"dns_servers": ["8.8.8.8"]},
        {"dns_mode": "routed", "routes": [{"to": "203.0.113.0/24"}]},
        {"dns_mode": "shared_dns"},
        {"dns_mode": "shared_dns", "firewall": {"egress": "deny"}},
    ]
    found = with_controls(make(parties(*modes), (stranger,), ABOUT).expectations)
    assert len({each.name for each in found}) == len(found)
    denied = [each for each in found if each.expect is Expect.DENY]
    assert denied
    for each in denied:
        assert each.controls
        assert {other.expect for other in each.controls} == {Expect.PASS}


def test_quick_part_is_of_the_whole_but_for_the_way_names_are_asked() -> None:
    both: tuple[dict[str, Any], ...] = ({}, {"dns_mode": "routed"})
    known = {each.name for each in with_controls(everything(*both).expectations)}
    asked = quick(parties(*both), (), ABOUT).expectations
    assert {each.name for each in asked} <= known
    assert len(asked) < len(known) / 3


def test_without_rules_of_ours_nothing_is_denied_but_by_those_of_others() -> None:
    bare: dict[str, Any] = {"firewall": {"enabled": False}}
    found = everything(bare, bare)
    assert {type(each.action) for each in found.expectations if each.expect is Expect.DENY} == set()
    found = everything(bare, {})
    denied = [each for each in found.expectations if each.expect is Expect.DENY]
    for each in denied:
        assert "c1" in each.frm + each.to, each.name
        assert not (isinstance(each.action, WhoHas) and each.frm.startswith("c0"))


def test_ports_of_the_host_that_are_opened_are_tried_where_the_host_itself_reaches_them() -> None:
    found = everything({"firewall": {"allow_host_ports": ["9000/tcp", "9001/udp"]}})
    opened = [each for each in only(found, Talk, Expect.PASS) if each.why == "allow_host_ports says so"]
    ports = {each.action.port for each in opened if isinstance(each.action, Talk)}
    assert ports == {Port(Protocol.TCP, 9000), Port(Protocol.UDP, 9001)}
    assert all(each.needs and each.needs[0].frm == HOST for each in opened)


def test_blocked_network_is_looked_for_where_it_would_leave_and_skipped_where_it_would_not_be_seen() -> None:
    firewall = {"block_networks": ["192.0.2.0/24", "10.250.0.0/16", "198.51.100.7/32"]}
    [party] = parties({"firewall": firewall})
    targets = {str(each): str(address) for each, address in blocked_targets(party.side.network)}
    assert targets == {"192.0.2.0/24": "192.0.2.1", "10.250.0.0/16": "10.250.0.1", "198.51.100.7/32": "198.51.100.7"}
    found = [each for each in whole([party], (), ABOUT).expectations if each.why == "block_networks says so"]
    assert {each.expect for each in found} == {Expect.DENY}
    assert {each.watched for each in found} == {ABOUT.watch}
    assert {each.to: bool(each.missing) for each in found} == {
        "192.0.2.0/24": False,
        "10.250.0.0/16": True,
        "198.51.100.7/32": True,
    }


def test_gateway_without_forwarders_asks_nobody_and_one_that_is_not_asked_promises_nothing() -> None:
    [alone] = (each for each in only(everything({"dns_servers": ["10.0.0.1"]}), Leaving) if each.to == "internet")
    assert alone.expect is Expect.DENY
    assert not alone.missing
    assert {type(each.action) for each in alone.controls} == {Ping}
    direct = everything({"dns_servers": ["8.8.8.8"]})
    assert [each for each in only(direct, Leaving) if each.to == "internet"] == []


def test_exposed_port_is_tried_from_outside_and_says_why_it_cannot_be() -> None:
    networks: dict[str, Any] = {"firewall": {"expose": ["8001:c0-controller:80", "8002:c0-controller:53/udp"]}}

    def exposed(found: Promises) -> dict[int, Expectation]:
        tried = [each for each in only(found, Talk) if each.why == "expose says so"]
        assert {each.frm for each in tried} == {LAN}
        return {each.action.port.number: each for each in tried if isinstance(each.action, Talk)}

    stood = exposed(whole(parties(networks), (), ABOUT))
    assert {each.missing for each in stood.values()} == {""}
    assert {each.action.seen_as for each in stood.values() if isinstance(each.action, Talk)} == {ABOUT.lan}
    runs = exposed(whole(parties(networks, runs=True), (), ABOUT))
    assert (runs[8001].missing, bool(runs[8001].needs)) == ("", True)
    assert "only the machine" in runs[8002].missing
    nowhere = exposed(whole(parties(networks), (), replace(ABOUT, uplink=None)))
    assert {each.missing for each in nowhere.values()} == {"the host has no uplink"}


def test_shut_egress_is_not_proven_where_the_host_itself_has_no_way_out() -> None:
    found = everything({"firewall": {"egress": "deny"}})
    shut = [each for each in found.expectations if each.why.startswith("egress")]
    assert {type(each.action).__name__ for each in shut} == {"Ping", "Talk", "Page"}
    for each in shut:
        [itself] = each.needs
        assert (itself.frm, itself.to, itself.expect) == (HOST, each.to, Expect.PASS)
        assert type(itself.action) is type(each.action)


@pytest.mark.parametrize(("mode", "together"), [("isolated", False), ("shared_dns", True), ("routed", False)])
def test_strangers_on_the_host_are_apart_or_together_as_the_modes_say(mode: str, together: bool) -> None:
    stranger = Stranger("other", mode, IPv4Address("10.99.0.1"), guarded=True)
    found = everything({"dns_mode": "shared_dns"}, strangers=(stranger,))
    [tried] = (each for each in found.expectations if each.to == "gateway of other")
    assert tried.expect is (Expect.PASS if together else Expect.DENY)
    bare = everything({"firewall": {"enabled": False}}, strangers=(replace(stranger, guarded=False),))
    assert [each for each in bare.expectations if each.to == "gateway of other"] == []


def test_running_machines_are_targets_of_stand_ins() -> None:
    [party] = parties({}, runs=True)
    found = whole([party], (), ABOUT).expectations
    names = {each.node.name for each in party.members}
    # They send nothing where no guest agent answers, which is said.
    assert all(each.missing for each in found if each.frm in names)
    for member in party.members:
        at = [each.action for each in found if each.to == member.node.name]
        assert Ping(member.node.ip or BLOCKED) in at
    # Their leases are theirs; the stand-in's own shows that DHCP works.
    assert {each.frm for each in found if isinstance(each.action, Leased)} == {"stand-in 0"}


def test_of_ten_thousand_nodes_a_sample_is_tried_and_that_is_said() -> None:
    many = parties({}, nodes=10_000, subnet=16)
    begin = time.process_time()
    found = whole(many, (), ABOUT)
    assert time.process_time() - begin < 2
    assert found.left_out == "a sample: without 9936 of the 10000 nodes of c0; all of them with --all"
    assert len(only(found, Owner)) == 1 + 64
    assert len(quick(many, (), ABOUT).expectations) < 100
    every = whole(many, (), ABOUT, everybody=True)
    assert every.left_out == ""
    assert len(only(every, Owner)) == 1 + 10_000


def test_small_clusters_are_tried_whole() -> None:
    assert everything({}, {}).left_out == ""


def scenario(expectation: Expectation, result: Result, detail: str = "as it is") -> Scenario:
    return Scenario(expectation.name, expectation.frm, expectation.to, expectation.expect, result, detail, 1.25)


def report(*results: Result, detail: str = "as it is") -> Report:
    found = everything({}).expectations[: len(results)]
    pairs = zip(found, results, strict=True)
    return Report({each: scenario(each, result, detail) for each, result in pairs}, 2.0)


@pytest.mark.parametrize(
    ("results", "holds"),
    [
        ((Result.PASSED,), True),
        ((Result.PASSED, Result.SKIPPED), True),
        ((Result.PASSED, Result.FAILED), False),
        ((Result.SKIPPED,), False),
        ((), False),
    ],
)
def test_it_holds_where_something_passed_and_nothing_failed(results: tuple[Result, ...], holds: bool) -> None:
    assert report(*results).holds is holds


def test_json_has_the_counts_and_every_scenario() -> None:
    data = json.loads(json.dumps(report(Result.PASSED, Result.FAILED, Result.SKIPPED, Result.PASSED).to_json()))
    assert {name: data[name] for name in ("passed", "failed", "skipped")} == {"passed": 2, "failed": 1, "skipped": 1}
    assert set(data) == {"passed", "failed", "skipped", "scenarios"}
    assert [each["result"] for each in data["scenarios"]] == ["passed", "failed", "skipped", "passed"]
    assert {tuple(each) for each in data["scenarios"]} == {
        ("name", "from", "to", "expect", "result", "detail", "ms"),
    }
    left = replace(report(Result.PASSED), left_out="a sample").to_json()
    assert left["left_out"] == "a sample"


def test_junit_says_the_same_whatever_a_detail_has_in_it() -> None:
    found = report(Result.PASSED, Result.FAILED, Result.SKIPPED, detail='<&" \x00\x1b[31m é')
    suite = ElementTree.fromstring(found.to_junit("ai-how"))  # noqa: S314 - our own
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "3", "failures": "1", "errors": "0", "skipped": "1"}
    assert [[child.tag for child in case] for case in suite] == [[], ["failure"], ["skipped"]]
    failure = suite[1].find("failure")
    assert failure is not None
    assert failure.get("message") == '<&" ??[31m é'
    assert [case.get("name") for case in suite] == [each.name for each in found.scenarios.values()]


def test_filter_takes_what_it_fits_somewhere_and_says_what_there_would_be() -> None:
    found = everything({}).expectations
    names = [each for each in found if "c0-compute-01" in each.name]
    assert chosen(found, read_filter("compute-0[1]")) == names
    assert chosen(found, read_filter("")) == list(found)
    with pytest.raises(UsageError, match="no scenario fits 'nothing of this'") as error:
        chosen(found, read_filter("nothing of this"))
    assert found[0].name in error.value.why
    for wrong in itertools.chain("([*", ("a{2,1}", "a{99999999999}", "(" * 5000 + ")" * 5000)):
        with pytest.raises(UsageError, match="no regular expression"):
            read_filter(wrong)
