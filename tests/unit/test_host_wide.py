"""What the host needs for all of its clusters: computed from their networks alone, whoever brought them up."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_how.compile.host import Surroundings, compile_host
from ai_how.compile.zones import reverse_zones
from ai_how.config.terms import DnsMode, HostResolver, Protocol
from ai_how.errors import HostError
from ai_how.host.ports import Listener, read_listeners
from ai_how.resources.base import Kind, Resource
from ai_how.resources.firewall import ClusterRules, FirewallTable
from ai_how.resources.network import Forward, Reservation, VirtualNetwork
from ai_how.resources.policy import read_policy, write_policy
from ai_how.resources.resolver import ResolverRoute
from ai_how.resources.route import HostRoute
from ai_how.resources.servers import Servers
from ai_how.spec.policy import Discovery, Firewall, Policy, Port, Route, Tls


def network(name: str, number: int, mode: DnsMode, **fields: object) -> VirtualNetwork:
    subnet = IPv4Network(f"10.{number}.0.0/24")
    made = VirtualNetwork(
        name=f"{name}-network",
        cluster=name,
        dns_mode=mode,
        forward=Forward.ROUTE if mode in (DnsMode.SHARED_DNS, DnsMode.ROUTED) else Forward.NAT,
        bridge=f"br-{name}",
        mac="52:54:00:00:00:01",
        mtu=None,
        domain=f"{name}.internal",
        subnet=subnet,
        gateway=subnet[1],
        dhcp_ranges=(),
        reservations=(),
        dns_hosts=(),
        forwarders=(),
        dnsmasq_options=(),
        active=True,
        autostart=True,
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def of_kind(resources: tuple[Resource, ...], kind: Kind) -> list[Resource]:
    return [each for each in resources if each.kind is kind]


def rules(resources: tuple[Resource, ...]) -> dict[str, ClusterRules]:
    [table] = of_kind(resources, Kind.FIREWALL)
    assert isinstance(table, FirewallTable)
    return {each.cluster: each for each in table.clusters}


def test_a_host_without_clusters_of_ours_needs_nothing() -> None:
    stranger = network("default", 1, DnsMode.ISOLATED, cluster="")
    assert compile_host([stranger], Surroundings(uplinks=("eth0",))) == ()


def test_a_cluster_that_wants_no_rules_changes_nothing_outside_libvirt() -> None:
    bare = network("bare", 1, DnsMode.ISOLATED, policy=Policy(firewall=Firewall(enabled=False)))
    assert compile_host([bare], Surroundings()) == ()
    beside = compile_host([bare, network("a", 2, DnsMode.ISOLATED)], Surroundings())
    assert set(rules(beside)) == {"a"}


@pytest.mark.parametrize("mode", DnsMode)
@pytest.mark.parametrize("other", DnsMode)
def test_clusters_are_peers_where_both_are_shared_dns_or_both_are_routed(mode: DnsMode, other: DnsMode) -> None:
    social = mode is other and mode in (DnsMode.SHARED_DNS, DnsMode.ROUTED)
    found = compile_host([network("a", 1, mode), network("b", 2, other)], Surroundings())
    assert rules(found)["a"].peers == (("br-b",) if social else ())
    assert rules(found)["b"].peers == (("br-a",) if social else ())
    lines = {each.network: each.lines for each in found if isinstance(each, Servers)}
    # Others' zones are nobody's: what is asked about them stays on the host.
    gateway = "10.2.0.1" if social else ""
    zones = [each for each in lines["a-network"] if "/consul/" not in each]
    assert zones == [f"server=/0.2.10.in-addr.arpa/{gateway}", f"server=/b.internal/{gateway}"]


def test_a_mode_is_a_matter_of_files_that_dnsmasq_reads_again() -> None:
    of_consul = Policy(discovery=Discovery(service_name="a", address="http://192.0.2.7:8500", dns_port=53))

    def servers(mode: DnsMode, **fields: object) -> Servers:
        [found] = of_kind(compile_host([network("a", 1, mode, **fields)], Surroundings()), Kind.SERVERS)
        assert isinstance(found, Servers)
        return found

    outside = servers(DnsMode.ISOLATED, upstream=("9.9.9.9", "8.8.8.8"))
    assert outside == Servers("a-network", ("server=8.8.8.8", "server=9.9.9.9"))
    assert servers(DnsMode.SERVICE_DISCOVERY, policy=of_consul).lines == ("server=/consul/192.0.2.7#53",)
    told = servers(DnsMode.ROUTED, dns_servers=("8.8.8.8", "1.1.1.1"))
    assert told == Servers("a-network", (), ("option:dns-server,8.8.8.8,1.1.1.1",))


def test_a_stopped_cluster_is_nobodys_peer_and_keeps_its_rules() -> None:
    asleep = network("b", 2, DnsMode.SHARED_DNS, active=False, autostart=False)
    found = compile_host([network("a", 1, DnsMode.SHARED_DNS), asleep], Surroundings(resolver=HostResolver.DNSMASQ))
    assert rules(found)["a"].peers == ()
    assert rules(found)["b"].subnet == asleep.subnet
    assert [each.network for each in found if isinstance(each, ResolverRoute)] == ["a-network"]


def test_a_network_that_somebody_stopped_stays_a_peer_because_it_starts_again() -> None:
    struck = network("b", 2, DnsMode.SHARED_DNS, active=False, autostart=True)
    found = compile_host([network("a", 1, DnsMode.SHARED_DNS), struck], Surroundings())
    assert rules(found)["a"].peers == ("br-b",)


def test_what_leaves_is_masqueraded_unless_that_is_switched_off() -> None:
    found = rules(
        compile_host(
            [
                # libvirt does it, too; ours is there when its rules were flushed.
                network("nat", 1, DnsMode.ISOLATED),
                network("open", 2, DnsMode.ISOLATED, forward=Forward.ROUTE),
                network("routed", 3, DnsMode.ROUTED),
                network("bare", 4, DnsMode.ROUTED, policy=Policy(nat=False)),
            ],
            Surroundings(),
        )
    )
    assert {name for name, each in found.items() if each.masquerade} == {"nat", "open", "routed"}


def test_declared_routes_are_made_where_they_have_a_router_and_may_open_connections() -> None:
    outside = Route(IPv4Network("10.50.0.0/16"), IPv4Address("203.0.113.9"))
    inside = Route(IPv4Network("10.60.0.0/16"), IPv4Address("10.1.0.5"))
    known = Route(IPv4Network("10.70.0.0/16"))
    found = compile_host(
        [network("a", 1, DnsMode.ROUTED, policy=Policy(routes=(outside, inside, known)))], Surroundings()
    )
    assert [each for each in found if isinstance(each, HostRoute)] == [
        HostRoute(outside.to, IPv4Address("203.0.113.9"), ""),
        HostRoute(inside.to, IPv4Address("10.1.0.5"), "a-network"),
    ]
    assert rules(found)["a"].direct == rules(found)["a"].allow_from == (outside.to, inside.to, known.to)


@pytest.mark.parametrize(
    ("wish", "there", "manager"),
    [
        (HostResolver.AUTO, HostResolver.SYSTEMD_RESOLVED, HostResolver.SYSTEMD_RESOLVED),
        (HostResolver.AUTO, HostResolver.NONE, None),
        (HostResolver.NONE, HostResolver.SYSTEMD_RESOLVED, None),
        (HostResolver.DNSMASQ, HostResolver.NONE, HostResolver.DNSMASQ),
    ],
)
def test_the_host_is_told_of_shared_names_by_what_resolves_there_or_as_configured(
    wish: HostResolver, there: HostResolver, manager: HostResolver | None
) -> None:
    found = compile_host(
        [network("a", 1, DnsMode.SHARED_DNS, policy=Policy(host_resolver=wish)), network("b", 2, DnsMode.ROUTED)],
        Surroundings(resolver=there),
    )
    routes = [each for each in found if isinstance(each, ResolverRoute)]
    assert [each.manager for each in routes] == ([] if manager is None else [manager])
    for each in routes:
        assert each.zones == ("0.1.10.in-addr.arpa", "a.internal")


def test_what_comes_out_does_not_depend_on_the_order_of_networks() -> None:
    three = [network(name, i, DnsMode.SHARED_DNS) for i, name in enumerate("cab", 1)]
    assert compile_host(three, Surroundings()) == compile_host(three[::-1], Surroundings())


@given(st.integers(8, 29), st.integers(0, 2**32 - 1))
def test_reverse_zones_hold_every_address_of_the_subnet_and_nothing_of_others(prefix: int, base: int) -> None:
    subnet = IPv4Network((base, prefix), strict=False)
    zones = reverse_zones(subnet)
    assert len(zones) == len(set(zones)) <= 128
    for address in (subnet[0], subnet[-1], subnet[subnet.num_addresses // 2]):
        assert sum(f".{address.reverse_pointer}".endswith(f".{zone}") for zone in zones) == 1
    for outside in (int(subnet[0]) - 1, int(subnet[-1]) + 1):
        if 0 <= outside < 2**32:
            assert not any(f".{IPv4Address(outside).reverse_pointer}".endswith(f".{zone}") for zone in zones)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "null", '{"nat": 1}', '{"nat":true,"routes":[{"to":"x"}]}'])
def test_a_mark_that_cannot_be_understood_is_the_default_policy(text: str | None) -> None:
    assert read_policy(text) == Policy()
    assert read_policy(write_policy(Policy())) == Policy()


#: Cut from `ss -H -l -n -t -u -p` of iproute2 6.1 on Debian 12.
SS = """\
udp   UNCONN 0      0      127.0.0.53%lo:53         0.0.0.0:*    users:(("systemd-resolve",pid=401,fd=13))
udp   UNCONN 0      0          0.0.0.0%br-lab:67    0.0.0.0:*    users:(("dnsmasq",pid=812,fd=3))
udp   UNCONN 0      0      [fe80::1]%eth0:546          [::]:*    users:(("systemd-network",pid=300,fd=20))
tcp   LISTEN 0      4096         0.0.0.0:8080       0.0.0.0:*    users:(("python3",pid=977,fd=3),("sh",pid=978,fd=3))
tcp   LISTEN 0      128             [::]:22            [::]:*
tcp   LISTEN 0      128            [::1]:631           [::]:*    users:(("cupsd",pid=7,fd=3))
tcp   LISTEN 0      4096               *:9090             *:*    users:(("prometheus",pid=3,fd=3))
"""


def test_listeners_are_those_that_somebody_outside_could_reach() -> None:
    tcp, udp = Protocol.TCP, Protocol.UDP
    assert read_listeners(SS) == (
        Listener(Port(udp, 67), "dnsmasq, process 812"),
        Listener(Port(udp, 546), "systemd-network, process 300"),
        Listener(Port(tcp, 8080), "python3, process 977"),
        Listener(Port(tcp, 22), ""),
        Listener(Port(tcp, 9090), "prometheus, process 3"),
    )
    assert read_listeners(SS, ("br-lab", "10.1.0.1")) == read_listeners(SS)[1:]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bridge", "br-a\nCOMMIT"),
        ("bridge", "br-a -j ACCEPT"),
        ("bridge", "--help"),
        ("bridge", "../../a"),
        ("bridge", "br-a\n"),
        ("bridge", ""),
        ("domain", "a.internal\ndhcp-script=/tmp/a"),
        ("domain", "a.internal/8.8.8.8"),
        ("domain", "a internal"),
        ("domain", ""),
        ("cluster", "a\n"),
        ("name", "default"),
        ("name", "../a-network"),
        ("subnet", IPv4Network("0.0.0.0/0")),
        ("subnet", IPv4Network("10.1.0.1/32")),
    ],
)
def test_what_somebody_edited_into_a_network_never_reaches_files_and_rules_of_the_host(
    field: str, value: object
) -> None:
    as_made = [network("a", 1, DnsMode.SHARED_DNS), network("b", 2, DnsMode.SHARED_DNS)]
    assert compile_host(as_made, Surroundings())
    edited = replace(as_made[0], **{field: value})  # type: ignore[arg-type]
    with pytest.raises(HostError, match=f"its {field} is ") as caught:
        compile_host([edited, as_made[1]], Surroundings())
    assert "\n" not in caught.value.what + str(caught.value.why)


def test_a_reservation_by_name_alone_is_no_machine_of_the_firewalls() -> None:
    by_name = Reservation(IPv4Address("10.1.0.9"), "", "friend")
    by_mac = Reservation(IPv4Address("10.1.0.10"), "52:54:00:00:00:10", "a-controller")
    found = rules(compile_host([network("a", 1, DnsMode.ISOLATED, reservations=(by_name, by_mac))], Surroundings()))
    assert found["a"].macs == (by_mac.mac,)


@pytest.mark.parametrize(
    "edit",
    [
        {"address": 5},
        {"address": "http://10.0.0.1:99999"},
        {"address": "http://10.0.0.1"},
        {"address": "http://example.com:8500"},
        {"service_name": None},
        {"token_file": ["/etc/token"]},
        {"tags": [1]},
        {"dns_port": 0},
        {"check": {"port": "ssh"}},
        {"tls": {"ca_file": 1}},
    ],
)
def test_a_mark_whose_service_discovery_makes_no_sense_counts_as_none(edit: dict[str, object]) -> None:
    policy = Policy(discovery=Discovery("hpc", address="http://10.0.0.1:8500", tls=Tls(ca_file="/etc/ca.pem")))
    written = json.loads(write_policy(policy))
    assert read_policy(json.dumps(written)) == policy
    written["discovery"] |= edit
    assert read_policy(json.dumps(written)) == Policy()
