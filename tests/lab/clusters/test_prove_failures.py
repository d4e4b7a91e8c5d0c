"""`ai-how test` where something is missing, wrong or cut off, and its reports; nothing is ever left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from tests.lab.clusters.breakages import rules
from tests.lab.clusters.conftest import COMMAND_DEADLINE, Ran
from tests.lab.clusters.proof import MACHINE, Scene, cluster, scene
from tests.lab.clusters.under_way import beginning, read_until
from tests.waiting import until

from ai_how.lab import INTERNET, Lab

AiHow = Callable[..., Ran]

#: What a scenario is for programs, and nothing else.
FIELDS = {"name": str, "from": str, "to": str, "expect": str, "result": str, "detail": str, "ms": float}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def standing(libvirt_uri: str, machine_room: None, blank_image: Path, home: Path) -> Iterator[Scene]:
    """Two clusters, up, and in the file `clusters.yaml`; and one that is not, in the same file."""
    # The second has a DHCP range that its nodes fill.
    tight: dict[str, Any] = {"dhcp_start": "10.44.2.10", "dhcp_end": "10.44.2.11"}
    clusters = [
        cluster(blank_image, "wide", 1, nodes=2),
        cluster(blank_image, "tight", 2, **tight),
        cluster(blank_image, "absent", 3, nodes=2),
    ]
    config = {"clusters": {each["name"]: each for each in clusters}}
    (home / "clusters.yaml").write_text(yaml.safe_dump(config))
    with scene(home, *clusters[:2]) as found:
        yield found


@pytest.fixture
def config(standing: Scene, home: Path) -> Path:
    return home / "clusters.yaml"


def links() -> list[str]:
    """Of ours, here."""
    return [each.name for each in Path("/sys/class/net").iterdir() if each.name.startswith("aih")]


def ways_in() -> str:
    """To clusters, which the machine outside has for the length of a test."""
    argv = ["ip", "-netns", INTERNET.namespace, "route", "show", "root", "10.44.0.0/16"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@pytest.fixture(autouse=True)
def nothing_is_left(standing: Scene) -> Iterator[None]:
    yield
    until(lambda: links() == [], "the end of our links")
    assert ways_in() == ""


def test_without_root_nothing_is_tried_and_the_command_is_named(config: Path) -> None:
    # What it loads may be where only root can look.
    program = (
        "import os, sys; import ai_how.cli.test, ai_how.probe.standing, ai_how.probe.report; "
        "from ai_how.cli import app, main; "
        "from ai_how.config.load import load_file; from ai_how.engine.prepare import specs_here; "
        f"path = {str(config)!r}; load_file(path); "
        "os.chdir('/'); os.setgroups([]); os.setgid(65534); os.setuid(65534); "
        "raise SystemExit(main.run(['test', path, '--cluster', 'wide']))"
    )
    for each in (config.parent, *config.parent.parents[:2]):
        each.chmod(0o755)
    Path("/run/libvirt/libvirt-sock").chmod(0o777)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 4, ran.stdout + ran.stderr
    assert "as root" in ran.stderr
    assert "✓" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--cluster", "nobody"], 2, "nobody"),
        (["--cluster", "absent"], 3, "cluster absent cannot be tested: it is not on this host"),
        ([], 3, "cluster absent cannot be tested"),
        (["--cluster", "wide", "--filter", "("], 2, "'(' is no regular expression"),
        (["--cluster", "wide", "--filter", "nothing of this"], 2, "no scenario fits 'nothing of this'"),
        (["--cluster", "wide", "--retry", "-1"], 2, "--retry"),
    ],
    ids=lambda value: " ".join(value) or "all" if isinstance(value, list) else None,
)
def test_what_cannot_be_tested_is_named(config: Path, ai_how: AiHow, words: list[str], code: int, said: str) -> None:
    ran = ai_how("test", config, *words)
    assert ran.returncode == code, ran.stdout + ran.stderr
    assert said in ran.stderr
    assert "passed" not in ran.stdout


def test_cluster_that_is_down_is_not_tested(
    config: Path, standing: Scene, ai_how: AiHow, home: Path, virsh: Callable[..., str]
) -> None:
    virsh("net-destroy", "wide-network")
    try:
        ran = ai_how("test", config, "--cluster", "wide")
    finally:
        standing.up()
    assert ran.returncode == 3, ran.stdout + ran.stderr
    assert "its network wide-network is not active" in ran.stderr
    assert "ai-how up" in ran.stderr


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ({"subnet": "10.44.9.0/24"}, "its network has 10.44.1.0/24, the file says 10.44.9.0/24"),
        ({"gateway_ip": "10.44.1.254"}, "its network has gateway 10.44.1.1, the file says gateway 10.44.1.254"),
        ({"bridge": "br-other"}, "its network has bridge br-wide, the file says bridge br-other"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_configuration_that_says_something_else_than_the_host_is_named(
    folder: Path, blank_image: Path, standing: Scene, ai_how: AiHow, network: dict[str, Any], said: str
) -> None:
    path = folder / "other.yaml"
    path.write_text(yaml.safe_dump({"clusters": {"wide": cluster(blank_image, "wide", 1, nodes=2, **network)}}))
    ran = ai_how("test", path, "--quick")
    assert ran.returncode == 3, ran.stdout + ran.stderr
    assert f"cluster wide is not as {path} says" in ran.stderr
    assert said in ran.stderr
    assert f"`ai-how plan {path}` shows it, `ai-how up {path}` makes it so" in ran.stderr


def test_configuration_that_is_wrong_is_refused(folder: Path, standing: Scene, ai_how: AiHow) -> None:
    (folder / "wrong.yaml").write_text("clusters: {hpc: {nam: x}}\n")
    assert ai_how("test", folder / "wrong.yaml").returncode == 2


def test_beside_machines_that_run_and_have_all_addresses_it_says_that_none_is_free(
    config: Path, ai_how: AiHow, virsh: Callable[..., str]
) -> None:
    nodes = ("tight-controller", "tight-compute-01", "tight-compute-02")
    for each in nodes:
        virsh("start", each)
    try:
        ran = ai_how("test", config, "--cluster", "tight")
    finally:
        for each in nodes:
            virsh("destroy", each)
    assert ran.returncode == 3, ran.stdout + ran.stderr
    assert "no address is free" in ran.stderr
    assert "dhcp_end" in ran.stderr


def test_machine_that_runs_and_does_not_answer_fails_and_is_told_from_the_network(
    config: Path, ai_how: AiHow, virsh: Callable[..., str]
) -> None:
    """Its disk is empty. The stand-ins beside it, and the node that is stood for, do answer."""
    virsh("start", "wide-compute-01")
    try:
        ran = ai_how("test", config, "--cluster", "wide", "--json")
    finally:
        virsh("destroy", "wide-compute-01")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    failed = [each for each in json.loads(ran.stdout)["scenarios"] if each["result"] == "failed"]
    assert {each["to"] for each in failed} == {"wide-compute-01"}


def test_json_is_as_documented_and_junit_says_the_same(config: Path, ai_how: AiHow, folder: Path) -> None:
    ran = ai_how("test", config, "--cluster", "wide", "--json", "--junit", folder / "junit.xml")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    report = json.loads(ran.stdout)
    assert set(report) == {"passed", "failed", "skipped", "scenarios"}
    for each in report["scenarios"]:
        assert {name: type(value) for name, value in each.items()} == FIELDS
        assert each["expect"] in ("pass", "deny")
    counted = Counter(each["result"] for each in report["scenarios"])
    assert set(counted) <= {"passed", "failed", "skipped"}
    assert {name: report[name] for name in ("passed", "failed", "skipped")} == {
        name: counted[name] for name in ("passed", "failed", "skipped")
    }
    suite = ElementTree.parse(folder / "junit.xml").getroot()  # noqa: S314 - our own
    assert suite.tag == "testsuite"
    assert (suite.get("tests"), suite.get("failures")) == (str(len(report["scenarios"])), str(report["failed"]))
    assert [case.get("name") for case in suite] == [each["name"] for each in report["scenarios"]]


def test_failure_is_in_every_report_with_what_was_seen(
    config: Path, standing: Scene, ai_how: AiHow, folder: Path
) -> None:
    name = "wide-controller → internet: ping 8.8.8.8"
    words = ("test", config, "--cluster", "wide", "--filter", name, "--junit", folder / "junit.xml", "--retry", "0")
    with rules("add element inet ai_how blocked { br-wide . 8.8.8.8 }")(standing):
        told, asked = ai_how(*words, "--pause-on-fail"), ai_how(*words, "--json")
    assert told.returncode == asked.returncode == 1
    assert f"✗ {name}" in told.stdout
    assert "0 of 1 passed, 0 skipped" in told.stdout.splitlines()[-1]
    assert "there is no terminal to wait at: going on" in told.stderr
    assert "nsenter --net=/proc/" in told.stderr
    [scenario] = (each for each in json.loads(asked.stdout)["scenarios"] if each["name"] == name)
    assert (scenario["expect"], scenario["result"]) == ("pass", "failed")
    case = next(each for each in ElementTree.parse(folder / "junit.xml").getroot() if each.get("name") == name)  # noqa: S314
    failure = case.find("failure")
    assert failure is not None
    message = failure.get("message")
    assert message
    assert scenario["detail"].startswith(message)
    # And where it stopped.
    assert "ai_how out_of_cluster" in scenario["detail"]
    assert "ai_how out_of_cluster" in (failure.text or "")
    assert "ai_how out_of_cluster" in told.stdout


def test_report_that_cannot_be_written_is_said_before_anything_is_tried(
    config: Path, ai_how: AiHow, folder: Path
) -> None:
    ran = ai_how("test", config, "--cluster", "wide", "--junit", folder / "nowhere" / "junit.xml")
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert "junit.xml cannot be written" in ran.stderr
    assert "✓" not in ran.stderr


def test_where_files_cannot_be_opened_for_every_place_that_is_said_first(config: Path) -> None:
    def tried(limit: str) -> Ran:
        without = ("setpriv", "--bounding-set=-sys_resource", "prlimit", f"--nofile={limit}")
        argv = [*without, sys.executable, "-m", "ai_how", "test", str(config), "--cluster", "wide", "--quick"]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    raised, refused = tried("200:4096"), tried("200:200")
    assert raised.returncode == 0, raised.stdout + raised.stderr
    assert refused.returncode == 3, refused.stdout + refused.stderr
    assert "there is no room for 2 places" in refused.stderr


def test_report_that_cannot_be_written_in_the_end_is_shown_all_the_same(config: Path, ai_how: AiHow) -> None:
    ran = ai_how("test", config, "--cluster", "wide", "--quick", "--junit", "/dev/full")
    assert ran.returncode == 3, ran.stdout + ran.stderr
    assert "/dev/full cannot be written" in ran.stderr
    assert " passed, 0 skipped" in ran.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_interrupted_it_leaves_no_endpoint(number: signal.Signals, config: Path) -> None:
    with beginning("test", config, "--cluster", "wide") as process:
        read_until(process, "✓")
        assert links()
        process.send_signal(number)
        said = process.communicate(timeout=COMMAND_DEADLINE)[1]
    assert "Traceback" not in said
    assert process.returncode == (-number if number is signal.SIGKILL else 130), said
    until(lambda: not links(), "the end of our links")
    if number is signal.SIGKILL:  # outside, in the lab's own machine, a killed test leaves its routes to the next
        subprocess.run(["ip", "-netns", INTERNET.namespace, "route", "del", "10.44.1.0/24"], check=False)


def test_another_ai_how_does_not_start_machines_meanwhile(config: Path, ai_how: AiHow) -> None:
    with beginning("test", config, "--cluster", "wide") as process:
        read_until(process, "✓")
        ran = ai_how("up", config, "--cluster", "wide")
        process.communicate(timeout=COMMAND_DEADLINE)
    assert ran.returncode == 3, ran.stdout + ran.stderr
    assert process.returncode == 0


def test_two_tests_of_different_clusters_go_on_at_once(config: Path, ai_how: AiHow) -> None:
    with beginning("test", config, "--cluster", "wide") as process:
        read_until(process, "✓")
        ran = ai_how("test", config, "--cluster", "tight")
        said = process.communicate(timeout=COMMAND_DEADLINE)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert process.returncode == 0, said


OFFLINE = """
set -e
ai_how() { "$PYTHON" -m ai_how "$@"; }
qemu-img create -q -f qcow2 blank.qcow2 1M
AI_HOW_TEST=0 ai_how up offline.yaml --no-start >/dev/null
ai_how test offline.yaml --json || echo $? >code
ip -json link >links
"""


def test_on_a_host_without_internet_what_stands_for_the_lan_is_a_place_of_its_own(
    nested_lab: Callable[..., Lab], folder: Path
) -> None:
    network = {"subnet": "10.44.0.0/24", "bridge": "br-offline", "dns_mode": "routed"}
    one = {"name": "offline", "base_image_path": "blank.qcow2", "network": network, "controller": MACHINE}
    (folder / "offline.yaml").write_text(yaml.safe_dump({"clusters": {"one": {**one, "compute_nodes": [MACHINE]}}}))
    lab = nested_lab(internet=False)
    argv = lab.enter(["bash", "-c", OFFLINE], cwd=folder)
    ran = subprocess.run(
        argv,
        env={**lab.environment, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_DEADLINE,
    )
    assert ran.returncode == 0, ran.stderr
    assert not (folder / "code").exists(), ran.stdout
    scenarios = json.loads(ran.stdout)["scenarios"]
    results = {each["name"]: each["result"] for each in scenarios}
    assert "failed" not in results.values()
    # From the place that stands for the LAN packets are sent, and do not arrive.
    lan = [each for each in scenarios if each["from"] == "lan"]
    assert {each["result"] for each in lan if each["expect"] == "deny"} == {"passed"}
    # Nothing that needs a way out is called passed.
    outside = [each for each in scenarios if each["to"] == "internet" or each["name"].endswith("outside")]
    assert outside
    assert {each["result"] for each in outside} == {"skipped"}
    assert all(each["detail"] for each in outside)
    assert [each["ifname"] for each in json.loads((folder / "links").read_text())] == ["lo", "br-offline"]


#: A host like any other: an uplink to a router, behind which servers are that know nothing of ai-how.
UPLINK = """
ip netns add world
ip link add up0 type veth peer name w0 netns world
ip addr add 192.0.2.2/24 dev up0
ip link set up0 up
for address in 192.0.2.1/24 8.8.8.8/32 1.1.1.1/32; do ip -n world addr add $address dev w0; done
ip -n world link set lo up
ip -n world link set w0 up
ip route add default via 192.0.2.1
ip netns exec world dnsmasq --conf-file=/dev/null --no-hosts --no-resolv --bind-interfaces --user=root \\
    --listen-address=8.8.8.8,1.1.1.1 --address=/example.com/198.51.100.80 --pid-file="$PWD/world.pid"
trap 'kill $(cat world.pid)' EXIT
"""
LEAK = "nft flush set inet ai_how blocked; nft flush chain inet ai_how input"


def test_on_a_host_with_an_uplink_of_its_own_what_leaves_is_seen_there(
    nested_lab: Callable[..., Lab], folder: Path
) -> None:
    firewall = {"expose": ["8001:offline-compute-01:80"], "block_networks": ["203.0.113.0/24"]}
    network = {"subnet": "10.44.0.0/24", "bridge": "br-offline", "firewall": firewall}
    one = {"name": "offline", "base_image_path": "blank.qcow2", "network": network, "controller": MACHINE}
    (folder / "offline.yaml").write_text(yaml.safe_dump({"clusters": {"one": {**one, "compute_nodes": [MACHINE]}}}))
    lab = nested_lab(internet=False)
    steps = OFFLINE.replace("set -e", f"set -e{UPLINK}")
    broken = f"{LEAK}; ai_how test offline.yaml --json >leaks || echo $? >code2"
    ran = subprocess.run(
        lab.enter(["bash", "-c", f"{steps}\n{broken}"], cwd=folder),
        env={**lab.environment, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_DEADLINE,
    )
    assert ran.returncode == 0, ran.stderr
    assert not (folder / "code").exists(), ran.stdout
    scenarios = json.loads(ran.stdout)["scenarios"]
    assert [each for each in scenarios if each["result"] != "passed"] == []
    tried = {(each["from"], each["to"], each["expect"]) for each in scenarios}
    assert ("offline-controller", "internet", "pass") in tried
    assert ("lan", "offline-compute-01", "pass") in tried  # the exposed port
    assert ("lan", "offline-controller", "deny") in tried
    assert ("offline-controller", "203.0.113.0/24", "deny") in tried
    assert (folder / "code2").read_text() == "1\n"
    failed = [each for each in json.loads((folder / "leaks").read_text())["scenarios"] if each["result"] == "failed"]
    assert {(each["from"], each["to"]) for each in failed} >= {
        ("offline-controller", "203.0.113.0/24"),
        ("lan", "gateway of offline"),
    }
