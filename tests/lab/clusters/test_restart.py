"""A restart of the network under running nodes: by `up` because a change needs it, or by somebody with virsh.

The machines run on in every case (same QEMU), and their packets pass again. How long the host's pings to a node were
not answered is measured, and printed at the end of each test (pytest -s); one test judges it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.lab.clusters.conftest import COMMAND_DEADLINE, answers
from tests.lab.pings import INTERVAL, Meter
from tests.waiting import COMES_WITHIN, until, until_ended

from ai_how.engine import traffic
from ai_how.engine.answering import answering
from ai_how.engine.events import silent
from ai_how.engine.observe import observe
from ai_how.errors import NotReady
from ai_how.host.libvirt import Libvirt
from ai_how.lab import INTERNET
from ai_how.plan.plan import make_plan
from ai_how.probe.place import here

Ran = subprocess.CompletedProcess[str]
AiHow = Callable[..., Ran]
Virsh = Callable[..., str]
Write = Callable[..., Path]
InGuest = Callable[..., Ran]

CONTROLLER, COMPUTE = "tried-controller", "tried-compute-01"

#: ip(7): an address that is not there yet.
IP_FREEBIND = 15

#: Seconds for which a node may be cut off: the network stops and starts, an emulated guest sees its link and asks DHCP.
#: So often it is tried: a busy machine may have had others to serve just then. That all answer again within
#: `traffic.AFTER_WITHIN`, `up` itself sees to each time.
LONGEST, TRIES = 20.0, 3


def pids() -> dict[str, str]:
    """Machine → the process that runs it."""
    files = Path("/run/libvirt/qemu").glob("*.pid")
    return {file.stem: file.read_text() for file in files if file.stem.startswith("tried-")}


def nothing_to_do(ai_how: AiHow, path: Path) -> bool:
    ran = ai_how("plan", path, "--exit-code")
    assert ran.returncode in (0, 1), ran.stderr
    return ran.returncode == 0


def changed(ai_how: AiHow, path: Path) -> dict[str, set[str]]:
    """What `plan` would change: kind and key → fields."""
    plan = json.loads(ai_how("plan", path, "--json").stdout)
    return {
        f"{each['kind']} {each['key']}": {field["field"] for field in each["fields"]}
        for each in plan["steps"]
        if each["action"] == "change"
    }


@contextmanager
def outage(*addresses: str) -> Iterator[list[float]]:
    """Ping a node at these addresses, before and after. Then the list has the seconds for which it was silent."""
    found: list[float] = []
    with here() as host, Meter() as meter:
        streams = [meter.ping(host, IPv4Address(each), each) for each in addresses]

        def answered() -> list[float]:
            pairs = (pair for each in streams for pair in zip(each.sent, each.answered, strict=False))
            return sorted(at for at, came in pairs if came)

        def wait_for_one(after: float) -> None:
            until(lambda: any(at > after for at in answered()), f"a ping to {addresses} is answered")

        wait_for_one(0)
        yield found
        wait_for_one(time.monotonic())
        times = answered()
        found.append(gap := max(later - earlier for earlier, later in pairwise(times)))
        print(f"\n{' → '.join(addresses)}: silent for {gap:.2f} s, {gap / INTERVAL:.0f} pings lost at 50 a second")


def passes(in_guest: InGuest, node: str, *targets: str) -> None:
    """A guest whose link came back asks DHCP anew, and for a moment has no address to ping from."""
    for target in targets:
        until(partial(answers, in_guest, node, target), f"{node} → {target}")


def restart_libvirtd() -> None:
    daemon = int(Path("/run/libvirtd.pid").read_text())
    os.kill(daemon, signal.SIGTERM)
    until_ended(daemon)
    subprocess.run(["libvirtd", "--daemon"], check=True)
    until(lambda: subprocess.run(["virsh", "list"], check=False, capture_output=True).returncode == 0, "libvirtd")


def ask(bridge: str, *addresses: str, within: float = COMES_WITHIN) -> set[str]:
    return {str(each) for each in answering(bridge, [IPv4Address(each) for each in addresses], within)}


@pytest.fixture
def cluster(write: Write, micro_image: Path, ai_how: AiHow) -> Callable[..., Path]:
    """`cluster(nodes=…, subnet=…)`: a running cluster of micro guests with this in its network; its configuration."""

    def run(*, nodes: int = 1, **network: Any) -> Path:
        path = write(nodes=nodes, base_image_path=str(micro_image), network=network)
        ran = ai_how("up", path)
        assert ran.returncode == 0, ran.stderr
        return path

    return run


@pytest.fixture
def change(write: Write, micro_image: Path, ai_how: AiHow) -> Callable[..., Ran]:
    """The same configuration with another network, brought up at the cost of a restart."""

    def run(*, nodes: int = 1, **network: Any) -> Ran:
        path = write(nodes=nodes, base_image_path=str(micro_image), network=network)
        before = pids()
        ran = ai_how("up", path, "--yes")
        assert ran.returncode == 0, ran.stderr
        assert pids() == before
        assert nothing_to_do(ai_how, path)
        return ran

    return run


def test_subnet_changes_under_running_nodes_which_then_answer_at_their_new_addresses(
    cluster: Callable[..., Path], change: Callable[..., Ran], in_guest: InGuest, ai_how: AiHow, clean_host: None
) -> None:
    path = cluster(nodes=2)
    assert ask("br-tried", "10.44.0.2", "10.44.0.10") == {"10.44.0.2", "10.44.0.10"}
    with outage("10.44.0.2", "10.45.0.2"):
        said = change(nodes=2, subnet="10.45.0.0/24").stderr
    assert "waiting until 2 nodes answer again" in said
    assert "keeps 10.44" not in said
    assert ask("br-tried", "10.45.0.2", "10.45.0.10") == {"10.45.0.2", "10.45.0.10"}
    leases = json.loads(ai_how("leases", path, "--json").stdout)
    assert {each["node"]: each["ip"] for each in leases} == {CONTROLLER: "10.45.0.2", COMPUTE: "10.45.0.10"}
    passes(in_guest, CONTROLLER, "10.45.0.10", f"{COMPUTE}.tried.internal", str(INTERNET.resolvers[0]), INTERNET.name)
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_bridge_changes_under_running_nodes(
    cluster: Callable[..., Path], change: Callable[..., Ran], in_guest: InGuest, ai_how: AiHow, clean_host: None
) -> None:
    path = cluster(nodes=2)
    with outage("10.44.0.2"):
        change(nodes=2, bridge="br-other")
    passes(in_guest, CONTROLLER, "10.44.0.10", str(INTERNET.resolvers[0]))
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_libvirt_knows_of_a_changed_bridge_and_keeps_nodes_on_it_when_it_starts_anew(
    cluster: Callable[..., Path], change: Callable[..., Ran], in_guest: InGuest, virsh: Virsh, ai_how: AiHow
) -> None:
    path = cluster()
    change(bridge="br-other")
    assert "bridge='br-other'" in virsh("dumpxml", CONTROLLER)
    # It puts every tap on the bridge that it believes it is on.
    before = pids()
    restart_libvirtd()
    assert pids() == before
    assert nothing_to_do(ai_how, path)
    passes(in_guest, CONTROLLER, str(INTERNET.resolvers[0]))


def test_forward_mode_changes_with_the_firewall_and_nodes_keep_their_addresses_and_are_soon_back(
    cluster: Callable[..., Path],
    change: Callable[..., Ran],
    in_guest: InGuest,
    virsh: Virsh,
    ai_how: AiHow,
    clean_host: None,
) -> None:
    path = cluster()
    silent: list[float] = []
    while not silent or (min(silent) >= LONGEST and len(silent) < 2 * TRIES):
        for enabled, mode in ((False, "nat"), (True, "route")):
            with outage("10.44.0.2") as found:
                said = change(firewall={"enabled": enabled}).stderr
            silent += found
            assert "waiting until 1 node answer" in said
            assert f"<forward mode='{mode}'" in virsh("net-dumpxml", "tried-network")
            passes(in_guest, CONTROLLER, str(INTERNET.resolvers[0]))
    assert min(silent) < LONGEST
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_nodes_learn_another_gateway_and_mtu(
    cluster: Callable[..., Path],
    change: Callable[..., Ran],
    in_guest: InGuest,
    virsh: Virsh,
    ai_how: AiHow,
    clean_host: None,
) -> None:
    path = cluster()
    with outage("10.44.0.2"):
        change(gateway_ip="10.44.0.254", mtu=1400)
    # Its server says that it has the lease a moment before it has done what that says.
    until(lambda: "default via 10.44.0.254" in in_guest(CONTROLLER, "ip", "route").stdout, "the new gateway")
    assert in_guest(CONTROLLER, "cat", "/sys/class/net/eth0/mtu").stdout.strip() == "1400"
    passes(in_guest, CONTROLLER, str(INTERNET.resolvers[0]))
    tap = virsh("domiflist", CONTROLLER).split()[0]
    assert Path("/sys/class/net", tap, "mtu").read_text() == "1400\n"
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_node_that_does_not_ask_anew_is_named_and_left_as_it_is(
    cluster: Callable[..., Path],
    write: Write,
    micro_image: Path,
    in_guest: InGuest,
    stop_asking: Callable[[str], None],
    ai_how: AiHow,
    clean_host: None,
) -> None:
    cluster()
    stop_asking(CONTROLLER)
    path = write(nodes=1, base_image_path=str(micro_image), network={"gateway_ip": "10.44.0.254"})
    ran = ai_how("up", path, "--yes", "--timeout", "2")
    assert ran.returncode == 0, ran.stderr
    assert f"1 of 1 nodes have no lease after 2 s since their link came back ({CONTROLLER}: " in ran.stderr
    assert "they keep what DHCP told them before" in ran.stderr
    assert "default via 10.44.0.1 " in in_guest(CONTROLLER, "ip", "route").stdout
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_network_that_somebody_restarted_is_seen_and_mended(
    cluster: Callable[..., Path], in_guest: InGuest, virsh: Virsh, ai_how: AiHow, clean_host: None
) -> None:
    path = cluster(nodes=2)
    before = pids()
    virsh("net-destroy", "tried-network")
    links = {f"domain {CONTROLLER}": {"linked"}, f"domain {COMPUTE}": {"linked"}}
    assert changed(ai_how, path) == {"network tried-network": {"active"}} | links
    virsh("net-start", "tried-network")
    assert changed(ai_how, path) == links
    assert ask("br-tried", "10.44.0.2", "10.44.0.10", within=2.0) == set()
    ran = ai_how("up", path)
    assert ran.returncode == 0, ran.stderr
    assert ask("br-tried", "10.44.0.2", "10.44.0.10") == {"10.44.0.2", "10.44.0.10"}
    passes(in_guest, CONTROLLER, "10.44.0.10", str(INTERNET.resolvers[0]))
    assert nothing_to_do(ai_how, path)
    assert pids() == before
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_node_whose_network_somebody_undefined_runs_on_and_has_a_lease_again(
    cluster: Callable[..., Path], in_guest: InGuest, virsh: Virsh, ai_how: AiHow, clean_host: None
) -> None:
    path = cluster()
    before = pids()
    virsh("net-destroy", "tried-network")
    virsh("net-undefine", "tried-network")  # and libvirt forgets the leases
    ran = ai_how("up", path, "--yes", "--timeout", "30")
    assert ran.returncode == 0, ran.stderr
    assert "no lease" not in ran.stderr
    assert pids() == before
    assert {each["node"]: each["ip"] for each in json.loads(ai_how("leases", path, "--json").stdout)} == {
        CONTROLLER: "10.44.0.2"
    }
    passes(in_guest, CONTROLLER, str(INTERNET.resolvers[0]))
    assert nothing_to_do(ai_how, path)
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_node_without_a_lease_that_answers_is_ready_with_a_warning_and_one_that_does_not_is_not(
    cluster: Callable[..., Path], stop_asking: Callable[[str], None], virsh: Virsh, ai_how: AiHow, clean_host: None
) -> None:
    path = cluster()
    stop_asking(CONTROLLER)
    virsh("net-destroy", "tried-network")
    virsh("net-undefine", "tried-network")
    for _ in ("mended", "nothing to do"):
        ran = ai_how("up", path, "--yes", "--timeout", "2")
        assert ran.returncode == 0, ran.stderr
        assert f"{CONTROLLER}: running on and answering, with no lease" in ran.stderr
    virsh("suspend", CONTROLLER)
    ran = ai_how("up", path, "--timeout", "2")
    assert ran.returncode == 1, ran.stderr
    assert "1 of 1 nodes have no lease" in ran.stderr
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_node_that_was_undefined_while_it_ran_is_still_there_after_down(
    cluster: Callable[..., Path], virsh: Virsh, ai_how: AiHow, clean_host: None
) -> None:
    path = cluster()
    virsh("undefine", CONTROLLER)
    ran = ai_how("down", path)
    assert ran.returncode == 0, ran.stderr
    assert virsh("list", "--all", "--name").split() == [CONTROLLER]
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_link_that_is_left_off_half_way_is_mended(
    cluster: Callable[..., Path], in_guest: InGuest, virsh: Virsh, ai_how: AiHow, clean_host: None
) -> None:
    """As a run leaves it that is killed between the start of the network and the last link."""
    path = cluster()
    tap = virsh("domiflist", CONTROLLER).split()[0]
    virsh("domif-setlink", CONTROLLER, tap, "down")
    virsh("net-destroy", "tried-network")
    virsh("net-start", "tried-network")
    assert ai_how("up", path).returncode == 0
    assert virsh("domif-getlink", CONTROLLER, tap) == f"{tap} up"
    passes(in_guest, CONTROLLER, str(INTERNET.resolvers[0]))
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_without_root_libvirt_reattaches_by_way_of_a_network_that_is_gone_afterwards(
    cluster: Callable[..., Path], in_guest: InGuest, virsh: Virsh, ai_how: AiHow, clean_host: None
) -> None:
    path = cluster(firewall={"enabled": False})
    networks = virsh("net-list", "--all", "--name")
    virsh("net-destroy", "tried-network")
    virsh("net-start", "tried-network")
    assert changed(ai_how, path) == {f"domain {CONTROLLER}": {"linked"}}
    argv = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-m", "ai_how", "up"]
    ran = subprocess.run([*argv, str(path)], capture_output=True, text=True, check=False, timeout=COMMAND_DEADLINE)
    assert ran.returncode == 0, ran.stderr
    assert virsh("net-list", "--all", "--name") == networks
    assert nothing_to_do(ai_how, path)
    passes(in_guest, CONTROLLER, str(INTERNET.resolvers[0]))
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_what_a_kill_leaves_of_that_way_is_taken_for_no_cluster_and_goes_with_the_network(
    cluster: Callable[..., Path], virsh: Virsh, ai_how: AiHow, clean_host: None
) -> None:
    path = cluster(firewall={"enabled": False})
    others = set(virsh("net-list", "--all", "--name").split()) - {"tried-network"}
    virsh("net-destroy", "tried-network")
    virsh("net-start", "tried-network")
    killed = (
        "import os; from ai_how.host.libvirt import Libvirt; from ai_how.providers import attachment; "
        "attachment._update = lambda *_, **__: os.kill(os.getpid(), 9); "
        "attachment.attach(Libvirt(), 'tried-network')"
    )
    argv = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-c", killed]
    assert subprocess.run(argv, check=False, timeout=COMMAND_DEADLINE).returncode == -9
    assert "ai-how-tried-network" in virsh("net-list", "--all", "--name").split()
    there = json.loads(ai_how("status", "--json").stdout)
    assert there["cluster"] == "tried"
    assert changed(ai_how, path) == {f"domain {CONTROLLER}": {"linked"}}
    assert ai_how("destroy", path, "--yes").returncode == 0
    assert set(virsh("net-list", "--all", "--name").split()) == others


def test_node_that_does_not_answer_again_is_named_with_where_it_should(
    cluster: Callable[..., Path], virsh: Virsh, ai_how: AiHow, clean_host: None
) -> None:
    path = cluster(nodes=2)
    assert ask("br-tried", "10.44.0.2", "10.44.0.10") == {"10.44.0.2", "10.44.0.10"}
    with Libvirt() as libvirt:
        observed = observe(libvirt, "tried")
        assert observed.network is not None
        wanted = [each for each in observed.everything if each != observed.network]
        restart = make_plan([*wanted, replace(observed.network, mtu=1400)], observed.everything)
        assert traffic.restarts_network(restart)
        before = traffic.who_answers(libvirt, observed.domains, observed.network)
        assert before == {CONTROLLER: IPv4Address("10.44.0.2"), COMPUTE: IPv4Address("10.44.0.10")}
        assert not traffic.restarts_network(make_plan([], []))
        traffic.verify_traffic(libvirt, before, observed.resources, silent)
        virsh("suspend", COMPUTE)
        assert traffic.who_answers(libvirt, observed.domains, observed.network).keys() == {CONTROLLER}
        with pytest.raises(NotReady, match=re.escape(f"{COMPUTE} (at 10.44.0.10)")) as caught:
            traffic.verify_traffic(libvirt, before, observed.resources, silent, within=1.0)
    assert str(caught.value).startswith("1 of the 2 nodes that answered before")
    assert CONTROLLER not in str(caught.value)
    assert ai_how("destroy", path, "--yes").returncode == 0


def test_restart_that_fails_is_undone_and_nodes_answer_as_before(
    cluster: Callable[..., Path],
    write: Write,
    micro_image: Path,
    in_guest: InGuest,
    ai_how: AiHow,
    clean_host: None,
) -> None:
    path = cluster()
    before = pids()
    # libvirt finds out when it starts the network: somebody's server listens where the gateway's dnsmasq would.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as somebodys:
        somebodys.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        somebodys.bind(("10.45.0.1", 53))
        write(base_image_path=str(micro_image), nodes=1, network={"subnet": "10.45.0.0/24", "bridge": "br-other"})
        ran = ai_how("up", path, "--yes")
    assert ran.returncode == 3, ran.stderr
    write(base_image_path=str(micro_image), nodes=1, network={})
    assert nothing_to_do(ai_how, path)
    assert pids() == before
    passes(in_guest, CONTROLLER, str(INTERNET.resolvers[0]))
    assert ask("br-tried", "10.44.0.2") == {"10.44.0.2"}
    assert ai_how("destroy", path, "--yes").returncode == 0
