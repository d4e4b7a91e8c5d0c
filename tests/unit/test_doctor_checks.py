"""The checks at their edges, which a lab cannot easily show: facts made by hand, findings as the answer."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest
from tests.unit.doctor_facts import (
    ANSWERED,
    BRIDGE_MAC,
    MAC,
    NOW,
    OTHER_MAC,
    SILENT,
    answers,
    facts,
    guest,
    lease,
    link,
    links,
    look,
    machine,
    network,
    nic,
    reservation,
    route,
    server,
    span,
)

from ai_how.compile.hook import HOOK
from ai_how.diagnose.catalogue import CATALOGUE
from ai_how.diagnose.causes import conclude
from ai_how.diagnose.checks import run
from ai_how.diagnose.checks.base import CHECKS, Check
from ai_how.diagnose.facts import Drift, Facts, Firewall, Forwarder, Kvm, Libvirt, Listener, Memory, Part
from ai_how.diagnose.finding import Answer
from ai_how.diagnose.question import About, Question
from ai_how.host.nftables import RULES

OK, WARN, FAIL, UNKNOWN = Answer.OK, Answer.WARN, Answer.FAIL, Answer.UNKNOWN


# ---- all of them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.identifier}-{check.look.__name__}")
def test_no_check_raises_or_complains_of_a_host_without_anything(check: Check) -> None:
    found = [each for each in check.look(Facts()) if each.answer is not OK]
    assert found == []


@pytest.mark.parametrize(
    ("check", "part"),
    [pytest.param(check, part, id=f"{check.look.__name__}-{part}") for check in CHECKS for part in check.needs],
)
def test_a_check_without_a_part_that_it_needs_does_not_know(check: Check, part: Part) -> None:
    known = facts(network(), missing={part: "nobody said"}, machines=(machine(),))
    found = [each for each in run(known, Question()) if each.summary == check.question]
    assert [(each.check, each.answer, each.evidence) for each in found] == [
        (check.identifier, UNKNOWN, ("nobody said",))
    ]


def test_every_check_needs_something_and_asks_a_question_of_its_own() -> None:
    assert [each.identifier for each in CHECKS if not each.needs or not each.question.endswith("?")] == []
    assert len({each.question for each in CHECKS}) == len(CHECKS)


def test_checks_and_catalogue_are_one() -> None:
    by_name = {
        each.check
        for about in (About.NETWORK, About.MACHINE)
        for each in run(Facts(), Question(about, "nope"))
        if each.answer is FAIL
    }
    assert by_name == {"network-undefined", "vm-undefined"}
    assert {each.identifier for each in CHECKS} | by_name == set(CATALOGUE)


def test_rules_that_cannot_be_followed_are_not_known_and_other_checks_go_on() -> None:
    strange = '{"nftables": [{"chain": {"family": "ip", "table": "t", "name": "f", "type": "filter"}}]}'
    found = run(facts(network(), firewall=Firewall(strange)), Question())
    assert [each.answer for each in found if each.check == "forward-drop-policy"] == [UNKNOWN]
    assert "dnsmasq-dead" in {each.check for each in found if each.answer is FAIL}


# ---- dnsmasq ----------------------------------------------------------------------------------------------------


def _pool(leases: int, running: bool = False, **more: Any) -> list[Answer]:
    """A network with four addresses, so many of them given to others."""
    given = tuple(lease(f"192.168.122.{10 + at}", f"52:54:00:00:01:{at:02x}") for at in range(leases))
    machines = (machine(),) if running else ()
    return answers("dhcp-pool-exhausted", facts(network(**more), leases={"virbr0": given}, machines=machines))


def test_a_pool_is_exhausted_with_its_last_address_and_not_before() -> None:
    assert _pool(3) == []
    assert _pool(4) == [WARN]
    assert _pool(3, running=True) == []
    assert _pool(4, running=True) == [FAIL]


def test_a_reserved_address_is_none_for_others_and_one_for_its_own() -> None:
    mine = (reservation("192.168.122.13"),)
    assert _pool(3, reservations=mine) == [WARN]
    assert _pool(3, running=True, reservations=mine) == [WARN]  # the one that is left is the machine's own
    assert _pool(3, reservations=(reservation("192.168.122.99"),)) == []


def test_a_pool_whose_addresses_are_all_reserved_is_meant_so() -> None:
    everyone = tuple(reservation(f"192.168.122.{10 + at}", f"52:54:00:00:02:{at:02x}") for at in range(4))
    assert _pool(0, reservations=everyone) == []


def test_leases_that_have_ended_take_no_address() -> None:
    old = tuple(lease(f"192.168.122.{10 + at}", f"52:54:00:00:01:{at:02x}", left=-1) for at in range(4))
    assert answers("dhcp-pool-exhausted", facts(network(), leases={"virbr0": old})) == []


def test_a_full_pool_grows_behind_its_last_address_if_there_is_room() -> None:
    def fix(**more: Any) -> str:
        given = tuple(lease(f"192.168.122.{10 + at}", f"52:54:00:00:01:{at:02x}") for at in range(4))
        (found,) = look("dhcp-pool-exhausted", facts(network(**more), leases={"virbr0": given}))
        return " ".join([found.fix.advice, *(word for each in found.fix.commands for word in each)])

    assert "<range start='192.168.122.14' end='192.168.122.77'/>" in fix()
    assert "used up" in fix(ranges=(span("192.168.122.251", "192.168.122.254"),))
    assert "up to 192.168.122.254" in fix(cluster="hpc")


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ("dhcp-option=option:dns-server,9.9.9.9", [WARN]),
        ("dhcp-option=6,9.9.9.9,1.1.1.1", [WARN]),
        ("dhcp-option=6,0.0.0.0,1.1.1.1", []),
        ("dhcp-option=6,9.9.9.9,192.168.122.1", []),
        ("dhcp-option=option:router,9.9.9.9", []),
        ("dhcp-option=42,9.9.9.9", []),
        ("no-resolv", []),
    ],
)
def test_nodes_are_told_others_by_the_option_for_dns_alone(option: str, wanted: list[Answer]) -> None:
    assert answers("dns-gateway-not-listed", facts(network(options=(option,)))) == wanted


def test_our_mark_tells_whom_nodes_ask_and_who_serves_no_dns_tells_nothing() -> None:
    assert answers("dns-gateway-not-listed", facts(network(told=("9.9.9.9",)))) == [WARN]
    assert answers("dns-gateway-not-listed", facts(network(told=("9.9.9.9", "192.168.122.1")))) == []
    assert answers("dns-gateway-not-listed", facts(network(told=("9.9.9.9",), dns=False))) == []


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ({}, False),
        ({"ranges": (span("192.168.122.2", "192.168.122.254"),)}, False),
        ({"ranges": (span("192.168.122.2", "192.168.123.1"),)}, True),
        ({"ranges": (span("192.168.121.255", "192.168.122.9"),)}, True),
        ({"options": ("dhcp-range=10.0.0.1,10.0.0.9,255.255.255.0",)}, True),
        ({"options": ("dhcp-range=192.168.122.50,192.168.122.60",)}, False),
        ({"options": ("dhcp-range=set:red,10.0.0.1,10.0.0.9", "dhcp-range=fd00::1,ra-only")}, False),
        ({"reservations": (reservation("192.168.123.5"),)}, True),
        ({"reservations": (reservation("192.168.122.1"),)}, True),
        ({"reservations": (reservation("192.168.122.255"),)}, True),
        ({"reservations": (reservation("192.168.122.254"),)}, False),
        ({"gateway": None, "ranges": (span("10.0.0.1", "10.0.0.2"),)}, False),
        ({"active": False, "ranges": (span("10.0.0.1", "10.0.0.2"),)}, True),
    ],
)
def test_dhcp_addresses_lie_in_the_subnet(more: dict[str, Any], wrong: bool) -> None:
    assert answers("dhcp-range-outside-subnet", facts(network(**more))) == [FAIL] * wrong


def test_gateways_that_ask_each_other_are_one_loop() -> None:
    one = network("a", forwarders=(Forwarder("192.168.123.1"),))
    two = network("b", gateway=IPv4Interface("192.168.123.1/24"), forwarders=(Forwarder("192.168.122.1"),))
    assert [each.subject for each in look("dns-loop", facts(one, two))] == ["a"]
    assert look("dns-loop", facts(one, network("b", gateway=IPv4Interface("192.168.123.1/24")))) == []


def test_a_loop_by_the_hosts_own_resolver_is_one_and_a_forwarder_of_one_domain_is_none() -> None:
    assert len(look("dns-loop", facts(network(), resolvers=("127.0.0.53",), resolver_asks=("192.168.122.1",)))) == 1
    assert look("dns-loop", facts(network(), resolvers=("127.0.0.53",), resolver_asks=("10.0.0.1",))) == []
    assert look("dns-loop", facts(network(forwarders=(Forwarder("192.168.122.1", "x.test"),)))) == []


def test_two_machines_with_one_mac_fail_only_where_both_run() -> None:
    def found(state: str, other: str = "default") -> list[Answer]:
        return answers("duplicate-mac", facts(machines=(machine("a"), machine("b", nic(other), state=state))))

    assert found("running") == [FAIL]
    assert found("shut off") == [WARN]
    assert found("running", "elsewhere") == []


def test_clones_are_known_by_one_identifier_and_not_by_their_macs() -> None:
    def found(*leases: Any, **more: Any) -> list[Answer]:
        return answers("duplicate-client-id", facts(network(), leases={"virbr0": leases}, **more))

    assert found(lease(client_id="ff:1"), lease("192.168.122.11", OTHER_MAC, client_id="ff:1")) == [FAIL]
    assert found(lease(client_id="ff:1"), lease("192.168.122.11", OTHER_MAC, client_id="ff:2")) == []
    both = {"virbr0": {IPv4Address("192.168.122.10"): (MAC, OTHER_MAC)}}
    assert found(lease(client_id="ff:1"), answering=both) == [FAIL]
    assert found(lease(client_id=f"01:{MAC}"), answering=both) == []


def test_anybody_at_the_gateways_address_is_one_too_many() -> None:
    def found(ip: str, *macs: str) -> list[Answer]:
        return answers("duplicate-address", facts(network(), answering={"virbr0": {IPv4Address(ip): macs}}))

    assert found("192.168.122.1", MAC) == [FAIL]
    assert found("192.168.122.20", MAC) == []
    assert found("192.168.122.20", MAC, OTHER_MAC) == [FAIL]


def test_a_lease_is_stale_where_it_is_of_nobody_and_the_address_somebodys() -> None:
    def found(mac: str, **more: Any) -> list[Answer]:
        known = facts(network(reservations=(reservation(),)), leases={"virbr0": (lease(mac=mac, **more),)})
        return answers("stale-lease", known)

    assert found(OTHER_MAC) == [FAIL]
    assert found(OTHER_MAC, left=-1) == []
    assert found(MAC) == []
    assert found(OTHER_MAC, ip="192.168.122.11") == []


def test_a_machine_with_another_lease_than_is_reserved_is_named() -> None:
    held = {"virbr0": (lease("192.168.122.12"),)}
    known = facts(network(reservations=(reservation(),)), leases=held, machines=(machine(),))
    assert [(each.subject, each.machine) for each in look("lease-mismatch", known)] == [("node", "node")]


def test_a_foreign_dhcp_server_is_a_warning_where_our_rules_keep_its_answers() -> None:
    others = {"default": (f"192.168.122.77 {MAC}",)}
    assert answers("rogue-dhcp", facts(network(), dhcp_servers=others)) == [FAIL]
    kept = Firewall('{"nftables": [], "x": "rogue-dhcp"}')
    assert answers("rogue-dhcp", facts(network(cluster="hpc"), dhcp_servers=others, firewall=kept)) == [WARN]


def test_dnsmasq_that_is_stopped_is_let_go_on_and_a_silent_one_is_told() -> None:
    (found,) = look("dnsmasq-unresponsive", facts(network(), servers=(server(stopped=True),)))
    assert (found.answer, found.fix.automatic, found.fix.commands) == (FAIL, True, (("kill", "-CONT", "100"),))
    assert answers("dnsmasq-unresponsive", facts(network(), servers=(server(),), names={"default": SILENT})) == [FAIL]
    assert answers("dnsmasq-unresponsive", facts(network(), servers=(server(),))) == []
    assert answers("dnsmasq-unresponsive", facts(network(), names={"default": SILENT})) == []  # dead, not silent


def test_dnsmasq_is_missed_only_where_dns_or_dhcp_is_served() -> None:
    assert answers("dnsmasq-dead", facts(network())) == [FAIL]
    assert answers("dnsmasq-dead", facts(network(dns=False, ranges=()))) == []
    assert answers("dnsmasq-dead", facts(network(active=False))) == []
    assert not look("dnsmasq-dead", facts(network()))[0].fix.automatic  # no daemon that would start it
    assert look("dnsmasq-dead", facts(network(), daemon=7))[0].fix.automatic


# ---- host -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "wanted"), [("2.82", [WARN]), ("2.83", []), ("2.90", []), ("3.0", []), ("", []), ("git", [])]
)
def test_dnsmasq_below_2_83_is_outdated(version: str, wanted: list[Answer]) -> None:
    assert answers("outdated-package", facts(versions={"dnsmasq": version})) == wanted


@pytest.mark.parametrize(
    ("count", "most", "wanted"),
    [("799", "1000", []), ("800", "1000", [WARN]), ("949", "1000", [WARN]), ("950", "1000", [FAIL]),
     ("5", "0", []), ("x", "1000", []), ("", "", [])],
)  # fmt: skip
def test_connections_warn_at_80_and_fail_at_95_percent(count: str, most: str, wanted: list[Answer]) -> None:
    settings = {"net/netfilter/nf_conntrack_count": count, "net/netfilter/nf_conntrack_max": most}
    assert answers("conntrack-full", facts(settings=settings)) == wanted


@pytest.mark.parametrize(
    ("trouble", "wanted"), [("down", FAIL), ("absent", FAIL), ("unknown", FAIL), ("permission", None), ("", None)]
)
def test_libvirt_is_down_where_it_does_not_answer(trouble: str, wanted: Answer | None) -> None:
    known = facts(libvirt=Libvirt("qemu:///system", trouble=trouble, why="so"))
    assert answers("libvirtd-down", known) == ([wanted] if wanted else [])
    assert answers("permission-denied", known) == ([FAIL] if trouble == "permission" else [])


def test_modular_daemons_are_started_by_their_sockets() -> None:
    known = facts(libvirt=Libvirt("", trouble="down", why="x"), programs={"libvirtd": "", "virtqemud": "/x"})
    assert "virtnetworkd.socket" in look("libvirtd-down", known)[0].fix.commands[0]


def test_kvm_is_only_missed_by_machines_that_want_it() -> None:
    cannot = Kvm(usable=False, why="no vmx")
    assert answers("kvm-unusable", facts(network(), kvm=cannot, machines=(machine(kvm=True),))) == [FAIL]
    assert answers("kvm-unusable", facts(network(), kvm=cannot, machines=(machine(kvm=False),))) == []
    assert answers("kvm-unusable", facts(kvm=Kvm(usable=True, why=""), machines=(machine(kvm=True),))) == []


def test_forwarding_is_missed_as_a_whole_or_link_by_link_where_a_network_leads_out() -> None:
    off, uplink = {"net/ipv4/ip_forward": "0"}, (route(),)
    assert answers("ip-forward-off", facts(network(), settings=off)) == [FAIL]
    assert answers("ip-forward-off", facts(network(forward="none"), settings=off)) == []
    one = {"net/ipv4/ip_forward": "1", "net/ipv4/conf/eth0/forwarding": "0"}
    assert [each.subject for each in look("ip-forward-off", facts(network(), settings=one, routes=uplink))] == ["host"]
    assert answers("ip-forward-off", facts(network(forward="none"), settings=one, routes=uplink)) == []
    bridge = {"net/ipv4/conf/virbr0/forwarding": "0"}
    assert [each.subject for each in look("ip-forward-off", facts(network(), settings=bridge))] == ["default"]


def test_strict_filtering_matters_on_a_second_way_out_and_fails_where_it_drops() -> None:
    def found(drops: str, everywhere: str = "1", here: str = "0") -> list[Answer]:
        settings = {
            "rp_filter/drops": drops,
            "net/ipv4/conf/all/rp_filter": everywhere,
            "net/ipv4/conf/eth1/rp_filter": here,
        }
        return answers("rp-filter", facts(network(), settings=settings, routes=(route(), route(dev="eth1", metric=9))))

    assert found("0") == [WARN]
    assert found("3") == [FAIL]
    assert found("0", "0", "1") == [WARN]
    assert found("0", "1", "2") == []  # the larger of the two counts, and 2 is loose
    assert found("0", "0", "0") == []


# ---- networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "active", "wanted"),
    [
        (route("192.168.0.0/16", "eth0", "10.0.0.1"), True, []),
        (route("192.168.0.0/16", "eth1", ""), True, [WARN]),
        (route("192.168.0.0/16", "eth1", ""), False, [FAIL]),
        (route("192.168.122.0/24", "wg0", "", table="51820"), True, [FAIL]),
        (route("192.168.122.128/25", "tun0", "10.0.0.1"), True, [FAIL]),
        (route("192.168.122.0/24", "virbr0", ""), True, []),
        (route("192.168.122.0/24", "eth1", "", dead=True), True, []),
        (route("192.168.123.0/24", "eth1", ""), True, []),
        (route("0.0.0.0/0", "eth0"), True, []),
    ],
)
def test_a_route_overlaps_where_it_takes_something_away(way: Any, active: bool, wanted: list[Answer]) -> None:
    known = facts(network(active=active, autostart=True), routes=(way,))
    assert answers("subnet-overlap", known) == wanted


def test_a_network_that_nobody_wants_overlaps_nothing_and_need_not_run() -> None:
    known = facts(network(active=False), routes=(route("192.168.122.0/24", "eth1", ""),))
    assert answers("subnet-overlap", known) == []
    assert answers("network-inactive", known) == []


@pytest.mark.parametrize("more", [{"autostart": True}, {}])
def test_a_network_is_wanted_by_autostart_or_a_machine(more: dict[str, Any]) -> None:
    machines = () if more else (machine(),)
    assert answers("network-inactive", facts(network(active=False, **more), machines=machines)) == [FAIL]
    off = facts(network(active=False), machines=(machine(state="shut off"),))
    assert answers("network-inactive", off) == []


def test_a_transient_network_of_others_is_no_drift_and_one_of_ours_is() -> None:
    assert answers("config-drift", facts(network(persistent=False))) == []
    assert answers("config-drift", facts(network(persistent=False, cluster="hpc"))) == [WARN]


def test_a_network_that_machines_name_is_missed_and_clusters_that_are_remembered() -> None:
    assert [e.subject for e in look("network-undefined", facts(machines=(machine("a"), machine("b"))))] == ["default"]
    remembered = Memory({"firewall-applied.json": '{"clusters": [{"cluster": "hpc"}]}'})
    assert [each.subject for each in look("network-undefined", facts(memory=remembered))] == ["hpc-network"]
    for broken in ("{", "[]", '{"clusters": 5}', '{"clusters": [5]}', "null"):
        assert look("network-undefined", facts(memory=Memory({"firewall-applied.json": broken}))) == []


def test_a_bridge_is_libvirts_where_kind_and_mac_are() -> None:
    def found(active: bool = True, **more: Any) -> list[Answer]:
        known = facts(network(active=active, autostart=True), links=links(link(**more)))
        return answers("bridge-not-ours", known)

    assert found(mac=BRIDGE_MAC) == []
    assert found(mac=OTHER_MAC) == [FAIL]
    assert found(kind="dummy") == [FAIL]
    assert found(active=False) == [FAIL]


def test_a_bridge_of_others_that_a_network_only_uses_is_not_judged() -> None:
    known = facts(network(forward="bridge", gateway=None), links=links(link(up=False, mac=OTHER_MAC)))
    for identifier in ("bridge-not-ours", "bridge-missing", "bridge-down", "bridge-address-missing"):
        assert answers(identifier, known) == []


def test_a_bridge_of_the_host_that_is_gone_is_the_cause_and_nothing_is_repaired_by_itself() -> None:
    bridged = network("hb", forward="bridge", bridge="hostbr", gateway=None, dns=False, ranges=())
    known = facts(bridged, machines=(machine("node", nic("hb")),), links=links(link("vnet0", "tun")))
    found = [each for each in run(known, Question()) if each.answer is FAIL]
    assert sorted((each.check, each.network, each.fix.automatic) for each in found) == [
        ("bridge-missing", "hb", False),
        ("vm-tap-detached", "hb", False),
    ]
    (cause,) = conclude(Question(), found).causes
    assert (cause.id, cause.fix.commands) == (
        "bridge-missing",
        (("ip", "link", "set", "dev", "vnet0", "master", "hostbr"),),
    )
    there = replace(known, links=links(link("hostbr"), link("vnet0", "tun", master="hostbr")))
    assert [each.check for each in run(there, Question()) if each.answer is FAIL] == []
    inactive = replace(known, networks=(replace(bridged, active=False),))
    assert answers("bridge-missing", inactive) == []


def test_a_tap_is_only_plugged_by_itself_into_a_bridge_that_is_there() -> None:
    def automatic(identifier: str, *several: Any) -> list[bool]:
        one = machine("node", nic("br9", kind="bridge"))
        known = facts(network(), machines=(one,), links=links(link(), *several))
        return [each.fix.automatic for each in look(identifier, known)]

    alone, elsewhere = link("vnet0", "tun"), link("vnet0", "tun", master="virbr0")
    assert (automatic("vm-tap-detached", alone), automatic("vm-wrong-network", elsewhere)) == ([False], [False])
    bridge = link("br9")
    assert automatic("vm-tap-detached", alone, bridge) == automatic("vm-wrong-network", elsewhere, bridge) == [True]


def test_port_53_is_taken_by_who_listens_there_and_is_not_its_dnsmasq() -> None:
    def found(address: str = "*", port: int = 53, pid: int = 7, **more: Any) -> list[Answer]:
        return answers("port-53-taken", facts(network(), listeners=(Listener("udp", address, port, "x", pid),), **more))

    assert found() == [FAIL]
    assert found("192.168.122.1") == [FAIL]
    assert found("127.0.0.53") == []
    assert found(port=67) == []
    assert found(servers=(server(),)) == []
    assert found(pid=100, servers=(server("default", 100, stopped=True),)) == []


# ---- uplink -----------------------------------------------------------------------------------------------------


def test_the_way_out_may_be_in_a_vpns_table() -> None:
    known = facts(network(), routes=(route(dev="wg0", via="", table="51820"),), links=links(link("wg0", "wireguard")))
    assert known.uplinks == ("wg0",)
    assert answers("uplink-missing", known) == []
    both = facts(network(), routes=(route(dev="wg0", via="", table="51820"), route()))
    assert both.uplinks == ("eth0", "wg0")


def test_the_way_out_is_missing_where_every_default_route_is_out_of_order() -> None:
    down = links(link("eth0", "", up=False), link("eth1", "", carrier=False))
    assert answers("uplink-missing", facts(network())) == [FAIL]
    assert answers("uplink-missing", facts(network(forward="none"))) == []
    assert answers("uplink-missing", facts(network(), routes=(route(), route(dev="eth1")), links=down)) == [FAIL]
    assert answers("uplink-missing", facts(network(), routes=(route(), route(dev="eth2")), links=down)) == []
    assert answers("uplink-missing", facts(network(), routes=(route(dead=True),))) == [FAIL]


def test_a_silent_router_is_a_cause_only_where_nobody_outside_answers() -> None:
    silent = {("eth0", "10.0.0.1"): "FAILED"}
    for upstream, wanted in (({"8.8.8.8": SILENT}, [FAIL]), ({"8.8.8.8": ANSWERED}, []), ({}, [])):
        known = facts(network(), routes=(route(),), neighbours=silent, upstream=upstream)
        assert answers("uplink-missing", known) == wanted


def test_servers_outside_fail_where_none_answers_and_warn_where_some_do() -> None:
    asks = network(forwarders=(Forwarder("9.9.9.9"), Forwarder("8.8.8.8")))
    assert answers("dns-upstream-dead", facts(asks, upstream={"9.9.9.9": SILENT, "8.8.8.8": SILENT})) == [FAIL]
    assert answers("dns-upstream-dead", facts(asks, upstream={"9.9.9.9": SILENT, "8.8.8.8": ANSWERED})) == [WARN]
    assert answers("dns-upstream-dead", facts(asks, upstream={})) == []
    by_host = facts(network(), resolvers=("7.7.7.7",), upstream={"7.7.7.7": SILENT})
    assert answers("dns-upstream-dead", by_host) == [FAIL]


def test_the_mtu_of_a_tap_is_mended_and_that_of_a_physical_port_is_advice() -> None:
    ports = links(link(), link("vnet0", "tun", mtu=1400, master="virbr0"), link("eth1", "", mtu=9000, master="virbr0"))
    found = {each.subject: each for each in look("mtu-mismatch", facts(network(), links=ports, machines=(machine(),)))}
    assert set(found) == {"node", "eth1"}
    assert found["node"].fix.automatic
    assert not found["eth1"].fix.automatic


def test_the_mtu_of_a_bridge_and_of_the_way_out_count_too() -> None:
    assert answers("mtu-mismatch", facts(network(mtu=9000), links=links(link()))) == [FAIL]
    assert answers("mtu-mismatch", facts(network(mtu=1400), links=links(link(mtu=1400)))) == []
    small = facts(network(), links=links(link(), link("eth0", "", mtu=1400)), routes=(route(),))
    assert answers("mtu-mismatch", small) == [WARN]


# ---- machines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "more", "wanted"),
    [
        ("paused", {}, [WARN]),
        ("suspended", {}, [WARN]),
        ("paused", {"cluster": "hpc"}, [FAIL]),
        ("shut off", {}, []),
        ("shut off", {"autostart": True}, [FAIL]),
        ("crashed", {}, [FAIL]),
        ("blocked", {}, []),
    ],
)
def test_a_machine_that_does_not_run_weighs_by_whose_it_is(
    state: str, more: dict[str, Any], wanted: list[Answer]
) -> None:
    known = facts(network(), machines=(machine(state=state, **more),))
    assert answers("vm-not-running", known) == wanted
    assert not any(each.fix.automatic for each in look("vm-not-running", known) if state in ("paused", "suspended"))


def test_a_machine_that_is_asked_for_or_whose_cluster_runs_should_run() -> None:
    off = machine(state="shut off", cluster="hpc")
    assert answers("vm-not-running", facts(network(), machines=(off,))) == []
    assert answers("vm-not-running", facts(network(), machines=(off,), asked="node")) == [FAIL]
    assert answers("vm-not-running", facts(network(), machines=(off, machine("b", cluster="hpc")))) == [FAIL]
    assert answers("vm-not-running", facts(network(), machines=(machine(state="paused"),), asked="node")) == [FAIL]


@pytest.mark.parametrize(("age", "wanted"), [(5.0, UNKNOWN), (29.9, UNKNOWN), (30.0, FAIL), (None, FAIL)])
def test_a_young_machine_without_a_lease_is_not_known_yet(age: float | None, wanted: Answer) -> None:
    assert answers("vm-no-lease", facts(network(), machines=(machine(age=age),))) == [wanted]


def test_a_lease_that_has_ended_is_none_and_one_for_ever_is() -> None:
    for left, wanted in ((-1.0, [FAIL]), (0.0, []), (1.0, [])):
        known = facts(network(), machines=(machine(),), leases={"virbr0": (lease(left=left),)})
        assert answers("vm-no-lease", known) == wanted


def test_a_machine_whose_networks_leases_are_not_known_may_have_one() -> None:
    known = facts(network(), machines=(machine(),), unread_leases={"virbr0": "/x/virbr0.status is not understood"})
    assert [(each.answer, each.evidence) for each in look("vm-no-lease", known)] == [
        (UNKNOWN, ("/x/virbr0.status is not understood",))
    ]
    other = replace(known, unread_leases={"virbr1": "/x/virbr1.status is not understood"})
    assert answers("vm-no-lease", other) == [FAIL]
    (said,) = [each.summary for each in run(known, Question()) if each.check == "network-inactive"]
    assert said == "active on virbr0, leases not known"


def test_a_machine_that_has_its_address_without_dhcp_is_well() -> None:
    known = facts(network(), machines=(machine(),), guests={"node": guest("192.168.122.50/24")})
    assert answers("vm-no-lease", known) == []
    held = {"virbr0": {IPv4Address("192.168.122.10"): (MAC,)}}
    assert (
        answers("vm-no-lease", facts(network(reservations=(reservation(),)), machines=(machine(),), answering=held))
        == []
    )


def test_every_interface_is_looked_at_and_only_where_dhcp_is_served() -> None:
    two = machine("node", nic(), nic("quiet", OTHER_MAC, "vnet1"))
    other = network("quiet", bridge="virbr1", ranges=())
    assert answers("vm-no-lease", facts(network(), other, machines=(two,))) == [FAIL]
    serving = network("quiet", bridge="virbr1")
    assert answers("vm-no-lease", facts(network(), serving, machines=(two,))) == [FAIL, FAIL]


def test_a_machine_in_several_networks_may_have_its_way_out_by_any() -> None:
    inside = guest("192.168.122.10/24", routers=("10.9.9.1",), resolvers=("9.9.9.9",))
    alone = facts(network(), machines=(machine(),), guests={"node": inside})
    assert answers("vm-guest-misconfigured", alone) == [FAIL]
    two = machine("node", nic(), nic("elsewhere", OTHER_MAC, "vnet1"))
    assert answers("vm-guest-misconfigured", facts(network(), machines=(two,), guests={"node": inside})) == []


@pytest.mark.parametrize(
    ("inside", "wrong"),
    [
        (guest("192.168.122.10/24", routers=("192.168.122.1",), resolvers=("192.168.122.1",)), False),
        (guest("192.168.122.10/24", routers=("192.168.122.1",), resolvers=("127.0.0.53",)), False),
        (guest("192.168.122.10/24", routers=("192.168.122.1",), resolvers=("9.9.9.9",)), True),
        (guest("192.168.122.10/24", routers=(), resolvers=("192.168.122.1",)), True),
        (guest("192.168.122.10/24"), False),
        (guest("192.168.122.11/24"), True),
        (guest(), True),
        (guest("192.168.122.10/24", mac=OTHER_MAC), True),
    ],
)
def test_inside_a_machine_is_what_its_network_says(inside: Any, wrong: bool) -> None:
    leases = {"virbr0": (lease(),)}
    known = facts(network(), machines=(machine(),), leases=leases, guests={"node": inside})
    assert answers("vm-guest-misconfigured", known) == [FAIL] * wrong


def test_a_tap_is_on_no_bridge_on_another_or_gone() -> None:
    def known(*taps: Any) -> Facts:
        return facts(network(), machines=(machine(),), links=links(link(), *taps))

    assert answers("vm-tap-detached", known()) == [FAIL]
    assert answers("vm-tap-detached", known(link("vnet0", "tun"))) == [FAIL]
    assert answers("vm-tap-detached", known(link("vnet0", "tun", master="virbr0"))) == []
    nobodys = known(link("vnet0", "tun", master="br9"))
    assert (answers("vm-tap-detached", nobodys), answers("vm-wrong-network", nobodys)) == ([FAIL], [])
    others = replace(nobodys, networks=(*nobodys.networks, network("other", bridge="br9")))
    assert (answers("vm-tap-detached", others), answers("vm-wrong-network", others)) == ([], [FAIL])
    switched = known(link("vnet0", "tun", master="ovs-system"))
    assert (answers("vm-tap-detached", switched), answers("vm-wrong-network", switched)) == ([], [])
    assert answers("vm-link-down", known(link("vnet0", "tun", up=False))) == [FAIL]


def test_a_machine_of_a_cluster_belongs_in_its_network() -> None:
    ours = network("hpc-network", cluster="hpc", bridge="br-hpc")
    known = facts(ours, network(), machines=(machine("n", nic("default"), cluster="hpc"),))
    assert [each.network for each in look("vm-wrong-network", known)] == ["hpc-network"]


# ---- clusters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "wanted"),
    [
        (Memory({RULES: ""}, HOOK.content, HOOK.mode), []),
        (Memory({RULES: ""}, None, ""), ["is gone"]),
        (Memory({RULES: ""}, "#!/bin/sh\n", HOOK.mode), ["is not what ai-how wrote"]),
        (Memory({RULES: ""}, HOOK.content, "0644"), ["its mode is 0644"]),
        (Memory({RULES: ""}, HOOK.content, "0000"), ["its mode is 0000"]),
        (Memory({RULES: ""}, HOOK.content, HOOK.mode, unknown_to_libvirt=True), ["has not seen"]),
        (Memory({}, HOOK.content, HOOK.mode), ["the rules are gone"]),
    ],
)
def test_the_hook_is_ours_runs_and_has_rules_to_load(memory: Memory, wanted: list[str]) -> None:
    found = look("hook-missing", facts(network(cluster="hpc"), memory=memory))
    assert [word in each.summary for word, each in zip(wanted, found, strict=True)] == [True] * len(wanted)
    assert look("hook-missing", facts(network(), memory=memory)) == []


def test_what_the_engine_finds_is_told_once_and_left_to_checks_that_know_more() -> None:
    drift = tuple(
        Drift(cluster, kind, key, "it is otherwise")
        for cluster in ("a", "b")
        for kind, key in (("sysctl", "net.x"), ("firewall", "f"), ("hook", "h"))
    )
    found = look("config-drift", facts(network(cluster="a"), drift=drift))
    assert [(each.subject, each.kind, each.network) for each in found] == [("host", "sysctl", "")]
    assert answers("config-drift", facts(unseen=("no permission",))) == [UNKNOWN]


def test_names_of_the_host_and_consul_are_wrong_where_they_do_not_answer() -> None:
    for part, identifier in (("resolves", "resolver-route-missing"), ("consul", "consul-unreachable")):
        assert answers(identifier, facts(network(), **{part: {"default": SILENT}})) == [FAIL]
        assert answers(identifier, facts(network(), **{part: {"default": ANSWERED}})) == []
        assert answers(identifier, facts(network(), **{part: {}})) == []


def test_now_is_the_moment_of_the_capture() -> None:
    assert facts(now=NOW + 601, leases={"virbr0": (lease(),)}).leases_of(network()) == ()
