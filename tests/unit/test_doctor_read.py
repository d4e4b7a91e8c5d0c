"""A capture becomes facts; whatever of it is not understood is missing, and takes nothing else along."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.doctor_facts import MAC, MACHINE_XML, NETWORK_XML, NOW, capture, parts

from ai_how.diagnose import report
from ai_how.diagnose.capture import Capture
from ai_how.diagnose.doctor import judge
from ai_how.diagnose.facts import Forwarder, Network, Part, Reservation, Server
from ai_how.diagnose.question import Question
from ai_how.diagnose.read import networks_of, read_capture, read_guest, read_leases, read_listener, read_network
from ai_how.errors import HostError
from ai_how.resources.base import METADATA

_DNSMASQ = "http://libvirt.org/schemas/network/dnsmasq/1.0"
_MARK = (
    f"<metadata><a:cluster xmlns:a='{METADATA}' cluster='hpc' dns_mode='isolated' dns_servers='10.9.9.9 1.1.1.1' "
    "upstream='8.8.8.8' policy='{{&quot;firewall&quot;: {{&quot;enabled&quot;: {enabled}}}}}'/></metadata>"
)


def _network(live: str | None = NETWORK_XML, saved: str | None = NETWORK_XML, **more: Any) -> Network:
    flags = {"active": live is not None, "persistent": saved is not None, "autostart": False}
    return read_network({"name": "default", "live": live, "saved": saved, **flags, **more})


def _marked(enabled: str = "true", xml: str = NETWORK_XML) -> str:
    return xml.replace("</name>", "</name>" + _MARK.format(enabled=enabled))


def test_the_capture_of_a_healthy_host_is_understood_whole() -> None:
    facts = read_capture(capture())
    assert facts.missing == {}
    assert (facts.now, facts.root, facts.daemon) == (NOW, True, 10)
    assert facts.libvirt.version == "9.0.0"
    assert facts.kvm.usable
    assert facts.servers == (Server(100, "default", stopped=False),)
    assert facts.upstream["10.0.0.1"].answered
    assert facts.answering == {"virbr0": {IPv4Address("192.168.122.20"): (MAC,)}}


def test_a_network_has_its_gateway_range_and_reservations() -> None:
    network = _network()
    assert network.gateway == IPv4Interface("192.168.122.1/24")
    assert network.ranges == ((IPv4Address("192.168.122.2"), IPv4Address("192.168.122.254")),)
    assert network.reservations == (Reservation(IPv4Address("192.168.122.9"), "52:54:00:00:00:0a", "fixed"),)
    assert (network.bridge, network.forward, network.dns, network.mtu) == ("virbr0", "nat", True, None)


def test_a_network_without_an_ipv4_address_has_no_gateway_and_no_dns() -> None:
    network = _network("<network><name>x</name><ip family='ipv6' address='fd00::1' prefix='64'/></network>")
    assert (network.gateway, network.dns, network.serves_dhcp, network.forward) == (None, False, False, "none")


def test_dns_that_is_switched_off_is_off() -> None:
    assert not _network(NETWORK_XML.replace("<ip ", "<dns enable='no'/><ip ")).dns


def test_forwarders_and_options_of_dnsmasq_are_read() -> None:
    dns = "<dns><forwarder addr='9.9.9.9'/><forwarder domain='x.test' addr='10.1.1.1'/><forwarder domain='y'/></dns>"
    option = f"<d:options xmlns:d='{_DNSMASQ}'><d:option value='no-resolv'/><d:option/></d:options>"
    network = _network(NETWORK_XML.replace("</network>", f"{dns}{option}</network>"))
    assert network.forwarders == (Forwarder("9.9.9.9"), Forwarder("10.1.1.1", "x.test"))
    assert network.options == ("no-resolv",)


def test_our_mark_says_cluster_mode_servers_and_policy() -> None:
    network = _network(_marked(), _marked())
    assert (network.cluster, network.dns_mode) == ("hpc", "isolated")
    assert (network.told, network.upstream) == (("10.9.9.9", "1.1.1.1"), ("8.8.8.8",))
    assert network.guarded
    assert not _network(_marked("false"), _marked("false")).guarded


def test_the_mark_that_counts_is_the_defined_ones() -> None:
    assert not _network(_marked("true"), _marked("false")).guarded


def test_a_policy_that_is_no_json_is_none() -> None:
    broken = _marked().replace("{&quot;", "[&quot;", 1)
    assert _network(broken, broken).policy == {}


def test_default_ports_of_nat_are_no_drift_and_others_are() -> None:
    live = "<forward mode='nat'><nat><port start='{}' end='65535'/></nat></forward>"
    default = NETWORK_XML.replace("<forward mode='nat'/>", live.format(1024))
    other = NETWORK_XML.replace("<forward mode='nat'/>", live.format(2048))
    assert _network(default).differences == ()
    assert len(_network(other).differences) == 1


def test_connections_and_blanks_are_no_drift() -> None:
    assert _network(NETWORK_XML.replace("bridge name", "bridge  name").replace("\n", " ")).differences == ()
    assert _network(NETWORK_XML.replace("<forward", "<forward connections='3'")).differences == ()


def test_what_runs_otherwise_is_told_of_others_and_left_to_our_files_of_ours() -> None:
    other = NETWORK_XML.replace("192.168.122.254", "192.168.122.99")
    assert len(_network(other).differences) == 1
    assert _network(_marked(xml=other), _marked()).differences == ()


def test_a_network_that_does_not_run_has_no_drift() -> None:
    assert _network(None, NETWORK_XML).differences == ()


def _hosts(text: str) -> dict[str, Any]:
    return {**parts()[Part.MEMORY], "dnsmasq": {"default": text}}


def test_reservations_of_our_files_are_added_once() -> None:
    text = "52:54:00:00:00:0A,192.168.122.9,fixed\n52:54:00:00:00:BB,192.168.122.11,more\n"
    (network,) = read_capture(capture(memory=_hosts(text))).networks
    assert [(str(each.ip), each.mac) for each in network.reservations] == [
        ("192.168.122.9", "52:54:00:00:00:0a"),
        ("192.168.122.11", "52:54:00:00:00:bb"),
    ]


def test_a_line_of_somebody_in_our_files_is_passed_over() -> None:
    some = capture(memory=_hosts("aa,not-an-address,x\nset:tag\n52:54:00:00:00:bb,192.168.122.11,more"))
    assert [each.name for each in read_capture(some).networks[0].reservations] == ["fixed", "more"]
    assert read_capture(some).missing == {}
    assert [each.name for each in networks_of(some)[0].reservations] == ["fixed", "more"]


def test_reservations_of_our_files_are_not_of_a_network_that_is_down() -> None:
    down = [{**parts()[Part.NETWORKS][0], "active": False, "live": None}]
    (network,) = read_capture(capture(networks=down, memory=_hosts(f"{MAC},192.168.122.11,more"))).networks
    assert len(network.reservations) == 1


def test_memory_that_is_not_understood_takes_no_network_along() -> None:
    some = capture(memory={"dnsmasq": ["x"]})
    facts = read_capture(some)
    assert set(facts.missing) == {Part.MEMORY}
    assert [each.name for each in facts.networks] == ["default"]
    assert [each.name for each in networks_of(some)] == ["default"]


def test_networks_that_are_not_understood_are_a_host_error_where_they_are_to_be_asked() -> None:
    several: tuple[Any, ...] = ([{}], [{"live": "<x", "saved": None}], [{"live": 5, "saved": 5}], "x", 5)
    for garbage in several:
        with pytest.raises(HostError):
            networks_of(capture(networks=garbage))


def _machine(live: str | None, saved: str | None, state: str = "running") -> Any:
    one = {"name": "node", "state": state, "autostart": False, "live": live, "saved": saved}
    (machine,) = read_capture(capture(machines=[one])).machines
    return machine


def test_a_machine_has_its_interfaces_and_age() -> None:
    machine = _machine(MACHINE_XML, MACHINE_XML)
    assert [(each.source, each.mac, each.tap, each.plugged) for each in machine.interfaces] == [
        ("default", MAC, "vnet0", True)
    ]
    assert (machine.age, machine.kvm, machine.agent, machine.differences) == (100.0, False, False, ())


def test_a_machine_says_its_link_agent_and_kvm() -> None:
    channel = "<channel><target name='org.qemu.guest_agent.0' state='connected'/></channel></devices>"
    xml = MACHINE_XML.replace("</devices>", channel).replace("type='qemu'", "type='kvm'")
    machine = _machine(xml.replace("<target dev", "<link state='down'/><target dev"), MACHINE_XML)
    assert (machine.kvm, machine.agent, machine.interfaces[0].plugged) == (True, True, False)


def test_a_tap_that_only_runs_is_no_drift_and_another_network_is() -> None:
    saved = MACHINE_XML.replace("<target dev='vnet0'/>", "")
    assert _machine(MACHINE_XML, saved).differences == ()
    assert len(_machine(MACHINE_XML.replace("network='default'", "network='other'"), saved).differences) == 1
    assert len(_machine(MACHINE_XML.replace("262144", "131072"), saved).differences) == 1


_HOSTBR = "<network><name>hb</name><forward mode='bridge'/><bridge name='hostbr'/></network>"
_UPLINK = (
    "<network><name>hb</name><forward dev='uplink' mode='{}'><interface dev='uplink'/><interface dev='second'/>"
    "</forward></network>"
)


def _drift(live: str, network: str | None, saved: str = "<interface type='network'>{mac}<source network='hb'/>") -> Any:
    """How a machine with that interface differs from its definition, on a host with that network."""
    mac = f"<mac address='{MAC}'/>"
    one = {"name": "node", "state": "running", "autostart": False}
    for which, text in (("live", live), ("saved", saved)):
        interface = f"{text.format(mac=mac)}<target dev='vnet0'/></interface>"
        one[which] = f"<domain><name>node</name><devices>{interface}</devices></domain>"
    networks = (
        [] if network is None else [{**parts()[Part.NETWORKS][0], "name": "hb", "live": network, "saved": network}]
    )
    (machine,) = read_capture(capture(machines=[one], networks=networks)).machines
    return [(each.kind, each.source) for each in machine.interfaces], len(machine.differences)


@pytest.mark.parametrize(
    ("live", "network"),
    [
        ("<interface type='bridge'>{mac}<source bridge='hostbr'/>", _HOSTBR),
        ("<interface type='bridge'>{mac}<source network='hb' portid='x' bridge='hostbr'/>", _HOSTBR),
        ("<interface type='bridge'>{mac}<source network='hb' portid='x' bridge='hostbr'/>", None),
        ("<interface type='direct'>{mac}<source network='hb' dev='uplink' mode='bridge'/>", None),
        *(
            (f"<interface type='direct'>{{mac}}<source dev='{dev}' mode='{mode}'/>", _UPLINK.format(mode))
            for dev in ("uplink", "second")
            for mode in ("bridge", "private", "vepa", "passthrough")
        ),
    ],
)
def test_what_libvirt_makes_of_a_network_that_is_others_bridge_or_link_is_no_drift(
    live: str, network: str | None
) -> None:
    assert _drift(live, network) == ([("network", "hb")], 0)


@pytest.mark.parametrize(
    ("live", "network"),
    [
        ("<interface type='bridge'>{mac}<source bridge='other'/>", _HOSTBR),
        ("<interface type='bridge'>{mac}<source bridge='hostbr'/>", None),
        ("<interface type='bridge'>{mac}<source bridge='hostbr'/>", _HOSTBR.replace("mode='bridge'", "mode='nat'")),
        ("<interface type='bridge'>{mac}<source bridge='hostbr'/>", _HOSTBR.replace(">hb<", ">hc<")),
        ("<interface type='bridge'>{mac}<source network='hc' bridge='hostbr'/>", _HOSTBR),
        ("<interface type='bridge'><mac address='52:54:00:00:00:99'/><source bridge='hostbr'/>", _HOSTBR),
        ("<interface type='direct'>{mac}<source dev='eth9' mode='vepa'/>", _UPLINK.format("vepa")),
        ("<interface type='direct'>{mac}<source network='hc' dev='uplink' mode='vepa'/>", _UPLINK.format("vepa")),
        ("<interface type='bridge'>{mac}<source bridge='uplink'/>", _UPLINK.format("bridge")),
    ],
)
def test_another_bridge_link_or_network_than_is_defined_is_drift(live: str, network: str | None) -> None:
    assert _drift(live, network)[1] == 1


def test_another_link_of_the_host_than_is_defined_is_drift() -> None:
    running, saved = (f"<interface type='direct'>{{mac}}<source dev='{dev}' mode='vepa'/>" for dev in ("eth0", "eth1"))
    assert (_drift(running, None, saved)[1], _drift(running, None, running)[1]) == (1, 0)


def test_links_have_kind_master_and_ipv4_addresses() -> None:
    links = read_capture(capture()).links
    assert (links["lo"].kind, links["virbr0"].kind, links["eth0"].kind) == ("loopback", "bridge", "")
    assert links["virbr0"].addresses == (IPv4Interface("192.168.122.1/24"),)
    assert links["vnet0"].master == "virbr0"


def test_routes_are_those_to_others_hop_by_hop_with_their_table() -> None:
    several = [
        {"dst": "default", "nexthops": [{"gateway": "10.0.0.1", "dev": "a"}, {"dev": "b", "flags": ["dead"]}]},
        {"type": "blackhole", "dst": "10.7.0.0/16"},
        {"dst": "10.0.0.5", "table": "local", "dev": "lo"},
        {"dst": "10.8.0.0/24", "dev": "wg0", "table": "51820", "metric": 7},
    ]
    found = read_capture(capture(routes=several)).routes
    assert [(str(each.to), each.dev, each.dead, each.table, each.metric) for each in found] == [
        ("0.0.0.0/0", "a", False, "main", 0),
        ("0.0.0.0/0", "b", True, "main", 0),
        ("10.8.0.0/24", "wg0", False, "51820", 7),
    ]


def _half(dst: str, dev: str = "tun0", **more: Any) -> dict[str, Any]:
    return {"dst": dst, "dev": dev, "gateway": "10.8.0.1", **more}


def test_a_pair_of_halves_by_one_link_is_the_way_out_and_goes_before_others() -> None:
    pair = [_half("0.0.0.0/1"), _half("128.0.0.0/1")]
    alone = read_capture(capture(routes=pair))
    assert [(str(each.to), each.dev) for each in alone.routes] == [("0.0.0.0/0", "tun0")]
    tun0 = {"ifname": "tun0", "flags": ["UP", "LOWER_UP"], "mtu": 1500}
    found = judge(capture(routes=[*parts()[Part.ROUTES][1:], *pair], links=[*parts()[Part.LINKS], tun0]), Question())
    said = [(each.check, each.summary) for each in found.findings if each.check in ("uplink-missing", "subnet-overlap")]
    assert said == [("uplink-missing", "the way out is tun0")]
    assert read_capture(capture(routes=[*parts()[Part.ROUTES], *pair])).uplinks == ("tun0", "eth0")


@pytest.mark.parametrize(
    "several",
    [
        [_half("0.0.0.0/1")],
        [_half("128.0.0.0/1"), _half("10.0.0.0/8")],
        [_half("0.0.0.0/1"), _half("128.0.0.0/1", "tun1")],
        [_half("0.0.0.0/1"), _half("128.0.0.0/1", table="7")],
    ],
)
def test_halves_that_are_no_pair_are_no_way_out(several: list[dict[str, Any]]) -> None:
    facts = read_capture(capture(routes=several))
    assert facts.uplinks == ()
    assert [str(each.to) for each in facts.routes] == [each["dst"] for each in several]


def test_a_pair_with_a_half_that_is_dead_is_dead() -> None:
    (way,) = read_capture(capture(routes=[_half("128.0.0.0/1", flags=["dead"]), _half("0.0.0.0/1")])).routes
    assert way.dead


def test_leases_of_ipv4_are_read_and_an_empty_file_has_none() -> None:
    text = json.dumps([{"ip-address": "fd00::5"}, {"ip-address": "10.0.0.9", "mac-address": "AA:BB:CC:DD:EE:FF"}])
    leases = read_capture(capture(leases={"a": text, "b": ""})).leases
    assert [(str(each.ip), each.mac, each.expires) for each in leases["a"]] == [("10.0.0.9", "aa:bb:cc:dd:ee:ff", 0.0)]
    assert leases["b"] == ()


@pytest.mark.parametrize(
    "spoilt",
    ["not json", "[1,null]", "{}", "null", "{", "5", '[{"ip-address": "x"}]', '[{"ip-address": 5}]', "[" * 200_000,
     '[{"ip-address": "10.0.0.9", "mac-address": 5}]'],
)  # fmt: skip
def test_leases_that_are_spoilt_are_not_known_and_take_no_others_along(spoilt: str) -> None:
    xml = NETWORK_XML.replace("default", "other").replace("virbr0", "virbr1").replace("192.168.122", "192.168.123")
    other = {**parts()[Part.NETWORKS][0], "name": "other", "live": xml, "saved": xml}
    changed: dict[str, Any] = {
        "networks": [*parts()[Part.NETWORKS], other],
        "leases": {"virbr1": spoilt, **parts()[Part.LEASES]},
    }
    facts = read_capture(capture(**changed))
    assert facts.missing == {}
    assert [len(each) for each in facts.leases.values()] == [1]
    diagnosis = judge(capture(**changed), Question())
    unknown = {(each.check, each.network) for each in diagnosis.unseen}
    assert unknown == {
        (check, "other") for check in ("dhcp-pool-exhausted", "duplicate-client-id", "stale-lease", "lease-mismatch")
    }
    assert {each.evidence[0].partition(" ")[0] for each in diagnosis.unseen} == {
        "/var/lib/libvirt/dnsmasq/virbr1.status"
    }
    assert judge(capture(leases={**parts()[Part.LEASES], "gone": spoilt}), Question()).unseen == ()
    with pytest.raises(ValueError, match="these are no leases"):
        read_leases(spoilt)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('udp UNCONN 0 0 0.0.0.0:53 0.0.0.0:* users:(("named",pid=7,fd=5))', ("*", 53, "named", 7)),
        ("tcp LISTEN 0 32 [::]:53 [::]:*", ("*", 53, "", None)),
        ("udp UNCONN 0 0 *:67 *:*", ("*", 67, "", None)),
        ("udp UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:*", ("127.0.0.53", 53, "", None)),
        ("udp UNCONN 0 0 [fe80::1]%virbr0:53 [::]:*", ("fe80::1", 53, "", None)),
    ],
)
def test_a_listener_has_its_address_port_and_program(line: str, wanted: tuple[str, int, str, int | None]) -> None:
    found = read_listener(line)
    assert found is not None
    assert (found.address, found.port, found.program, found.pid) == wanted


def test_a_line_too_short_for_a_listener_is_none() -> None:
    assert read_listener("udp UNCONN") is None


def test_a_guest_says_addresses_routers_and_resolvers() -> None:
    guest = read_capture(capture()).guests["node"]
    assert guest.addresses == {MAC: (IPv4Interface("192.168.122.20/24"),)}
    assert guest.routers == (IPv4Address("192.168.122.1"),)
    assert guest.resolvers == ("192.168.122.1",)


def test_a_guest_that_runs_no_commands_says_nothing_of_routers() -> None:
    guest = read_guest({"answers": True, "links": [{"hardware-address": "00:00:00:00:00:00"}], "inside": None})
    assert (guest.answers, guest.addresses, guest.routers, guest.resolvers) == (True, {}, None, None)
    assert read_guest({"answers": False, "why": "no agent"}).why == "no agent"


# ---- what is not understood -------------------------------------------------------------------------------------

_DEEP: Any = []
for _ in range(50):
    _DEEP = [_DEEP]

_GARBAGE: dict[Part, list[Any]] = {
    Part.HOST: [[], 5, "x", {"now": "soon"}, {"daemon": "x"}, {"programs": ["a"]}, {"versions": {"dnsmasq": 2}}],
    Part.LIBVIRT: [[], 5, "x", {"uri": 5}, {"trouble": ["down"]}, {"emulators": ["x"]}, {"emulators": {"x": 1}}],
    Part.NETWORKS: [5, "x", {}, [5], [{}], [{"live": "<x", "saved": ""}], [{"live": "<x/>", "saved": []}], _DEEP],
    Part.MACHINES: [5, "x", {}, [None], [{"live": "", "saved": ""}], [{"live": "<x/>", "saved": "<x/>"}]],
    Part.LINKS: [5, {}, ["x"], [{"ifname": 5, "mtu": 1}], [{"ifname": "a", "mtu": "x"}],
                 [{"ifname": "a", "mtu": float("inf")}],
                 [{"ifname": "a", "mtu": 1, "addr_info": [{"family": "inet", "local": "x", "prefixlen": 99}]}]],
    Part.ROUTES: [5, {}, ["x"], [{}], [{"dst": "x"}], [{"dst": "default", "metric": "x"}],
                  [{"dst": "default", "dev": []}]],
    Part.NEIGHBOURS: [5, {}, ["xdst"], [{"dst": "x"}], [{"dst": ["x"], "dev": "y"}]],
    Part.SETTINGS: [5, [], "x", {"net/ipv4/ip_forward": 1}],
    Part.PROCESSES: [5, {}, [5], [{"network": "x"}], [{"machine": "x", "age": None}],
                     [{"network": [], "pid": 1, "stopped": 0}]],
    Part.LISTENERS: [5, {}, [5], ["udp a b c d:x"]],
    Part.LEASES: [5, [], {"a": 5}],
    Part.FIREWALL: [5, [], {}, {"ruleset": 5, "unread": [], "legacy": {}, "iptables": {}, "loaded": None},
                    {"ruleset": [], "unread": [], "legacy": [5], "iptables": {}, "loaded": None}],
    Part.RESOLVER: [5, [], "x", {"servers": "x"}, {"servers": [5]}, {"asks": 5}],
    Part.RESOLVES: [5, [], {"a": 5}, {"a": {}}],
    Part.MEMORY: [5, [], {}, {"files": {"a": 5}, "hook": {"text": None, "mode": ""}, "unknown_to_libvirt": 0},
                  {"files": {}, "hook": None, "unknown_to_libvirt": 0}],
    Part.STATE: [5, {"a": 1}, [5], [["a"]]],
    Part.DRIFT: [5, [], {}, {"found": 5}, {"found": [{"cluster": "x"}]}, {"found": [], "unseen": [5]}],
    Part.NAMES: [5, [], {"a": {"answered": 1, "ms": "x", "why": ""}}],
    Part.UPSTREAM: [5, [], {"a": None}, {"a": {"answered": 1, "ms": 10**400, "why": ""}}],
    Part.ANSWERING: [5, [], {"a": 5}, {"a": {"x": []}}, {"a": {"10.0.0.1": 5}}, {"a": {"10.0.0.1": [5]}}],
    Part.SERVERS: [5, [], {"a": 5}, {"a": [5]}, {"a": "x"}],
    Part.CONSUL: [5, [], {"a": []}],
    Part.GUESTS: [5, [], {"a": 5}, {"a": {}}, {"a": {"answers": True, "links": 5, "inside": None}},
                  {"a": {"answers": True, "links": [], "inside": 5}}],
}  # fmt: skip


def test_there_is_garbage_for_every_part_that_is_understood() -> None:
    assert set(_GARBAGE) == set(Part) - {Part.LOGS}


@pytest.mark.parametrize(
    ("part", "garbage"),
    [
        pytest.param(part, each, id=f"{part}-{at}")
        for part, several in _GARBAGE.items()
        for at, each in enumerate(several)
    ],
)
def test_a_part_that_is_not_understood_is_missing_and_takes_no_other_along(part: Part, garbage: Any) -> None:
    facts = read_capture(capture(**{part.value: garbage}))
    assert set(facts.missing) == {part}
    report.text(judge(capture(**{part.value: garbage}), Question()), findings=True)


def test_a_part_that_nothing_was_said_of_is_missing_too() -> None:
    facts = read_capture(Capture({}, {Part.LEASES: "only root may read them"}))
    assert set(facts.missing) == set(Part) - {Part.DRIFT, Part.STATE, Part.GUESTS, Part.LOGS}
    assert facts.missing[Part.LEASES] == "only root may read them"
    assert judge(Capture(), Question()).exit_code == 3


def test_a_part_that_is_null_is_missing_too() -> None:
    assert set(read_capture(capture(networks=None)).missing) == {Part.NETWORKS}


def test_xml_that_unfolds_itself_or_is_too_deep_is_not_understood() -> None:
    bomb = "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>" + "".join(
        f"<!ENTITY {name} '{f'&{before};' * 10}'>" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    deep = "<network>" + "<ip>" * 100_000 + "</ip>" * 100_000 + "</network>"
    for text in (f"{bomb}]><network><name>&i;</name></network>", deep):
        one = [{**parts()[Part.NETWORKS][0], "live": text}]
        assert set(read_capture(capture(networks=one)).missing) == {Part.NETWORKS}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def _places(data: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to everything within JSON data."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(data, dict):
        inner = list(data.items())
    elif isinstance(data, list):
        inner = list(enumerate(data))
    return [here, *(place for key, each in inner for place in _places(each, (*here, key)))]


_BY_NAME = {part.value: data for part, data in parts().items()}
_PLACES = [each for each in _places(_BY_NAME) if each]


@settings(max_examples=150)
@given(place=st.sampled_from(_PLACES), garbage=_JSON)
def test_whatever_stands_anywhere_in_a_capture_there_is_a_verdict(place: tuple[Any, ...], garbage: Any) -> None:
    changed: Any = {part.value: data for part, data in parts().items()}
    here = changed
    for key in place[:-1]:
        here = here[key]
    here[place[-1]] = garbage
    diagnosis = judge(capture(**changed), Question())
    report.text(diagnosis, findings=True)
    json.dumps(diagnosis.to_json())


def test_rules_that_jump_deeper_than_any_kernel_goes_are_not_known_and_nothing_is_raised() -> None:
    place = {"family": "inet", "table": "site"}
    jumps = [{"rule": {**place, "chain": f"c{at}", "expr": [{"jump": {"target": f"c{at + 1}"}}]}} for at in range(5000)]
    first = {"rule": {**place, "chain": "forward", "expr": [{"jump": {"target": "c0"}}]}}
    rules = [*parts()[Part.FIREWALL]["ruleset"][:3], first, *jumps]
    diagnosis = judge(capture(firewall={**parts()[Part.FIREWALL], "ruleset": rules}), Question())
    assert "forward-drop-policy" in {each.check for each in diagnosis.unseen}
