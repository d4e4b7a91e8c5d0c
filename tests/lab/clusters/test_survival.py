"""What holds for clusters still holds after a restart of libvirtd, of a network, of the host, and after somebody has
flushed all rules: each in a lab of its own, which is the host here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.lab.clusters.conftest import COMMAND_DEADLINE

from ai_how.compile.hook import LOG
from ai_how.lab import Lab

#: Two routed clusters and one that keeps to itself; the first has a route by the LAN, and one by a node of its own.
LONELY, ONE, OTHER = "lonely", "one", "other"
NETWORKS: dict[str, dict[str, Any]] = {
    LONELY: {"subnet": "10.44.0.0/24", "bridge": "br-lonely"},
    ONE: {
        "subnet": "10.45.0.0/24",
        "bridge": "br-one",
        "dns_mode": "routed",
        "routes": [{"to": "10.77.0.0/16", "via": "203.0.113.9"}, {"to": "10.78.0.0/16", "via": "10.45.0.2"}],
    },
    OTHER: {"subnet": "10.46.0.0/24", "bridge": "br-other", "dns_mode": "routed"},
}

#: What endpoints on the three bridges reach, as JSON: the web, each other and each other's names. The words that it is
#: given say what should be reached: on a busy machine that is tried again, and all else once.
ENDPOINTS = f"""
import itertools, json, sys
from contextlib import ExitStack
from ai_how.lab import INTERNET
from ai_how.probe.endpoint import endpoint
from ai_how.probe.packets import ask, dns, ping

def reaches(a, target):
    return ask(ping(a.place, target)).replied

def names(a, b, name):
    return ask(dns(a.place, a.gateway, f"{{name}}-controller.{{name}}.internal")).said == (str(b.gateway + 1),)

with ExitStack() as stack:
    at = {{name: stack.enter_context(endpoint(f"br-{{name}}", f"52:54:00:ff:ff:0{{number}}", name=name, within=60))
          for number, name in enumerate({[*NETWORKS]!r})}}
    tries = {{f"{{name}} → web": (reaches, each, INTERNET.web) for name, each in at.items()}}
    for a, b in itertools.permutations(at, 2):
        tries[f"{{a}} → {{b}}"] = (reaches, at[a], at[b].ip)
        tries[f"{{a}} names {{b}}"] = (names, at[a], at[b], b)
    said = {{
        what: any(holds(*ends) for _ in range(20 if what in sys.argv else 1)) for what, (holds, *ends) in tries.items()
    }}
print(json.dumps(said))
"""
REACHED = {
    "one → other",
    "other → one",
    "one names other",
    "other names one",
    *(f"{name} → web" for name in NETWORKS),
}

RESTART = """
pid=$(cat /run/libvirtd.pid); kill "$pid"
while [ -e "/proc/$pid" ]; do sleep 0.02; done
libvirtd -d
until virsh -q list > /dev/null 2>&1; do sleep 0.02; done
"""
#: All that a restart of the host takes: processes, links, rules, routes, settings and /run, as far as it is libvirt's
#: and ours. The uplink is there before libvirt is.
REBOOT = """
for file in /run/libvirtd.pid /run/libvirt/network/*.pid; do # without an end of line
    pid=$(cat "$file")
    kill -9 "$pid" 2> /dev/null || continue # libvirt leaves the PID files of what has ended
    while [ -e "/proc/$pid" ]; do sleep 0.02; done
done
while pgrep -x dnsmasq | grep -qv "$(cat /run/ai-how-lab/internet-dns.pid)"; do sleep 0.02; done
for link in /sys/class/net/br-*; do ip link del "${link##*/}"; done
nft flush ruleset
ip route flush proto 97
echo 0 > /proc/sys/net/ipv4/ip_forward
rm -rf /run/libvirt /run/libvirtd.pid /run/ai-how-hook.* /run/ai-how.lock
libvirtd -d
until [ "$(virsh -q net-list --name 2> /dev/null | wc -w)" = 3 ]; do sleep 0.02; done
"""
DELETE_OUR_TABLES = "nft -a list tables | sed -n 's/.*table \\(.* ai_how\\)/delete table \\1/p' | nft -f -"


class Host:
    """A lab with the three clusters, their machines off."""

    def __init__(self, lab: Lab, path: Path) -> None:
        self.lab, self.path = lab, path

    def sh(self, script: str) -> str:
        ran = self.lab.run(["sh", "-ec", script], timeout=COMMAND_DEADLINE)
        assert ran.returncode == 0, f"{script}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def up(self, name: str) -> str:
        argv = ["-m", "ai_how", "up", str(self.path), "--cluster", name, "--no-start", "--no-wait"]
        ran = self.lab.run([sys.executable, *argv], timeout=COMMAND_DEADLINE)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def nothing_to_do(self) -> None:
        for name in NETWORKS:
            assert "nothing to do" in self.up(name)

    def holds(self) -> str:
        """All that must survive, as text."""
        return self.sh(
            "for family in $(nft list tables | sed -n 's/^table \\([a-z]*\\) ai_how$/\\1/p'); do"
            '  nft --stateless list table "$family" ai_how; done;'
            # A bridge whose last link went or came says so a moment later.
            "ip route show proto 97 | sed 's/ linkdown//'; cat /proc/sys/net/ipv4/ip_forward;"
            " virsh -q net-list --name | sort"
        )

    def reached(self, *should: str) -> set[str]:
        """What packets reach, by the words of ENDPOINTS; what `should` be, or all of REACHED."""
        ran = self.lab.run([sys.executable, "-c", ENDPOINTS, *(should or REACHED)], timeout=COMMAND_DEADLINE)
        assert ran.returncode == 0, ran.stderr
        return {what for what, replied in json.loads(ran.stdout).items() if replied}


def _host(lab: Lab, folder: Path, image: Path) -> Host:
    # As Debian's package makes it.
    lab.run(["mkdir", "-p", "/var/lib/libvirt/dnsmasq"], check=True)
    machine = {"cpu_cores": 1, "memory_gb": 0.125, "disk_gb": 1}
    path = folder / "clusters.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "clusters": {
                    name: {
                        "name": name,
                        "base_image_path": str(image),
                        "network": network,
                        "controller": machine,
                        "compute_nodes": [],
                    }
                    for name, network in NETWORKS.items()
                }
            }
        )
    )
    host = Host(lab, path)
    for name in NETWORKS:
        host.up(name)
    return host


@pytest.fixture
def host(nested_lab: Callable[..., Lab], folder: Path, blank_image: Path) -> Host:
    return _host(nested_lab(internet=True), folder, blank_image)


@pytest.fixture(params=["the system's libvirt", "the new libvirt"])
def either_host(
    request: pytest.FixtureRequest, nested_lab: Callable[..., Lab], folder: Path, blank_image: Path
) -> Host:
    root = None if request.param == "the system's libvirt" else request.getfixturevalue("new_libvirt")
    return _host(nested_lab(internet=True, libvirt_root=root), folder, blank_image)


def test_restart_of_libvirtd_leaves_everything_in_force(host: Host) -> None:
    before = host.holds()
    assert "10.78.0.0/16 via 10.45.0.2 dev br-one" in before
    assert host.reached() == REACHED
    host.sh(RESTART)
    assert host.holds() == before
    assert host.reached() == REACHED
    host.nothing_to_do()


def test_network_that_is_stopped_and_started_by_hand_gets_all_of_it_again(host: Host) -> None:
    before = host.holds()
    host.sh(f"virsh net-destroy one-network; {DELETE_OUR_TABLES}; echo 0 > /proc/sys/net/ipv4/ip_forward")
    assert "table inet ai_how" not in host.holds()
    assert "10.78.0.0/16 via" not in host.holds()
    host.sh("virsh net-start one-network")
    assert host.holds() == before
    assert host.reached() == REACHED
    host.nothing_to_do()


def test_cluster_with_a_route_by_its_own_node_goes_down_and_up(host: Host) -> None:
    before = host.holds()
    ran = host.lab.run([sys.executable, "-m", "ai_how", "down", ONE, "--timeout", "0"], timeout=COMMAND_DEADLINE)
    assert ran.returncode == 0, ran.stderr
    assert "10.78.0.0/16 via" not in host.holds()
    host.up(ONE)
    assert host.holds() == before


def test_flushed_rules_come_back_with_up(host: Host) -> None:
    """libvirt makes its own anew when it starts again; until then its NAT is ours, as everything that is denied is."""
    before = host.holds()
    host.sh("nft flush ruleset")
    assert "table inet ai_how" not in host.holds()
    assert "lonely → one" in host.reached("lonely → one"), (
        "without rules nothing is apart: what follows is our table's doing"
    )
    assert "nothing to do" not in host.up(ONE)
    assert host.holds() == before
    assert host.reached() == REACHED
    host.nothing_to_do()
    host.sh(RESTART)
    assert host.reached() == REACHED
    host.nothing_to_do()


def test_restart_of_the_host_brings_everything_back_without_ai_how(either_host: Host) -> None:
    before = either_host.holds()
    either_host.sh(REBOOT)
    assert either_host.holds() == before
    assert either_host.reached() == REACHED
    either_host.nothing_to_do()
    assert either_host.sh(f"cat {LOG} 2> /dev/null || true") == ""


def test_network_of_ours_is_not_started_where_its_rules_cannot_be_loaded(host: Host) -> None:
    host.sh("virsh net-destroy one-network; echo nonsense > /var/lib/ai-how/firewall.json")
    refused = host.lab.run(["virsh", "net-start", "one-network"], timeout=COMMAND_DEADLINE)
    assert refused.returncode != 0
    assert "its rules cannot be loaded, so network one-network is not started" in refused.stderr
    assert not host.sh("ip -o link show type bridge | grep br-one || true")
    host.sh("echo \"<network><name>theirs</name><bridge name='theirs'/></network>\" > /run/theirs.xml")
    host.sh("virsh net-create /run/theirs.xml")
    assert "theirs" in host.holds()
