"""What tests of names share: networks that are up, machines that ask, and a count of what is asked outside.

A machine is a network namespace on the bridge. What leaves the host is counted at the uplink.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from tests.waiting import until

from ai_how.compile.cluster import compile_network
from ai_how.compile.host import Surroundings, compile_host
from ai_how.config.load import load_mapping
from ai_how.host.libvirt import Libvirt
from ai_how.probe import packets
from ai_how.probe.place import named
from ai_how.providers import network as networks
from ai_how.providers import servers
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.servers import Servers
from ai_how.spec.resolve import resolve_all

#: Run in a machine: what the server of argument 1 answers to each of the other arguments, `NAME/TYPE`, as JSON. It is
#: asked twice, 5 s apart, as by every program (resolv.conf(5)).
ASK = """
import json, sys, time
import dns.exception, dns.message, dns.query, dns.rcode
def ask(name, kind):
    begun = time.monotonic()
    for _ in range(2):
        try:
            said = dns.query.udp(dns.message.make_query(name, kind), sys.argv[1], timeout=5)
        except dns.exception.Timeout:
            continue
        found = [data.to_text() for answer in said.answer for data in answer]
        return dns.rcode.to_text(said.rcode()), found, time.monotonic() - begun
    return "TIMEOUT", [], time.monotonic() - begun
print(json.dumps([ask(*each.split("/")) for each in sys.argv[2:]]))
"""
#: Seconds in which whoever has to wait for no timeout has an answer: the shortest timeout is 5.
WITHOUT_A_TIMEOUT = 4.0
COUNTER = """
table inet counted {
  counter left { }
  chain leaving {
    type filter hook postrouting priority 300
    oifname "uplink" meta l4proto { tcp, udp } th dport 53 counter name left
  }
}
"""


@dataclass(frozen=True)
class Answer:
    rcode: str
    found: list[str]
    seconds: float


@dataclass(frozen=True)
class Machine:
    """A machine of a cluster, and the gateway it asks."""

    namespace: str
    gateway: IPv4Address

    def asks(self, *questions: str, server: object = None) -> list[Answer]:
        """The answers to `NAME` or `NAME/TYPE`; a name of digits is one in in-addr.arpa."""
        words = [_question(each) for each in questions]
        argv = ["ip", "netns", "exec", self.namespace, sys.executable, "-c", ASK, str(server or self.gateway), *words]
        done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
        return [Answer(*each) for each in json.loads(done.stdout)]


def _question(text: str) -> str:
    name, _, kind = text.partition("/")
    if name.replace(".", "").isdigit():
        return f"{IPv4Address(name).reverse_pointer}/PTR"
    return f"{name}/{kind or 'A'}"


@dataclass(frozen=True)
class Up:
    """Networks that are up, and a machine on each, by the name of the cluster."""

    libvirt: Libvirt
    networks: dict[str, VirtualNetwork]
    machines: dict[str, Machine]

    def __getitem__(self, cluster: str) -> Machine:
        return self.machines[cluster]


def cluster(name: str, subnet: str, mode: str = "shared_dns", **network: Any) -> dict[str, Any]:
    """A cluster of two nodes, NAME-controller and NAME-compute-01."""
    machine = {"cpu_cores": 1, "memory_gb": 1, "disk_gb": 1}
    return {
        "name": name,
        "base_image_path": "/dev/null",
        "network": {"subnet": subnet, "bridge": f"br-{name}", "dns_mode": mode} | network,
        "controller": machine,
        "compute_nodes": [machine],
    }


def compiled(clusters: Sequence[Mapping[str, Any]]) -> tuple[list[VirtualNetwork], list[Servers]]:
    document = load_mapping({"clusters": {each["name"]: each for each in clusters}})
    made = [compile_network(each, active=True) for each in resolve_all(document)]
    return made, [each for each in compile_host(made, Surroundings()) if isinstance(each, Servers)]


@contextlib.contextmanager
def up(*clusters: Mapping[str, Any]) -> Iterator[Up]:
    """Everything of these clusters that answers for names."""
    made, files = compiled(clusters)
    with contextlib.ExitStack() as stack:
        libvirt = stack.enter_context(Libvirt())
        for file in files:
            stack.callback(servers.remove, libvirt, file)
            servers.create(libvirt, file)
        for each in made:
            stack.callback(networks.remove, libvirt, each)
            networks.create(libvirt, each)
        machines = {each.cluster: stack.enter_context(_machine(each)) for each in made}
        yield Up(libvirt, {each.cluster: each for each in made}, machines)


@contextlib.contextmanager
def _machine(network: VirtualNetwork) -> Iterator[Machine]:
    name = f"of-{network.cluster}"
    # Not one of the nodes' own addresses: none is taken from the end of the subnet.
    ip = network.subnet.broadcast_address - 1
    batch = f"""
        netns add {name}
        link add {name} type veth peer name eth0 netns {name}
        link set {name} master {network.bridge} up
        -n {name} link set lo up
        -n {name} link set eth0 up
        -n {name} addr add {ip}/{network.subnet.prefixlen} dev eth0
        -n {name} route add default via {network.gateway}
    """
    try:
        for line in batch.strip().splitlines():
            subprocess.run(["ip", *line.split()], check=True, timeout=60)
        wait_for_gateway(network)
        yield Machine(name, network.gateway)
    finally:
        # With its namespace the link would go by itself, some time later.
        for words in (["link", "delete", name], ["netns", "delete", name]):
            subprocess.run(["ip", *words], check=False, timeout=60)


def wait_for_gateway(network: VirtualNetwork) -> None:
    """Until the network's machine reaches its gateway, whose dnsmasq serves: what is sent while the machine's port does
    not forward yet is lost, and what a dnsmasq that starts sends itself would be counted."""
    own = next(each.name for each in network.reservations if each.name)
    with named(f"of-{network.cluster}") as place:
        until(
            lambda: packets.ask(packets.dns(place, network.gateway, f"{own}.{network.domain}")).said,
            f"the gateway of {network.name} answers",
        )


@contextlib.contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """How many packets with questions have left the host by the uplink since this was last asked.

    Asking starts it: a dnsmasq that starts, or gets new servers, sends each a question to find loops.
    """
    before = 0

    def count() -> int:
        nonlocal before
        listed = subprocess.run(
            ["nft", "--json", "list", "counter", "inet", "counted", "left"], check=True, capture_output=True, text=True
        )
        entries = json.loads(listed.stdout)["nftables"]
        now = next(int(each["counter"]["packets"]) for each in entries if "counter" in each)
        new, before = now - before, now
        return new

    subprocess.run(["nft", "-f", "-"], input=COUNTER, text=True, check=True)
    yield count
    subprocess.run(["nft", "delete", "table", "inet", "counted"], check=True)
