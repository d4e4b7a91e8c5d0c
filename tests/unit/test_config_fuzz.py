"""Whatever is in a configuration, the answer is clusters or problems, never another exception."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ai_how.config.load import load_file, load_mapping
from ai_how.config.terms import DnsMode
from ai_how.config.yamltree import parse
from ai_how.errors import ConfigurationError, Severity
from ai_how.resources.policy import read_policy, write_policy
from ai_how.spec.cluster import Cluster
from ai_how.spec.known import Known
from ai_how.spec.neighbours import SOCIAL, neighbour, problems_with
from ai_how.spec.policy import Firewall
from ai_how.spec.resolve import examine

ROOT = Path(__file__).parents[2]
EXAMPLES = [*sorted((ROOT / "examples").glob("*.yaml")), *sorted((ROOT / "tests" / "cases").glob("mode-*/config.yaml"))]
PARSED = [json.loads(json.dumps(parse(path.read_text(), file=None)[0])) for path in EXAMPLES]

ADDRESSES = ["192.168.100.1", "192.168.100.10", "192.168.100.255", "10.0.0.0/8", "192.168.100.0/29", "DHCP", "auto"]
WORDS = ["hpc-cluster", "52:54:00:12:34:01", "isolated", "local", ".", "-", "~", "~nobody-here/x", "\0", "1e999"]
POLICIES = ["routed", "shared_dns", "service_discovery", "deny", "0.0.0.0/0", "10.20.0.0/16", "192.168.100.0/25"]
POLICIES += ["22/tcp", "53/udp", "99999", "80:hpc-cluster-controller", "80:80", "1:2:3/sctp", "::/0", "255.255.255.255"]
POLICIES += ["http://127.0.0.1:8500", "https://[::1", "localhost:8500", "//", "http://10.0.0.5:8500", "consul", "3s"]
KEYS = ["ip", "name", "mtu", "domain", "count", "dns_mode", "nat", "routes", "firewall", "service_discovery", "enabled"]
KEYS += ["host_resolver", "expose", "egress", "via", "tls", "check", "block_networks", "allow_from", "token_file"]
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 300) | st.sampled_from([10**6, 10**30, -(10**30)]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=20),
    st.binary(max_size=4),
    st.sampled_from(ADDRESSES),
    st.sampled_from(WORDS),
    st.sampled_from(POLICIES),
    st.lists(st.sampled_from(POLICIES), max_size=3),
    st.just([]),
    st.just({}),
    st.just([None, {}]),
    st.just({"a": {"b": None}, 5: [], None: 1, "": 0}),
    st.just({"count": 3, "cpu_cores": 1, "memory_gb": 1, "disk_gb": 1}),
    st.sampled_from([IPv4Address("10.0.0.1"), IPv4Network("10.0.0.0/24"), Path("x"), object(), b"\xff"]),
).map(copy.deepcopy)


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of nested data."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield data, key
        yield from places(value)


@st.composite
def broken_configurations(draw: st.DrawFn) -> Any:
    """An example with some values replaced, taken out, doubled or put in."""
    data = copy.deepcopy(draw(st.sampled_from(PARSED)))
    for _ in range(draw(st.integers(1, 4))):
        found = list(places(data))
        if not found:
            break
        container, key = draw(st.sampled_from(found))
        match draw(st.sampled_from(["replace", "drop", "add", "copy"])):
            case "replace":
                container[key] = draw(JUNK)
            case "drop":
                del container[key]
            case "add" if isinstance(container, dict):
                container[draw(st.text(max_size=8) | st.sampled_from(KEYS))] = draw(JUNK)
            case _:
                other, name = draw(st.sampled_from(found))
                container[key] = copy.deepcopy(other[name])
    return data


def consistent(clusters: tuple[Cluster, ...]) -> None:
    """What must hold of every cluster that came out."""
    for cluster in clusters:
        network = cluster.network
        given_ = [node.ip for node in cluster.nodes if node.ip is not None]
        macs = [node.mac for node in cluster.nodes]
        names = [node.name for node in cluster.nodes]
        assert len(set(given_)) == len(given_)
        assert len({*macs, network.mac}) == len(macs) + 1
        assert len(set(names)) == len(names)
        assert network.gateway not in given_
        assert all(address in network.subnet for address in (*given_, network.dhcp_start, network.dhcp_end))
        assert network.dhcp_start <= network.dhcp_end
        assert not network.dhcp_start <= network.gateway <= network.dhcp_end
        permitted(cluster)


def permitted(cluster: Cluster) -> None:
    """What must hold of the policy of every cluster that came out."""
    network, policy, firewall = cluster.network, cluster.network.policy, cluster.network.policy.firewall
    mode = network.dns_mode
    assert read_policy(write_policy(policy)) == policy
    assert (policy.discovery is not None) is (mode is DnsMode.SERVICE_DISCOVERY)
    assert mode is DnsMode.ROUTED or (policy.nat and not policy.routes)
    assert firewall.enabled or (firewall == Firewall(enabled=False) and mode not in SOCIAL)
    assert not any(each.overlaps(network.subnet) for each in firewall.block_networks)
    assert not any(each.to.overlaps(network.subnet) or each.via == network.gateway for each in policy.routes)
    assert {(each.node, each.ip) for each in firewall.expose} <= {(node.name, node.ip) for node in cluster.nodes}
    assert len({each.host for each in firewall.expose}) == len(firewall.expose)
    assert all(0 < number < 65536 for each in firewall.expose for number in (each.host.number, each.node_port))
    if policy.discovery is not None:
        host = urlsplit(policy.discovery.address).hostname or ""
        assert host == "localhost" or not IPv4Address(host).is_unspecified
        assert policy.discovery.check.timeout <= policy.discovery.check.interval
        assert network.domain.split(".")[-1] != "consul"


def at_peace(clusters: tuple[Cluster, ...]) -> None:
    """What must hold of the clusters of a file without errors: each may stand beside the others."""
    for cluster in clusters:
        assert problems_with(cluster, [neighbour(other) for other in clusters]) == []


def answered(error: ConfigurationError, path: Path | None) -> None:
    """What must hold of a refusal: it says of which file, what and what to do."""
    assert error.problems
    assert all(p.message and p.hint and p.file == (path and str(path)) for p in error.problems)


KNOWN = Known(
    addresses={"hpc-cluster-compute-01": IPv4Address("192.168.100.11"), "training-controller": IPv4Address("9.9.9.9")},
    taken=((IPv4Network("10.20.0.0/24"), "somebody"),),
)


@settings(max_examples=60)
@given(broken_configurations(), st.sampled_from([Known(), KNOWN]))
def test_a_broken_dictionary_gives_clusters_or_problems(data: Any, known: Known) -> None:
    try:
        examined = examine(load_mapping(data), known=known)
    except ConfigurationError as error:
        answered(error, None)
        return
    consistent(examined.clusters)
    errors = [p for p in examined.problems if p.severity is Severity.ERROR]
    if not errors:
        assert len(examined.clusters) == len(data["clusters"])
        at_peace(examined.clusters)
    assert all(p.message and p.hint for p in examined.problems)
    assert len({(p.path, p.message) for p in errors}) == len(errors)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(st.data())
def test_a_damaged_file_gives_clusters_or_problems_with_lines(tmp_path: Path, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(EXAMPLES)).read_text()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 12))
        text = (
            text[:at]
            + data.draw(st.text(alphabet="abc019:-{}[]*&#\n\t '\"<~.,|>!%@`\\", max_size=4))
            + text[at + cut :]
        )
    path = tmp_path / "c.yaml"
    path.write_text(text)
    try:
        examined = examine(load_file(path))
    except ConfigurationError as error:
        answered(error, path)
        return
    consistent(examined.clusters)
    assert all(p.file == str(path) and p.line and p.column for p in examined.problems)
    assert [p.line for p in examined.problems] == sorted(p.line or 0 for p in examined.problems)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_example_cut_at_any_line_is_answered(path: Path, tmp_path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    for count in range(len(lines)):
        cut = tmp_path / "c.yaml"
        cut.write_text("".join(lines[:count]))
        try:
            examine(load_file(cut))
        except ConfigurationError as error:
            answered(error, cut)
