"""Every wrong configuration is answered with its path, its place, what is wrong and what to write instead.

The line that a problem must be reported on is marked `#!` in the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from ai_how.config.load import load_file, load_mapping
from ai_how.errors import ConfigurationError, Problem, Severity
from ai_how.spec.known import NOTHING_KNOWN, Known
from ai_how.spec.resolve import resolve_all, validate

NETWORK = "{subnet: 192.168.100.0/24, bridge: br-hpc-cluster}"
MACHINE = "{cpu_cores: 4, memory_gb: 8, disk_gb: 50}"


@dataclass(frozen=True)
class Bad:
    """One mistake, in a cluster that is right otherwise. `text` is the body of `clusters.hpc` or the whole file."""

    name: str
    text: str
    path: str
    says: str
    hint: str
    known: Known = NOTHING_KNOWN
    severity: Severity = Severity.ERROR


def cluster(name: str = "hpc-cluster", network: str = NETWORK, nodes: str = f"[{MACHINE}, {MACHINE}]") -> str:
    return f"""\
clusters:
  hpc:
    name: {name}
    base_image_path: /images/base.qcow2
    network: {network}
    controller: {MACHINE}
    compute_nodes: {nodes}
"""


def network(*lines: str, subnet: str = "192.168.100.0/24", bridge: str = "br-hpc-cluster", nodes: str = "") -> str:
    """A cluster whose network has these further lines."""
    body = "".join(f"\n      {line}" for line in (f"subnet: {subnet}", f"bridge: {bridge}", *lines))
    return cluster(network=body, nodes=nodes or f"[{MACHINE}, {MACHINE}]")


def second(network: str, name: str = "other", nodes: str = "[]") -> str:
    """A right cluster, and one more."""
    return (
        cluster()
        + f"""\
  two:
    name: {name}
    base_image_path: /images/base.qcow2
    network: {network}
    compute_nodes: {nodes}
"""
    )


NET = "clusters.hpc.network"
LEASES = f"{NET}.static_leases"
C1, C2 = "hpc-cluster-compute-01", "hpc-cluster-compute-02"

MEANING = [
    # subnet
    Bad("host bits", network(subnet="192.168.100.5/24 #!"), f"{NET}.subnet", "host bits", "write 192.168.100.0/24"),
    Bad("not a subnet", network(subnet="somewhere #!"), f"{NET}.subnet", "not a subnet", "192.168.100.0/24"),
    Bad("no prefix", network(subnet="10.1.2.0 #!"), f"{NET}.subnet", "no prefix length", "10.1.2.0/24"),
    Bad("impossible prefix", network(subnet="10.0.0.0/33 #!"), f"{NET}.subnet", "not a subnet", "prefix length"),
    Bad("/30", network(subnet="10.0.0.0/30 #!"), f"{NET}.subnet", "too small", "10.0.0.0/29"),
    Bad("/7", network(subnet="10.0.0.0/7 #!"), f"{NET}.subnet", "larger than", "from 8 to 29"),
    Bad("IPv6", network(subnet="fd00::/64 #!"), f"{NET}.subnet", "IPv6", "192.168.100.0/24"),
    Bad("loopback", network(subnet="127.0.0.0/24 #!"), f"{NET}.subnet", "loopback", "private network"),
    Bad("multicast", network(subnet="224.0.1.0/24 #!"), f"{NET}.subnet", "multicast", "private network"),
    Bad("link-local", network(subnet="169.254.0.0/16 #!"), f"{NET}.subnet", "link-local", "private network"),
    Bad("reserved", network(subnet="240.1.0.0/16 #!"), f"{NET}.subnet", "reserved", "private network"),
    Bad(
        "too small for the nodes",
        network(subnet="192.168.100.0/29 #!", nodes="{count: 30, cpu_cores: 1, memory_gb: 1, disk_gb: 1}"),
        f"{NET}.subnet",
        "has 5 addresses for nodes, the cluster has 31 nodes",
        "192.168.100.0/24",
    ),
    Bad(
        "overlaps another cluster",
        second("\n      subnet: 192.168.0.0/16 #!\n      bridge: br-two"),
        "clusters.two.network.subnet",
        "overlaps 192.168.100.0/24, in use by the cluster `hpc`",
        "10.0.0.0/16",
    ),
    Bad(
        "is another cluster's",
        second("\n      subnet: 192.168.100.0/24 #!\n      bridge: br-two"),
        "clusters.two.network.subnet",
        "192.168.100.0/24 is in use by the cluster `hpc`",
        "192.168.101.0/24",
    ),
    Bad(
        "overlaps a route of the host",
        network(subnet="192.168.100.0/24 #!"),
        f"{NET}.subnet",
        "overlaps 192.168.0.0/17, in use by eth0",
        "192.168.128.0/24",
        known=Known(taken=((IPv4Network("192.168.0.0/17"), "eth0"),)),
    ),
    Bad(
        "auto with a fixed address",
        network("gateway_ip: 10.1.1.1", subnet="auto #!"),
        f"{NET}.subnet",
        "`auto` cannot promise the address 10.1.1.1",
        "10.1.1.0/24",
    ),
    Bad(
        "auto without a free one",
        network(subnet="auto #!"),
        f"{NET}.subnet",
        "no free private subnet",
        "CIDR",
        known=Known(taken=tuple((IPv4Network(n), "x") for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))),
    ),
    # gateway
    Bad("gateway outside", network("gateway_ip: 192.168.101.1 #!"), f"{NET}.gateway_ip", "outside", "192.168.100.1"),
    Bad("gateway is network", network("gateway_ip: 192.168.100.0 #!"), f"{NET}.gateway_ip", "network address", ".1"),
    Bad("gateway is broadcast", network("gateway_ip: 192.168.100.255 #!"), f"{NET}.gateway_ip", "broadcast", ".1"),
    Bad(
        "gateway no address", network("gateway_ip: 192.168.100 #!"), f"{NET}.gateway_ip", "not an IPv4", "four numbers"
    ),
    Bad(
        "gateway prefix", network("gateway_ip: 192.168.100.1/24 #!"), f"{NET}.gateway_ip", "not an IPv4", "without the"
    ),
    Bad("leading zeros", network("gateway_ip: 192.168.100.001 #!"), f"{NET}.gateway_ip", "not an", "192.168.100.1"),
    Bad("IPv6 gateway", network("gateway_ip: 'fd00::1' #!"), f"{NET}.gateway_ip", "IPv6", "IPv4 address"),
    # DHCP range
    Bad(
        "range reversed",
        network("dhcp_start: 192.168.100.90", "dhcp_end: 192.168.100.20 #!"),
        f"{NET}.dhcp_end",
        "reversed",
        "dhcp_start: 192.168.100.20 and dhcp_end: 192.168.100.90",
    ),
    Bad("start outside", network("dhcp_start: 192.168.99.1 #!"), f"{NET}.dhcp_start", "outside", "192.168.100.10"),
    Bad("end outside", network("dhcp_end: 192.168.101.1 #!"), f"{NET}.dhcp_end", "outside", "192.168.100.254"),
    Bad("end broadcast", network("dhcp_end: 192.168.100.255 #!"), f"{NET}.dhcp_end", "broadcast", "192.168.100.254"),
    Bad("start network", network("dhcp_start: 192.168.100.0 #!"), f"{NET}.dhcp_start", "network address", ".10"),
    Bad(
        "range contains gateway",
        network("dhcp_start: 192.168.100.1 #!", "dhcp_end: 192.168.100.99"),
        f"{NET}.dhcp_start",
        "contains the gateway 192.168.100.1",
        "dhcp_start: 192.168.100.2",
    ),
    Bad(
        "range contains a late gateway",
        network("gateway_ip: 192.168.100.254", "dhcp_start: 192.168.100.9 #!", "dhcp_end: 192.168.100.254"),
        f"{NET}.dhcp_start",
        "contains the gateway 192.168.100.254",
        "dhcp_end: 192.168.100.253",
    ),
    Bad(
        "range too short",
        network("dhcp_start: 192.168.100.20", "dhcp_end: 192.168.100.20 #!"),
        f"{NET}.dhcp_end",
        "1 of 3 nodes find none, the first is hpc-cluster-compute-02",
        "dhcp_end: 192.168.100.21, or leave it out",
    ),
    Bad(
        "range too short for dynamic nodes",
        network(
            "dhcp_start: 192.168.100.20",
            "dhcp_end: 192.168.100.22 #!",
            nodes="{count: 4, cpu_cores: 1, memory_gb: 1, disk_gb: 1, ip: DHCP}",
        ),
        f"{NET}.dhcp_end",
        "3 addresses left for 4 nodes",
        "dhcp_end: 192.168.100.23, or leave it out",
    ),
    Bad(
        "start too late for the nodes",
        network("dhcp_start: 192.168.100.254 #!"),
        f"{NET}.dhcp_start",
        "1 of 3 nodes find none",
        "lower dhcp_start",
    ),
    # fixed addresses
    Bad(
        "lease outside",
        network("static_leases:", f"  {C1}: 192.168.7.7 #!"),
        f"{LEASES}.{C1}",
        "outside the subnet",
        "from 192.168.100.1 to 192.168.100.254",
    ),
    Bad(
        "lease is gateway",
        network("static_leases:", f"  {C1}: 192.168.100.1 #!"),
        f"{LEASES}.{C1}",
        "is the gateway",
        "192.168.100.2",
    ),
    Bad(
        "lease is broadcast",
        network("static_leases:", f"  {C1}: 192.168.100.255 #!"),
        f"{LEASES}.{C1}",
        "broadcast",
        "from 192.168.100.1",
    ),
    Bad(
        "duplicate lease",
        network("static_leases:", f"  {C1}: 192.168.100.9", f"  {C2}: 192.168.100.9 #!"),
        f"{LEASES}.{C2}",
        f"192.168.100.9 is given to {C1} and to {C2}",
        "192.168.100.2",
    ),
    Bad(
        "two nodes with one address",
        cluster(
            nodes="\n"
            "    - {cpu_cores: 1, memory_gb: 1, disk_gb: 1, ip: 192.168.100.30}\n"
            "    - {cpu_cores: 1, memory_gb: 1, disk_gb: 1, ip_address: 192.168.100.30} #!"
        ),
        "clusters.hpc.compute_nodes[1].ip_address",
        f"192.168.100.30 is given to {C1} and to {C2}",
        "192.168.100.2",
    ),
    Bad(
        "node has the gateway's address",
        cluster(nodes="\n    - {cpu_cores: 1, memory_gb: 1, disk_gb: 1, ip: 192.168.100.1} #!"),
        "clusters.hpc.compute_nodes[0].ip",
        "is the gateway",
        "192.168.100.2",
    ),
    Bad(
        "ip and ip_address disagree",
        cluster(
            nodes="\n    - {cpu_cores: 1, memory_gb: 1, disk_gb: 1, ip: 192.168.100.30, ip_address: 192.168.100.31} #!"
        ),
        "clusters.hpc.compute_nodes[0].ip_address",
        "`ip` is 192.168.100.30 and `ip_address` is 192.168.100.31",
        "keep one",
    ),
    Bad(
        "lease and ip disagree",
        network(
            "static_leases:",
            f"  {C1}: 192.168.100.40 #!",
            nodes="[{cpu_cores: 1, memory_gb: 1, disk_gb: 1, ip: 192.168.100.30}]",
        ),
        f"{LEASES}.{C1}",
        "192.168.100.40 here and 192.168.100.30 in clusters.hpc.compute_nodes[0].ip",
        "the same address in both",
    ),
    Bad(
        "lease for a dynamic node",
        network(
            "static_leases:",
            f"  {C1}: 192.168.100.40 #!",
            nodes="[{cpu_cores: 1, memory_gb: 1, disk_gb: 1, ip: DHCP}]",
        ),
        f"{LEASES}.{C1}",
        "takes DHCP",
        "leave out the lease",
    ),
    Bad(
        "lease for an unknown node",
        network("static_leases:", "  hpc-cluster-compute-1: 192.168.100.40 #!"),
        f"{LEASES}.hpc-cluster-compute-1",
        "no node hpc-cluster-compute-1",
        f"did you mean {C1}?",
    ),
    Bad(
        "address that another node has on the host",
        network("static_leases:", f"  {C1}: 192.168.100.50 #!"),
        f"{LEASES}.{C1}",
        f"{C2} has it on the host",
        f"fix another address for {C2}",
        known=Known(addresses={C2: IPv4Address("192.168.100.50")}),
    ),
    # MACs
    Bad(
        "duplicate MAC",
        network("vm_macs:", f"  {C1}: 52:54:00:00:00:01", f"  {C2}: 52-54-00-00-00-01 #!"),
        f"{NET}.vm_macs.{C2}",
        f"52:54:00:00:00:01 is given to {C1} and to {C2}",
        "leave it out",
    ),
    Bad(
        "multicast MAC",
        network("vm_macs:", f"  {C1}: 53:54:00:00:00:01 #!"),
        f"{NET}.vm_macs.{C1}",
        "multicast",
        "52:54:00:00:00:01",
    ),
    Bad("short MAC", network("vm_macs:", f"  {C1}: 52:54:00 #!"), f"{NET}.vm_macs.{C1}", "not a MAC", "six octets"),
    Bad("zero MAC", network("vm_macs:", f"  {C1}: 0:0 #!"), f"{NET}.vm_macs.{C1}", "not a MAC", "six octets"),
    Bad("fe MAC", network("vm_macs:", f"  {C1}: fe:54:00:00:00:01 #!"), f"{NET}.vm_macs.{C1}", "taps", "52:54:00"),
    Bad(
        "MAC of an unknown node",
        network("vm_macs:", "  controller: 52:54:00:00:00:01 #!"),
        f"{NET}.vm_macs.controller",
        "no node controller",
        "hpc-cluster-controller",
    ),
    # names
    Bad(
        "long bridge",
        network(bridge="br-hpc-cluster-main #!"),
        f"{NET}.bridge",
        "has 19 characters, Linux allows 15",
        "br-hpc-cluster",
    ),
    Bad("bridge with blanks", network(bridge="br hpc #!"), f"{NET}.bridge", "interface name", "br-hpc"),
    Bad("bridge with slash", network(bridge="br/hpc #!"), f"{NET}.bridge", "interface name", "br-hpc"),
    Bad("bridge with a line break", network(bridge='"br-hpc\\n" #!'), f"{NET}.bridge", "interface name", "br-hpc"),
    Bad("empty bridge", network(bridge="'' #!"), f"{NET}.bridge", "an empty text", "br-hpc-cluster"),
    Bad("no bridge", network(bridge=" #!"), f"{NET}.bridge", "got nothing", "br-hpc-cluster"),
    Bad(
        "bridge of another cluster",
        second("\n      subnet: 10.0.0.0/24\n      bridge: br-hpc-cluster #!"),
        "clusters.two.network.bridge",
        "`hpc` and `two` both use the bridge",
        "br-other",
    ),
    Bad("name not a label", cluster(name="HPC_Cluster #!"), "clusters.hpc.name", "not a host name", "hpc-cluster"),
    Bad("name with dots", cluster(name="hpc.cluster #!"), "clusters.hpc.name", "not a host name", "hpc-cluster"),
    Bad("name too long", cluster(name="a" * 64 + " #!"), "clusters.hpc.name", "64 characters", "shorter"),
    Bad(
        "node names too long",
        cluster(name="a" * 55 + " #!"),
        "clusters.hpc.name",
        "-controller has 66 characters",
        "at most 52 characters",
    ),
    Bad(
        "two clusters of one name",
        second("{subnet: 10.0.0.0/24, bridge: br-two}", name="hpc-cluster #!"),
        "clusters.two.name",
        "both called hpc-cluster",
        "hpc-cluster-two",
    ),
    Bad(
        "two nodes of one name",
        cluster(nodes=f"\n    - {MACHINE}\n    - {{cpu_cores: 1, memory_gb: 1, disk_gb: 1, name: {C1}}} #!"),
        "clusters.hpc.compute_nodes[1].name",
        f"two nodes are called {C1}",
        "name of its own",
    ),
    Bad(
        "a node of another cluster's name",
        second(
            "{subnet: 10.0.0.0/24, bridge: br-two}",
            nodes=f"\n    - {{cpu_cores: 1, memory_gb: 1, disk_gb: 1, name: {C1}}} #!",
        ),
        "clusters.two.compute_nodes[0].name",
        f"both have a node {C1}",
        "rename",
    ),
    Bad("domain on two lines", network('domain: "a\\n.b" #!'), f"{NET}.domain", "not a domain name", "a.b"),
    Bad("domain", network("domain: my domain #!"), f"{NET}.domain", "not a domain name", "my-domain"),
    # DNS
    Bad("DNS by name", network("dns_servers: [dns.google] #!"), f"{NET}.dns_servers[0]", "not the address", "8.8.8.8"),
    Bad("loopback DNS", network("dns_servers: [127.0.0.53] #!"), f"{NET}.dns_servers[0]", "guest itself", "gateway"),
    Bad("no DNS", network("dns_servers: [8.8.8.8, 0.0.0.0] #!"), f"{NET}.dns_servers[1]", "guest itself", "gateway"),
    Bad("empty DNS", network("dns_servers: [] #!"), f"{NET}.dns_servers", "is empty", "leave the field out"),
    Bad("one DNS text", network("dns_servers: 8.8.8.8 #!"), f"{NET}.dns_servers", "expected a list", "[192.168.100.1,"),
    Bad("DNS mode", network("dns_mode: isolatd #!"), f"{NET}.dns_mode", "expected isolated, shared_dns", "isolated?"),
    Bad("MTU", network("mtu: 100 #!"), f"{NET}.mtu", "100 is out of range", "from 576 to 65535"),
]

FORM = [
    Bad("unknown key", network("gatway_ip: 192.168.100.1 #!"), f"{NET}.gatway_ip", "no field", "`gateway_ip`?"),
    Bad("later key", network("ipv6: true #!"), f"{NET}.ipv6", "no field", "this version does not have it"),
    Bad("far key", network("zzz: 1 #!"), f"{NET}.zzz", "no field `zzz`", "the fields here are subnet, bridge"),
    Bad("unknown top key", "cluster: {} #!\n" + cluster(), "cluster", "no field", "`clusters`?"),
    Bad("no clusters", "clusters: {} #!\n", "clusters", "is empty", "at least one"),
    Bad("clusters missing", "x-a: 1 #!\n", "clusters", "`clusters` is missing", "begin with"),
    Bad("clusters a list", "clusters: [] #!\n", "clusters", "expected a mapping, got a list", "key: value"),
    Bad(
        "cluster a word", "clusters:\n  hpc: yes #!\n", "clusters.hpc", "expected a mapping, got 'yes'", "name, base_i"
    ),
    Bad(
        "missing bridge",
        cluster(network="{subnet: 10.0.0.0/24} #!"),
        f"{NET}.bridge",
        "`bridge` is missing",
        "bridge: br-hpc-cluster",
    ),
    Bad("missing subnet", cluster(network="{bridge: b} #!"), f"{NET}.subnet", "is missing", "subnet: 192.168.100.0/24"),
    Bad("network a word", cluster(network="lan #!"), NET, "expected a mapping, got 'lan'", "subnet, bridge"),
    Bad(
        "missing cores",
        cluster(nodes="\n      - {memory_gb: 1, disk_gb: 1} #!"),
        "clusters.hpc.compute_nodes[0].cpu_cores",
        "`cpu_cores` is missing",
        "cpu_cores: 4",
    ),
    Bad(
        "node a number",
        cluster(nodes=f"\n      - {MACHINE}\n      - 5 #!"),
        "clusters.hpc.compute_nodes[1]",
        "expected a mapping, got '5'",
        "cpu_cores, memory_gb, disk_gb",
    ),
    Bad("nodes a number", cluster(nodes="4 #!"), "clusters.hpc.compute_nodes", "expected a list, got '4'", "{count: 4"),
    Bad(
        "group without count",
        cluster(nodes="{cpu_cores: 1, memory_gb: 1, disk_gb: 1} #!"),
        "clusters.hpc.compute_nodes.count",
        "`count` is missing",
        "count: 16",
    ),
    Bad(
        "group with one address",
        cluster(nodes="{count: 2, cpu_cores: 1, memory_gb: 1, disk_gb: 1, ip: 192.168.100.9} #!"),
        "clusters.hpc.compute_nodes.ip",
        "cannot serve a whole group",
        "static_leases",
    ),
]


def node(**values: str) -> str:
    """A cluster with one compute node, some of whose values are replaced."""
    fields = {"cpu_cores": "1", "memory_gb": "1", "disk_gb": "1", **values}
    return cluster(nodes="\n      - {" + ", ".join(f"{key}: {value}" for key, value in fields.items()) + "} #!")


VALUES = [
    Bad(f"{field}: {value}", node(**{field: value}), f"clusters.hpc.compute_nodes[0].{field}", says, hint)
    for field, value, says, hint in (
        ("cpu_cores", "0", "0 is out of range", "from 1 to 4096"),
        ("cpu_cores", "-2", "-2 is out of range", "from 1 to 4096"),
        ("cpu_cores", "1.5", "expected a number of CPU cores such as 4, got '1.5'", "whole number"),
        ("cpu_cores", "many", "expected a number of CPU cores such as 4, got 'many'", "whole number"),
        ("cpu_cores", "true", "got 'true'", "whole number"),
        ("cpu_cores", "[4]", "got a list", "whole number"),
        ("cpu_cores", "", "got nothing", "whole number"),
        ("cpu_cores", "9" * 30, "expected a number of CPU cores", "whole number"),
        ("memory_gb", "lots", "expected memory in GiB such as 8, got 'lots'", "without a unit"),
        ("memory_gb", "512MB", "got '512MB'", "write GiB without a unit: 0.5"),
        ("memory_gb", "16 GiB", "got '16 GiB'", "write GiB without a unit: 16"),
        ("memory_gb", "0.3", "0.3 GiB is not a whole number of MiB", "0.25 (256 MiB)"),
        ("memory_gb", "0.001", "out of range", "0.015625 (16 MiB)"),
        ("memory_gb", "-1", "out of range", "16 MiB"),
        ("memory_gb", ".nan", "expected memory in GiB", "without a unit"),
        ("memory_gb", "1e400", "out of range", "65536 GiB"),
        ("disk_gb", "0", "out of range", "1 MiB"),
        ("disk_gb", "1TB", "got '1TB'", "without a unit: 1024"),
        ("ip", "192.168.100.256", "not an IPv4 address", "0 to 255"),
        ("ip", "static", "'static' is not an IPv4 address", "four numbers"),
        ("name", "Login_1", "not a host name", "login-1"),
    )
]

WARNINGS = [
    Bad(name, text, path, says, hint, severity=Severity.WARNING)
    for name, text, path, says, hint in (
        (
            "no gateway given",
            cluster(network="{subnet: 192.168.100.0/24, bridge: br-hpc-cluster} #!"),
            NET,
            "no gateway_ip is given: it is 192.168.100.1",
            "gateway_ip: 192.168.100.1",
        ),
        (
            "controller not fixed",
            cluster().replace("controller: " + MACHINE, f"controller: {MACHINE} #!"),
            "clusters.hpc.controller",
            "no fixed address: it gets 192.168.100.2",
            "ip_address: 192.168.100.2",
        ),
        ("dynamic node", node(ip="dhcp"), "clusters.hpc.compute_nodes[0].ip", "whatever DHCP gives", "reserved one"),
        (
            "single server",
            network("dns_servers: [8.8.8.8] #!"),
            f"{NET}.dns_servers",
            "cluster names will not resolve",
            "192.168.100.1 first",
        ),
        (
            "the gateway alone",
            network("dns_servers: [192.168.100.1] #!"),
            f"{NET}.dns_servers",
            "names outside the clusters will not resolve",
            "[192.168.100.1, 8.8.8.8, 1.1.1.1]",
        ),
        (
            "gateway not asked",
            network("dns_servers: [8.8.8.8, 1.1.1.1] #!"),
            f"{NET}.dns_servers",
            "cluster names will not resolve",
            "192.168.100.1 first",
        ),
        (
            "server twice",
            network("dns_servers: [192.168.100.1, 8.8.8.8, 8.8.8.8] #!"),
            f"{NET}.dns_servers",
            "twice",
            "once",
        ),
        (".local", network("domain: hpc.local #!"), f"{NET}.domain", "RFC 6762", "hpc-cluster.internal"),
        ("common bridge", network(bridge="virbr1 #!"), f"{NET}.bridge", "other programs use", "br-hpc-cluster"),
        ("public subnet", network(subnet="11.0.0.0/16 #!"), f"{NET}.subnet", "not private", "10.0.0.0/16"),
        ("small MTU", network("mtu: 1000 #!"), f"{NET}.mtu", "RFC 8200", "1280"),
        (
            "variable in path",
            cluster().replace("/images/base.qcow2", "$HOME/base.qcow2 #!"),
            "clusters.hpc.base_image_path",
            "variables are not expanded",
            "the path itself",
        ),
        (
            "no machines",
            "clusters:\n  a: #!\n    {name: a, base_image_path: /b, network: " + NETWORK + "}\n",
            "clusters.a",
            "no machines",
            "compute_nodes",
        ),
    )
]


def problems_of(path: Path, text: str, known: Known = NOTHING_KNOWN) -> list[Problem]:
    """What `ai-how validate` would show of a file with this text."""
    path.write_text(text)
    return validate(load_file(path), known=known)


@pytest.mark.parametrize("bad", [*MEANING, *FORM, *VALUES, *WARNINGS], ids=lambda bad: bad.name)
def test_a_mistake_is_reported_with_its_path_line_cause_and_remedy(bad: Bad, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    found = [p for p in problems_of(path, bad.text, bad.known) if p.severity is bad.severity]
    if bad.severity is Severity.ERROR:
        assert len(found) == 1, [(p.dotted, p.message) for p in found]
    problem = next((p for p in found if p.dotted == bad.path), None)
    assert problem is not None, [(p.dotted, p.message) for p in found]
    assert bad.says in problem.message
    assert bad.hint in problem.hint
    marked = next(i for i, line in enumerate(bad.text.splitlines(), start=1) if line.endswith("#!"))
    assert (problem.file, problem.line) == (str(path), marked)
    assert problem.column is not None


@pytest.mark.parametrize("bad", [*MEANING, *FORM, *VALUES], ids=lambda bad: bad.name)
def test_a_mistake_stops_resolving(bad: Bad, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(bad.text)
    with pytest.raises(ConfigurationError) as caught:
        resolve_all(load_file(path), known=bad.known)
    assert bad.says in str(caught.value)


@pytest.mark.parametrize("bad", WARNINGS, ids=lambda bad: bad.name)
def test_advice_never_stops_resolving_and_fails_only_when_strict(bad: Bad, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(bad.text)
    document = load_file(path)
    assert resolve_all(document)
    assert {p.severity for p in validate(document)} == {Severity.WARNING}
    assert {p.severity for p in validate(document, strict=True)} == {Severity.ERROR}


def test_all_problems_come_in_one_go_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
clusters:
  hpc:
    name: hpc-cluster
    base_image_path: /images/base.qcow2
    network:
      subnet: 192.168.100.0/24
      bridge: br hpc
      gateway_ip: 192.168.101.1
      dns_mod: isolated
      static_leases:
        hpc-cluster-compute-07: 192.168.100.7
      vm_macs:
        hpc-cluster-compute-01: 01:00:5e:00:00:01
    controller: {cpu_cores: lots, memory_gb: 8, disk_gb: 50}
    compute_nodes:
      - {cpu_cores: 1, memory_gb: 1, disk_gb: 1, ip: 192.168.200.1}
  two:
    name: Two
    base_image_path: /images/base.qcow2
    network: {subnet: 10.0.0.1/8, bridge: br-two}
"""
    errors = [p for p in problems_of(tmp_path / "c.yaml", text) if p.severity is Severity.ERROR]
    assert [(p.line, p.dotted) for p in errors] == [
        (7, f"{NET}.bridge"),
        (8, f"{NET}.gateway_ip"),
        (9, f"{NET}.dns_mod"),
        (11, f"{LEASES}.hpc-cluster-compute-07"),
        (13, f"{NET}.vm_macs.{C1}"),
        (14, "clusters.hpc.controller.cpu_cores"),
        (16, "clusters.hpc.compute_nodes[0].ip"),
        (18, "clusters.two.name"),
        (20, "clusters.two.network.subnet"),
    ]


def test_problems_of_a_dictionary_have_a_path_and_no_place() -> None:
    machine = {"cpu_cores": 4, "memory_gb": "8", "disk_gb": 50}
    net = {"subnet": "192.168.100.0/24", "bridge": "b" * 20, "vm_macs": {C1: 10297012341}}
    data = {"clusters": {"hpc": {"name": "hpc-cluster", "network": net, "compute_nodes": [machine, None]}}}
    found = {p.dotted: p for p in validate(load_mapping(data)) if p.severity is Severity.ERROR}
    assert set(found) == {
        "clusters.hpc.base_image_path",
        f"{NET}.bridge",
        f"{NET}.vm_macs.{C1}",
        "clusters.hpc.compute_nodes[1]",
    }
    assert {(p.file, p.line, p.column) for p in found.values()} == {(None, None, None)}
    assert "quote the address" in found[f"{NET}.vm_macs.{C1}"].hint


@pytest.mark.parametrize("data", [[], "clusters", None, 5], ids=repr)
def test_data_that_is_no_mapping_is_refused(data: object) -> None:
    with pytest.raises(ConfigurationError, match="expected a mapping"):
        load_mapping(data)  # type: ignore[arg-type]


def test_a_mapping_that_contains_itself_is_refused() -> None:
    data: dict[str, object] = {}
    data["clusters"] = data
    with pytest.raises(ConfigurationError, match="nested too deep"):
        load_mapping(data)
