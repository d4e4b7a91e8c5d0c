"""Firewall, routes and service discovery: what is taken, and how every mistake is answered.

The line that a problem must be reported on is marked `#!` in the text.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from ai_how.config.load import load_file, load_mapping
from ai_how.config.model import tables
from ai_how.config.terms import Egress, HostResolver, Protocol
from ai_how.errors import ConfigurationError, Problem, Severity
from ai_how.spec.policy import Check, Discovery, Exposure, Firewall, Policy, Port, Route, Tls
from ai_how.spec.resolve import resolve, resolve_all, validate

MACHINE = "{cpu_cores: 1, memory_gb: 1, disk_gb: 1}"
NODES = f"""\
    controller: {MACHINE[:-1]}, ip: 192.168.100.2}}
    compute_nodes:
      - {MACHINE}
      - {MACHINE[:-1]}, ip: DHCP}}
"""


def text(network: str, nodes: str = NODES) -> str:
    """A right cluster whose network has these further lines, each indented as in a file."""
    body = "".join(f"      {line}\n" for line in network.strip("\n").splitlines())
    return f"""\
clusters:
  hpc:
    name: hpc
    base_image_path: /images/base.qcow2
    network:
      subnet: 192.168.100.0/24
      bridge: br-hpc
      gateway_ip: 192.168.100.1
{body}{nodes}"""


def policy(path: Path, network: str) -> Policy:
    file = path / "c.yaml"
    file.write_text(text(network))
    return resolve(load_file(file)).network.policy


# ---- what is taken ----------------------------------------------------------------------------------------------


def test_without_any_of_it_the_policy_is_the_default_one(tmp_path: Path) -> None:
    for mode in ("isolated", "shared_dns", "routed"):
        assert policy(tmp_path, f"dns_mode: {mode}") == Policy()


def test_fields_without_a_value_say_the_same_as_no_fields(tmp_path: Path) -> None:
    nothing = "routes:\nfirewall:\nservice_discovery:\nhost_resolver:\nnat:"
    assert policy(tmp_path, nothing) == Policy()
    assert policy(tmp_path, "firewall:\n  expose:\n  allow_from: []\n  egress:") == Policy()


def test_a_firewall_is_sorted_joined_and_complete(tmp_path: Path) -> None:
    found = policy(
        tmp_path,
        """\
firewall:
  allow_host_ports: [22, 53/udp, "22/TCP", 2049/tcp]
  block_networks: [10.1.0.0/16, 10.0.0.0/16, 172.16.0.1]
  egress: Deny
  allow_networks: [203.0.113.7, 198.51.100.0/24]
  expose:
    - 9090:hpc-compute-01
    - 8080:hpc-controller:80/tcp
    - 8080:hpc-controller/udp
    - {host_port: 53, node: hpc-controller, protocol: udp}
    - {host_port: 2222, node: hpc-compute-01, node_port: 22}
  allow_from: [198.51.100.128/25, 198.51.100.0/25]
""",
    )
    tcp, udp = Protocol.TCP, Protocol.UDP
    controller, compute = IPv4Address("192.168.100.2"), IPv4Address("192.168.100.10")
    assert found == Policy(
        firewall=Firewall(
            allow_host_ports=(Port(tcp, 22), Port(tcp, 2049), Port(udp, 53)),
            block_networks=(IPv4Network("10.0.0.0/15"), IPv4Network("172.16.0.1/32")),
            egress=Egress.DENY,
            allow_networks=(IPv4Network("198.51.100.0/24"), IPv4Network("203.0.113.7/32")),
            expose=(
                Exposure(Port(tcp, 2222), "hpc-compute-01", compute, 22),
                Exposure(Port(tcp, 8080), "hpc-controller", controller, 80),
                Exposure(Port(tcp, 9090), "hpc-compute-01", compute, 9090),
                Exposure(Port(udp, 53), "hpc-controller", controller, 53),
                Exposure(Port(udp, 8080), "hpc-controller", controller, 8080),
            ),
            allow_from=(IPv4Network("198.51.100.0/24"),),
        )
    )


def test_a_routed_cluster_has_its_routes_in_both_forms(tmp_path: Path) -> None:
    found = policy(
        tmp_path,
        "dns_mode: routed\nnat: no\nroutes: [{to: 10.60.0.0/16, via: 192.168.100.200}, 10.50.0.0/16, 10.7.7.7]",
    )
    assert found == Policy(
        nat=False,
        routes=(
            Route(IPv4Network("10.7.7.7/32")),
            Route(IPv4Network("10.50.0.0/16")),
            Route(IPv4Network("10.60.0.0/16"), IPv4Address("192.168.100.200")),
        ),
    )


def test_service_discovery_has_its_documented_defaults(tmp_path: Path) -> None:
    assert policy(tmp_path, "dns_mode: service_discovery").discovery == Discovery("hpc", "http://127.0.0.1:8500", 8600)


def test_service_discovery_with_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    found = policy(
        tmp_path,
        """\
dns_mode: service_discovery
service_discovery:
  address: https://10.0.0.5:8501/
  dns_port: 53
  datacenter: dc-1
  token_file: secrets/../consul.token
  tls: {ca_file: ~/ca.pem, cert_file: /c.pem, key_file: k.pem, server_name: server.dc-1.consul}
  service_name: batch
  tags: [gpu, prod, gpu]
  check: {port: 6817, interval: 5, timeout: 2}
  required: false
""",
    )
    assert found.discovery == Discovery(
        service_name="batch",
        address="https://10.0.0.5:8501",
        dns_port=53,
        datacenter="dc-1",
        token_file=str(tmp_path / "consul.token"),
        tls=Tls("/home/me/ca.pem", "/c.pem", str(tmp_path / "k.pem"), "server.dc-1.consul"),
        tags=("gpu", "prod"),
        check=Check(6817, 5, 2),
        required=False,
    )


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("127.0.0.1:8500", "http://127.0.0.1:8500"),
        ("localhost:8500", "http://localhost:8500"),
        ("http://LOCALHOST:8500/", "http://localhost:8500"),
        ("HTTPS://10.0.0.5:443", "https://10.0.0.5:443"),
    ],
)
def test_an_address_of_consul_is_taken(written: str, address: str, tmp_path: Path) -> None:
    network = f"dns_mode: service_discovery\nservice_discovery: {{address: '{written}'}}"
    discovery = policy(tmp_path, network).discovery
    assert discovery is not None
    assert discovery.address == address


def test_a_dictionary_may_hold_numbers_and_addresses() -> None:
    data = {
        "name": "hpc",
        "base_image_path": "/b",
        "network": {
            "subnet": "192.168.100.0/24",
            "bridge": "b",
            "dns_mode": "routed",
            "host_resolver": "auto",
            "routes": (IPv4Network("10.50.0.0/16"), {"to": "10.60.0.0/16", "via": IPv4Address("10.9.9.9")}),
            "firewall": {
                "allow_host_ports": [22, "53/udp"],
                "allow_from": [IPv4Network("198.51.100.0/24"), IPv4Address("198.51.101.1")],
                "expose": [{"host_port": 80, "node": "hpc-controller"}],
            },
        },
        "controller": {"cpu_cores": 1, "memory_gb": 1, "disk_gb": 1},
    }
    found = resolve(load_mapping({"clusters": {"hpc": data}})).network.policy
    assert [route.via for route in found.routes] == [None, IPv4Address("10.9.9.9")]
    assert found.firewall.allow_from == (IPv4Network("198.51.100.0/24"), IPv4Network("198.51.101.1/32"))
    assert found.host_resolver is HostResolver.AUTO


def test_every_example_of_the_reference_page_stands_in_a_valid_configuration(tmp_path: Path) -> None:
    """Alone, each in the mode that has it."""
    modes = {
        "routes": "routed",
        "nat": "routed",
        "host_resolver": "shared_dns",
        "service_discovery": "service_discovery",
    }
    together = {"cert_file": "/etc/consul/client.pem", "key_file": "/etc/consul/client.key"}
    tried = 0
    for path, table in tables():
        parts = path.split(".")
        if parts[2:3] != ["network"]:
            continue
        for name, info in table.model_fields.items():
            if not info.examples:
                continue
            nodes = {"cpu_cores": 1, "memory_gb": 1, "disk_gb": 1}
            network: dict[str, object] = {"subnet": "192.168.100.0/24", "bridge": "br-hpc-cluster"}
            value: object = {name: info.examples[0]}
            if name in together:
                value = together
            for part in reversed(parts[3:]):
                value = {part.removesuffix("[]"): [_whole(part, value)] if part.endswith("[]") else value}
            assert isinstance(value, dict)
            network |= value
            network["dns_mode"] = next((mode for key, mode in modes.items() if key in network), "isolated")
            if name == "dns_mode":
                network["dns_mode"] = info.examples[0]
            cluster = {"name": "hpc-cluster", "base_image_path": "/b", "network": network, "controller": nodes}
            found = validate(load_mapping({"clusters": {"hpc": cluster}}))
            assert [p for p in found if p.severity is Severity.ERROR] == [], (path, name)
            tried += 1
    assert tried > 40


def _whole(part: str, value: object) -> object:
    """An entry of a list with what it must have beside one field."""
    needs: dict[str, object] = {"routes[]": {"to": "10.50.0.0/16"}}
    needs["expose[]"] = {"host_port": 80, "node": "hpc-cluster-controller"}
    assert isinstance(value, dict)
    found = needs[part]
    assert isinstance(found, dict)
    return {**found, **value}


# ---- mistakes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bad:
    """One mistake in a network that is right otherwise. `path` begins at the network."""

    name: str
    network: str
    path: str
    says: str
    hint: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        return self.name


def fw(line: str, *more: str) -> str:
    """A firewall of these lines, the first marked."""
    return "".join(["firewall:\n", f"  {line} #!\n", *(f"  {each}\n" for each in more)])


def sd(line: str, *more: str) -> str:
    """Service discovery of these lines, the first marked."""
    return "dns_mode: service_discovery\n" + fw(line, *more).replace("firewall:", "service_discovery:")


ROUTED = "dns_mode: routed\n"
WARNING = Severity.WARNING

FORM = [
    Bad("port 0", fw("allow_host_ports: [0]"), "firewall.allow_host_ports[0]", "0 is out of range", "1 to 65535"),
    Bad("port 65536", fw("allow_host_ports: [65536/tcp]"), "firewall.allow_host_ports[0]", "range", "1 to 65535"),
    Bad("port name", fw("allow_host_ports: [22, ssh]"), "firewall.allow_host_ports[1]", "got 'ssh'", "22/tcp"),
    Bad("port protocol", fw("allow_host_ports: [22/tpc]"), "firewall.allow_host_ports[0]", "'tpc'", "mean tcp?"),
    Bad("port range", fw("allow_host_ports: [20-22]"), "firewall.allow_host_ports[0]", "'20-22'", "for each port: 20"),
    Bad("ports one", fw("allow_host_ports: 22"), "firewall.allow_host_ports", "expected a list", "[22, 123/udp]"),
    Bad("egress", fw("egress: denied"), "firewall.egress", "expected allow or deny", "did you mean deny?"),
    Bad("host bits", fw("block_networks: [10.0.0.1/8]"), "firewall.block_networks[0]", "host bits", "10.0.0.0/8"),
    Bad("netmask", fw("allow_from: [10.0.0.0/255.0.0.0]"), "firewall.allow_from[0]", "a netmask", "10.0.0.0/8"),
    Bad("name as network", fw("allow_from: [lan]"), "firewall.allow_from[0]", "not a network", "10.0.0.0/8"),
    Bad("IPv6 network", fw("block_networks: ['fd00::/8']"), "firewall.block_networks[0]", "IPv6", "10.0.0.0/8"),
    Bad("firewall a word", "firewall: off #!", "firewall", "expected a mapping, got 'off'", "key: value"),
    Bad("unknown in firewall", fw("alow_from: []"), "firewall.alow_from", "no field", "`allow_from`?"),
    Bad("enabled", fw("enabled: maybe"), "firewall.enabled", "expected true or false", "true or false"),
    Bad("expose without node", fw("expose: ['8080']"), "firewall.expose[0]", "which port of which", "8080:hpc-cluster"),
    Bad("expose a number", fw("expose: [8080]"), "firewall.expose[0]", "which port of which node", "host_port:node"),
    Bad("expose docker's way", fw("expose: ['8080:80']"), "firewall.expose[0].node", "no node 80", "the nodes are"),
    Bad("expose long", fw("expose: ['1:a:2:3']"), "firewall.expose[0]", "which port", "host_port:node"),
    Bad("expose a range", fw("expose: ['8000-8010:hpc-controller:80']"), "firewall.expose[0]", "'8000-8010' is a range",
        "an entry for each port: 8000"),
    Bad("expose on a range", fw("expose: [{host_port: 80, node: hpc-controller, node_port: 80 - 90}]"),
        "firewall.expose[0].node_port", "is a range", "an entry for each port: 80"),
    Bad("expose port", fw("expose: ['0:hpc-controller']"), "firewall.expose[0]", "0 is out of range", "1 to 65535"),
    Bad("expose protocol", fw("expose: ['1:hpc-controller/sctp']"), "firewall.expose[0]", "'sctp'", "tcp"),
    Bad("expose missing", fw("expose: [{host_port: 1}]"), "firewall.expose[0].node", "is missing", "hpc-cluster-c"),
    Bad("expose key", fw("expose: [{port: 1, host_port: 1, node: hpc-controller}]"), "firewall.expose[0].port",
        "no field", "`node_port`?"),
    Bad("expose mapping", fw("expose: {8080: hpc-controller}"), "firewall.expose", "expected a list", "8080:hpc"),
    Bad("resolver", "host_resolver: resolved #!", "host_resolver", "got 'resolved'", "did you mean systemd-resolved?"),
    Bad("route a word", ROUTED + "routes: [lan] #!", "routes[0]", "not a network", "10.0.0.0/8"),
    Bad("route host bits", ROUTED + "routes: [{to: 10.5.0.1/16}] #!", "routes[0].to", "host bits", "10.5.0.0/16"),
    Bad("route key", ROUTED + "routes: [{to: 10.5.0.0/16, gw: 10.1.1.1}] #!", "routes[0].gw", "no field", "to, via"),
    Bad("route without to", ROUTED + "routes: [{via: 10.1.1.1}] #!", "routes[0].to", "`to` is missing", "10.50.0.0/16"),
    Bad("route via a name", ROUTED + "routes: [{to: 10.5.0.0/16, via: gw}] #!", "routes[0].via", "not an IPv4", "four"),
    Bad("nat", ROUTED + "nat: never #!", "nat", "expected true or false", "true or false"),
    Bad("Consul's scheme", sd("address: ftp://127.0.0.1:8500"), "service_discovery.address", "neither http",
        "http://1"),
    Bad("Consul's socket", sd("address: unix:///run/consul.sock"), "service_discovery.address", "neither http", "http"),
    Bad("Consul's two slashes", sd("address: //127.0.0.1:8500"), "service_discovery.address", "not an IPv4", "10.0.0"),
    Bad("Consul's name", sd("address: http://consul:8500"), "service_discovery.address",
        "not an IPv4 address: the cluster's DNS server", "http://10.0.0.5:8500"),
    Bad("Consul's IPv6", sd("address: 'http://[::1]:8500'"), "service_discovery.address", "not an IPv4", "10.0.0.5"),
    Bad("Consul's port", sd("address: http://127.0.0.1"), "service_discovery.address", "has no port",
        "http://127.0.0.1:8500"),
    Bad("Consul's address alone", sd("address: 127.0.0.1"), "service_discovery.address", "no port",
        "http://127.0.0.1:8500"),
    Bad("Consul's big port", sd("address: http://127.0.0.1:85000"), "service_discovery.address", "not a URL", "8500"),
    Bad("Consul's path", sd("address: http://127.0.0.1:8500/v1"), "service_discovery.address",
        "more than an address", "write http://127.0.0.1:8500"),
    Bad("Consul's password", sd("address: http://u:p@127.0.0.1:8500"), "service_discovery.address", "no password",
        "token_file"),
    Bad("Consul anywhere", sd("address: http://0.0.0.0:8500"), "service_discovery.address",
        "not the address of one", "127"),
    Bad("Consul's DNS port", sd("dns_port: none"), "service_discovery.dns_port", "a port such as", "whole number"),
    Bad("datacenter", sd("datacenter: Berlin 2"), "service_discovery.datacenter", "not the name of a", "berlin-2"),
    Bad("service name", sd("service_name: my_service"), "service_discovery.service_name", "not a host name", "my-serv"),
    Bad("tag", sd("tags: [Prod]"), "service_discovery.tags[0]", "not a host name", "prod"),
    Bad("token a URL", sd("token_file: https://vault/x"), "service_discovery.token_file", "is a URL", "its path"),
    Bad("interval", sd("check: {interval: 10s}"), "service_discovery.check.interval", "without a unit", "write 10"),
    Bad("timeout 0", sd("check: {timeout: 0}"), "service_discovery.check.timeout", "out of range", "from 1 to 600"),
    Bad("check key", sd("check: {prt: 22}"), "service_discovery.check.prt", "no field", "`port`?"),
    Bad("tls key", sd("tls: {cafile: x}"), "service_discovery.tls.cafile", "no field", "`ca_file`?"),
    Bad("tls a word", sd("tls: yes"), "service_discovery.tls", "expected a mapping", "key: value"),
    Bad("discovery key", sd("adress: x"), "service_discovery.adress", "no field", "`address`?"),
    Bad("later", "ipv6: true #!", "ipv6", "no field", "this version does not have it"),
]  # fmt: skip

MEANING = [
    Bad("no NAT elsewhere", "nat: false #!", "nat", "mode isolated reaches the outside through NAT only", "routed"),
    Bad("routes elsewhere", "routes: [10.50.0.0/16] #!", "routes", "mode isolated has no routes", "dns_mode: routed"),
    Bad("discovery elsewhere", "service_discovery: {dns_port: 53} #!", "service_discovery", "mode isolated has no serv",
        "set dns_mode: service_discovery"),
    Bad("no firewall in shared_dns", "dns_mode: shared_dns\n" + fw("enabled: false"), "firewall.enabled",
        "cannot be without", "dns_mode: isolated"),
    Bad("no firewall in routed", ROUTED + fw("enabled: false"), "firewall.enabled", "made of firewall rules",
        "isolated"),
    Bad("off and yet something", fw("allow_from: [192.168.100.0/25]", "enabled: false"), "firewall.allow_from",
        "`allow_from` has no effect where `enabled` is false", "leave it out"),
    Bad("the own subnet blocked", fw("block_networks: [192.168.100.0/24]"), "firewall.block_networks[0]",
        "is the cluster's own subnet", "leave it out"),
    Bad("around the own subnet blocked", fw("block_networks: [192.168.96.0/20]"), "firewall.block_networks[0]",
        "overlaps the cluster's own subnet 192.168.100.0/24",
        "[192.168.96.0/22, 192.168.101.0/24, 192.168.102.0/23, 192.168.104.0/21]"),
    Bad("far around the own subnet blocked", fw("block_networks: [192.0.0.0/8]"), "firewall.block_networks[0]",
        "overlaps", "such as 192.0.0.0/9 and 192.192.0.0/10"),
    Bad("everything blocked", fw("block_networks: [0.0.0.0/0]"), "firewall.block_networks[0]", "cut off from each",
        "egress: deny"),
    Bad("from the own subnet", fw("allow_from: [192.168.100.0/25]"), "firewall.allow_from[0]", "not outside",
        "leave it out"),
    Bad("no such node", fw("expose: ['80:hpc-controler']"), "firewall.expose[0].node", "no node hpc-controler",
        "did you mean hpc-controller?"),
    Bad("a node by DHCP", fw("expose: ['80:hpc-compute-02']"), "firewall.expose[0].node", "whatever DHCP gives",
        "leave out the word DHCP"),
    Bad("a port twice", fw("expose: ['80:hpc-controller', '80:hpc-compute-01:81/tcp']"), "firewall.expose[1].host_port",
        "port 80/tcp of the host is exposed twice, to hpc-controller and to hpc-compute-01", "another host_port"),
    Bad("the default route", ROUTED + "routes: [0.0.0.0/0] #!", "routes[0].to", "default route", "that you mean"),
    Bad("a route to itself", ROUTED + "routes: [192.168.100.0/24] #!", "routes[0].to", "is the cluster's own subnet",
        "leave it out"),
    Bad("a route around itself", ROUTED + "routes: [192.168.100.0/23] #!", "routes[0].to", "overlaps the cluster's own",
        "write the rest of it: [192.168.101.0/24]"),
    Bad("a route twice", ROUTED + "routes: [10.5.0.0/16, {to: 10.5.0.0/16, via: 10.9.9.9}] #!", "routes[1].to",
        "two routes to 10.5.0.0/16", "keep one"),
    Bad("a route to loopback", ROUTED + "routes: [127.0.0.0/8] #!", "routes[0].to", "loopback", "10.50.0.0/16"),
    Bad("a route to multicast", ROUTED + "routes: [224.0.0.0/4] #!", "routes[0].to", "multicast", "10.50.0.0/16"),
    Bad("a route to nowhere", ROUTED + "routes: [240.0.0.0/8] #!", "routes[0].to", "reserved", "10.50.0.0/16"),
    Bad("a route to half of all", ROUTED + "routes: [0.0.0.0/1] #!", "routes[0].to", "reserved", "10.50.0.0/16"),
    Bad("via itself", ROUTED + "routes: [{to: 10.5.0.0/16, via: 192.168.100.1}] #!", "routes[0].via",
        "own gateway", "leave `via` out"),
    Bad("via no host", ROUTED + "routes: [{to: 10.5.0.0/16, via: 192.168.100.255}] #!", "routes[0].via", "no host of",
        "of the router"),
    Bad("via its end", ROUTED + "routes: [{to: 10.5.0.0/16, via: 10.5.0.1}] #!", "routes[0].via",
        "lies in 10.5.0.0/16, to which it shall lead", "leave `via` out"),
    Bad("via loopback", ROUTED + "routes: [{to: 10.5.0.0/16, via: 127.0.0.1}] #!", "routes[0].via",
        "not the address of a router", "the host reaches"),
    Bad("via 224.0.0.9", ROUTED + "routes: [{to: 10.5.0.0/16, via: 224.0.0.9}] #!", "routes[0].via",
        "not the address of a router", "the host reaches"),
    Bad("via 0.0.0.0", ROUTED + "routes: [{to: 10.5.0.0/16, via: 0.0.0.0}] #!", "routes[0].via",
        "not the address of a router", "the host reaches"),
    Bad("via 255.255.255.255", ROUTED + "routes: [{to: 10.5.0.0/16, via: 255.255.255.255}] #!", "routes[0].via",
        "not the address of a router", "the host reaches"),
    Bad("slow check", sd("check: {interval: 2, timeout: 3}"), "service_discovery.check.timeout",
        "a check of 3 s does not fit into 2 s", "at most the interval"),
    Bad("slow check by default", sd("check: {timeout: 9}"), "service_discovery.check.timeout",
        "9 s does not fit into 3",
        "at most"),
    Bad("certificate without key", sd("tls: {cert_file: c}", "address: https://10.0.0.5:8501"),
        "service_discovery.tls.cert_file", "without `key_file`", "write key_file"),
    Bad("key without certificate", sd("tls: {key_file: c}", "address: https://10.0.0.5:8501"),
        "service_discovery.tls.key_file", "without `cert_file`", "write cert_file"),
    Bad("Consul's own domain", "dns_mode: service_discovery\ndomain: hpc.consul #!", "domain",
        "hide Consul's own names",
        "hpc.internal"),
]  # fmt: skip

ADVICE = [
    Bad("resolver elsewhere", "host_resolver: dnsmasq #!", "host_resolver", "no effect in mode isolated", "shared_dns",
        WARNING),
    Bad("firewall off", fw("enabled: false"), "firewall.enabled", "libvirt's rules alone", "docs/modes/isolated.md",
        WARNING),
    Bad("allowed anyway", fw("allow_networks: [10.0.0.0/8]"), "firewall.allow_networks", "no effect", "egress: deny",
        WARNING),
    Bad("everything allowed", fw("allow_networks: [0.0.0.0/0]", "egress: deny"), "firewall.allow_networks[0]",
        "denies nothing", "that you mean", WARNING),
    Bad("allowed and blocked", fw("allow_networks: [10.1.0.0/16]", "egress: deny", "block_networks: [10.0.0.0/8]"),
        "firewall.allow_networks[0]", "overlaps 10.0.0.0/8 in block_networks, which wins", "one of the two", WARNING),
    Bad("let in and blocked", fw("allow_from: [10.1.0.0/16]", "block_networks: [10.0.0.0/8]"),
        "firewall.allow_from[0]", "which wins", "one of the two", WARNING),
    Bad("routed and blocked", ROUTED + "routes: [10.1.0.0/16] #!\nfirewall: {block_networks: [10.0.0.0/8]}",
        "routes[0]", "which wins", "one of the two", WARNING),
    Bad("from everywhere", fw("allow_from: [0.0.0.0/0]"), "firewall.allow_from[0]", "everybody outside",
        "that you mean",
        WARNING),
    Bad("the host's SSH", fw("expose: ['22:hpc-controller']"), "firewall.expose[0].host_port", "the host's own SSH",
        "2222", WARNING),
    Bad("asked server blocked", "dns_servers: [8.8.8.8, 1.1.1.1]\n" + fw("block_networks: [8.8.8.0/24]"),
        "firewall.block_networks", "nodes ask 8.8.8.8 themselves", "write the gateway 192.168.100.1 into", WARNING),
    Bad("asked server denied", "dns_servers: [8.8.8.8, 1.1.1.1]\n" + fw("egress: deny", "allow_networks: [1.1.1.1]"),
        "firewall.egress", "nodes ask 8.8.8.8 themselves, and egress: deny", "allow_networks", WARNING),
    Bad("TLS without https", sd("tls: {ca_file: c}"), "service_discovery.tls", "not encrypted", "https://", WARNING),
    Bad("token in clear text", sd("token_file: t", "address: http://10.0.0.5:8500"), "service_discovery.token_file",
        "in clear text", "https://", WARNING),
]  # fmt: skip


#: What gives no reason to say anything.
QUIET = {
    "the resolver where it has effect": "dns_mode: shared_dns\nhost_resolver: dnsmasq",
    "no resolver": ROUTED + "nat: false",
    "allowed nothing": "firewall: {egress: deny}",
    "allowed beside blocked": "firewall: {egress: deny, allow_networks: [10.0.0.0/9], block_networks: [10.128.0.0/9]}",
    "the gateway asks": "dns_servers: [192.168.100.1, 8.8.8.8]\nfirewall: {egress: deny, block_networks: [8.8.8.0/24]}",
    "asked servers allowed": "dns_servers: [8.8.8.8, 1.1.1.1]\n"
    "firewall: {egress: deny, allow_networks: [8.8.8.8, 1.1.1.0/24], block_networks: [9.9.9.9]}",
    "asked servers where all is allowed": "dns_servers: [8.8.8.8, 1.1.1.1]\nfirewall: {allow_from: [198.51.100.0/24]}",
    "TLS": "dns_mode: service_discovery\nservice_discovery: {address: https://10.0.0.5:8501, token_file: t, tls: {}}",
    "a token on this host": "dns_mode: service_discovery\nservice_discovery: {token_file: t}",
    "a token to localhost": "dns_mode: service_discovery\nservice_discovery: {address: localhost:8500, token_file: t}",
    "no token": "dns_mode: service_discovery\nservice_discovery: {address: 10.0.0.5:8500}",
    "other ports and protocols": "firewall: {expose: [2222:hpc-controller:22, 22:hpc-controller/udp]}",
}


@pytest.mark.parametrize("name", QUIET)
def test_what_is_meant_so_is_not_remarked_upon(name: str, tmp_path: Path) -> None:
    usual = {"the gateway 192.168.100.1 is not among", "hpc-compute-02 takes whatever DHCP gives"}
    found = [p.message for p in problems(tmp_path / "c.yaml", text(QUIET[name]))]
    assert [each for each in found if not each.startswith(tuple(usual))] == []


def test_everything_allowed_is_one_remark_and_not_one_for_each_that_is_blocked(tmp_path: Path) -> None:
    lists = "egress: deny, allow_networks: [0.0.0.0/0], allow_from: [0.0.0.0/0], block_networks: [10.0.0.0/8]"
    found = problems(tmp_path / "c.yaml", text(f"firewall: {{{lists}}}"))
    assert [p.dotted.rpartition(".")[2] for p in found if "firewall" in p.dotted] == [
        "allow_networks[0]",
        "allow_from[0]",
    ]


@pytest.mark.parametrize(
    ("network", "path"),
    [
        ("firewall: {egress: denied, allow_networks: [10.0.0.0/8]}", "firewall.egress"),
        (
            "dns_mode: service_discovery\nservice_discovery: {tls: {cert_file: c, key_file: []}}",
            "service_discovery.tls.key_file",
        ),
        ("firewall: {enabled: false, egress: denied}", "firewall.egress"),
    ],
)
def test_a_wrong_value_invents_no_problem_of_its_neighbours(network: str, path: str, tmp_path: Path) -> None:
    found = [p for p in problems(tmp_path / "c.yaml", text(network)) if "firewall.enabled" not in p.dotted]
    about = [p.dotted.removeprefix("clusters.hpc.network.") for p in found if "network." in p.dotted]
    assert [each for each in about if each != "service_discovery.tls"] == [path]


def problems(path: Path, written: str) -> list[Problem]:
    path.write_text(written)
    return validate(load_file(path))


@pytest.mark.parametrize("bad", [*FORM, *MEANING, *ADVICE], ids=str)
def test_a_mistake_is_reported_with_its_path_line_cause_and_remedy(bad: Bad, tmp_path: Path) -> None:
    written = text(bad.network)
    found = [p for p in problems(tmp_path / "c.yaml", written) if p.severity is bad.severity]
    if bad.severity is Severity.ERROR:
        assert len(found) == 1, [(p.dotted, p.message) for p in found]
    problem = next((p for p in found if p.dotted == f"clusters.hpc.network.{bad.path}"), None)
    assert problem is not None, [(p.dotted, p.message) for p in found]
    assert bad.says in problem.message
    assert bad.hint in problem.hint
    marked = next(i for i, line in enumerate(written.splitlines(), start=1) if line.endswith("#!"))
    assert problem.line == marked


@pytest.mark.parametrize("bad", [*FORM, *MEANING], ids=str)
def test_a_mistake_stops_resolving(bad: Bad, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text(bad.network))
    with pytest.raises(ConfigurationError):
        resolve_all(load_file(path))


@pytest.mark.parametrize("bad", ADVICE, ids=str)
def test_advice_never_stops_resolving(bad: Bad, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text(bad.network))
    assert resolve_all(load_file(path))


def test_a_wrong_mode_invents_no_problems_of_what_belongs_to_a_mode(tmp_path: Path) -> None:
    network = "dns_mode: rooted #!\nnat: false\nroutes: [10.50.0.0/16]\nservice_discovery: {dns_port: 53}"
    found = [p.dotted for p in problems(tmp_path / "c.yaml", text(network)) if p.severity is Severity.ERROR]
    assert found == ["clusters.hpc.network.dns_mode"]


def test_a_wrong_controller_invents_no_problem_of_what_is_exposed_on_it(tmp_path: Path) -> None:
    nodes = f"    controller: 5\n    compute_nodes: [{MACHINE}]\n"
    written = text("firewall: {expose: ['80:hpc-controller']}", nodes)
    found = [p.dotted for p in problems(tmp_path / "c.yaml", written) if p.severity is Severity.ERROR]
    assert found == ["clusters.hpc.controller"]


def test_problems_everywhere_come_in_one_go_in_the_order_of_the_file(tmp_path: Path) -> None:
    network = """\
dns_mode: routed
routes:
  - {to: 10.5.0.1/16}
  - 0.0.0.0/0
firewall:
  egres: deny
  allow_host_ports: [x]
  block_networks: [192.168.100.0/24]
  expose:
    - 80:hpc-controller
    - {host_port: 80, node: 5}
    - {host_port: many, node: hpc-controller}
service_discovery: {address: consul}
"""
    found = [p for p in problems(tmp_path / "c.yaml", text(network)) if p.severity is Severity.ERROR]
    assert [(p.line, p.dotted.removeprefix("clusters.hpc.network.")) for p in found] == [
        (11, "routes[0].to"),
        (14, "firewall.egres"),
        (15, "firewall.allow_host_ports[0]"),
        (16, "firewall.block_networks[0]"),
        (20, "firewall.expose[2].host_port"),
        (21, "service_discovery"),
        (21, "service_discovery.address"),
    ]


def test_long_lists_are_compared_in_no_time(tmp_path: Path) -> None:
    """Ten thousand blocked networks against as many others: pair by pair that would be minutes."""
    far = ", ".join(f"11.{i // 256}.{i % 256}.0/25" for i in range(10_000))
    near = ", ".join(f"11.{i // 256}.{i % 256}.128/25" for i in range(10_000))
    clash = f"allow_from: [{near}, 11.0.0.77]"
    begin = time.process_time()
    found = problems(tmp_path / "c.yaml", text(f"firewall:\n  block_networks: [{far}]\n  {clash}"))
    assert time.process_time() - begin < 30
    assert [p.message for p in found if "wins" in p.message] == [
        "11.0.0.77/32 overlaps 11.0.0.0/25 in block_networks, which wins"
    ]
