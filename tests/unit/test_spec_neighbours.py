"""What clusters on one host must not do to each other, in one file and across files."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from ai_how.config.load import load_file
from ai_how.config.terms import DnsMode, Protocol
from ai_how.errors import Severity
from ai_how.spec.neighbours import Neighbour, neighbour, problems_with
from ai_how.spec.policy import Port
from ai_how.spec.resolve import resolve, resolve_all, validate

CONTROLLER = "{cpu_cores: 1, memory_gb: 1, disk_gb: 1}"


def cluster(key: str, network: str) -> str:
    return f"""\
  {key}:
    name: {key}
    base_image_path: /b.qcow2
    network: {{bridge: br-{key}, {network}}}
    controller: {CONTROLLER}
"""


def two(one: str, other: str) -> str:
    return "clusters:\n" + cluster("one", one) + cluster("two", other)


A, B = "subnet: 10.0.1.0/24", "subnet: 10.0.2.0/24"
SHARED, ROUTED = "dns_mode: shared_dns", "dns_mode: routed"

#: One network, the other, where the problem is, what it says and what to write.
CLASHES = {
    "equal domains": (
        f"{A}, {SHARED}, domain: hpc.internal",
        f"{B}, {SHARED}, domain: hpc.internal",
        "clusters.two.network.domain",
        "the domain hpc.internal is that of the cluster one",
        "domain: two.internal",
    ),
    "a domain inside another": (
        f"{A}, {ROUTED}, domain: internal",
        f"{B}, {ROUTED}, domain: two.internal",
        "clusters.two.network.domain",
        "of the domains two.internal and internal (cluster one) one hides names of the other",
        "domain: two.test",
    ),
    "a default domain inside another": (
        f"{A}, {ROUTED}, domain: internal",
        f"{B}, {ROUTED}",
        "clusters.two.name",
        "of the domains two.internal and internal",
        "domain: two.test",
    ),
    "a domain inside the other's default": (
        f"{A}, {SHARED}, domain: a.two.internal",
        f"{B}, {SHARED}",
        "clusters.two.name",
        "of the domains two.internal and a.two.internal",
        "domain: two.test",
    ),
    "another's default domain": (
        f"{A}, {SHARED}, domain: two.internal",
        f"{B}, {SHARED}",
        "clusters.two.name",
        "the domain two.internal is that of the cluster one",
        "domain: two.test",
    ),
    "a route to everything": (
        f"{A}, {ROUTED}, routes: [0.0.0.0/0]",
        B,
        "clusters.one.network.routes[0].to",
        "default route",
        "the networks that you mean",
    ),
    "a domain around another": (
        f"{A}, {SHARED}, domain: x.lab",
        f"{B}, {SHARED}, domain: lab",
        "clusters.two.network.domain",
        "of the domains lab and x.lab",
        "domain: two.internal",
    ),
    "one port": (
        f"{A}, firewall: {{expose: ['80:one-controller']}}",
        f"{B}, firewall: {{expose: ['81:two-controller', '80:two-controller']}}",
        "clusters.two.network.firewall.expose[1]",
        "port 80/tcp of the host is exposed by the cluster one",
        "another host_port",
    ),
    "a route over a later cluster": (
        f"{A}, {ROUTED}, routes: [10.5.0.0/16, 10.0.2.128/25]",
        B,
        "clusters.one.network.routes[1]",
        "the route to 10.0.2.128/25 overlaps 10.0.2.0/24 of the cluster two",
        "leaves 10.0.2.0/24 out",
    ),
    "a route to a routed cluster": (
        f"{A}, {ROUTED}",
        f"{B}, {ROUTED}, routes: [10.0.1.0/24]",
        "clusters.two.network.routes[0]",
        "overlaps 10.0.1.0/24 of the cluster one",
        "reach each other without",
    ),
    "two ways to one place": (
        f"{A}, {ROUTED}, routes: [{{to: 10.5.0.0/16, via: 10.0.1.9}}]",
        f"{B}, {ROUTED}, routes: [10.6.0.0/16, {{to: 10.5.0.0/16, via: 10.0.2.9}}]",
        "clusters.two.network.routes[1]",
        "the cluster one routes 10.5.0.0/16 via 10.0.1.9",
        "the same router in both",
    ),
    "an entrance from a cluster": (
        f"{A}, firewall: {{allow_from: [10.0.2.0/25]}}",
        B,
        "clusters.one.network.firewall.allow_from[0]",
        "overlaps 10.0.2.0/24 of the cluster two",
        "up to dns_mode",
    ),
    "another's gateway as DNS server": (
        f"{A}, dns_servers: [10.0.1.1, 10.0.2.1]",
        B,
        "clusters.one.network.dns_servers[1]",
        "10.0.2.1 is the gateway of the cluster two",
        "shared_dns or routed",
    ),
    "another's gateway, written": (
        f"{A}, dns_servers: [10.0.1.1, 10.0.2.9]",
        f"{B}, gateway_ip: 10.0.2.9",
        "clusters.one.network.dns_servers[1]",
        "10.0.2.9 is the gateway of the cluster two",
        "leave it out",
    ),
}

FINE = {
    "equal domains of strangers": (f"{A}, domain: hpc.internal", f"{B}, domain: hpc.internal"),
    "equal domains in different modes": (f"{A}, {SHARED}, domain: hpc.lab", f"{B}, {ROUTED}, domain: hpc.lab"),
    "a domain that only ends alike": (f"{A}, {SHARED}, domain: a.lab", f"{B}, {SHARED}, domain: ba.lab"),
    "one port, two protocols": (
        f"{A}, firewall: {{expose: ['80:one-controller']}}",
        f"{B}, firewall: {{expose: ['80:two-controller/udp']}}",
    ),
    "routes to one place": (f"{A}, {ROUTED}, routes: [10.5.0.0/16]", f"{B}, {ROUTED}, routes: [10.5.0.0/16]"),
    "routes to one place by one router": (
        f"{A}, {ROUTED}, routes: [{{to: 10.5.0.0/16, via: 10.9.9.9}}]",
        f"{B}, {ROUTED}, routes: [{{to: 10.5.0.0/16, via: 10.9.9.9}}]",
    ),
    "routes to one place, one by a router": (
        f"{A}, {ROUTED}, routes: [{{to: 10.5.0.0/16, via: 10.9.9.9}}, {{to: 10.6.0.0/16}}]",
        f"{B}, {ROUTED}, routes: [10.5.0.0/16, {{to: 10.6.0.0/16, via: 10.9.9.9}}]",
    ),
    "routers of different places": (
        f"{A}, {ROUTED}, routes: [{{to: 10.5.0.0/16, via: 10.9.9.9}}]",
        f"{B}, {ROUTED}, routes: [{{to: 10.6.0.0/16, via: 10.9.9.8}}]",
    ),
    "everybody outside": (f"{A}, firewall: {{allow_from: [0.0.0.0/0]}}", B),
    "another's subnet blocked": (f"{A}, {SHARED}, firewall: {{block_networks: [10.0.2.0/24]}}", f"{B}, {SHARED}"),
}


@pytest.mark.parametrize("name", CLASHES)
def test_clusters_of_one_file_that_clash_are_refused(name: str, tmp_path: Path) -> None:
    one, other, path, says, hint = CLASHES[name]
    file = tmp_path / "c.yaml"
    file.write_text(two(one, other))
    found = [p for p in validate(load_file(file)) if p.severity is Severity.ERROR]
    assert [p.dotted for p in found] == [path], [p.message for p in found]
    assert says in found[0].message
    assert hint in found[0].hint
    lines = file.read_text().splitlines()
    assert found[0].line is not None
    assert ("name:" if path.endswith("name") else "network:") in lines[found[0].line - 1]


@pytest.mark.parametrize("name", FINE)
def test_clusters_of_one_file_that_do_not_clash_are_taken(name: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(two(*FINE[name]))
    one, other = resolve_all(load_file(file))
    assert problems_with(one, [neighbour(other)]) == problems_with(other, [neighbour(one)]) == []


@pytest.mark.parametrize("name", [name for name in CLASHES if name != "a route to everything"])
def test_clusters_of_two_files_that_clash_are_refused_too(name: str, tmp_path: Path) -> None:
    """As `up` finds them: one is on the host already. Which of the two came first does not matter."""
    file = tmp_path / "c.yaml"
    specs = []
    for key, network in zip(("one", "two"), CLASHES[name][:2], strict=True):
        file.write_text("clusters:\n" + cluster(key, network))
        specs.append(resolve(load_file(file)))
    _, _, path, says, hint = CLASHES[name]
    accused = next(spec for spec in specs if f"clusters.{spec.key}." in path)
    host = neighbour(next(spec for spec in specs if spec is not accused))
    found = problems_with(accused, [host])
    assert len(found) == 1
    assert says in found[0].message
    assert hint in found[0].hint
    assert found[0].dotted == path.split("[")[0].replace(".name", ".network.domain")


HOST = Neighbour("host", DnsMode.ROUTED, "host.internal", IPv4Network("10.9.0.0/24"), IPv4Address("10.9.0.1"))


@pytest.mark.parametrize("route", ["10.0.0.0/16", "10.0.1.0/24", "10.0.1.128/25"])
def test_a_new_cluster_where_an_old_one_routes_to_is_refused(route: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("clusters:\n" + cluster("one", A))
    one = resolve(load_file(file))
    [found] = problems_with(one, [replace(HOST, routes=(IPv4Network(route),))])
    assert found.dotted == "clusters.one.network.subnet"
    assert f"overlaps {route}, to which the cluster host declares a route" in found.message
    assert problems_with(one, [replace(HOST, routes=(IPv4Network("10.0.2.0/24"),))]) == []


def test_a_cluster_is_not_its_own_neighbour(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("clusters:\n" + cluster("one", f"{A}, {SHARED}, firewall: {{expose: ['80:one-controller']}}"))
    one = resolve(load_file(file))
    facts = neighbour(one)
    assert facts.host_ports == (Port(Protocol.TCP, 80),)
    assert problems_with(one, [facts]) == []
    assert len(problems_with(one, [replace(facts, cluster="other", gateway=IPv4Address("10.0.1.3"))])) == 2


def test_everything_that_clashes_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    network = f"{A}, {ROUTED}, domain: host.internal, routes: [10.9.0.0/25], dns_servers: [10.0.1.1, 10.9.0.1]"
    file.write_text("clusters:\n" + cluster("one", network))
    found = problems_with(resolve(load_file(file)), [replace(HOST, routes=(IPv4Network("10.0.0.0/16"),))])
    fields = ["routes", "dns_servers", "domain", "subnet"]
    assert [p.dotted.removeprefix("clusters.one.network.") for p in found] == fields
