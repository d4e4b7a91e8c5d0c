"""`ai-how perf`: figures of two nodes and of the floor, of whom they are, and that nothing stays, however it ends.

How quick a network is, is not for a test to say: figures are compared with what no network can be.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.host_view import left, look_at_host
from tests.lab.clusters.conftest import COMMAND_DEADLINE
from tests.waiting import until

from ai_how.probe.endpoint import PREFIX

Ran = subprocess.CompletedProcess[str]
AiHow = Callable[..., Ran]
Virsh = Callable[..., str]

CONTROLLER, COMPUTE = "tried-controller", "tried-compute-01"
BRIEF = ("--seconds", "0.4")

#: Milliseconds that most round trips do not take, and none, however busy the machine.
SLOW, SLOWEST = 1_000, 60_000

#: Apart by more than this, one of two figures of the same kind was not measured.
FAR = 10_000


def ports() -> list[str]:
    return [each.name for each in Path("/sys/class/net").iterdir() if each.name.startswith(PREFIX)]


def floors() -> list[str]:
    """The floor's dnsmasq."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.append(each.read_text())
    return [line for line in found if line.startswith("dnsmasq\0") and "floor.test" in line]


def leased(virsh: Virsh, network: str = "tried-network") -> set[str]:
    """The addresses that DHCP says are in use."""
    return {line.split()[4].partition("/")[0] for line in virsh("net-dhcp-leases", network).splitlines()}


@contextmanager
def up(ai_how: AiHow, folder: Path, data: dict[str, Any], *words: str) -> Iterator[Path]:
    """The clusters of `data`, as `up` with `words` makes them; the configuration is there."""
    path, state = folder / "cluster.yaml", folder / "state.json"
    path.write_text(yaml.safe_dump(data))
    ran = ai_how("up", path, "--no-test", *words, "--state", state)
    assert ran.returncode == 0, ran.stderr
    yield path
    assert ai_how("destroy", path, "--yes", "--state", state).returncode == 0


@pytest.fixture(scope="module")
def tried(
    ai_how: AiHow, configuration: Callable[..., dict[str, Any]], machine_room: None, tmp_path_factory: Any
) -> Iterator[Path]:
    """Two nodes whose machines are off; their configuration."""
    with up(ai_how, tmp_path_factory.mktemp("tried"), configuration(), "--no-start") as path:
        yield path


@pytest.fixture
def nothing_left(virsh: Virsh) -> Iterator[None]:
    """No endpoint, no floor and no lease is there afterwards."""
    yield
    until(lambda: ports() == [] and floors() == [], "the end of endpoints and floor")
    until(lambda: leased(virsh) == set(), "the end of the leases")  # dnsmasq's helper writes them down


def plausible(latency: dict[str, Any]) -> None:
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] < SLOWEST
    assert latency["p50"] < SLOW
    assert latency["count"] >= 3  # of fewer, three percentiles say nothing


def test_both_nodes_are_measured_as_themselves_beside_the_floor(ai_how: AiHow, tried: Path, nothing_left: None) -> None:
    ran = ai_how("perf", "controller", COMPUTE, *BRIEF, "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(ran.stdout)
    assert (found["from"], found["to"], found["seconds"], found["notes"]) == (CONTROLLER, COMPUTE, 0.4, [])
    latency, tcp, dns = (found[name] for name in ("latency_ms", "tcp_bits_per_second", "dns_queries_per_second"))
    assert [(each["from"], each["to"], each["why"]) for each in (latency, tcp, dns)] == [
        (CONTROLLER, COMPUTE, ""),
        (CONTROLLER, COMPUTE, ""),
        (CONTROLLER, "gateway 10.44.0.1", ""),
    ]
    plausible(latency["measured"])
    plausible(latency["floor"])
    assert 1e6 < tcp["measured"] < 1e13
    assert 10 < dns["measured"] < 1e8
    for measured, floor in (
        (latency["measured"]["p50"], latency["floor"]["p50"]),
        (tcp["measured"], tcp["floor"]),
        (dns["measured"], dns["floor"]),
    ):
        assert 1 / FAR < measured / floor < FAR


def test_people_get_a_table_with_both_and_their_ratio(ai_how: AiHow, tried: Path, nothing_left: None) -> None:
    ran = ai_how("perf", CONTROLLER, COMPUTE, *BRIEF)
    assert ran.returncode == 0, ran.stderr
    head, columns, *rows = ran.stdout.splitlines()
    assert head == f"{CONTROLLER} → {COMPUTE}"
    assert columns.split() == ["MEASURED", "FLOOR", "RATIO"]
    assert [row.split("  ")[1] for row in rows] == [
        *("latency P50", "latency P90", "latency P99"),
        *("TCP throughput", "DNS queries"),
    ]
    assert all(float(row.split()[-1]) >= 0 for row in rows)
    assert ran.stderr.splitlines() == ["taking leases", "latency", "TCP throughput", "DNS"]


def test_a_stand_in_is_measured_where_a_cluster_is_named(ai_how: AiHow, tried: Path, nothing_left: None) -> None:
    ran = ai_how("perf", CONTROLLER, "tried", *BRIEF, "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(ran.stdout)["latency_ms"]
    assert (found["from"], found["to"]) == (CONTROLLER, "a stand-in in tried")


def test_nothing_of_the_host_is_otherwise_afterwards(ai_how: AiHow, tried: Path, nothing_left: None) -> None:
    # Without what tells of the bridge's carrier, which comes and goes a moment later.
    parts = ("namespaces", "rules", "nft", "iptables", "settings", "files", "processes")
    before = look_at_host(parts)
    assert ai_how("perf", CONTROLLER, COMPUTE, *BRIEF).returncode == 0
    assert left(before, lambda: look_at_host(parts)) == []


def test_a_gateway_that_does_not_answer_is_no_zero(ai_how: AiHow, tried: Path, nothing_left: None) -> None:
    rule = 'insert rule inet ai_how to_host udp dport 53 drop comment "broken"'
    subprocess.run(["nft", rule], check=True)
    try:
        ran = ai_how("perf", CONTROLLER, COMPUTE, *BRIEF)
    finally:
        listed = subprocess.run(
            ["nft", "-a", "list", "chain", "inet", "ai_how", "to_host"], check=True, capture_output=True, text=True
        )
        handle = next(line.split()[-1] for line in listed.stdout.splitlines() if "broken" in line)
        subprocess.run(["nft", "delete", "rule", "inet", "ai_how", "to_host", "handle", handle], check=True)
    assert ran.returncode == 1
    assert "not measured: 10.44.0.1 answers no question of tried-controller" in ran.stdout
    assert "ai-how why-not tried-controller gateway:53/udp" in ran.stderr
    assert ai_how("perf", CONTROLLER, COMPUTE, *BRIEF).returncode == 0


@contextmanager
def under_way(virsh: Virsh, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`ai-how perf` at its measurements, with everything in place."""
    argv = [sys.executable, "-m", "ai_how", "perf", CONTROLLER, COMPUTE, "--seconds", "60", *words]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            while (line := process.stderr.readline()) != "latency\n":
                assert line
            assert len(ports()) == 2
            assert len(floors()) == 1
            until(lambda: leased(virsh) == {"10.44.0.2", "10.44.0.10"}, "both leases")
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_what_is_interrupted_leaves_nothing(
    number: signal.Signals, virsh: Virsh, tried: Path, nothing_left: None
) -> None:
    with under_way(virsh) as process:
        process.send_signal(number)
        said = process.communicate(timeout=COMMAND_DEADLINE)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said


def test_what_is_killed_leaves_no_endpoint_and_no_floor(ai_how: AiHow, virsh: Virsh, tried: Path) -> None:
    with under_way(virsh) as process:
        process.kill()
        process.wait()
    until(lambda: ports() == [] and floors() == [], "the end of endpoints and floor")
    # The leases are the nodes' own: the next one takes them over, and gives them back.
    assert ai_how("perf", CONTROLLER, COMPUTE, *BRIEF).returncode == 0
    until(lambda: leased(virsh) == set(), "the end of the leases")


def test_while_a_node_is_measured_its_machine_is_not_started(
    ai_how: AiHow, virsh: Virsh, tried: Path, folder: Path, nothing_left: None
) -> None:
    with under_way(virsh) as process:
        for words in (("up", tried, "--no-test"), ("perf", CONTROLLER, COMPUTE, *BRIEF)):
            refused = ai_how(*words, "--state", folder / "state.json")
            assert refused.returncode == 3
            assert "cluster tried is in use by another ai-how" in refused.stderr
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=COMMAND_DEADLINE)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("controler", COMPUTE), 2, "Did you mean tried-controller?"),
        (("controller", CONTROLLER), 2, "ai-how perf tried-controller tried"),
        ((CONTROLLER,), 2, "Missing argument 'TO'"),
        ((CONTROLLER, COMPUTE, "--seconds", "0"), 2, "no length of time"),
        ((CONTROLLER, COMPUTE, "--seconds", "2h"), 2, "an hour is the most"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    words: tuple[str, ...], code: int, said: str, ai_how: AiHow, tried: Path
) -> None:
    ran = ai_how("perf", *words)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert said in ran.stderr


def test_without_root_it_says_so(tried: Path) -> None:
    argv = [sys.executable, "-m", "ai_how", "perf", CONTROLLER, COMPUTE]
    ran = subprocess.run(
        ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_DEADLINE,
    )
    assert ran.returncode == 4, ran.stderr
    assert "measuring needs root" in ran.stderr


def test_a_cluster_that_is_down_is_no_measurement(
    ai_how: AiHow, configuration: Callable[..., dict[str, Any]], folder: Path, virsh: Virsh
) -> None:
    with up(ai_how, folder, configuration(name="down", network={"subnet": "10.45.0.0/24"}), "--no-start"):
        virsh("net-destroy", "down-network")
        ran = ai_how("perf", "down-controller", "down-compute-01", *BRIEF)
        assert (ran.returncode, ran.stdout) == (1, "")
        assert "its network is not active" in ran.stderr


def test_stand_ins_need_free_addresses(
    ai_how: AiHow, configuration: Callable[..., dict[str, Any]], folder: Path
) -> None:
    # The first of them is the second node's.
    network = {"subnet": "10.45.0.0/24", "dhcp_start": "10.45.0.10", "dhcp_end": "10.45.0.11"}
    with up(ai_how, folder, configuration(name="narrow", network=network), "--no-start"):
        assert ai_how("perf", "narrow-controller", "narrow", *BRIEF).returncode == 0
        ran = ai_how("perf", "narrow", "narrow", *BRIEF)
        assert (ran.returncode, ran.stdout) == (1, "")
        assert "an address of 10.45.0.10 to 10.45.0.11 must be free" in ran.stderr
        assert "ai-how leases narrow" in ran.stderr
    until(lambda: ports() == [], "the end of endpoints")


def test_what_the_modes_deny_is_named_and_the_rest_is_measured(
    ai_how: AiHow, configuration: Callable[..., dict[str, Any]], folder: Path, tried: Path
) -> None:
    other = configuration(nodes=1, name="other", network={"subnet": "10.45.0.0/24"})
    with up(ai_how, folder, other, "--no-start"):
        ran = ai_how("perf", CONTROLLER, "other-controller", *BRIEF, "--json")
        assert ran.returncode == 1
        found = json.loads(ran.stdout)
        assert found["latency_ms"]["measured"] is None
        assert "tried-controller cannot ping 10.45.0.2" in found["latency_ms"]["why"]
        assert found["tcp_bits_per_second"]["measured"] is None
        assert found["tcp_bits_per_second"]["floor"] > 0
        assert found["dns_queries_per_second"]["measured"] > 0
        said = ai_how("perf", CONTROLLER, "other-controller", *BRIEF)
        assert "where packets stop: ai-how why-not tried-controller other-controller" in said.stderr
        assert said.stdout.count("not measured:") == 2


@pytest.fixture(scope="module")
def running(
    ai_how: AiHow,
    configuration: Callable[..., dict[str, Any]],
    machine_room: None,
    micro_image: Path,
    blank_image: Path,
    settled: Callable[[str], None],
    tmp_path_factory: Any,
) -> Iterator[None]:
    """A guest with an agent, and one that never boots, in clusters that may meet."""
    clusters = {}
    for number, (name, image) in enumerate({"live": micro_image, "dead": blank_image}.items()):
        network = {"subnet": f"10.4{6 + number}.0.0/24", "bridge": f"br-{name}", "dns_mode": "shared_dns"}
        network["host_resolver"] = "none"
        made = configuration(nodes=1, name=name, base_image_path=str(image), network=network)
        clusters[name] = made["clusters"]["hpc"]
    with up(ai_how, tmp_path_factory.mktemp("running"), {"clusters": clusters}, "--no-wait"):
        settled("live-controller")
        yield


def test_a_guest_with_an_agent_sends_its_pings_itself(
    ai_how: AiHow, in_guest: Callable[..., Ran], running: None
) -> None:
    assert in_guest("live-controller", "true").returncode == 0
    ran = ai_how("perf", "live-controller", "live", *BRIEF, "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(ran.stdout)
    plausible(found["latency_ms"]["measured"])
    assert (found["latency_ms"]["from"], found["latency_ms"]["to"]) == ("live-controller", "a stand-in in live")
    assert found["tcp_bits_per_second"]["from"] == "a stand-in beside live-controller"
    assert any("inside live-controller" in note for note in found["notes"])
    assert any("live-controller is running: TCP and DNS" in note for note in found["notes"])


def test_pings_go_to_the_machine_that_runs_and_tcp_beside_it(ai_how: AiHow, running: None) -> None:
    ran = ai_how("perf", "live", "live-controller", *BRIEF, "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(ran.stdout)
    plausible(found["latency_ms"]["measured"])
    assert (found["latency_ms"]["from"], found["latency_ms"]["to"]) == ("a stand-in in live", "live-controller")
    assert found["tcp_bits_per_second"]["to"] == "a stand-in beside live-controller"


def test_a_machine_that_never_boots_is_not_measured_by_somebody_else(ai_how: AiHow, running: None) -> None:
    ran = ai_how("perf", "live", "dead-controller", *BRIEF, "--json")
    assert ran.returncode == 1
    found = json.loads(ran.stdout)
    assert found["latency_ms"]["measured"] is None
    assert "10.47.0.2 does not answer a stand-in in live" in found["latency_ms"]["why"]
    assert found["tcp_bits_per_second"]["measured"] > 0, "shared_dns lets clusters meet"
    without_agent = ai_how("perf", "dead-controller", "live", *BRIEF, "--json")
    assert without_agent.returncode == 0, without_agent.stdout
    assert any(
        "no guest agent answers in dead-controller" in note for note in json.loads(without_agent.stdout)["notes"]
    )
