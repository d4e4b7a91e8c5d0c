"""The documented troubleshooting script on real libvirt: its five calls, with our environment and without.

What it finds is tried in tests/lab/doctor.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from tests.waiting import STARTS_WITHIN, until

from ai_how.lab import Lab, LabSpec, open_lab

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "python/ai_how/examples/network_troubleshooting.py"
NETWORK, BRIDGE, MACHINE = "home-network", "br-home", "home-machine"
SERVER = f"/run/libvirt/network/{NETWORK}.pid"

#: Ours; one that has nothing of ours; the system's, as under sudo.
PYTHONS = {
    "ours": (sys.executable,),
    "bare": (sys.executable, "-I", "-S"),
    "system's": ("/usr/bin/python3",),
}
#: As documented, with the names of this scene.
CALLS = [(), ("networks",), ("dnsmasq",), ("network", NETWORK), ("vm", MACHINE)]

pythons = pytest.mark.parametrize("python", PYTHONS.values(), ids=PYTHONS)

_NETWORK = f"""
<network><name>{NETWORK}</name><forward mode='nat'/><bridge name='{BRIDGE}' stp='off' delay='0'/>
  <ip address='10.77.78.1' prefix='24'><dhcp><range start='10.77.78.10' end='10.77.78.99'/></dhcp></ip></network>
"""
#: It boots from the network: the firmware's own DHCP client takes a lease, and no disk is needed.
_MACHINE = f"""
<domain type='qemu'><name>{MACHINE}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='network'/></os><features><acpi/></features>
  <devices><interface type='network'><source network='{NETWORK}'/><model type='virtio'/></interface></devices></domain>
"""

Ask = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A host of its own with a network and a machine, both well, that ai-how did not make."""
    folder = tmp_path_factory.mktemp("home")
    with ExitStack() as stack:
        lab = stack.enter_context(open_lab(LabSpec(internet=True)))
        for name, text, verbs in (
            ("network.xml", _NETWORK, (("net-define",), ("net-autostart", NETWORK), ("net-start", NETWORK))),
            ("machine.xml", _MACHINE, (("define",), ("start", MACHINE))),
        ):
            (folder / name).write_text(text)
            for words in verbs:
                path = [str(folder / name)] if len(words) == 1 else []
                lab.run(["virsh", "-q", *words, *path], check=True)
        leases = f"virsh -q net-dhcp-leases {NETWORK}"
        until(lambda: "10.77.78." in shell(lab, leases), "the firmware's lease", STARTS_WITHIN)
        yield lab


def shell(lab: Lab, command: str) -> str:
    ran = lab.run(["bash", "-ec", command], check=True)
    return str(ran.stdout)


@pytest.fixture
def ask(home: Lab) -> Ask:
    """The script, called as documented from the repository's root."""

    def call(*words: str, python: tuple[str, ...] = PYTHONS["ours"]) -> CompletedProcess[str]:
        # Not the state file of whoever works in this checkout.
        elsewhere = {"AI_HOW_STATE": "/nowhere/cluster_state.json"}
        return home.run([*python, SCRIPT, *words], cwd=ROOT, env=elsewhere, timeout=300)

    return call


@pythons
@pytest.mark.parametrize("words", CALLS, ids=" ".join)
def test_documented_calls_find_a_healthy_host_healthy(
    words: tuple[str, ...], python: tuple[str, ...], ask: Ask
) -> None:
    ended = ask(*words, python=python)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    first, *more = ended.stdout.splitlines()
    assert "healthy (" in first
    assert all(line.startswith(("ok ", " ", "libvirt was asked by virsh")) for line in more if line), ended.stdout
    assert bool(more) == bool(words) or "virsh" in ended.stdout
    assert ended.stderr == ""


@pythons
def test_what_is_wrong_is_named_alike_with_and_without_our_environment(
    python: tuple[str, ...], ask: Ask, home: Lab
) -> None:
    stopped = f"grep -q '^State:.T' /proc/$(cat {SERVER})/status"
    shell(home, f"kill -STOP $(cat {SERVER}); until {stopped}; do sleep 0.02; done")
    try:
        for words in ((), ("dnsmasq",), ("network", NETWORK), ("vm", MACHINE)):
            ended = ask(*words, python=python)
            assert ended.returncode == 1, ended.stdout + ended.stderr
            assert f"dnsmasq-unresponsive of {NETWORK}: its dnsmasq is stopped" in ended.stdout
            assert "kill -CONT" in ended.stdout
    finally:
        shell(home, f"kill -CONT $(cat {SERVER})")


def test_without_bindings_it_says_how_to_install_them(ask: Ask) -> None:
    ended = ask(python=PYTHONS["bare"])
    assert ended.returncode == 0
    assert "libvirt was asked by virsh" in ended.stdout
    assert "apt-get install python3-libvirt" in ended.stdout


def test_network_in_detail_shows_what_it_is_and_who_has_an_address(ask: Ask) -> None:
    shown = ask("network", NETWORK).stdout
    assert f"forward mode nat, bridge {BRIDGE}, gateway 10.77.78.1/24" in shown
    assert "DHCP 10.77.78.10–10.77.78.99, DNS on" in shown
    assert f"machines: {MACHINE}" in shown
    assert f"{BRIDGE} is up with 10.77.78.1/24" in shown
    assert "1 lease\n" in shown


def test_bindings_and_virsh_tell_the_same(home: Lab) -> None:
    program = (
        "import json, sys; sys.path.insert(0, 'python')\n"
        "from ai_how.diagnose.ask.libvirt import Bindings, Virsh\n"
        "from ai_how.host.libvirt import Libvirt\n"
        "uri = 'qemu:///system'\n"
        "for each in (Bindings(Libvirt(uri)), Virsh(uri)):\n"
        "    said = [each.networks(), each.machines(), each.version(), each.offers_kvm()]\n"
        "    print(json.dumps(said))\n"
    )
    ran = home.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    bindings, virsh = (json.loads(line) for line in ran.stdout.splitlines())
    for each in (*bindings[0], *bindings[1], *virsh[0], *virsh[1]):
        for which in ("live", "saved"):
            each[which] = each[which] and each[which].strip()
    assert bindings == virsh
    assert [each["name"] for each in bindings[0]] == [NETWORK]
    assert [each["state"] for each in bindings[1]] == ["running"]


@pytest.mark.parametrize("kind", ["network", "vm"])
def test_name_that_does_not_exist_is_wrong_and_the_existing_ones_are_listed(kind: str, ask: Ask) -> None:
    ended = ask(kind, "nothing")
    assert ended.returncode == 1
    assert f"{kind}-undefined of nothing" in ended.stdout
    assert {"network": NETWORK, "vm": MACHINE}[kind] in ended.stdout


def test_bundle_gives_the_same_verdict_elsewhere(home: Lab, tmp_path: Path) -> None:
    ai_how = str(Path(sys.executable).with_name("ai-how"))
    bundle = str(tmp_path / "host.tar.gz")
    shell(home, f"ip link set {BRIDGE} down")
    try:
        here = home.run([ai_how, "doctor", "--json"])
        home.run([ai_how, "support-bundle", "-o", bundle], check=True)
    finally:
        shell(home, f"ip link set {BRIDGE} up")
    with open_lab(LabSpec()) as elsewhere:
        there = elsewhere.run([ai_how, "doctor", "--json", "--bundle", bundle])
    assert (here.returncode, there.returncode) == (1, 1)
    said_here, said_there = json.loads(here.stdout), json.loads(there.stdout)
    assert said_here["root_cause"] == said_there["root_cause"] == "bridge-down"
    assert said_here["causes"] == said_there["causes"]
    told = [
        [(each["check"], each["subject"], each["answer"]) for each in said["findings"]]
        for said in (said_here, said_there)
    ]
    assert told[0] == told[1]


def test_who_may_not_ask_libvirt_is_told_what_there_is_without(home: Lab) -> None:
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    # Not below /root, where nobody may look.
    ended = home.run([*nobody, "/usr/bin/python3", SCRIPT], cwd=ROOT)
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "permission-denied of host" in ended.stdout
    assert f"there is: bridge {BRIDGE}, up, with 10.77.78.1/24" in ended.stdout
    assert f"there is: dnsmasq of network {NETWORK}, process " in ended.stdout
    assert "usermod -aG libvirt" in ended.stdout
