"""The documented static-IP cluster on real libvirt, with guests that boot: addresses, names, the way out."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ai_how.lab import Internet

Ran = subprocess.CompletedProcess[str]
AiHow = Callable[..., Ran]
Virsh = Callable[..., str]
Write = Callable[..., Path]
InGuest = Callable[..., Ran]

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"

#: Machines as small as the micro guest can be: what is documented about addresses does not depend on their size.
SMALL = {"cpu_cores": 1, "memory_gb": 0.125, "disk_gb": 1}

CONTROLLER, FIRST, SECOND = "hpc-cluster-controller", "hpc-cluster-compute-01", "hpc-cluster-compute-02"
NETWORK = "hpc-cluster-network"


def example(name: str, image: Path) -> str:
    """The text of a documented configuration with small machines and our image; everything else as it stands."""
    text = (EXAMPLES / f"{name}.yaml").read_text().replace("/path/to/base-image.qcow2", str(image))
    for field, value in SMALL.items():
        text = re.sub(rf"{field}: \d+", f"{field}: {value}", text)
    return text


def leases(virsh: Virsh, network: str = NETWORK) -> dict[str, str]:
    """MAC → address, from libvirt itself."""
    rows = (line.split() for line in virsh("net-dhcp-leases", network).splitlines())
    return {row[2]: row[4].partition("/")[0] for row in rows}


def numbers(virsh: Virsh) -> dict[str, str]:
    """Machine → its number, which is new with every start."""
    rows = (line.split() for line in virsh("list").splitlines())
    return {row[1]: row[0] for row in rows}


@pytest.fixture(scope="module")
def static(
    ai_how: AiHow,
    micro_image: Path,
    machine_room: None,
    settled: Callable[[str], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """The documented static-IP cluster, running: its configuration file."""
    folder = tmp_path_factory.mktemp("static")
    path = folder / "cluster.yaml"
    path.write_text(example("static-ip", micro_image))
    up = ai_how("up", path, "--state", folder / "state.json")
    assert up.returncode == 0, up.stderr
    for node in (CONTROLLER, FIRST, SECOND):
        settled(node)
    yield path
    assert ai_how("destroy", path, "--yes", "--state", folder / "state.json").returncode == 0
    assert [each.name for each in folder.iterdir()] == ["cluster.yaml"]


def test_static_cluster_has_exactly_the_documented_addresses_leased_to_the_documented_macs(
    static: Path, virsh: Virsh
) -> None:
    assert leases(virsh) == {
        "52:54:00:12:34:01": "192.168.100.2",
        "52:54:00:12:34:02": "192.168.100.10",
        "52:54:00:12:34:03": "192.168.100.11",
    }


def test_status_tells_programs_what_runs_and_who_has_which_address(static: Path, ai_how: AiHow) -> None:
    ran = ai_how("status", static, "--json")
    answer = json.loads(ran.stdout)
    assert ran.returncode == 0
    assert answer["cluster"] == "hpc-cluster"
    assert answer["network"] == {
        "name": NETWORK,
        "bridge": "br-hpc-cluster",
        "subnet": "192.168.100.0/24",
        "gateway": "192.168.100.1",
        "state": "active",
        "dns_mode": "isolated",
    }
    for node in answer["nodes"]:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", node["lease"].pop("expires"))
    assert answer["nodes"] == [
        {"name": name, "role": role, "state": "running", "mac": mac, "ip": ip, "lease": {"ip": ip}}
        for name, role, mac, ip in (
            (CONTROLLER, "controller", "52:54:00:12:34:01", "192.168.100.2"),
            (FIRST, "compute", "52:54:00:12:34:02", "192.168.100.10"),
            (SECOND, "compute", "52:54:00:12:34:03", "192.168.100.11"),
        )
    ]


def test_leases_lists_every_node_with_the_address_reserved_for_it(static: Path, ai_how: AiHow) -> None:
    rows = json.loads(ai_how("leases", static, "--json").stdout)
    assert {row["node"]: (row["ip"], row["reserved"], row["name"]) for row in rows} == {
        CONTROLLER: ("192.168.100.2", "192.168.100.2", CONTROLLER),
        FIRST: ("192.168.100.10", "192.168.100.10", FIRST),
        SECOND: ("192.168.100.11", "192.168.100.11", SECOND),
    }


def test_guest_asks_its_gateway_for_names_and_reaches_the_internet_by_name(
    static: Path, in_guest: InGuest, internet: Internet
) -> None:
    asked = in_guest(FIRST, "nslookup", "-type=a", internet.name)
    assert re.search(r"^Server:\s+192\.168\.100\.1$", asked.stdout, re.MULTILINE), asked
    assert re.search(rf"^Address: {internet.web}$", asked.stdout, re.MULTILINE), asked
    assert in_guest(FIRST, "wget", "-qO-", f"http://{internet.name}/").stdout == internet.web_body
    assert in_guest(FIRST, "nslookup", "-type=a", internet.missing_name).returncode != 0


@pytest.mark.parametrize("target", ["192.168.100.1", "8.8.8.8", "192.168.100.2", CONTROLLER])
def test_guest_pings_gateway_internet_and_its_fellows(static: Path, in_guest: InGuest, target: str) -> None:
    ran = in_guest(FIRST, "ping", "-c2", "-W5", target)
    assert ran.returncode == 0, ran
    assert "2 packets received" in ran.stdout


def test_guest_gets_no_reply_from_an_address_that_nobody_has(static: Path, in_guest: InGuest) -> None:
    ran = in_guest(FIRST, "ping", "-c1", "-W1", "192.168.100.77")
    assert ran.returncode == 1, ran


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (
            ("-type=a", f"{SECOND}.hpc-cluster.internal"),
            f"Name:\t{SECOND}.hpc-cluster.internal\nAddress: 192.168.100.11",
        ),
        (("-type=a", SECOND), "Address: 192.168.100.11"),
        (("192.168.100.2",), f"name = {CONTROLLER}.hpc-cluster.internal"),
    ],
    ids=["full name", "short name", "reverse"],
)
def test_nodes_know_each_other_by_name(static: Path, in_guest: InGuest, question: tuple[str, ...], answer: str) -> None:
    ran = in_guest(FIRST, "nslookup", *question)
    assert answer in ran.stdout, ran


def test_guest_has_the_name_of_its_node(static: Path, in_guest: InGuest) -> None:
    assert in_guest(SECOND, "hostname").stdout.strip() == SECOND


def test_second_up_changes_nothing_and_says_so(static: Path, folder: Path, ai_how: AiHow, virsh: Virsh) -> None:
    before = numbers(virsh)
    ran = ai_how("up", static)
    assert ran.returncode == 0
    assert ran.stdout.startswith("hpc-cluster: nothing to do\n")
    assert numbers(virsh) == before
    told = json.loads(ai_how("up", static, "--json").stdout)
    assert (told["changed"], told["steps"]) == (False, [])


def test_lost_state_file_loses_nothing(static: Path, folder: Path, ai_how: AiHow, virsh: Virsh) -> None:
    """The state file of these calls is another one than that of the first `up`."""
    state = folder / "new.json"
    assert "nothing to do" in ai_how("up", static, "--state", state).stdout
    assert ai_how("status", static, "--state", state).returncode == 0
    assert json.loads(state.read_text())["clusters"].keys() == {"hpc-cluster"}


def test_console_names_the_nodes_there_are_and_wants_a_terminal(static: Path, ai_how: AiHow) -> None:
    unknown = ai_how("console", "hpc-cluster-compute-1")
    assert unknown.returncode == 2
    assert f"Did you mean {FIRST}?" in unknown.stderr
    blind = ai_how("console", "compute-01")
    assert blind.returncode == 2
    assert f"the console of {FIRST} needs a terminal" in blind.stderr
