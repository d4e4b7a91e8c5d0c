"""`ai-how doctor --fix`: what it repairs is well afterwards, and clusters do again what their configuration promises.

Each row breaks something, and nothing but the doctor mends it.
"""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.host_view import define_everything_once
from tests.lab.clusters.conftest import make_image
from tests.lab.doctor.scene import (
    ALONE,
    DEFAULT,
    DEFAULT_BRIDGE,
    DEFAULT_GATEWAY,
    GUEST,
    NAMES,
    TINY,
    Scene,
    ask,
    bridge_of,
    dnsmasq_of,
    mac_of,
    patient,
    scene,
    stop_network,
    tap_of,
)
from tests.waiting import STARTS_WITHIN, kill, stop, until

from ai_how.diagnose import doctor, fixing
from ai_how.diagnose.causes import Cause
from ai_how.diagnose.checks.base import CHECKS
from ai_how.diagnose.finding import Fix
from ai_how.diagnose.fixing import Place, repair, repair_all
from ai_how.host import daemon
from ai_how.host.libvirt import DEFAULT_URI
from ai_how.images import build_micro_image
from ai_how.resources.hook import PATH as HOOK_PATH

#: What is broken, by something of the tests' or by a command, where words in braces are of the machine that runs; and
#: the cause that is repaired.
BROKEN: dict[str, Callable[[], None] | str] = {
    "network-inactive": lambda: stop_network(ALONE),
    "network-inactive, not ours": lambda: stop_network(DEFAULT),
    "bridge-missing": f"ip link delete {bridge_of(ALONE)}",
    "bridge-missing, not ours": f"ip link delete {DEFAULT_BRIDGE}",
    "bridge-down": f"ip link set {bridge_of(ALONE)} down",
    "bridge-down, not ours": f"ip link set {DEFAULT_BRIDGE} down",
    "bridge-address-missing": f"ip address flush dev {bridge_of(NAMES)}",
    "bridge-address-missing, not ours": f"ip address delete {DEFAULT_GATEWAY}/24 dev {DEFAULT_BRIDGE}",
    "bridge-address-missing, its route": f"ip route delete 10.44.1.0/24 dev {bridge_of(ALONE)}",
    "bridge-address-missing, its route, not ours": f"ip route delete 192.168.122.0/24 dev {DEFAULT_BRIDGE}",
    "dnsmasq-dead": lambda: kill(dnsmasq_of(ALONE)),
    "dnsmasq-dead, not ours": lambda: kill(dnsmasq_of(DEFAULT)),
    "dnsmasq-unresponsive": lambda: stop(dnsmasq_of(ALONE)),
    "dnsmasq-unresponsive by a rule": f"iptables -I INPUT -i {DEFAULT_BRIDGE} -p udp --dport 53 -j DROP",
    "ip-forward-off": "sysctl -q -w net.ipv4.ip_forward=0",
    "firewall-rules-missing, all of them": "nft flush ruleset",
    "firewall-rules-missing, libvirt's": "iptables -F LIBVIRT_FWO",
    "firewall-rules-missing, as people flush, libvirt's": "iptables -F",
    "firewall-rules-missing, with their chains, libvirt's": "iptables -F; iptables -X",
    "firewall-rules-missing, what leads there, libvirt's": "iptables -F FORWARD",
    "firewall-rules-missing, ours": "nft delete table inet ai_how",
    "firewall-rules-missing, who replaced ours was killed": (
        "nft 'add table inet ai_how_next; add chain inet ai_how_next made_by_ai_how'"
    ),
    "nat-missing": "nft flush chain inet ai_how postrouting",
    "nat-missing, libvirt's": "iptables -t nat -F LIBVIRT_PRT",
    "nat-missing, as people flush, libvirt's": "iptables -t nat -F",
    "isolation-open": f"nft add element inet ai_how peers '{{{{ {bridge_of(ALONE)} . {bridge_of(NAMES)} }}}}'",
    "isolation-open, libvirt's": f"iptables -D LIBVIRT_FWI -o {DEFAULT_BRIDGE} -j REJECT",
    "forward-drop-policy": "iptables -P FORWARD DROP",
    "forward-drop-policy, not ours": f"iptables -I FORWARD -i {DEFAULT_BRIDGE} -j DROP",
    "hook-missing": f"rm {HOOK_PATH}",
    "resolver-route-missing": f"rm /etc/dnsmasq.d/ai-how-{NAMES}.conf",
    "config-drift": f"virsh net-autostart {ALONE} --disable",
    "config-drift of the gateway's servers": f"truncate -s 0 /var/lib/libvirt/dnsmasq/ai-how-{NAMES}.servers",
    "mtu-mismatch": "ip link set {tap} mtu 1300",
    "vm-tap-detached": "ip link set {tap} nomaster",
    "vm-wrong-network": f"ip link set {{tap}} master {bridge_of(ALONE)}",
    "vm-link-down": "ip link set {tap} down",
    "vm-link-down, unplugged": f"virsh domif-setlink {GUEST} {{mac}} down",
}

#: Causes that have an automatic repair, and are tried with their faults elsewhere, or cannot come alone here.
ELSEWHERE = {
    "libvirtd-down": "a stopped daemon: test_daemon_that_was_stopped_goes_on",
    "vm-not-running": "test_machine_that_is_asked_for_is_started",
    "rp-filter": "a second uplink: tests/lab/doctor/test_faults.py makes it; its repair is one sysctl",
    "bridge-netfilter": "as forward-drop-policy",
}


#: Seconds in which what was repaired is seen to be well, on CPUs that others use, too.
SHOWN_WITHIN = 60.0

#: What gives a finding a repair that `--fix` does.
_REPAIRS = re.compile(r"\b(repair|mend|_set|_start|_started|_woken|_plugged_in|_again|_stopping)\(")


@pytest.fixture(scope="module")
def host(libvirt_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    define_everything_once()
    folder = tmp_path_factory.mktemp("fixing")
    micro = build_micro_image(folder / "micro.qcow2").path
    with (
        scene(folder, make_image(folder / "blank.qcow2"), micro) as made,
        patient(),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(fixing, "SHOWN_WITHIN", SHOWN_WITHIN)
        yield made


def shell(command: str) -> None:
    subprocess.run(["bash", "-ec", command], check=True, capture_output=True, timeout=60)


def fix(folder: Path, *words: str) -> list[tuple[str, str]]:
    """What was repaired."""
    attempts = list(repair_all(Place(DEFAULT_URI, folder / "fixing.json"), words, lambda cause: True))
    assert [f"{each.cause.id}: {each.trouble}" for each in attempts if not each.done] == []
    return [(each.cause.id, each.cause.subject) for each in attempts]


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_repaired_is_well_again(what: str, host: Scene, tmp_path: Path) -> None:
    identifier = what.partition(",")[0].partition(" ")[0]
    host.clusters.leave()
    match BROKEN[what]:
        case str(command):
            shell(command.format(tap=tap_of(GUEST), mac=mac_of(GUEST)))
        case breaks:
            breaks()
    seen = ask()
    assert seen.root is not None, seen
    assert seen.root[0] == identifier, seen
    assert (identifier, seen.root[1]) in fix(tmp_path)
    # A machine whose link was broken may have to ask DHCP anew.
    within = STARTS_WITHIN if identifier.startswith(("vm-", "mtu-")) else SHOWN_WITHIN
    until(lambda: ask().root is None, "nothing is wrong any more", within)
    assert not (tmp_path / "fixing.json").exists()
    if not what.endswith(("not ours", "libvirt's")):  # a test is of clusters
        assert host.clusters.try_all(quick=True).failed == []
        host.clusters.leave()


def test_after_all_of_it_everything_is_as_promised(host: Scene) -> None:
    assert host.clusters.try_all().failed == []
    host.clusters.leave()


def test_every_automatic_repair_is_tried() -> None:
    tried = {what.partition(",")[0].partition(" ")[0] for what in BROKEN} | set(ELSEWHERE)
    assert tried == {each.identifier for each in CHECKS if _REPAIRS.search(inspect.getsource(each.look))}


def test_in_a_network_namespace_of_its_own_nothing_is_told_and_nothing_done(host: Scene, tmp_path: Path) -> None:
    """There all bridges seem to be gone, while libvirt answers."""

    def bridge() -> str:
        return Path(f"/sys/class/net/{DEFAULT_BRIDGE}/ifindex").read_text()

    before = bridge()
    for words in (
        ["doctor"],
        ["doctor", "--fix", "--yes"],
        ["support-bundle", "-o", str(tmp_path / "b")],
        ["gc", "--yes"],
    ):
        ran = subprocess.run(
            ["unshare", "--net", sys.executable, "-m", "ai_how", *words], check=False, capture_output=True, text=True
        )
        assert ran.returncode == 3, ran.stdout + ran.stderr
        assert "another network namespace" in ran.stderr
    assert bridge() == before
    assert ask().root is None


def test_daemon_that_was_stopped_goes_on(host: Scene, tmp_path: Path) -> None:
    pid = daemon.find()
    assert pid is not None
    stop(pid)
    try:
        assert ask().root == ("libvirtd-down", "host")
        assert fix(tmp_path) == [("libvirtd-down", "host")]
        assert ask().root is None
    finally:
        os.kill(pid, signal.SIGCONT)


def test_cluster_that_was_taken_down_rests_while_the_host_is_mended(host: Scene, tmp_path: Path) -> None:
    """The hook is of all clusters, and mended by one of them: `alone`, the first."""
    shell(f"virsh net-autostart {ALONE} --disable; rm {HOOK_PATH}")
    stop_network(ALONE)
    try:
        assert ask().root == ("hook-missing", "host")
        assert fix(tmp_path) == [("hook-missing", "host")]
        assert ask().root is None
        assert not Path(f"/sys/class/net/{bridge_of(ALONE)}").exists()
        assert fix(tmp_path, "network", ALONE) == []  # up starts it, which has the configuration
    finally:
        shell(f"virsh net-autostart {ALONE}; virsh net-start {ALONE}")
    until(lambda: ask().root is None, "nothing is wrong any more", SHOWN_WITHIN)


def test_what_does_not_help_is_undone(host: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repair that changes nothing of what it is for."""
    monkeypatch.setattr(fixing, "SHOWN_WITHIN", 1.0)
    seen = next(each for each in doctor.examine(words=("vm", TINY)).findings if each.check == "bridge-down")
    useless = Fix(
        (("ip", "link", "set", "lo", "mtu", "60000"),),
        automatic=True,
        undo=(("ip", "link", "set", "lo", "mtu", "65536"),),
    )
    attempt = repair(Place(DEFAULT_URI, tmp_path / "fixing.json"), Cause(replace(seen, fix=useless)), ("vm", TINY))
    assert not attempt.done
    assert attempt.trouble == "it is still so; what was done was undone"
    assert Path("/sys/class/net/lo/mtu").read_text().strip() == "65536"


def test_machine_that_is_asked_for_is_started(host: Scene, tmp_path: Path) -> None:
    shell(f"virsh destroy {TINY}")
    assert ask().root is None  # nobody's fault
    assert ask(("vm", TINY)).root == ("vm-not-running", TINY)
    assert fix(tmp_path, "vm", TINY) == [("vm-not-running", TINY)]
    until(lambda: ask().root is None, f"{TINY} is started", STARTS_WITHIN)


def test_state_file_that_is_none_is_said(host: Scene, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    assert doctor.examine(state=state).root is None
    state.write_text("{")
    seen = doctor.examine(state=state)
    assert [(each.id, each.subject) for each in seen.causes] == [("config-drift", "host")]
    assert str(state) in seen.causes[0].because[0]
