"""Resources: XML in both directions, every field of it, and golden documents for clusters that are documented.

`AI_HOW_REGENERATE=1 pytest tests/unit/test_resources.py` writes the documents anew; read the difference before
committing it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_how.compile.cluster import HostFacts, compile_cluster
from ai_how.config.load import load_file
from ai_how.config.terms import Egress, HostResolver, Protocol
from ai_how.plan.plan import make_plan
from ai_how.resources import xml
from ai_how.resources.base import Impact, Kind, Resource, changes, identity_uuid
from ai_how.resources.domain import Domain, read_domain
from ai_how.resources.network import (
    DnsHost,
    Forward,
    Range,
    Reservation,
    VirtualNetwork,
    as_it_runs,
    merged,
    range_changes,
    read_dns_hosts,
    read_network,
    read_reservations,
)
from ai_how.resources.pool import Pool, read_pool
from ai_how.resources.seed import Seed, SeedContent, node_content
from ai_how.resources.volume import Volume, read_volume
from ai_how.spec.node import Role
from ai_how.spec.policy import Check, Discovery, Exposure, Firewall, Policy, Port, Route, Tls
from ai_how.spec.resolve import resolve_all

CASES = Path(__file__).parents[1] / "cases"
GOLDEN = CASES / "resources"

DIRECTORY = PurePosixPath("/var/lib/libvirt/images/ai-how-lab")

POOL = Pool("ai-how-lab", DIRECTORY, active=True)
VOLUME = Volume("ai-how-lab", "lab-controller.qcow2", 50 * 2**30, PurePosixPath("/images/base.qcow2"))
NETWORK = VirtualNetwork(
    name="lab-network",
    cluster="lab",
    dns_mode="isolated",
    forward=Forward.NAT,
    bridge="br-lab",
    mac="52:54:00:00:00:01",
    mtu=None,
    domain="lab.internal",
    subnet=IPv4Network("10.0.0.0/24"),
    gateway=IPv4Address("10.0.0.1"),
    dhcp_ranges=((IPv4Address("10.0.0.10"), IPv4Address("10.0.0.254")),),
    reservations=(Reservation(IPv4Address("10.0.0.2"), "52:54:00:00:00:02", "lab-controller"),),
    dns_hosts=(DnsHost(IPv4Address("10.0.0.2"), ("lab-controller",)),),
    forwarders=("8.8.8.8",),
    dnsmasq_options=("no-ping",),
    active=True,
    autostart=True,
)
DOMAIN = Domain(
    name="lab-controller",
    cluster="lab",
    role=Role.CONTROLLER,
    kvm=False,
    vcpus=4,
    memory_kib=8 * 2**20,
    disk=DIRECTORY / "lab-controller.qcow2",
    seed=None,
    network="lab-network",
    mac="52:54:00:00:00:02",
    graphics=False,
    running=True,
)

#: Another value for every field of every kind: a field that is added and not listed here fails the test below.
#: One with nothing left as it is by default.
POLICY = Policy(
    nat=False,
    routes=(Route(IPv4Network("10.50.0.0/16")), Route(IPv4Network("10.60.0.0/16"), IPv4Address("203.0.113.9"))),
    firewall=Firewall(
        enabled=False,
        allow_host_ports=(Port(Protocol.TCP, 22), Port(Protocol.UDP, 123)),
        block_networks=(IPv4Network("10.99.0.0/16"),),
        egress=Egress.DENY,
        allow_networks=(IPv4Network("198.51.100.80/32"),),
        expose=(Exposure(Port(Protocol.TCP, 8080), "lab-controller", IPv4Address("10.0.0.2"), 80),),
        allow_from=(IPv4Network("203.0.113.0/24"),),
    ),
    discovery=Discovery(
        service_name="lab",
        address="https://127.0.0.1:8501",
        dns_port=8601,
        datacenter="dc2",
        token_file="/etc/token",  # noqa: S106 - a path
        tls=Tls("/ca.pem", "/cert.pem", "/key.pem", "consul.test"),
        tags=("gpu",),
        check=Check(80, 5, 2),
        required=False,
    ),
    host_resolver=HostResolver.DNSMASQ,
)

OTHERS: dict[Resource, dict[str, Any]] = {
    POOL: {"name": "ai-how-other", "path": PurePosixPath("/elsewhere"), "active": False},
    VOLUME: {
        "pool": "ai-how-other",
        "name": "lab-compute-01.qcow2",
        "capacity": 7,
        "backing": PurePosixPath('/images/a & b <c> "d".qcow2'),
    },
    NETWORK: {
        "name": "other-network",
        "cluster": "other",
        "dns_mode": "routed",
        "forward": Forward.ROUTE,
        "bridge": "br-other",
        "mac": "52:54:00:00:00:09",
        "mtu": 9000,
        "domain": "other.internal",
        "subnet": IPv4Network("10.0.0.0/16"),
        "gateway": IPv4Address("10.0.0.254"),
        "dhcp_ranges": (
            (IPv4Address("10.0.0.2"), IPv4Address("10.0.0.2")),
            (IPv4Address("10.0.0.10"), IPv4Address("10.0.0.12")),
        ),
        "reservations": (
            Reservation(IPv4Address("10.0.0.2"), "52:54:00:00:00:02", "lab-controller"),
            Reservation(IPv4Address("10.0.0.10"), "52:54:00:00:00:03", "lab-compute-01"),
        ),
        "dns_hosts": (DnsHost(IPv4Address("10.0.0.3"), ("one", "two")),),
        "forwarders": ("1.1.1.1", "9.9.9.9"),
        "dnsmasq_options": ("no-hosts", "dhcp-option=option:dns-server,8.8.8.8"),
        "active": False,
        "autostart": False,
        "policy": POLICY,
        "upstream": ("9.9.9.9", "2001:db8::1"),
        "dns_servers": ("8.8.8.8",),
    },
    DOMAIN: {
        "name": "lab-compute-01",
        "cluster": "other",
        "role": Role.COMPUTE,
        "kvm": True,
        "vcpus": 1,
        "memory_kib": 131072,
        "disk": DIRECTORY / "other.qcow2",
        "seed": DIRECTORY / "lab-controller-0123456789ab.iso",
        "network": "other-network",
        "mac": "52:54:00:00:00:07",
        "graphics": True,
        "running": False,
    },
}

READ: dict[type, Callable[[Any], Any]] = {
    Pool: lambda it: read_pool(it.to_xml(), active=it.active),
    Volume: lambda it: read_volume(it.to_xml(), pool=it.pool),
    VirtualNetwork: lambda it: read_network(it.to_xml(), active=it.active, autostart=it.autostart),
    Domain: lambda it: read_domain(it.to_xml(), running=it.running),
}

#: What a definition cannot say of itself.
SEEN = {(NETWORK, "saved"), (NETWORK, "intact"), (NETWORK, "bridged"), (DOMAIN, "linked"), (DOMAIN, "saved")}

_RANGES = st.tuples(st.integers(0, 30), st.integers(0, 4)).map(
    lambda it: (IPv4Address("10.0.0.0") + it[0], IPv4Address("10.0.0.0") + it[0] + it[1])
)
_WANTED_RANGES = st.lists(_RANGES, min_size=1).map(merged)

EVERY_FIELD = [
    (base, field.name)
    for base in OTHERS
    for field in fields(base)  # type: ignore[arg-type]
    if (base, field.name) not in SEEN
]


@pytest.mark.parametrize(("base", "field"), EVERY_FIELD, ids=lambda part: getattr(part, "kind", part))
def test_every_field_survives_its_xml_and_shows_as_one_change(base: Any, field: str) -> None:
    other = replace(base, **{field: OTHERS[base][field]})
    assert READ[type(base)](other) == other
    found = changes(other, READ[type(base)](base))
    assert [(each.field, each.old, each.new) for each in found] == [(field, getattr(base, field), OTHERS[base][field])]


@pytest.mark.parametrize("base", OTHERS, ids=lambda base: base.kind)
def test_what_is_read_back_does_not_differ(base: Any) -> None:
    assert changes(base, READ[type(base)](base)) == ()


def test_the_last_values_of_optional_fields_survive_too() -> None:
    bare = replace(NETWORK, forward=Forward.NONE, dhcp_ranges=(), reservations=(), dns_hosts=(), forwarders=())
    assert READ[VirtualNetwork](bare) == bare


def test_nodes_in_files_are_read_as_they_were_written() -> None:
    reservations = OTHERS[NETWORK]["reservations"]
    names = (DnsHost(IPv4Address("10.0.0.3"), ("one", "two")),)
    assert read_reservations(each.to_line() for each in reservations) == reservations
    assert read_dns_hosts(each.to_line() for each in names) == names
    for line in ("", "52:54:00:00:00:02", "52:54:00:00:00:02,10.0.0.2,a,b", "52:54:00:00:00:02,10.0.0.x,a"):
        with pytest.raises(ValueError):
            read_reservations([line])


@pytest.mark.parametrize(
    "entry",
    [
        Reservation(IPv4Address("10.0.0.2"), "52:54:00:00:00:02", "a\ndhcp-script=/tmp/a"),
        Reservation(IPv4Address("10.0.0.2"), "52:54:00:00:00:02,set:x", "a"),
        DnsHost(IPv4Address("10.0.0.2"), ("a", "b\n192.0.2.1 c")),
    ],
)
def test_words_that_somebody_edited_are_not_for_files_of_root(entry: Reservation | DnsHost) -> None:
    assert not entry.is_plain
    assert all(each.is_plain for each in NETWORK.reservations)
    assert all(each.is_plain for each in NETWORK.dns_hosts)


def test_what_runs_is_what_libvirt_has_and_what_files_add_under_the_mark_of_the_definition() -> None:
    definition = replace(NETWORK, **OTHERS[NETWORK])
    live = replace(definition, cluster="", dns_mode="isolated", policy=Policy(), upstream=(), dns_servers=())
    assert as_it_runs(live, definition) == definition
    few = replace(live, reservations=definition.reservations[:1], dns_hosts=())
    found = as_it_runs(few, definition, reservations=definition.reservations, dns_hosts=definition.dns_hosts)
    assert found == definition
    assert as_it_runs(few, definition) == replace(
        definition, reservations=definition.reservations[:1], dns_hosts=(), saved=False
    )
    edited = replace(definition, bridge="other")
    assert as_it_runs(live, edited) == replace(definition, saved=False)


@pytest.mark.parametrize("text", ["8.8.8.8\nconf-dir=/tmp", "/evil/", "8.8.8.8 x"])
def test_servers_that_somebody_edited_to_something_else_are_none(text: str) -> None:
    document = xml.parse(replace(NETWORK, upstream=("9.9.9.9",)).to_xml())
    mark = next(each for each in document.iter() if each.get("upstream"))
    mark.set("upstream", text)
    assert read_network(xml.render(document), active=True, autostart=True) == replace(NETWORK, upstream=())


@given(st.lists(_RANGES), _WANTED_RANGES)
def test_a_change_of_ranges_leaves_those_that_are_wanted(live: list[Range], want: tuple[Range, ...]) -> None:
    new, gone = range_changes(live, want)
    left = [each for each in live if each not in gone]
    assert merged([*left, *new]) == want
    assert all(not any(start <= each[0] and each[1] <= end for start, end in want) for each in gone)
    # What is wanted and there is not asked for again.
    held = {number for start, end in left for number in range(int(start), int(end) + 1)}
    assert not held & {number for start, end in new for number in range(int(start), int(end) + 1)}


def test_a_pool_that_grows_at_its_end_is_added_to_once() -> None:
    first, second = IPv4Address("10.0.0.10"), IPv4Address("10.0.0.20")
    assert range_changes([(first, second)], [(first, second + 5)]) == (((second + 1, second + 5),), ())
    assert range_changes([(first, second)], [(first, second)]) == ((), ())


def test_networks_of_others_can_be_read_whatever_they_lack() -> None:
    found = read_network("<network><name>plain</name><forward mode='bridge'/></network>", active=True, autostart=False)
    assert (found.name, found.cluster, found.forward) == ("plain", "", Forward.NONE)
    assert found.subnet.prefixlen == 32
    prefix = read_network(
        "<network><name>p</name><ip address='10.1.0.1' prefix='20'/></network>", active=True, autostart=False
    )
    assert prefix.subnet == IPv4Network("10.1.0.0/20")


def test_identity_follows_from_kind_and_name_alone() -> None:
    # These values are on people's hosts: a change would orphan every cluster there is.
    assert str(identity_uuid(Kind.NETWORK, "hpc-cluster-network")) == "4e017ab7-9605-594a-b029-f66e91304f49"
    assert identity_uuid(Kind.DOMAIN, "a") != identity_uuid(Kind.POOL, "a") != identity_uuid(Kind.POOL, "b")


def test_live_changes_are_those_that_libvirt_can_make_under_running_machines() -> None:
    live = {each.name for each in fields(VirtualNetwork) if each.metadata.get("impact") is Impact.LIVE}
    mark = {"cluster", "dns_mode", "policy", "upstream", "dns_servers"}
    assert live == {*mark, "dhcp_ranges", "reservations", "dns_hosts", "active", "autostart", "saved", "intact"}
    assert {each.name for each in fields(Volume) if "impact" not in each.metadata} == {"pool", "name"}


def test_a_seed_is_named_by_its_content_so_that_new_content_is_a_new_seed() -> None:
    one, two = node_content("n1", "n1.lab.internal"), node_content("n1", "n1.other.internal")
    assert one.digest != two.digest
    assert one.digest == SeedContent(one.meta_data, one.user_data).digest
    assert len(one.digest) == 12
    assert SeedContent("ab", "c").digest != SeedContent("a", "bc").digest
    assert Seed("pool", "n1.iso", one) == Seed("pool", "n1.iso")


def test_values_cannot_break_out_of_their_element() -> None:
    nasty = "</name><evil a='1'/>&amp;"
    document = xml.root("x")
    xml.child(document, "name", nasty, title='"><evil/>')
    read = xml.parse(xml.render(document))
    assert [each.tag for each in read.iter()] == ["x", "name"]
    assert read.findtext("name") == nasty


def test_xml_of_libvirt_is_read_without_entities() -> None:
    read = xml.parse("<!DOCTYPE x [<!ENTITY e 'boo'>]><x><name>&e;</name></x>")
    assert "boo" not in (read.findtext("name") or "")


# Whole clusters


def compiled(case: str, *, kvm: bool = True) -> tuple[Resource, ...]:
    return compile_cluster(resolve_all(load_file(CASES / case / "config.yaml"))[0], HostFacts(kvm=kvm))


def golden(path: Path, text: str) -> None:
    if os.environ.get("AI_HOW_REGENERATE"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("case", ["documented-static-ip", "documented-basic", "small-subnet", "gateway-at-the-end"])
def test_a_case_compiles_to_its_documents_and_its_plan(case: str) -> None:
    resources = compiled(case)
    for kind in (Kind.POOL, Kind.NETWORK, Kind.VOLUME, Kind.DOMAIN):
        first: Any = next(each for each in resources if each.kind is kind)
        golden(GOLDEN / case / f"{kind}.xml", first.to_xml())
    plan = make_plan(resources, ())
    lines = [
        f"{number}. {step}" + (f" (after {', '.join(str(each + 1) for each in before)})" if before else "")
        for number, (step, before) in enumerate(zip(plan.steps, plan.after, strict=True), start=1)
    ]
    golden(GOLDEN / case / "plan.txt", "\n".join(lines) + "\n")


def test_emulated_machines_take_no_host_cpu_and_a_small_cache() -> None:
    machines = [
        next(each for each in compiled("documented-basic", kvm=kvm) if isinstance(each, Domain)).to_xml()
        for kvm in (True, False)
    ]
    assert "host-passthrough" in machines[0]
    assert "tb-cache" not in machines[0]
    assert 'type="qemu"' in machines[1]
    assert "host-passthrough" not in machines[1]
    assert '<tb-cache unit="MiB">32</tb-cache>' in machines[1]


def test_a_cluster_at_rest_is_the_same_but_off() -> None:
    cluster = resolve_all(load_file(CASES / "documented-basic" / "config.yaml"))[0]
    on = compile_cluster(cluster, HostFacts(kvm=True))
    off = compile_cluster(cluster, HostFacts(kvm=True), running=False)
    differing = {each.field for old, new in zip(on, off, strict=True) for each in changes(new, old)}
    assert differing == {"running", "active", "autostart"}
