"""What is left of clusters that are not there any more: found, told from what others have, and removed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.consul_agent import agent

from ai_how.compile.hook import LOG, UNKNOWN
from ai_how.host import memory
from ai_how.resources.hook import PATH as HOOK_PATH

Ran = subprocess.CompletedProcess[str]
AiHow = Callable[..., Ran]
Virsh = Callable[..., str]
Write = Callable[..., Path]
View = dict[str, list[str]]

DNSMASQ = Path("/var/lib/libvirt/dnsmasq")
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")

#: What libvirt keeps of networks that it was not asked to forget.
LIBVIRTS = "/run/libvirt/network/"

#: What moves by itself where a bridge is: its clocks, and a carrier that is noticed a moment later.
MOVING = re.compile(r"\w+_timer +[\d.]+|NO-CARRIER,|,LOWER_UP| state \w+| linkdown")


def sh(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def ok(ran: Ran) -> str:
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture
def host_as_before(
    look_at_host: Callable[[], View], compare: Callable[[View, View], list[str]], machine_room: None
) -> Iterator[Callable[[], list[str]]]:
    """How the host differs from what it was when the test began; nothing when the test ends."""
    before = look_at_host()

    def differs() -> list[str]:
        return [line for line in compare(still(before), still(look_at_host())) if LIBVIRTS not in line]

    yield differs
    assert differs() == []


@pytest.fixture
def gc(ai_how: AiHow, folder: Path) -> Callable[..., dict[str, Any]]:
    """What `ai-how gc WORDS… --json` says, asked by somebody whose state file knows nothing."""

    def call(*words: object, code: int = 0) -> dict[str, Any]:
        ran = ai_how("gc", *words, "--json", "--state", folder / "another_state.json")
        assert ran.returncode == code, ran.stdout + ran.stderr
        said: dict[str, Any] = json.loads(ran.stdout)
        return said

    return call


def still(view: View) -> View:
    return {part: [MOVING.sub("", line) for line in lines] for part, lines in view.items()}


def names(leftovers: list[dict[str, Any]]) -> set[str]:
    return {f"{each['kind']} {each['key']}" for each in leftovers}


def lose_network(virsh: Virsh, cluster: str) -> None:
    """Somebody takes the network of a cluster away, and what libvirt has of it."""
    virsh("net-destroy", f"{cluster}-network")
    virsh("net-undefine", f"{cluster}-network")


OF_THE_HOST = {
    "sysctl net.ipv4.ip_forward",
    "firewall ai_how",
    f"hook {HOOK_PATH}",
    "servers tried-network",
    f"file {DNSMASQ}/ai-how-tried-network.hosts",
    f"file {DNSMASQ}/ai-how-tried-network.names",
}


def test_a_cluster_whose_network_is_gone_is_listed_with_all_that_would_be_lost_and_removed(
    write: Write,
    ai_how: AiHow,
    virsh: Virsh,
    gc: Callable[..., dict[str, Any]],
    folder: Path,
    host_as_before: Callable[[], list[str]],
) -> None:
    path = write(nodes=2)
    ok(ai_how("up", path, "--no-start"))
    lose_network(virsh, "tried")
    expected = OF_THE_HOST | {"domain tried-controller", "domain tried-compute-01", "pool ai-how-tried"}

    # Whoever brought it up still knows it: its machines are to stay, and `up` makes it whole.
    said = json.loads(ok(ai_how("gc", "--json")))
    assert names(said["leftovers"]) == OF_THE_HOST
    assert names(gc(path)["leftovers"]) == OF_THE_HOST

    said = gc()
    assert names(said["leftovers"]) == expected
    assert said["removed"] == []
    (controller,) = [each for each in said["leftovers"] if each["key"] == "tried-controller"]
    assert controller["cluster"] == "tried"
    assert "/ai-how-tried/tried-controller.qcow2 with all data" in controller["loss"]
    assert "tried-controller" in virsh("list", "--all", "--name")

    said = gc("--yes")
    assert names(said["removed"]) == expected
    assert said["leftovers"] == []
    (folder / "cluster_state.json").unlink()
    assert host_as_before() == []


def test_what_is_only_listed_stays_as_it_is(
    write: Write, ai_how: AiHow, virsh: Virsh, look_at_host: Callable[[], View], compare: Callable[..., list[str]]
) -> None:
    ok(ai_how("up", write(nodes=1), "--no-start"))
    lose_network(virsh, "tried")
    Path("cluster_state.json").unlink()
    before = look_at_host()
    said = ok(ai_how("gc"))
    assert "all data" in said
    assert compare(still(before), still(look_at_host())) == []
    assert "removed" in ok(ai_how("gc", "--yes"))
    assert "no leftovers" in ok(ai_how("gc"))


def test_healthy_clusters_of_other_files_and_of_all_modes_have_no_leftovers(
    write: Write, ai_how: AiHow, gc: Callable[..., dict[str, Any]], look_at_host: Callable[[], View]
) -> None:
    one = write("one.yaml", name="one", network={"subnet": "10.45.0.0/24"}, cloud_init=True)
    two = write("two.yaml", name="two", network={"subnet": "10.46.0.0/24", "dns_mode": "shared_dns", "host_resolver": "none"})
    off = write("off.yaml", name="off", network={"subnet": "10.47.0.0/24", "firewall": {"enabled": False}})
    via = [{"to": "10.99.0.0/24", "via": "203.0.113.1"}]
    way = write("way.yaml", name="way", network={"subnet": "10.48.0.0/24", "dns_mode": "routed", "routes": via})
    for path in (one, two, off, way):
        ok(ai_how("up", path, "--no-start"))
    ok(ai_how("down", two))
    before = look_at_host()
    assert gc() == {"leftovers": [], "removed": [], "unseen": []}
    assert gc("--yes") == {"leftovers": [], "removed": [], "unseen": []}
    assert still(look_at_host()) == still(before)
    for path in (one, two, off, way):
        ok(ai_how("destroy", path, "--yes"))
