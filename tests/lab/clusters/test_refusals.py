"""Changes that `up` and `plan` refuse because somebody holds what would be taken, and one that must reach the peers."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import COMES_WITHIN, until

from ai_how.probe.dhcp import take_lease
from ai_how.probe.endpoint import LINK, attached

Ran = subprocess.CompletedProcess[str]
AiHow = Callable[..., Ran]
Virsh = Callable[..., str]
Write = Callable[..., Path]


@pytest.fixture
def hold(virsh: Virsh) -> Iterator[Callable[[str, str], str]]:
    """`hold(bridge, mac)`: the address that DHCP gives to this MAC, which keeps it until the test ends."""
    with ExitStack() as stack:

        def take(bridge: str, mac: str) -> str:
            place, _ = stack.enter_context(attached(bridge, mac, name=mac))
            client = stack.enter_context(place.socket(socket.AF_INET, socket.SOCK_DGRAM))
            held = str(take_lease(client, LINK, mac, within=COMES_WITHIN).ip)
            # dnsmasq's helper writes it down a moment later.
            until(lambda: mac in virsh("net-dhcp-leases", f"{bridge.removeprefix('br-')}-network"), "the lease")
            return held

        yield take


def test_an_address_is_not_given_to_another_while_a_running_node_holds_it(
    ai_how: AiHow, write: Write, virsh: Virsh, hold: Callable[[str, str], str]
) -> None:
    nodes = [{"cpu_cores": 1, "memory_gb": 0.125, "disk_gb": 1, "ip": f"10.44.0.{last}"} for last in (10, 11)]
    assert ai_how("up", write(compute_nodes=nodes), "--no-wait").returncode == 0
    mac = next(word for word in virsh("domiflist", "tried-compute-01").split() if word.startswith("52:54"))
    assert hold("br-tried", mac) == "10.44.0.10"
    nodes[0]["ip"], nodes[1]["ip"] = "10.44.0.20", "10.44.0.10"
    swapped = write(compute_nodes=nodes)
    before = virsh("net-dumpxml", "tried-network")
    for verb in ("plan", "up"):
        refused = ai_how(verb, swapped)
        assert refused.returncode == 3
        assert (
            "10.44.0.10 would become the address of tried-compute-02, and tried-compute-01 holds it" in refused.stderr
        )
    assert virsh("net-dumpxml", "tried-network") == before
    # The control: once its holder is off, it is anybody's.
    virsh("destroy", "tried-compute-01")
    assert ai_how("up", swapped, "--no-start", "--no-wait").returncode == 0


def test_the_pool_is_not_shrunk_below_a_lease_in_use(
    ai_how: AiHow, write: Write, hold: Callable[[str, str], str]
) -> None:
    pool = {"dhcp_start": "10.44.0.10", "dhcp_end": "10.44.0.100"}
    assert ai_how("up", write(network=pool), "--no-start").returncode == 0
    guest = hold("br-tried", "52:54:00:67:00:11")
    last = guest.rpartition(".")[2]
    assert 11 < int(last) <= 100, "a pool that gives the lowest address first would prove nothing here"
    refused = ai_how("up", write(network=pool | {"dhcp_end": f"10.44.0.{int(last) - 1}"}), "--no-start")
    assert refused.returncode == 3
    assert f"the DHCP pool would no longer have {guest}, which 52:54:00:67:00:11 holds" in refused.stderr
    # The control: down to that lease it may.
    assert ai_how("up", write(network=pool | {"dhcp_end": guest}), "--no-start").returncode == 0


def test_a_gateway_that_moves_is_told_to_the_peers(ai_how: AiHow, write: Write, ask: Callable[[str, str], str]) -> None:
    def cluster(name: str, third: int, **network: Any) -> Path:
        subnet = {"subnet": f"10.{third}.0.0/24", "dns_mode": "shared_dns", "host_resolver": "none"}
        return write(f"{name}.yaml", name=name, nodes=1, network=subnet | network)

    assert ai_how("up", cluster("one", 51), "--no-wait").returncode == 0
    assert ai_how("up", cluster("two", 52), "--no-wait").returncode == 0
    assert ask("10.52.0.1", "one-controller.one.internal") == "10.51.0.2"
    moved = cluster("one", 51, gateway_ip="10.51.0.254")
    planned = json.loads(ai_how("plan", moved, "--json").stdout)["steps"]
    assert ("servers", "two-network") in {(step["kind"], step["key"]) for step in planned}
    assert [step["disturbs"] for step in planned if step["kind"] == "network"] == [["one-controller"]]
    assert ai_how("up", moved, "--no-wait", "--yes").returncode == 0
    assert ask("10.52.0.1", "one-controller.one.internal") == "10.51.0.2"
    assert ask("10.51.0.254", "two-controller.two.internal") == "10.52.0.2"


@pytest.fixture
def ask() -> Callable[[str, str], str]:
    """`ask(server, name)`: the address that the server answers with, empty where it has none."""
    from dns.resolver import NXDOMAIN, NoAnswer, NoNameservers, Resolver

    def of(server: str, name: str) -> str:
        resolver = Resolver(configure=False)
        resolver.nameservers = [server]
        resolver.lifetime = COMES_WITHIN  # it asks again all the time
        try:
            return str(next(iter(resolver.resolve(name, "A"))))
        except (NXDOMAIN, NoAnswer, NoNameservers):
            return ""

    return of
