"""From a document to clusters: the documented dictionaries, choosing a cluster, and what the host remembers."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from ai_how.config.load import load_file, load_mapping
from ai_how.config.terms import DnsMode, MacAddress
from ai_how.errors import ConfigurationError, Severity, UsageError
from ai_how.spec.known import Known
from ai_how.spec.node import Role
from ai_how.spec.resolve import resolve, resolve_all, validate
from ai_how.spec.subnets import free_subnet, prefix_for

EXAMPLES = Path(__file__).parents[2] / "examples"

NETWORK = {"subnet": "192.168.100.0/24", "bridge": "br-hpc-cluster"}
ADVANCED = {
    **NETWORK,
    "gateway_ip": "192.168.100.1",
    "dhcp_start": "192.168.100.10",
    "dhcp_end": "192.168.100.254",
    "dns_servers": ["192.168.100.1", "8.8.8.8", "1.1.1.1"],
    "dns_mode": "isolated",
}
STATIC = {
    **ADVANCED,
    "static_leases": {
        "hpc-cluster-controller": "192.168.100.2",
        "hpc-cluster-compute-01": "192.168.100.10",
        "hpc-cluster-compute-02": "192.168.100.11",
    },
    "vm_macs": {
        "hpc-cluster-controller": "52:54:00:12:34:01",
        "hpc-cluster-compute-01": "52:54:00:12:34:02",
        "hpc-cluster-compute-02": "52:54:00:12:34:03",
    },
}
CONTROLLER = {"cpu_cores": 4, "memory_gb": 8, "disk_gb": 50}
COMPUTE = {"cpu_cores": 8, "memory_gb": 16, "disk_gb": 100}


def config(network: dict[str, Any] = NETWORK, nodes: Any = (COMPUTE,), **cluster: Any) -> dict[str, Any]:
    """The documented dictionary."""
    return {
        "clusters": {
            "hpc": {
                "name": "hpc-cluster",
                "base_image_path": "/path/to/base-image.qcow2",
                "network": network,
                "controller": CONTROLLER,
                "compute_nodes": list(nodes) if isinstance(nodes, tuple) else nodes,
                **cluster,
            }
        }
    }


DOCUMENTED = {
    "basic": config(),
    "advanced": config(
        ADVANCED,
        ({**COMPUTE, "ip": "192.168.100.10"},),
        controller={**CONTROLLER, "ip_address": "192.168.100.2"},
    ),
    "static-ip": config(STATIC, (COMPUTE, COMPUTE)),
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_documented_dictionary_and_its_example_file_mean_the_same(name: str) -> None:
    assert resolve(load_mapping(DOCUMENTED[name])) == resolve(load_file(EXAMPLES / f"{name}.yaml"))


def test_the_basic_cluster_has_the_documented_defaults() -> None:
    cluster = resolve(load_mapping(DOCUMENTED["basic"]))
    network = cluster.network
    assert (network.name, network.domain) == ("hpc-cluster-network", "hpc-cluster.internal")
    assert str(network.gateway) == "192.168.100.1"
    assert [str(network.dhcp_start), str(network.dhcp_end)] == ["192.168.100.10", "192.168.100.254"]
    assert [str(server) for server in network.dns_servers] == ["192.168.100.1", "8.8.8.8", "1.1.1.1"]
    assert network.gateway_answers_dns
    assert [str(server) for server in network.forwarders] == ["8.8.8.8", "1.1.1.1"]
    assert network.dns_mode is DnsMode.ISOLATED
    assert [(node.name, node.role, str(node.ip)) for node in cluster.nodes] == [
        ("hpc-cluster-controller", Role.CONTROLLER, "192.168.100.2"),
        ("hpc-cluster-compute-01", Role.COMPUTE, "192.168.100.10"),
    ]
    controller = cluster.nodes[0]
    assert (controller.vcpus, controller.memory_mib, controller.disk_bytes) == (4, 8192, 50 * 1024**3)


def test_the_static_cluster_has_exactly_the_documented_addresses_and_macs() -> None:
    nodes = resolve(load_mapping(DOCUMENTED["static-ip"])).nodes
    network = DOCUMENTED["static-ip"]["clusters"]["hpc"]["network"]
    assert {node.name: str(node.ip) for node in nodes} == network["static_leases"]
    assert {node.name: node.mac for node in nodes} == network["vm_macs"]


def test_only_the_basic_form_is_advised() -> None:
    assert {name: len(validate(load_mapping(data))) for name, data in DOCUMENTED.items()} == {
        "basic": 2,
        "advanced": 0,
        "static-ip": 0,
    }


def test_the_configuration_survives_a_journey_through_json() -> None:
    data = json.loads(json.dumps(DOCUMENTED["static-ip"]))
    assert resolve(load_mapping(data)) == resolve(load_mapping(DOCUMENTED["static-ip"]))


def test_a_cluster_needs_no_controller_and_no_compute_nodes() -> None:
    data = config()
    del data["clusters"]["hpc"]["controller"]
    assert [node.role for node in resolve(load_mapping(data)).nodes] == [Role.COMPUTE]
    del data["clusters"]["hpc"]["compute_nodes"]
    assert resolve(load_mapping(data)).nodes == ()


def test_a_group_means_the_same_as_a_list_of_so_many() -> None:
    group = config(nodes={"count": 12, **COMPUTE})
    listed = config(nodes=[COMPUTE] * 12)
    assert resolve(load_mapping(group)) == resolve(load_mapping(listed))


def test_static_leases_reach_into_a_group() -> None:
    leases = {"hpc-cluster-compute-02": "192.168.100.99"}
    cluster = resolve(load_mapping(config({**NETWORK, "static_leases": leases}, {"count": 3, **COMPUTE})))
    assert [str(node.ip) for node in cluster.nodes[1:]] == ["192.168.100.10", "192.168.100.99", "192.168.100.12"]


# ---- choosing ---------------------------------------------------------------------------------------------------


def two(first: str = "hpc") -> dict[str, Any]:
    hpc = config()["clusters"]["hpc"]
    network = {"subnet": "10.0.0.0/24", "bridge": "br-two"}
    return {"clusters": {first: hpc, "two": {**hpc, "name": "second", "network": network}}}


def test_hpc_is_chosen_by_default_and_others_by_key_or_name() -> None:
    document = load_mapping(two())
    assert resolve(document).key == "hpc"
    assert resolve(document, "two").key == "two"
    assert resolve(document, "second").key == "two"
    assert [cluster.key for cluster in resolve_all(document)] == ["hpc", "two"]


def test_the_only_cluster_is_chosen_whatever_its_key() -> None:
    data = {"clusters": {"lab": config()["clusters"]["hpc"]}}
    assert resolve(load_mapping(data)).key == "lab"


def test_without_hpc_one_of_several_must_be_named() -> None:
    with pytest.raises(UsageError, match="no cluster was chosen: the configuration has one, two"):
        resolve(load_mapping(two("one")))


def test_an_unknown_cluster_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        resolve(load_mapping(two()), "secnd")
    assert not isinstance(caught.value, ConfigurationError)
    assert caught.value.remedy == "did you mean second?"


# ---- memory -----------------------------------------------------------------------------------------------------


def named(*names: str) -> dict[str, Any]:
    return config(nodes=tuple({**COMPUTE, "name": name} for name in names))


def memory_of(data: dict[str, Any], known: Known | None = None) -> Known:
    """What a host remembers after this configuration was brought up."""
    nodes = resolve(load_mapping(data), known=known or Known()).nodes
    return Known({n.name: n.ip for n in nodes if n.ip}, {n.name: n.mac for n in nodes})


def addresses(data: dict[str, Any], known: Known) -> dict[str, str]:
    return {node.name: str(node.ip) for node in resolve(load_mapping(data), known=known).nodes}


def test_a_named_node_keeps_its_address_and_mac_when_others_leave_the_list() -> None:
    memory = memory_of(named("red", "green", "blue"))
    after = resolve(load_mapping(named("white", "blue")), known=memory).nodes
    assert {n.name: (n.ip, n.mac) for n in after if n.name == "blue"} == {
        "blue": (IPv4Address("192.168.100.12"), memory.macs["blue"])
    }
    assert addresses(named("white", "blue"), memory)["white"] == "192.168.100.10"


def test_an_address_given_to_one_node_is_not_taken_from_another_silently() -> None:
    memory = memory_of(named("red", "green"))
    data = named("red", "green")
    data["clusters"]["hpc"]["compute_nodes"][0]["ip"] = "192.168.100.11"
    with pytest.raises(ConfigurationError, match=r"192\.168\.100\.11 is given to red, and green has it on the host"):
        resolve(load_mapping(data), known=memory)


def test_two_nodes_may_swap_addresses_when_both_are_given() -> None:
    memory = memory_of(named("red", "green"))
    data = named("red", "green")
    data["clusters"]["hpc"]["compute_nodes"][0]["ip"] = "192.168.100.11"
    data["clusters"]["hpc"]["compute_nodes"][1]["ip"] = "192.168.100.10"
    assert addresses(data, memory)["red"] == "192.168.100.11"


def test_a_node_that_left_does_not_hold_its_address() -> None:
    memory = memory_of(named("red", "green"))
    data = named("red")
    data["clusters"]["hpc"]["compute_nodes"][0]["ip"] = "192.168.100.11"
    assert addresses(data, memory)["red"] == "192.168.100.11"


def test_a_known_mac_is_kept() -> None:
    mac = MacAddress("52:54:00:00:00:99")
    cluster = resolve(load_mapping(config()), known=Known(macs={"hpc-cluster-controller": mac}))
    assert cluster.nodes[0].mac == mac


def auto(key: str = "hpc", bridge: str = "br-hpc") -> dict[str, Any]:
    return {**config({"subnet": "auto", "bridge": bridge}, name=f"{key}-cluster")["clusters"]["hpc"]}


def test_auto_takes_a_free_subnet_and_keeps_the_one_it_has() -> None:
    document = load_mapping({"clusters": {"hpc": auto()}})
    assert str(resolve(document).network.subnet) == "192.168.100.0/24"
    taken = ((IPv4Network("192.168.100.0/23"), "another network"),)
    assert str(resolve(document, known=Known(taken=taken)).network.subnet) == "192.168.102.0/24"
    mine = Known(subnet=IPv4Network("10.99.0.0/24"), taken=taken)
    assert str(resolve(document, known=mine).network.subnet) == "10.99.0.0/24"
    assert str(resolve_all(document, known=mine)[0].network.subnet) == "10.99.0.0/24"


def test_a_remembered_subnet_is_only_for_the_cluster_that_has_it() -> None:
    document = load_mapping({"clusters": {"a": auto("a", "br-a"), "b": auto("b", "br-b")}})
    mine = Known(subnet=IPv4Network("192.168.100.0/24"))
    assert str(resolve(document, "b", known=mine).network.subnet) == "192.168.100.0/24"
    both = resolve_all(document, known={"b": mine})
    assert [str(cluster.network.subnet) for cluster in both] == ["192.168.101.0/24", "192.168.100.0/24"]


def test_auto_is_as_large_as_the_nodes_need() -> None:
    data = {"clusters": {"hpc": {**auto(), "compute_nodes": {"count": 1000, **COMPUTE}}}}
    assert resolve(load_mapping(data)).network.subnet.prefixlen == 22


@pytest.mark.parametrize(("nodes", "prefix"), [(0, 24), (244, 24), (245, 23), (10_000, 18), (10**6, 12)])
def test_the_smallest_subnet_for_so_many_nodes(nodes: int, prefix: int) -> None:
    assert prefix_for(nodes) == prefix


def test_free_subnets_pass_over_every_taken_one_and_end() -> None:
    taken = [IPv4Network("192.168.100.0/24"), IPv4Network("192.168.101.128/25"), IPv4Network("0.0.0.0/32")]
    assert free_subnet(24, taken) == IPv4Network("192.168.102.0/24")
    assert free_subnet(24, [IPv4Network("192.168.0.0/16")]) == IPv4Network("10.0.0.0/24")
    assert free_subnet(16, [IPv4Network("10.0.0.0/9")]) == IPv4Network("10.128.0.0/16")
    assert free_subnet(24, [IPv4Network("0.0.0.0/0")]) is None


def test_an_overlap_with_the_host_names_the_owner() -> None:
    known = Known(taken=((IPv4Network("192.168.0.0/16"), "route via eth0"),))
    (error,) = [p for p in validate(load_mapping(config()), known=known) if p.severity is Severity.ERROR]
    assert "in use by route via eth0" in error.message
    assert error.hint == "write a free subnet, for example 10.0.0.0/24"


def test_ten_thousand_nodes_in_a_group_have_unique_addresses_and_macs() -> None:
    network = {"subnet": "10.0.0.0/16", "bridge": "br-hpc"}
    nodes = resolve(load_mapping(config(network, {"count": 10_000, **COMPUTE}))).nodes
    assert len({node.ip for node in nodes}) == len({node.mac for node in nodes}) == 10_001
    assert nodes[-1].name == "hpc-cluster-compute-10000"
