"""What is said to Consul and understood of it, as data."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from ai_how.compile.cluster import compile_network
from ai_how.compile.dns_modes.service_discovery import registrations
from ai_how.compile.host import Surroundings, compile_host
from ai_how.config.load import load_mapping
from ai_how.plan.plan import make_plan
from ai_how.providers.registration import command
from ai_how.resources.base import Impact, Kind, ResourceId
from ai_how.resources.registration import NO_CHECK, Registration, dns_address, read_registrations
from ai_how.resources.servers import Servers
from ai_how.spec.policy import Check, Discovery, Firewall, Tls
from ai_how.spec.resolve import resolve

PLACE = "/etc/token"
DISCOVERY = Discovery("hpc", "http://127.0.0.1:8500")
WANTED = Registration(
    "n1", "c", "c-network", DISCOVERY, "hpc", IPv4Address("10.0.0.2"), ("gpu", "compute", "n1"), Check(22, 3, 1)
)

#: What Consul 1.8.7 answers for it (agent/services, agent/checks), with a service of somebody's beside it.
SERVICES: dict[str, Any] = {
    "ai-how:c:n1": {
        "ID": "ai-how:c:n1",
        "Service": "hpc",
        "Tags": ["gpu", "compute", "n1"],
        "Meta": {"ai-how-cluster": "c", "ai-how-interval": "3", "ai-how-node": "n1", "ai-how-timeout": "1"},
        "Port": 22,
        "Address": "10.0.0.2",
        "TaggedAddresses": {"lan_ipv4": {"Address": "10.0.0.2", "Port": 22}},
        "Weights": {"Passing": 1, "Warning": 1},
        "EnableTagOverride": False,
    },
    "web": {"ID": "web", "Service": "web", "Tags": None, "Meta": None, "Port": 80, "Address": ""},
}
CHECKS: dict[str, Any] = {
    "ai-how:c:n1": {
        "Node": "lab",
        "CheckID": "ai-how:c:n1",
        "Name": "n1 takes TCP connections at 10.0.0.2:22",
        "Status": "critical",
        "ServiceID": "ai-how:c:n1",
        "Type": "tcp",
        "Definition": {},
    }
}


def read(services: dict[str, Any], checks: dict[str, Any]) -> list[Registration]:
    return read_registrations(services, checks, cluster="c", network="c-network", discovery=DISCOVERY)


def test_what_is_registered_reads_back_as_it_was_wanted() -> None:
    assert read(SERVICES, CHECKS) == [WANTED]
    said = WANTED.to_json()
    assert {"ID", "Name", "Address", "Port", "Tags", "Meta", "Check"} == set(said)
    kept = SERVICES["ai-how:c:n1"]
    assert (said["ID"], said["Name"]) == (kept["ID"], kept["Service"])
    assert all(said[field] == kept[field] for field in ("Address", "Port", "Tags", "Meta"))
    assert said["Check"] == {
        "CheckID": "ai-how:c:n1",
        "Name": "n1 takes TCP connections at 10.0.0.2:22",
        "TCP": "10.0.0.2:22",
        "Interval": "3s",
        "Timeout": "1s",
    }


def test_services_of_other_clusters_and_of_nobody_are_left_out() -> None:
    assert read_registrations(SERVICES, CHECKS, cluster="other", network="", discovery=DISCOVERY) == []


def test_a_registration_without_its_check_differs_from_every_wanted_one() -> None:
    (found,) = read(SERVICES, {})
    assert found == replace(WANTED, check=NO_CHECK)


@pytest.mark.parametrize(
    "edit",
    [
        {"Address": ""},
        {"Address": "fd00::2"},
        {"Tags": None},
        {"Port": 80},
        {"Service": "other"},
        {"Meta": {"ai-how-cluster": "c", "ai-how-node": "n1"}},
        {"Meta": {"ai-how-cluster": "c", "ai-how-node": "n1", "ai-how-interval": "often"}},
    ],
)
def test_what_somebody_edited_is_read_and_mended_in_place(edit: dict[str, Any]) -> None:
    found = read({"ai-how:c:n1": SERVICES["ai-how:c:n1"] | edit}, CHECKS)
    (step,) = make_plan([WANTED], found).steps
    assert (step.target, step.impact) == (ResourceId(Kind.REGISTRATION, "n1"), Impact.LIVE)
    assert step.have is not None


def cluster(**fields: Any) -> Any:
    machine = {"cpu_cores": 1, "memory_gb": 1, "disk_gb": 1}
    found = {
        "name": "c",
        "base_image_path": "/x.qcow2",
        "network": {
            "subnet": "10.0.0.0/24",
            "bridge": "br-c",
            "dns_mode": "service_discovery",
            "service_discovery": fields,
        },
        "controller": machine,
        "compute_nodes": [machine, machine | {"ip": "DHCP"}],
    }
    return resolve(load_mapping({"clusters": {"hpc": found}}))


def test_every_node_with_an_address_of_its_own_is_registered_by_role_and_name() -> None:
    wanted = registrations(cluster(service_name="batch", tags=["gpu", "compute"]))
    assert [(each.node, each.service, each.tags) for each in wanted] == [
        ("c-controller", "batch", ("gpu", "compute", "controller", "c-controller")),
        ("c-compute-01", "batch", ("gpu", "compute", "c-compute-01")),
    ]
    assert {each.needs for each in wanted} == {(ResourceId(Kind.NETWORK, "c-network"),)}


@pytest.mark.parametrize(
    ("address", "server"),
    [
        ("http://127.0.0.1:8500", "server=/consul/127.0.0.1#8600"),
        ("http://localhost:8500", "server=/consul/127.0.0.1#8600"),
        ("https://192.0.2.7:8501", "server=/consul/192.0.2.7#8600"),
    ],
)
def test_the_zone_is_asked_for_at_the_host_of_the_url(address: str, server: str) -> None:
    network = compile_network(cluster(address=address), active=True)
    [lines] = [each.lines for each in compile_host([network], Surroundings()) if isinstance(each, Servers)]
    assert server in lines
    bare = replace(network.policy, firewall=Firewall(enabled=False))
    assert compile_host([replace(network, policy=bare)], Surroundings()) == ()
    assert str(dns_address(Discovery("c", address))) in server


def test_the_command_by_hand_names_files_and_no_secret() -> None:
    discovery = Discovery(
        "c", "https://10.0.0.1:8501", token_file=PLACE, tls=Tls("/ca.pem", "/c.pem", "/c.key", "consul.test")
    )
    assert command(discovery, "ai-how:c:n") == (
        "consul services deregister -http-addr=https://10.0.0.1:8501 -token-file=/etc/token -ca-file=/ca.pem "
        "-client-cert=/c.pem -client-key=/c.key -tls-server-name=consul.test -id=ai-how:c:n"
    )
